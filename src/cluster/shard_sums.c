/* shard_sums.c - rows grouped by number, and added up group by group; or, where the sums of the step
 * before are kept, only the rows that moved: sums lie on a grid, on which rows are taken back without a
 * trace. */
#include "cluster/shard_impl.h"

#define TAKEN_BACK 0x80000000u /* in `order` */

void plm_group_rows(const uint32_t *ids, size_t n, size_t n_ids, size_t *starts, uint32_t *order)
{
    memset(starts, 0, (n_ids + 1) * sizeof *starts);
    for (size_t i = 0; i < n; i++)
        starts[ids[i] + 1]++;
    for (size_t i = 0; i < n_ids; i++)
        starts[i + 1] += starts[i];
    for (size_t i = 0; i < n; i++)
        order[starts[ids[i]]++] = (uint32_t)i;
    memmove(starts + 1, starts, n_ids * sizeof *starts); /* each had moved to its end */
    starts[0] = 0;
}

/* Groups are cut into tasks of about equal rows; no two tasks touch the same sum. */
struct cuts {
    const struct plm_adding *adding;
    size_t n_tasks;
    float *capped; /* per worker */
};

static size_t first_group(const struct cuts *c, size_t task)
{
    const struct plm_adding *a = c->adding;
    size_t rows = (size_t)((unsigned __int128)a->n * task / c->n_tasks), low = 0, high = a->n_ids;

    while (low < high) { /* least group that starts at or behind `rows` */
        size_t middle = low + (high - low) / 2;

        if (a->starts[middle] < rows)
            low = middle + 1;
        else
            high = middle;
    }
    return task == c->n_tasks ? a->n_ids : low;
}

static enum plm_code add_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct cuts *c = arg;
    const struct plm_adding *a = c->adding;
    const struct plm_kernels *kernels = a->ctx->kernels;
    const struct plm_step_head *h = &a->step->head;
    float *capped = c->capped + worker * a->dim;
    (void)err;

    for (size_t id = first_group(c, task); id < first_group(c, task + 1); id++) {
        double *sums = a->sums->sums + id * a->dim;

        for (size_t i = a->starts[id]; i < a->starts[id + 1]; i++) {
            size_t row = a->order[i] & ~TAKEN_BACK;
            const float *values = a->rows + row * a->dim;

            if (a->use_cap) {
                plm_cap_row(values, a->dim, h->cap, capped);
                values = capped;
            }
            if (a->order[i] & TAKEN_BACK) {
                for (size_t d = 0; d < a->dim; d++)
                    capped[d] = -values[d];
                values = capped;
            }
            kernels->grid_add(sums, values, a->dim, h->magic_sum);
        }
    }
    return PLM_OK;
}

static enum plm_code add_grouped(struct plm_adding *adding, struct plm_err *err)
{
    struct cuts c = {.adding = adding,
                     .n_tasks = plm_min_size(adding->n_ids, 4 * (size_t)adding->ctx->threads)};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(adding->ctx, &c.capped, adding->ctx->threads * adding->dim, sizeof *c.capped, err));
    PLM_TRY(plm_parallel(adding->ctx, c.n_tasks, add_task, &c, err));
done:
    plm_free(adding->ctx, c.capped);
    return rc;
}

static void group_moved(struct plm_adding *a)
{
    size_t *starts = a->starts;

    memset(starts, 0, (a->n_ids + 1) * sizeof *starts);
    for (size_t i = 0; i < a->n; i++)
        if (a->ids[i] != a->before[i]) {
            starts[a->ids[i] + 1]++;
            starts[a->before[i] + 1]++;
        }
    for (size_t i = 0; i < a->n_ids; i++)
        starts[i + 1] += starts[i];
    for (size_t i = 0; i < a->n; i++)
        if (a->ids[i] != a->before[i]) {
            a->order[starts[a->ids[i]]++] = (uint32_t)i;
            a->order[starts[a->before[i]]++] = (uint32_t)i | TAKEN_BACK;
        }
    memmove(starts + 1, starts, a->n_ids * sizeof *starts); /* each had moved to its end */
    starts[0] = 0;
}

enum plm_code plm_add_rows(struct plm_adding *a, struct plm_err *err)
{
    const struct plm_step_head *h = &a->step->head;

    for (size_t i = 0; i < a->n; i++) {
        a->sums->sizes[a->ids[i]]++;
        a->sums->losses[a->ids[i]] += plm_fixed((double)a->distances[i], h->loss_limit, h->loss_scale);
    }
    if (a->before)
        group_moved(a);
    else
        plm_group_rows(a->ids, a->n, a->n_ids, a->starts, a->order);
    a->n = a->starts[a->n_ids];
    return add_grouped(a, err);
}

/* ---- sums kept ------------------------------------------------------------------------------------ */

bool plm_last_serves(const struct plm_shard *s, const struct plm_step *step)
{
    const struct plm_last_sums *last = &s->last;

    return last->is_whole && last->magic == step->head.magic_sum && last->cap == step->head.cap &&
           last->n_points <= step->head.n_points;
}

/* Only where there is room for all that training takes, once more: nobody counts on it. */
bool plm_last_make_room(struct plm_shard *s, const struct plm_step *step)
{
    const struct plm_step_head *h = &step->head;
    struct plm_train_shape shape = {.n_sample = h->n_sample, .dim = h->dim, .k = h->k, .threads = s->ctx->threads};
    size_t n_sums = (size_t)h->k * h->dim;

    if (s->last.ids)
        return true;
    if (plm_memory_left(s->ctx) < plm_train_bytes(&shape) + plm_train_spill_bytes(s->dim, s->ctx->threads) +
                                      n_sums * sizeof(double) + s->n * sizeof(uint32_t))
        return false;
    if (plm_alloc(s->ctx, &s->last.ids, s->n, sizeof *s->last.ids, NULL) == PLM_OK &&
        plm_alloc(s->ctx, &s->last.sums, n_sums, sizeof *s->last.sums, NULL) == PLM_OK)
        return true;
    plm_last_forget(s);
    return false;
}

void plm_last_keep(struct plm_shard *s, const struct plm_step *step, const struct plm_partial *sums)
{
    s->last.n_points = sums->head->n;
    s->last.magic = step->head.magic_sum;
    s->last.cap = step->head.cap;
    s->last.is_whole = true;
    memcpy(s->last.sums, sums->sums, s->last.n_points * s->dim * sizeof *s->last.sums);
}

void plm_last_forget(struct plm_shard *s)
{
    plm_free(s->ctx, s->last.ids);
    plm_free(s->ctx, s->last.sums);
    s->last = (struct plm_last_sums){0};
}
