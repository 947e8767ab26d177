/* train_parts.h - pieces of training that every engine uses, wherever the sample is.
 *
 * One process has the whole sample (train.c); several have a shard each (dist_train.c).
 */
#ifndef PLM_TRAIN_PARTS_H
#define PLM_TRAIN_PARTS_H

#include "build/build.h"
#include "cluster/train.h"

/* Fills job->model.pq: `given` as it is, or trained on residuals of the sample (raw rows under
 * dot), sub-vector by sub-vector. Centroids are in the model already. */
PLM_MUST_CHECK enum plm_code
plm_build_train_pq(struct plm_job *job, const struct plm_sample *sample,
                   const struct plm_matrix_view *given, struct plm_err *err);
/* A caller's matrix as float32; PLM_ARG for values that are none. */
PLM_MUST_CHECK enum plm_code
plm_matrix_floats(const struct plm_matrix_view *m, const char *what, float *out,
                  struct plm_err *err);

/* ---- centroids ---------------------------------------------------------------------- */

/* What is to be known of the whole sample before training begins. */
struct plm_sample_facts {
    uint64_t n;
    float lo, hi, max_abs;
};
/* Begins the model: its shape, the bounds of SQ, centroids when they are given. *out: the trainer,
 * where an earlier process left it or fresh; NULL when centroids are given.
 * PLM_DATA for an empty sample. */
PLM_MUST_CHECK enum plm_code
plm_train_begin(struct plm_job *job, const struct plm_build_options *options,
                const struct plm_sample_facts *facts, struct plm_trainer **out, struct plm_err *err);
/* Saves the trainer when the last time was a while ago. *last: plm_now_seconds() of it. */
PLM_MUST_CHECK enum plm_code
plm_train_checkpoint(struct plm_job *job, const struct plm_trainer *trainer, double *last,
                     struct plm_err *err);
/* Centroids and losses of a trainer that is done, into the model. */
PLM_MUST_CHECK enum plm_code
plm_train_take_centroids(struct plm_job *job, const struct plm_trainer *trainer, struct plm_err *err);
/* Saves the model, removes what led to it. */
PLM_MUST_CHECK enum plm_code plm_train_end(struct plm_job *job, struct plm_err *err);

/* Probe query i of n is row plm_probe_row() of the sample. */
static inline size_t plm_probe_count(size_t n_sample)
{
    return n_sample < PLM_PROBE_QUERIES ? n_sample : PLM_PROBE_QUERIES;
}
static inline size_t plm_probe_row(size_t i, size_t n_sample)
{
    size_t n = plm_probe_count(n_sample);
    return (size_t)((__uint128_t)(2 * i + 1) * n_sample / (2 * n));
}
PLM_MUST_CHECK enum plm_code
plm_probes_alloc(struct plm_job *job, size_t n_sample, struct plm_err *err);

/* ---- the codebook -------------------------------------------------------------------- */

/* PQ is trained on n_rows rows, spread evenly over the sample: row i is this one of it. */
static inline size_t plm_pq_rows(const struct plm_plan *p, size_t n_sample)
{
    return (size_t)plm_min_u64(n_sample, (uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits);
}
static inline size_t plm_pq_row(size_t i, size_t n_rows, size_t n_sample)
{
    return (size_t)((__uint128_t)i * n_sample / n_rows);
}

#define PLM_PQ_CHUNK_ROWS 384 /* looked at together by a thread */

/* The training rows of PQ among rows [first, first + sample->n) of the whole sample. */
struct plm_pq_part {
    struct plm_job *job;
    const struct plm_sample *sample;
    size_t n_sample, first; /* of the whole sample; where this part begins in it */
    size_t n_rows;          /* training rows of the whole */
    size_t row, n;          /* of these, this part has [row, row + n) */
    uint32_t *ids;          /* [n] partitions; NULL: codes are of the vectors themselves */
};
/* Finds the rows and their partitions (centroids are in the model). */
PLM_MUST_CHECK enum plm_code
plm_pq_part_open(struct plm_job *job, const struct plm_sample *sample, size_t n_sample, size_t first,
                 struct plm_pq_part *out, struct plm_err *err);
void plm_pq_part_close(struct plm_pq_part *part);
/* Residuals of sub-vectors [first, first + n): columns [n][part->n][dsub]. */
PLM_MUST_CHECK enum plm_code
plm_pq_part_columns(struct plm_pq_part *part, uint32_t first, uint32_t n, float *columns,
                    struct plm_err *err);
/* Trains sub-vectors [first, first + n) from columns [n][n_rows][dsub]: codewords
 * [n][n_codes][dsub], errors [n]. */
PLM_MUST_CHECK enum plm_code
plm_pq_train_columns(struct plm_job *job, const float *columns, size_t n_rows, uint32_t first,
                     uint32_t n, float *codewords, double *errors, struct plm_err *err);
/* A codebook [m][n_codes][dsub], rounded in place, into the model. */
PLM_MUST_CHECK enum plm_code
plm_pq_take_codebook(struct plm_job *job, float *codebook, struct plm_err *err);

#endif
