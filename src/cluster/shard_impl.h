/* shard_impl.h - a shard's state and its answers; inside the cluster room. */
#ifndef PLM_SHARD_IMPL_H
#define PLM_SHARD_IMPL_H

#include "cluster/train_math.h"

#define PLM_PROJECT_ROWS (8 * PLM_BLOCK_ROWS) /* of one task: read at once when the sample is spilled */
#define PLM_UNIT_ROWS (20 * PLM_BLOCK_ROWS)   /* of one node given to a thread at a time */
#define PLM_PASS_ROWS (10 * PLM_BLOCK_ROWS)   /* of one task of a pass in full dimension */

struct plm_shard {
    struct plm_ctx *ctx;
    const struct plm_kernels *kernels;
    const struct plm_sample *sample;
    size_t first, n, dim;
    /* projected rows */
    float *projected;        /* [n][r], or NULL: spilled */
    struct plm_file *spill;  /* likewise */
    float *half_norms;       /* [n] */
    float *squares;          /* [n] squared distances of the rows, in full and cut to the cap, to the mean */
    size_t r;
    uint64_t projection_hash; /* 0 = none */
    float max_projected;
    /* the tree so far */
    uint32_t *node, *child; /* [n] */
    size_t n_nodes;
    uint32_t n_applied;     /* levels behind `node` */
    uint64_t path_hash;     /* of those levels and the projection */
    uint64_t child_hash;    /* of these and the level that `child` is of; 0 = none */
    struct plm_shard_chunk {
        size_t first, n;
        uint32_t *order;     /* [rows_max] its rows, counted from `first`, grouped by node */
        size_t *node_starts; /* [n_nodes + 1] in `order` */
        const float *rows;   /* [n][r] */
        float *room;         /* [rows_max][r] when spilled */
        bool is_grouped;     /* all of the above is of the nodes as they are */
    } chunk;                 /* projected rows at hand: all of them, or some that were spilled */
    size_t chunk_rows;       /* of a chunk, at most */
    struct plm_last_sums {
        uint32_t *ids;       /* [n] */
        double *sums;        /* [k][dim], of n_points */
        size_t n_points;
        double magic;
        float cap;
        bool is_whole;
    } last;                  /* of the pass before, where there is room */
};
/* Rows of a chunk of n spilled ones, at most. */
size_t plm_chunk_rows(size_t n, size_t k, unsigned threads);
bool plm_shard_needs_cap(const struct plm_shard *shard, float cap);
PLM_MUST_CHECK enum plm_code
plm_shard_project(struct plm_shard *shard, const struct plm_step *step, struct plm_err *err);
/* Points [n][dim] less the mean, on the axes of the step: out [n][r]. */
PLM_MUST_CHECK enum plm_code
plm_shard_project_points(struct plm_shard *shard, const struct plm_step *step, const float *points,
                         size_t n, float *out, struct plm_err *err);
void plm_shard_forget(struct plm_shard *shard); /* frees everything derived */
/* Projected rows [first, first + n): *rows points into memory or at `room` (n * r floats). */
PLM_MUST_CHECK enum plm_code
plm_shard_projected(const struct plm_shard *shard, size_t first, size_t n, float *room, const float **rows,
                    struct plm_err *err);
/* Room for the tree, and its end: passes in full dimension need nothing of it. */
PLM_MUST_CHECK enum plm_code plm_shard_enter_tree(struct plm_shard *shard, size_t k, struct plm_err *err);
void plm_shard_leave_tree(struct plm_shard *shard);
/* Makes the chunk that begins at row `first` the one at hand, grouped by the nodes of its rows. */
PLM_MUST_CHECK enum plm_code
plm_shard_take_chunk(struct plm_shard *shard, size_t first, struct plm_err *err);
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
/* Bytes of the sums of so many points; and whether they are so many that sums come after all rows
 * are placed. */
size_t plm_sums_bytes(size_t n_points, size_t dim);
bool plm_sums_wait(size_t n_points, size_t dim);
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
/* Rows [first, first + n) of the shard, n <= PLM_PASS_ROWS, at `rows` -> ids, PLM_ROW_OPEN for those
 * to be placed exactly. */
PLM_MUST_CHECK enum plm_code
plm_place_by_head(struct plm_place_head *head, const float *rows, size_t first, size_t n,
                  unsigned worker, uint32_t *ids, struct plm_err *err);

/* How many of them had too many centroids in doubt for the axes to say which. */
size_t plm_place_head_doubtful(const struct plm_place_head *head);

/* Very many points in few dimensions: nearly the nearest; see shard_near.c. */
struct plm_place_near;
bool plm_place_near_pays(const struct plm_step *step);
size_t plm_place_near_bytes(size_t k, size_t dim, unsigned threads);
PLM_MUST_CHECK enum plm_code
plm_place_near_create(struct plm_shard *shard, const struct plm_step *step, struct plm_place_near **out,
                      struct plm_err *err);
void plm_place_near_destroy(struct plm_place_near *near);
/* As plm_place_by_head(), and distances. */
PLM_MUST_CHECK enum plm_code
plm_place_near(const struct plm_place_near *near, const float *rows, size_t first, size_t n, unsigned worker,
               uint32_t *ids, float *distances, struct plm_err *err);

/* Rows [n] grouped by ids < n_ids: starts [n_ids + 1], order [n], ascending in each group. */
void plm_group_rows(const uint32_t *ids, size_t n, size_t n_ids, size_t *starts, uint32_t *order);
/* Adds rows [n] to the sums of their ids, on several threads. `before`: ids they were counted with in
 * these sums, which only those that moved change; or NULL. */
struct plm_adding {
    struct plm_ctx *ctx;
    const float *rows;
    size_t n, dim, n_ids;
    const uint32_t *ids, *before;
    const float *distances;
    bool use_cap;
    const struct plm_step *step;
    struct plm_partial *sums;
    size_t *starts;  /* room: [n_ids + 1] */
    uint32_t *order; /* room: [n], with `before` [2 n]; n < 2^31 then */
};
PLM_MUST_CHECK enum plm_code plm_add_rows(struct plm_adding *adding, struct plm_err *err);

/* Sums of the pass before: whether they are a start for this step; room to keep them; keeping them. */
bool plm_last_serves(const struct plm_shard *shard, const struct plm_step *step);
bool plm_last_make_room(struct plm_shard *shard, const struct plm_step *step);
void plm_last_keep(struct plm_shard *shard, const struct plm_step *step, const struct plm_partial *sums);
void plm_last_forget(struct plm_shard *shard);

#endif
