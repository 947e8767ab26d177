/* train_parts.h - pieces of training shared by train.c and train_pq.c. */
#ifndef PLM_TRAIN_PARTS_H
#define PLM_TRAIN_PARTS_H

#include "build/build.h"

/* Fills job->model.pq: `given` as it is, or trained on residuals of the sample (raw rows under
 * dot), sub-vector by sub-vector. Centroids are in the model already. */
PLM_MUST_CHECK enum plm_code
plm_build_train_pq(struct plm_job *job, const struct plm_sample *sample,
                   const struct plm_matrix_view *given, struct plm_err *err);
/* A caller's matrix as float32; PLM_ARG for values that are none. */
PLM_MUST_CHECK enum plm_code
plm_matrix_floats(const struct plm_matrix_view *m, const char *what, float *out,
                  struct plm_err *err);

#endif
