/* plan_parts.h - pieces of planning that plan.c, cut.c and the files of a job (job_impl.h) share. */
#ifndef PLM_PLAN_PARTS_H
#define PLM_PLAN_PARTS_H

#include <stdlib.h>

#include "build/build.h"

#define PLM_PARTITIONS_MAX (1u << 20)

/* Everything about the options that no table can make right: PLM_ARG. */
PLM_MUST_CHECK enum plm_code
plm_options_check(const struct plm_build_options *o, struct plm_plan *p, struct plm_err *err);
/* Checks the options, copies them into p and names the job (p->id). salt: what else tells jobs
 * apart (the branch; the table, when the work directory is not in it). */
PLM_MUST_CHECK enum plm_code
plm_plan_identify(struct plm_ctx *ctx, const struct plm_build_options *o, const char *salt,
                  struct plm_plan *p, struct plm_err *err);
/* cut.c: fragments into segments of about equal rows. */
PLM_MUST_CHECK enum plm_code
plm_plan_segments(const struct plm_source *source, uint64_t n_segments, struct plm_plan *p,
                  struct plm_err *err);
/* Each segment's rows into tasks of memory.task_rows; anew, after that has changed. */
PLM_MUST_CHECK enum plm_code plm_plan_tasks(struct plm_plan *p, struct plm_err *err);
/* space.c: PLM_IO when a local disk has less room than runs, a spilled sample and the index will
 * take, with both numbers and the folder. */
PLM_MUST_CHECK enum plm_code
plm_plan_check_space(const struct plm_plan *p, const struct plm_store *work, const struct plm_store *root,
                     struct plm_err *err);
/* Bytes a row takes in the index, without its id. */
uint32_t plm_plan_code_bytes(const struct plm_plan *p);

/* Bytes that a remote store may keep of what it fetched ahead: the room that the plan leaves, up to
 * what reads of up to 16 MiB need. */
uint64_t plm_plan_keep_bytes(const struct plm_plan *p);
/* estimate_local.c, estimate_remote.c: the requests that a build makes of a disk or of remote storage, and the bytes they move. axes:
 * on which rows of the sample have values while trained. */
void plm_estimate_local(const struct plm_source *source, const struct plm_plan *p, double axes, bool verifies,
                        struct plm_estimate *e);
void plm_estimate_remote(const struct plm_source *source, const struct plm_plan *p, bool verifies, struct plm_estimate *e);

/* calibrate.c: measures them in a small share of the time a build of this plan takes, at most about a
 * tenth of a second a rate. What cannot be measured (memory or I/O fails, remote storage) keeps a
 * usual value. Reads a few MiB of the column; writes to a file without a name in `root`, where that
 * is a local directory. With workers elsewhere nothing is measured. */
void plm_calibrate(struct plm_source *source, const struct plm_plan *plan, const struct plm_store *root,
                   struct plm_rates *out);

#endif
