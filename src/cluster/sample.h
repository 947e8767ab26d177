/* sample.h - the training rows: chosen by the plan, kept in memory or spilled.
 *
 * Choice   live rows are cut into slices of PLM_SLICE_ROWS ordinals; slices are put in the
 *          order of plm_slice_priority() and taken until n_wanted usable rows are in (the
 *          last slice is cut). Rows are then kept in ascending ordinal order. So the sample
 *          depends on the live rows, n_wanted and the seed only.
 * Sorted   rows that lie side by side are often alike: slices are short, and those taken are evenly
 * tables   spread. Measured, packages-384 (sorted by name), 16,384 of 61,666 rows, 64 centroids: the
 *          loss is 1.4 % above that of single rows with slices of 64 in random order, 0.4 % so.
 * Memory   in memory when max_bytes allows, else one spill file, read back in chunks.
 */
#ifndef PLM_SAMPLE_H
#define PLM_SAMPLE_H

#include "rows/source.h"
#include "store/store.h"

#define PLM_SLICE_ROWS 16
#define PLM_KEPT_PARTS 8 /* a sample that misses no more than one part in so many spares reading the rest */

struct plm_sample {
    struct plm_ctx *ctx;
    size_t n, dim;
    float *rows;            /* [n][dim], or NULL when spilled; parts may be views of the table's files */
    size_t n_room;          /* rows that there is room for, in memory */
    uint64_t *rowids;       /* [n]; NULL from plm_sample_of() */
    struct plm_file *spill; /* float32 [n][dim] */
    struct plm_store *spill_store; /* borrowed */
    char *spill_path;
    float max_abs;          /* greatest |value| */
    float lo, hi;           /* least and greatest value: the bounds of SQ */
    bool is_whole;          /* every live row was looked at */
    bool is_borrowed;       /* rows are the caller's */
    struct plm_kept *kept;  /* most rows of the table, found in this sample; NULL: there are not so many */
    size_t n_kept;
    struct plm_store *aside; /* borrowed: where shards of it keep projected rows; NULL: in memory */
    char aside_path[48];
};

PLM_MUST_CHECK enum plm_code
plm_sample_take(struct plm_source *source, enum plm_metric metric, uint64_t n_wanted, uint64_t seed,
                size_t max_bytes, struct plm_store *spill_store, const char *spill_path,
                struct plm_sample *out, struct plm_err *err);
/* A sample over rows already in memory (borrowed), for tests and for shards. */
void plm_sample_of(struct plm_ctx *ctx, const float *rows, size_t n, size_t dim,
                   struct plm_sample *out);
/* Rows [first, first + n): *rows points into memory or at `scratch` (n * dim floats). */
PLM_MUST_CHECK enum plm_code
plm_sample_rows(const struct plm_sample *sample, size_t first, size_t n, float *scratch,
                const float **rows, struct plm_err *err);
void plm_sample_reset(struct plm_sample *sample); /* removes the spill file */

#endif
