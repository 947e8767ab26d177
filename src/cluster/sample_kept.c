/* sample_kept.c - rows of the table that a sample holds whole, so that they need not be read again. */
#include "cluster/sample_impl.h"

/* Do the rows of a run, all of them, follow those of the stretch? */
static bool follows(const struct plm_kept *k, uint64_t first, const float *rows, size_t dim)
{
    return k && k->first + k->n == first && k->rows + k->n * dim == rows;
}

/* Runs that were kept whole, as stretches; counts them only when there is no room. Returns their rows. */
static uint64_t list_kept(const struct plm_sample_taking *t, struct plm_kept *kept, size_t *n_kept)
{
    const struct plm_sample *s = &t->sample;
    struct plm_kept last = {0};
    uint64_t n_rows = 0;
    size_t at = 0, n = 0;

    for (size_t i = 0; i < t->n_runs; at += t->runs[i++].n_kept) {
        const struct plm_sample_run *run = &t->runs[i];
        uint64_t first = t->by_number[run->first]->number, end = first + run->n;
        uint64_t rows = plm_min_u64(end * PLM_SLICE_ROWS, t->slices.n_live) - first * PLM_SLICE_ROWS;

        first *= PLM_SLICE_ROWS;
        if (run->n_kept != rows)
            continue;
        n_rows += rows;
        if (n > 0 && follows(&last, first, s->rows + at * s->dim, s->dim)) {
            last.n += (size_t)rows;
        } else {
            last = (struct plm_kept){first, (size_t)rows, s->rows + at * s->dim, s->rowids + at};
            n++;
        }
        if (kept)
            kept[n - 1] = last;
    }
    *n_kept = n;
    return n_rows;
}

/* Worth it when little else is left to be read. */
enum plm_code plm_sample_note_kept(struct plm_sample_taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    size_t n = 0;
    enum plm_code rc = PLM_OK;

    if (!s->rows || t->source->column.element != PLM_F32 ||
        list_kept(t, NULL, &n) < t->slices.n_live / PLM_KEPT_PARTS * (PLM_KEPT_PARTS - 1) || n == 0)
        return PLM_OK;
    PLM_TRY(plm_alloc(t->ctx, &s->kept, n, sizeof *s->kept, err));
    (void)list_kept(t, s->kept, &s->n_kept);
done:
    return rc;
}
