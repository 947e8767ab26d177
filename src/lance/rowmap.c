/* rowmap.c - which rows of a fragment live (deletion file) and what they are called (row ids). */
#include "lance/rowmap.h"

#include "lance/arrow_ipc.h"
#include "lance/wire_get.h"

#define FRAGMENT_ROWS_MAX ((uint64_t)1 << 32) /* an offset in a fragment is a u32 */

/* ---- deletions ---------------------------------------------------------------- */

/* No honest deletion file of so many rows is longer: a Roaring container needs at most
 * 8 KiB per 65536 rows beside its head, Arrow 4 bytes per row and a few KiB around them. */
static size_t deletion_bytes_max(bool is_bitmap, uint64_t n_rows)
{
    uint64_t containers = n_rows / 65536 + 1;

    return (size_t)(is_bitmap ? containers * (8192 + 64) : n_rows * 5 + 65536);
}

/* Sets the bits of `values`, each of which must be below n_rows and come once. */
static enum plm_code mark_deleted(struct plm_row_map *map, const uint32_t *values, size_t n,
                                  struct plm_err *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t row = values[i];

        if (row >= map->n_rows)
            return plm_fail(err, PLM_CORRUPT, "deletes row %" PRIu32 " of %" PRIu64, row,
                            map->n_rows);
        if (plm_row_is_deleted(map, row))
            return plm_fail(err, PLM_CORRUPT, "deletes row %" PRIu32 " twice", row);
        map->deleted[row >> 3] |= (uint8_t)(1u << (row & 7));
    }
    map->n_deleted = n;
    return PLM_OK;
}

/* The whole file. Only when that goes beyond a limit is its length asked for: a file too long
 * to be honest is corrupt, it is not a budget too small. */
static enum plm_code get_deletions(struct plm_store *store, const char *path, struct plm_buf *buf,
                                   struct plm_err *err)
{
    uint64_t size_bytes = 0;
    enum plm_code rc = plm_store_get(store, path, buf, err);

    if (rc == PLM_LIMIT && plm_store_size(store, path, &size_bytes, NULL) == PLM_OK &&
        size_bytes > buf->max_bytes)
        return plm_fail(err, PLM_CORRUPT, "is %" PRIu64 " bytes long, expected at most %zu",
                        size_bytes, buf->max_bytes);
    return rc;
}

static enum plm_code read_deletions(struct plm_ctx *ctx, const struct plm_fragment *fragment,
                                    struct plm_store *store, const char *path,
                                    struct plm_row_map *map, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_deletion_file *file = &fragment->deletion;
    struct plm_buf buf;
    uint32_t *values = NULL;
    size_t n = 0, n_max = (size_t)map->n_rows;

    plm_buf_init(&buf, ctx, deletion_bytes_max(file->is_bitmap, map->n_rows));
    PLM_TRY(get_deletions(store, path, &buf, err));

    struct plm_view bytes = {buf.data, buf.len};

    PLM_TRY(file->is_bitmap ? plm_bitmap_decode(ctx, bytes, n_max, &values, &n, err)
                            : plm_arrow_read_u32(ctx, bytes, n_max, &values, &n, err));
    /* Writers may leave the count out, which reads as 0. */
    if (file->n_deleted != 0 && n != file->n_deleted)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%zu rows deleted, the manifest says %" PRIu64, n,
                         file->n_deleted));
    if (n > 0) {
        PLM_TRY(plm_calloc(ctx, &map->deleted, (size_t)(map->n_rows + 7) / 8, 1, err));
        PLM_TRY(mark_deleted(map, values, n, err));
    }
done:
    plm_free(ctx, values);
    plm_buf_reset(&buf);
    return rc;
}

static enum plm_code load_deletions(struct plm_manifest *manifest,
                                    const struct plm_fragment *fragment, struct plm_row_map *map,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_deletion_file *file = &fragment->deletion;
    struct plm_store *store = NULL;
    const char *prefix = NULL;
    char *path = NULL;

    if (!file->present)
        return PLM_OK;
    if (file->n_deleted > map->n_rows)
        return plm_fail(err, PLM_CORRUPT, "%" PRIu64 " of %" PRIu64 " rows deleted",
                        file->n_deleted, map->n_rows);
    PLM_TRY(plm_manifest_base(manifest, file->base_id, "_deletions/", &store, &prefix, err));
    PLM_TRY(plm_format(manifest->ctx, &path, err, "%s%" PRIu64 "-%" PRIu64 "-%" PRIu64 ".%s",
                       prefix, fragment->id, file->read_version, file->id,
                       file->is_bitmap ? "bin" : "arrow"));
    rc = read_deletions(manifest->ctx, fragment, store, path, map, err);
    if (rc)
        rc = plm_wrap(err, rc, "deletion file \"%s\"", path);
done:
    plm_free(manifest->ctx, path);
    return rc;
}

/* ---- row ids ------------------------------------------------------------------ */

/* Field numbers of a U64Segment (also its kinds) and of an EncodedU64Array. */
enum { SEGMENT_RANGE = 1, SEGMENT_HOLES = 2, SEGMENT_BITMAP = 3, SEGMENT_SORTED = 4,
       SEGMENT_ARRAY = 5 };
enum { ARRAY_U16 = 1, ARRAY_U32 = 2, ARRAY_U64 = 3 };

/* Little-endian values of 2, 4 or 8 bytes, each on top of `base`. */
struct id_array {
    uint64_t base;
    struct plm_view bytes;
    size_t width;
};
struct id_segment {
    uint32_t kind;
    uint64_t start, end;
    struct id_array array;  /* holes, sorted array, array */
    struct plm_view bitmap;
};

static size_t array_length(const struct id_array *a) { return a->bytes.len / a->width; }

static uint64_t array_at(const struct id_array *a, size_t i)
{
    const uint8_t *p = a->bytes.data + i * a->width;

    return a->base + (a->width == 2 ? plm_le16(p) : a->width == 4 ? plm_le32(p) : plm_le64(p));
}

/* The message inside a U16, U32 or U64 array: {1: base, 2: bytes}. */
static enum plm_code read_array_body(struct plm_view message, struct id_array *a,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        if (field.number == 1 && a->width != 8)
            PLM_TRY(plm_pb_get_u64(&field, &a->base, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_view(&field, &a->bytes, err));
    }
    PLM_TRY(rc);
    if (a->bytes.len % a->width != 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "row ids: %zu bytes, expected a multiple of %zu",
                         a->bytes.len, a->width));
    for (size_t i = 0; a->base > 0 && i < array_length(a); i++)
        if (array_at(a, i) < a->base)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "row ids: offset %zu overflows its base %" PRIu64,
                             i, a->base));
done:
    return rc;
}

static enum plm_code read_array(struct plm_view message, struct id_array *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct id_array a = {.width = 8};

    PLM_PB_EACH(message) {
        if (field.number < ARRAY_U16 || field.number > ARRAY_U64)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "row ids: array encoding %u", field.number));
        PLM_TRY(plm_pb_expect(&field, 2, err));
        a = (struct id_array){.width = (size_t)1 << field.number}; /* the last of a oneof wins */
        PLM_TRY(read_array_body(field.bytes, &a, err));
    }
    PLM_TRY(rc);
    *out = a;
done:
    return rc;
}

static enum plm_code check_ascending(const struct id_array *a, struct plm_err *err)
{
    for (size_t i = 1; i < array_length(a); i++)
        if (array_at(a, i) <= array_at(a, i - 1))
            return plm_fail(err, PLM_CORRUPT, "row ids: item %zu of a sorted array does not ascend",
                            i);
    return PLM_OK;
}

/* What ranges, holes and bitmaps must satisfy before ids are counted or written. */
static enum plm_code check_segment(const struct id_segment *s, struct plm_err *err)
{
    size_t n = array_length(&s->array);
    uint64_t range = s->end - s->start;

    if (s->end < s->start)
        return plm_fail(err, PLM_CORRUPT, "row ids: range from %" PRIu64 " to %" PRIu64, s->start,
                        s->end);
    if (s->kind == SEGMENT_BITMAP && s->bitmap.len != range / 8 + (range % 8 != 0))
        return plm_fail(err, PLM_CORRUPT, "row ids: bitmap of %zu bytes for a range of %" PRIu64,
                        s->bitmap.len, range);
    if (s->kind != SEGMENT_HOLES && s->kind != SEGMENT_SORTED)
        return PLM_OK;

    enum plm_code rc = check_ascending(&s->array, err);

    if (rc == PLM_OK && s->kind == SEGMENT_HOLES && n > 0 &&
        (array_at(&s->array, 0) < s->start || array_at(&s->array, n - 1) >= s->end))
        rc = plm_fail(err, PLM_CORRUPT, "row ids: hole outside its range %" PRIu64 "..%" PRIu64,
                      s->start, s->end);
    return rc;
}

/* Fields of a range, with or without holes or bitmap. */
static enum plm_code read_range(struct plm_view message, struct id_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        if (field.number == 1 || field.number == 2) {
            PLM_TRY(plm_pb_expect(&field, 0, err));
            *(field.number == 1 ? &s->start : &s->end) = field.value;
        } else if (field.number == 3 && s->kind != SEGMENT_RANGE) {
            PLM_TRY(plm_pb_expect(&field, 2, err));
            if (s->kind == SEGMENT_BITMAP)
                s->bitmap = field.bytes;
            else
                PLM_TRY(read_array(field.bytes, &s->array, err));
        }
    }
done:
    return rc;
}

static enum plm_code read_segment(struct plm_view message, struct id_segment *out,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct id_segment s = {.array.width = 8};

    PLM_PB_EACH(message) {
        if (field.number > SEGMENT_ARRAY)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "row ids: segment kind %u", field.number));
        PLM_TRY(plm_pb_expect(&field, 2, err));
        s = (struct id_segment){.kind = field.number, .array.width = 8};
        PLM_TRY(field.number < SEGMENT_SORTED ? read_range(field.bytes, &s, err)
                                              : read_array(field.bytes, &s.array, err));
    }
    PLM_TRY(rc);
    if (s.kind == 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "row ids: segment without content"));
    PLM_TRY(check_segment(&s, err));
    *out = s;
done:
    return rc;
}

static bool bitmap_has(const struct plm_view *bitmap, uint64_t i)
{
    return bitmap->data[i / 8] >> i % 8 & 1;
}

static uint64_t segment_length(const struct id_segment *s)
{
    uint64_t range = s->end - s->start, n = 0;

    switch (s->kind) {
    case SEGMENT_RANGE:
        return range;
    case SEGMENT_HOLES:
        return range - array_length(&s->array); /* distinct and inside: never negative */
    case SEGMENT_BITMAP:
        for (uint64_t i = 0; i < range; i++)
            n += bitmap_has(&s->bitmap, i);
        return n;
    default:
        return array_length(&s->array);
    }
}

/* Exactly segment_length() ids. */
static void write_segment(const struct id_segment *s, uint64_t *ids)
{
    size_t hole = 0, n = array_length(&s->array);

    switch (s->kind) {
    case SEGMENT_RANGE:
    case SEGMENT_HOLES:
        for (uint64_t id = s->start; id < s->end; id++) {
            if (hole < n && array_at(&s->array, hole) == id)
                hole++;
            else
                *ids++ = id;
        }
        break;
    case SEGMENT_BITMAP:
        for (uint64_t i = 0; i < s->end - s->start; i++)
            if (bitmap_has(&s->bitmap, i))
                *ids++ = s->start + i;
        break;
    default:
        for (size_t i = 0; i < n; i++)
            ids[i] = array_at(&s->array, i);
    }
}

/* One walk over a RowIdSequence. ids NULL: *n_out = how many there are, at most n_max, else
 * PLM_CORRUPT. ids given: the same walk again, writing them. */
static enum plm_code walk_sequence(struct plm_view sequence, uint64_t n_max, uint64_t *ids,
                                   uint64_t *n_out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct id_segment segment;
    uint64_t total = 0;

    PLM_PB_EACH(sequence) {
        if (field.number != 1)
            continue;
        PLM_TRY(plm_pb_expect(&field, 2, err));
        PLM_TRY(read_segment(field.bytes, &segment, err));

        uint64_t n = segment_length(&segment);

        if (n > n_max - total)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "row ids: more than the fragment's %" PRIu64 " rows",
                             n_max));
        if (ids)
            write_segment(&segment, ids + total);
        total += n;
    }
    PLM_TRY(rc);
    *n_out = total;
done:
    return rc;
}

static enum plm_code expand_ids(struct plm_view sequence, struct plm_row_map *map,
                                struct plm_err *err)
{
    uint64_t *ids = NULL, n = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(walk_sequence(sequence, map->n_rows, NULL, &n, err));
    if (n != map->n_rows)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "row ids: %" PRIu64 " for %" PRIu64 " rows", n,
                         map->n_rows));
    PLM_TRY(plm_alloc(map->ctx, &ids, (size_t)n, sizeof *ids, err));
    PLM_TRY(walk_sequence(sequence, n, ids, &n, err));
    map->ids = ids;
    ids = NULL;
done:
    plm_free(map->ctx, ids);
    return rc;
}

/* A piece of a file below the root. */
static enum plm_code read_external(struct plm_manifest *manifest,
                                   const struct plm_fragment *fragment, struct plm_buf *buf,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_file *file = NULL;
    uint64_t at = fragment->row_ids_offset, n = fragment->row_ids_size;

    PLM_TRY(plm_file_open(manifest->store, fragment->row_ids_path, 0, &file, err));
    if (at > plm_file_size(file) || n > plm_file_size(file) - at)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "%s: row ids need %" PRIu64 " bytes at offset %" PRIu64
                         ", but the file ends at %" PRIu64,
                         plm_file_name(file), n, at, plm_file_size(file)));
    PLM_TRY(plm_buf_reserve(buf, (size_t)n, err));
    PLM_TRY(plm_file_read(file, at, (size_t)n, buf->data, err));
    buf->len = (size_t)n;
done:
    plm_file_close(file);
    return rc;
}

static enum plm_code load_ids(struct plm_manifest *manifest, const struct plm_fragment *fragment,
                              struct plm_row_map *map, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf buf;
    struct plm_view sequence = fragment->row_ids_inline;

    plm_buf_init(&buf, manifest->ctx, SIZE_MAX);
    if (!(manifest->reader_flags & PLM_FLAG_STABLE_ROW_IDS))
        goto done;
    if (fragment->row_ids_path) {
        PLM_TRY(read_external(manifest, fragment, &buf, err));
        sequence = (struct plm_view){buf.data, buf.len};
    }
    PLM_TRY(expand_ids(sequence, map, err));
done:
    plm_buf_reset(&buf);
    return rc;
}

/* ---- the map -------------------------------------------------------------------- */

enum plm_code plm_row_map_load(struct plm_manifest *manifest, size_t fragment_index,
                               struct plm_row_map *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_fragment *fragment = &manifest->fragments[fragment_index];
    struct plm_row_map map = {.ctx = manifest->ctx,
                              .n_rows = fragment->n_physical_rows,
                              .first_address = fragment->id << 32};

    if (fragment->id > UINT32_MAX || map.n_rows > FRAGMENT_ROWS_MAX)
        return plm_fail(err, PLM_CORRUPT,
                        "fragment %" PRIu64 " of %" PRIu64 " rows, expected both to fit 32 bits",
                        fragment->id, map.n_rows);
    PLM_TRY(load_deletions(manifest, fragment, &map, err));
    PLM_TRY(load_ids(manifest, fragment, &map, err));
    *out = map;
    map = (struct plm_row_map){0};
done:
    plm_row_map_reset(&map);
    return rc ? plm_wrap(err, rc, "fragment %" PRIu64, fragment->id) : PLM_OK;
}

void plm_row_map_reset(struct plm_row_map *map)
{
    plm_free(map->ctx, map->deleted);
    plm_free(map->ctx, map->ids);
    *map = (struct plm_row_map){0};
}
