/* merge_parts.h - private to merging: its state, and the way that reads the table again.
 *
 * merge.c          from runs that carry codes
 * merge_gather.c   from runs that say where in the table each row is
 */
#ifndef PLM_MERGE_PARTS_H
#define PLM_MERGE_PARTS_H

#include "build/merge.h"
#include "build/run.h"

struct plm_gather;
struct block_scratch;

struct plm_merge {
    struct plm_job *job;
    size_t segment;
    struct plm_run *runs; /* [n_runs] of this segment */
    size_t n_runs;
    uint64_t *starts;     /* [k + 1] first final row of each partition */
    uint32_t *lengths;    /* [k] */
    struct plm_layout layout;
    struct plm_writer *writer;
    bool is_shared;       /* other processes may have the writer open, too */
    struct plm_buf tail;  /* of the file */
    struct block_scratch *scratch; /* one for each thread */
    unsigned n_scratch;
    uint32_t k, code_bytes;
    bool transposed;
    struct plm_gather *gather; /* NULL until it is needed */
};

/* The partition of a final row. */
uint32_t plm_merge_partition_of(const struct plm_merge *m, uint64_t row);

/* Writes blocks [first, end), as many at a time as memory.gather_bytes holds. */
PLM_MUST_CHECK enum plm_code
plm_merge_gather(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err);
void plm_merge_gather_reset(struct plm_merge *m);

#endif
