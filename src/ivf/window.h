/* window.h - rows of an index file in long pieces, whatever partitions they belong to; and several
 * queries against the codes of one partition.
 *
 * Owns     windows are plain data; a plm_many owns its tables and borrows model and queries.
 * Threads  after opening, a plm_many may be used from several threads, each with its own scratch.
 */
#ifndef PLM_WINDOW_H
#define PLM_WINDOW_H

#include "ivf/index.h"

/* Neighbouring partitions, whole; or some rows of one that is longer than a window. */
struct plm_window {
    uint32_t first, end; /* partitions [first, end) */
    uint64_t skipped;    /* rows of partition `first` before the window */
    size_t n;            /* rows */
};
/* Windows that together cover the partitions with wanted[p] != 0 (NULL: all) of [first, end), in
 * order. Unwanted partitions of up to gap_rows rows are read rather than skipped. */
PLM_MUST_CHECK enum plm_code
plm_windows_make(const struct plm_segment *segment, const uint8_t *wanted, uint32_t first, uint32_t end,
                 size_t rows_max, size_t gap_rows, struct plm_window **windows, size_t *n,
                 struct plm_err *err);
/* Rows of partition p in the window: first of them, counted from the window's. */
size_t plm_window_rows(const struct plm_segment *segment, const struct plm_window *w, uint32_t p,
                       size_t *n);
/* Row ids [n] (may be NULL) and codes [n] (may be NULL) as stored: codes of a transposed partition
 * as [code_bytes][its rows in the window]. One read of each column, if partitions are whole. */
PLM_MUST_CHECK enum plm_code
plm_window_read(struct plm_segment *segment, const struct plm_window *w, uint64_t *rowids,
                uint8_t *codes, struct plm_read_scratch *scratch, struct plm_err *err);

/* Codes of rows [row, row + n) of the file; not of a transposed segment. */
PLM_MUST_CHECK enum plm_code
plm_window_codes(struct plm_segment *segment, uint64_t row, size_t n, uint8_t *codes,
                 struct plm_read_scratch *scratch, struct plm_err *err);

/* ---- several queries at once: SQ and PQ ---------------------------------------------- */

/* Distances are those of plm_scan_partition() up to rounding: PQ distances are |q-c|^2 + 2c.w +
 * sum of (|w|^2 - 2q.w), the terms in float64, so that no table depends on the partition. */
struct plm_many;
PLM_MUST_CHECK enum plm_code
plm_many_open(const struct plm_segment *segment, const float *queries, size_t n, struct plm_many **out,
              struct plm_err *err);
void plm_many_close(struct plm_many *many);
size_t plm_many_bytes(const struct plm_model *model, size_t n); /* what it takes */

struct plm_many_scratch {
    struct plm_ctx *ctx;
    double *sums;
    float *decoded, *distances;
    uint8_t *code;
};
PLM_MUST_CHECK enum plm_code
plm_many_scratch_init(const struct plm_many *many, struct plm_many_scratch *out, struct plm_err *err);
void plm_many_scratch_reset(struct plm_many_scratch *scratch);

/* What n rows of a partition add to every query's distance: bases [n]. codes: as plm_window_read()
 * gave them. SQ needs none. */
void plm_many_bases(const struct plm_many *many, uint32_t partition, const uint8_t *codes, size_t n,
                    struct plm_many_scratch *scratch, double *bases);
/* Queries which[0..n_which) (ascending) against these rows. take: called for query which[i] with the
 * distances of rows [first, first + n). Queries of one group, of PLM_MANY_LANES in a row, share
 * their look-ups; a group's table is best used for many partitions before that of the next. */
#define PLM_MANY_LANES 8
typedef void plm_many_fn(void *arg, size_t i, size_t first, size_t n, const float *distances);
void plm_many_scan(const struct plm_many *many, uint32_t partition, const uint8_t *codes, size_t n,
                   const double *bases, const uint32_t *which, size_t n_which, plm_many_fn *take,
                   void *arg, struct plm_many_scratch *scratch);

#endif
