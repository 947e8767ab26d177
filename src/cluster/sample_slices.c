/* sample_slices.c - slices in the order of their priorities, listed no further than needed. */
#include "cluster/sample_slices.h"

#include <stdlib.h>

#include "cluster/sample.h"

void plm_slices_init(struct plm_slices *slices, struct plm_ctx *ctx, uint64_t n_live, uint64_t seed)
{
    *slices = (struct plm_slices){.ctx = ctx, .n_live = n_live, .seed = seed,
                                  .n_all = n_live / PLM_SLICE_ROWS + (n_live % PLM_SLICE_ROWS != 0)};
}

void plm_slices_reset(struct plm_slices *slices)
{
    if (slices->ctx)
        plm_free(slices->ctx, slices->items);
    *slices = (struct plm_slices){0};
}

uint32_t plm_slice_rows(const struct plm_slices *slices, uint64_t number)
{
    return (uint32_t)plm_min_u64(PLM_SLICE_ROWS, slices->n_live - number * PLM_SLICE_ROWS);
}

static int by_priority(const void *a, const void *b)
{
    const struct plm_slice *x = a, *y = b;

    if (x->priority != y->priority)
        return x->priority < y->priority ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* A priority below which about n of n_all slices lie, with a margin. */
static uint64_t threshold_for(uint64_t n, uint64_t n_all)
{
    double share = ((double)n * 1.05 + 64) / (double)n_all;

    return share >= 1 ? UINT64_MAX : (uint64_t)(share * 0x1p64);
}

static uint64_t count_up_to(const struct plm_slices *slices, uint64_t threshold)
{
    uint64_t n = 0;

    for (uint64_t number = 0; number < slices->n_all; number++)
        n += plm_slice_priority(slices->seed, number) <= threshold;
    return n;
}

enum plm_code plm_slices_extend(struct plm_slices *slices, uint64_t n_min, struct plm_err *err)
{
    struct plm_slice *items = NULL;
    uint64_t threshold, n;
    size_t at = 0;

    if (slices->n >= plm_min_u64(n_min, slices->n_all))
        return PLM_OK;
    threshold = threshold_for(n_min, slices->n_all);
    while ((n = count_up_to(slices, threshold)) < plm_min_u64(n_min, slices->n_all))
        threshold = threshold > UINT64_MAX / 2 ? UINT64_MAX : threshold * 2;

    enum plm_code rc = plm_alloc(slices->ctx, &items, (size_t)n, sizeof *items, err);
    if (rc != PLM_OK)
        return rc;
    for (uint64_t number = 0; number < slices->n_all; number++) {
        uint64_t priority = plm_slice_priority(slices->seed, number);

        if (priority <= threshold)
            items[at++] = (struct plm_slice){.number = number, .priority = priority,
                                             .usable = PLM_USABLE_UNKNOWN};
    }
    qsort(items, at, sizeof *items, by_priority);
    /* The old list is a prefix of the new one: a higher threshold only appends. */
    if (slices->n)
        memcpy(items, slices->items, slices->n * sizeof *items);
    plm_free(slices->ctx, slices->items);
    slices->items = items;
    slices->n = at;
    return PLM_OK;
}

void plm_slices_choose(struct plm_slices *slices, uint64_t n_wanted, size_t *n_used,
                       uint64_t *n_rows, bool *known)
{
    uint64_t rows = 0;
    size_t used = 0;
    bool all_known = true;

    for (; used < slices->n && rows < n_wanted; used++) {
        struct plm_slice *s = &slices->items[used];
        bool is_known = s->usable != PLM_USABLE_UNKNOWN;

        s->keep = is_known ? s->usable : plm_slice_rows(slices, s->number);
        s->keep = (uint32_t)plm_min_u64(s->keep, n_wanted - rows);
        rows += s->keep;
        all_known = all_known && is_known;
    }
    *n_used = used;
    *n_rows = rows;
    *known = all_known;
}

enum plm_code plm_slices_next(struct plm_slices *slices, uint64_t n_wanted, size_t n_counted,
                              size_t *n_used, uint64_t *n_rows, size_t *n, struct plm_err *err)
{
    uint64_t usable = 1;
    bool known;
    enum plm_code rc = PLM_OK;

    *n = n_counted;
    plm_slices_choose(slices, n_wanted, n_used, n_rows, &known);
    if (known && (*n_rows >= n_wanted || slices->n == slices->n_all))
        return PLM_OK;
    for (size_t i = 0; i < n_counted; i++)
        usable += slices->items[i].usable;
    /* As many more as the usable share so far suggests, and at most twice as many in all. */
    double missing = n_wanted > usable ? (double)(n_wanted - usable) : 0;
    uint64_t more = (uint64_t)(missing * (double)n_counted / (double)usable * 1.05) + 8;

    more = n_counted + plm_min_u64(more, n_counted + 64);
    PLM_TRY(plm_slices_extend(slices, more, err));
    *n = (size_t)plm_min_u64(slices->n, more);
done:
    return rc;
}
