/* train.h - IVF centroids: a size-proportional tree in a PCA projection, then means and
 * refinement in full dimension.
 *
 * Shape    training is a state machine. The trainer emits a step (a small message), every
 *          shard of the sample answers it with a partial (a small message), partials are
 *          merged in any order and absorbed. The threads engine and Ray drive the same machine.
 * Same     partials are exact (sums on a common grid, counts, least priorities), so the result
 * bytes    does not depend on how the sample is cut into shards or in which order they answer.
 * Owns     trainer and shard own their state; a shard borrows its sample.
 * Repeats  same sample, options and kernel table: same centroids. Seeds are the rows of least
 *          plm_mix64(seed, row) in each node. A centroid without rows becomes a copy of the one with
 *          the most rows (lowest number on ties) among those with a spread, both moved apart by 1/16
 *          of it in a seeded direction; where nothing has a spread, a plain copy.
 * Even     in the tree rows keep away from large nodes (biases, train_math.h); refinement is plain k-means.
 * sizes
 * Lloyd    rows are placed by their coordinates on the axes, compared in full where these leave
 * steps    doubt; where they leave too much of it, or there are no axes, exactly.
 * Outliers values beyond 4096 times the greatest of 2,000 sampled rows are cut to that in all sums.
 * Source   Halko, Martinsson, Tropp, Finding structure with randomness (2011), for the axes.
 */
#ifndef PLM_TRAIN_H
#define PLM_TRAIN_H

#include "cluster/sample.h"
#include "core/core.h"

struct plm_train_options {
    size_t n_sample, dim, k; /* k <= n_sample */
    enum plm_metric metric;  /* PLM_L2 also for cosine; PLM_DOT: unit centroids */
    uint64_t seed;
    uint32_t max_iters;      /* ceiling for each k-means loop inside, default 50 */
};

struct plm_trainer;

PLM_MUST_CHECK enum plm_code
plm_trainer_create(struct plm_ctx *ctx, const struct plm_train_options *options,
                   struct plm_trainer **out, struct plm_err *err);
void plm_trainer_destroy(struct plm_trainer *trainer);

/* The current step, borrowed until the next absorb; len 0 when training is done. `what` (may be
 * NULL) gets a short text for progress. */
struct plm_view plm_trainer_step(const struct plm_trainer *trainer, const char **what);
/* One merged partial of all shards. PLM_CORRUPT for a partial of another step, or not of all rows;
 * the trainer is as it was then. After any other error it can only be destroyed. */
PLM_MUST_CHECK enum plm_code
plm_trainer_absorb(struct plm_trainer *trainer, struct plm_view partial, struct plm_err *err);
/* Roughly how many steps there will be and how many are done: for progress. */
void plm_trainer_progress(const struct plm_trainer *trainer, unsigned *done, unsigned *total);

const struct plm_train_options *plm_trainer_options(const struct plm_trainer *trainer);
/* When done (else NULL): centroids [k][dim] (borrowed). The mean loss of each full-dimension pass
 * is that of the centroids the pass began with: the last update is not in it. */
const float *plm_trainer_centroids(const struct plm_trainer *trainer);
size_t plm_trainer_losses(const struct plm_trainer *trainer, const double **losses);

/* Checkpoints: everything a new process needs to carry on at the current step. */
PLM_MUST_CHECK enum plm_code
plm_trainer_save(const struct plm_trainer *trainer, struct plm_buf *out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_load(struct plm_ctx *ctx, struct plm_view saved, struct plm_trainer **out,
                 struct plm_err *err);
/* The step in a checkpoint, borrowed from it: for those who answer it (plm_shard_run checks it). */
PLM_MUST_CHECK enum plm_code
plm_trainer_saved_step(struct plm_view saved, struct plm_view *step, struct plm_err *err);

/* A shard: rows [first, first + sample->n) of the whole sample. Caches what it derives (projected
 * rows, node of each row), and rebuilds it from the step when it is missing: steps are
 * self-contained, so a shard that died is simply created again. */
struct plm_shard;
PLM_MUST_CHECK enum plm_code
plm_shard_create(struct plm_ctx *ctx, const struct plm_sample *sample, size_t first,
                 struct plm_shard **out, struct plm_err *err);
void plm_shard_destroy(struct plm_shard *shard);
/* Answers a step, on ctx->threads threads; the partial is appended to `partial`, whose length must
 * be a multiple of 8 (PLM_ARG). A step from outside is checked: PLM_CORRUPT. */
PLM_MUST_CHECK enum plm_code
plm_shard_run(struct plm_shard *shard, struct plm_view step, struct plm_buf *partial,
              struct plm_err *err);
/* a += b, exact and commutative; an empty `a` becomes a copy of b. PLM_CORRUPT for partials of
 * different steps, and for a row that both answered for (found in seeding steps). */
PLM_MUST_CHECK enum plm_code
plm_partial_merge(struct plm_buf *a, struct plm_view b, struct plm_err *err);

/* All of it on this machine with one shard. checkpoint (may be NULL) is called after each
 * absorb. centroids: [k][dim], the caller's (plm_free); *losses likewise. */
typedef enum plm_code plm_checkpoint_fn(void *arg, const struct plm_trainer *trainer,
                                        struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_train_local(struct plm_ctx *ctx, const struct plm_sample *sample, struct plm_trainer *trainer,
                plm_checkpoint_fn *checkpoint, void *arg, struct plm_err *err);
/* Memory training needs on one machine beyond the sample itself. aside: projected rows are in a file. */
struct plm_train_shape {
    size_t n_sample, dim, k;
    unsigned threads;
    bool aside;
    bool has_axes; /* what it takes when the axes are not given up, where that would take more */
};
size_t plm_train_bytes(const struct plm_train_shape *shape);
/* And what comes on top of that when the sample is spilled. */
size_t plm_train_spill_bytes(size_t dim, unsigned threads);
/* Bytes of projected rows, in memory or in that file. */
size_t plm_train_aside_bytes(size_t n_sample, size_t dim);

#endif
