/* shard_groups.h - the nearest of very many points, looked for in the few groups that are near; inside
 * the cluster room.
 *
 * Nearly  a row is valued against all groups' centres, then against the points of the 16 groups that
 *         are nearest (1/16 of them, where that is more). The nearest point is seldom elsewhere, and
 *         what is found then is hardly further: enough for training, whose answers need not be exact.
 *         Measured, of 65,536 x 32: a quarter of the time, loss after training + 0.015 %; of 16,384 x
 *         128: 2.5 times as fast, + 0.04 %; of 8,192 x 2,048: twice, + 0.07 %.
 * Repeats groups are a function of the points, answers of the row and the points alone.
 * Threads one set of groups, many threads, each with its own worker number < ctx->threads.
 */
#ifndef PLM_SHARD_GROUPS_H
#define PLM_SHARD_GROUPS_H

#include "cluster/train_math.h"

#define PLM_GROUPS_ROWS (10 * PLM_BLOCK_ROWS) /* given at once, at most */
#define PLM_GROUPS_FOUND 32                   /* points kept of a row that asks for several */

struct plm_groups;

/* From so many points on, groups save more than they cost: on few axes, and where rows are placed among all centroids.
 * Between the two numbers a Lloyd step is exact, which the assigner's filters make as fast as groups are (K = 4,096, 256
 * dimensions: 4.6 s for 6.5 s and loss - 0.6 %; without leading directions 3.4 s for 15 s; K = 16,384: the same). */
static inline bool plm_groups_find_leaves(size_t k) { return k >= 4096; }
static inline bool plm_groups_pay(size_t k) { return k >= 16384; }
static inline bool plm_axes_place(size_t k) { return !plm_groups_find_leaves(k) || plm_groups_pay(k); }
size_t plm_groups_bytes(size_t k, size_t dim, unsigned threads);
/* The value of point j and a row x is biases[j] - x.points[j]; points [k][dim]. */
PLM_MUST_CHECK enum plm_code
plm_groups_create(struct plm_ctx *ctx, const float *points, const float *biases, size_t k, size_t dim, bool dot,
                  struct plm_groups **out, struct plm_err *err);
void plm_groups_destroy(struct plm_groups *groups);
/* Rows [n][dim], n <= PLM_GROUPS_ROWS: the least value and the next, and the point of the least (k
 * where no value was finite). */
void plm_groups_nearest(const struct plm_groups *groups, const float *rows, size_t n, unsigned worker,
                        float *best, float *second, uint32_t *ids);
/* After that, of the same rows: which[i] set asks for the points of row i whose values are at most
 * limits[i]. */
struct plm_found {
    uint32_t n, n_all; /* kept, those of least value; all there were */
    uint32_t ids[PLM_GROUPS_FOUND];
    float values[PLM_GROUPS_FOUND];
};
void plm_groups_at_most(const struct plm_groups *groups, const float *rows, size_t n, unsigned worker,
                        const bool *which, const float *limits, struct plm_found *found);

#endif
