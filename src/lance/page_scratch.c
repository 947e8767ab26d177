/* page_scratch.c - memory that reading takes beside the rows themselves: to take pages apart in which
 * these do not lie as plain arrays.
 */
#include "lance/datafile_impl.h"

enum plm_code plm_scratch_room(struct plm_read_scratch *scratch, size_t n, struct plm_err *err)
{
    if (n <= scratch->cap)
        return PLM_OK;
    plm_free(scratch->ctx, scratch->bytes);
    scratch->bytes = NULL;
    scratch->cap = 0;
    enum plm_code rc = plm_alloc(scratch->ctx, &scratch->bytes, n, 1, err);
    if (rc == PLM_OK)
        scratch->cap = n;
    return rc;
}

void plm_read_scratch_reset(struct plm_read_scratch *scratch)
{
    if (!scratch->ctx)
        return;
    plm_chunks_state_free(scratch->ctx, scratch->state);
    plm_free(scratch->ctx, scratch->bytes);
    *scratch = (struct plm_read_scratch){.ctx = scratch->ctx};
}

/* ---- how much ------------------------------------------------------------------------ */

#define CHUNKS_CUT 2 /* chunks of which a read wants only a part: at its beginning, at its end */

static size_t bitmap_row_bytes(const struct plm_page *page, const struct plm_column_shape *shape)
{
    return page->item_bits.size > 0 ? shape->items / 8 + 2 : page->row_bits.size > 0;
}

/* The table of chunks and the one chunk that is kept; chunks of a page are about as large as each other. */
static void chunk_needs(const struct plm_page *page, const struct plm_column_shape *shape, struct plm_read_needs *needs)
{
    uint64_t n_chunks = plm_max_u64(1, page->table.size / (page->is_large ? 4 : 2));
    uint64_t rows = plm_min_u64(PLM_CHUNK_ROWS_MAX, 2 * (page->n_rows / n_chunks + 1));
    uint64_t fixed = plm_chunks_state_bytes() + 2 * (n_chunks + 1) * sizeof(uint64_t) + rows * plm_shape_row_bytes(shape) +
                     CHUNKS_CUT * (page->values.size / n_chunks + 8);

    needs->fixed_bytes = plm_max_u64(needs->fixed_bytes, fixed);
    needs->row_bytes = plm_max_u64(needs->row_bytes, page->values.size / plm_max_u64(1, page->n_rows) + 1);
}

void plm_datafile_needs(const struct plm_datafile *file, uint32_t column, const struct plm_column_shape *shape,
                        struct plm_read_needs *needs)
{
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);

    for (size_t i = 0; pages && i < pages->n; i++) {
        const struct plm_page *page = &pages->items[i];

        if (page->kind == PLM_PAGE_CHUNKED)
            chunk_needs(page, shape, needs);
        else if (page->kind == PLM_PAGE_ZIPPED)
            needs->row_bytes = plm_max_u64(needs->row_bytes, page->control_bytes + page->valid_bytes + plm_shape_row_bytes(shape));
        else
            needs->row_bytes = plm_max_u64(needs->row_bytes, bitmap_row_bytes(page, shape));
    }
}

uint64_t plm_read_scratch_bytes(const struct plm_read_needs *needs, uint64_t n_rows)
{
    uint64_t rows = needs->row_bytes == 0 ? 0 : plm_min_u64(n_rows, PLM_READ_BYTES / needs->row_bytes + 1);

    return needs->fixed_bytes + rows * needs->row_bytes;
}
