/* basis.c - leading axes of a small sample, by subspace iteration: V <- orth(A'A V).
 * Source: Halko, Martinsson, Tropp, Finding structure with randomness (2011), section 4.5. */
#include <math.h>

#include "cluster/train_math.h"

#define ROUNDS 3 /* a random start and two power steps: more change nothing measurable */

/* ---- products -------------------------------------------------------------------------------- */

#define SQUARE 16 /* a side is a cache line: each line is written while it is at hand */

static void transpose(const float *in, size_t n_rows, size_t n_columns, float *out)
{
    for (size_t top = 0; top < n_rows; top += SQUARE)
        for (size_t left = 0; left < n_columns; left += SQUARE)
            for (size_t i = top; i < plm_min_size(top + SQUARE, n_rows); i++)
                for (size_t j = left; j < plm_min_size(left + SQUARE, n_columns); j++)
                    out[j * n_rows + i] = in[i * n_columns + j];
}

/* The matrix of the rows, scaled; it is never made as a whole. */
struct matrix {
    const struct plm_basis_rows *rows;
    double factor;
};

/* Values [first, first + n) of row i, as the matrix has them. */
static inline void take_values(const struct matrix *m, size_t i, size_t first, size_t n, float *out)
{
    const struct plm_basis_rows *rows = m->rows;
    const float *row = (const float *)(const void *)(rows->first + i * rows->stride) + first;
    float cap = rows->cap;

    for (size_t d = 0; d < n; d++) {
        float value = row[d] > cap ? cap : row[d] < -cap ? -cap : row[d];

        value = rows->mean ? value - rows->mean[first + d] : value;
        out[d] = (float)((double)value * m->factor);
    }
}

/* Values [first, first + n_values) of all rows, turned: out [n_values][rows]. */
static void take_columns(const struct matrix *m, size_t first, size_t n_values, float *out)
{
    float rows[SQUARE][PLM_BLOCK_ROWS];
    size_t n_rows = m->rows->n;

    for (size_t top = 0; top < n_rows; top += SQUARE) {
        size_t n = plm_min_size(SQUARE, n_rows - top);

        for (size_t i = 0; i < n; i++)
            take_values(m, top + i, first, n_values, rows[i]);
        for (size_t d = 0; d < n_values; d++)
            for (size_t i = 0; i < n; i++)
                out[d * n_rows + top + i] = rows[i][d];
    }
}

/* out [n][r] = the matrix, or it turned, * V; V in panels. */
struct product {
    const struct plm_kernels *kernels;
    const struct matrix *matrix;
    bool turned;
    size_t n, dim, r;
    const struct plm_panels *panels;
    float *blocks; /* per thread: rows, and the same packed */
    float *out;
};

static enum plm_code product_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct product *p = arg;
    size_t first = task * PLM_BLOCK_ROWS, n = plm_min_size(PLM_BLOCK_ROWS, p->n - first);
    float *rows = p->blocks + worker * 2 * plm_packed_floats(p->dim), *packed = rows + plm_packed_floats(p->dim);
    (void)err;

    if (p->turned)
        take_columns(p->matrix, first, n, rows);
    else
        for (size_t i = 0; i < n; i++)
            take_values(p->matrix, first + i, 0, p->dim, rows + i * p->dim);
    p->kernels->pack_rows(rows, p->dim, n, p->dim, packed);
    p->kernels->project(packed, n, p->panels->values, p->panels->n_panels, p->dim,
                        p->out + first * p->r, p->r);
    return PLM_OK;
}

static enum plm_code multiply(struct plm_ctx *ctx, const struct matrix *matrix, bool turned,
                              const float *columns, size_t r, float *out, struct plm_err *err)
{
    struct plm_panels panels = {0};
    size_t n = matrix->rows->n, dim = matrix->rows->dim;
    struct product p = {ctx->kernels, matrix, turned, turned ? dim : n, turned ? n : dim, r, &panels, NULL, out};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_panels_alloc(ctx, r, p.dim, &panels, err));
    PLM_TRY(plm_alloc(ctx, &p.blocks, ctx->threads * 2 * plm_packed_floats(p.dim), sizeof *p.blocks, err));
    plm_panels_fill(&panels, columns, r, true);
    PLM_TRY(plm_parallel(ctx, (p.n + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS, product_task, &p, err));
done:
    plm_free(ctx, p.blocks);
    plm_panels_reset(&panels);
    return rc;
}

/* ---- orthonormal rows ------------------------------------------------------------------------ */

#define BLOCK PLM_PANEL /* rows orthogonalized together */

/* Rows already done, in the layouts of both products that take their part out of a block. */
struct done_rows {
    const struct plm_kernels *kernels;
    size_t n, dim, dim_padded;
    float *as_columns; /* [n / 16] panels of dim: rows * block */
    float *as_rows;    /* [dim_padded / 16] panels of n: coefficients * rows */
    float *coefficients, *part, *packed;
};

static enum plm_code make_done(struct plm_ctx *ctx, size_t r, size_t dim, struct done_rows *done,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t rows_padded = (BLOCK + PLM_GROUP - 1) / PLM_GROUP * PLM_GROUP;

    *done = (struct done_rows){.kernels = ctx->kernels, .dim = dim};
    done->dim_padded = plm_panels_of(dim) * PLM_PANEL;
    PLM_TRY(plm_alloc(ctx, &done->as_columns, r * dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &done->as_rows, r * done->dim_padded, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &done->coefficients, BLOCK * r, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &done->part, BLOCK * done->dim_padded, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &done->packed, rows_padded * plm_max_size(r, dim), sizeof(float), err));
done:
    return rc;
}

static void free_done(struct plm_ctx *ctx, struct done_rows *done)
{
    plm_free(ctx, done->as_columns);
    plm_free(ctx, done->as_rows);
    plm_free(ctx, done->coefficients);
    plm_free(ctx, done->part);
    plm_free(ctx, done->packed);
}

/* One more block of rows is done. */
static void add_done(struct done_rows *done, const float *v)
{
    float *panel = done->as_columns + done->n * done->dim;

    for (size_t i = 0; i < BLOCK; i++)
        for (size_t d = 0; d < done->dim; d++)
            panel[d * PLM_PANEL + i] = v[(done->n + i) * done->dim + d];
    done->n += BLOCK;
    for (size_t first = 0; first < done->dim; first += PLM_PANEL)
        for (size_t i = 0; i < done->n; i++) {
            float *out = done->as_rows + first * done->n + i * PLM_PANEL;
            size_t n = plm_min_size(PLM_PANEL, done->dim - first);

            memset(out, 0, PLM_PANEL * sizeof *out);
            memcpy(out, v + i * done->dim + first, n * sizeof *out);
        }
}

/* rows [BLOCK][dim] minus what lies along the rows that are done. */
static void take_out(const struct done_rows *done, float *rows)
{
    const struct plm_kernels *kernels = done->kernels;
    size_t n = done->n, dim = done->dim;

    if (n == 0)
        return;
    kernels->pack_rows(rows, dim, BLOCK, dim, done->packed);
    kernels->project(done->packed, BLOCK, done->as_columns, n / PLM_PANEL, dim, done->coefficients,
                     n);
    kernels->pack_rows(done->coefficients, n, BLOCK, n, done->packed);
    kernels->project(done->packed, BLOCK, done->as_rows, done->dim_padded / PLM_PANEL, n,
                     done->part, done->dim_padded);
    for (size_t i = 0; i < BLOCK; i++)
        for (size_t d = 0; d < dim; d++)
            rows[i * dim + d] -= done->part[i * done->dim_padded + d];
}

/* Gram-Schmidt inside a block, products in double. A row that has shrunk to nearly nothing since
 * before[i] was its norm, being a combination of others, becomes 0. */
static void orthonormalize_block(const struct plm_kernels *kernels, float *rows, size_t dim,
                                 const double *before)
{
    for (size_t i = 0; i < BLOCK; i++) {
        float *row = rows + i * dim;

        for (size_t j = 0; j < i; j++) {
            const float *other = rows + j * dim;
            double product = kernels->dot_exact(row, other, dim);

            for (size_t d = 0; d < dim; d++)
                row[d] = (float)((double)row[d] - product * (double)other[d]);
        }
        double after = sqrt(kernels->norm2(row, dim));
        double scale = after > before[i] * 1e-5 && after > 0 ? 1 / after : 0;

        for (size_t d = 0; d < dim; d++)
            row[d] = (float)((double)row[d] * scale);
    }
}

/* Block Gram-Schmidt, twice for each block: the products with rows that are done take nearly all
 * the work, and run in fp32. What their rounding leaves after the first time is small, and what it
 * leaves of that after the second, nothing. */
static enum plm_code orthonormalize(struct plm_ctx *ctx, float *v, size_t r, size_t dim,
                                    struct plm_err *err)
{
    const struct plm_kernels *kernels = ctx->kernels;
    struct done_rows done_rows = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(make_done(ctx, r, dim, &done_rows, err));
    for (size_t first = 0; first < r; first += BLOCK) {
        float *rows = v + first * dim;
        double before[BLOCK];

        for (int time = 0; time < 2; time++) {
            for (size_t i = 0; i < BLOCK; i++)
                before[i] = sqrt(kernels->norm2(rows + i * dim, dim));
            take_out(&done_rows, rows);
            orthonormalize_block(kernels, rows, dim, before);
        }
        add_done(&done_rows, v);
    }
done:
    free_done(ctx, &done_rows);
    return rc;
}

/* ---- the iteration ------------------------------------------------------------------------------ */

/* Scales values into [-1, 1], so that no product overflows; by a power of two, hence exact. */
static enum plm_code find_scale(struct plm_ctx *ctx, struct matrix *m, struct plm_err *err)
{
    float *row = NULL, lo, hi;
    double most = 0;
    enum plm_code rc = PLM_OK;

    m->factor = 1;
    PLM_TRY(plm_alloc(ctx, &row, m->rows->dim, sizeof *row, err));
    for (size_t i = 0; i < m->rows->n; i++) {
        take_values(m, i, 0, m->rows->dim, row);
        ctx->kernels->min_max(row, m->rows->dim, &lo, &hi);
        most = fmax(most, fmax(fabs((double)lo), fabs((double)hi)));
    }
    m->factor = ldexp(1.0, -plm_grid_exponent(most));
done:
    plm_free(ctx, row);
    return rc;
}

enum plm_code plm_basis_make(struct plm_ctx *ctx, const struct plm_basis_rows *rows, size_t r,
                             uint64_t seed, float *basis, struct plm_err *err)
{
    struct matrix matrix = {.rows = rows};
    size_t n = rows->n, dim = rows->dim;
    float *y = NULL, *y_turned = NULL, *z = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &y, n * r, sizeof *y, err));
    PLM_TRY(plm_alloc(ctx, &y_turned, n * r, sizeof *y_turned, err));
    PLM_TRY(plm_alloc(ctx, &z, dim * r, sizeof *z, err));
    PLM_TRY(find_scale(ctx, &matrix, err));
    for (size_t i = 0; i < r * dim; i++)
        basis[i] = plm_mix64(seed, i) & 1 ? 1.0f : -1.0f;
    PLM_TRY(orthonormalize(ctx, basis, r, dim, err));
    for (int round = 0; round < ROUNDS; round++) {
        PLM_TRY(multiply(ctx, &matrix, false, basis, r, y, err));
        transpose(y, n, r, y_turned);
        PLM_TRY(multiply(ctx, &matrix, true, y_turned, r, z, err));
        transpose(z, dim, r, basis);
        PLM_TRY(orthonormalize(ctx, basis, r, dim, err));
    }
done:
    plm_free(ctx, y);
    plm_free(ctx, y_turned);
    plm_free(ctx, z);
    return rc;
}
