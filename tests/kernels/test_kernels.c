/* test_kernels.c - every table against the scalar one, operands flush against guard pages. */
#include "kernel_test.h"

/* ---- the same on every table ---------------------------------------------------------------- */

static void widening(void **state)
{
    static uint16_t halves[65536];
    static float want[65536], got[65536];

    (void)state;
    for (size_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    scalar->f16_to_f32(halves, want, 65536);
    assert_true(want[0x3c00] == 1.0f && want[0xc000] == -2.0f && want[1] == 0x1p-24f);
    assert_true(want[0x7bff] == 65504.0f && isinf(want[0x7c00]) && isnan(want[0xfe00]));
    assert_true(signbit(want[0x8000]) && want[0x3555] == 0.333251953125f);
    EACH_TABLE(t)
    {
        tables[t]->f16_to_f32(halves, got, 65536);
        assert_memory_equal(got, want, sizeof want);
        for (size_t n = 0; n < 40; n++) { /* odd offsets, nothing written behind */
            got[n] = 123;
            tables[t]->f16_to_f32(halves + 0x3555 + n, got, n);
            assert_memory_equal(got, want + 0x3555 + n, n * sizeof *got);
            assert_true(got[n] == 123);
        }
    }
}

static void check_sums(const float *x, const float *c, size_t n)
{
    double norm = scalar->norm2(x, n), l2 = scalar->l2_exact(x, c, n);
    double dot = scalar->dot_exact(x, c, n);

    EACH_TABLE(t)
    {
        double got[3] = {tables[t]->norm2(x, n), tables[t]->l2_exact(x, c, n),
                         tables[t]->dot_exact(x, c, n)};

        assert_memory_equal(&got[0], &norm, sizeof norm);
        assert_memory_equal(&got[1], &l2, sizeof l2);
        assert_memory_equal(&got[2], &dot, sizeof dot);
    }
}

static void check_min_max(const float *x, size_t n)
{
    float want[2], got[2];

    scalar->min_max(x, n, &want[0], &want[1]);
    EACH_TABLE(t)
    {
        tables[t]->min_max(x, n, &got[0], &got[1]);
        assert_memory_equal(got, want, sizeof got);
    }
}

static void check_at_most(const float *x, size_t n)
{
    uint32_t want[DIM_MAX], got[DIM_MAX];
    float limits[] = {-INFINITY, 0, n ? x[n / 2] : 1, INFINITY};

    for (size_t l = 0; l < 4; l++) {
        size_t n_want = scalar->at_most(x, n, limits[l], want);

        assert_true(l < 3 || n_want == n);
        EACH_TABLE(t)
        {
            assert_int_equal(tables[t]->at_most(x, n, limits[l], got), n_want);
            assert_memory_equal(got, want, n_want * sizeof *got);
        }
    }
}

static void check_grid_add(const float *x, size_t n)
{
    double want[DIM_MAX], got[DIM_MAX];

    for (size_t i = 0; i < n; i++)
        want[i] = (double)i;
    scalar->grid_add(want, x, n, 1.5 * 0x1p52 * 0x1p-20);
    EACH_TABLE(t)
    {
        for (size_t i = 0; i < n; i++)
            got[i] = (double)i;
        tables[t]->grid_add(got, x, n, 1.5 * 0x1p52 * 0x1p-20);
        assert_memory_equal(got, want, n * sizeof *got);
    }
}

static void check_sq(const float *x, const struct guarded *bytes, size_t n, double lo, double hi)
{
    uint8_t want[DIM_MAX];
    uint8_t *got = guarded_at(bytes, n, true);

    scalar->sq_encode(x, n, lo, hi, want);
    EACH_TABLE(t)
    {
        memset(got, 77, n);
        tables[t]->sq_encode(x, n, lo, hi, got);
        assert_memory_equal(got, want, n);
    }
}

/* Values at, and next to, those where one code ends and the next begins. */
static void sq_boundaries(void **state)
{
    static const double bounds[][2] = {{0, 1},      {-1, 1},     {0.1, 0.7},   {-3, 1e3},    {1e6, 1e6 + 3},
                                       {0, 1e-38},  {0, 1e-30},  {-1e30, 1e30}, {0, 3e38},   {100, 100.001},
                                       {-0.25, 0}};
    float values[3 * 260 + 4];
    uint8_t want[3 * 260 + 4], got[3 * 260 + 4];
    size_t n;

    (void)state;
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        double lo = bounds[b][0], range = bounds[b][1] - lo;

        n = 0;
        for (int code = -2; code < 258; code++) {
            float v = (float)(lo + range * code / 255);

            values[n++] = nextafterf(v, -INFINITY);
            values[n++] = v;
            values[n++] = nextafterf(v, INFINITY);
        }
        values[n++] = INFINITY;
        values[n++] = -INFINITY;
        values[n++] = NAN;
        values[n++] = -0.0f;
        scalar->sq_encode(values, n, lo, bounds[b][1], want);
        EACH_TABLE(t)
        {
            for (size_t first = 0; first < 40; first += 3) {
                tables[t]->sq_encode(values + first, n - first, lo, bounds[b][1], got);
                assert_memory_equal(got, want + first, n - first);
            }
        }
    }
}

/* Arrays of every length, at both guards. */
static void arrays(void **state)
{
    struct guarded a = guarded_new(DIM_MAX * 4), b = guarded_new(DIM_MAX * 4);
    struct guarded bytes = guarded_new(DIM_MAX);

    (void)state;
    for (size_t n = 0; n <= DIM_MAX; n++) {
        for (int kind = 0; kind < N_KINDS; kind++) {
            bool at_end = (n + (size_t)kind) % 2 == 0;
            float *x = guarded_at(&a, n * 4, at_end), *c = guarded_at(&b, n * 4, !at_end);

            fill(x, n, (enum kind)kind);
            fill(c, n, (enum kind)kind);
            check_sums(x, c, n);
            check_min_max(x, n);
            check_at_most(x, n);
            check_grid_add(x, n);
            check_sq(x, &bytes, n, -0.7, 0.9);
            check_sq(x, &bytes, n, -0x1p-126, 0x1p-127);
            check_sq(x, &bytes, n, 0.25, 0.25);
            check_sq(x, &bytes, n, 1, -1);
        }
    }
    guarded_free(&a);
    guarded_free(&b);
    guarded_free(&bytes);
}

/* Known answers: the reference itself must be right. */
static void reference(void **state)
{
    float x[11] = {1, 2, 3, 4, 5, 6, 7, 8, 9, -0.0f, 11}, lo, hi;
    uint8_t codes[5], a[3] = {0, 255, 7}, b[3] = {255, 0, 4};
    double sums[2] = {0, 1};

    (void)state;
    assert_true(scalar->norm2(x, 11) == 406);
    assert_true(scalar->dot_exact(x, x + 1, 4) == 40);
    assert_true(scalar->l2_exact(x, x + 1, 4) == 4);
    scalar->min_max(x, 11, &lo, &hi);
    assert_true(lo == 0 && !signbit(lo) && hi == 11);
    scalar->sq_encode(x, 5, 1.5, 4.5, codes); /* 42.5, 127.5, 212.5 in between */
    assert_true(codes[0] == 0 && codes[1] == 42 && codes[2] == 127 && codes[3] == 212);
    assert_int_equal(codes[4], 255);
    assert_int_equal(scalar->sq_l2(a, b, 3), 2 * 255 * 255 + 9);
    scalar->grid_add(sums, (float[]){0.3f, -2.6f}, 2, 1.5 * 0x1p52 * 0.25);
    assert_true(sums[0] == 0.25 && sums[1] == -1.5);
}

static void byte_distances(void **state)
{
    struct guarded ga = guarded_new(65535), gb = guarded_new(65535);

    (void)state;
    for (size_t n = 0; n <= 65535; n = n < 300 ? n + 1 : n * 2 + 1) {
        uint8_t *a = guarded_at(&ga, n, true), *b = guarded_at(&gb, n, true);

        for (int extreme = 0; extreme < 2; extreme++) {
            for (size_t i = 0; i < n; i++) {
                a[i] = extreme ? 255 : (uint8_t)rng_next();
                b[i] = extreme ? 0 : (uint8_t)rng_next();
            }
            EACH_TABLE(t) assert_int_equal(tables[t]->sq_l2(a, b, n), scalar->sq_l2(a, b, n));
        }
    }
    guarded_free(&ga);
    guarded_free(&gb);
}

/* ---- packed rows and panels -------------------------------------------------------------- */

static void packing(void **state)
{
    struct guarded gr = guarded_new(13 * (DIM_MAX + 3) * 4);
    struct guarded gp = guarded_new(groups_floats(13, DIM_MAX) * 4);
    float *want = floats_new(groups_floats(13, DIM_MAX));

    (void)state;
    for (size_t dim = 1; dim <= DIM_MAX; dim++) {
        size_t n = 1 + dim % 13, stride = dim + dim % 4;
        size_t bytes = groups_floats(n, dim) * sizeof(float);
        float *rows = guarded_at(&gr, ((n - 1) * stride + dim) * 4, true);
        float *got = guarded_at(&gp, bytes, true);

        fill(rows, (n - 1) * stride + dim, ORDINARY);
        scalar->pack_rows(rows, stride, n, dim, want);
        assert_true(want[(dim - 1) * PLM_GROUP] == rows[dim - 1]);
        EACH_TABLE(t)
        {
            memset(got, 0xff, bytes);
            tables[t]->pack_rows(rows, stride, n, dim, got);
            assert_memory_equal(got, want, bytes);
        }
    }
    guarded_free(&gr);
    guarded_free(&gp);
    free(want);
}

/* A block of rows and panels of centroids, packed, at the ends of their pages. */
struct packed {
    size_t n, n_panels, dim, k;
    struct guarded rows_memory, panels_memory, halves_memory;
    float *rows, *panels, *halves;
    float *plain_rows; /* [n][dim] */
};

static struct packed packed_new(size_t n, size_t k, size_t dim, enum kind kind)
{
    struct packed p = {.n = n, .n_panels = (k + 15) / 16, .dim = dim, .k = k};
    size_t rows_bytes = groups_floats(n, dim) * 4, panels_bytes = p.n_panels * 16 * dim * 4;

    p.rows_memory = guarded_new(rows_bytes);
    p.panels_memory = guarded_new(panels_bytes);
    p.halves_memory = guarded_new(p.n_panels * 64);
    p.rows = guarded_at(&p.rows_memory, rows_bytes, true);
    p.panels = guarded_at(&p.panels_memory, panels_bytes, true);
    p.halves = guarded_at(&p.halves_memory, p.n_panels * 64, true);
    p.plain_rows = floats_new(n * dim);
    fill(p.plain_rows, n * dim, kind);
    scalar->pack_rows(p.plain_rows, dim, n, dim, p.rows);
    fill(p.panels, p.n_panels * 16 * dim, kind);
    for (size_t j = 0; j < p.n_panels * 16; j++) {
        double norm2 = 0;

        for (size_t d = 0; d < dim; d++) {
            float *c = &p.panels[(j / 16 * dim + d) * 16 + j % 16];

            if (j >= k)
                *c = 0;
            norm2 += (double)*c * (double)*c;
        }
        p.halves[j] = j < k ? (float)(norm2 / 2) : INFINITY;
    }
    return p;
}

static void packed_free(struct packed *p)
{
    guarded_free(&p->rows_memory);
    guarded_free(&p->panels_memory);
    guarded_free(&p->halves_memory);
    free(p->plain_rows);
}

/* x.c_j in double, and |x||c_j|. */
static double true_dot(const struct packed *p, size_t i, size_t j, double *norms)
{
    double dot = 0, x2 = 0, c2 = 0;

    for (size_t d = 0; d < p->dim; d++) {
        double x = (double)p->plain_rows[i * p->dim + d];
        double c = (double)p->panels[(j / 16 * p->dim + d) * 16 + j % 16];

        dot += x * c;
        x2 += x * x;
        c2 += c * c;
    }
    *norms = sqrt(x2 * c2);
    return dot;
}

/* The promised bound on the error of a value. */
static double value_bound(const struct packed *p, size_t j, double norms)
{
    return ((double)plm_dot_error(p->dim + 1) * norms + 0x1p-24 * fabs((double)p->halves[j]) +
            (double)p->dim * 0x1p-149) *
           (1 + 1e-9);
}

/* Every value within the promised bound of the truth; `out` is [n][stride]. */
static void check_values(const struct packed *p, const float *out, size_t stride, bool project)
{
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < p->k; j++) {
            double norms, dot = true_dot(p, i, j, &norms), value = (double)out[i * stride + j];
            double product_bound = (double)plm_dot_error(p->dim) * norms * (1 + 1e-9) +
                                   (double)p->dim * 0x1p-149;

            if (project)
                assert_true(fabs(value - dot) <= product_bound);
            else
                assert_true(fabs(value - ((double)p->halves[j] - dot)) <= value_bound(p, j, norms));
        }
}

/* Least and second of one row, from all its true values; the greatest bound of their errors. */
static void true_nearest(const struct packed *p, size_t i, size_t *id, double *least, double *next,
                         double *bound)
{
    *least = *next = INFINITY;
    *bound = 0;
    *id = 0;
    for (size_t j = 0; j < p->k; j++) {
        double norms, v = (double)p->halves[j] - true_dot(p, i, j, &norms);

        *bound = fmax(*bound, value_bound(p, j, norms));
        if (v < *least) {
            *next = *least;
            *least = v;
            *id = j;
        } else if (v < *next) {
            *next = v;
        }
    }
}

/* Values off by at most `bound` have a least and a second off by at most as much. Where sums are
 * exact, so is everything, ids included. */
static void check_nearest(const struct plm_kernels *table, const struct packed *p, bool exact)
{
    float best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    uint32_t ids[PLM_BLOCK_ROWS];

    table->nearest(p->rows, p->n, p->panels, p->halves, p->n_panels, p->dim, best, second, ids);
    for (size_t i = 0; i < p->n; i++) {
        double least, next, bound, norms, dot;
        size_t id;

        true_nearest(p, i, &id, &least, &next, &bound);
        bound = exact ? 0 : bound;
        assert_true(ids[i] < p->k && (!exact || ids[i] == id));
        dot = true_dot(p, i, ids[i], &norms);
        assert_true(fabs((double)best[i] - least) <= bound);
        assert_true(fabs((double)best[i] - ((double)p->halves[ids[i]] - dot)) <= bound);
        assert_true(p->k == 1 ? isinf(second[i]) : fabs((double)second[i] - next) <= bound);
    }
}

static void check_packed(const struct packed *p, enum kind kind)
{
    size_t stride = p->n_panels * 16 + p->dim % 3;
    float *values = floats_new(p->n * stride), *projected = floats_new(p->n * stride);

    for (size_t t = 0; t < n_tables; t++) {
        const struct plm_kernels *table = tables[t];

        memset(values, 0xff, p->n * stride * 4);
        table->values(p->rows, p->n, p->panels, p->halves, p->n_panels, p->dim, values, stride);
        table->project(p->rows, p->n, p->panels, p->n_panels, p->dim, projected, stride);
        check_values(p, values, stride, false);
        check_values(p, projected, stride, true);
        /* whole numbers: every sum is exact, hence the same in every kernel and table */
        check_nearest(table, p, kind == WHOLE);
    }
    free(values);
    free(projected);
}

static void dense(void **state)
{
    (void)state;
    for (size_t dim = 1; dim <= DIM_MAX; dim += dim < 20 ? 1 : 13)
        for (int kind = 0; kind < N_KINDS; kind++) {
            size_t n = (dim * 7 + (size_t)kind * 5) % 30 + 1;
            size_t k = (dim * 31 + (size_t)kind * 17) % 180 + 1;
            struct packed p = packed_new(n, k, dim, (enum kind)kind);

            check_packed(&p, (enum kind)kind);
            packed_free(&p);
        }
    for (size_t n = PLM_BLOCK_ROWS - 8; n <= PLM_BLOCK_ROWS; n++) {
        struct packed p = packed_new(n, 16 * (n % 9 + 1), 40, WHOLE);

        check_packed(&p, WHOLE);
        packed_free(&p);
    }
}

/* ---- product quantization ------------------------------------------------------------------- */

static void check_pq_pack(size_t dsub, size_t n)
{
    size_t stride = dsub * 3 + 1, floats = (n ? (n - 1) * stride : 0) + dsub;
    struct guarded gr = guarded_new(floats * 4), gc = guarded_new((4 * stride + dsub) * 4);
    struct guarded gg = guarded_new(dsub * PLM_PQ_LANES * 4);
    float *rows = guarded_at(&gr, floats * 4, true);
    float *centroids = guarded_at(&gc, (4 * stride + dsub) * 4, true);
    float *got = guarded_at(&gg, dsub * PLM_PQ_LANES * 4, true);
    float *want = floats_new(dsub * PLM_PQ_LANES);
    uint32_t ids[PLM_PQ_LANES];

    fill(rows, floats, ORDINARY);
    fill(centroids, 4 * stride + dsub, ORDINARY);
    for (size_t i = 0; i < PLM_PQ_LANES; i++)
        ids[i] = (uint32_t)(i * 7 % 5);
    for (int residual = 0; residual < 2; residual++) {
        const float *c = residual ? centroids : NULL;

        scalar->pq_pack(rows, stride, c, stride, ids, n, dsub, want);
        EACH_TABLE(t)
        {
            memset(got, 0xff, dsub * PLM_PQ_LANES * 4);
            tables[t]->pq_pack(rows, stride, c, stride, ids, n, dsub, got);
            assert_memory_equal(got, want, dsub * PLM_PQ_LANES * 4);
        }
    }
    guarded_free(&gr);
    guarded_free(&gc);
    guarded_free(&gg);
    free(want);
}

static void pq_packing(void **state)
{
    (void)state;
    for (size_t dsub = 1; dsub <= 40; dsub++)
        for (size_t n = 0; n <= PLM_PQ_LANES; n += 1 + dsub % 3)
            check_pq_pack(dsub, n);
}

struct pq {
    size_t n_groups, n_codes, dsub;
    struct guarded groups_memory, words_memory, halves_memory;
    float *groups, *words, *halves;
};

static struct pq pq_new(size_t n_groups, size_t n_codes, size_t dsub, enum kind kind)
{
    struct pq q = {.n_groups = n_groups, .n_codes = n_codes, .dsub = dsub};
    size_t n_values = n_groups * dsub * PLM_PQ_LANES, n_words = n_codes * dsub;

    q.groups_memory = guarded_new(n_values * 4);
    q.words_memory = guarded_new(n_words * 4);
    q.halves_memory = guarded_new(n_codes * 4);
    q.groups = guarded_at(&q.groups_memory, n_values * 4, true);
    q.words = guarded_at(&q.words_memory, n_words * 4, true);
    q.halves = guarded_at(&q.halves_memory, n_codes * 4, true);
    fill(q.groups, n_values, kind);
    fill(q.words, n_words, kind);
    for (size_t c = 0; c < n_codes; c++)
        q.halves[c] = (float)(scalar->norm2(q.words + c * dsub, dsub) / 2);
    return q;
}

static void pq_free(struct pq *q)
{
    guarded_free(&q->groups_memory);
    guarded_free(&q->words_memory);
    guarded_free(&q->halves_memory);
}

/* Best and second of row i in double, with the bound on an fp32 value's error. */
static void pq_truth(const struct pq *q, size_t i, double *values, double *bound)
{
    const float *x = q->groups + i / PLM_PQ_LANES * PLM_PQ_LANES * q->dsub + i % PLM_PQ_LANES;
    double x2 = 0;

    *bound = 0;
    for (size_t d = 0; d < q->dsub; d++)
        x2 += (double)x[d * PLM_PQ_LANES] * (double)x[d * PLM_PQ_LANES];
    for (size_t c = 0; c < q->n_codes; c++) {
        double half = (double)q->halves[c], error;

        values[c] = half;
        for (size_t d = 0; d < q->dsub; d++)
            values[c] -= (double)x[d * PLM_PQ_LANES] * (double)q->words[c * q->dsub + d];
        error = (double)plm_dot_error(q->dsub + 1) *
                    (sqrt(x2 * scalar->norm2(q->words + c * q->dsub, q->dsub)) + half) +
                (double)q->dsub * 0x1p-149;
        *bound = fmax(*bound, error * (1 + 1e-9));
    }
}

static void check_pq_row(const struct pq *q, size_t i, uint8_t code, float best, float second,
                         bool exact)
{
    double values[256], bound, least = INFINITY, next = INFINITY;
    size_t winner = 0;

    pq_truth(q, i, values, &bound);
    for (size_t c = 0; c < q->n_codes; c++) {
        if (values[c] < least) {
            next = least;
            least = values[c];
            winner = c;
        } else if (values[c] < next) {
            next = values[c];
        }
    }
    if (exact) {
        assert_int_equal(code, winner);
        bound = 0;
    }
    assert_true(code < q->n_codes);
    assert_true(fabs((double)best - values[code]) <= bound);
    assert_true(fabs((double)best - least) <= bound);
    assert_true(q->n_codes == 1 ? isinf(second) : fabs((double)second - next) <= bound);
}

static void pq_nearest(void **state)
{
    static const size_t n_codes[] = {1, 2, 3, 4, 7, 16, 255, 256};
    uint8_t codes[3 * PLM_PQ_LANES];
    float best[3 * PLM_PQ_LANES], second[3 * PLM_PQ_LANES];

    (void)state;
    for (size_t dsub = 1; dsub <= 40; dsub += dsub < 9 ? 1 : 7)
        for (size_t c = 0; c < 8; c++)
            for (int kind = 0; kind < N_KINDS; kind++) {
                struct pq q = pq_new(1 + dsub % 3, n_codes[c], dsub, (enum kind)kind);

                for (size_t t = 0; t < n_tables; t++) {
                    tables[t]->pq_nearest(q.groups, q.n_groups, q.words, q.halves, q.n_codes,
                                          dsub, codes, best, second);
                    for (size_t i = 0; i < q.n_groups * PLM_PQ_LANES; i++)
                        check_pq_row(&q, i, codes[i], best[i], second[i], kind == WHOLE);
                }
                pq_free(&q);
            }
}

/* Codewords and offsets as large as they may be; ties; rows with the greatest numbers there are. */
static void check_words(size_t n_groups, size_t n_codes, size_t dsub, int kind)
{
    size_t n_rows = n_groups * PLM_PQ_LANES, dims = plm_pq_word_dims(dsub);
    struct pq q = pq_new(n_groups, n_codes, dsub, kind ? WHOLE : ORDINARY);
    struct guarded gw = guarded_new(n_codes * dims * 2), go = guarded_new(n_codes * 4);
    int16_t *words = guarded_at(&gw, n_codes * dims * 2, true);
    int32_t *offsets = guarded_at(&go, n_codes * 4, true);
    int32_t want[2][3 * PLM_PQ_LANES], got[2][3 * PLM_PQ_LANES];
    uint8_t want_codes[3 * PLM_PQ_LANES], codes[3 * PLM_PQ_LANES];
    int most = (int)(0x1p29 / PLM_PQ_WORD_MOST / (double)dsub), tie = kind ? 3 : 2 * most + 1;

    for (size_t i = 0; i < n_codes * dims; i++)
        words[i] = i % dims < dsub ? (int16_t)((int)(rng_next() % (unsigned)tie) - tie / 2) : 0;
    for (size_t i = 0; i < n_codes; i++)
        offsets[i] = kind ? (int32_t)(rng_next() % 3) : (int32_t)(rng_next() % 0x1ffffff0);
    offsets[n_codes / 2] = PLM_PQ_WORDS_VALUE_MOST; /* a repeated codeword */
    memset(words + n_codes / 2 * dims, 0, dims * 2);
    for (size_t i = 0; i < PLM_PQ_LANES && !kind; i++)
        q.groups[i] = i % 2 ? 1 : -1;

    scalar->pq_words(q.groups, n_groups, kind ? 1 : PLM_PQ_WORD_MOST, words, offsets, n_codes, dsub,
                     want_codes, want[0], want[1]);
    EACH_TABLE(t)
    {
        tables[t]->pq_words(q.groups, n_groups, kind ? 1 : PLM_PQ_WORD_MOST, words, offsets, n_codes,
                            dsub, codes, got[0], got[1]);
        assert_memory_equal(codes, want_codes, n_rows);
        assert_memory_equal(got[0], want[0], n_rows * 4);
        assert_memory_equal(got[1], want[1], n_rows * 4);
    }
    guarded_free(&gw);
    guarded_free(&go);
    pq_free(&q);
}

static void pq_words(void **state)
{
    (void)state;
    for (size_t dsub = 1; dsub <= PLM_PQ_WORDS_DIM_MAX; dsub += dsub < 10 ? 1 : 9)
        for (int kind = 0; kind < 2; kind++) {
            check_words(1 + dsub % 3, 256, dsub, kind);
            check_words(1 + (dsub + 1) % 3, 16, dsub, kind);
            check_words(2, 8, dsub, kind);
        }
}

/* ---- the choice ---------------------------------------------------------------------------- */

static void choice(void **state)
{
    (void)state;
    assert_string_equal(scalar->name, "scalar");
    assert_ptr_equal(plm_kernels_for("scalar"), scalar);
    assert_ptr_equal(plm_kernels_for(NULL), tables[n_tables - 1]);
    assert_null(plm_kernels_for("sse9"));
    assert_null(plm_kernels_for(""));
    for (size_t t = 0; t < n_tables; t++)
        assert_ptr_equal(plm_kernels_for(tables[t]->name), tables[t]);
    assert_non_null(plm_kernels_for("avx512")); /* a cap above the processor is fine */
    assert_int_equal(plm_kernels_available(NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choice),         cmocka_unit_test(reference),
        cmocka_unit_test(widening),       cmocka_unit_test(arrays),
        cmocka_unit_test(sq_boundaries),  cmocka_unit_test(byte_distances), cmocka_unit_test(packing),
        cmocka_unit_test(dense),          cmocka_unit_test(pq_packing),
        cmocka_unit_test(pq_nearest),     cmocka_unit_test(pq_words),
    };

    n_tables = plm_kernels_available(tables, MAX_TABLES);
    scalar = tables[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
