/* page_read.c - rows out of checked pages; MiniBlock pages are read in miniblock.c.
 *
 * Plain arrays go from the store into the caller's memory. Everything else passes through
 * the scratch, at most one read range at a time.
 */
#include "lance/datafile_impl.h"

/* ---- ranges --------------------------------------------------------------------- */

enum plm_code plm_queue_flush(struct plm_datafile *file, struct plm_queue *queue,
                              struct plm_err *err)
{
    size_t n = queue->n;
    queue->n = 0;
    if (n == 0)
        return PLM_OK;
    enum plm_code rc = plm_check_cancel(file->ctx, err);
    return rc == PLM_OK ? plm_file_read_ranges(file->file, queue->items, n, err) : rc;
}

enum plm_code plm_queue_add(struct plm_datafile *file, struct plm_queue *queue, uint64_t offset,
                            size_t len, void *dst, struct plm_err *err)
{
    uint8_t *to = dst;
    while (len > 0) {
        size_t part = plm_min_size(len, PLM_READ_BYTES);
        if (queue->n == PLM_QUEUE_RANGES) {
            enum plm_code rc = plm_queue_flush(file, queue, err);
            if (rc != PLM_OK)
                return rc;
        }
        queue->items[queue->n++] = (struct plm_range){offset, part, to};
        offset += part, to += part, len -= part;
    }
    return PLM_OK;
}

/* ---- one page ------------------------------------------------------------------- */

/* A piece of a read: rows [first, first + n) of one page. */
struct piece {
    struct plm_datafile *file;
    const struct plm_page *page;
    const struct plm_column_shape *shape;
    uint64_t first;
    size_t n;
    uint8_t *values, *nulls;
    struct plm_read_scratch *scratch;
    struct plm_queue *queue;
};

static enum plm_code unexpected_null(const struct piece *p, size_t row, struct plm_err *err)
{
    return plm_fail(err, PLM_CORRUPT, "row %" PRIu64 " is null, and none was expected",
                    p->page->first_row + p->first + row);
}

static enum plm_code read_null(const struct piece *p, struct plm_err *err)
{
    if (!p->nulls)
        return unexpected_null(p, 0, err);
    memset(p->values, 0, p->n * plm_shape_row_bytes(p->shape));
    memset(p->nulls, 1, p->n);
    return PLM_OK;
}

static void read_same(const struct piece *p)
{
    size_t row_bytes = plm_shape_row_bytes(p->shape);
    for (size_t i = 0; i < p->n; i++)
        memcpy(p->values + i * row_bytes, p->page->same, row_bytes);
}

/* Is any of bits [from, from + n) unset? LSB first. */
static bool has_unset(const uint8_t *bits, uint64_t from, uint64_t n)
{
    uint64_t at = from, end = from + n;
    for (; at < end && at % 8; at++)
        if (!(bits[at / 8] >> at % 8 & 1))
            return true;
    for (; end - at >= 8; at += 8)
        if (bits[at / 8] != 0xFF)
            return true;
    for (; at < end; at++)
        if (!(bits[at / 8] >> at % 8 & 1))
            return true;
    return false;
}

void plm_flag_unset(const uint8_t *bits, uint64_t first_bit, size_t n_rows, uint32_t items,
                    uint8_t *flags)
{
    for (size_t i = 0; i < n_rows; i++)
        if (has_unset(bits, first_bit + (uint64_t)i * items, items))
            flags[i] = 1;
}

/* Flags the rows of one bitmap of a 2.0 page that has `items` bits a row. */
static enum plm_code read_bitmap(const struct piece *p, struct plm_span span, uint32_t items,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t step = plm_max_size(8 * (PLM_READ_BYTES - 2) / items, 1);

    for (size_t done_rows = 0; done_rows < p->n; done_rows += step) {
        size_t n = plm_min_size(step, p->n - done_rows);
        uint64_t first_bit = (p->first + done_rows) * items;
        uint64_t begin = first_bit / 8, end = (first_bit + (uint64_t)n * items + 7) / 8;

        PLM_TRY(plm_scratch_room(p->scratch, (size_t)(end - begin), err));
        PLM_TRY(plm_queue_add(p->file, p->queue, span.offset + begin, (size_t)(end - begin),
                              p->scratch->bytes, err));
        PLM_TRY(plm_queue_flush(p->file, p->queue, err));
        for (size_t i = 0; i < n; i++) {
            if (!has_unset(p->scratch->bytes, first_bit % 8 + (uint64_t)i * items, items))
                continue;
            if (!p->nulls)
                PLM_TRY(unexpected_null(p, done_rows + i, err));
            p->nulls[done_rows + i] = 1;
        }
    }
done:
    return rc;
}

static enum plm_code read_plain(const struct piece *p, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t row_bytes = plm_shape_row_bytes(p->shape);
    uint64_t at = p->page->values.offset + p->first * row_bytes;

    PLM_TRY(p->scratch->in_region
                ? plm_file_view(p->file->file, at, p->n * row_bytes, p->values, err)
                : plm_queue_add(p->file, p->queue, at, p->n * row_bytes, p->values, err));
    if (p->page->row_bits.size > 0)
        PLM_TRY(read_bitmap(p, p->page->row_bits, 1, err));
    if (p->page->item_bits.size > 0)
        PLM_TRY(read_bitmap(p, p->page->item_bits, p->shape->items, err));
done:
    return rc;
}

/* Takes n FullZip rows apart: control word, validity bits, values. */
static enum plm_code unzip(const struct piece *p, size_t first, size_t n, struct plm_err *err)
{
    const struct plm_page *page = p->page;
    size_t row_bytes = plm_shape_row_bytes(p->shape);
    const uint8_t *at = p->scratch->bytes;

    for (size_t i = first; i < first + n; i++) {
        bool is_null = false;
        for (uint32_t k = 0; k < page->control_bytes; k++)
            is_null |= at[k] != 0;
        at += page->control_bytes;
        if (page->valid_bytes > 0)
            is_null = is_null || has_unset(at, 0, p->shape->items);
        at += page->valid_bytes;
        memcpy(p->values + i * row_bytes, at, row_bytes);
        at += row_bytes;
        if (is_null && !p->nulls)
            return unexpected_null(p, i, err);
        if (is_null)
            p->nulls[i] = 1;
    }
    return PLM_OK;
}

static enum plm_code read_zipped(const struct piece *p, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t stride = p->page->control_bytes + p->page->valid_bytes + plm_shape_row_bytes(p->shape);
    size_t step = plm_max_size(PLM_READ_BYTES / stride, 1);

    for (size_t first = 0; first < p->n; first += step) {
        size_t n = plm_min_size(step, p->n - first);
        PLM_TRY(plm_scratch_room(p->scratch, n * stride, err));
        PLM_TRY(plm_queue_add(p->file, p->queue,
                              p->page->values.offset + (p->first + first) * stride, n * stride,
                              p->scratch->bytes, err));
        PLM_TRY(plm_queue_flush(p->file, p->queue, err));
        PLM_TRY(unzip(p, first, n, err));
    }
done:
    return rc;
}

static enum plm_code read_piece(const struct piece *p, struct plm_err *err)
{
    switch (p->page->kind) {
    case PLM_PAGE_NULL:
        return read_null(p, err);
    case PLM_PAGE_SAME:
        read_same(p);
        return PLM_OK;
    case PLM_PAGE_PLAIN:
        return read_plain(p, err);
    case PLM_PAGE_ZIPPED:
        return read_zipped(p, err);
    case PLM_PAGE_CHUNKED:
        break;
    }
    return plm_chunks_read(p->file, p->page, p->shape, p->first, p->n, p->values, p->nulls,
                           p->scratch, err);
}

/* ---- one read -------------------------------------------------------------------- */

/* The page that holds `row`; the caller knows that there is one. */
static const struct plm_page *page_of(const struct plm_pages *pages, uint64_t row)
{
    size_t low = 0, high = pages->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (pages->items[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return &pages->items[low];
}

static enum plm_code read_pieces(struct piece p, uint64_t first, size_t n,
                                 const struct plm_pages *pages, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (const struct plm_page *page = n > 0 ? page_of(pages, first) : NULL; n > 0; page++) {
        p.page = page;
        p.first = first - page->first_row;
        p.n = (size_t)plm_min_u64(n, page->n_rows - p.first);
        PLM_TRY(read_piece(&p, err));
        p.values += p.n * plm_shape_row_bytes(p.shape);
        if (p.nulls)
            p.nulls += p.n;
        first += p.n;
        n -= p.n;
    }
    PLM_TRY(plm_queue_flush(p.file, p.queue, err));
done:
    return rc;
}

enum plm_code plm_datafile_read(struct plm_datafile *file, uint32_t column,
                                const struct plm_column_shape *shape, uint64_t first, size_t n,
                                void *values, uint8_t *nulls, struct plm_read_scratch *scratch,
                                struct plm_err *err)
{
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);
    struct plm_queue queue = {0};

    if (!pages)
        return plm_fail(err, PLM_BUG, "%s: column %" PRIu32 " is read before it is checked",
                        plm_file_name(file->file), column);
    if (first > pages->n_rows || n > pages->n_rows - first)
        return plm_fail(err, PLM_ARG,
                        "%s: %zu rows from row %" PRIu64 " of column %" PRIu32 " with %" PRIu64,
                        plm_file_name(file->file), n, first, column, pages->n_rows);
    if (!scratch->ctx)
        scratch->ctx = file->ctx;
    if (nulls)
        memset(nulls, 0, n);
    struct piece piece = {.file = file,
                          .shape = shape,
                          .values = values,
                          .nulls = nulls,
                          .scratch = scratch,
                          .queue = &queue};
    enum plm_code rc = read_pieces(piece, first, n, pages, err);
    if (rc == PLM_CORRUPT)
        return plm_wrap(err, rc, "%s: column %" PRIu32, plm_file_name(file->file), column);
    return rc;
}

#define VIEW_ALIGN 4096u

bool plm_datafile_is_aligned(const struct plm_datafile *file, uint32_t column,
                             const struct plm_column_shape *shape)
{
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);

    for (size_t i = 0; pages && i < pages->n; i++)
        if (pages->items[i].kind != PLM_PAGE_PLAIN || pages->items[i].values.offset % VIEW_ALIGN != 0)
            return false;
    return pages && pages->n > 0;
}
