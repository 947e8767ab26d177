/* basis.c - leading axes of a small sample, by subspace iteration: V <- orth(A'A V).
 * Source: Halko, Martinsson, Tropp, Finding structure with randomness (2011), section 4.5. */
#include <math.h>

#include "cluster/train_math.h"

#define ROUNDS 3 /* a random start and two power steps: more change nothing measurable */

/* out [n][r] = rows [n][dim] * V, V in panels. */
struct product {
    const struct plm_kernels *kernels;
    const float *rows;
    size_t n, dim, r;
    const struct plm_panels *panels;
    float *packed; /* one block per thread */
    float *out;
};

static enum plm_code product_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct product *p = arg;
    size_t first = task * PLM_BLOCK_ROWS, n = plm_min_size(PLM_BLOCK_ROWS, p->n - first);
    float *packed = p->packed + worker * plm_packed_floats(p->dim);
    (void)err;

    p->kernels->pack_rows(p->rows + first * p->dim, p->dim, n, p->dim, packed);
    p->kernels->project(packed, n, p->panels->values, p->panels->n_panels, p->dim,
                        p->out + first * p->r, p->r);
    return PLM_OK;
}

static enum plm_code multiply(struct plm_ctx *ctx, const float *rows, size_t n, size_t dim,
                              const float *columns, size_t r, float *out, struct plm_err *err)
{
    struct plm_panels panels = {0};
    struct product p = {ctx->kernels, rows, n, dim, r, &panels, NULL, out};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_panels_alloc(ctx, r, dim, &panels, err));
    PLM_TRY(plm_alloc(ctx, &p.packed, ctx->threads * plm_packed_floats(dim), sizeof *p.packed, err));
    plm_panels_fill(&panels, columns, r, true);
    PLM_TRY(plm_parallel(ctx, (n + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS, product_task, &p, err));
done:
    plm_free(ctx, p.packed);
    plm_panels_reset(&panels);
    return rc;
}

static void transpose(const float *in, size_t n_rows, size_t n_columns, float *out)
{
    for (size_t i = 0; i < n_rows; i++)
        for (size_t j = 0; j < n_columns; j++)
            out[j * n_rows + i] = in[i * n_columns + j];
}

/* Gram-Schmidt, twice for each row, with products in double. A row that is (nearly) a combination
 * of those before it becomes 0. */
static void orthonormalize(const struct plm_kernels *kernels, float *v, size_t r, size_t dim)
{
    for (size_t i = 0; i < r; i++) {
        float *row = v + i * dim;
        double before = sqrt(kernels->norm2(row, dim));

        for (size_t j = 0; j < 2 * i; j++) {
            const float *other = v + j % i * dim;
            double product = kernels->dot_exact(row, other, dim);

            for (size_t d = 0; d < dim; d++)
                row[d] = (float)((double)row[d] - product * (double)other[d]);
        }
        double after = sqrt(kernels->norm2(row, dim));
        double scale = after > before * 1e-5 && after > 0 ? 1 / after : 0;

        for (size_t d = 0; d < dim; d++)
            row[d] = (float)((double)row[d] * scale);
    }
}

/* Values in [-1, 1], so that no product overflows; by a power of two, hence exact. */
static void scale_down(const struct plm_kernels *kernels, float *rows, size_t n_values)
{
    float lo, hi;

    kernels->min_max(rows, n_values, &lo, &hi);
    double factor = ldexp(1.0, -plm_grid_exponent(fmax(fabs((double)lo), fabs((double)hi))));
    for (size_t i = 0; i < n_values; i++)
        rows[i] = (float)((double)rows[i] * factor);
}

enum plm_code plm_basis_make(struct plm_ctx *ctx, float *rows, size_t n, size_t dim, size_t r,
                             uint64_t seed, float *basis, struct plm_err *err)
{
    float *turned = NULL, *y = NULL, *y_turned = NULL, *z = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &turned, n * dim, sizeof *turned, err));
    PLM_TRY(plm_alloc(ctx, &y, n * r, sizeof *y, err));
    PLM_TRY(plm_alloc(ctx, &y_turned, n * r, sizeof *y_turned, err));
    PLM_TRY(plm_alloc(ctx, &z, dim * r, sizeof *z, err));
    scale_down(ctx->kernels, rows, n * dim);
    transpose(rows, n, dim, turned);
    for (size_t i = 0; i < r * dim; i++)
        basis[i] = plm_mix64(seed, i) & 1 ? 1.0f : -1.0f;
    orthonormalize(ctx->kernels, basis, r, dim);
    for (int round = 0; round < ROUNDS; round++) {
        PLM_TRY(multiply(ctx, rows, n, dim, basis, r, y, err));
        transpose(y, n, r, y_turned);
        PLM_TRY(multiply(ctx, turned, dim, n, y_turned, r, z, err));
        transpose(z, dim, r, basis);
        orthonormalize(ctx->kernels, basis, r, dim);
    }
done:
    plm_free(ctx, turned);
    plm_free(ctx, y);
    plm_free(ctx, y_turned);
    plm_free(ctx, z);
    return rc;
}
