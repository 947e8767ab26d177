/* manifest_parse.c - the Manifest message: one function per message, no recursion.
 *
 * Two walks: the first reads flags, counts and scalars, so that a table from the future is
 * refused by name before anything unknown can look like damage; the second fills arrays whose
 * sizes are then known.
 */
#include "lance/manifest_impl.h"

#include <stdlib.h>
#include <strings.h>

#define NO_BASE ((int64_t)-1)

/* What one parse carries along. */
struct parse {
    struct plm_manifest *m;
    struct plm_u64s fields, columns; /* scratch of read_data_file() */
    bool has_storage_format;
};

static enum plm_code alloc_items(struct parse *p, void *out, size_t n, size_t each,
                                 struct plm_err *err)
{
    return plm_arena_alloc(p->m->ctx, &p->m->arena, out, n, each, err);
}

/* ---- flags and file versions -------------------------------------------------- */

enum plm_code plm_flags_check(uint64_t flags, const char *kind, struct plm_err *err)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } names[] = {{64, "data overlay files"},
                 {128, "covering columns in indexes"},
                 {512, "fragment-reuse index with stable row ids"},
                 {1024, "tagged fragment-reuse index"}};
    uint64_t unknown = flags & ~(uint64_t)PLM_FLAGS_KNOWN;
    uint64_t bit = unknown & (~unknown + 1);

    if (!unknown)
        return PLM_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].bit == bit)
            return plm_fail(err, PLM_UNSUPPORTED, "%s feature flag %" PRIu64 " (%s) is not supported",
                            kind, bit, names[i].name);
    }
    return plm_fail(err, PLM_UNSUPPORTED,
                    "%s feature flag %" PRIu64 " is not known; the table was written by a newer Lance",
                    kind, bit);
}

/* (0,3) is what a 2.0 file calls itself. */
static void settle_file_version(uint32_t *major, uint32_t *minor)
{
    if (*major == 0 && *minor == 3) {
        *major = 2;
        *minor = 0;
    }
}

enum plm_code plm_file_version_check(uint32_t major, uint32_t minor, struct plm_err *err)
{
    if (major == 2 && minor <= 2)
        return PLM_OK;
    return plm_fail(err, PLM_UNSUPPORTED,
                    "data file version %" PRIu32 ".%" PRIu32
                    " is not supported%s (2.0, 2.1 and 2.2 are)",
                    major, minor, major < 2 ? ": the legacy format" : "");
}

static enum plm_code read_storage_format(struct parse *p, struct plm_view message,
                                         struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *format = NULL, *version = NULL, end;
    uint32_t major, minor;

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_text(p->m, &field, &format, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_text(p->m, &field, &version, err));
    }
    PLM_TRY(rc);
    if (format && *format && strcmp(format, "lance") != 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "data file format '%.40s' is not supported", format));
    if (!version || sscanf(version, "%4" SCNu32 ".%4" SCNu32 "%c", &major, &minor, &end) != 2)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "data file version '%.40s' is not supported",
                         version ? version : ""));
    settle_file_version(&major, &minor);
    p->m->file_major = major;
    p->m->file_minor = minor;
    p->has_storage_format = true;
done:
    return rc;
}

/* ---- schema -------------------------------------------------------------------- */

/* {key, value}: is it the mark of a struct that is stored as one column? */
static enum plm_code read_field_metadata(struct plm_view message, bool *is_packed,
                                         struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view key = {0}, value = {0};

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_view(&field, &key, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_view(&field, &value, err));
    }
    PLM_TRY(rc);
    bool is_key = (key.len == 6 && memcmp(key.data, "packed", 6) == 0) ||
                  (key.len == 21 && memcmp(key.data, "lance-encoding:packed", 21) == 0);
    if (is_key && value.len == 4 && strncasecmp((const char *)value.data, "true", 4) == 0)
        *is_packed = true;
done:
    return rc;
}

static enum plm_code read_field(struct parse *p, struct plm_view message, struct plm_field *out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view entry;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 2: PLM_TRY(plm_pb_get_text(p->m, &field, &out->name, err)); break;
        case 3: PLM_TRY(plm_pb_get_i32(&field, &out->id, err)); break;
        case 4: PLM_TRY(plm_pb_get_i32(&field, &out->parent_id, err)); break;
        case 5: PLM_TRY(plm_pb_get_text(p->m, &field, &out->logical_type, err)); break;
        case 6: PLM_TRY(plm_pb_get_bool(&field, &out->nullable, err)); break;
        case 10:
            PLM_TRY(plm_pb_get_view(&field, &entry, err));
            PLM_TRY(read_field_metadata(entry, &out->is_packed, err));
            break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (!out->name || !out->logical_type)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "field %" PRId32 " has no %s", out->id,
                         out->name ? "type" : "name"));
done:
    return rc;
}

/* ---- fragments ------------------------------------------------------------------- */

static enum plm_code read_base_id(const struct plm_pb_field *field, int64_t *out,
                                  struct plm_err *err)
{
    uint32_t id;
    enum plm_code rc = plm_pb_get_u32(field, &id, err);

    if (rc == PLM_OK)
        *out = id;
    return rc;
}

static enum plm_code finish_data_file(struct parse *p, struct plm_data_file *out,
                                      struct plm_err *err)
{
    const struct plm_u64s *columns = &p->columns;
    enum plm_code rc;

    settle_file_version(&out->major, &out->minor);
    if (!out->path)
        return plm_fail(err, PLM_CORRUPT, "a data file without a name");
    if (out->major < 2 && columns->n == 0)
        columns = &p->fields; /* legacy files know columns by their fields */
    if (p->fields.n != columns->n)
        return plm_fail(err, PLM_CORRUPT, "data file %s has %zu field ids and %zu column numbers",
                        out->path, p->fields.n, columns->n);
    out->n_columns = p->fields.n;
    rc = plm_pb_get_i32s(p->m, &p->fields, &out->field_ids, err);
    return rc != PLM_OK ? rc : plm_pb_get_i32s(p->m, columns, &out->column_indices, err);
}

static enum plm_code read_data_file(struct parse *p, struct plm_view message,
                                    struct plm_data_file *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    out->base_id = NO_BASE;
    p->fields.n = p->columns.n = 0;
    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_text(p->m, &field, &out->path, err)); break;
        case 2:
            PLM_TRY(plm_pb_repeated_u64(p->m->ctx, &field, message.len, &p->fields, err));
            break;
        case 3:
            PLM_TRY(plm_pb_repeated_u64(p->m->ctx, &field, message.len, &p->columns, err));
            break;
        case 4: PLM_TRY(plm_pb_get_u32(&field, &out->major, err)); break;
        case 5: PLM_TRY(plm_pb_get_u32(&field, &out->minor, err)); break;
        case 6: PLM_TRY(plm_pb_get_u64(&field, &out->size_bytes, err)); break;
        case 7: PLM_TRY(read_base_id(&field, &out->base_id, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    PLM_TRY(finish_data_file(p, out, err));
done:
    return rc;
}

static enum plm_code read_deletion_file(struct plm_view message, struct plm_deletion_file *out,
                                        struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t type = 0;

    *out = (struct plm_deletion_file){.present = true, .base_id = NO_BASE};
    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_u32(&field, &type, err)); break;
        case 2: PLM_TRY(plm_pb_get_u64(&field, &out->read_version, err)); break;
        case 3: PLM_TRY(plm_pb_get_u64(&field, &out->id, err)); break;
        case 4: PLM_TRY(plm_pb_get_u64(&field, &out->n_deleted, err)); break;
        case 7: PLM_TRY(read_base_id(&field, &out->base_id, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (type > 1)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "deletion file of type %" PRIu32 " is not supported",
                         type));
    out->is_bitmap = type == 1;
done:
    return rc;
}

static enum plm_code read_row_id_file(struct parse *p, struct plm_view message,
                                      struct plm_fragment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_text(p->m, &field, &out->row_ids_path, err)); break;
        case 2: PLM_TRY(plm_pb_get_u64(&field, &out->row_ids_offset, err)); break;
        case 3: PLM_TRY(plm_pb_get_u64(&field, &out->row_ids_size, err)); break;
        default: break;
        }
    }
done:
    return rc;
}

static enum plm_code read_fragment_field(struct parse *p, const struct plm_pb_field *field,
                                         struct plm_fragment *out, struct plm_err *err)
{
    struct plm_view view = {0};
    enum plm_code rc = PLM_OK;

    switch (field->number) {
    case 1: return plm_pb_get_u64(field, &out->id, err);
    case 2:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_data_file(p, view, &out->files[out->n_files++], err);
    case 3:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_deletion_file(view, &out->deletion, err);
    case 4: return plm_pb_get_u64(field, &out->n_physical_rows, err);
    case 5: return plm_pb_get_view(field, &out->row_ids_inline, err);
    case 6:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_row_id_file(p, view, out, err);
    case 11: return plm_fail(err, PLM_UNSUPPORTED, "data overlay files are not supported");
    default: return PLM_OK;
    }
done:
    return rc;
}

static enum plm_code read_fragment(struct parse *p, struct plm_view message,
                                   struct plm_fragment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_files;

    out->raw = message;
    out->deletion.base_id = NO_BASE;
    PLM_TRY(plm_pb_count(message, 2, &n_files, err));
    PLM_TRY(alloc_items(p, &out->files, n_files, sizeof *out->files, err));
    PLM_PB_EACH(message)
        PLM_TRY(read_fragment_field(p, &field, out, err));
    PLM_TRY(rc);
    if (out->id > UINT32_MAX || out->n_physical_rows > (uint64_t)UINT32_MAX + 1)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "id and %" PRIu64 " rows do not fit 32 bits",
                         out->n_physical_rows));
    if (out->deletion.n_deleted > out->n_physical_rows)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%" PRIu64 " of %" PRIu64 " rows deleted",
                         out->deletion.n_deleted, out->n_physical_rows));
done:
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "fragment %" PRIu64, out->id);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

/* Two fragments of one number would give two rows one address. */
static enum plm_code check_fragment_ids(const struct plm_manifest *m, struct plm_err *err)
{
    enum plm_code rc;
    uint64_t *ids;

    rc = plm_alloc(m->ctx, &ids, m->n_fragments, sizeof *ids, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < m->n_fragments; i++)
        ids[i] = m->fragments[i].id;
    qsort(ids, m->n_fragments, sizeof *ids, by_number);
    for (size_t i = 1; i < m->n_fragments && rc == PLM_OK; i++) {
        if (ids[i] == ids[i - 1])
            rc = plm_fail(err, PLM_CORRUPT, "fragment %" PRIu64 " is listed twice", ids[i]);
    }
    plm_free(m->ctx, ids);
    return rc;
}

/* ---- the whole ---------------------------------------------------------------------- */

static enum plm_code read_base_path(struct parse *p, struct plm_view message,
                                    struct plm_base_path *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_u32(&field, &out->id, err)); break;
        case 3: PLM_TRY(plm_pb_get_bool(&field, &out->is_dataset_root, err)); break;
        case 4: PLM_TRY(plm_pb_get_text(p->m, &field, &out->path, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (!out->path)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "base path %" PRIu32 " is empty", out->id));
done:
    return rc;
}

/* Numbers of repeated messages, positions of the sections. */
struct outline {
    size_t n_fields, n_fragments, n_bases;
    uint64_t index_section_at, inline_txn_old_at, inline_txn_at; /* UINT64_MAX = none */
};

static enum plm_code read_scalar(struct plm_manifest *m, struct outline *o,
                                 const struct plm_pb_field *field, struct plm_err *err)
{
    switch (field->number) {
    case 1: o->n_fields++; return PLM_OK;
    case 2: o->n_fragments++; return PLM_OK;
    case 3: return plm_pb_get_u64(field, &m->version, err);
    case 6: return plm_pb_get_u64(field, &o->index_section_at, err);
    case 9: return plm_pb_get_u64(field, &m->reader_flags, err);
    case 10: return plm_pb_get_u64(field, &m->writer_flags, err);
    case 12: return plm_pb_get_text(m, field, &m->transaction_file, err);
    case 18: o->n_bases++; return PLM_OK;
    case 20: return plm_pb_get_text(m, field, &m->branch, err);
    case 21: return plm_pb_get_u64(field, &o->inline_txn_old_at, err);
    case 23: return plm_pb_get_u64(field, &o->inline_txn_at, err);
    default: return PLM_OK;
    }
}

static enum plm_code read_outline(struct plm_manifest *m, struct outline *o, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view file = {m->raw.data, m->raw.len}, section;

    o->index_section_at = o->inline_txn_old_at = o->inline_txn_at = UINT64_MAX;
    PLM_PB_EACH(m->message)
        PLM_TRY(read_scalar(m, o, &field, err));
    PLM_TRY(rc);
    PLM_TRY(plm_flags_check(m->reader_flags, "reader", err));
    if (m->transaction_file && !*m->transaction_file)
        m->transaction_file = NULL;
    if (o->inline_txn_at == UINT64_MAX)
        o->inline_txn_at = o->inline_txn_old_at;
    if (o->inline_txn_at != UINT64_MAX) {
        PLM_TRY(plm_manifest_section(file, o->inline_txn_at, "inline transaction", &section, err));
        m->inline_txn_at = (int64_t)o->inline_txn_at;
    }
    if (o->index_section_at != UINT64_MAX)
        PLM_TRY(plm_manifest_section(file, o->index_section_at, "index section", &m->index_section,
                                     err));
done:
    return rc;
}

static enum plm_code read_repeated(struct parse *p, const struct plm_pb_field *field,
                                   struct plm_err *err)
{
    struct plm_manifest *m = p->m;
    struct plm_view view = {0};
    enum plm_code rc = PLM_OK;

    if (field->number != 1 && field->number != 2 && field->number != 15 && field->number != 18)
        return PLM_OK;
    PLM_TRY(plm_pb_get_view(field, &view, err));
    switch (field->number) {
    case 1: return read_field(p, view, &m->fields[m->n_fields++], err);
    case 2: return read_fragment(p, view, &m->fragments[m->n_fragments++], err);
    case 15: return read_storage_format(p, view, err);
    default: return read_base_path(p, view, &m->bases[m->n_bases++], err);
    }
done:
    return rc;
}

/* Before there was a storage format in the manifest, the files alone told it. */
static void settle_storage_format(struct parse *p)
{
    struct plm_manifest *m = p->m;

    if (p->has_storage_format)
        return;
    m->file_major = 2;
    for (size_t i = 0; i < m->n_fragments; i++) {
        if (m->fragments[i].n_files) {
            m->file_major = m->fragments[i].files[0].major;
            m->file_minor = m->fragments[i].files[0].minor;
            return;
        }
    }
}

static enum plm_code parse_all(struct plm_manifest *m, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct outline outline = {0};
    struct parse p = {.m = m};
    struct plm_view file = {m->raw.data, m->raw.len};

    PLM_TRY(plm_manifest_split(file, &m->message, err));
    PLM_TRY(read_outline(m, &outline, err));
    PLM_TRY(alloc_items(&p, &m->fields, outline.n_fields, sizeof *m->fields, err));
    PLM_TRY(alloc_items(&p, &m->fragments, outline.n_fragments, sizeof *m->fragments, err));
    PLM_TRY(alloc_items(&p, &m->bases, outline.n_bases, sizeof *m->bases, err));
    PLM_PB_EACH(m->message)
        PLM_TRY(read_repeated(&p, &field, err));
    PLM_TRY(rc);
    settle_storage_format(&p);
    PLM_TRY(check_fragment_ids(m, err));
    PLM_TRY(plm_index_section_read(m, err));
    m->xxh3 = plm_xxh3(m->raw.data, m->raw.len);
done:
    plm_u64s_reset(m->ctx, &p.fields);
    plm_u64s_reset(m->ctx, &p.columns);
    return rc;
}

enum plm_code plm_manifest_parse(struct plm_ctx *ctx, struct plm_store *store, struct plm_buf *raw,
                                 struct plm_manifest *out, struct plm_err *err)
{
    struct plm_manifest m = {.ctx = ctx, .store = store, .inline_txn_at = -1, .raw = *raw};
    enum plm_code rc = parse_all(&m, err);

    if (rc != PLM_OK) {
        m.raw = (struct plm_buf){0}; /* still the caller's */
        plm_manifest_reset(&m);
        return rc;
    }
    plm_buf_init(raw, ctx, raw->max_bytes);
    *out = m;
    return PLM_OK;
}
