/* page_expect.c - the bytes behind rows that are about to be read. */
#include "lance/datafile_impl.h"

struct list {
    struct plm_range *items;
    size_t n, cap;
    bool is_near; /* only what is known to be behind the rows */
};

static bool add(struct plm_ctx *ctx, struct list *list, uint64_t offset, uint64_t len)
{
    if (len == 0)
        return true;
    if (plm_grow(ctx, &list->items, &list->cap, list->n, sizeof *list->items, NULL) != PLM_OK)
        return false;
    list->items[list->n++] = (struct plm_range){offset, (size_t)len, NULL};
    return true;
}

/* Rows [first, end) of a page. Where the rows of a compressed page lie is known when its table has been
 * read: all of it is expected, and bitmaps as a whole too. */
static bool add_rows(struct plm_ctx *ctx, struct list *list, const struct plm_page *page,
                     const struct plm_column_shape *shape, uint64_t first, uint64_t end)
{
    uint64_t row_bytes = plm_shape_row_bytes(shape);

    switch (page->kind) {
    case PLM_PAGE_ZIPPED:
        row_bytes += page->control_bytes + page->valid_bytes;
        return add(ctx, list, page->values.offset + first * row_bytes, (end - first) * row_bytes);
    case PLM_PAGE_PLAIN:
        return add(ctx, list, page->values.offset + first * row_bytes, (end - first) * row_bytes) &&
               add(ctx, list, page->row_bits.offset, page->row_bits.size) &&
               add(ctx, list, page->item_bits.offset, page->item_bits.size);
    case PLM_PAGE_CHUNKED:
        if (list->is_near)
            return true;
        return add(ctx, list, page->values.offset, page->values.size) &&
               add(ctx, list, page->table.offset, page->table.size);
    default:
        return true;
    }
}

static bool add_range(struct plm_ctx *ctx, struct list *list, const struct plm_pages *pages,
                      struct plm_row_range rows)
{
    uint64_t end = plm_min_u64(pages->n_rows, rows.first + rows.n);

    for (size_t i = 0; i < pages->n && pages->items[i].first_row < end; i++) {
        const struct plm_page *page = &pages->items[i];
        uint64_t from = plm_max_u64(rows.first, page->first_row);
        uint64_t to = plm_min_u64(end, page->first_row + page->n_rows);

        if (from < to && !add_rows(ctx, list, page, &pages->shape, from - page->first_row,
                                   to - page->first_row))
            return false;
    }
    return true;
}

void plm_datafile_expect(struct plm_datafile *file, uint32_t column,
                         const struct plm_column_shape *shape, const struct plm_row_range *rows,
                         size_t n)
{
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);
    struct list list = {0};
    bool all = true;

    if (!pages)
        return;
    struct plm_row_range whole = {0, pages->n_rows};
    for (size_t i = 0; all && i < (rows ? n : 1); i++)
        all = add_range(file->ctx, &list, pages, rows ? rows[i] : whole);
    if (all)
        plm_file_expect(file->file, list.items, list.n);
    plm_free(file->ctx, list.items);
}

void plm_datafile_ahead(struct plm_datafile *file, uint32_t column, const struct plm_column_shape *shape,
                        struct plm_row_range rows)
{
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);
    struct list list = {.is_near = true};

    if (pages && add_range(file->ctx, &list, pages, rows))
        plm_file_ahead(file->file, list.items, list.n);
    plm_free(file->ctx, list.items);
}
