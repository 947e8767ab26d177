/* probe.c - which partitions to look into. */
#include "ivf/index.h"
#include "simd/simd.h"

enum plm_code plm_probe(struct plm_ctx *ctx, const struct plm_model *model, const float *query,
                        size_t nprobes, uint32_t *ids, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_kernels *kernels = ctx->kernels;
    struct plm_top top = {.k = plm_min_size(nprobes, model->k)};

    PLM_TRY(plm_alloc(ctx, &top.distances, top.k, sizeof(*top.distances), err));
    PLM_TRY(plm_alloc(ctx, &top.rowids, top.k, sizeof(*top.rowids), err));
    for (uint32_t i = 0; i < model->k; i++) {
        const float *c = model->centroids + (size_t)i * model->dim;
        double distance = model->metric == PLM_DOT ? 1 - kernels->dot_exact(query, c, model->dim)
                                                   : kernels->l2_exact(query, c, model->dim);
        plm_top_offer(&top, (float)distance, i);
    }
    plm_top_sort(&top);
    for (size_t i = 0; i < top.n; i++)
        ids[i] = (uint32_t)top.rowids[i];
    *n = top.n;
done:
    plm_free(ctx, top.distances);
    plm_free(ctx, top.rowids);
    return rc;
}
