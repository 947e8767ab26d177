/* test_quant.c - codes against a float64 search, training, tables and scans, SQ distances. */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "quant/pq_impl.h"
#include "quant/quant.h"

#define MAX_TABLES 8

static struct plm_ctx *ctx;
static uint64_t rng_state;

static double rng_unit(void) { return (double)(plm_mix64(7, rng_state++) >> 11) * 0x1p-53; }
static float rng_normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += rng_unit();
    return (float)sum;
}

static float *floats(size_t n)
{
    float *x = malloc(n * sizeof *x + 1);
    assert_non_null(x);
    return x;
}
static float *normals(size_t n)
{
    float *x = floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal();
    return x;
}

static int set_up(void **state)
{
    (void)state;
    return plm_ctx_create(NULL, &ctx, NULL) != PLM_OK;
}
static int tear_down(void **state)
{
    (void)state;
    plm_ctx_destroy(ctx);
    return 0;
}

/* ---- encoding --------------------------------------------------------------------------- */

/* The definition: float32 residual, squared distance in double, lowest code on equality. */
static unsigned nearest_code(const struct plm_pq *pq, size_t j, const float *x)
{
    unsigned nearest = 0;
    double least = INFINITY;

    for (unsigned code = 0; code < plm_pq_n_codes(pq); code++) {
        const float *c = pq->codebook + (j * plm_pq_n_codes(pq) + code) * pq->dsub;
        double d = ctx->kernels->l2_exact(x, c, pq->dsub);

        if (d < least) {
            least = d;
            nearest = code;
        }
    }
    return nearest;
}

static unsigned code_of(const struct plm_pq *pq, const uint8_t *codes, size_t row, size_t j)
{
    const uint8_t *code = codes + row * plm_pq_code_bytes(pq);

    return pq->n_bits == 8 ? code[j] : (code[j / 2] >> (j % 2 ? 4 : 0)) & 15u;
}

struct rows {
    size_t n, k;
    const float *rows, *centroids;
    const uint32_t *ids;
};

static void expect_nearest(const struct plm_pq *pq, const struct rows *r, const uint8_t *codes)
{
    size_t dim = (size_t)pq->m * pq->dsub;
    float *x = floats(pq->dsub);

    for (size_t i = 0; i < r->n; i++)
        for (size_t j = 0; j < pq->m; j++) {
            for (size_t d = 0; d < pq->dsub; d++) {
                size_t at = j * pq->dsub + d;
                float value = r->rows[i * dim + at];
                x[d] = r->centroids ? value - r->centroids[r->ids[i] * dim + at] : value;
            }
            assert_int_equal(code_of(pq, codes, i, j), nearest_code(pq, j, x));
        }
    free(x);
}

/* The same codewords as a table would have them that gains, or does not, by words. */
static void prepare_again(const struct plm_pq *pq, const struct plm_kernels *table, bool in_words)
{
    struct plm_kernels kernels = *table;

    kernels.pq_words_pay = in_words;
    for (size_t j = 0; j < pq->m; j++)
        plm_codewords_prepare(&kernels, &pq->parts[j]);
}

/* Encodes with every table, in fp32 and in words; all must give the float64 codes. */
static void check_encode(const struct plm_pq *pq, const struct rows *r)
{
    const struct plm_kernels *tables[MAX_TABLES];
    size_t n_tables = plm_kernels_available(tables, MAX_TABLES), bytes = r->n * plm_pq_code_bytes(pq);
    void *scratch = malloc(plm_pq_encode_bytes(pq));
    uint8_t *codes = malloc(bytes + 1);

    assert_true(n_tables >= 1);
    for (size_t t = 0; t < 2 * n_tables; t++) {
        prepare_again(pq, tables[t / 2], t % 2);
        memset(codes, 0xa5, bytes + 1); /* bytes must be set, not or-ed into */
        plm_pq_encode(tables[t / 2], pq, r->rows, r->n, r->centroids, r->ids, codes, scratch);
        expect_nearest(pq, r, codes);
        assert_int_equal(codes[bytes], 0xa5);
    }
    free(codes);
    free(scratch);
}

static void make_pq(uint32_t m, uint32_t dsub, uint32_t n_bits, const float *codebook, struct plm_pq *out)
{
    assert_int_equal(plm_pq_init(ctx, m, dsub, n_bits, codebook, out, NULL), PLM_OK);
}

static void test_encode_shapes(void **state)
{
    static const struct {
        uint32_t m, dsub, n_bits;
        size_t n;
    } shapes[] = {{4, 4, 8, 1}, {3, 1, 8, 25}, {2, 17, 8, 97}, {8, 16, 8, 200}, {2, 32, 8, 96},
                  {4, 8, 4, 100}, {2, 3, 4, 23}, {6, 16, 4, 193}, {1, 40, 8, 48}, {2, 5, 8, 0}};
    (void)state;

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        size_t dim = (size_t)shapes[s].m * shapes[s].dsub, n = shapes[s].n, k = 5;
        float *rows = normals(n * dim), *centroids = normals(k * dim);
        float *codebook = normals(dim << shapes[s].n_bits);
        uint32_t *ids = malloc((n + 1) * sizeof *ids);
        struct plm_pq pq;

        for (size_t i = 0; i < n; i++)
            ids[i] = (uint32_t)(plm_mix64(1, i) % k);
        make_pq(shapes[s].m, shapes[s].dsub, shapes[s].n_bits, codebook, &pq);
        check_encode(&pq, &(struct rows){n, k, rows, NULL, NULL});
        check_encode(&pq, &(struct rows){n, k, rows, centroids, ids});
        plm_pq_reset(&pq);
        plm_pq_reset(&pq); /* twice is fine */
        free(rows);
        free(centroids);
        free(codebook);
        free(ids);
    }
}

/* Rows half-way between two codewords, or a last bit off: fp32 cannot tell them apart. */
static void test_encode_near_ties(void **state)
{
    enum { M = 2, DSUB = 16, DIM = M * DSUB, N = 300 };
    float *codebook = normals((size_t)256 * DIM), *rows = floats(N * DIM);
    struct plm_pq pq;
    (void)state;

    for (size_t i = 0; i < 256 * DIM; i++) /* large common offset, small differences */
        codebook[i] = 100 + codebook[i] / 64;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < M; j++) {
            const float *a = codebook + (j * 256 + plm_mix64(3, i) % 256) * DSUB;
            const float *b = codebook + (j * 256 + plm_mix64(4, i) % 256) * DSUB;

            for (size_t d = 0; d < DSUB; d++)
                rows[i * DIM + j * DSUB + d] = (a[d] + b[d]) / 2;
            if (i % 3)
                rows[i * DIM + j * DSUB] = nextafterf(rows[i * DIM + j * DSUB], i % 3 == 1 ? 1e9f : 0);
        }
    make_pq(M, DSUB, 8, codebook, &pq);
    check_encode(&pq, &(struct rows){N, 0, rows, NULL, NULL});
    plm_pq_reset(&pq);
    free(codebook);
    free(rows);
}

static void test_encode_repeated_codewords(void **state)
{
    enum { DSUB = 4, N = 60 };
    float *codebook = floats((size_t)16 * 2 * DSUB), *rows = normals(N * 2 * DSUB);
    struct plm_pq pq;
    (void)state;

    for (size_t i = 0; i < 2 * 16; i++) /* three different codewords, and -0 beside 0 */
        for (size_t d = 0; d < DSUB; d++)
            codebook[i * DSUB + d] = i % 3 ? (float)(i % 3) : i % 2 ? -0.0f : 0.0f;
    make_pq(2, DSUB, 4, codebook, &pq);
    assert_true(isinf(pq.parts[0].half_norms[3]));
    check_encode(&pq, &(struct rows){N, 0, rows, NULL, NULL});
    plm_pq_reset(&pq);
    free(codebook);
    free(rows);
}

/* Rows between two codewords, nearer to one of them by less and less, down to what whole numbers and
 * then fp32 cannot see; and rows that are out of reach of the words. */
static void test_encode_words(void **state)
{
    static const uint32_t dsubs[] = {4, 7, 16, 33, 64, 65};
    enum { N = 600 };
    (void)state;

    for (size_t s = 0; s < sizeof dsubs / sizeof *dsubs; s++) {
        uint32_t dsub = dsubs[s];
        float *codebook = normals((size_t)256 * dsub), *rows = normals((size_t)N * dsub);
        struct plm_pq pq;

        for (size_t i = 0; i < N; i++) {
            const float *a = codebook + plm_mix64(3, i) % 256 * dsub;
            const float *b = codebook + plm_mix64(4, i) % 256 * dsub;
            float part = 0.5f + ldexpf(i % 2 ? 0.5f : -0.5f, -(int)(i / 2 % 28));

            for (size_t d = 0; i % 20 && d < dsub; d++)
                rows[i * dsub + d] = a[d] + part * (b[d] - a[d]);
            for (size_t d = 0; i % 20 == 0 && d < dsub; d++)
                rows[i * dsub + d] *= (float)(i / 20 * i);
        }
        make_pq(1, dsub, 8, codebook, &pq);
        check_encode(&pq, &(struct rows){N, 0, rows, NULL, NULL});
        assert_true((pq.parts[0].per_unit > 0) == (dsub <= 64)); /* the last time was in words */
        for (size_t d = 0; d < dsub; d++)
            pq.codebook[9 * dsub + d] = 100; /* far away: units would be too coarse */
        check_encode(&pq, &(struct rows){N, 0, rows, NULL, NULL});
        assert_true(pq.parts[0].per_unit == 0);
        plm_pq_reset(&pq);
        free(codebook);
        free(rows);
    }
}

/* Norms overflow, or everything underflows: the float64 decision stands in. */
static void test_encode_extremes(void **state)
{
    static const float scales[] = {1e30f, 1e-30f, 1e19f, 1e-42f};
    enum { DSUB = 8, N = 50 };
    (void)state;

    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        float *codebook = normals((size_t)256 * DSUB), *rows = normals(N * DSUB);
        struct plm_pq pq;

        for (size_t i = 0; i < 256 * DSUB; i++)
            codebook[i] *= scales[s];
        for (size_t i = 0; i < N * DSUB; i++)
            rows[i] *= scales[s];
        make_pq(1, DSUB, 8, codebook, &pq);
        check_encode(&pq, &(struct rows){N, 0, rows, NULL, NULL});
        plm_pq_reset(&pq);
        free(codebook);
        free(rows);
    }
}

static void test_packing_of_four_bits(void **state)
{
    float codebook[2 * 16], row[2] = {3, 9};
    struct plm_pq pq;
    uint8_t code = 0xff, scratch[16384];
    float decoded[2];
    (void)state;

    for (int i = 0; i < 16; i++)
        codebook[i] = codebook[16 + i] = (float)i;
    make_pq(2, 1, 4, codebook, &pq);
    assert_int_equal(plm_pq_code_bytes(&pq), 1);
    assert_true(plm_pq_encode_bytes(&pq) <= sizeof scratch);
    plm_pq_encode(ctx->kernels, &pq, row, 1, NULL, NULL, &code, scratch);
    assert_int_equal(code, 0x93); /* low nibble = even sub-vector */
    plm_pq_decode(&pq, &code, decoded);
    assert_true(decoded[0] == 3 && decoded[1] == 9);
    plm_pq_reset(&pq);
}

static void test_init_errors(void **state)
{
    float codebook[256] = {0};
    struct plm_pq pq = {.m = 77};
    struct plm_err err;
    (void)state;

    assert_int_equal(plm_pq_init(ctx, 1, 1, 5, codebook, &pq, &err), PLM_ARG);
    assert_non_null(strstr(err.message, "num_bits is 5"));
    assert_int_equal(plm_pq_init(ctx, 3, 1, 4, codebook, &pq, &err), PLM_ARG);
    assert_non_null(strstr(err.message, "even"));
    assert_int_equal(plm_pq_init(ctx, 0, 1, 8, codebook, &pq, &err), PLM_ARG);
    assert_int_equal(plm_pq_init(ctx, 1, 0, 8, codebook, &pq, &err), PLM_ARG);
    for (int n = 1; n <= 3; n++) {
        atomic_store(&ctx->faults.alloc_countdown, n);
        assert_int_equal(plm_pq_init(ctx, 1, 1, 8, codebook, &pq, &err), PLM_NOMEM);
    }
    atomic_store(&ctx->faults.alloc_countdown, 0);
    assert_int_equal(pq.m, 77); /* untouched */
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
}

/* ---- searching ----------------------------------------------------------------------------- */

static void check_scan(uint32_t n_bits, bool dot)
{
    enum { M = 6, DSUB = 5, DIM = M * DSUB, N = 41 };
    float *codebook = normals((size_t)DIM << n_bits), *query = normals(DIM), decoded[DIM];
    float *table = floats((size_t)M << n_bits), distances[N], transposed_distances[N];
    struct plm_pq pq;

    make_pq(M, DSUB, n_bits, codebook, &pq);
    size_t bytes = plm_pq_code_bytes(&pq);
    uint8_t *codes = malloc(N * bytes), *transposed = malloc(N * bytes);
    for (size_t i = 0; i < N * bytes; i++) {
        codes[i] = (uint8_t)plm_mix64(9, i);
        transposed[i % bytes * N + i / bytes] = codes[i];
    }
    plm_pq_table(&pq, query, dot, table);
    plm_pq_scan(&pq, table, codes, N, false, distances);
    plm_pq_scan(&pq, table, transposed, N, true, transposed_distances);
    assert_memory_equal(distances, transposed_distances, sizeof distances);
    for (size_t i = 0; i < N; i++) {
        plm_pq_decode(&pq, codes + i * bytes, decoded);
        double expected = dot ? -ctx->kernels->dot_exact(query, decoded, DIM)
                              : ctx->kernels->l2_exact(query, decoded, DIM);
        assert_true(fabs((double)distances[i] - expected) < 1e-5 * (1 + fabs(expected)));
    }
    plm_pq_reset(&pq);
    free(codebook);
    free(query);
    free(table);
    free(codes);
    free(transposed);
}

static void test_scan(void **state)
{
    (void)state;
    check_scan(8, false);
    check_scan(8, true);
    check_scan(4, false);
    check_scan(4, true);
}

/* ---- training ------------------------------------------------------------------------------- */

/* n rows around n_centres points. */
static float *clustered(size_t n, uint32_t dsub, size_t n_centres, float noise)
{
    float *centres = normals(n_centres * dsub), *rows = floats(n * dsub);

    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < dsub; d++)
            rows[i * dsub + d] = centres[plm_mix64(5, i) % n_centres * dsub + d] + noise * rng_normal();
    free(centres);
    return rows;
}

static double mean_error(const float *rows, size_t n, uint32_t dsub, const float *codewords, size_t n_codes)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        double least = INFINITY;
        for (size_t c = 0; c < n_codes; c++)
            least = fmin(least, ctx->kernels->l2_exact(rows + i * dsub, codewords + c * dsub, dsub));
        sum += least;
    }
    return sum / (double)n;
}

static double train(const float *rows, size_t n, uint32_t dsub, uint32_t n_bits, uint32_t max_iters,
                    float *codewords)
{
    struct plm_pq_train_options options = {.n_bits = n_bits, .max_iters = max_iters, .seed = 42};
    double error = -1;

    assert_int_equal(plm_pq_train_subvector(ctx, rows, n, dsub, 3, &options, codewords, &error, NULL),
                     PLM_OK);
    for (size_t i = 0; i < (size_t)dsub << n_bits; i++)
        assert_true(isfinite(codewords[i]));
    return error;
}

static void test_training_finds_clusters(void **state)
{
    enum { N = 6000, DSUB = 8 };
    float *rows = clustered(N, DSUB, 256, 0.01f), codewords[256 * DSUB];
    double variance = 0, error = train(rows, N, DSUB, 8, 50, codewords);
    (void)state;

    for (size_t i = 0; i < N * DSUB; i++)
        variance += (double)rows[i] * (double)rows[i] / N;
    assert_true(error < variance / 10); /* perfect: 256 * 8e-4; one codeword: variance */
    double measured = mean_error(rows, N, DSUB, codewords, 256);
    assert_true(fabs(error - measured) < 1e-6 * measured + 1e-9);
    free(rows);
}

/* More rounds never hurt, and the growing sample ends close to what one more pass would reach. */
static void test_training_improves(void **state)
{
    enum { N = 20000, DSUB = 4 };
    float *rows = normals(N * DSUB), one[16 * DSUB], many[16 * DSUB];
    double first = train(rows, N, DSUB, 4, 1, one), last = train(rows, N, DSUB, 4, 50, many);
    (void)state;

    assert_true(last < first);
    /* 16 codewords in 4 dimensions of a normal: the optimum is near 1.5 (of 4). */
    assert_true(last < 1.75);
    free(rows);
}

static void test_training_same_on_all_tables(void **state)
{
    enum { N = 9000, DSUB = 12 };
    const struct plm_kernels *tables[MAX_TABLES], *mine = ctx->kernels;
    size_t n_tables = plm_kernels_available(tables, MAX_TABLES);
    float *rows = clustered(N, DSUB, 40, 0.3f), first[256 * DSUB], other[256 * DSUB];
    double error = 0;
    (void)state;

    for (size_t t = 0; t < n_tables; t++) {
        ctx->kernels = tables[t];
        double now = train(rows, N, DSUB, 8, 6, t == 0 ? first : other);
        if (t == 0)
            error = now;
        else
            assert_memory_equal(first, other, sizeof first);
        assert_true(now == error);
    }
    ctx->kernels = mine;
    free(rows);
}

static bool contains(const float *codewords, size_t n, const float *row, size_t dsub)
{
    for (size_t c = 0; c < n; c++)
        if (memcmp(codewords + c * dsub, row, dsub * sizeof *row) == 0)
            return true;
    return false;
}

/* Few rows, or few different ones: each is a codeword, and the error is 0. */
static void test_training_degenerate(void **state)
{
    static const struct {
        size_t n, n_distinct;
    } cases[] = {{1, 1}, {5, 5}, {255, 255}, {256, 256}, {4000, 1}, {4000, 5}, {20000, 255}, {20000, 256}};
    enum { DSUB = 4 };
    (void)state;

    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        float *distinct = normals(cases[s].n_distinct * DSUB), *rows = floats(cases[s].n * DSUB);
        float codewords[256 * DSUB];

        for (size_t i = 0; i < cases[s].n; i++)
            memcpy(rows + i * DSUB, distinct + i % cases[s].n_distinct * DSUB, DSUB * sizeof *rows);
        double error = train(rows, cases[s].n, DSUB, 8, 50, codewords);
        assert_true(error < 1e-12);
        for (size_t i = 0; i < cases[s].n_distinct && cases[s].n_distinct < 256; i++)
            assert_true(contains(codewords, 256, distinct + i * DSUB, DSUB));
        free(distinct);
        free(rows);
    }
}

/* One far outlier and zeros: codewords that lose their rows are split off again, and it ends. */
static void test_training_empties(void **state)
{
    enum { N = 12000, DSUB = 2 };
    float *rows = normals(N * DSUB), codewords[256 * DSUB];
    (void)state;

    for (size_t i = 0; i < N; i++)
        if (i % 4) { /* three quarters sit on 300 points, very close to each other */
            rows[i * DSUB] = 1 + (float)(i % 300) * 1e-6f;
            rows[i * DSUB + 1] = 1;
        }
    rows[0] = 1e6f;
    double error = train(rows, N, DSUB, 8, 50, codewords);
    assert_true(error < 1);
    free(rows);
}

static void test_training_errors(void **state)
{
    float rows[40] = {0}, codewords[256];
    struct plm_pq_train_options options = {.n_bits = 8, .max_iters = 5, .seed = 1};
    struct plm_err err;
    double error = -7;
    (void)state;

    codewords[0] = 5;
    assert_int_equal(plm_pq_train_subvector(ctx, rows, 0, 1, 0, &options, codewords, &error, &err), PLM_ARG);
    rows[33] = NAN;
    assert_int_equal(plm_pq_train_subvector(ctx, rows, 10, 4, 0, &options, codewords, &error, &err), PLM_DATA);
    assert_non_null(strstr(err.message, "row 8"));
    rows[33] = INFINITY;
    assert_int_equal(plm_pq_train_subvector(ctx, rows, 10, 4, 0, &options, codewords, &error, &err), PLM_DATA);
    rows[33] = 0;
    options.n_bits = 6;
    assert_int_equal(plm_pq_train_subvector(ctx, rows, 10, 4, 0, &options, codewords, &error, &err), PLM_ARG);
    options.n_bits = 8;
    for (int n = 1; n <= 6; n++) {
        atomic_store(&ctx->faults.alloc_countdown, n);
        assert_int_equal(plm_pq_train_subvector(ctx, rows, 40, 1, 0, &options, codewords, &error, &err), PLM_NOMEM);
    }
    atomic_store(&ctx->faults.alloc_countdown, 0);
    assert_true(error == -7 && codewords[0] == 5);
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
}

static void test_training_memory_and_cancel(void **state)
{
    enum { N = 9000, DSUB = 6 };
    float *rows = normals(N * DSUB), codewords[256 * DSUB];
    struct plm_pq_train_options options = {.n_bits = 8, .max_iters = 2, .seed = 1};
    struct plm_ctx *own;
    double error;
    (void)state;

    assert_int_equal(plm_ctx_create(NULL, &own, NULL), PLM_OK);
    assert_int_equal(plm_pq_train_subvector(own, rows, N, DSUB, 0, &options, codewords, &error, NULL), PLM_OK);
    assert_true(atomic_load(&own->memory_peak) <= plm_pq_train_bytes(N, DSUB, 8));
    plm_ctx_cancel(own);
    assert_int_equal(plm_pq_train_subvector(own, rows, N, DSUB, 0, &options, codewords, &error, NULL),
                     PLM_CANCELLED);
    plm_ctx_destroy(own);
    free(rows);
}

/* ---- SQ ---------------------------------------------------------------------------------------- */

static void test_sq_l2(void **state)
{
    enum { DIM = 70, N = 9 };
    struct plm_sq sq = {-1.25, 2.5};
    float *rows = normals(N * DIM), *query = normals(DIM), distances[N];
    uint8_t codes[N * DIM], query_codes[DIM];
    float s = (float)(sq.hi - sq.lo) / 255.0f;
    (void)state;

    ctx->kernels->sq_encode(rows, N * DIM, sq.lo, sq.hi, codes);
    plm_sq_scan(ctx->kernels, &sq, query, DIM, PLM_COSINE, codes, N, query_codes, distances);
    for (size_t i = 0; i < N; i++) {
        uint64_t sum = 0;
        for (size_t d = 0; d < DIM; d++) {
            double scaled = ((double)query[d] - sq.lo) * 255 / (sq.hi - sq.lo);
            int code = scaled <= 0 ? 0 : scaled >= 255 ? 255 : (int)scaled;
            sum += (uint64_t)((code - codes[i * DIM + d]) * (code - codes[i * DIM + d]));
        }
        assert_true(distances[i] == (float)sum * (s * s)); /* bit for bit, as stock Lance */
    }
    free(rows);
    free(query);
}

/* More values than one integer sum of the kernel holds. */
static void test_sq_long_rows(void **state)
{
    enum { DIM = 70000 };
    struct plm_sq sq = {0, 1};
    float *query = floats(DIM), distance;
    uint8_t *codes = calloc(DIM, 1), *query_codes = malloc(DIM);
    (void)state;

    for (size_t i = 0; i < DIM; i++)
        query[i] = 1;
    plm_sq_scan(ctx->kernels, &sq, query, DIM, PLM_L2, codes, 1, query_codes, &distance);
    float s = 1.0f / 255.0f;
    assert_true(distance == (float)(UINT64_C(70000) * 255 * 255) * (s * s));
    free(query);
    free(codes);
    free(query_codes);
}

static void test_sq_dot(void **state)
{
    enum { DIM = 33 };
    struct plm_sq sq = {-0.5, 3};
    float *query = normals(DIM), distance;
    uint8_t codes[DIM], query_codes[DIM];
    double expected = 1, s = (double)((float)(sq.hi - sq.lo) / 255.0f);
    (void)state;

    for (size_t i = 0; i < DIM; i++) {
        codes[i] = (uint8_t)plm_mix64(2, i);
        expected -= (double)query[i] * (sq.lo + s * codes[i]);
    }
    plm_sq_scan(ctx->kernels, &sq, query, DIM, PLM_DOT, codes, 1, query_codes, &distance);
    assert_true(fabs((double)distance - expected) < 1e-5);
    free(query);
}

static void test_sq_no_range(void **state)
{
    struct plm_sq sq = {2, 2};
    float query[3] = {1, 2, 3}, distance = -1;
    uint8_t codes[3] = {0}, query_codes[3];
    (void)state;

    plm_sq_scan(ctx->kernels, &sq, query, 3, PLM_L2, codes, 1, query_codes, &distance);
    assert_true(distance == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_shapes),
        cmocka_unit_test(test_encode_near_ties),
        cmocka_unit_test(test_encode_words),
        cmocka_unit_test(test_encode_repeated_codewords),
        cmocka_unit_test(test_encode_extremes),
        cmocka_unit_test(test_packing_of_four_bits),
        cmocka_unit_test(test_init_errors),
        cmocka_unit_test(test_scan),
        cmocka_unit_test(test_training_finds_clusters),
        cmocka_unit_test(test_training_improves),
        cmocka_unit_test(test_training_same_on_all_tables),
        cmocka_unit_test(test_training_degenerate),
        cmocka_unit_test(test_training_empties),
        cmocka_unit_test(test_training_errors),
        cmocka_unit_test(test_training_memory_and_cancel),
        cmocka_unit_test(test_sq_l2),
        cmocka_unit_test(test_sq_long_rows),
        cmocka_unit_test(test_sq_dot),
        cmocka_unit_test(test_sq_no_range),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
