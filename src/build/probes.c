#include "build/probes.h"

#include <math.h>

#include "build/run.h"
#include "simd/simd.h"

enum plm_code plm_probe_panels_init(struct plm_ctx *ctx, const struct plm_probes *probes, size_t dim,
                                    enum plm_metric metric, struct plm_probe_panels *out,
                                    struct plm_err *err)
{
    struct plm_probe_panels p = {.ctx = ctx, .probes = probes, .metric = metric, .dim = dim};
    enum plm_code rc = PLM_OK;

    p.n_panels = (probes->n + PLM_PANEL - 1) / PLM_PANEL;
    size_t places = p.n_panels * PLM_PANEL;
    PLM_TRY(plm_calloc(ctx, &p.panels, places * dim, sizeof(float), err));
    PLM_TRY(plm_calloc(ctx, &p.half_norms, places, sizeof(float), err));
    PLM_TRY(plm_calloc(ctx, &p.norms, places, sizeof(double), err));
    for (size_t q = 0; q < probes->n; q++) {
        const float *vector = probes->vectors + q * dim;
        float *panel = p.panels + q / PLM_PANEL * PLM_PANEL * dim + q % PLM_PANEL;
        for (size_t d = 0; d < dim; d++)
            panel[d * PLM_PANEL] = vector[d];
        p.norms[q] = sqrt(ctx->kernels->norm2(vector, dim));
    }
    *out = p;
    p = (struct plm_probe_panels){0};
done:
    plm_probe_panels_reset(&p);
    return rc;
}

void plm_probe_panels_reset(struct plm_probe_panels *p)
{
    if (!p->ctx)
        return;
    plm_free(p->ctx, p->panels);
    plm_free(p->ctx, p->half_norms);
    plm_free(p->ctx, p->norms);
    *p = (struct plm_probe_panels){0};
}

void plm_neighbours_clear(struct plm_neighbour *best, size_t n_queries)
{
    for (size_t i = 0; i < n_queries * PLM_PROBE_K; i++)
        best[i] = (struct plm_neighbour){UINT64_MAX, INFINITY};
}

/* One row against all queries; values[q] = -x.q in float32. */
static void offer_row(const struct plm_probe_panels *p, const float *row, uint64_t rowid,
                      const float *values, struct plm_neighbour *best)
{
    const struct plm_kernels *k = p->ctx->kernels;
    double norm = sqrt(k->norm2(row, p->dim)), slack = 4.0 * plm_dot_error(p->dim) * norm;

    for (size_t q = 0; q < p->probes->n; q++) {
        struct plm_neighbour *mine = best + q * PLM_PROBE_K;
        const float *query = p->probes->vectors + q * p->dim;
        /* No larger than the true distance, by the error bound of simd.h. */
        double least = p->metric == PLM_DOT
                           ? 1 + values[q] - slack * p->norms[q]
                           : norm * norm + p->norms[q] * p->norms[q] + 2 * (double)values[q] -
                                 slack * (p->norms[q] + norm);
        if (least > mine[PLM_PROBE_K - 1].distance || rowid == p->probes->rowids[q])
            continue; /* NaN (an overflow in float32) goes on to float64 */
        double exact = p->metric == PLM_DOT ? 1 - k->dot_exact(row, query, p->dim)
                                            : k->l2_exact(row, query, p->dim);
        plm_neighbours_merge(mine, &(struct plm_neighbour){rowid, exact}, 1);
    }
}

void plm_probe_offer(const struct plm_probe_panels *p, const struct plm_batch *batch, float *packed,
                     float *values, struct plm_neighbour *best)
{
    const struct plm_kernels *k = p->ctx->kernels;
    size_t stride = p->n_panels * PLM_PANEL;

    for (size_t first = 0; first < batch->n; first += PLM_BLOCK_ROWS) {
        size_t n = plm_min_size(PLM_BLOCK_ROWS, batch->n - first);
        const float *rows = batch->rows + first * p->dim;
        k->pack_rows(rows, p->dim, n, p->dim, packed);
        k->values(packed, n, p->panels, p->half_norms, p->n_panels, p->dim, values, stride);
        for (size_t i = 0; i < n; i++)
            offer_row(p, rows + i * p->dim, batch->rowids[first + i], values + i * stride, best);
    }
}
