/* trainer_full.c - centroids in full dimension: means of the leaves, then Lloyd steps. */
#include <math.h>

#include "cluster/shard_groups.h"
#include "cluster/trainer_impl.h"

#define LLOYD_LEAST_GAIN 7e-3 /* of the loss, else no further step */
#define FEW_LEAST_GAIN 5e-3   /* of few centroids */
#define MANY_OPEN 8           /* 1 / this of the rows not placed by the axes: they are given up */
#define FILL_SALT 0xf111u

static void set_full_grids(struct plm_step_head *h)
{
    double n = (double)h->n_sample, m = h->cap > 0 ? (double)h->cap : 1, dim = h->dim;

    h->magic_sum = plm_grid_magic(n * m);
    h->loss_limit = h->metric == PLM_DOT ? 1 + dim * m : 4 * dim * m * m;
    h->loss_scale = plm_fixed_scale(n * h->loss_limit);
}

/* Rows placed by the axes come with the sum of their |x-m|^2 (nothing for dot), m the mean: what
 * they lose against the centroid c is that + n |c-m|^2 - 2 (c-m).(S - n m), or n - c.S for dot. */
static double loss_of(const struct plm_step *step, const struct plm_partial *sums, size_t i)
{
    const struct plm_step_head *h = &step->head;
    const float *c = step->points + i * h->dim;
    const double *sum = sums->sums + i * h->dim;
    double n = (double)sums->sizes[i], product = 0, norm = 0;

    for (size_t d = 0; d < h->dim; d++) {
        double m = (double)step->mean[d], move = (double)c[d] - m;

        product += move * (sum[d] - n * m);
        norm += move * move;
    }
    if (h->metric == PLM_DOT) /* the mean is 0 */
        return n - product;
    return fmax(0, (double)sums->losses[i] / h->loss_scale + n * norm - 2 * product);
}

/* Losses of a step, [k], in units of 1 / loss_scale. */
static void find_losses(const struct plm_step *step, const struct plm_partial *sums, int64_t *losses)
{
    const struct plm_step_head *h = &step->head;

    memcpy(losses, sums->losses, sums->head->n * sizeof *losses);
    for (size_t i = 0; h->kind == PLM_STEP_LLOYD && h->has_basis && i < h->k; i++)
        losses[i] = plm_fixed(loss_of(step, sums, i), (double)sums->sizes[i] * h->loss_limit, h->loss_scale);
}

/* New centroids [k][dim] from the sums of the first sums->head->n of them; and the losses [k]. */
static enum plm_code update(struct plm_trainer *t, const struct plm_step *step,
                            const struct plm_partial *sums, float *centroids, double *loss,
                            struct plm_err *err)
{
    const struct plm_step_head *h = &step->head;
    bool dot = h->metric == PLM_DOT;
    size_t n = sums->head->n;
    uint64_t *counts = NULL;
    int64_t *losses = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(t->ctx, &counts, h->k, sizeof *counts, err));
    PLM_TRY(plm_calloc(t->ctx, &losses, h->k, sizeof *losses, err));
    memcpy(counts, sums->sizes, n * sizeof *counts);
    find_losses(step, sums, losses);
    *loss = plm_mean_loss(step, losses, n);
    plm_take_means(t->ctx->kernels, sums, dot, centroids, counts);
    PLM_TRY(plm_fill_empties(t->ctx, centroids, h->k, h->dim, dot, counts, losses, h->loss_scale,
                             plm_mix64(h->seed, FILL_SALT + h->number), err));
done:
    plm_free(t->ctx, counts);
    plm_free(t->ctx, losses);
    return rc;
}

enum plm_code plm_trainer_take_leaves(struct plm_trainer *t, const struct plm_step *step,
                                      const struct plm_partial *sums, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_LLOYD);
    struct plm_buf next;
    size_t bytes;
    double loss;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&next, t->ctx, SIZE_MAX);
    head.n_points = head.k;
    head.is_last = 0;
    head.has_basis = head.has_basis && plm_axes_place(head.k);
    set_full_grids(&head);
    if (!plm_size_mul((size_t)head.k * head.dim, sizeof(float), &bytes) ||
        !plm_size_add(bytes, 63, &bytes))
        return plm_fail(err, PLM_LIMIT, "%u centroids of %u values are too many", head.k, head.dim);
    bytes = bytes / 64 * 64;
    PLM_TRY(plm_buf_reserve(&next, step->points_at + bytes, err));
    PLM_TRY(plm_step_begin(&next, &head, err));
    if (head.has_basis) /* the mean and the axes */
        PLM_TRY(plm_buf_add(&next, t->step.data + sizeof head, step->points_at - sizeof head, err));
    memset(next.data + next.len, 0, bytes);
    next.len += bytes;
    PLM_TRY(update(t, step, sums, (float *)(void *)(next.data + next.len - bytes), &loss, err));
    plm_trainer_replace(t, &next);
    t->round = 0;
    t->loss_before = INFINITY;
done:
    plm_buf_reset(&next);
    return rc;
}

/* From here on exact comparisons: the axes say too little of these rows. */
static void drop_axes(struct plm_trainer *t, const struct plm_step *step, struct plm_step_head *head)
{
    uint8_t *points = t->step.data + sizeof *head;

    memmove(points, t->step.data + step->points_at, t->step.len - step->points_at);
    t->step.len -= step->points_at - sizeof *head;
    head->has_basis = 0;
    head->bytes = t->step.len;
}

enum plm_code plm_trainer_take_lloyd(struct plm_trainer *t, const struct plm_step *step,
                                     const struct plm_partial *sums, struct plm_err *err)
{
    struct plm_step_head head = plm_step_after(step, PLM_STEP_LLOYD);
    double loss;
    enum plm_code rc;

    rc = update(t, step, sums, (float *)(void *)(t->step.data + step->points_at), &loss, err);
    if (rc != PLM_OK)
        return rc;
    t->losses[t->n_losses++] = loss;
    t->round++;
    t->done = t->round >= plm_min_size(PLM_LLOYD_MAX, t->options.max_iters) ||
              plm_gain_is_small(head.metric, t->loss_before, loss,
                                head.k <= PLM_FEW_CENTROIDS ? FEW_LEAST_GAIN : LLOYD_LEAST_GAIN);
    t->loss_before = loss;
    if (head.has_basis && sums->head->n_open > head.n_sample / MANY_OPEN)
        drop_axes(t, step, &head);
    memcpy(t->step.data, &head, sizeof head);
    return PLM_OK;
}
