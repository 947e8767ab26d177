/* shard_sums.c - rows grouped by number, and added up group by group. */
#include "cluster/shard_impl.h"

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

        a->sums->sizes[id] += a->starts[id + 1] - a->starts[id];
        for (size_t i = a->starts[id]; i < a->starts[id + 1]; i++) {
            size_t row = a->order[i];
            const float *values = a->rows + row * a->dim;

            if (a->use_cap) {
                plm_cap_row(values, a->dim, h->cap, capped);
                values = capped;
            }
            kernels->grid_add(sums, values, a->dim, h->magic_sum);
            a->sums->losses[id] += plm_fixed((double)a->distances[row], h->loss_limit, h->loss_scale);
        }
    }
    return PLM_OK;
}

enum plm_code plm_add_grouped(struct plm_adding *adding, struct plm_err *err)
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
