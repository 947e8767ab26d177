/* check.h - is an index right? Used by the verify phase of a build and by plm_verify_index().
 *
 * Rows     each checked row of the table must be in the index exactly once, in its nearest
 *          partition (float64, all centroids; within 1e-5 of it for indexes of others), with the code
 *          that encoding it again gives (for PQ: a codeword as near as that one).
 * Owns     findings own their problems.
 * Memory   one chunk of rows with codes, one window of a partition; what assigns the rows of a full check.
 */
#ifndef PLM_CHECK_H
#define PLM_CHECK_H

#include "build/build.h"

#define PLM_CHECK_SAMPLE_MAX 1024 /* rows of a sample that is looked for */
#define PLM_PROBLEMS_MAX 100 /* described; the rest is only counted */

#define PLM_CHECK_ROWS_MIN 256 /* of a full check are looked for together, and more where there is room */

/* A row of a full check takes that much, beside its place in a batch: vector, code, where it is. */
static inline size_t plm_check_row_bytes(size_t dim, size_t code_bytes)
{
    return dim * sizeof(float) + code_bytes + 64;
}

/* Bytes for a window: `most`, or what the budget has room for. */
static inline size_t plm_window_bytes(const struct plm_ctx *ctx, size_t most)
{
    return plm_max_size((size_t)256 << 10, (size_t)plm_min_u64(most, plm_memory_left(ctx) / 8));
}

struct plm_check {
    struct plm_ctx *ctx;
    struct plm_source *source;
    struct plm_segment *segment;
    uint64_t first, n; /* the live rows that the segment covers */
    uint64_t seed;
    bool is_ours;      /* built just now: codes must be equal, not nearly */
    struct plm_findings *findings;
    uint64_t n_usable; /* out: rows of a full check that belong in the index */
};

/* check_memory.c: what checking this segment takes at least, beside what is open. queries: for recall, 0 = none. */
#define PLM_TRUTH_BYTES_MIN ((size_t)128 << 10) /* of rows that a thread compares with the queries at a time */
uint64_t plm_check_least_bytes(const struct plm_segment *segment, const struct plm_source *source, bool full,
                               uint32_t queries);

/* A sample of rows, or all of them. Problems are findings, not errors. */
PLM_MUST_CHECK enum plm_code plm_check_rows(struct plm_check *check, bool full, struct plm_err *err);

/* Row ids of a segment: how many, their commutative hash, and (stable or not) no repeats when
 * `sorted` (n_rows ids, caller's, may be NULL) is given to sort them in. */
PLM_MUST_CHECK enum plm_code
plm_check_rowids(struct plm_segment *segment, uint64_t *hash_low, uint64_t *hash_high,
                 uint64_t *sorted, struct plm_err *err);

/* The same for partitions [first, end): hashes and counts of parts add up. */
PLM_MUST_CHECK enum plm_code
plm_check_rowids_of(struct plm_segment *segment, uint32_t first, uint32_t end, uint64_t *hash_low,
                    uint64_t *hash_high, uint64_t *sorted, struct plm_err *err);

/* Recall against known neighbours, at growing nprobes, as far as it grows. truth:
 * [probes.n][PLM_PROBE_K]. */
PLM_MUST_CHECK enum plm_code
plm_check_recall(struct plm_ctx *ctx, struct plm_segment *segments, size_t n_segments,
                 const struct plm_probes *probes, const struct plm_neighbour *truth,
                 struct plm_findings *findings, struct plm_err *err);

/* One more problem: kind is a word ("missing", "code", ...). rowid UINT64_MAX = none. */
void plm_problem(struct plm_findings *findings, const char *kind, uint64_t rowid, const char *where,
                 const char *seen_fmt, double seen, double expected);
void plm_findings_reset(struct plm_findings *findings);

#endif
