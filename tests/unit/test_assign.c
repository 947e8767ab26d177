/* test_assign.c - exact assignment against a float64 search over all centroids. */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cluster/assign_impl.h"
#include "simd/simd.h"

#define MAX_TABLES 8
/* Threads do the same with any table, and their sanitizer takes twenty times as long: one is enough. */
#if defined(__SANITIZE_THREAD__)
#define FIRST_TABLE(n_tables) ((n_tables) - 1)
#else
#define FIRST_TABLE(n_tables) 0
#endif

/* ---- data ---------------------------------------------------------------------------- */

static uint64_t rng_state;

static uint64_t rng_next(void)
{
    return plm_mix64(42, rng_state++);
}
static double rng_unit(void)
{
    return (double)(rng_next() >> 11) * 0x1p-53;
}
/* Near enough to a normal: twelve uniforms. */
static float rng_normal(void)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += rng_unit();
    return (float)sum;
}

struct data {
    size_t n, k, dim;
    float *rows, *centroids;
};

static struct data data_new(size_t n, size_t k, size_t dim)
{
    struct data data = {n, k, dim, NULL, NULL};

    data.rows = malloc(n * dim * sizeof(float));
    data.centroids = malloc(k * dim * sizeof(float));
    assert_non_null(data.rows);
    assert_non_null(data.centroids);
    for (size_t i = 0; i < n * dim; i++)
        data.rows[i] = rng_normal();
    for (size_t i = 0; i < k * dim; i++)
        data.centroids[i] = rng_normal();
    return data;
}

static void data_free(struct data *data)
{
    free(data->rows);
    free(data->centroids);
}

static float *row_of(struct data *data, size_t i)
{
    return data->rows + i * data->dim;
}
static float *centroid_of(struct data *data, size_t j)
{
    return data->centroids + j * data->dim;
}
static void copy(float *to, const float *from, size_t dim)
{
    memcpy(to, from, dim * sizeof *to);
}

/* Rows scattered about centroids that live in `rank` dimensions: what filters are made for. */
static struct data data_clustered(size_t n, size_t k, size_t dim, size_t rank, float noise)
{
    struct data data = data_new(n, k, dim);
    float *basis = malloc(rank * dim * sizeof *basis);

    assert_non_null(basis);
    for (size_t i = 0; i < rank * dim; i++)
        basis[i] = rng_normal();
    for (size_t j = 0; j < k; j++) {
        float *c = centroid_of(&data, j);

        memset(c, 0, dim * sizeof *c);
        for (size_t r = 0; r < rank; r++) {
            float weight = rng_normal();

            for (size_t d = 0; d < dim; d++)
                c[d] += weight * basis[r * dim + d];
        }
    }
    for (size_t i = 0; i < n; i++) {
        const float *c = centroid_of(&data, rng_next() % k);

        for (size_t d = 0; d < dim; d++)
            row_of(&data, i)[d] = c[d] + noise * row_of(&data, i)[d];
    }
    free(basis);
    return data;
}

static size_t n_filtered; /* runs of a filter so far */

/* ---- the oracle -------------------------------------------------------------------------- */

static const struct plm_kernels *scalar_table(void)
{
    return plm_kernels_for("scalar");
}

static double oracle_value(const struct data *data, enum plm_metric metric, size_t i, size_t j)
{
    const float *x = data->rows + i * data->dim, *c = data->centroids + j * data->dim;

    return metric == PLM_DOT ? -scalar_table()->dot_exact(x, c, data->dim)
                             : scalar_table()->l2_exact(x, c, data->dim);
}

static void oracle(const struct data *data, enum plm_metric metric, uint32_t *ids,
                   double *distances)
{
    for (size_t i = 0; i < data->n; i++) {
        double least = oracle_value(data, metric, i, 0);

        ids[i] = 0;
        for (size_t j = 1; j < data->k; j++) {
            double value = oracle_value(data, metric, i, j);

            if (value < least) {
                least = value;
                ids[i] = (uint32_t)j;
            }
        }
        distances[i] = metric == PLM_DOT ? 1 + least : least;
    }
}

static struct plm_ctx *ctx_new(void)
{
    struct plm_ctx *ctx = NULL;

    assert_int_equal(plm_ctx_create(NULL, &ctx, NULL), PLM_OK);
    return ctx;
}

/* A filter to force: a head of this rank, in bytes or not. */
struct forced {
    bool is_forced;
    size_t rank;
    bool in_bytes;
};

/* Calls of different lengths, so that blocks and whatever an assigner learns vary. False where the
 * forced filter does not exist. */
static bool assign_in_pieces(struct plm_ctx *ctx, const struct data *data, enum plm_metric metric,
                             struct forced filter, uint32_t *ids, double *distances)
{
    enum plm_code forced = PLM_OK;
    struct plm_assigner *assigner = NULL;
    struct plm_assign_scratch scratch = {0};
    size_t first = 0, n = 1;

    assert_int_equal(plm_assigner_create(ctx, data->centroids, data->k, data->dim, metric,
                                         &assigner, NULL),
                     PLM_OK);
    if (filter.is_forced)
        forced = plm_filter_force(assigner, filter.rank, filter.in_bytes, NULL);
    for (; first < data->n && forced == PLM_OK; first += n) {
        n = plm_min_size(plm_min_size(first + 1, 700), data->n - first);
        assert_int_equal(plm_assign(assigner, data->rows + first * data->dim, n, ids + first,
                                    distances + first, &scratch, NULL),
                         PLM_OK);
    }
    assert_true(atomic_load(&ctx->memory_used) <=
                plm_assigner_bytes(data->k, data->dim) +
                    plm_assign_scratch_bytes(data->k, data->dim));
    plm_assign_scratch_reset(&scratch);
    plm_assigner_destroy(assigner);
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
    return forced == PLM_OK;
}

static void check_run(struct plm_ctx *ctx, const struct data *data, enum plm_metric metric,
                      struct forced filter, const uint32_t *want, const double *distances,
                      uint32_t *ids, double *got)
{
    memset(ids, 0xff, data->n * sizeof *ids);
    if (!assign_in_pieces(ctx, data, metric, filter, ids, got))
        return;
    n_filtered += filter.is_forced;
    for (size_t i = 0; i < data->n; i++) {
        if (ids[i] != want[i])
            fail_msg("%s, metric %d, n %zu k %zu d %zu rank %zu bytes %d: row %zu got %u, "
                     "expected %u", ctx->kernels->name, (int)metric, data->n, data->k, data->dim,
                     filter.rank, filter.in_bytes, i, ids[i], want[i]);
        assert_memory_equal(&got[i], &distances[i], sizeof *got);
    }
}

/* Every table, without a filter and with every kind of forced one, must give the oracle's ids
 * and distances, bit for bit. */
static void check(const struct data *data, enum plm_metric metric)
{
    const struct plm_kernels *tables[MAX_TABLES];
    size_t n_tables = plm_kernels_available(tables, MAX_TABLES);
    uint32_t *ids = malloc(data->n * sizeof *ids), *want = malloc(data->n * sizeof *want);
    double *got = malloc(data->n * sizeof *got), *distances = malloc(data->n * sizeof *distances);
    struct plm_ctx *ctx = ctx_new();

    assert_true(ids && want && got && distances);
    oracle(data, metric, want, distances);
    for (size_t t = FIRST_TABLE(n_tables); t < n_tables; t++) {
        size_t rank = t % 2 == 0 ? 32 : 48;
        const struct forced filters[] = {
            {false, 0, false}, {true, rank, false}, {true, 0, true}, {true, rank, true}};

        ctx->kernels = tables[t];
        for (size_t f = 0; f < sizeof filters / sizeof *filters; f++)
            check_run(ctx, data, metric, filters[f], want, distances, ids, got);
    }
    plm_ctx_destroy(ctx);
    free(ids);
    free(want);
    free(got);
    free(distances);
}

static void check_both(const struct data *data)
{
    check(data, PLM_L2);
    check(data, PLM_DOT);
}

/* ---- tests ------------------------------------------------------------------------------- */

static void shapes(void **state)
{
    static const size_t dims[] = {1, 2, 3, 5, 7, 8, 17, 64, 100};
    static const size_t ks[] = {1, 2, 15, 16, 17, 33, 100};
    static const size_t ns[] = {1, 5, 6, 95, 96, 97, 200};

    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t k = 0; k < sizeof ks / sizeof *ks; k++) {
            struct data data = data_new(ns[(d + k) % 7], ks[k], dims[d]);

            check_both(&data);
            data_free(&data);
        }
}

static void many_centroids(void **state)
{
    struct data data = data_new(50, 5000, 24);

    (void)state;
    check_both(&data);
    data_free(&data);
}

/* Small integers: sums are exact and distances tie all the time. */
static void ties(void **state)
{
    (void)state;
    for (size_t dim = 1; dim <= 130; dim += 43) {
        struct data data = data_new(300, 200, dim);

        for (size_t i = 0; i < data.n * dim; i++)
            data.rows[i] = (float)(rng_next() % 3);
        for (size_t i = 0; i < data.k * dim; i++)
            data.centroids[i] = (float)(rng_next() % 3);
        check_both(&data);
        data_free(&data);
    }
}

static void duplicate_centroids(void **state)
{
    struct data data = data_new(250, 300, 70);

    (void)state;
    for (size_t j = 0; j < data.k; j++)
        copy(centroid_of(&data, j), centroid_of(&data, j % 7), data.dim);
    check_both(&data);
    for (size_t j = 1; j < data.k; j++) /* one copy of one centroid, then all of them */
        copy(centroid_of(&data, j), centroid_of(&data, 0), data.dim);
    check_both(&data);
    data_free(&data);
}

/* Centroids that differ in the last bit of one value, and rows halfway between. */
static void last_bit(void **state)
{
    struct data data = data_new(200, 150, 80);

    (void)state;
    for (size_t j = 0; j < data.k; j++) {
        float *c = centroid_of(&data, j);

        copy(c, centroid_of(&data, 0), data.dim);
        if (j > 0)
            c[j % data.dim] = nextafterf(c[j % data.dim], j < data.dim ? INFINITY : -INFINITY);
    }
    for (size_t i = 0; i < data.n; i++)
        copy(row_of(&data, i), centroid_of(&data, i % data.k), data.dim);
    check_both(&data);
    data_free(&data);
}

static void equal_rows(void **state)
{
    struct data data = data_new(400, 200, 70);

    (void)state;
    for (size_t i = 1; i < data.n; i++)
        copy(row_of(&data, i), row_of(&data, 0), data.dim);
    check_both(&data);
    for (size_t i = 0; i < data.n; i++) /* rows that are centroids */
        copy(row_of(&data, i), centroid_of(&data, i % data.k), data.dim);
    check_both(&data);
    memset(data.rows, 0, data.n * data.dim * sizeof(float));
    check_both(&data);
    memset(data.centroids, 0, data.k * data.dim * sizeof(float));
    check_both(&data);
    data_free(&data);
}

/* Every row at the same distance from many centroids, up to rounding. */
static void one_hot(void **state)
{
    struct data data = data_new(120, 140, 140);

    (void)state;
    memset(data.centroids, 0, data.k * data.dim * sizeof(float));
    for (size_t j = 0; j < data.k; j++)
        centroid_of(&data, j)[j] = 1;
    for (size_t i = 0; i < data.n; i++)
        for (size_t d = 0; d < data.dim; d++)
            row_of(&data, i)[d] = i % 3 == 0 ? 0.1f : d % 2 ? 0.3f : 0.3000001f;
    check_both(&data);
    data_free(&data);
}

static void extreme_values(void **state)
{
    static const float scales[] = {1e-44f, 1e-40f, 1e-30f, 1e-20f, 1e15f, 1e19f, 1e30f, 8e37f};

    (void)state;
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        struct data data = data_new(150, 140, 66);

        for (size_t i = 0; i < data.n * data.dim; i++) /* |rng_normal()| < 6 */
            data.rows[i] *= scales[s] / 2;
        for (size_t i = 0; i < data.k * data.dim; i++)
            data.centroids[i] *= scales[s] / 2;
        check_both(&data);
        data_free(&data);
    }
}

/* Some rows, then some centroids, of another magnitude than the rest. */
static void mixed_magnitudes(void **state)
{
    static const float scales[] = {1e-42f, 1e-30f, 1e-3f, 1e4f, 1e18f, 1e30f};

    (void)state;
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        struct data data = data_new(200, 150, 64);

        for (size_t i = 0; i < data.n; i += 3)
            for (size_t d = 0; d < data.dim; d++)
                row_of(&data, i)[d] *= scales[s];
        check_both(&data);
        for (size_t j = 0; j < data.k; j += 5)
            for (size_t d = 0; d < data.dim; d++)
                centroid_of(&data, j)[d] *= scales[s];
        check_both(&data);
        data_free(&data);
    }
}

/* A great common offset: in fp32 around zero everything would be a tie. */
static void far_from_zero(void **state)
{
    struct data data = data_new(200, 150, 70);

    (void)state;
    for (size_t i = 0; i < data.n * data.dim; i++)
        data.rows[i] += 3e4f;
    for (size_t i = 0; i < data.k * data.dim; i++)
        data.centroids[i] += 3e4f;
    check_both(&data);
    data_free(&data);
}

/* One value far greater than all others: bytes keep next to nothing of those. */
static void outlier_dimension(void **state)
{
    static const float outliers[] = {50, 1e4f, 1e9f};

    (void)state;
    for (size_t o = 0; o < 3; o++) {
        struct data data = data_new(300, 200, 100);

        for (size_t i = 0; i < data.n; i++)
            row_of(&data, i)[i % 3 == 0 ? 7 : 0] += outliers[o];
        check_both(&data);
        for (size_t j = 0; j < data.k; j++)
            centroid_of(&data, j)[j % 2 ? 7 : 99] += outliers[o];
        check_both(&data);
        data_free(&data);
    }
}

/* Great norms, small differences: rows and centroids on a sphere of radius 1e6 around one point, the
 * differences within the rounding of a byte and near that of fp32. */
static void small_differences(void **state)
{
    static const float spreads[] = {1e-1f, 1, 1e2f, 1e4f};

    (void)state;
    for (size_t s = 0; s < 4; s++) {
        struct data data = data_new(250, 180, 72);

        for (size_t i = 1; i < data.n + data.k; i++) {
            float *v = i < data.n ? row_of(&data, i) : centroid_of(&data, i - data.n);

            for (size_t d = 0; d < data.dim; d++)
                v[d] = row_of(&data, 0)[d] * 1e6f + v[d] * spreads[s];
        }
        check_both(&data);
        data_free(&data);
    }
}

/* Every value of a row or centroid the same; some rows and centroids 0. */
static void constant_rows(void **state)
{
    struct data data = data_new(300, 200, 65);

    (void)state;
    for (size_t i = 0; i < data.n + data.k; i++) {
        float *v = i < data.n ? row_of(&data, i) : centroid_of(&data, i - data.n);
        float value = i % 11 == 0 ? 0 : v[0];

        for (size_t d = 0; d < data.dim; d++)
            v[d] = value;
    }
    check_both(&data);
    data_free(&data);
}

static void clusters(void **state)
{
    static const size_t ranks[] = {1, 3, 20, 60};
    static const float noises[] = {0, 1e-6f, 0.01f, 1};

    (void)state;
    for (size_t r = 0; r < 4; r++)
        for (size_t e = 0; e < 4; e++) {
            struct data data = data_clustered(600, 160, 96, ranks[r], noises[e]);
            size_t n_before = n_filtered;

            check(&data, (r + e) % 2 ? PLM_DOT : PLM_L2);
            assert_true(n_filtered > n_before); /* here at least it must exist */
            data_free(&data);
        }
}

/* One scratch may serve assigners of other shapes. */
static void shared_scratch(void **state)
{
    struct plm_ctx *ctx = ctx_new();
    struct plm_assign_scratch scratch = {0};
    static const size_t shapes_k[] = {5, 300, 40}, shapes_dim[] = {9, 9, 70};

    (void)state;
    for (size_t s = 0; s < 3; s++) {
        struct data data = data_new(97, shapes_k[s], shapes_dim[s]);
        struct plm_assigner *assigner = NULL;
        uint32_t ids[97], want[97];
        double distances[97];

        oracle(&data, PLM_L2, want, distances);
        assert_int_equal(plm_assigner_create(ctx, data.centroids, data.k, data.dim, PLM_L2,
                                             &assigner, NULL),
                         PLM_OK);
        assert_int_equal(plm_assign(assigner, data.rows, data.n, ids, NULL, &scratch, NULL),
                         PLM_OK);
        assert_memory_equal(ids, want, sizeof ids);
        plm_assigner_destroy(assigner);
        data_free(&data);
    }
    plm_assign_scratch_reset(&scratch);
    plm_ctx_destroy(ctx);
}

static void bad_arguments(void **state)
{
    struct plm_ctx *ctx = ctx_new();
    struct plm_assigner *assigner = NULL;
    struct plm_err err;
    float one = 1;

    (void)state;
    assert_int_equal(plm_assigner_create(ctx, &one, 0, 1, PLM_L2, &assigner, &err), PLM_ARG);
    assert_int_equal(plm_assigner_create(ctx, &one, 1, 0, PLM_L2, &assigner, &err), PLM_ARG);
    assert_null(assigner);
    plm_assigner_destroy(NULL);
    plm_ctx_destroy(ctx);
}

/* The same rows again and again, until the assigner has tried its filters and made its choice:
 * right before, while and after. The data favours a filter, but time decides. */
static void filter_of_its_own(void **state)
{
    struct data data = data_clustered(200, 300, 64, 10, 0.05f);
    const struct plm_kernels *tables[MAX_TABLES];
    size_t n_tables = plm_kernels_available(tables, MAX_TABLES);
    struct plm_ctx *ctx = ctx_new();
    uint32_t ids[200], want[200];
    double distances[200];

    (void)state;
    oracle(&data, PLM_L2, want, distances);
    for (size_t t = 0; t < n_tables; t++) {
        struct plm_assigner *assigner = NULL;
        struct plm_assign_scratch scratch = {0};
        size_t n_calls = 0;

        ctx->kernels = tables[t];
        assert_int_equal(plm_assigner_create(ctx, data.centroids, data.k, data.dim, PLM_L2,
                                             &assigner, NULL),
                         PLM_OK);
        for (size_t n_after = 0; n_after < 3; n_calls++) {
            assert_true(n_calls < 1000); /* 200,000 rows: it must have chosen long ago */
            memset(ids, 0xff, sizeof ids);
            assert_int_equal(plm_assign(assigner, data.rows, data.n, ids, NULL, &scratch, NULL),
                             PLM_OK);
            assert_memory_equal(ids, want, sizeof ids);
            n_after += plm_filter_has_chosen(assigner);
        }
        assert_true(n_calls > 4); /* not at once: it must first be worth it */
        plm_assign_scratch_reset(&scratch);
        plm_assigner_destroy(assigner);
    }
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
    plm_ctx_destroy(ctx);
    data_free(&data);
}

struct shared {
    const struct data *data;
    const struct plm_assigner *assigner;
    struct plm_assign_scratch scratch[4];
    const uint32_t *want;
};

static enum plm_code shared_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct shared *shared = arg;
    enum plm_code rc;
    uint32_t ids[200];

    rc = plm_assign(shared->assigner, shared->data->rows, shared->data->n, ids, NULL,
                    &shared->scratch[worker], err);
    if (rc == PLM_OK && memcmp(ids, shared->want, sizeof ids) != 0)
        rc = plm_fail(err, PLM_BUG, "task %zu got other ids", task);
    return rc;
}

/* One assigner, four threads; one of them tries the filter while the others go on. */
static void threads(void **state)
{
    struct data data = data_clustered(200, 300, 64, 10, 0.05f);
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_assigner *assigner = NULL;
    uint32_t want[200];
    double distances[200];
    struct shared shared = {.data = &data, .want = want};

    (void)state;
    plm_ctx_options_default(&options);
    options.threads = 4;
    assert_int_equal(plm_ctx_create(&options, &ctx, NULL), PLM_OK);
    oracle(&data, PLM_L2, want, distances);
    assert_int_equal(plm_assigner_create(ctx, data.centroids, data.k, data.dim, PLM_L2, &assigner,
                                         NULL),
                     PLM_OK);
    shared.assigner = assigner;
    assert_int_equal(plm_parallel(ctx, 400, shared_task, &shared, NULL), PLM_OK);
    assert_true(plm_filter_has_chosen(assigner));
    for (size_t i = 0; i < 4; i++)
        plm_assign_scratch_reset(&shared.scratch[i]);
    plm_assigner_destroy(assigner);
    plm_ctx_destroy(ctx);
    data_free(&data);
}

static enum plm_code assign_with_filter(struct plm_ctx *ctx, const struct data *data,
                                        uint32_t *ids)
{
    enum plm_code rc = PLM_OK;
    struct plm_assigner *assigner = NULL;
    struct plm_assign_scratch scratch = {0};

    PLM_TRY(plm_assigner_create(ctx, data->centroids, data->k, data->dim, PLM_L2, &assigner, NULL));
    PLM_TRY(plm_filter_force(assigner, 32, true, NULL));
    PLM_TRY(plm_assign(assigner, data->rows, data->n, ids, NULL, &scratch, NULL));
done:
    plm_assign_scratch_reset(&scratch);
    plm_assigner_destroy(assigner);
    return rc;
}

/* Each allocation fails in turn: no leak, no crash, and the right answer once it works. */
static void failing_allocations(void **state)
{
    struct data data = data_clustered(100, 130, 64, 20, 0.1f);
    struct plm_ctx *ctx = ctx_new();
    uint32_t ids[100], want[100];
    double distances[100];
    enum plm_code rc = PLM_NOMEM;
    long nth = 1;

    (void)state;
    oracle(&data, PLM_L2, want, distances);
    for (; rc != PLM_OK; nth++) {
        assert_true(nth < 200);
        atomic_store(&ctx->faults.alloc_countdown, nth);
        rc = assign_with_filter(ctx, &data, ids);
        assert_true(rc == PLM_OK || rc == PLM_NOMEM);
        assert_int_equal(atomic_load(&ctx->memory_used), 0);
    }
    assert_true(nth > 20);
    assert_memory_equal(ids, want, sizeof ids);
    plm_ctx_destroy(ctx);
    data_free(&data);
}

static void cancelled(void **state)
{
    struct data data = data_new(10, 4, 3);
    struct plm_ctx *ctx = ctx_new();
    struct plm_assigner *assigner = NULL;
    struct plm_assign_scratch scratch = {0};
    uint32_t ids[10];

    (void)state;
    assert_int_equal(plm_assigner_create(ctx, data.centroids, 4, 3, PLM_L2, &assigner, NULL),
                     PLM_OK);
    plm_ctx_cancel(ctx);
    assert_int_equal(plm_assign(assigner, data.rows, 10, ids, NULL, &scratch, NULL),
                     PLM_CANCELLED);
    plm_assign_scratch_reset(&scratch);
    plm_assigner_destroy(assigner);
    plm_ctx_destroy(ctx);
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes),
        cmocka_unit_test(many_centroids),
        cmocka_unit_test(ties),
        cmocka_unit_test(duplicate_centroids),
        cmocka_unit_test(last_bit),
        cmocka_unit_test(equal_rows),
        cmocka_unit_test(one_hot),
        cmocka_unit_test(extreme_values),
        cmocka_unit_test(mixed_magnitudes),
        cmocka_unit_test(far_from_zero),
        cmocka_unit_test(outlier_dimension),
        cmocka_unit_test(small_differences),
        cmocka_unit_test(constant_rows),
        cmocka_unit_test(clusters),
        cmocka_unit_test(shared_scratch),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(filter_of_its_own),
        cmocka_unit_test(threads),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
