/* assign.c - the exact nearest centroid, block by block.
 *
 * The kernels give each row's best and second-best value in fp32. Where these lie further apart
 * than the error bound of assign_exact.c allows, the best is the answer; otherwise, in one row of
 * a thousand or fewer, the candidates are compared in float64. In front of it, where it pays, runs a
 * filter (assign_head.c, assign_bytes.c), whose few candidates are estimated in fp32 one by one
 * and compared in float64 where these estimates do not decide.
 */
#include "cluster/assign.h"

#include "cluster/assign_impl.h"

#define HEAD_ROW_BYTES ((PLM_HEAD_MAX + 2) * sizeof(float))

/* ---- life -------------------------------------------------------------------------- */

enum plm_code
plm_assigner_create(struct plm_ctx *ctx, const float *centroids, size_t k, size_t dim,
                    enum plm_metric metric, struct plm_assigner **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_assigner *assigner = NULL;

    if (k == 0 || k > INT32_MAX || dim == 0)
        return plm_fail(err, PLM_ARG, "assign: %zu centroids of %zu dimensions, expected at least "
                        "one of each and at most 2^31-1 centroids", k, dim);
    PLM_TRY(plm_calloc(ctx, &assigner, 1, sizeof *assigner, err));
    assigner->ctx = ctx;
    assigner->centroids = centroids;
    assigner->k = k;
    assigner->dim = dim;
    assigner->metric = metric;
    PLM_TRY(plm_assigner_pack(assigner, err));
    PLM_TRY(plm_filter_create(assigner, err));
    *out = assigner;
    assigner = NULL;
done:
    plm_assigner_destroy(assigner);
    return rc;
}

void plm_assigner_destroy(struct plm_assigner *assigner)
{
    if (!assigner)
        return;
    plm_filter_destroy(assigner);
    plm_free(assigner->ctx, assigner->ids);
    plm_free(assigner->ctx, assigner->norms);
    plm_free(assigner->ctx, assigner->half_norms);
    plm_free(assigner->ctx, assigner->origin);
    plm_free(assigner->ctx, assigner->panels);
    plm_free(assigner->ctx, assigner);
}

static size_t padded(size_t k)
{
    return (k + PLM_PANEL - 1) / PLM_PANEL * PLM_PANEL;
}

size_t plm_assigner_bytes(size_t k, size_t dim)
{
    size_t a_place = dim * sizeof(float) + sizeof(uint32_t) + sizeof(double) + sizeof(float);

    /* and while it is made: 16 bytes per centroid to find copies, a few rows */
    return padded(k) * (a_place + 16) + dim * 16 + plm_filter_bytes(k, dim) + 4096;
}

size_t plm_assign_scratch_bytes(size_t k, size_t dim)
{
    return 2 * PLM_BLOCK_ROWS * dim * sizeof(float) +
           (PLM_TIE_ROWS + 3) * padded(k) * sizeof(float) +
           (PLM_BLOCK_ROWS + PLM_TIE_ROWS) * HEAD_ROW_BYTES + 16384;
}

/* ---- scratch ------------------------------------------------------------------------ */

void plm_assign_scratch_reset(struct plm_assign_scratch *scratch)
{
    struct plm_assign_block *block = scratch->more;

    if (block) {
        plm_free(scratch->ctx, block->framed);
        plm_free(scratch->ctx, block->head_rows);
        plm_free(scratch->ctx, block->head_packed);
        plm_free(scratch->ctx, block->places);
        plm_free(scratch->ctx, block->least);
    }
    plm_free(scratch->ctx, scratch->packed);
    plm_free(scratch->ctx, scratch->values);
    plm_free(scratch->ctx, scratch->best);
    plm_free(scratch->ctx, scratch->second);
    plm_free(scratch->ctx, scratch->more);
    *scratch = (struct plm_assign_scratch){0};
}

static enum plm_code make_block(struct plm_ctx *ctx, size_t dim, size_t n_places,
                                struct plm_assign_block *block, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &block->framed, PLM_BLOCK_ROWS, dim * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &block->head_rows, PLM_BLOCK_ROWS, HEAD_ROW_BYTES, err));
    PLM_TRY(plm_alloc(ctx, &block->head_packed, PLM_TIE_ROWS, HEAD_ROW_BYTES, err));
    PLM_TRY(plm_alloc(ctx, &block->places, n_places, sizeof *block->places, err));
    PLM_TRY(plm_alloc(ctx, &block->least, n_places, sizeof *block->least, err));
    block->dim = dim;
    block->n_places = n_places;
done:
    return rc;
}

static enum plm_code
fit_scratch(const struct plm_assigner *assigner, struct plm_assign_scratch *scratch,
            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    struct plm_assign_block *block = scratch->more;
    size_t n_places = assigner->n_panels * PLM_PANEL;

    if (block && block->dim == assigner->dim && block->n_places >= n_places)
        return PLM_OK;
    if (scratch->ctx)
        plm_assign_scratch_reset(scratch);
    scratch->ctx = ctx;
    PLM_TRY(plm_alloc(ctx, &scratch->packed, PLM_BLOCK_ROWS, assigner->dim * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &scratch->values, n_places, PLM_TIE_ROWS * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &scratch->best, PLM_BLOCK_ROWS, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &scratch->second, PLM_BLOCK_ROWS, sizeof(float), err));
    PLM_TRY(plm_calloc(ctx, &scratch->more, 1, sizeof *block, err));
    PLM_TRY(make_block(ctx, assigner->dim, n_places, scratch->more, err));
done:
    if (rc != PLM_OK)
        plm_assign_scratch_reset(scratch);
    return rc;
}

/* ---- assignment ----------------------------------------------------------------------- */

static void exact_distances(const struct plm_assigner *assigner, const float *rows, size_t n,
                            const uint32_t *ids, double *distances)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    size_t dim = assigner->dim;

    if (assigner->metric != PLM_DOT) {
        kernels->l2_pairs(rows, dim, assigner->centroids, ids, n, dim, distances);
        return;
    }
    kernels->dot_pairs(rows, dim, assigner->centroids, ids, n, dim, distances);
    for (size_t i = 0; i < n; i++)
        distances[i] = 1 - distances[i];
}

enum plm_code
plm_assign(const struct plm_assigner *assigner, const float *rows, size_t n, uint32_t *ids,
           double *distances, struct plm_assign_scratch *scratch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_cancel(assigner->ctx, err));
    PLM_TRY(fit_scratch(assigner, scratch, err));
    for (size_t first = 0; first < n; first += PLM_BLOCK_ROWS) {
        size_t n_rows = plm_min_size(PLM_BLOCK_ROWS, n - first);
        const float *block = rows + first * assigner->dim;
        struct plm_way way = plm_filter_way(assigner, block, n - first, ids + first, scratch);

        PLM_TRY(plm_check_cancel(assigner->ctx, err));
        plm_assign_block(assigner, way, block, n_rows, ids + first, scratch);
        if (distances)
            exact_distances(assigner, block, n_rows, ids + first, distances + first);
    }
done:
    return rc;
}
