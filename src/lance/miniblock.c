/* miniblock.c - pages of small chunks: which chunks a read needs, and reading them together.
 *
 * The scratch of a thread remembers the chunk table of its last page and the last chunk that
 * was needed only in part, so that reading on where one stopped decodes nothing twice.
 */
#include "lance/datafile_impl.h"
#include "lance/wire.h"

#define NO_CHUNK SIZE_MAX

struct chunk_state {
    uint64_t file_serial;          /* 0 = no table */
    const struct plm_page *page;
    uint64_t *first_row, *offset;  /* [n_chunks + 1]; offsets inside the chunk buffer */
    size_t n_chunks;
    size_t kept;                   /* the chunk in kept_values, kept_nulls; or NO_CHUNK */
    uint8_t *kept_values;
    size_t kept_cap;
    uint8_t nulls[PLM_CHUNK_ROWS_MAX], kept_nulls[PLM_CHUNK_ROWS_MAX];
};

static void drop_table(struct plm_ctx *ctx, struct chunk_state *s)
{
    plm_free(ctx, s->first_row);
    plm_free(ctx, s->offset);
    s->first_row = s->offset = NULL;
    s->file_serial = 0;
    s->page = NULL;
    s->n_chunks = 0;
    s->kept = NO_CHUNK;
}

size_t plm_chunks_state_bytes(void) { return sizeof(struct chunk_state); }

void plm_chunks_state_free(struct plm_ctx *ctx, void *state)
{
    struct chunk_state *s = state;
    if (!s)
        return;
    drop_table(ctx, s);
    plm_free(ctx, s->kept_values);
    plm_free(ctx, s);
}

/* ---- chunk table ----------------------------------------------------------------- */

static enum plm_code bad_table(const struct plm_page *page, size_t chunk, const char *what,
                               uint64_t seen, uint64_t limit, struct plm_err *err)
{
    return plm_fail(err, PLM_CORRUPT,
                    "chunk %zu of the table at offset %" PRIu64 ": %s %" PRIu64 ", at most %" PRIu64
                    " possible",
                    chunk, page->table.offset, what, seen, limit);
}

/* Table words to running sums: (size in 8-byte words - 1) << 4 | log2 of the rows. The last chunk
 * has the rows that are left. */
static enum plm_code sum_words(struct chunk_state *s, const struct plm_page *page,
                               const uint8_t *words, size_t first, size_t n, struct plm_err *err)
{
    for (size_t i = first; i < first + n; i++) {
        uint32_t word = page->is_large ? plm_le32(words + 4 * (i - first))
                                       : plm_le16(words + 2 * (i - first));
        uint64_t bytes = 8 * ((uint64_t)(word >> 4) + 1), rows = UINT64_C(1) << (word & 15);
        uint64_t bytes_left = page->values.size - s->offset[i];
        uint64_t rows_left = page->n_rows - s->first_row[i];

        if (i + 1 == s->n_chunks)
            rows = rows_left;
        if (bytes > bytes_left)
            return bad_table(page, i, "bytes", bytes, bytes_left, err);
        if (rows > rows_left || rows == 0 || rows > PLM_CHUNK_ROWS_MAX)
            return bad_table(page, i, "rows", rows,
                             plm_min_u64(rows_left, PLM_CHUNK_ROWS_MAX), err);
        s->offset[i + 1] = s->offset[i] + bytes;
        s->first_row[i + 1] = s->first_row[i] + rows;
    }
    return PLM_OK;
}

/* Reads the table in pieces and fills the sums. */
static enum plm_code read_table(struct plm_datafile *file, const struct plm_page *page,
                                struct chunk_state *s, struct plm_read_scratch *scratch,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t width = page->is_large ? 4 : 2, step = PLM_READ_BYTES / width;

    s->offset[0] = s->first_row[0] = 0;
    for (size_t first = 0; first < s->n_chunks; first += step) {
        struct plm_queue queue = {0};
        size_t n = plm_min_size(step, s->n_chunks - first);

        PLM_TRY(plm_scratch_room(scratch, n * width, err));
        PLM_TRY(plm_queue_add(file, &queue, page->table.offset + first * width, n * width,
                              scratch->bytes, err));
        PLM_TRY(plm_queue_flush(file, &queue, err));
        PLM_TRY(sum_words(s, page, scratch->bytes, first, n, err));
    }
done:
    return rc;
}

static enum plm_code load_table(struct plm_datafile *file, const struct plm_page *page,
                                struct chunk_state *s, struct plm_read_scratch *scratch,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_chunks = (size_t)(page->table.size / (page->is_large ? 4 : 2));

    if (s->file_serial == file->serial && s->page == page)
        return PLM_OK;
    drop_table(scratch->ctx, s);
    if (n_chunks > page->values.size / 8) /* each has 8 bytes at least */
        PLM_TRY(bad_table(page, 0, "number of chunks", n_chunks, page->values.size / 8, err));
    PLM_TRY(plm_alloc(scratch->ctx, &s->first_row, n_chunks + 1, sizeof *s->first_row, err));
    PLM_TRY(plm_alloc(scratch->ctx, &s->offset, n_chunks + 1, sizeof *s->offset, err));
    s->n_chunks = n_chunks;
    PLM_TRY(read_table(file, page, s, scratch, err));
    if (s->first_row[n_chunks] != page->n_rows)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "chunk table at offset %" PRIu64 " ends after %" PRIu64
                         " rows, expected %" PRIu64,
                         page->table.offset, s->first_row[n_chunks], page->n_rows));
    s->file_serial = file->serial;
    s->page = page;
done:
    if (rc != PLM_OK)
        drop_table(scratch->ctx, s);
    return rc;
}

static size_t chunk_of(const struct chunk_state *s, uint64_t row)
{
    size_t low = 0, high = s->n_chunks;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->first_row[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- reading --------------------------------------------------------------------- */

/* A read of one page on its way. */
struct chunk_read {
    struct plm_datafile *file;
    const struct plm_page *page;
    const struct plm_column_shape *shape;
    struct chunk_state *s;
    struct plm_read_scratch *scratch;
    size_t row_bytes;
    uint64_t row;   /* next row wanted */
    uint64_t end;   /* behind the last one */
    uint8_t *values, *nulls;
};

/* Hands on `n` decoded rows. */
static enum plm_code deliver(struct chunk_read *r, const uint8_t *values, const uint8_t *nulls,
                             size_t n, struct plm_err *err)
{
    if (r->nulls) {
        memcpy(r->nulls, nulls, n);
        r->nulls += n;
    } else if (memchr(nulls, 1, n)) {
        return plm_fail(err, PLM_CORRUPT,
                        "a row from %" PRIu64 " on is null, and none was expected",
                        r->page->first_row + r->row);
    }
    if (values != r->values)
        memcpy(r->values, values, n * r->row_bytes);
    r->values += n * r->row_bytes;
    r->row += n;
    return PLM_OK;
}

/* The wanted rows of the kept chunk. */
static enum plm_code deliver_kept(struct chunk_read *r, struct plm_err *err)
{
    const struct chunk_state *s = r->s;
    size_t skip = (size_t)(r->row - s->first_row[s->kept]);
    size_t n = (size_t)(plm_min_u64(r->end, s->first_row[s->kept + 1]) - r->row);
    return deliver(r, s->kept_values + skip * r->row_bytes, s->kept_nulls + skip, n, err);
}

static enum plm_code room_for_kept(struct chunk_read *r, size_t bytes, struct plm_err *err)
{
    struct chunk_state *s = r->s;
    s->kept = NO_CHUNK;
    if (bytes <= s->kept_cap)
        return PLM_OK;
    plm_free(r->scratch->ctx, s->kept_values);
    s->kept_values = NULL;
    s->kept_cap = 0;
    enum plm_code rc = plm_alloc(r->scratch->ctx, &s->kept_values, bytes, 1, err);
    if (rc == PLM_OK)
        s->kept_cap = bytes;
    return rc;
}

/* Decodes a chunk in memory: wholly wanted ones into the caller's memory, others to keep. */
static enum plm_code decode(struct chunk_read *r, size_t chunk, struct plm_view bytes,
                            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct chunk_state *s = r->s;
    size_t n_rows = (size_t)(s->first_row[chunk + 1] - s->first_row[chunk]);

    if (r->row == s->first_row[chunk] && r->end >= s->first_row[chunk + 1]) {
        PLM_TRY(plm_chunk_decode(r->page, r->shape, bytes, n_rows, r->values, s->nulls, err));
        PLM_TRY(deliver(r, r->values, s->nulls, n_rows, err));
    } else {
        size_t bits = r->page->packing == PLM_PACK_FLAT ? 8 * bytes.len : SIZE_MAX;
        if (n_rows > bits / 8 / r->row_bytes) /* a hostile count, before its allocation */
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "%zu rows in a chunk of %zu bytes", n_rows,
                             bytes.len));
        PLM_TRY(room_for_kept(r, n_rows * r->row_bytes, err));
        PLM_TRY(plm_chunk_decode(r->page, r->shape, bytes, n_rows, s->kept_values, s->kept_nulls,
                                 err));
        s->kept = chunk;
        PLM_TRY(deliver_kept(r, err));
    }
done:
    if (rc == PLM_CORRUPT)
        rc = plm_wrap(err, rc, "chunk %zu at offset %" PRIu64, chunk,
                      r->page->values.offset + s->offset[chunk]);
    return rc;
}

/* Reads as many wanted chunks as fit into one range (one at least) and decodes them. */
static enum plm_code read_window(struct chunk_read *r, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct chunk_state *s = r->s;
    struct plm_queue queue = {0};
    size_t first = chunk_of(s, r->row), behind = first + 1;

    while (behind < s->n_chunks && s->first_row[behind] < r->end &&
           s->offset[behind + 1] - s->offset[first] <= PLM_READ_BYTES)
        behind++;
    size_t n_bytes = (size_t)(s->offset[behind] - s->offset[first]);
    PLM_TRY(plm_scratch_room(r->scratch, n_bytes, err));
    PLM_TRY(plm_queue_add(r->file, &queue, r->page->values.offset + s->offset[first], n_bytes,
                          r->scratch->bytes, err));
    PLM_TRY(plm_queue_flush(r->file, &queue, err));
    for (size_t i = first; i < behind; i++) {
        struct plm_view chunk = {r->scratch->bytes + (s->offset[i] - s->offset[first]),
                                 (size_t)(s->offset[i + 1] - s->offset[i])};
        PLM_TRY(decode(r, i, chunk, err));
    }
done:
    return rc;
}

enum plm_code plm_chunks_read(struct plm_datafile *file, const struct plm_page *page,
                              const struct plm_column_shape *shape, uint64_t first, size_t n,
                              uint8_t *values, uint8_t *nulls, struct plm_read_scratch *scratch,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (!scratch->state) {
        struct chunk_state *fresh;
        PLM_TRY(plm_calloc(scratch->ctx, &fresh, 1, sizeof *fresh, err));
        fresh->kept = NO_CHUNK;
        scratch->state = fresh;
    }
    struct chunk_read r = {.file = file,
                           .page = page,
                           .shape = shape,
                           .s = scratch->state,
                           .scratch = scratch,
                           .row_bytes = plm_shape_row_bytes(shape),
                           .row = first,
                           .end = first + n,
                           .values = values,
                           .nulls = nulls};
    PLM_TRY(load_table(file, page, r.s, scratch, err));
    while (r.row < r.end) {
        size_t kept = r.s->kept;
        bool is_kept = kept != NO_CHUNK && r.row >= r.s->first_row[kept] &&
                       r.row < r.s->first_row[kept + 1];
        PLM_TRY(is_kept ? deliver_kept(&r, err) : read_window(&r, err));
    }
done:
    return rc;
}
