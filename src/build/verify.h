/* verify.h - the checks before a commit, one piece at a time: for every engine.
 *
 * Threads  pieces are independent; each uses ctx->threads threads by itself.
 */
#ifndef PLM_VERIFY_H
#define PLM_VERIFY_H

#include "build/check.h"

/* Opens a segment where it is now. */
PLM_MUST_CHECK enum plm_code
plm_verify_open(struct plm_job *job, size_t segment, struct plm_segment *out, struct plm_err *err);
/* PLM_CORRUPT unless the files hold the model of the job and these partition lengths [k]. */
PLM_MUST_CHECK enum plm_code
plm_verify_model(struct plm_job *job, size_t i, const struct plm_segment *segment,
                 const uint32_t *lengths, struct plm_err *err);
/* Live rows [first, first + n) of the table, which the segment covers: all of them, or a sample.
 * What is wrong goes to job->findings. */
PLM_MUST_CHECK enum plm_code
plm_verify_rows(struct plm_job *job, struct plm_segment *segment, uint64_t first, uint64_t n, bool full,
                struct plm_err *err);
/* Row ids of all segments together: how many, and their hash, against what encoding saw. */
struct plm_id_sum {
    uint64_t n, hash_low, hash_high;
};
PLM_MUST_CHECK enum plm_code
plm_verify_ids(const struct plm_job *job, const struct plm_id_sum *sum, struct plm_err *err);
/* PLM_CORRUPT when the findings tell of a problem. */
PLM_MUST_CHECK enum plm_code plm_verify_findings(const struct plm_job *job, struct plm_err *err);

#endif
