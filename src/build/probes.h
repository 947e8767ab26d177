/* probes.h - the true neighbours of the probe queries, found while rows pass by.
 *
 * Exact    candidates come from float32 products with their error bound, and are decided in
 *          float64, ties by row id: the answer does not depend on batches or kernel tables.
 * Memory   scratch of (queries + PLM_BLOCK_ROWS) * dim floats a thread.
 */
#ifndef PLM_PROBES_H
#define PLM_PROBES_H

#include "build/build.h"

/* The probe queries, packed for the kernels. {0} is empty. */
struct plm_probe_panels {
    struct plm_ctx *ctx;
    const struct plm_probes *probes; /* borrowed */
    enum plm_metric metric;
    size_t dim, n_panels;
    float *panels, *half_norms;      /* see simd.h */
    double *norms;                   /* [n] |q| */
};
PLM_MUST_CHECK enum plm_code
plm_probe_panels_init(struct plm_ctx *ctx, const struct plm_probes *probes, size_t dim,
                      enum plm_metric metric, struct plm_probe_panels *out, struct plm_err *err);
void plm_probe_panels_reset(struct plm_probe_panels *panels);

/* Offers the rows of a batch. packed: PLM_BLOCK_ROWS * dim floats; values: PLM_BLOCK_ROWS * 16 *
 * n_panels floats; best: [n][PLM_PROBE_K], distances +infinity where nothing was found yet. */
void plm_probe_offer(const struct plm_probe_panels *panels, const struct plm_batch *batch,
                     float *packed, float *values, struct plm_neighbour *best);
/* All places empty. */
void plm_neighbours_clear(struct plm_neighbour *best, size_t n_queries);

#endif
