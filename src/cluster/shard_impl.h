/* shard_impl.h - a shard's state and its answers; inside the cluster room. */
#ifndef PLM_SHARD_IMPL_H
#define PLM_SHARD_IMPL_H

#include "cluster/train_math.h"


#define PLM_PROJECT_ROWS (8 * PLM_BLOCK_ROWS) /* of one task: read at once when the sample is spilled */
#define PLM_PASS_ROWS (10 * PLM_BLOCK_ROWS)   /* of one task of a pass in full dimension */

struct plm_shard {
    struct plm_ctx *ctx;
    const struct plm_kernels *kernels;
    const struct plm_sample *sample;
    size_t first, n, dim;
    /* projected rows */
    float *projected;  /* [n][r] */
    float *half_norms; /* [n] */
    float *squares;    /* [n] squared distances of the rows, in full and cut to the cap, to the mean */
    size_t r;
    uint64_t projection_hash; /* 0 = none */
    float max_projected;
    /* the tree so far */
    uint32_t *node, *child; /* [n] */
    uint32_t *order;        /* [n] rows grouped by node */
    size_t *node_starts;    /* [n_nodes + 1] in `order` */
    size_t n_nodes;
    uint32_t n_applied;     /* levels behind `node` */
    uint64_t path_hash;     /* of those levels and the projection */
    uint64_t child_hash;    /* of these and the level that `child` is of; 0 = none */
};
bool plm_shard_needs_cap(const struct plm_shard *shard, float cap);
PLM_MUST_CHECK enum plm_code
plm_shard_project(struct plm_shard *shard, const struct plm_step *step, struct plm_err *err);
/* Points [n][dim] less the mean, on the axes of the step: out [n][r]. */
PLM_MUST_CHECK enum plm_code
plm_shard_project_points(struct plm_shard *shard, const struct plm_step *step, const float *points,
                         size_t n, float *out, struct plm_err *err);
void plm_shard_forget(struct plm_shard *shard); /* frees everything derived */
PLM_MUST_CHECK enum plm_code
plm_shard_fetch(struct plm_shard *shard, const struct plm_step *step, struct plm_buf *partial,
                struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_shard_seeds(struct plm_shard *shard, const struct plm_step *step, struct plm_buf *partial,
                struct plm_err *err);
/* Leads every row to its node below levels [0, n_levels). */
PLM_MUST_CHECK enum plm_code
plm_shard_route(struct plm_shard *shard, const struct plm_step *step, uint32_t n_levels,
                struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_shard_split(struct plm_shard *shard, const struct plm_step *step, struct plm_buf *partial,
                struct plm_err *err);
/* MEANS and LLOYD. */
PLM_MUST_CHECK enum plm_code
plm_shard_full(struct plm_shard *shard, const struct plm_step *step, struct plm_buf *partial,
               struct plm_err *err);

/* LLOYD with axes: the nearest centroid of most rows, found by a few coordinates; see shard_head.c. */
struct plm_place_head;
PLM_MUST_CHECK enum plm_code
plm_place_head_create(struct plm_shard *shard, const struct plm_step *step, struct plm_place_head **out,
                      struct plm_err *err);
void plm_place_head_destroy(struct plm_place_head *head);
#define PLM_ROW_OPEN UINT32_MAX
/* Rows [first, first + n) of the shard, at `rows` -> ids, PLM_ROW_OPEN for those to be placed
 * exactly. */
void plm_place_by_head(const struct plm_place_head *head, const float *rows, size_t first, size_t n,
                       unsigned worker, uint32_t *ids);

/* Rows [n] grouped by ids < n_ids: starts [n_ids + 1], order [n], ascending in each group. */
void plm_group_rows(const uint32_t *ids, size_t n, size_t n_ids, size_t *starts, uint32_t *order);
/* Adds grouped rows to the sums, on several threads: row order[i] of its group, at
 * rows + order[i] * dim. loss_of gives a row's distance. */
struct plm_adding {
    struct plm_ctx *ctx;
    const float *rows;
    size_t n, dim, n_ids;
    const size_t *starts;
    const uint32_t *order;
    const float *distances;
    bool use_cap;
    const struct plm_step *step;
    struct plm_partial *sums;
};
PLM_MUST_CHECK enum plm_code plm_add_grouped(struct plm_adding *adding, struct plm_err *err);

#endif
