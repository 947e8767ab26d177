/* test_filters.c - the kernels behind the filters of exact assignment: what they promise, on every
 * table, operands flush against guard pages. */
#include "kernel_test.h"

/* ---- pairs, estimates, frames ------------------------------------------------------------- */

struct few {
    size_t n, k, dim;
    struct guarded rows_memory, centroids_memory;
    float *rows, *centroids;
    uint32_t ids[24];
};

static struct few few_new(size_t n, size_t k, size_t dim, enum kind kind)
{
    struct few f = {.n = n, .k = k, .dim = dim};

    f.rows_memory = guarded_new(n * dim * 4);
    f.centroids_memory = guarded_new(k * dim * 4);
    f.rows = guarded_at(&f.rows_memory, n * dim * 4, true);
    f.centroids = guarded_at(&f.centroids_memory, k * dim * 4, true);
    fill(f.rows, n * dim, kind);
    fill(f.centroids, k * dim, kind);
    for (size_t i = 0; i < 24; i++)
        f.ids[i] = (uint32_t)(i * 5 % k);
    return f;
}

static void few_free(struct few *f)
{
    guarded_free(&f->rows_memory);
    guarded_free(&f->centroids_memory);
}

/* Bit for bit what one call for each pair gives. */
static void check_pairs(const struct few *f)
{
    double l2[24], dot[24];

    for (size_t t = 0; t < n_tables; t++)
        for (size_t stride = 0; stride <= f->dim; stride += f->dim) {
            tables[t]->l2_pairs(f->rows, stride, f->centroids, f->ids, f->n, f->dim, l2);
            tables[t]->dot_pairs(f->rows, stride, f->centroids, f->ids, f->n, f->dim, dot);
            for (size_t i = 0; i < f->n; i++) {
                const float *x = f->rows + i * stride, *c = f->centroids + f->ids[i] * f->dim;
                double want[2] = {scalar->l2_exact(x, c, f->dim), scalar->dot_exact(x, c, f->dim)};

                assert_memory_equal(&l2[i], &want[0], sizeof(double));
                assert_memory_equal(&dot[i], &want[1], sizeof(double));
            }
        }
}

static void check_near(const struct few *f)
{
    double e = plm_near_error(f->dim), least = (double)f->dim * 0x1p-125;
    double norm = sqrt(scalar->norm2(f->rows, f->dim));
    float l2[24], dot[24];

    for (size_t t = 0; t < n_tables; t++) {
        tables[t]->l2_near(f->rows, f->centroids, f->ids, f->n, f->dim, l2);
        tables[t]->dot_near(f->rows, f->centroids, f->ids, f->n, f->dim, dot);
        for (size_t i = 0; i < f->n; i++) {
            const float *c = f->centroids + f->ids[i] * f->dim;
            double true_l2 = scalar->l2_exact(f->rows, c, f->dim);
            double true_dot = scalar->dot_exact(f->rows, c, f->dim);
            double norms = norm * sqrt(scalar->norm2(c, f->dim));

            assert_true(fabs((double)l2[i] - true_l2) <= e * true_l2 * (1 + 1e-9) + least);
            assert_true(fabs((double)dot[i] - true_dot) <= e * norms * (1 + 1e-9) + least);
        }
    }
}

static void check_frames(const struct few *f)
{
    size_t n_values = f->n * f->dim;
    float *want = floats_new(n_values), *got = floats_new(n_values);
    double norms[24], got_norms[24];

    for (int kind = 0; kind < 3; kind++) { /* origin, scale; no origin; norms alone */
        const float *origin = kind == 0 ? f->centroids : NULL;
        float scale = kind == 2 ? 1 : 0.25f;

        scalar->frame_rows(f->rows, f->n, f->dim, origin, scale, kind < 2 ? want : NULL, norms);
        for (size_t i = 0; i < f->n; i++) {
            const float *row = (kind < 2 ? want : f->rows) + i * f->dim;

            assert_true(norms[i] == scalar->norm2(row, f->dim));
            assert_true(kind == 2 ||
                        row[f->dim - 1] == (f->rows[i * f->dim + f->dim - 1] -
                                            (origin ? origin[f->dim - 1] : 0)) * scale);
        }
        EACH_TABLE(t)
        {
            memset(got, 0xff, n_values * 4);
            tables[t]->frame_rows(f->rows, f->n, f->dim, origin, scale, kind < 2 ? got : NULL,
                                  got_norms);
            assert_memory_equal(got_norms, norms, f->n * sizeof *norms);
            if (kind < 2)
                assert_memory_equal(got, want, n_values * 4);
        }
    }
    free(want);
    free(got);
}

static void few_rows(void **state)
{
    (void)state;
    for (size_t dim = 1; dim <= DIM_MAX; dim += dim < 70 ? 1 : 17)
        for (int kind = 0; kind < N_KINDS; kind++) {
            struct few f = few_new(1 + (dim + (size_t)kind) % 23, 1 + dim % 7, dim,
                                   (enum kind)kind);

            check_pairs(&f);
            check_near(&f);
            check_frames(&f);
            few_free(&f);
        }
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* q of row i, dimension d. */
static int byte_at(const struct plm_kernels *table, const uint8_t *packed, size_t dim, size_t i,
                   size_t d)
{
    size_t dims = plm_byte_dims(dim);

    return packed[i / PLM_GROUP * PLM_GROUP * dims + d / 4 * 4 * PLM_GROUP + i % PLM_GROUP * 4 +
                  d % 4] - (table->byte_most + 1);
}

/* What is stored and what is left out make up the row, and no more is left out than must be. */
static void check_byte_row(const struct plm_kernels *table, const float *row, size_t dim, size_t i,
                           const uint8_t *packed, float scale, float rest)
{
    double left2 = 0, greatest = 0, least = (double)dim * 0x1p-124;

    for (size_t d = 0; d < plm_byte_dims(dim); d++) {
        int q = byte_at(table, packed, dim, i, d);

        assert_true(abs(q) <= table->byte_most && (d < dim || q == 0));
        if (d < dim) {
            double left = (double)row[d] - (double)scale * q;

            left2 += left * left;
            greatest = fmax(greatest, fabs((double)row[d]));
        }
    }
    assert_true((double)rest >= sqrt(left2));
    assert_true((double)rest <= sqrt(left2 * 1.001 + least) * 1.001);
    if (greatest > 0x1p-90)
        assert_true(left2 <= (double)dim * pow(0.51 * greatest / table->byte_most, 2));
}

static void byte_rows(void **state)
{
    struct guarded gr = guarded_new(13 * (DIM_MAX + 3) * 4);
    struct guarded gp = guarded_new(18 * plm_byte_dims(DIM_MAX));
    float scales[13], rests[13];

    (void)state;
    for (size_t dim = 1; dim <= DIM_MAX; dim++) {
        size_t n = 1 + dim % 13, stride = dim + dim % 4, bytes = groups_floats(n, plm_byte_dims(dim));
        float *rows = guarded_at(&gr, ((n - 1) * stride + dim) * 4, true);
        uint8_t *packed = guarded_at(&gp, bytes, true);

        for (int kind = 0; kind < N_KINDS; kind++) {
            fill(rows, (n - 1) * stride + dim, (enum kind)kind);
            if (dim % 5 == 0) /* an outlier, a row of zeros */
                rows[dim / 2] = 1e6f;
            if (n > 1 && dim % 3 == 0)
                memset(rows + stride, 0, dim * 4);
            for (size_t t = 0; t < n_tables; t++) {
                memset(packed, 0xff, bytes);
                tables[t]->byte_rows(rows, stride, n, dim, packed, scales, rests);
                for (size_t i = 0; i < n; i++)
                    check_byte_row(tables[t], rows + i * stride, dim, i, packed, scales[i],
                                   rests[i]);
            }
        }
    }
    guarded_free(&gr);
    guarded_free(&gp);
}

/* Rows and panels of bytes at the ends of their pages. */
struct bytes {
    size_t n, n_panels, dim;
    struct guarded rows_memory, panels_memory, offsets_memory, terms_memory;
    uint8_t *rows;
    int8_t *panels;
    int32_t *offsets;
    float *panel_terms;
    float row_terms[PLM_BLOCK_ROWS * PLM_BYTE_ROW_TERMS];
};

/* `extreme`: every product has the greatest magnitude there is, all of one sign in a centroid. */
static void fill_bytes(struct bytes *b, int most, bool extreme)
{
    for (size_t i = 0; i < groups_floats(b->n, b->dim); i++)
        b->rows[i] = (uint8_t)(extreme ? 2 * most + 1 : 1 + (int)(rng_next() % (2 * (unsigned)most + 1)));
    memset(b->offsets, 0, b->n_panels * 16 * 4);
    for (size_t i = 0; i < b->n_panels * 16 * b->dim; i++) {
        size_t j = i / (16 * b->dim) * 16 + i / 4 % 16;
        int q = extreme ? (j % 2 ? most : -most) : (int)(rng_next() % (2 * (unsigned)most + 1)) - most;

        b->panels[i] = (int8_t)q;
        b->offsets[j] -= (most + 1) * q;
    }
}

static struct bytes bytes_new(size_t n, size_t n_panels, size_t dim)
{
    struct bytes b = {.n = n, .n_panels = n_panels, .dim = dim};
    size_t row_bytes = groups_floats(n, dim), panel_bytes = n_panels * 16 * dim;
    size_t n_terms = n_panels * 16 * PLM_BYTE_PANEL_TERMS;

    b.rows_memory = guarded_new(row_bytes);
    b.panels_memory = guarded_new(panel_bytes);
    b.offsets_memory = guarded_new(n_panels * 64);
    b.terms_memory = guarded_new(n_terms * 4);
    b.rows = guarded_at(&b.rows_memory, row_bytes, true);
    b.panels = guarded_at(&b.panels_memory, panel_bytes, true);
    b.offsets = guarded_at(&b.offsets_memory, n_panels * 64, true);
    b.panel_terms = guarded_at(&b.terms_memory, n_terms * 4, true);
    fill(b.panel_terms, n_terms, ORDINARY);
    fill(b.row_terms, n * PLM_BYTE_ROW_TERMS, ORDINARY);
    b.panel_terms[n_panels * 16 * PLM_BYTE_PANEL_TERMS - 4 * 16 - 1] = INFINITY; /* padding */
    return b;
}

static void bytes_free(struct bytes *b)
{
    guarded_free(&b->rows_memory);
    guarded_free(&b->panels_memory);
    guarded_free(&b->offsets_memory);
    guarded_free(&b->terms_memory);
}

static void check_bound(const struct bytes *b, int most, size_t row, size_t j, float bound)
{
    const uint8_t *x = b->rows + row / PLM_GROUP * PLM_GROUP * b->dim + row % PLM_GROUP * 4;
    const int8_t *c = b->panels + j / 16 * 16 * b->dim + j % 16 * 4;
    const float *r = b->row_terms + row * PLM_BYTE_ROW_TERMS;
    const float *p = b->panel_terms + j / 16 * 16 * PLM_BYTE_PANEL_TERMS + j % 16;
    double want = (double)p[0], magnitude = fabs(want);
    int64_t product = 0;

    for (size_t d = 0; d < b->dim; d++)
        product += (x[d / 4 * 4 * PLM_GROUP + d % 4] - (most + 1)) * c[d / 4 * 64 + d % 4];
    for (size_t t = 0; t < PLM_BYTE_ROW_TERMS; t++) {
        double term = (double)r[t] * (double)p[(t + 1) * 16] * (t == 0 ? (double)product : 1);

        want -= term;
        magnitude += fabs(term);
    }
    if (isinf(p[0]))
        assert_true(isinf(bound) && bound > 0);
    else
        assert_true(fabs((double)bound - want) <= 8 * 0x1p-24 * magnitude);
}

static void check_bounds(size_t n, size_t n_panels, size_t dim)
{
    struct bytes b = bytes_new(n, n_panels, dim);
    size_t stride = n_panels * 16 + dim % 3;
    struct guarded g = guarded_new(((n - 1) * stride + n_panels * 16) * 4);
    float *bounds = guarded_at(&g, ((n - 1) * stride + n_panels * 16) * 4, true);

    for (size_t t = 0; t < n_tables; t++)
        for (int extreme = 0; extreme < 2; extreme++) {
            fill_bytes(&b, tables[t]->byte_most, extreme);
            tables[t]->byte_bounds(b.rows, b.row_terms, n, b.panels, b.offsets, b.panel_terms,
                                   n_panels, dim, bounds, stride);
            for (size_t row = 0; row < n; row++)
                for (size_t j = 0; j < n_panels * 16; j++)
                    check_bound(&b, tables[t]->byte_most, row, j, bounds[row * stride + j]);
        }
    guarded_free(&g);
    bytes_free(&b);
}

static void byte_bounds(void **state)
{
    (void)state;
    for (size_t dim = 8; dim <= 264; dim += 8)
        check_bounds(1 + dim * 7 % 30, 1 + dim / 8 % 5, dim);
    for (size_t n = PLM_BLOCK_ROWS - 7; n <= PLM_BLOCK_ROWS; n++)
        check_bounds(n, 1 + n % 4, 16);
    check_bounds(7, 2, PLM_BYTE_DIM_MAX); /* the sums at their greatest */
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(few_rows),
        cmocka_unit_test(byte_rows),
        cmocka_unit_test(byte_bounds),
    };

    n_tables = plm_kernels_available(tables, MAX_TABLES);
    scalar = tables[0];
    return cmocka_run_group_tests(all, NULL, NULL);
}
