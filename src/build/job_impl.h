/* job_impl.h - the directory of a build, for the files that open it: job.c its life, job_dirs.c its
 * places, job_carry.c what an earlier process has left.
 */
#ifndef PLM_JOB_IMPL_H
#define PLM_JOB_IMPL_H

#include "build/build.h"
#include "build/pins.h"

#define PLM_PLAN_BYTES_MAX ((size_t)16 << 20) /* of plan.json */

/* ---- places --------------------------------------------------------------------------- */

bool plm_job_is_remote(const struct plm_job *job);
/* The table, its version, the root of its branch. */
PLM_MUST_CHECK enum plm_code plm_job_open_root(struct plm_job *job, struct plm_err *err);
/* Where pieces and runs go: --work-dir, else beside the table, else (S3) the temporary
 * directory. */
PLM_MUST_CHECK enum plm_code
plm_job_open_work(struct plm_job *job, const struct plm_build_options *o, struct plm_err *err);
/* Held until the job is closed; a lock that is held already is fine. */
PLM_MUST_CHECK enum plm_code plm_job_lock(struct plm_job *job, struct plm_err *err);
/* Removes everything but the lock and plan.json. */
PLM_MUST_CHECK enum plm_code plm_job_clear(struct plm_job *job, struct plm_err *err);

/* ---- the plan ------------------------------------------------------------------------- */

/* Opens the column and plans the build of it. */
PLM_MUST_CHECK enum plm_code
plm_job_make_plan(struct plm_job *job, const struct plm_build_options *o, struct plm_err *err);

/* ---- carrying on ---------------------------------------------------------------------- */

enum plm_carry { PLM_CARRY_NOTHING, PLM_CARRY_ON, PLM_CARRY_COMMITTED };
/* Can the unfinished job be carried on? A no is explained as a warning. */
PLM_MUST_CHECK enum plm_code
plm_job_carry_on(struct plm_job *job, const struct plm_build_options *o, enum plm_carry *carry,
                 struct plm_err *err);
/* The table as it was when the job was planned; PLM_NOT_FOUND when that version is gone or
 * is another one now. */
PLM_MUST_CHECK enum plm_code
plm_job_reopen_pinned(struct plm_job *job, const struct plm_pins *pins, struct plm_err *err);
/* Plans the build as it was planned then. PLM_NOT_FOUND when that cannot be done here. */
PLM_MUST_CHECK enum plm_code
plm_job_adopt_pins(struct plm_job *job, const struct plm_build_options *o,
                   const struct plm_pins *pins, struct plm_err *err);

#endif
