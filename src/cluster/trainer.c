/* trainer.c - the coordinator: which step comes next.
 *
 *   FETCH -> SEEDS -> SPLIT (rounds) -> [SEEDS -> SPLIT (rounds) ...] -> MEANS -> LLOYD (rounds)
 *
 * The tree is built level by level: all nodes of a level are seeded in one step and refined in
 * the same rounds. Source: the project's measurements of projected trees against flat k-means. */
#include "cluster/trainer_impl.h"

#include <math.h>

static enum plm_code check_options(const struct plm_train_options *o, struct plm_err *err)
{
    if (o->dim < 1 || o->dim > PLM_TRAIN_DIM_MAX)
        return plm_fail(err, PLM_ARG, "training: dimension %zu, expected 1..%d", o->dim,
                        PLM_TRAIN_DIM_MAX);
    if (o->n_sample < 1 || o->n_sample > UINT32_MAX)
        return plm_fail(err, PLM_ARG, "training: %zu rows, expected 1..2^32-1", o->n_sample);
    if (o->k < 1 || o->k > o->n_sample)
        return plm_fail(err, PLM_ARG, "training: %zu centroids from %zu rows, expected 1..%zu", o->k,
                        o->n_sample, o->n_sample);
    if (o->max_iters < 1)
        return plm_fail(err, PLM_ARG, "training: max_iters is 0, expected at least 1");
    return PLM_OK;
}

static enum plm_code first_step(struct plm_trainer *t, struct plm_err *err)
{
    const struct plm_train_options *o = &t->options;
    struct plm_step_head head = {
        .kind = PLM_STEP_FETCH, .seed = o->seed, .n_sample = o->n_sample, .dim = (uint32_t)o->dim,
        .k = (uint32_t)o->k, .metric = o->metric, .magic_sum = 1, .loss_limit = 1, .loss_scale = 1,
        .n_points = (uint32_t)plm_min_size(PLM_FETCH_ROWS, o->n_sample),
    };
    enum plm_code rc = plm_step_begin(&t->step, &head, err);

    if (rc == PLM_OK)
        plm_step_finish(&t->step);
    return rc;
}

enum plm_code plm_trainer_create(struct plm_ctx *ctx, const struct plm_train_options *options,
                                 struct plm_trainer **out, struct plm_err *err)
{
    struct plm_trainer *t = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_options(options, err));
    PLM_TRY(plm_calloc(ctx, &t, 1, sizeof *t, err));
    t->ctx = ctx;
    t->options = *options;
    if (t->options.metric == PLM_COSINE)
        t->options.metric = PLM_L2;
    plm_buf_init(&t->step, ctx, SIZE_MAX);
    PLM_TRY(first_step(t, err));
    plm_trainer_describe(t);
    *out = t;
    t = NULL;
done:
    plm_trainer_destroy(t);
    return rc;
}

void plm_trainer_destroy(struct plm_trainer *trainer)
{
    if (!trainer)
        return;
    plm_buf_reset(&trainer->step);
    plm_free(trainer->ctx, trainer);
}

/* ---- shared by the phases ---------------------------------------------------------------- */

struct plm_step_head plm_step_after(const struct plm_step *step, enum plm_step_kind kind)
{
    struct plm_step_head head = step->head;

    head.number++;
    head.kind = kind;
    return head;
}

void plm_trainer_replace(struct plm_trainer *t, struct plm_buf *next)
{
    plm_step_finish(next);
    plm_buf_reset(&t->step);
    t->step = *next;
    *next = (struct plm_buf){0};
}

double plm_mean_loss(const struct plm_step *step, const int64_t *losses, size_t n)
{
    __int128 total = 0;

    for (size_t i = 0; i < n; i++)
        total += losses[i];
    return (double)total / step->head.loss_scale / (double)step->head.n_sample;
}

bool plm_gain_is_small(uint32_t metric, double before, double now, double least)
{
    double whole = metric == PLM_DOT ? fabs(1 - before) : before;

    return isfinite(before) && before - now <= least * whole;
}

static uint32_t step_kind(const struct plm_trainer *t)
{
    struct plm_step_head head;

    memcpy(&head, t->step.data, sizeof head);
    return head.kind;
}

void plm_trainer_describe(struct plm_trainer *t)
{
    struct plm_step_head head;

    memcpy(&head, t->step.data, sizeof head);
    if (t->done)
        snprintf(t->what, sizeof t->what, "trained");
    else if (head.kind == PLM_STEP_FETCH)
        snprintf(t->what, sizeof t->what, "finding axes");
    else if (head.kind == PLM_STEP_SEEDS)
        snprintf(t->what, sizeof t->what, "tree level %u, seeds", head.n_levels + 1);
    else if (head.kind == PLM_STEP_SPLIT)
        snprintf(t->what, sizeof t->what, "tree level %u, round %u", head.n_levels, t->round + 1);
    else if (head.kind == PLM_STEP_MEANS)
        snprintf(t->what, sizeof t->what, "means of the leaves");
    else
        snprintf(t->what, sizeof t->what, "refinement, round %u", t->round + 1);
}

/* ---- steps --------------------------------------------------------------------------------- */

struct plm_view plm_trainer_step(const struct plm_trainer *trainer, const char **what)
{
    if (what)
        *what = trainer->what;
    if (trainer->done)
        return (struct plm_view){NULL, 0};
    return (struct plm_view){trainer->step.data, trainer->step.len};
}

static enum plm_code check_answer(const struct plm_step *step, const struct plm_partial *p,
                                  struct plm_err *err)
{
    const struct plm_step_head *h = &step->head;
    bool wants_picks = h->kind == PLM_STEP_FETCH || h->kind == PLM_STEP_SEEDS;
    uint32_t n = h->kind == PLM_STEP_FETCH   ? 1
                 : h->kind == PLM_STEP_SEEDS ? h->n_nodes
                 : h->kind == PLM_STEP_SPLIT ? step->levels[h->n_levels - 1].n_points
                                             : h->n_points;
    uint32_t dim = h->kind == PLM_STEP_SEEDS || h->kind == PLM_STEP_SPLIT ? h->r : h->dim;

    if (p->head->number != h->number || p->head->step_hash != step->hash)
        return plm_fail(err, PLM_CORRUPT, "training partial: answers step %u, expected step %u",
                        p->head->number, h->number);
    if (p->head->kind != (wants_picks ? PLM_PICKS : PLM_SUMS) || p->head->n != n || p->head->dim != dim)
        return plm_fail(err, PLM_CORRUPT,
                        "training partial: kind %u with %u x %u values, expected %u x %u",
                        p->head->kind, p->head->n, p->head->dim, n, dim);
    if (p->head->n_rows != h->n_sample)
        return plm_fail(err, PLM_CORRUPT,
                        "training partial: of %" PRIu64 " rows, expected the whole sample of %" PRIu64
                        " (a shard is missing or came twice)", p->head->n_rows, h->n_sample);
    for (uint32_t i = 0; wants_picks && i < n; i++) {
        uint32_t want = h->kind == PLM_STEP_FETCH ? h->n_points : step->want[i];

        if (p->want[i] != want || p->have[i] != plm_min_u64(want, p->sizes[i]))
            return plm_fail(err, PLM_CORRUPT, "training partial: %u rows of node %u, expected %" PRIu64,
                            p->have[i], i, plm_min_u64(want, p->sizes[i]));
    }
    return PLM_OK;
}

static enum plm_code take_answer(struct plm_trainer *t, const struct plm_step *step,
                                 const struct plm_partial *p, struct plm_err *err)
{
    switch ((enum plm_step_kind)step->head.kind) {
    case PLM_STEP_FETCH: return plm_trainer_take_rows(t, step, p, err);
    case PLM_STEP_SEEDS: return plm_trainer_take_seeds(t, step, p, err);
    case PLM_STEP_SPLIT: return plm_trainer_take_split(t, step, p, err);
    case PLM_STEP_MEANS: return plm_trainer_take_leaves(t, step, p, err);
    case PLM_STEP_LLOYD: return plm_trainer_take_lloyd(t, step, p, err);
    }
    return plm_fail(err, PLM_BUG, "training: step of kind %u", step->head.kind);
}

enum plm_code plm_trainer_absorb(struct plm_trainer *trainer, struct plm_view partial,
                                 struct plm_err *err)
{
    struct plm_step step;
    struct plm_partial p = {0};
    struct plm_view aligned;
    void *copy = NULL;
    enum plm_code rc = PLM_OK;

    if (trainer->done)
        return plm_fail(err, PLM_CORRUPT, "training partial: training is done");
    PLM_TRY(plm_aligned(trainer->ctx, partial, &copy, &aligned, err));
    PLM_TRY(plm_step_parse((struct plm_view){trainer->step.data, trainer->step.len}, &step, err));
    PLM_TRY(plm_partial_parse(aligned, &p, err));
    PLM_TRY(check_answer(&step, &p, err));
    PLM_TRY(take_answer(trainer, &step, &p, err));
    trainer->n_absorbed++;
    plm_trainer_describe(trainer);
done:
    plm_free(trainer->ctx, copy);
    return rc;
}

#define TREE_STEPS (1 + 2 * (1 + 10)) /* two levels are the rule, of ten rounds at most */
#define LLOYD_STEPS 4                 /* rarely are there more */

void plm_trainer_progress(const struct plm_trainer *trainer, unsigned *done, unsigned *total)
{
    unsigned n = trainer->n_absorbed, rest = 1;

    if (trainer->done)
        rest = 0;
    else if (step_kind(trainer) <= PLM_STEP_SPLIT)
        rest = (n < TREE_STEPS ? TREE_STEPS - n : 1) + 1 + LLOYD_STEPS;
    else if (step_kind(trainer) == PLM_STEP_MEANS)
        rest = 1 + LLOYD_STEPS;
    else if (trainer->round < LLOYD_STEPS)
        rest = LLOYD_STEPS - trainer->round;
    *done = n;
    *total = n + rest;
}

const struct plm_train_options *plm_trainer_options(const struct plm_trainer *trainer)
{
    return &trainer->options;
}

const float *plm_trainer_centroids(const struct plm_trainer *trainer)
{
    if (!trainer->done)
        return NULL;
    size_t bytes = trainer->options.k * trainer->options.dim * sizeof(float); /* the last section */

    return (const float *)(const void *)(trainer->step.data + trainer->step.len - (bytes + 63) / 64 * 64);
}

size_t plm_trainer_losses(const struct plm_trainer *trainer, const double **losses)
{
    *losses = trainer->losses;
    return trainer->n_losses;
}
