/* dist.h - a build that several processes share, on one machine or many.
 *
 * One process, the driver, opens the job: it plans, sums up and commits. Others, the workers,
 * join it by its plan.json. An engine (Ray) carries messages between them: a call has a name,
 * numbers and messages, and gives one message. Messages are made and read by this room only;
 * what comes from elsewhere is checked (PLM_CORRUPT). Data goes storage -> worker -> storage.
 *
 * Same     every call is a pure function of the plan and its arguments, so it may be repeated,
 * bytes    run twice at once, or run by any worker: the index has the bytes of one process.
 * Owns     a handle owns its job. It borrows table, options and what they point to until closed.
 * Threads  one call at a time per handle; a call uses ctx->threads threads.
 *
 * Calls of the driver: name (numbers; messages) -> answer
 *
 *   plan () -> plan.json                       facts () -> JSON, see plm_dist_facts
 *   sample_begin (n shards)                    sample_round () -> u64 messages to send; 0 = chosen
 *   sample_message (i) -> for `shard`          sample_answer (i; answer)
 *   shards () -> for each shard u64 {first row of it, rows}
 *   train_begin () -> state; empty = centroids are given
 *   train_end (; state) -> centroids, for pq_columns
 *   pq_given () -> u64 1 if none is to train   pq_find (first, n) -> codewords or empty
 *   pq_absorb (first, n; codewords)            pq_end ()
 *   probes_message (shard) -> for shard_rows   probes_answer (; rows)
 *   model_save ()
 *   encode_begin ()                            encoded (; statistics)
 *   encode_end ()                              merged (segment; answer of merge_open)
 *   verify_begin (full) -> u64 tasks           verify_message (i) -> for `verify`
 *   verify_answer (; answer)                   verify_end ()
 *   seconds (phase 0..4, microseconds)         account (bytes read, written, get, put, list, retried)
 *   finish () -> report                        finish_committed () -> report
 *   publish () -> JSON, for a commit that somebody else makes (leave_commit in pilum.h)
 *
 * Calls of a worker
 *
 *   shard (number; message) -> what it holds   shard_drop (number, or none for all)
 *   step (number, first, number, first, ...; state) -> partial of these shards
 *   reduce (; partial, partial, ...) -> their sum
 *   train_next (1 to leave a checkpoint, or 0; state, partials of all shards) -> state
 *   shard_rows (number; message) -> rows
 *   pq_columns (number, first, n_sample; centroids) -> u64 rows
 *   pq_train (first, n; u64 rows of each shard) -> codewords
 *   encode (task, task, ...) -> statistics
 *   merge_open (segment) -> blocks, lengths, token
 *   merge_blocks (segment, first, end; answer of merge_open)
 *   merge_finish (segment; answer of merge_open)
 *   verify (; message) -> answer
 *   usage () -> u64 {bytes read, written, get, put, list, retried, peak rss, processor time in us}
 *
 * A state of training begins with 8 bytes, u64 {1 when trained, steps done, steps expected}, char
 * what[64]: for engines. One that is lost can be made again from an older one; train_begin gives the
 * last checkpoint.
 *
 * A worker that does not hold a shard answers `step`, `shard_rows` and `pq_columns` with
 * PLM_NOT_FOUND: send it `shard` again.
 */
#ifndef PLM_DIST_H
#define PLM_DIST_H

#include "build/build.h"

struct plm_dist;

struct plm_dist_args {
    const uint64_t *numbers;
    size_t n_numbers;
    const struct plm_view *messages;
    size_t n_messages;
};

/* As plm_job_open(); *done: only finish_committed is left to call. */
PLM_MUST_CHECK enum plm_code
plm_dist_open(struct plm_ctx *ctx, const struct plm_table_ref *table,
              const struct plm_build_options *options, uint32_t n_workers, struct plm_dist **out,
              bool *done, struct plm_err *err);
/* As plm_job_join(). spill_dir: a folder of this process alone, for a sample that exceeds memory. */
PLM_MUST_CHECK enum plm_code
plm_dist_join(struct plm_ctx *ctx, const struct plm_table_ref *table,
              const struct plm_build_options *options, uint32_t n_workers, struct plm_view plan_json,
              const char *spill_dir, struct plm_dist **out, struct plm_err *err);
void plm_dist_close(struct plm_dist *dist);

/* PLM_ARG for an unknown name or arguments that it does not take. The answer is appended. */
PLM_MUST_CHECK enum plm_code
plm_dist_call(struct plm_dist *dist, const char *name, const struct plm_dist_args *args,
              struct plm_buf *answer, struct plm_err *err);

#endif
