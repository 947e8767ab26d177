/* calibrate_impl.h - measurements of plm_calibrate(): calibrate_work.c what a processor does,
 * calibrate_disk.c reading the table and writing beside it.
 *
 * Each keeps what it was given when it fails: memory or I/O may.
 */
#ifndef PLM_CALIBRATE_IMPL_H
#define PLM_CALIBRATE_IMPL_H

#include "build/plan_parts.h"

struct plm_calibration {
    struct plm_source *source;
    const struct plm_plan *plan;
    double seconds; /* for each measurement */
};

double plm_thread_seconds(void); /* of the processor, for the calling thread */

/* Multiply-adds a second: of the float search for the nearest centroid, the bounds of bytes, the search
 * for the nearest codeword (PQ), distances in float64. */
PLM_MUST_CHECK enum plm_code plm_calibrate_nearest(const struct plm_calibration *c, double *out);
PLM_MUST_CHECK enum plm_code plm_calibrate_bytes(const struct plm_calibration *c, double *out);
PLM_MUST_CHECK enum plm_code plm_calibrate_codewords(const struct plm_calibration *c, double *out);
PLM_MUST_CHECK enum plm_code plm_calibrate_doubles(const struct plm_calibration *c, double *out);
/* Copying, and before that what memory costs that nobody wrote to yet. */
PLM_MUST_CHECK enum plm_code
plm_calibrate_memory(const struct plm_calibration *c, struct plm_rates *out);
/* Rows at a few places: how fast they come, and how their variance is spread. */
PLM_MUST_CHECK enum plm_code
plm_calibrate_rows(const struct plm_calibration *c, struct plm_rates *out);
/* Writing to a file without a name in `dir`, and syncing it. */
PLM_MUST_CHECK enum plm_code
plm_calibrate_writes(const struct plm_calibration *c, const char *dir, struct plm_rates *out);

#endif
