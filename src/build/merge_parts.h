/* merge_parts.h - private to merging: its state, and the files that share it.
 *
 * merge.c          a merge from its beginning to its end, markers
 * merge_groups.c   blocks put together a group at a time, and written
 * merge_runs.c     a group's rows from runs that carry codes
 * merge_gather.c   a group's rows from the table; runs say which and where
 * merge_marks.c    what tells the next driver how far a shared merge came
 */
#ifndef PLM_MERGE_PARTS_H
#define PLM_MERGE_PARTS_H

#include "build/merge.h"
#include "build/run.h"
#include "store/writer.h"

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
    uint32_t k, code_bytes;
    bool transposed;
    struct plm_merge_group *group; /* NULL until it is needed */
    uint64_t *done;       /* [block] hash of what an earlier process wrote; 0: not known. NULL: none */
    uint64_t token_xxh3;  /* of the upload: marks of others do not count */
    struct plm_file *written; /* auxiliary.idx, to read such blocks back */
};

/* What one thread needs. */
struct plm_merge_thread {
    uint8_t *room, *slice;  /* slice: a range of a run, at a page boundary in room */
    uint32_t *places, *to;  /* see merge_gather.c */
    struct plm_batch batch;
};

/* Blocks [block, end_block) as they lie in the file from offset `at` on. */
struct plm_merge_blocks {
    uint8_t *room, *out; /* out: within room, where the writer likes it */
    size_t room_cap;
    uint64_t block, end_block, at;
};

/* Final rows [first, end) of partitions [p_first, p_last], to be put into `blocks`. */
struct plm_merge_group {
    uint32_t *before; /* [run][k] rows of the partition that earlier runs have */
    struct plm_merge_blocks blocks, full; /* full: of the group before this one, to be written meanwhile */
    size_t slice_bytes;
    uint64_t *hashes; /* shared: [block] of what was written */
    struct plm_merge_thread *threads;
    unsigned n_threads;
    uint64_t first, end;
    uint32_t p_first, p_last;
};

/* Rows [*from, *to) of run r in partition p that belong in the group; *row: final row of *from. */
void plm_merge_clip(const struct plm_merge *m, size_t r, uint32_t p, uint32_t *from, uint32_t *to,
                    uint64_t *row);
/* n bytes of the row id or code column, at a byte of the column, to where they lie in the group. */
void plm_merge_put(const struct plm_merge *m, bool is_code, uint64_t column_byte, const uint8_t *from,
                   size_t n);
/* Fill the group with the rows of run r; for plm_parallel(), arg: the merge. */
plm_task_fn plm_merge_take_run, plm_merge_gather_run;

/* Writes blocks [first, end) in groups. */
PLM_MUST_CHECK enum plm_code
plm_merge_groups(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err);
void plm_merge_group_reset(struct plm_merge *m);

/* PLM_NOT_FOUND: nobody has begun. */
PLM_MUST_CHECK enum plm_code
plm_merge_token_load(struct plm_merge *m, char **token, struct plm_err *err);
/* PLM_CONFLICT, PLM_RETRY: another process may have been first; load it. */
PLM_MUST_CHECK enum plm_code
plm_merge_token_save(struct plm_merge *m, const char *token, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_merge_mark(struct plm_merge *m, uint64_t first, uint64_t n, const uint64_t *hashes,
               struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_merge_marks_load(struct plm_merge *m, struct plm_err *err);
/* Does the block need no second writing? */
PLM_MUST_CHECK enum plm_code
plm_merge_is_written(struct plm_merge *m, uint64_t block, bool *yes, struct plm_err *err);

#endif
