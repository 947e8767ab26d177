/* train_math.h - the arithmetic of training: packed points, axes, quotas, means; inside the cluster
 * room. */
#ifndef PLM_TRAIN_MATH_H
#define PLM_TRAIN_MATH_H

#include "cluster/grid.h"
#include "cluster/train_message.h"
#include "simd/simd.h"

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

/* Values cut to +-cap. */
void plm_cap_row(const float *row, size_t dim, float cap, float *out);
/* Projected dimensions when so many rows are fetched; 0 = rows are used as they are. */
size_t plm_projected_dim(size_t dim, size_t n_fetched);
/* Rows of so few dimensions are used as they are where the axes leave out too much of them: groups that
 * only the rest tells apart are never found, 10 % of the loss of unit packages-lsa-256 with K = 316, whose axes
 * hold 0.54 of the spread. It takes twice the time. */
static inline bool plm_axes_may_go(size_t dim) { return dim <= 256; }
/* Rows as they lie: their values are cut to +-cap, then lose the mean (NULL: nothing). */
struct plm_basis_rows {
    const uint8_t *first; /* dim floats, aligned as such */
    size_t stride;        /* bytes from row to row */
    size_t n, dim;
    float cap;
    const float *mean;
};
/* Their leading axes: basis [r][dim], r a multiple of PLM_PANEL, orthonormal rows (or zero rows where
 * the data has fewer axes). The rows are not copied. */
PLM_MUST_CHECK enum plm_code
plm_basis_make(struct plm_ctx *ctx, const struct plm_basis_rows *rows, size_t r, uint64_t seed,
               float *basis, struct plm_err *err);
/* Children a node with this quota is split into at a level: all of them, or about sqrt(quota). The
 * root has 256, or all leaves where there are fewer: what a few children part is never joined again, and what
 * they join comes apart slowly. Leaves that are left over go where most rows are.
 * Measured against sqrt(quota) at the root: packages-lsa-256, K = 316: loss - 3 %, recall@10 at 2 % of the
 * rows + 0.03; packages-384: loss - 0.3 %, + 0.004; 128,116 x 2,048, K = 500: loss - 0.5 %, time + 5 %. */
uint32_t plm_split_fan(uint32_t quota, uint32_t k, uint32_t level);
/* Shares `total` leaves among nodes in proportion to their sizes, by largest remainder (lowest
 * number on ties): at least 1 for a node with rows, at most caps[i]. total >= nodes with rows. */
PLM_MUST_CHECK enum plm_code
plm_share_quotas(struct plm_ctx *ctx, uint64_t total, const uint64_t *sizes, const uint64_t *caps,
                 size_t n, uint32_t *quotas, struct plm_err *err);
/* New biases of the children of the level in work, from its answer: [its points], changed in place. Rows go to
 * the child of least distance plus bias, and the biases of one node's children are in proportion to their
 * sizes. Without them random seeds leave one child to take all rows that are close to none. A child of average
 * size gets 0.7 of what the split saves a row of its loss, or what is left where that is less; a round
 * moves biases 0.3 of the way. Measured, K = 64: raw packages-lsa-256: loss - 2.7 %,
 * sizes vary by 1.41 for 2.4, recall@10 at 5 % of the rows 0.79 for 0.39; packages-384: loss - 0.5 %, + 0.008. */
PLM_MUST_CHECK enum plm_code
plm_take_biases(struct plm_ctx *ctx, const struct plm_step *step, const struct plm_partial *sums,
                float *biases, struct plm_err *err);
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

#endif
