/* train_impl.h - inside the cluster room: messages and parts of the training machine.
 *
 * A step and a partial are flat little-endian messages: a fixed head, then sections at multiples
 * of 64 (steps) or 8 (partials) bytes. What comes from outside is checked by the parsers here;
 * what they return is safe to use without further checks.
 *
 *   FETCH   answer: the n_points rows of least priority, in full; max_abs
 *   SEEDS   answer: for each node of the tree its size and its rows of least priority, projected
 *   SPLIT   answer: sums of the projected rows nearest to each child of their node
 *   MEANS   answer: sums of the full rows nearest to each leaf, by projected distance
 *   LLOYD   answer: sums of the full rows nearest to each centroid, exactly
 */
#ifndef PLM_TRAIN_IMPL_H
#define PLM_TRAIN_IMPL_H

#include "cluster/grid.h"
#include "cluster/train.h"
#include "simd/simd.h"

enum plm_step_kind {
    PLM_STEP_FETCH = 1, PLM_STEP_SEEDS, PLM_STEP_SPLIT, PLM_STEP_MEANS, PLM_STEP_LLOYD
};
#define PLM_TREE_LEVELS 4     /* of splits; two are the rule */
#define PLM_FETCH_ROWS 2000   /* rows the projection is made from */
#define PLM_TRAIN_DIM_MAX 65536

/* ---- steps --------------------------------------------------------------------------- */

struct plm_step_head {
    char magic[8];
    uint32_t kind, number;
    uint64_t bytes, seed, n_sample;
    uint32_t dim, r, k, metric; /* r: dimensions of projected rows */
    uint32_t n_levels;          /* levels in the message; SPLIT: the last is the one in work */
    uint32_t n_nodes;           /* SEEDS: nodes to seed */
    uint32_t n_points;          /* FETCH: rows; MEANS: leaves; LLOYD: k */
    uint32_t is_last;           /* SEEDS, SPLIT: no level comes after this one */
    uint32_t has_basis;         /* 0: projected rows are the rows less the mean */
    float cap;                  /* values are cut to +-cap before they are added or projected */
    double magic_sum;           /* for grid_add */
    double loss_limit, loss_scale; /* for plm_fixed */
    uint8_t unused[24];
};

/* One level: nodes, and the children each is split into; child numbers are consecutive, and are
 * the node numbers of the next level. */
struct plm_level {
    uint32_t n_nodes, n_points;
    const uint32_t *fan;  /* [n_nodes] children of each node */
    const float *points;  /* [n_points][r] */
    size_t at, points_at; /* offsets in the message: of the level, of its points */
};

struct plm_step {
    struct plm_step_head head;
    const float *mean, *basis; /* [dim], [r][dim] */
    struct plm_level levels[PLM_TREE_LEVELS];
    const uint32_t *want;      /* SEEDS: [n_nodes] rows each node is to give */
    const uint32_t *quotas;    /* SEEDS: [n_nodes] leaves it is to get; for the trainer */
    const float *points;       /* MEANS: [n_points][r]; LLOYD: [k][dim] */
    size_t points_at, levels_end; /* offsets; levels_end: behind the last level */
    uint64_t hash;             /* of the whole message */
};

PLM_MUST_CHECK enum plm_code
plm_step_parse(struct plm_view bytes, struct plm_step *out, struct plm_err *err);
/* Building: head first (sizes are filled in by finish), then sections in order. */
PLM_MUST_CHECK enum plm_code
plm_step_begin(struct plm_buf *buf, const struct plm_step_head *head, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_step_section(struct plm_buf *buf, const void *bytes, size_t n, size_t each, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_step_level(struct plm_buf *buf, uint32_t n_nodes, const uint32_t *fan, uint32_t n_points,
               const float *points, uint32_t r, struct plm_err *err);
void plm_step_finish(struct plm_buf *buf);

/* ---- partials -------------------------------------------------------------------------- */

enum plm_partial_kind { PLM_PICKS = 1, PLM_SUMS };

struct plm_partial_head {
    char magic[8];
    uint32_t kind, number;
    uint64_t step_hash, n_rows, bytes;
    uint32_t n, dim; /* nodes or points, values of each vector */
    float max_abs;
    uint32_t unused[3];
};

/* A chosen row: followed by `dim` floats, padded to 8 bytes. */
struct plm_pick {
    uint64_t priority, row;
};
static inline size_t plm_pick_bytes(size_t dim)
{
    return sizeof(struct plm_pick) + (dim + 1) / 2 * 2 * sizeof(float);
}

/* Pointers into the message. */
struct plm_partial {
    struct plm_partial_head *head;
    uint64_t *sizes;       /* PICKS: rows of each node; SUMS: rows of each point */
    uint32_t *want, *have; /* PICKS: picks wanted, and given */
    uint8_t *picks;        /* PICKS: of all nodes in order, ascending (priority, row) in each */
    int64_t *losses;       /* SUMS */
    double *sums;          /* SUMS: [n][dim] */
};

/* Appends an empty partial with room for n_picks picks (PICKS); SUMS start at zero.
 * PLM_ARG unless buf->len is a multiple of 8. */
PLM_MUST_CHECK enum plm_code
plm_partial_begin(struct plm_buf *buf, enum plm_partial_kind kind, const struct plm_step *step,
                  uint32_t n, uint32_t dim, size_t n_picks, struct plm_partial *out,
                  struct plm_err *err);
/* The message must be 8-byte aligned: plm_aligned(). */
PLM_MUST_CHECK enum plm_code
plm_partial_parse(struct plm_view bytes, struct plm_partial *out, struct plm_err *err);
/* `view`, or a copy in *copy (the caller's, plm_free) where it is not aligned. */
PLM_MUST_CHECK enum plm_code
plm_aligned(struct plm_ctx *ctx, struct plm_view view, void **copy, struct plm_view *out,
            struct plm_err *err);

/* ---- packed points ----------------------------------------------------------------------- */

struct plm_panels {
    struct plm_ctx *ctx;
    float *values, *half_norms;
    size_t n_panels, n_panels_max, dim;
};
PLM_MUST_CHECK enum plm_code
plm_panels_alloc(struct plm_ctx *ctx, size_t n_max, size_t dim, struct plm_panels *out,
                 struct plm_err *err);
/* n points [n][dim]; half norms are 0 for dot. */
void plm_panels_fill(struct plm_panels *panels, const float *points, size_t n, bool dot);
void plm_panels_reset(struct plm_panels *panels);
static inline size_t plm_panels_of(size_t n) { return (n + PLM_PANEL - 1) / PLM_PANEL; }
/* Floats of one packed block of rows. */
static inline size_t plm_packed_floats(size_t dim) { return (size_t)PLM_BLOCK_ROWS * dim; }

/* ---- the trainer's arithmetic ---------------------------------------------------------------- */

/* Leading axes of rows [n][dim], which are scaled in place: basis [r][dim], r a multiple of
 * PLM_PANEL, orthonormal rows (or zero rows where the data has fewer axes). */
PLM_MUST_CHECK enum plm_code
plm_basis_make(struct plm_ctx *ctx, float *rows, size_t n, size_t dim, size_t r, uint64_t seed,
               float *basis, struct plm_err *err);
/* Children a node with this quota is split into at a level: all of them, or about sqrt(quota). */
uint32_t plm_split_fan(uint32_t quota, uint32_t k, uint32_t level);
/* Shares `total` leaves among nodes in proportion to their sizes, by largest remainder (lowest
 * number on ties): at least 1 for a node with rows, at most caps[i]. total >= nodes with rows. */
PLM_MUST_CHECK enum plm_code
plm_share_quotas(struct plm_ctx *ctx, uint64_t total, const uint64_t *sizes, const uint64_t *caps,
                 size_t n, uint32_t *quotas, struct plm_err *err);
/* Means of the sums; points without rows keep their values. For dot they are scaled to norm 1; a
 * point whose sum is 0 becomes 0, and counts[i] (counts may be NULL) too. */
void plm_take_means(const struct plm_kernels *kernels, const struct plm_partial *sums, bool dot,
                    float *points, uint64_t *counts);
/* Every centroid without rows becomes a copy of the one with the most rows among those with
 * a spread (lowest number on ties), both moved apart by 1/16 of its root mean square distance per
 * value, in directions seeded by (seed, number). Without any spread: plain copies of the largest.
 * counts and losses (in units of 1/scale) are updated; they are [k]. */
PLM_MUST_CHECK enum plm_code
plm_fill_empties(struct plm_ctx *ctx, float *centroids, size_t k, size_t dim, bool dot,
                 uint64_t *counts, int64_t *losses, double scale, uint64_t seed,
                 struct plm_err *err);

/* ---- the trainer --------------------------------------------------------------------------------- */

#define PLM_LLOYD_MAX 10 /* two to four are the rule; skewed data gains from more */

/* All that is large lies in the step: a checkpoint is these few numbers and the message. */
struct plm_trainer {
    struct plm_ctx *ctx;
    struct plm_train_options options; /* metric is L2 or DOT */
    uint32_t n_absorbed, round; /* round: of the loop in work */
    uint32_t n_requotas;        /* of this level */
    bool done;
    double loss_before;         /* mean loss of the round before */
    double losses[PLM_LLOYD_MAX + 1];
    size_t n_losses;
    struct plm_buf step;
    char what[64];
};
/* What each answer leads to; `step` is the trainer's, parsed. They replace or change it. */
PLM_MUST_CHECK enum plm_code
plm_trainer_take_rows(struct plm_trainer *t, const struct plm_step *step,
                      const struct plm_partial *picks, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_seeds(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *picks, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_split(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *sums, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_leaves(struct plm_trainer *t, const struct plm_step *step,
                        const struct plm_partial *sums, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_lloyd(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *sums, struct plm_err *err);
/* The head of the step after `step`: the same but for number and kind. */
struct plm_step_head plm_step_after(const struct plm_step *step, enum plm_step_kind kind);
/* Mean loss of a round, and whether it is hardly below the one before (a part `least` of it; for
 * dot, of the mean product). */
double plm_mean_loss(const struct plm_step *step, const struct plm_partial *sums);
bool plm_gain_is_small(uint32_t metric, double before, double now, double least);
/* Puts *next in the place of the step. */
void plm_trainer_replace(struct plm_trainer *t, struct plm_buf *next);
void plm_trainer_describe(struct plm_trainer *t); /* fills `what` */

/* ---- the shard's parts -------------------------------------------------------------------------- */

struct plm_shard {
    struct plm_ctx *ctx;
    const struct plm_kernels *kernels;
    const struct plm_sample *sample;
    size_t first, n, dim;
    /* projected rows */
    float *projected;  /* [n][r] */
    float *half_norms; /* [n] */
    size_t r;
    uint64_t projection_hash; /* 0 = none */
    float max_projected;
    /* the tree so far */
    uint32_t *node, *child; /* [n] */
    uint32_t *order;        /* [n] rows grouped by node */
    float *distance;        /* [n] to the nearest child */
    size_t *node_starts;    /* [n_nodes + 1] in `order` */
    size_t n_nodes;
    uint32_t n_applied;     /* levels behind `node` */
    uint64_t path_hash;     /* of those levels and the projection */
};
bool plm_shard_needs_cap(const struct plm_shard *shard, float cap);
void plm_cap_row(const float *row, size_t dim, float cap, float *out);
PLM_MUST_CHECK enum plm_code
plm_shard_project(struct plm_shard *shard, const struct plm_step *step, struct plm_err *err);
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
