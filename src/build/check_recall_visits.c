/* check_recall_visits.c - which query comes to which partition, and on the way to which point. */
#include <math.h>
#include <stdlib.h>

#include "build/check_recall_impl.h"

static enum plm_code rank_partitions(void *arg, size_t q, unsigned worker, struct plm_err *err)
{
    struct plm_recall_curve *r = arg;
    uint32_t most = r->nprobes[r->n_points - 1];
    const float *query = r->probes->vectors + (r->first + q) * r->segment->model.dim;
    (void)worker;
    return plm_probe(r->ctx, &r->segment->model, query, most, r->ranked + q * most, &r->n_ranked[q], err);
}

static size_t point_of(const struct plm_recall_curve *r, size_t rank)
{
    size_t point = 0;
    while (rank >= r->nprobes[point])
        point++;
    return point;
}

enum plm_code plm_recall_plan_visits(struct plm_recall_curve *r, struct plm_err *err)
{
    uint32_t k = r->segment->model.k, most = r->nprobes[r->n_points - 1];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(r->ctx, &r->ranked, r->n * most, sizeof *r->ranked, err));
    PLM_TRY(plm_calloc(r->ctx, &r->n_ranked, r->n, sizeof *r->n_ranked, err));
    PLM_TRY(plm_parallel(r->ctx, r->n, rank_partitions, r, err));
    PLM_TRY(plm_calloc(r->ctx, &r->starts, (size_t)k + 2, sizeof *r->starts, err));
    PLM_TRY(plm_alloc(r->ctx, &r->visits, r->n * most, sizeof *r->visits, err));
    for (size_t q = 0; q < r->n; q++)
        for (size_t i = 0; i < r->n_ranked[q]; i++)
            r->starts[r->ranked[q * most + i] + 2]++;
    for (uint32_t p = 0; p < k; p++)
        r->starts[p + 2] += r->starts[p + 1];
    for (size_t q = 0; q < r->n; q++) {
        double *rows = r->rows + (r->first + q) * r->n_points;
        for (size_t i = 0; i < r->n_ranked[q]; i++) {
            uint32_t p = r->ranked[q * most + i];
            r->visits[r->starts[p + 1]++] = (struct plm_recall_visit){(uint32_t)q, (uint32_t)point_of(r, i)};
            rows[point_of(r, i)] += r->segment->lengths[p];
        }
    }
done:
    return rc;
}

static int by_rowid(const void *a, const void *b)
{
    const struct plm_recall_sought *x = a, *y = b;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

enum plm_code plm_recall_list_sought(struct plm_recall_curve *r, struct plm_err *err)
{
    enum plm_code rc = plm_alloc(r->ctx, &r->sought, r->n * PLM_PROBE_K, sizeof *r->sought, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < r->n * PLM_PROBE_K; i++) {
        const struct plm_neighbour *t = &r->truth[r->first * PLM_PROBE_K + i];
        if (isfinite(t->distance))
            r->sought[r->n_sought++] = (struct plm_recall_sought){t->rowid, (uint32_t)(i / PLM_PROBE_K)};
    }
    qsort(r->sought, r->n_sought, sizeof *r->sought, by_rowid);
    return PLM_OK;
}
