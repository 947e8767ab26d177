/* expect.c - ranges of live rows as ranges of rows in files, to be fetched together. */
#include "rows/source_impl.h"

/* What batch.c reads beyond the live rows it wants, because some may be deleted. */
static uint64_t with_spare(const struct plm_source_fragment *f, uint64_t n)
{
    return f->map.deleted ? n + n / 8 + 64 : n;
}

static struct plm_row_range rows_of(const struct plm_source_fragment *f, uint64_t rank, uint64_t n)
{
    uint64_t first = plm_source_select(f, rank), last = plm_source_select(f, rank + n - 1);

    return (struct plm_row_range){first, plm_min_u64(f->n_rows - first,
                                                     plm_max_u64(last + 1 - first, with_spare(f, n)))};
}

static void expect_in(struct plm_source *source, const struct plm_source_fragment *f,
                      const struct plm_ordinals *ranges, size_t n)
{
    const struct plm_column *c = &source->column;
    struct plm_column_shape shape = {.items = c->dim, .bits = 8 * (uint32_t)plm_element_bytes(c->element),
                                     .is_list = true};
    struct plm_row_range *rows = NULL;
    size_t n_rows = 0;

    if (!ranges) {
        plm_datafile_expect(f->file, f->column, &shape, NULL, 0);
        return;
    }
    if (plm_alloc(source->ctx, &rows, n, sizeof *rows, NULL) != PLM_OK)
        return; /* only a hint */
    for (size_t i = 0; i < n; i++) {
        uint64_t from = plm_max_u64(ranges[i].first, f->first_ordinal);
        uint64_t to = plm_min_u64(ranges[i].first + ranges[i].n, f->first_ordinal + f->n_live);

        if (from < to)
            rows[n_rows++] = rows_of(f, from - f->first_ordinal, to - from);
    }
    plm_datafile_expect(f->file, f->column, &shape, rows, n_rows);
    plm_free(source->ctx, rows);
}

void plm_source_expect(struct plm_source *source, const struct plm_ordinals *ranges, size_t n)
{
    for (size_t i = 0, r = 0; i < source->n_fragments; i++) {
        const struct plm_source_fragment *f = &source->fragments[i];
        size_t end;

        while (ranges && r < n && ranges[r].first + ranges[r].n <= f->first_ordinal)
            r++;
        for (end = r; ranges && end < n && ranges[end].first < f->first_ordinal + f->n_live;)
            end++;
        if (f->file && !plm_store_is_local(f->store))
            expect_in(source, f, ranges ? ranges + r : NULL, end - r);
    }
}

void plm_source_ahead(struct plm_source *source, uint64_t first, uint64_t n)
{
    const struct plm_column *c = &source->column;
    struct plm_column_shape shape = {.items = c->dim, .bits = 8 * (uint32_t)plm_element_bytes(c->element), .is_list = true};

    if (atomic_load(&source->ctx->reads_wait) == 0 || source->n_kept > 0 || n == 0)
        return;
    for (size_t i = plm_source_fragment_of(source, first); i < source->n_fragments; i++) {
        const struct plm_source_fragment *f = &source->fragments[i];
        uint64_t from = plm_max_u64(first, f->first_ordinal), to = plm_min_u64(first + n, f->first_ordinal + f->n_live);

        if (f->first_ordinal >= first + n)
            break;
        if (from < to && f->file && plm_store_is_local(f->store))
            plm_datafile_ahead(f->file, f->column, &shape, rows_of(f, from - f->first_ordinal, to - from));
    }
}
