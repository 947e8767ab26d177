/* window.c - cutting partitions into windows, and reading one. */
#include "ivf/window.h"

#include "ivf/ivf_format.h"

/* The window that begins with partition p, of which `skipped` rows are done. */
static struct plm_window window_at(const struct plm_segment *s, const uint8_t *wanted, uint32_t p,
                                   uint32_t end, uint64_t skipped, size_t rows_max, size_t gap_rows)
{
    struct plm_window w = {p, p + 1, skipped, 0};
    size_t gap = 0;

    if (skipped > 0 || s->lengths[p] > rows_max) {
        w.n = (size_t)plm_min_u64(rows_max, s->lengths[p] - skipped);
        return w;
    }
    w.n = s->lengths[p];
    for (uint32_t q = p + 1; q < end && w.n + gap + s->lengths[q] <= rows_max && gap <= gap_rows; q++) {
        gap += s->lengths[q];
        if (s->lengths[q] == 0 || (wanted && !wanted[q]))
            continue;
        w.n += gap;
        w.end = q + 1;
        gap = 0;
    }
    return w;
}

/* Writes the windows when `out` is given; returns how many. */
static size_t cut(const struct plm_segment *s, const uint8_t *wanted, uint32_t first, uint32_t end,
                  size_t rows_max, size_t gap_rows, struct plm_window *out)
{
    size_t n = 0;
    uint64_t skipped = 0;

    for (uint32_t p = first; p < end;) {
        if (s->lengths[p] == 0 || (wanted && !wanted[p])) {
            p++;
            continue;
        }
        struct plm_window w = window_at(s, wanted, p, end, skipped, rows_max, gap_rows);
        if (out)
            out[n] = w;
        n++;
        skipped += w.n;
        if (w.end > p + 1 || skipped >= s->lengths[p]) {
            skipped = 0;
            p = w.end;
        }
    }
    return n;
}

enum plm_code plm_windows_make(const struct plm_segment *s, const uint8_t *wanted, uint32_t first,
                               uint32_t end, size_t rows_max, size_t gap_rows,
                               struct plm_window **windows, size_t *n, struct plm_err *err)
{
    struct plm_window *list = NULL;
    size_t count = cut(s, wanted, first, end, rows_max, gap_rows, NULL);
    enum plm_code rc = plm_alloc(s->ctx, &list, count, sizeof *list, err);

    if (rc != PLM_OK)
        return rc;
    *n = cut(s, wanted, first, end, rows_max, gap_rows, list);
    *windows = list;
    return PLM_OK;
}

size_t plm_window_rows(const struct plm_segment *s, const struct plm_window *w, uint32_t p, size_t *n)
{
    if (w->end == w->first + 1) {
        *n = w->n;
        return 0;
    }
    *n = s->lengths[p];
    return *n ? (size_t)(s->offsets[p] - s->offsets[w->first]) : 0;
}

enum plm_code plm_window_read(struct plm_segment *s, const struct plm_window *w, uint64_t *rowids,
                              uint8_t *codes, struct plm_read_scratch *scratch, struct plm_err *err)
{
    struct plm_column_shape rowid = {1, 64, false}, code = plm_segment_code_shape(s);
    uint64_t at = s->offsets[w->first] + w->skipped;
    uint8_t *spare = NULL;
    enum plm_code rc = PLM_OK;

    scratch->ctx = s->ctx;
    if (codes && s->pq_transposed && w->n < s->lengths[w->first]) {
        PLM_TRY(plm_alloc(s->ctx, &spare, w->n + 2 * (size_t)code.items, 1, err));
        PLM_TRY(plm_segment_read_stored(s, w->first, w->skipped, w->n, rowids, codes, spare, scratch, err));
        goto done;
    }
    if (rowids)
        PLM_TRY(plm_datafile_read(s->aux, s->rowid_column, &rowid, at, w->n, rowids, NULL, scratch, err));
    if (codes)
        PLM_TRY(plm_datafile_read(s->aux, s->code_column, &code, at, w->n, codes, NULL, scratch, err));
done:
    plm_free(s->ctx, spare);
    return rc;
}

enum plm_code plm_window_codes(struct plm_segment *s, uint64_t row, size_t n, uint8_t *codes,
                               struct plm_read_scratch *scratch, struct plm_err *err)
{
    struct plm_column_shape code = plm_segment_code_shape(s);

    PLM_ASSERT(!s->pq_transposed);
    scratch->ctx = s->ctx;
    return plm_datafile_read(s->aux, s->code_column, &code, row, n, codes, NULL, scratch, err);
}
