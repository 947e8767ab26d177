/* assign.c - the exact nearest centroid, block by block.
 *
 * The kernels give each row's best and second-best value in fp32. Where these lie further apart
 * than the error bound of assign_exact.c allows, the best is the answer; otherwise, in one row of
 * a thousand or fewer, the candidates are compared in float64.
 */
#include "cluster/assign.h"

#include <math.h>

#include "cluster/assign_impl.h"

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
    return padded(k) * (a_place + 16) + dim * 16 + 4096;
}

size_t plm_assign_scratch_bytes(size_t k, size_t dim)
{
    return 2 * PLM_BLOCK_ROWS * dim * sizeof(float) + PLM_TIE_ROWS * padded(k) * sizeof(float) +
           8192;
}

/* ---- scratch ------------------------------------------------------------------------ */

/* What a block needs beyond the fields of the scratch. */
struct block {
    size_t dim, n_places;              /* the shape the scratch was made for */
    float *framed;                     /* [96][dim] */
    double norms[PLM_BLOCK_ROWS];      /* of the rows in the frame */
    size_t open[PLM_BLOCK_ROWS];       /* rows still to be decided, ascending */
    size_t n_open;
    size_t follows[PLM_BLOCK_ROWS];    /* the row this one equals byte for byte, or itself */
};

void plm_assign_scratch_reset(struct plm_assign_scratch *scratch)
{
    struct block *block = scratch->more;

    if (block)
        plm_free(scratch->ctx, block->framed);
    plm_free(scratch->ctx, scratch->packed);
    plm_free(scratch->ctx, scratch->values);
    plm_free(scratch->ctx, scratch->best);
    plm_free(scratch->ctx, scratch->second);
    plm_free(scratch->ctx, scratch->more);
    *scratch = (struct plm_assign_scratch){0};
}

static enum plm_code
fit_scratch(const struct plm_assigner *assigner, struct plm_assign_scratch *scratch,
            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    struct block *block = scratch->more;
    size_t n_places = assigner->n_panels * PLM_PANEL;
    size_t row_bytes = assigner->dim * sizeof(float);

    if (block && block->dim == assigner->dim && block->n_places >= n_places)
        return PLM_OK;
    if (scratch->ctx)
        plm_assign_scratch_reset(scratch);
    scratch->ctx = ctx;
    PLM_TRY(plm_alloc(ctx, &scratch->packed, PLM_BLOCK_ROWS, row_bytes, err));
    PLM_TRY(plm_alloc(ctx, &scratch->values, n_places, PLM_TIE_ROWS * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &scratch->best, PLM_BLOCK_ROWS, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &scratch->second, PLM_BLOCK_ROWS, sizeof(float), err));
    PLM_TRY(plm_calloc(ctx, &scratch->more, 1, sizeof *block, err));
    block = scratch->more;
    PLM_TRY(plm_alloc(ctx, &block->framed, PLM_BLOCK_ROWS, row_bytes, err));
    block->dim = assigner->dim;
    block->n_places = n_places;
done:
    if (rc != PLM_OK)
        plm_assign_scratch_reset(scratch);
    return rc;
}

/* ---- one block ----------------------------------------------------------------------- */

/* Puts a row on the list of open ones, unless it equals the last of them: then it follows. So
 * a table full of one row costs one decision per block. */
static void open_row(struct block *block, const float *rows, size_t i)
{
    if (block->n_open > 0) {
        size_t last = block->open[block->n_open - 1];

        if (memcmp(rows + last * block->dim, rows + i * block->dim,
                   block->dim * sizeof *rows) == 0) {
            block->follows[i] = last;
            return;
        }
    }
    block->open[block->n_open++] = i;
}

/* best and second of every row -> ids of the rows that are certain; the others are opened. */
static void settle_certain(const struct plm_assigner *assigner, struct block *block,
                           const struct plm_assign_scratch *scratch, const float *rows, size_t n,
                           uint32_t *ids)
{
    block->n_open = 0;
    for (size_t i = 0; i < n; i++) {
        double gap = (double)scratch->second[i] - (double)scratch->best[i];
        double bound = plm_assign_error(assigner->dim, block->norms[i], assigner->norm_max);

        block->follows[i] = i;
        if (plm_assign_is_tame(assigner, block->norms[i]) && gap > 2 * bound)
            ids[i] = assigner->ids[ids[i]];
        else
            open_row(block, rows, i);
    }
}

/* Open rows, PLM_TIE_ROWS at a time. */
static void settle_open(const struct plm_assigner *assigner, struct block *block,
                        const struct plm_assign_scratch *scratch, const float *rows,
                        const float *framed, uint32_t *ids)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    size_t dim = assigner->dim, stride = assigner->n_panels * PLM_PANEL;

    for (size_t first = 0; first < block->n_open; first += PLM_TIE_ROWS) {
        size_t n = plm_min_size(PLM_TIE_ROWS, block->n_open - first);
        const size_t *open = block->open + first;

        /* Where framed is block->framed, rows move down only: open[t] >= first + t. */
        for (size_t t = 0; t < n; t++)
            memmove(block->framed + t * dim, framed + open[t] * dim, dim * sizeof *framed);
        kernels->pack_rows(block->framed, dim, n, dim, scratch->packed);
        kernels->values(scratch->packed, n, assigner->panels, assigner->half_norms,
                        assigner->n_panels, dim, scratch->values, stride);
        for (size_t t = 0; t < n; t++) {
            const float *row = rows + open[t] * dim;
            double norm = block->norms[open[t]];

            ids[open[t]] = plm_assign_is_tame(assigner, norm)
                               ? plm_assign_refine(assigner, row, norm,
                                                   scratch->values + t * stride)
                               : plm_assign_brute(assigner, row);
        }
    }
}

static void assign_block(const struct plm_assigner *assigner, const float *rows, size_t n,
                         uint32_t *ids, double *distances, struct plm_assign_scratch *scratch)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    struct block *block = scratch->more;
    size_t dim = assigner->dim;
    const float *framed = plm_assigner_frame(assigner, rows, n, block->framed);

    for (size_t i = 0; i < n; i++)
        block->norms[i] = sqrt(kernels->norm2(framed + i * dim, dim));
    kernels->pack_rows(framed, dim, n, dim, scratch->packed);
    kernels->nearest(scratch->packed, n, assigner->panels, assigner->half_norms,
                     assigner->n_panels, dim, scratch->best, scratch->second, ids);
    settle_certain(assigner, block, scratch, rows, n, ids);
    settle_open(assigner, block, scratch, rows, framed, ids);
    for (size_t i = 0; i < n; i++) {
        const float *centroid;

        ids[i] = ids[block->follows[i]];
        if (!distances)
            continue;
        centroid = assigner->centroids + (size_t)ids[i] * dim;
        distances[i] = assigner->metric == PLM_DOT
                           ? 1 - kernels->dot_exact(rows + i * dim, centroid, dim)
                           : kernels->l2_exact(rows + i * dim, centroid, dim);
    }
}

enum plm_code
plm_assign(const struct plm_assigner *assigner, const float *rows, size_t n, uint32_t *ids,
           double *distances, struct plm_assign_scratch *scratch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(fit_scratch(assigner, scratch, err));
    for (size_t first = 0; first < n; first += PLM_BLOCK_ROWS) {
        PLM_TRY(plm_check_cancel(assigner->ctx, err));
        assign_block(assigner, rows + first * assigner->dim, plm_min_size(PLM_BLOCK_ROWS, n - first),
                     ids + first, distances ? distances + first : NULL, scratch);
    }
done:
    return rc;
}
