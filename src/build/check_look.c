/* check_look.c - rows of a chunk looked up in the index.
 *
 * Sorted by the partition they belong in, they are looked for there by row id, partitions together in
 * long reads. Codes that lie row by row are then read where rows were found; those of a transposed
 * partition come with its row ids. Rows not found are looked for in all partitions.
 */
#include <math.h>
#include <stdlib.h>

#include "build/check_rows_impl.h"

#define GAP_BYTES ((size_t)128 << 10) /* read rather than skipped */

/* ---- where they belong ------------------------------------------------------------------- */

/* Row i of the n that `codes` holds of a transposed partition. */
static const uint8_t *gather_code(struct plm_check_chunk *c, const uint8_t *codes, size_t n, size_t i)
{
    for (size_t j = 0; j < c->code_bytes; j++)
        c->code[j] = codes[j * n + i];
    return c->code;
}

/* The expected rows [from, to) of partition p against those of the window. */
static enum plm_code look_in_partition(struct plm_check_chunk *c, const struct plm_window *w,
                                       uint32_t p, size_t from, size_t to, struct plm_err *err)
{
    const struct plm_segment *s = c->check->segment;
    size_t n, at = plm_window_rows(s, w, p, &n);
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < n; i++) {
        struct plm_check_row key = {.rowid = c->window_ids[at + i], .partition = p};
        struct plm_check_row *row = bsearch(&key, c->rows + from, to - from, sizeof key, plm_check_by_partition);
        if (!row)
            continue;
        if (row->found)
            plm_problem(c->check->findings, "repeated", row->rowid, "in its partition", "%.0f times", 2, 1);
        else if (s->pq_transposed)
            PLM_TRY(plm_check_compare(c, row, gather_code(c, c->window + at * c->code_bytes, n, i), err));
        else
            c->matches[c->n_matches++] = (struct plm_check_match){s->offsets[w->first] + w->skipped + at + i, row};
        row->found = true;
    }
done:
    return rc;
}

static int by_row(const void *a, const void *b)
{
    const struct plm_check_match *x = a, *y = b;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Codes of the matches, those near each other in one read. */
static enum plm_code compare_matches(struct plm_check_chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    size_t gap = GAP_BYTES / c->code_bytes;
    enum plm_code rc = PLM_OK;

    qsort(c->matches, c->n_matches, sizeof *c->matches, by_row);
    for (size_t from = 0, to; from < c->n_matches; from = to) {
        uint64_t first = c->matches[from].row, last = first;
        for (to = from + 1; to < c->n_matches && c->matches[to].row - last <= gap + 1 &&
                            c->matches[to].row - first < c->window_rows; to++)
            last = c->matches[to].row;
        PLM_TRY(plm_window_codes(s, first, (size_t)(last - first + 1), c->window, &c->read, err));
        for (size_t i = from; i < to; i++)
            PLM_TRY(plm_check_compare(c, c->matches[i].expected,
                                      c->window + (size_t)(c->matches[i].row - first) * c->code_bytes, err));
    }
done:
    return rc;
}

enum plm_code plm_check_look(struct plm_check_chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    struct plm_window *windows = NULL;
    size_t n_windows = 0, from = 0, to = 0, row_bytes = 8 + (s->pq_transposed ? c->code_bytes : 0);
    enum plm_code rc = PLM_OK;

    memset(c->wanted, 0, s->model.k);
    for (size_t i = 0; i < c->n; i++)
        c->wanted[c->rows[i].partition] = 1;
    PLM_TRY(plm_windows_make(s, c->wanted, 0, s->model.k, c->window_rows, GAP_BYTES / row_bytes, &windows,
                             &n_windows, err));
    for (size_t i = 0; i < n_windows; i++) {
        PLM_TRY(plm_check_cancel(c->check->ctx, err));
        PLM_TRY(plm_window_read(s, &windows[i], c->window_ids, s->pq_transposed ? c->window : NULL, &c->read, err));
        for (uint32_t p = windows[i].first; p < windows[i].end; p++) {
            if (!c->wanted[p])
                continue;
            while (c->rows[from].partition < p)
                from++;
            for (to = from; to < c->n && c->rows[to].partition == p;)
                to++;
            PLM_TRY(look_in_partition(c, &windows[i], p, from, to, err));
        }
    }
    PLM_TRY(compare_matches(c, err));
done:
    plm_free(c->check->ctx, windows);
    return rc;
}

/* ---- elsewhere --------------------------------------------------------------------------- */

static int by_rowid(const void *a, const void *b)
{
    const struct plm_check_row *x = a, *y = b;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

/* A row that was expected elsewhere: fine if partition p is as near. */
static void judge(struct plm_check_chunk *c, struct plm_check_row *row, uint32_t p)
{
    struct plm_findings *f = c->check->findings;
    double seen = plm_check_distance(c, row->at, p), best = plm_check_distance(c, row->at, row->partition);
    char where[32];

    row->found = true;
    if (seen <= best + PLM_CHECK_NEARLY * fabs(best))
        return;
    snprintf(where, sizeof where, "partition %u", p);
    f->misfiled++;
    plm_problem(f, "misfiled", row->rowid, where, "distance %.9g", seen, best);
}

enum plm_code plm_check_look_elsewhere(struct plm_check_chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    struct plm_window *windows = NULL;
    size_t n_windows = 0, n_lost = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < c->n; i++)
        if (!c->rows[i].found)
            c->rows[n_lost++] = c->rows[i];
    qsort(c->rows, n_lost, sizeof *c->rows, by_rowid);
    PLM_TRY(plm_windows_make(s, NULL, 0, s->model.k, c->window_rows, 0, &windows, &n_windows, err));
    for (size_t i = 0; i < n_windows; i++) {
        PLM_TRY(plm_window_read(s, &windows[i], c->window_ids, NULL, &c->read, err));
        for (uint32_t p = windows[i].first; p < windows[i].end; p++) {
            size_t n, at = plm_window_rows(s, &windows[i], p, &n);
            for (size_t r = at; r < at + n; r++) {
                struct plm_check_row key = {.rowid = c->window_ids[r]};
                struct plm_check_row *row = bsearch(&key, c->rows, n_lost, sizeof key, by_rowid);
                if (row && !row->found)
                    judge(c, row, p);
            }
        }
    }
    for (size_t r = 0; r < n_lost; r++)
        if (!c->rows[r].found)
            plm_problem(c->check->findings, "missing", c->rows[r].rowid, "in no partition", "%.0f times", 0, 1);
done:
    plm_free(c->check->ctx, windows);
    return rc;
}
