/* train_message.h - steps and partials as messages; inside the cluster room.
 *
 * A step and a partial are flat little-endian messages: a fixed head, then sections at multiples
 * of 64 (steps) or 8 (partials) bytes. What comes from outside is checked by the parsers here;
 * what they return is safe to use without further checks.
 *
 *   FETCH   answer: the n_points rows of least priority, in full; max_abs
 *   SEEDS   answer: for each node of the tree its size and its rows of least priority, projected
 *   SPLIT   answer: sums of the projected rows nearest to each child of their node
 *   MEANS   answer: sums of the full rows nearest to each leaf, by projected distance
 *   LLOYD   answer: sums of the full rows nearest to each centroid: exactly, or, with axes in the
 *           step, as shard_head.c finds them; the losses are then sums of squared distances to the
 *           mean, from which and the sums the trainer makes the loss (nothing for dot)
 */
#ifndef PLM_TRAIN_MESSAGE_H
#define PLM_TRAIN_MESSAGE_H

#include "cluster/train.h"

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
    uint32_t has_basis;         /* 0: projected rows are the rows less the mean; LLOYD: exact */
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
    const float *biases;  /* [n_points] added to half of the squared distance, or to what dot is
                             compared by: large children are nearest to fewer rows */
    size_t at, points_at, biases_at; /* offsets in the message: of the level, of its points and biases */
};

struct plm_step {
    struct plm_step_head head;
    const float *mean, *basis; /* [dim], [r][dim]; LLOYD: only with has_basis */
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
               const float *points, const float *biases, uint32_t r, struct plm_err *err);
void plm_step_finish(struct plm_buf *buf);

/* ---- partials -------------------------------------------------------------------------- */

enum plm_partial_kind { PLM_PICKS = 1, PLM_SUMS };

struct plm_partial_head {
    char magic[8];
    uint32_t kind, number;
    uint64_t step_hash, n_rows, bytes;
    uint32_t n, dim; /* nodes or points, values of each vector */
    float max_abs;
    uint32_t n_open; /* LLOYD with axes: rows these could not place */
    uint32_t unused[2];
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

#endif
