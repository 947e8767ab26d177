/* merge.h - merging the runs of one segment, in pieces: for every engine.
 *
 * Order    open; begin (one process) or join (others, by the token); blocks in any order, each at
 *          least once; finish (one process, when all blocks are written).
 * Owns     a merge owns its runs and writer. Closing an unfinished one removes the file, unless
 *          its token was handed out or came from elsewhere.
 * Memory   partition starts of every run of the segment, twice; memory.merge_bytes (gather_bytes) of
 *          blocks; a slice of a run for each thread.
 * Repeats  a block written twice has the same bytes twice.
 */
#ifndef PLM_MERGE_H
#define PLM_MERGE_H

#include "build/build.h"

struct plm_merge;

/* Opens all runs of the segment: PLM_NOT_FOUND when one is missing. */
PLM_MUST_CHECK enum plm_code
plm_merge_open(struct plm_job *job, size_t segment, struct plm_merge **out, struct plm_err *err);
void plm_merge_close(struct plm_merge *merge);

size_t plm_merge_segment(const struct plm_merge *merge);
uint64_t plm_merge_blocks(const struct plm_merge *merge);
const uint32_t *plm_merge_lengths(const struct plm_merge *merge); /* [k] rows of each partition */
/* The marker of an earlier process says that both files of the segment are whole. */
PLM_MUST_CHECK enum plm_code
plm_merge_is_done(struct plm_job *job, size_t segment, bool *yes, struct plm_err *err);

/* Starts auxiliary.idx. token (may be NULL; plm_free) names it for other processes. With a token
 * it carries on what an earlier driver began, if that is still there. */
PLM_MUST_CHECK enum plm_code
plm_merge_begin(struct plm_merge *merge, char **token, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_merge_join(struct plm_merge *merge, const char *token, struct plm_err *err);
/* Blocks that an earlier driver's merge has written, by hash: [blocks], 0 = not known; NULL = none.
 * They are left as they are (local: if they are as they were). know: for one that joins; unaligned. */
const uint64_t *plm_merge_known(const struct plm_merge *merge);
PLM_MUST_CHECK enum plm_code
plm_merge_know(struct plm_merge *merge, const uint8_t *hashes, uint64_t n, struct plm_err *err);
/* The next begin starts anew: for an upload that is gone. */
PLM_MUST_CHECK enum plm_code
plm_merge_forget(struct plm_job *job, size_t segment, struct plm_err *err);
/* Writes blocks [first, end). */
PLM_MUST_CHECK enum plm_code
plm_merge_write(struct plm_merge *merge, uint64_t first, uint64_t end, struct plm_err *err);
/* Makes auxiliary.idx whole (its tail came with the last block), then index.idx, then the marker. */
PLM_MUST_CHECK enum plm_code plm_merge_finish(struct plm_merge *merge, struct plm_err *err);

#endif
