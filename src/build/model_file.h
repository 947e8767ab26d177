/* model_file.h - the trained model on disk: `model`, one checksummed file.
 *
 * Bytes    a fixed header, then centroids, codebook, loss histories, probe vectors and their
 *          row ids, each as float32, double or u64; xxh3 of all before it at the end.
 */
#ifndef PLM_MODEL_FILE_H
#define PLM_MODEL_FILE_H

#include "build/build.h"

/* Writes job->model, losses, probes, trained_rows, loss_unit. */
PLM_MUST_CHECK enum plm_code plm_model_save(struct plm_job *job, struct plm_err *err);
/* Fills them. PLM_NOT_FOUND: not made yet. PLM_CORRUPT: damaged or of another job. */
PLM_MUST_CHECK enum plm_code plm_model_load(struct plm_job *job, struct plm_err *err);

#endif
