/* encode.h - encoding one task at a time, and adding up what tasks saw: for every engine.
 *
 * Owns     an encoding owns the assigner and the scratch of its threads; it borrows the job, whose
 *          model stays as it is meanwhile.
 * Memory   as the plan says for memory.encode_threads threads.
 * Threads  plm_encoding_task() from several threads, each with its own `worker` number.
 */
#ifndef PLM_ENCODE_H
#define PLM_ENCODE_H

#include "build/build.h"

struct plm_encoding;

PLM_MUST_CHECK enum plm_code
plm_encoding_open(struct plm_job *job, struct plm_encoding **out, struct plm_err *err);
void plm_encoding_close(struct plm_encoding *encoding);
/* At most so many threads: worker is below it. */
unsigned plm_encoding_threads(const struct plm_encoding *encoding);
/* Writes the run of a task. */
PLM_MUST_CHECK enum plm_code
plm_encoding_task(struct plm_encoding *encoding, size_t task, unsigned worker, struct plm_err *err);

/* job->totals and job->truth: empty, then one run after another. neighbours:
 * [probes.n][PLM_PROBE_K]. */
PLM_MUST_CHECK enum plm_code plm_totals_begin(struct plm_job *job, struct plm_err *err);
void plm_totals_add(struct plm_job *job, const struct plm_run_stats *stats,
                    const struct plm_neighbour *neighbours);
/* PLM_DATA when there is nothing to index. */
PLM_MUST_CHECK enum plm_code plm_totals_check(const struct plm_job *job, struct plm_err *err);

#endif
