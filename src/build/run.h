/* run.h - the runs that encode writes and merge reads: rows of one task, by partition.
 *
 * Bytes    lengths u32[k] | row ids u64[n] | codes n * code_bytes | true neighbours | footer.
 *          Inside a partition rows are in row order; PQ codes are transposed inside each
 *          partition ([code_bytes][rows]), as in the final file. The footer carries sizes,
 *          what was dropped, and an xxh3 of all before it. Little-endian, version in the magic.
 * Places   where memory.gather_bytes says so, a code is the row's place in the task (u32): merging
 *          then reads the rows from the table, each once more, and nothing large is spilled.
 */
#ifndef PLM_RUN_H
#define PLM_RUN_H

#include "build/build.h"

/* Everything encoded for a task, in row order. */
struct plm_run_rows {
    size_t n, cap;
    uint64_t *rowids;  /* [n] */
    uint32_t *ids;     /* [n] partitions */
    uint8_t *codes;    /* [n][code_bytes], row-major */
};

/* Bytes of a code in the job's runs. */
uint32_t plm_run_code_bytes(const struct plm_job *job);

/* Sorts by partition and writes work/run-<task>. neighbours: [probes.n][PLM_PROBE_K]. */
PLM_MUST_CHECK enum plm_code
plm_run_write(struct plm_job *job, size_t task, const struct plm_run_rows *rows,
              const struct plm_run_stats *stats, const struct plm_neighbour *neighbours,
              struct plm_err *err);

/* A run open for reading. */
struct plm_run {
    struct plm_ctx *ctx;
    struct plm_file *file;
    uint32_t *starts; /* [k + 1] first row of each partition */
    uint64_t rowids_at, codes_at;
    struct plm_run_stats stats;
};
/* PLM_NOT_FOUND: not made yet. PLM_CORRUPT: of another job, or cut short (check_hash: or
 * changed). neighbours (may be NULL) receives the probe queries' neighbours. */
PLM_MUST_CHECK enum plm_code
plm_run_open(struct plm_job *job, size_t task, bool check_hash, struct plm_run *out,
             struct plm_neighbour *neighbours, struct plm_err *err);
void plm_run_close(struct plm_run *run);

/* Keeps the PLM_PROBE_K nearest of both in `into`, ordered by (distance, row id). */
void plm_neighbours_merge(struct plm_neighbour *into, const struct plm_neighbour *more, size_t n);

#endif
