/* trainer_tree.c - the tree: axes, seeds, rounds of a level, the next level. */
#include <math.h>
#include <stdlib.h>

#include "cluster/trainer_impl.h"

#define JUDGED_ROWS 500       /* of those fetched: whether axes are worth having */
#define LEAST_SHARE 0.67      /* of the spread on the axes, else there are none */
#define LEVEL_ROUNDS 10       /* k-means rounds of a level */
#define LEVEL_LEAST_GAIN 4e-3 /* of the loss, else the level is done: refinement gains more then */
#define FEW_ROUNDS 20         /* of few centroids */
#define FEW_ROUNDS_LEAST 10   /* the loss may rise while the sizes even out */
#define FEW_LEAST_GAIN 5e-4
#define REQUOTAS_MAX 2        /* times the quotas of a level are made anew for want of rows */

/* ---- axes ----------------------------------------------------------------------------- */

size_t plm_projected_dim(size_t dim, size_t n_fetched)
{
    size_t r = dim < 96 ? 0 : dim <= 256 ? 64 : 128;

    return n_fetched < 4 * r ? 0 : r;
}

static const float *pick_vector(const struct plm_partial *p, size_t i)
{
    return (const float *)(const void *)(p->picks + i * plm_pick_bytes(p->head->dim) +
                                         sizeof(struct plm_pick));
}

/* Values far beyond those of the fetched rows are outliers: they are cut to a cap in all sums, so
 * that one of them cannot take the bits of all others on the common grid. */
static float choose_cap(const struct plm_kernels *kernels, const struct plm_partial *picks)
{
    float seen = 0, lo, hi;

    for (uint32_t i = 0; i < picks->have[0]; i++) {
        kernels->min_max(pick_vector(picks, i), picks->head->dim, &lo, &hi);
        seen = fmaxf(seen, fmaxf(fabsf(lo), fabsf(hi)));
    }
    return seen > 0 && seen < picks->head->max_abs / 4096 ? seen * 4096 : picks->head->max_abs;
}

/* Mean of the fetched rows, capped (0 for dot). */
static enum plm_code find_mean(struct plm_ctx *ctx, const struct plm_partial *picks, float cap, bool dot,
                               float *mean, struct plm_err *err)
{
    size_t dim = picks->head->dim, n = picks->have[0];
    double *sums = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &sums, dim, sizeof *sums, err));
    for (size_t i = 0; i < n; i++) {
        plm_cap_row(pick_vector(picks, i), dim, cap, mean);
        for (size_t d = 0; d < dim; d++)
            sums[d] += (double)mean[d];
    }
    for (size_t d = 0; d < dim; d++)
        mean[d] = dot ? 0 : (float)(sums[d] / (double)n);
done:
    plm_free(ctx, sums);
    return rc;
}

/* ---- seeds ------------------------------------------------------------------------------ */

/* A SEEDS step with the tree in the first `tree_end` bytes of the present one. want NULL: what the
 * quotas imply. */
static enum plm_code write_seeds(struct plm_trainer *t, struct plm_step_head *head, size_t tree_end,
                                 const uint32_t *want, const uint32_t *quotas, struct plm_err *err)
{
    struct plm_buf next;
    uint32_t *fans = NULL;
    size_t n = head->n_nodes;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&next, t->ctx, SIZE_MAX);
    PLM_TRY(plm_alloc(t->ctx, &fans, n, sizeof *fans, err));
    head->is_last = 1;
    for (size_t i = 0; i < n; i++) {
        fans[i] = plm_split_fan(quotas[i], head->k, head->n_levels);
        head->is_last = head->is_last && fans[i] == quotas[i];
        if (want && want[i] > fans[i])
            fans[i] = want[i];
    }
    PLM_TRY(plm_step_begin(&next, head, err));
    PLM_TRY(plm_buf_add(&next, t->step.data + sizeof *head, tree_end - sizeof *head, err));
    PLM_TRY(plm_step_section(&next, fans, n, sizeof *fans, err));
    PLM_TRY(plm_step_section(&next, quotas, n, sizeof *quotas, err));
    plm_trainer_replace(t, &next);
done:
    plm_free(t->ctx, fans);
    plm_buf_reset(&next);
    return rc;
}

/* The part of the rows' spread that lies on the axes, judged by some of the rows; 1 without any spread. */
static enum plm_code share_on_axes(struct plm_ctx *ctx, const struct plm_basis_rows *rows, const float *basis,
                                   size_t r, double *share, struct plm_err *err)
{
    size_t n = plm_min_size(rows->n, JUDGED_ROWS), dim = rows->dim;
    double on_axes = 0, all = 0;
    float *row = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &row, dim, sizeof *row, err));
    for (size_t i = 0; i < n; i++) {
        plm_cap_row((const float *)(const void *)(rows->first + i * rows->stride), dim, rows->cap, row);
        for (size_t d = 0; d < dim; d++)
            row[d] -= rows->mean[d];
        all += ctx->kernels->norm2(row, dim);
        for (size_t j = 0; j < r; j++) {
            double value = ctx->kernels->dot_exact(row, basis + j * dim, dim);

            on_axes += value * value;
        }
    }
    *share = all > 0 ? on_axes / all : 1;
done:
    plm_free(ctx, row);
    return rc;
}

/* Axes [*r][dim]; *r = 0 where there are none, or they say too little of the rows and doing without is cheap. */
static enum plm_code find_axes(struct plm_trainer *t, const struct plm_basis_rows *rows, float *basis, size_t *r,
                               struct plm_err *err)
{
    double share = 1;
    enum plm_code rc = PLM_OK;

    if (*r == 0)
        return PLM_OK;
    PLM_TRY(plm_basis_make(t->ctx, rows, *r, t->options.seed, basis, err));
    if (plm_axes_may_go(rows->dim))
        PLM_TRY(share_on_axes(t->ctx, rows, basis, *r, &share, err));
    if (share < LEAST_SHARE)
        *r = 0;
done:
    return rc;
}

enum plm_code plm_trainer_take_rows(struct plm_trainer *t, const struct plm_step *step,
                                    const struct plm_partial *picks, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_SEEDS);
    size_t dim = head.dim, n = picks->have[0], r = plm_projected_dim(dim, n);
    float *mean = NULL, *basis = NULL;
    uint32_t quota = head.k, fan = plm_split_fan(head.k, head.k, 0);
    struct plm_buf next;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&next, t->ctx, SIZE_MAX);
    PLM_TRY(plm_alloc(t->ctx, &mean, dim, sizeof *mean, err));
    PLM_TRY(plm_alloc(t->ctx, &basis, r * dim, sizeof *basis, err));
    head.cap = choose_cap(t->ctx->kernels, picks);
    PLM_TRY(find_mean(t->ctx, picks, head.cap, head.metric == PLM_DOT, mean, err));
    struct plm_basis_rows rows = {picks->picks + sizeof(struct plm_pick), plm_pick_bytes(dim), n, dim, head.cap, mean};
    PLM_TRY(find_axes(t, &rows, basis, &r, err));
    head.has_basis = r > 0;
    head.r = (uint32_t)(r ? r : dim);
    head.n_nodes = 1;
    head.is_last = fan == quota;
    PLM_TRY(plm_step_begin(&next, &head, err));
    PLM_TRY(plm_step_section(&next, mean, dim, sizeof *mean, err));
    if (r > 0)
        PLM_TRY(plm_step_section(&next, basis, r * dim, sizeof *basis, err));
    PLM_TRY(plm_step_section(&next, &fan, 1, sizeof fan, err));
    PLM_TRY(plm_step_section(&next, &quota, 1, sizeof quota, err));
    plm_trainer_replace(t, &next);
done:
    plm_free(t->ctx, mean);
    plm_free(t->ctx, basis);
    plm_buf_reset(&next);
    return rc;
}

/* ---- distinct seeds ---------------------------------------------------------------------- */

struct seed {
    uint64_t hash;
    size_t at; /* pick */
};

static int by_hash(const void *a, const void *b)
{
    const struct seed *x = a, *y = b;

    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int by_pick(const void *a, const void *b)
{
    const struct seed *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

/* Picks [first, first + n) without repetitions, in order of priority; returns how many. Two
 * different vectors with one hash (2^-64) would count as one seed: no harm. */
static size_t distinct_seeds(const struct plm_partial *picks, size_t first, size_t n,
                             struct seed *seeds)
{
    size_t n_distinct = 0;

    for (size_t i = 0; i < n; i++)
        seeds[i] = (struct seed){plm_xxh3(pick_vector(picks, first + i), picks->head->dim * sizeof(float)),
                                 first + i};
    qsort(seeds, n, sizeof *seeds, by_hash);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || seeds[i].hash != seeds[n_distinct - 1].hash)
            seeds[n_distinct++] = seeds[i];
    qsort(seeds, n_distinct, sizeof *seeds, by_pick);
    return n_distinct;
}

struct seeded {
    uint32_t *fan;   /* [n_nodes] children each node gets */
    uint64_t *caps;  /* [n_nodes] leaves each node can use */
    float *points;   /* of all children */
    uint32_t n_points;
    uint64_t n_missing; /* leaves for which there was no distinct row */
};

/* Children of all nodes. A node with fewer distinct rows than its final quota has no use for the
 * rest of it. */
static enum plm_code make_children(struct plm_trainer *t, const struct plm_step *step,
                                   const struct plm_partial *picks, struct seeded *out,
                                   struct plm_err *err)
{
    const struct plm_step_head *h = &step->head;
    struct seed *seeds = NULL;
    size_t n_picks = 0, at = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < h->n_nodes; i++)
        n_picks += picks->have[i];
    PLM_TRY(plm_alloc(t->ctx, &seeds, n_picks, sizeof *seeds, err));
    PLM_TRY(plm_alloc(t->ctx, &out->fan, h->n_nodes, sizeof *out->fan, err));
    PLM_TRY(plm_alloc(t->ctx, &out->caps, h->n_nodes, sizeof *out->caps, err));
    PLM_TRY(plm_alloc(t->ctx, &out->points, n_picks * h->r, sizeof *out->points, err));
    for (size_t i = 0; i < h->n_nodes; at += picks->have[i++]) {
        uint32_t fan = plm_split_fan(step->quotas[i], h->k, h->n_levels);
        size_t n = distinct_seeds(picks, at, picks->have[i], seeds);

        out->fan[i] = (uint32_t)plm_min_size(n, fan);
        out->caps[i] = picks->sizes[i];
        if (fan == step->quotas[i] && n < fan) {
            out->caps[i] = n;
            out->n_missing += fan - n;
        }
        for (size_t j = 0; j < out->fan[i]; j++)
            memcpy(out->points + (size_t)out->n_points++ * h->r, pick_vector(picks, seeds[j].at),
                   h->r * sizeof *out->points);
    }
done:
    plm_free(t->ctx, seeds);
    return rc;
}

/* Unit length, as every centroid under dot; a zero vector stays. */
static void normalize_points(const struct plm_kernels *kernels, float *points, size_t n, size_t r)
{
    for (size_t i = 0; i < n; i++) {
        double norm = sqrt(kernels->norm2(points + i * r, r));

        for (size_t d = 0; d < r && norm > 0; d++)
            points[i * r + d] = (float)((double)points[i * r + d] / norm);
    }
}

/* Grids for sums of projected rows, whose values are at most `most`. */
static void set_projected_grids(struct plm_step_head *h, float most)
{
    double n = (double)h->n_sample, m = most > 0 ? (double)most : 1, r = h->r;

    h->magic_sum = plm_grid_magic(n * m);
    h->loss_limit = h->metric == PLM_DOT ? 1 + r * m : 4 * r * m * m;
    h->loss_scale = plm_fixed_scale(n * h->loss_limit);
}

static enum plm_code write_split(struct plm_trainer *t, const struct plm_step *step,
                                 const struct plm_partial *picks, const struct seeded *s,
                                 struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_SPLIT);
    struct plm_buf next;
    float *biases = NULL;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&next, t->ctx, SIZE_MAX);
    PLM_TRY(plm_calloc(t->ctx, &biases, s->n_points, sizeof *biases, err));
    head.n_levels++;
    set_projected_grids(&head, picks->head->max_abs);
    if (head.metric == PLM_DOT)
        normalize_points(t->ctx->kernels, s->points, s->n_points, head.r);
    PLM_TRY(plm_step_begin(&next, &head, err));
    PLM_TRY(plm_buf_add(&next, t->step.data + sizeof head, step->levels_end - sizeof head, err));
    PLM_TRY(plm_step_level(&next, head.n_nodes, s->fan, s->n_points, s->points, biases, head.r, err));
    plm_trainer_replace(t, &next);
    t->round = 0;
    t->n_requotas = 0;
    t->loss_before = INFINITY;
done:
    plm_free(t->ctx, biases);
    plm_buf_reset(&next);
    return rc;
}

enum plm_code plm_trainer_take_seeds(struct plm_trainer *t, const struct plm_step *step,
                                     const struct plm_partial *picks, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_SEEDS);
    struct seeded s = {0};
    uint32_t *quotas = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(make_children(t, step, picks, &s, err));
    if (s.n_missing * 64 > head.k && t->n_requotas < REQUOTAS_MAX) {
        PLM_TRY(plm_alloc(t->ctx, &quotas, head.n_nodes, sizeof *quotas, err));
        PLM_TRY(plm_share_quotas(t->ctx, head.k, picks->sizes, s.caps, head.n_nodes, quotas, err));
        if (memcmp(quotas, step->quotas, head.n_nodes * sizeof *quotas) != 0) {
            t->n_requotas++;
            PLM_TRY(write_seeds(t, &head, step->levels_end, step->want, quotas, err));
            goto done;
        }
    }
    if (s.n_points == 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "training partial: not one seed"));
    PLM_TRY(write_split(t, step, picks, &s, err));
done:
    plm_free(t->ctx, quotas);
    plm_free(t->ctx, s.fan);
    plm_free(t->ctx, s.caps);
    plm_free(t->ctx, s.points);
    return rc;
}

/* ---- rounds of a level ------------------------------------------------------------------------ */

/* Children become nodes; the points their sizes were counted with stay as they are. */
static enum plm_code next_level(struct plm_trainer *t, const struct plm_step *step,
                                const struct plm_partial *sums, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_SEEDS);
    uint32_t *quotas = NULL;
    enum plm_code rc = PLM_OK;

    head.n_nodes = sums->head->n;
    PLM_TRY(plm_alloc(t->ctx, &quotas, head.n_nodes, sizeof *quotas, err));
    PLM_TRY(plm_share_quotas(t->ctx, head.k, sums->sizes, sums->sizes, head.n_nodes, quotas, err));
    PLM_TRY(write_seeds(t, &head, step->levels_end, NULL, quotas, err));
done:
    plm_free(t->ctx, quotas);
    return rc;
}

/* The means of the last level's children that have rows are the leaves. */
static enum plm_code write_means(struct plm_trainer *t, const struct plm_step *step,
                                 const struct plm_partial *sums, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_MEANS);
    const struct plm_level *level = &step->levels[head.n_levels - 1];
    size_t tree = step->levels[0].at, r = head.r;
    struct plm_buf next;
    float *points = NULL;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&next, t->ctx, SIZE_MAX);
    PLM_TRY(plm_alloc(t->ctx, &points, level->n_points * r, sizeof *points, err));
    memcpy(points, level->points, level->n_points * r * sizeof *points);
    plm_take_means(t->ctx->kernels, sums, head.metric == PLM_DOT, points, NULL);
    head.n_levels = head.n_nodes = head.n_points = 0;
    for (size_t i = 0; i < level->n_points; i++)
        if (sums->sizes[i] > 0 || (head.n_points == 0 && i + 1 == level->n_points))
            memmove(points + (size_t)head.n_points++ * r, points + i * r, r * sizeof *points);
    head.magic_sum = plm_grid_magic((double)head.n_sample * (double)head.cap);
    PLM_TRY(plm_step_begin(&next, &head, err));
    PLM_TRY(plm_buf_add(&next, t->step.data + sizeof head, tree - sizeof head, err));
    PLM_TRY(plm_step_section(&next, points, head.n_points * r, sizeof *points, err));
    plm_trainer_replace(t, &next);
done:
    plm_free(t->ctx, points);
    plm_buf_reset(&next);
    return rc;
}

/* Rounds of a level may end here. */
static bool is_settled(const struct plm_trainer *t, const struct plm_step *step, double loss)
{
    bool few = step->head.k <= PLM_FEW_CENTROIDS;
    size_t n_rounds = t->round + 1, most = few ? FEW_ROUNDS : LEVEL_ROUNDS;

    return n_rounds >= plm_min_size(most, t->options.max_iters) ||
           ((!few || n_rounds >= FEW_ROUNDS_LEAST) &&
            plm_gain_is_small(step->head.metric, t->loss_before, loss, few ? FEW_LEAST_GAIN : LEVEL_LEAST_GAIN));
}

enum plm_code plm_trainer_take_split(struct plm_trainer *t, const struct plm_step *step,
                                     const struct plm_partial *sums, struct plm_err *err)
{
    const struct plm_level *level = &step->levels[step->head.n_levels - 1];
    double loss = plm_mean_loss(step, sums->losses, sums->head->n);

    if (is_settled(t, step, loss))
        return step->head.is_last ? write_means(t, step, sums, err) : next_level(t, step, sums, err);
    struct plm_step_head head = plm_step_after(step, PLM_STEP_SPLIT);
    enum plm_code rc = plm_take_biases(t->ctx, step, sums, (float *)(void *)(t->step.data + level->biases_at), err);
    if (rc != PLM_OK)
        return rc;
    plm_take_means(t->ctx->kernels, sums, head.metric == PLM_DOT,
                   (float *)(void *)(t->step.data + level->points_at), NULL);
    memcpy(t->step.data, &head, sizeof head);
    t->round++;
    t->loss_before = loss;
    return PLM_OK;
}
