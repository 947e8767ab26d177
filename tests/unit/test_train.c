/* test_train.c - centroids: the same whatever the shards, good, and found on any data. */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cluster/shard_groups.h"
#include "cluster/shard_impl.h"
#include "cluster/trainer_impl.h"
#include "support/mem_store.h"

static struct plm_ctx *ctx;
static uint64_t rng_state;

static double rng_unit(void) { return (double)(plm_mix64(11, rng_state++) >> 11) * 0x1p-53; }
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

/* Rows around centres that lie in a space of `rank` dimensions. */
static float *clustered(size_t n, size_t dim, size_t n_centres, size_t rank, float noise)
{
    float *basis = floats(rank * dim), *centres = calloc(n_centres * dim, sizeof(float));
    float *rows = floats(n * dim);

    for (size_t i = 0; i < rank * dim; i++)
        basis[i] = rng_normal() / sqrtf((float)dim);
    for (size_t c = 0; c < n_centres; c++)
        for (size_t r = 0; r < rank; r++) {
            float weight = rng_normal();
            for (size_t d = 0; d < dim; d++)
                centres[c * dim + d] += weight * basis[r * dim + d];
        }
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < dim; d++)
            rows[i * dim + d] = centres[plm_mix64(5, i) % n_centres * dim + d] + noise * rng_normal();
    free(basis);
    free(centres);
    return rows;
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

/* ---- driving the machine ------------------------------------------------------------------- */

struct plan {
    struct plm_train_options options;
    const float *rows;
    size_t n_shards;
    bool fresh_shards;  /* created anew for every step */
    bool reload;        /* the trainer goes through a checkpoint after every step */
    bool unaligned;     /* messages lie at odd addresses */
    bool backwards;     /* order of merging */
};

static uint8_t *odd_copy(struct plm_view view, struct plm_view *out)
{
    uint8_t *copy = malloc(view.len + 1);

    assert_non_null(copy);
    memcpy(copy + 1, view.data, view.len);
    *out = (struct plm_view){copy + 1, view.len};
    return copy;
}

static void answer_one(const struct plan *p, size_t i, struct plm_shard **shards,
                       const struct plm_sample *samples, struct plm_view step, struct plm_buf *all)
{
    struct plm_buf one;
    uint8_t *step_copy = NULL, *one_copy = NULL;
    size_t first = p->options.n_sample * i / p->n_shards;
    struct plm_view view;

    plm_buf_init(&one, ctx, SIZE_MAX);
    if (p->fresh_shards) {
        plm_shard_destroy(shards[i]);
        assert_int_equal(plm_shard_create(ctx, &samples[i], first, &shards[i], NULL), PLM_OK);
    }
    if (p->unaligned)
        step_copy = odd_copy(step, &step);
    assert_int_equal(plm_shard_run(shards[i], step, &one, NULL), PLM_OK);
    view = (struct plm_view){one.data, one.len};
    if (p->unaligned)
        one_copy = odd_copy(view, &view);
    assert_int_equal(plm_partial_merge(all, view, NULL), PLM_OK);
    plm_buf_reset(&one);
    free(step_copy);
    free(one_copy);
}

static void reload(struct plm_trainer **trainer)
{
    struct plm_buf saved;
    struct plm_trainer *loaded = NULL;

    plm_buf_init(&saved, ctx, SIZE_MAX);
    assert_int_equal(plm_trainer_save(*trainer, &saved, NULL), PLM_OK);
    assert_int_equal(plm_trainer_load(ctx, (struct plm_view){saved.data, saved.len}, &loaded, NULL), PLM_OK);
    plm_trainer_destroy(*trainer);
    plm_buf_reset(&saved);
    *trainer = loaded;
}

static void absorb(const struct plan *p, struct plm_trainer **trainer, const struct plm_buf *all)
{
    struct plm_view view = {all->data, all->len};
    uint8_t *copy = NULL;

    if (p->unaligned)
        copy = odd_copy(view, &view);
    assert_int_equal(plm_trainer_absorb(*trainer, view, NULL), PLM_OK);
    free(copy);
    if (p->reload)
        reload(trainer);
}

/* Trains; the caller destroys the trainer. */
static struct plm_trainer *train(const struct plan *p)
{
    struct plm_shard *shards[8] = {NULL};
    struct plm_sample samples[8];
    struct plm_trainer *trainer;
    struct plm_buf all;
    struct plm_view step;
    unsigned done, total, n_steps = 0;

    assert_int_equal(plm_trainer_create(ctx, &p->options, &trainer, NULL), PLM_OK);
    for (size_t i = 0; i < p->n_shards; i++) {
        size_t first = p->options.n_sample * i / p->n_shards;
        size_t end = p->options.n_sample * (i + 1) / p->n_shards;
        plm_sample_of(ctx, p->rows + first * p->options.dim, end - first, p->options.dim, &samples[i]);
        assert_int_equal(plm_shard_create(ctx, &samples[i], first, &shards[i], NULL), PLM_OK);
    }
    plm_buf_init(&all, ctx, SIZE_MAX);
    while ((step = plm_trainer_step(trainer, NULL)).len > 0) {
        assert_null(plm_trainer_centroids(trainer));
        plm_trainer_progress(trainer, &done, &total);
        assert_true(done == n_steps && total > done);
        assert_true(n_steps++ < 100); /* it ends */
        all.len = 0;
        for (size_t i = 0; i < p->n_shards; i++)
            answer_one(p, p->backwards ? p->n_shards - 1 - i : i, shards, samples, step, &all);
        absorb(p, &trainer, &all);
    }
    plm_trainer_progress(trainer, &done, &total);
    assert_true(done == total);
    for (size_t i = 0; i < p->n_shards; i++)
        plm_shard_destroy(shards[i]);
    plm_buf_reset(&all);
    return trainer;
}

static struct plan plan_of(const float *rows, size_t n, size_t dim, size_t k, enum plm_metric metric)
{
    return (struct plan){.options = {.n_sample = n, .dim = dim, .k = k, .metric = metric, .seed = 42,
                                     .max_iters = 50},
                         .rows = rows, .n_shards = 1};
}

static void expect_same(const struct plm_trainer *a, const struct plm_trainer *b)
{
    const double *x, *y;
    size_t n = plm_trainer_losses(a, &x);

    assert_memory_equal(plm_trainer_centroids(a), plm_trainer_centroids(b),
                        a->options.k * a->options.dim * sizeof(float));
    assert_int_equal(plm_trainer_losses(b, &y), n);
    assert_memory_equal(x, y, n * sizeof *x);
}

/* ---- the same whatever the cut ------------------------------------------------------------------ */

static void check_cuts(size_t n, size_t dim, size_t k, enum plm_metric metric, float noise)
{
    float *rows = clustered(n, dim, k, 12, noise);
    struct plan base = plan_of(rows, n, dim, k, metric);
    struct plm_trainer *whole = train(&base);
    struct plan variants[] = {base, base, base, base, base, base};
    unsigned threads = ctx->threads;

    variants[0].n_shards = 2;
    variants[1].n_shards = 7;
    variants[1].backwards = true;
    variants[2].n_shards = 3;
    variants[2].fresh_shards = true;
    variants[3].reload = true;
    variants[4].n_shards = 2;
    variants[4].unaligned = true;
    variants[5].n_shards = 7;
    variants[5].fresh_shards = variants[5].reload = variants[5].backwards = true;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        ctx->threads = 1 + (unsigned)(v % 3);
        struct plm_trainer *other = train(&variants[v]);
        expect_same(whole, other);
        plm_trainer_destroy(other);
    }
    ctx->threads = threads;
    base.options.seed = 43; /* not a constant, either */
    struct plm_trainer *other = train(&base);
    assert_memory_not_equal(plm_trainer_centroids(whole), plm_trainer_centroids(other),
                            k * dim * sizeof(float));
    plm_trainer_destroy(other);
    plm_trainer_destroy(whole);
    free(rows);
}

static void test_cuts_unprojected(void **state)
{
    (void)state;
    check_cuts(2500, 19, 40, PLM_L2, 0.05f);
}
static void test_cuts_projected(void **state)
{
    (void)state;
    check_cuts(2600, 100, 50, PLM_L2, 0.05f);
}
static void test_cuts_dot(void **state)
{
    (void)state;
    check_cuts(2500, 97, 33, PLM_DOT, 0.05f);
}
/* Nothing but noise: the axes leave so many rows open that training goes on without them. */
static void test_cuts_noise(void **state)
{
    (void)state;
    check_cuts(2600, 160, 90, PLM_L2, 2);
}

/* So many centroids that rows look for their leaves in groups; */
static void test_cuts_leaf_groups(void **state)
{
    (void)state;
    check_cuts(4300, 100, 4100, PLM_L2, 0.05f);
}
/* and for their centroids, on axes and without. */
static void test_cuts_groups(void **state)
{
    (void)state;
    check_cuts(16500, 97, 16400, PLM_L2, 0.05f);
}
static void test_cuts_groups_unprojected(void **state)
{
    (void)state;
    check_cuts(16500, 12, 16400, PLM_L2, 0.05f);
}

/* Points found through groups against all of them. */
static void check_groups(bool dot)
{
    enum { N = 960, DIM = 20, K = 5000 };
    float *points = clustered(K, DIM, 300, 12, 0.2f), *rows = clustered(N, DIM, 300, 12, 0.2f);
    float *biases = malloc(K * sizeof *biases), best[N], second[N];
    struct plm_found *found = malloc(N * sizeof *found);
    struct plm_groups *groups;
    uint32_t ids[N], n_right = 0;
    bool which[N];

    rows[7 * DIM] = NAN;
    for (size_t j = 0; j < K; j++)
        biases[j] = dot ? 0 : (float)ctx->kernels->norm2(points + j * DIM, DIM) / 2;
    assert_int_equal(plm_groups_create(ctx, points, biases, K, DIM, dot, &groups, NULL), PLM_OK);
    plm_groups_nearest(groups, rows, N, 0, best, second, ids);
    for (size_t i = 0; i < N; i++)
        which[i] = i % 2 == 0 && i > 0;
    plm_groups_at_most(groups, rows, N, 0, which, second, found);
    for (size_t i = 0; i < N; i++) {
        double least = INFINITY;
        uint32_t nearest = 0;

        assert_true(best[i] <= second[i]);
        if (i == 7)
            continue;
        for (uint32_t j = 0; j < K; j++) {
            double value = (double)biases[j] - ctx->kernels->dot_exact(rows + i * DIM, points + (size_t)j * DIM, DIM);
            if (value < least) {
                least = value;
                nearest = j;
            }
        }
        n_right += ids[i] == nearest;
        assert_true((double)best[i] >= least - 1e-3);
        assert_int_equal(found[i].n > 1, which[i]);
        if (which[i])
            assert_true(found[i].n_all == 2 && (found[i].ids[0] == ids[i] || found[i].ids[1] == ids[i]));
    }
    assert_int_equal(ids[7], K);
    assert_true(n_right > N * 85 / 100); /* rows of other clusters than the points */
    plm_groups_destroy(groups);
    free(points);
    free(rows);
    free(biases);
    free(found);
}

static void test_groups(void **state)
{
    (void)state;
    check_groups(false);
    check_groups(true);
}

/* A shard without rows is no harm. */
static void test_empty_shard(void **state)
{
    enum { N = 5, DIM = 3 };
    float *rows = clustered(N, DIM, 2, 2, 0.1f);
    struct plan p = plan_of(rows, N, DIM, 2, PLM_L2);
    struct plm_trainer *one = train(&p), *many;
    (void)state;

    p.n_shards = 7;
    many = train(&p);
    expect_same(one, many);
    plm_trainer_destroy(one);
    plm_trainer_destroy(many);
    free(rows);
}

static void test_spilled_sample(void **state)
{
    enum { N = 2100, DIM = 272, K = 20 };
    float *rows = clustered(N, DIM, K, 10, 0.1f);
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    struct plm_trainer *expected = train(&p), *trainer;
    struct plm_store *store = mem_store_open(ctx);
    struct plm_sample memory, spilled;
    unsigned threads = ctx->threads;
    uint64_t size;
    (void)state;

    mem_store_set(store, "spill", rows, N * DIM * sizeof *rows);
    plm_sample_of(ctx, rows, N, DIM, &memory);
    spilled = memory;
    spilled.rows = NULL;
    assert_int_equal(plm_file_open(store, "spill", 0, &spilled.spill, NULL), PLM_OK);
    assert_int_equal(plm_trainer_create(ctx, &p.options, &trainer, NULL), PLM_OK);
    assert_int_equal(plm_train_local(ctx, &spilled, trainer, NULL, NULL, NULL), PLM_OK);
    expect_same(expected, trainer);
    plm_trainer_destroy(trainer);

    /* projected rows as well */
    spilled.aside = store;
    snprintf(spilled.aside_path, sizeof spilled.aside_path, "projected");
    ctx->threads = 1; /* two chunks */
    assert_int_equal(plm_trainer_create(ctx, &p.options, &trainer, NULL), PLM_OK);
    assert_int_equal(plm_train_local(ctx, &spilled, trainer, NULL, NULL, NULL), PLM_OK);
    expect_same(expected, trainer);
    plm_trainer_destroy(trainer);
    assert_int_equal(plm_store_size(store, "projected", &size, NULL), PLM_NOT_FOUND);
    ctx->threads = threads;

    /* a read that fails stops training with the store's code */
    assert_int_equal(plm_trainer_create(ctx, &p.options, &trainer, NULL), PLM_OK);
    atomic_store(&ctx->faults.io_countdown, 2001);
    assert_int_equal(plm_train_local(ctx, &spilled, trainer, NULL, NULL, NULL), PLM_IO);
    atomic_store(&ctx->faults.io_countdown, 0);
    plm_trainer_destroy(trainer);
    plm_trainer_destroy(expected);
    plm_sample_reset(&spilled);
    plm_store_close(store);
    free(rows);
}

/* So many sums that they wait until all rows are placed; rows come in several chunks. */
static void test_sums_that_wait(void **state)
{
    enum { N = 4200, DIM = 2100, K = 4100 };
    float *rows = clustered(N, DIM, 40, 12, 0.1f);
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    struct plm_store *store = mem_store_open(ctx);
    struct plm_sample spilled;
    struct plm_trainer *expected, *trainer;
    unsigned threads = ctx->threads;
    (void)state;

    assert_true(plm_sums_wait(K, DIM));
    p.options.max_iters = 1;
    p.n_shards = 2;
    expected = train(&p);
    mem_store_set(store, "spill", rows, (size_t)N * DIM * sizeof *rows);
    plm_sample_of(ctx, rows, N, DIM, &spilled);
    spilled.rows = NULL;
    spilled.aside = store;
    snprintf(spilled.aside_path, sizeof spilled.aside_path, "projected");
    assert_int_equal(plm_file_open(store, "spill", 0, &spilled.spill, NULL), PLM_OK);
    ctx->threads = 1;
    assert_int_equal(plm_trainer_create(ctx, &p.options, &trainer, NULL), PLM_OK);
    assert_int_equal(plm_train_local(ctx, &spilled, trainer, NULL, NULL, NULL), PLM_OK);
    ctx->threads = threads;
    expect_same(expected, trainer);
    plm_trainer_destroy(trainer);
    plm_trainer_destroy(expected);
    plm_sample_reset(&spilled);
    plm_store_close(store);
    free(rows);
}

/* ---- good ---------------------------------------------------------------------------------------- */

struct quality {
    double loss, variance, spread; /* spread: of the sizes, standard deviation / mean */
};

static struct quality measure(const struct plan *p, const float *centroids)
{
    size_t n = p->options.n_sample, dim = p->options.dim, k = p->options.k;
    double *mean = calloc(dim, sizeof *mean), squares = 0;
    size_t *sizes = calloc(k, sizeof *sizes);
    struct quality q = {0};

    for (size_t i = 0; i < n * dim; i++)
        mean[i % dim] += (double)p->rows[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        const float *row = p->rows + i * dim;
        double least = INFINITY;
        size_t nearest = 0;

        for (size_t c = 0; c < k; c++) {
            const float *centroid = centroids + c * dim;
            double d = p->options.metric == PLM_DOT ? 1 - ctx->kernels->dot_exact(row, centroid, dim)
                                                    : ctx->kernels->l2_exact(row, centroid, dim);
            if (d < least) {
                least = d;
                nearest = c;
            }
        }
        q.loss += least / (double)n;
        sizes[nearest]++;
        for (size_t d = 0; d < dim; d++)
            q.variance += ((double)row[d] - mean[d]) * ((double)row[d] - mean[d]) / (double)n;
    }
    for (size_t c = 0; c < k; c++)
        squares += pow((double)sizes[c] - (double)n / (double)k, 2) / (double)k;
    q.spread = sqrt(squares) / ((double)n / (double)k);
    free(mean);
    free(sizes);
    return q;
}

/* Every Lloyd step of a training on the rows, answered by axes: how many rows these left open, and
 * for how many they found another centroid than the nearest. */
static void count_misplaced(const struct plan *p, size_t *n_open, size_t *n_wrong)
{
    size_t n = p->options.n_sample, dim = p->options.dim, k = p->options.k;
    struct plm_trainer *trainer;
    struct plm_sample sample;
    struct plm_shard *shard;
    struct plm_buf partial;
    struct plm_view view;
    uint32_t *ids = malloc(n * sizeof *ids);

    *n_open = *n_wrong = 0;
    plm_sample_of(ctx, p->rows, n, dim, &sample);
    plm_buf_init(&partial, ctx, SIZE_MAX);
    assert_int_equal(plm_shard_create(ctx, &sample, 0, &shard, NULL), PLM_OK);
    assert_int_equal(plm_trainer_create(ctx, &p->options, &trainer, NULL), PLM_OK);
    for (; (view = plm_trainer_step(trainer, NULL)).len > 0;) {
        struct plm_place_head *head;
        struct plm_step step;

        assert_int_equal(plm_step_parse(view, &step, NULL), PLM_OK);
        partial.len = 0;
        assert_int_equal(plm_shard_run(shard, view, &partial, NULL), PLM_OK);
        if (step.head.kind == PLM_STEP_LLOYD && step.head.has_basis) {
            assert_int_equal(plm_place_head_create(shard, &step, &head, NULL), PLM_OK);
            assert_int_equal(plm_place_by_head(head, p->rows, 0, n, 0, ids, NULL), PLM_OK);
            plm_place_head_destroy(head);
            for (size_t i = 0; i < n; i++) {
                const float *row = p->rows + i * dim;
                double least = INFINITY;

                for (size_t c = 0; c < k; c++)
                    least = fmin(least, ctx->kernels->l2_exact(row, step.points + c * dim, dim));
                if (ids[i] == PLM_ROW_OPEN)
                    ++*n_open;
                else
                    *n_wrong += ctx->kernels->l2_exact(row, step.points + ids[i] * dim, dim) > least;
            }
        }
        assert_int_equal(plm_trainer_absorb(trainer, (struct plm_view){partial.data, partial.len}, NULL),
                         PLM_OK);
    }
    plm_buf_reset(&partial);
    plm_trainer_destroy(trainer);
    plm_shard_destroy(shard);
    free(ids);
}

/* The step after the first, of rows of few dimensions: whether it has axes. */
static bool gets_axes(const float *rows, size_t n, size_t dim)
{
    struct plan p = plan_of(rows, n, dim, 20, PLM_L2);
    struct plm_trainer *trainer;
    struct plm_sample sample;
    struct plm_shard *shard;
    struct plm_buf partial;
    struct plm_step step;

    plm_sample_of(ctx, rows, n, dim, &sample);
    plm_buf_init(&partial, ctx, SIZE_MAX);
    assert_int_equal(plm_shard_create(ctx, &sample, 0, &shard, NULL), PLM_OK);
    assert_int_equal(plm_trainer_create(ctx, &p.options, &trainer, NULL), PLM_OK);
    assert_int_equal(plm_shard_run(shard, plm_trainer_step(trainer, NULL), &partial, NULL), PLM_OK);
    assert_int_equal(plm_trainer_absorb(trainer, (struct plm_view){partial.data, partial.len}, NULL), PLM_OK);
    assert_int_equal(plm_step_parse(plm_trainer_step(trainer, NULL), &step, NULL), PLM_OK);
    assert_int_equal(step.head.r, step.head.has_basis ? 64 : dim);
    plm_buf_reset(&partial);
    plm_trainer_destroy(trainer);
    plm_shard_destroy(shard);
    return step.head.has_basis;
}

static void test_axes_that_say_too_little(void **state)
{
    enum { N = 1000, DIM = 240 };
    float *few = clustered(N, DIM, 20, 20, 0.1f), *all = floats(N * DIM);
    (void)state;

    for (size_t i = 0; i < N * DIM; i++)
        all[i] = rng_normal();
    assert_true(gets_axes(few, N, DIM));
    assert_false(gets_axes(all, N, DIM));
    free(few);
    free(all);
}

static void test_axes_find_the_nearest(void **state)
{
    enum { N = 3000, DIM = 280, K = 60 };
    float *rows = clustered(N, DIM, K, 20, 0.1f);
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    size_t n_open, n_wrong;
    (void)state;

    count_misplaced(&p, &n_open, &n_wrong);
    assert_true(n_open < N / 100);
    assert_true(n_wrong < N / 100);
    free(rows);
}

/* 64 separate clusters, 64 centroids: most are found. The noise alone has a loss of 0.0016 dim; what
 * is left of the variance is 0.055 and 0.068 here, with flat k-means from random rows 0.07 to 0.11. */
static void check_quality(size_t dim)
{
    enum { N = 6000, K = 64 };
    float *rows = clustered(N, dim, K, 10, 0.04f);
    struct plan p = plan_of(rows, N, dim, K, PLM_L2);
    struct plm_trainer *trainer = train(&p);
    struct quality q = measure(&p, plm_trainer_centroids(trainer));
    const double *losses;
    size_t n_losses = plm_trainer_losses(trainer, &losses);
    double noise = 0.0016 * (double)dim;

    assert_true(q.loss > 0.8 * noise);
    assert_true(q.loss < noise + (q.variance - noise) * 0.09);
    assert_true(q.spread < 0.9);
    assert_true(n_losses >= 2);
    for (size_t i = 1; i < n_losses; i++)
        assert_true(losses[i] <= losses[i - 1]);
    assert_true(q.loss <= losses[n_losses - 1] * (1 + 1e-6));
    plm_trainer_destroy(trainer);
    free(rows);
}

static void test_quality_unprojected(void **state)
{
    (void)state;
    check_quality(24);
}
static void test_quality_projected(void **state)
{
    (void)state;
    check_quality(272);
}

/* Structureless data: hardly worse than flat k-means (3.42 after 10 rounds), and even. */
static void test_quality_on_noise(void **state)
{
    enum { N = 8000, DIM = 8, K = 64 };
    float *rows = floats(N * DIM);
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    (void)state;

    for (size_t i = 0; i < N * DIM; i++)
        rows[i] = rng_normal();
    struct plm_trainer *trainer = train(&p);
    struct quality q = measure(&p, plm_trainer_centroids(trainer));
    assert_true(q.loss < 3.6);
    assert_true(q.spread < 0.25);
    plm_trainer_destroy(trainer);
    free(rows);
}

static void test_dot_is_spherical(void **state)
{
    enum { N = 3000, DIM = 48, K = 30 };
    float *rows = clustered(N, DIM, K, 8, 0.05f);
    struct plan p = plan_of(rows, N, DIM, K, PLM_DOT);
    struct plm_trainer *trainer = train(&p);
    const float *centroids = plm_trainer_centroids(trainer);
    const double *losses;
    double norms = 0;
    (void)state;

    for (size_t c = 0; c < K; c++)
        assert_true(fabs(ctx->kernels->norm2(centroids + c * DIM, DIM) - 1) < 1e-6);
    for (size_t i = 0; i < N; i++)
        norms += sqrt(ctx->kernels->norm2(rows + i * DIM, DIM)) / N;
    /* 1 - norms would be a centroid for every row */
    struct quality q = measure(&p, centroids);
    assert_true(1 - q.loss > 0.9 * norms);
    size_t n = plm_trainer_losses(trainer, &losses);
    assert_true(n >= 1 && q.loss <= losses[n - 1] + 1e-6);
    plm_trainer_destroy(trainer);
    free(rows);
}

static void test_one_centroid_is_the_mean(void **state)
{
    enum { N = 999, DIM = 7 };
    float *rows = clustered(N, DIM, 5, 5, 0.3f);
    struct plan p = plan_of(rows, N, DIM, 1, PLM_COSINE);
    struct plm_trainer *trainer = train(&p);
    const double *losses;
    (void)state;

    for (size_t d = 0; d < DIM; d++) {
        double sum = 0;
        for (size_t i = 0; i < N; i++)
            sum += (double)rows[i * DIM + d];
        assert_true(fabs((double)plm_trainer_centroids(trainer)[d] - sum / N) < 1e-6);
    }
    assert_true(plm_trainer_losses(trainer, &losses) >= 1);
    struct quality q = measure(&p, plm_trainer_centroids(trainer));
    assert_true(fabs(losses[0] - q.loss) < 1e-5 * q.loss);
    assert_true(fabs(q.loss - q.variance) < 1e-5 * q.loss);
    plm_trainer_destroy(trainer);
    free(rows);
}

/* ---- any data --------------------------------------------------------------------------------------- */

static struct quality train_any(const float *rows, size_t n, size_t dim, size_t k, enum plm_metric metric)
{
    struct plan p = plan_of(rows, n, dim, k, metric);
    struct plm_trainer *trainer = train(&p);
    const float *centroids = plm_trainer_centroids(trainer);
    const double *losses;

    for (size_t i = 0; i < k * dim; i++)
        assert_true(isfinite(centroids[i]));
    for (size_t i = 0; i < plm_trainer_losses(trainer, &losses); i++)
        assert_true(isfinite(losses[i]));
    struct quality q = measure(&p, centroids);
    plm_trainer_destroy(trainer);
    return q;
}

static void test_few_distinct_rows(void **state)
{
    static const size_t distinct[] = {1, 2, 5, 49};
    enum { N = 1500, K = 50 };
    (void)state;

    for (size_t s = 0; s < 4; s++)
        for (size_t dim = 3; dim <= 120; dim += 117) {
            float *base = clustered(distinct[s], dim, distinct[s], 3, 0.01f), *rows = floats(N * dim);

            for (size_t i = 0; i < N; i++)
                memcpy(rows + i * dim, base + i % distinct[s] * dim, dim * sizeof *rows);
            struct quality q = train_any(rows, N, dim, K, PLM_L2);
            assert_true(q.loss <= 1e-9 + (distinct[s] > 5 ? q.variance / 20 : 0));
            train_any(rows, N, dim, K, PLM_DOT);
            free(base);
            free(rows);
        }
}

static void test_as_many_centroids_as_rows(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 17, 300};
    (void)state;

    for (size_t s = 0; s < 5; s++)
        for (size_t less = 0; less <= 1 && less < sizes[s]; less++) {
            float *rows = clustered(sizes[s], 20, sizes[s], 5, 0.1f);
            struct quality q = train_any(rows, sizes[s], 20, sizes[s] - less, PLM_L2);

            if (less == 0)
                assert_true(q.loss <= 0.02 * q.variance + 1e-12);
            train_any(rows, sizes[s], 20, sizes[s] - less, PLM_DOT);
            free(rows);
        }
}

/* Most rows are one and the same: the rest still gets its centroids. */
static void test_mostly_duplicates(void **state)
{
    enum { N = 4000, DIM = 16, K = 100 };
    float *rows = clustered(N, DIM, N, 8, 0.2f);
    double without;
    (void)state;

    without = train_any(rows, N / 10, DIM, K, PLM_L2).loss;
    for (size_t i = N / 10; i < N; i++)
        for (size_t d = 0; d < DIM; d++)
            rows[i * DIM + d] = 3;
    struct quality q = train_any(rows, N, DIM, K, PLM_L2);
    assert_true(q.loss * 10 < 2 * without); /* per row that is not a duplicate */
    free(rows);
}

static void test_extreme_values(void **state)
{
    static const float scales[] = {3e37f, 1e19f, 1e-20f, 1e-42f, 0};
    enum { N = 700, DIM = 260, K = 20 };
    (void)state;

    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        float *rows = clustered(N, DIM, K, 6, 0.1f);

        for (size_t i = 0; i < N * DIM; i++)
            rows[i] *= scales[s];
        train_any(rows, N, DIM, K, PLM_L2);
        train_any(rows, N, DIM, K, PLM_DOT);
        free(rows);
    }
}

/* One absurd value does not spoil the centroids of all others. */
static void test_outlier(void **state)
{
    enum { N = 4000, DIM = 20, K = 30 };
    float *rows = clustered(N, DIM, K, 8, 0.05f);
    double before = train_any(rows, N, DIM, K - 1, PLM_L2).loss; /* it may have one of its own */
    size_t at = 0;
    (void)state;

    while (plm_mix64(plm_mix64(42, 0x5eed0001u), at) < UINT64_MAX / 10 * 9)
        at++; /* a row that is not among those fetched */
    rows[at * DIM + 3] = 1e20f;
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    struct plm_trainer *trainer = train(&p);
    rows[at * DIM + 3] = 0;
    struct quality q = measure(&p, plm_trainer_centroids(trainer));
    assert_true(q.loss < 2 * before);
    plm_trainer_destroy(trainer);
    free(rows);
}

/* ---- parts ------------------------------------------------------------------------------------------------ */

static void test_quotas(void **state)
{
    uint32_t q[4];
    (void)state;

#define SHARE(total, n, ...)                                                              \
    assert_int_equal(plm_share_quotas(ctx, total, (uint64_t[])__VA_ARGS__, n, q, NULL), PLM_OK)
    SHARE(10, 3, {50, 30, 20}, (uint64_t[]){50, 30, 20});
    assert_true(q[0] == 5 && q[1] == 3 && q[2] == 2);
    SHARE(10, 3, {55, 30, 15}, (uint64_t[]){55, 30, 15}); /* 5.5, 3, 1.5: a tie, the first wins */
    assert_true(q[0] == 6 && q[1] == 3 && q[2] == 1);
    SHARE(10, 4, {1000, 1, 0, 1}, (uint64_t[]){1000, 1, 0, 1}); /* at least 1 each, none if empty */
    assert_true(q[0] == 8 && q[1] == 1 && q[2] == 0 && q[3] == 1);
    SHARE(10, 3, {80, 10, 10}, (uint64_t[]){2, 10, 10}); /* what one cannot use, the others get */
    assert_true(q[0] == 2 && q[1] == 4 && q[2] == 4);
    SHARE(10, 2, {3, 3}, (uint64_t[]){3, 3}); /* no more than there is room for */
    assert_true(q[0] == 3 && q[1] == 3);
    SHARE(5, 2, {UINT32_MAX, UINT32_MAX}, (uint64_t[]){UINT32_MAX, UINT32_MAX});
    assert_true(q[0] == 3 && q[1] == 2);
#undef SHARE
}

static void test_split_fan(void **state)
{
    (void)state;
    assert_int_equal(plm_split_fan(1, 1, 0), 1);
    assert_int_equal(plm_split_fan(16, 16, 0), 16);
    assert_int_equal(plm_split_fan(64, 64, 0), 64);
    assert_int_equal(plm_split_fan(257, 257, 0), 256);
    assert_int_equal(plm_split_fan(1000, 1000, 0), 256);
    assert_int_equal(plm_split_fan(100000, 100000, 0), 317);
    assert_int_equal(plm_split_fan(128, 1000, 1), 128);   /* final */
    assert_int_equal(plm_split_fan(400, 1000, 1), 20);    /* a crowd: once more */
    assert_int_equal(plm_split_fan(400, 1000, PLM_TREE_LEVELS - 1), 400);
}

static void test_fill_empties(void **state)
{
    float c[5 * 2] = {1, 1, 0, 0, 5, 5, 0, 0, 9, 9};
    uint64_t counts[5] = {10, 0, 40, 0, 60};
    int64_t losses[5] = {100, 0, 3200, 0, 0}; /* the largest has no spread: it is not split */
    (void)state;

    assert_int_equal(plm_fill_empties(ctx, c, 5, 2, false, counts, losses, 1.0, 7, NULL), PLM_OK);
    assert_true(c[0] == 1 && c[8] == 9 && counts[4] == 60);
    /* 40 rows of mean loss 80: steps of sqrt(80 / 2) / 16. Then 20 and 20: the lower is split. */
    assert_true(counts[1] == 10 && counts[2] == 20 && counts[3] == 10);
    assert_true(losses[1] == 800 && losses[2] == 1600 && losses[3] == 800);
    double step = sqrt(40.0) / 16;
    for (size_t d = 0; d < 2; d++) {
        assert_true(fabs(fabs((double)c[4 + d] - 5) - step) < 1e-6);
        assert_true(fabs((double)c[2 + d] + (double)c[6 + d] + 2 * (double)c[4 + d] - 20) < 1e-5);
    }
    assert_true(c[2] != c[6]);
}

/* ---- messages from outside ---------------------------------------------------------------------------------- */

struct machine {
    float *rows;
    struct plm_sample sample, half;
    struct plm_shard *whole, *first_half;
    struct plm_trainer *trainer;
    struct plm_buf partial;
};

enum { M_N = 600, M_DIM = 272, M_K = 20 };

static void machine_start(struct machine *m)
{
    struct plm_train_options o = {.n_sample = M_N, .dim = M_DIM, .k = M_K, .seed = 1, .max_iters = 2};

    m->rows = clustered(M_N, M_DIM, 10, 5, 0.1f);
    plm_sample_of(ctx, m->rows, M_N, M_DIM, &m->sample);
    plm_sample_of(ctx, m->rows, M_N / 2, M_DIM, &m->half);
    assert_int_equal(plm_shard_create(ctx, &m->sample, 0, &m->whole, NULL), PLM_OK);
    assert_int_equal(plm_shard_create(ctx, &m->half, 0, &m->first_half, NULL), PLM_OK);
    assert_int_equal(plm_trainer_create(ctx, &o, &m->trainer, NULL), PLM_OK);
    plm_buf_init(&m->partial, ctx, SIZE_MAX);
}

static void machine_stop(struct machine *m)
{
    plm_buf_reset(&m->partial);
    plm_trainer_destroy(m->trainer);
    plm_shard_destroy(m->whole);
    plm_shard_destroy(m->first_half);
    free(m->rows);
}

static struct plm_view answer(struct machine *m, struct plm_shard *shard)
{
    m->partial.len = 0;
    assert_int_equal(plm_shard_run(shard, plm_trainer_step(m->trainer, NULL), &m->partial, NULL), PLM_OK);
    return (struct plm_view){m->partial.data, m->partial.len};
}

/* `bytes` cut short, and with single bytes changed; each goes to `feed`, which must survive it. */
/* One thread feeds them; the sanitizer for threads sees fewer. */
#if defined(__SANITIZE_THREAD__)
#define FLIPS 30
#define EVERY_BYTE 1
#else
#define FLIPS 300
#define EVERY_BYTE 512 /* so many bytes at the beginning */
#endif

static void damage(struct plm_view bytes, void (*feed)(struct machine *, struct plm_view), struct machine *m)
{
    size_t cut_step = bytes.len / 40 + 1, flip_step = bytes.len / FLIPS + 1;
    uint8_t *copy;

    for (size_t cut = 0; cut < bytes.len; cut += cut_step) {
        copy = malloc(cut + 1);
        memcpy(copy, bytes.data, cut);
        feed(m, (struct plm_view){copy, cut});
        free(copy);
    }
    for (size_t at = 0; at < bytes.len; at += at < EVERY_BYTE ? 1 : flip_step) {
        copy = malloc(bytes.len);
        memcpy(copy, bytes.data, bytes.len);
        copy[at] ^= at % 2 ? 0xff : 0x01;
        feed(m, (struct plm_view){copy, bytes.len});
        free(copy);
    }
}

static void feed_step(struct machine *m, struct plm_view bytes)
{
    struct plm_err err = {0};
    enum plm_code rc;

    m->partial.len = 0;
    rc = plm_shard_run(m->whole, bytes, &m->partial, &err);
    if (rc != PLM_OK) {
        assert_int_equal(rc, PLM_CORRUPT);
        assert_true(strncmp(err.message, "training step: ", 15) == 0);
        assert_int_equal(m->partial.len, 0);
    }
}

static void feed_partial(struct machine *m, struct plm_view bytes)
{
    struct plm_buf saved, merged;
    struct plm_trainer *copy;
    struct plm_err err = {0};
    enum plm_code rc;

    plm_buf_init(&saved, ctx, SIZE_MAX);
    plm_buf_init(&merged, ctx, SIZE_MAX);
    assert_int_equal(plm_trainer_save(m->trainer, &saved, NULL), PLM_OK);
    assert_int_equal(plm_trainer_load(ctx, (struct plm_view){saved.data, saved.len}, &copy, NULL), PLM_OK);
    rc = plm_trainer_absorb(copy, bytes, &err);
    assert_true(rc == PLM_OK || rc == PLM_CORRUPT);
    rc = plm_partial_merge(&merged, bytes, &err);
    assert_true(rc == PLM_OK || rc == PLM_CORRUPT);
    plm_trainer_destroy(copy);
    plm_buf_reset(&saved);
    plm_buf_reset(&merged);
}

static void feed_checkpoint(struct machine *m, struct plm_view bytes)
{
    struct plm_trainer *t = NULL;
    (void)m;

    assert_int_equal(plm_trainer_load(ctx, bytes, &t, NULL), PLM_CORRUPT); /* the checksum sees all */
    assert_null(t);
}

static void test_damaged_messages(void **state)
{
    struct machine m = {0};
    struct plm_buf saved;
    struct plm_view step;
    uint32_t kinds = 0;
    (void)state;

    machine_start(&m);
    plm_buf_init(&saved, ctx, SIZE_MAX);
    while ((step = plm_trainer_step(m.trainer, NULL)).len > 0) {
        uint32_t kind = ((const struct plm_step_head *)(const void *)step.data)->kind;

        if (!(kinds & 1u << kind)) { /* the first step of each kind */
            damage(step, feed_step, &m);
            struct plm_view partial = answer(&m, m.whole);
            uint8_t *copy = malloc(partial.len);
            memcpy(copy, partial.data, partial.len);
            damage((struct plm_view){copy, partial.len}, feed_partial, &m);
            free(copy);
            saved.len = 0;
            assert_int_equal(plm_trainer_save(m.trainer, &saved, NULL), PLM_OK);
            damage((struct plm_view){saved.data, saved.len}, feed_checkpoint, &m);
            kinds |= 1u << kind;
        }
        assert_int_equal(plm_trainer_absorb(m.trainer, answer(&m, m.whole), NULL), PLM_OK);
    }
    assert_int_equal(kinds, 0x3e); /* FETCH, SEEDS, SPLIT, MEANS, LLOYD */
    plm_buf_reset(&saved);
    machine_stop(&m);
}

/* Whole messages in the wrong place, at every step. */
static void test_misplaced_messages(void **state)
{
    struct machine m = {0};
    struct plm_buf old, twice;
    struct plm_err err;
    (void)state;

    machine_start(&m);
    plm_buf_init(&old, ctx, SIZE_MAX);
    plm_buf_init(&twice, ctx, SIZE_MAX);
    while (plm_trainer_step(m.trainer, NULL).len > 0) {
        struct plm_view half = answer(&m, m.first_half);

        assert_int_equal(plm_trainer_absorb(m.trainer, half, &err), PLM_CORRUPT);
        assert_non_null(strstr(err.message, "a shard is missing"));
        twice.len = 0;
        assert_int_equal(plm_partial_merge(&twice, half, &err), PLM_OK);
        if (old.len > 0) {
            assert_int_equal(plm_partial_merge(&twice, (struct plm_view){old.data, old.len}, &err), PLM_CORRUPT);
            assert_int_equal(plm_trainer_absorb(m.trainer, (struct plm_view){old.data, old.len}, &err), PLM_CORRUPT);
        }
        bool picks = m.partial.data[8] == PLM_PICKS;
        enum plm_code rc = plm_partial_merge(&twice, half, &err);
        assert_int_equal(rc, picks ? PLM_CORRUPT : PLM_OK); /* sums: n_rows is right, the rows are not */
        struct plm_view whole = answer(&m, m.whole);
        old.len = 0;
        assert_int_equal(plm_buf_add(&old, whole.data, whole.len, NULL), PLM_OK);
        assert_int_equal(plm_trainer_absorb(m.trainer, whole, &err), PLM_OK);
    }
    assert_int_equal(plm_trainer_absorb(m.trainer, (struct plm_view){old.data, old.len}, &err), PLM_CORRUPT);
    plm_buf_reset(&old);
    plm_buf_reset(&twice);
    machine_stop(&m);
}

static void test_wrong_shards(void **state)
{
    struct machine m = {0};
    struct plm_shard *shard = NULL;
    struct plm_sample narrow;
    struct plm_err err;
    (void)state;

    machine_start(&m);
    plm_sample_of(ctx, m.rows, 10, M_DIM - 1, &narrow);
    assert_int_equal(plm_shard_create(ctx, &narrow, 0, &shard, NULL), PLM_OK);
    assert_int_equal(plm_shard_run(shard, plm_trainer_step(m.trainer, NULL), &m.partial, &err), PLM_CORRUPT);
    plm_shard_destroy(shard);
    assert_int_equal(plm_shard_create(ctx, &m.sample, 1, &shard, NULL), PLM_OK); /* one row too far */
    assert_int_equal(plm_shard_run(shard, plm_trainer_step(m.trainer, NULL), &m.partial, &err), PLM_CORRUPT);
    plm_shard_destroy(shard);
    assert_int_equal(plm_shard_create(ctx, &m.sample, UINT32_MAX, &shard, &err), PLM_ARG);
    assert_int_equal(plm_buf_add(&m.partial, "abc", 3, NULL), PLM_OK);
    assert_int_equal(plm_shard_run(m.whole, plm_trainer_step(m.trainer, NULL), &m.partial, &err), PLM_ARG);
    assert_int_equal(m.partial.len, 3);
    machine_stop(&m);
}

static void test_options(void **state)
{
    static const struct plm_train_options bad[] = {
        {.n_sample = 10, .dim = 0, .k = 1, .max_iters = 1},
        {.n_sample = 10, .dim = 65537, .k = 1, .max_iters = 1},
        {.n_sample = 0, .dim = 2, .k = 0, .max_iters = 1},
        {.n_sample = 10, .dim = 2, .k = 0, .max_iters = 1},
        {.n_sample = 10, .dim = 2, .k = 11, .max_iters = 1},
        {.n_sample = 10, .dim = 2, .k = 2, .max_iters = 0},
        {.n_sample = (size_t)1 << 32, .dim = 2, .k = 2, .max_iters = 1},
    };
    struct plm_trainer *t = NULL;
    struct plm_err err;
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(plm_trainer_create(ctx, &bad[i], &t, &err), PLM_ARG);
        assert_null(t);
        assert_true(strlen(err.message) > 20);
    }
}

/* max_iters is a ceiling for every loop. */
static void test_max_iters(void **state)
{
    enum { N = 1000, DIM = 8, K = 40 };
    float *rows = clustered(N, DIM, N, 8, 0.3f);
    struct plan p = plan_of(rows, N, DIM, K, PLM_L2);
    const double *losses;
    (void)state;

    p.options.max_iters = 1;
    struct plm_trainer *t = train(&p);
    assert_int_equal(plm_trainer_losses(t, &losses), 1);
    assert_int_equal(t->n_absorbed, 1 + 2 + 1 + 1); /* rows, one level, means, one pass */
    plm_trainer_destroy(t);
    free(rows);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static enum plm_code run_local(struct plm_ctx *own, const float *rows, size_t n, size_t dim, size_t k,
                               struct plm_err *err)
{
    struct plm_train_options o = {.n_sample = n, .dim = dim, .k = k, .seed = 3, .max_iters = 2};
    struct plm_trainer *t = NULL;
    struct plm_sample sample;
    enum plm_code rc = PLM_OK;

    plm_sample_of(own, rows, n, dim, &sample);
    PLM_TRY(plm_trainer_create(own, &o, &t, err));
    PLM_TRY(plm_train_local(own, &sample, t, NULL, NULL, err));
done:
    plm_trainer_destroy(t);
    return rc;
}

static void test_memory_estimate(void **state)
{
    static const struct {
        size_t n, dim, k;
    } shapes[] = {{3000, 32, 50}, {3000, 300, 10}, {2000, 200, 1500}, {300, 500, 300}, {4500, 100, 4200},
                  {4500, 20, 4200}};
    (void)state;

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        float *rows = clustered(shapes[s].n, shapes[s].dim, 20, 5, 0.1f);
        struct plm_ctx *own;

        assert_int_equal(plm_ctx_create(NULL, &own, NULL), PLM_OK);
        struct plm_train_shape shape = {.n_sample = shapes[s].n, .dim = shapes[s].dim, .k = shapes[s].k, .threads = own->threads};
        /* sums are kept where there is room for all of it twice */
        own->memory_budget_bytes = own->memory_base_bytes + plm_train_bytes(&shape);
        assert_int_equal(run_local(own, rows, shapes[s].n, shapes[s].dim, shapes[s].k, NULL), PLM_OK);
        assert_true(atomic_load(&own->memory_peak) <= plm_train_bytes(&shape));
        assert_int_equal(atomic_load(&own->memory_used), 0);
        plm_ctx_destroy(own);
        free(rows);
    }
}

static void test_failing_allocations(void **state)
{
    enum { N = 600, DIM = 272, K = 20 };
    float *rows = clustered(N, DIM, 10, 5, 0.1f);
    unsigned threads = ctx->threads;
    enum plm_code rc;
    long n = 0;
    (void)state;

    ctx->threads = 1;
    do {
        atomic_store(&ctx->faults.alloc_countdown, ++n);
        rc = run_local(ctx, rows, N, DIM, K, NULL);
        assert_int_equal(atomic_load(&ctx->memory_used), 0);
        assert_true(rc == PLM_OK || rc == PLM_NOMEM);
        if (n > 40)
            n += 4;
    } while (rc != PLM_OK);
    assert_true(n > 100);
    atomic_store(&ctx->faults.alloc_countdown, 0);
    ctx->threads = threads;
    free(rows);
}

static void test_cancel(void **state)
{
    enum { N = 300, DIM = 8 };
    float *rows = clustered(N, DIM, 10, 5, 0.1f);
    struct plm_ctx *own;
    (void)state;

    assert_int_equal(plm_ctx_create(NULL, &own, NULL), PLM_OK);
    plm_ctx_cancel(own);
    assert_int_equal(run_local(own, rows, N, DIM, 5, NULL), PLM_CANCELLED);
    assert_int_equal(atomic_load(&own->memory_used), 0);
    plm_ctx_destroy(own);
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts_unprojected),
        cmocka_unit_test(test_cuts_projected),
        cmocka_unit_test(test_cuts_dot),
        cmocka_unit_test(test_cuts_noise),
        cmocka_unit_test(test_axes_that_say_too_little),
        cmocka_unit_test(test_axes_find_the_nearest),
        cmocka_unit_test(test_cuts_leaf_groups),
        cmocka_unit_test(test_cuts_groups),
        cmocka_unit_test(test_cuts_groups_unprojected),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_empty_shard),
        cmocka_unit_test(test_spilled_sample),
        cmocka_unit_test(test_sums_that_wait),
        cmocka_unit_test(test_quality_unprojected),
        cmocka_unit_test(test_quality_projected),
        cmocka_unit_test(test_quality_on_noise),
        cmocka_unit_test(test_dot_is_spherical),
        cmocka_unit_test(test_one_centroid_is_the_mean),
        cmocka_unit_test(test_few_distinct_rows),
        cmocka_unit_test(test_as_many_centroids_as_rows),
        cmocka_unit_test(test_mostly_duplicates),
        cmocka_unit_test(test_extreme_values),
        cmocka_unit_test(test_outlier),
        cmocka_unit_test(test_quotas),
        cmocka_unit_test(test_split_fan),
        cmocka_unit_test(test_fill_empties),
        cmocka_unit_test(test_damaged_messages),
        cmocka_unit_test(test_misplaced_messages),
        cmocka_unit_test(test_wrong_shards),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_max_iters),
        cmocka_unit_test(test_memory_estimate),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
