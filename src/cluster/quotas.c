/* quotas.c - how many leaves each node of the tree gets. */
#include <stdlib.h>

#include "cluster/train_math.h"

#define ROOT_FAN 256

struct share {
    size_t node;
    uint64_t rest; /* of the division: the largest get one more */
};

static int by_rest(const void *a, const void *b)
{
    const struct share *x = a, *y = b;

    if (x->rest != y->rest)
        return x->rest > y->rest ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

/* What a node may claim beyond its first leaf: size * total - W, so that 1 + its part of
 * total - m leaves is exactly size * total / W as long as no node falls below 1. */
static void first_weights(uint64_t total, const uint64_t *sizes, size_t n, unsigned __int128 *weights)
{
    unsigned __int128 all = 0;

    for (size_t i = 0; i < n; i++)
        all += sizes[i];
    for (size_t i = 0; i < n; i++) {
        unsigned __int128 claim = (unsigned __int128)sizes[i] * total;

        weights[i] = claim > all ? claim - all : 0;
    }
}

/* One round: whole parts of `left` to nodes that are not full, then the largest remainders if
 * nobody was cut short. Returns what is left. */
static uint64_t share_out(uint64_t left, const unsigned __int128 *weights, const uint64_t *caps,
                          size_t n, struct share *shares, uint32_t *quotas)
{
    unsigned __int128 all = 0;
    uint64_t after = left;
    bool cut_short = false;
    size_t n_open = 0;

    for (size_t i = 0; i < n; i++)
        all += quotas[i] && quotas[i] < caps[i] ? weights[i] : 0;
    if (all == 0)
        return left;
    for (size_t i = 0; i < n; i++) {
        if (!quotas[i] || quotas[i] >= caps[i] || weights[i] == 0)
            continue;
        uint64_t part = (uint64_t)(left * weights[i] / all), room = caps[i] - quotas[i];

        cut_short = cut_short || part > room;
        part = plm_min_u64(part, room);
        quotas[i] += (uint32_t)part;
        after -= part;
        /* The remainder as a 64-bit fraction of `all`, which is below 2^96. */
        shares[n_open++] = (struct share){i, (uint64_t)(((left * weights[i] % all) << 31) / all)};
    }
    if (cut_short)
        return after;
    qsort(shares, n_open, sizeof *shares, by_rest);
    for (size_t i = 0; i < n_open && after > 0; i++)
        if (quotas[shares[i].node] < caps[shares[i].node]) {
            quotas[shares[i].node]++;
            after--;
        }
    return after;
}

enum plm_code plm_share_quotas(struct plm_ctx *ctx, uint64_t total, const uint64_t *sizes,
                               const uint64_t *caps, size_t n, uint32_t *quotas, struct plm_err *err)
{
    unsigned __int128 *weights = NULL;
    struct share *shares = NULL;
    uint64_t left = total;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &weights, n, sizeof *weights, err));
    PLM_TRY(plm_alloc(ctx, &shares, n, sizeof *shares, err));
    for (size_t i = 0; i < n; i++) {
        quotas[i] = sizes[i] > 0 && left > 0 && caps[i] > 0;
        left -= quotas[i];
    }
    first_weights(total, sizes, n, weights);
    /* Every round fills a node or hands out all but nothing; what 64 rounds leave over is small
     * and ends as empty centroids, which are split from the largest. */
    for (int round = 0; round < 64 && left > 0; round++) {
        uint64_t after = share_out(left, weights, caps, n, shares, quotas);

        if (after == left) /* only nodes below one share have room: by size, then */
            for (size_t i = 0; i < n; i++)
                weights[i] = sizes[i];
        left = after;
    }
done:
    plm_free(ctx, weights);
    plm_free(ctx, shares);
    return rc;
}

uint32_t plm_split_fan(uint32_t quota, uint32_t k, uint32_t level)
{
    uint32_t root = 1, root_k = 1;

    while ((uint64_t)root * root < quota)
        root++;
    while ((uint64_t)root_k * root_k < k)
        root_k++;
    if (quota <= 16 || level + 1 == PLM_TREE_LEVELS || (level > 0 && quota <= 4 * (uint64_t)root_k))
        return quota;
    return level > 0 ? root : (uint32_t)plm_min_u64(quota, plm_max_u64(root, ROOT_FAN));
}
