/* panels.c - points in the layout of the nearest and project kernels. */
#include <math.h>

#include "cluster/train_math.h"

enum plm_code plm_panels_alloc(struct plm_ctx *ctx, size_t n_max, size_t dim, struct plm_panels *out,
                               struct plm_err *err)
{
    struct plm_panels p = {.ctx = ctx, .n_panels_max = plm_panels_of(n_max), .dim = dim};
    enum plm_code rc = PLM_OK;
    size_t n_values;

    if (!plm_size_mul(p.n_panels_max * PLM_PANEL, dim, &n_values))
        return plm_fail(err, PLM_LIMIT, "%zu points of %zu values are too many", n_max, dim);
    PLM_TRY(plm_alloc(ctx, &p.values, n_values, sizeof *p.values, err));
    PLM_TRY(plm_alloc(ctx, &p.half_norms, p.n_panels_max * PLM_PANEL, sizeof *p.half_norms, err));
    *out = p;
    p = (struct plm_panels){0};
done:
    plm_panels_reset(&p);
    return rc;
}

void plm_panels_fill(struct plm_panels *panels, const float *points, size_t n, bool dot)
{
    size_t dim = panels->dim;

    panels->n_panels = plm_panels_of(n);
    PLM_ASSERT(panels->n_panels <= panels->n_panels_max);
    for (size_t j = 0; j < panels->n_panels * PLM_PANEL; j++) {
        float *panel = panels->values + j / PLM_PANEL * PLM_PANEL * dim + j % PLM_PANEL;
        const float *point = points + j * dim;

        for (size_t d = 0; d < dim; d++)
            panel[d * PLM_PANEL] = j < n ? point[d] : 0;
    }
    for (size_t j = 0; j < panels->n_panels * PLM_PANEL; j++)
        panels->half_norms[j] = j >= n ? INFINITY
                                : dot  ? 0
                                       : (float)(panels->ctx->kernels->norm2(points + j * dim, dim) / 2);
}

void plm_panels_reset(struct plm_panels *panels)
{
    if (panels->ctx) {
        plm_free(panels->ctx, panels->values);
        plm_free(panels->ctx, panels->half_norms);
    }
    *panels = (struct plm_panels){0};
}
