/* assign.h - the exact nearest centroid of every row.
 *
 * Exact    the answer is the argmin in float64 over float32 inputs (sums as in simd.h
 *          l2_exact / dot_exact), lowest id on equality: one and the same on every kernel
 *          table, whatever filter ran in front.
 * Owns     an assigner owns packed copies of the centroids.
 * Memory   about K * dim floats for the panels, and a filter's share; scratch per thread.
 * Threads  one assigner, many threads, each with its own scratch.
 */
#ifndef PLM_ASSIGN_H
#define PLM_ASSIGN_H

#include "core/core.h"
#include "rows/source.h"

struct plm_assigner;

/* centroids: [k][dim], borrowed for the assigner's life. PLM_L2 (also for cosine, whose rows
 * are already normalized) or PLM_DOT. */
PLM_MUST_CHECK enum plm_code
plm_assigner_create(struct plm_ctx *ctx, const float *centroids, size_t k, size_t dim,
                    enum plm_metric metric, struct plm_assigner **out, struct plm_err *err);
void plm_assigner_destroy(struct plm_assigner *assigner);
/* Bytes an assigner of this shape takes, and those of one scratch: for budgets. */
size_t plm_assigner_bytes(size_t k, size_t dim);
size_t plm_assign_scratch_bytes(size_t k, size_t dim);

struct plm_assign_scratch {
    struct plm_ctx *ctx;
    float *packed, *values, *best, *second;
    void *more;
};
void plm_assign_scratch_reset(struct plm_assign_scratch *scratch);

/* rows [n][dim] -> ids [n]; distances [n] (may be NULL) are squared L2, or 1 - x.c for dot, of
 * the winner in double. */
PLM_MUST_CHECK enum plm_code
plm_assign(const struct plm_assigner *assigner, const float *rows, size_t n, uint32_t *ids,
           double *distances, struct plm_assign_scratch *scratch, struct plm_err *err);

#endif
