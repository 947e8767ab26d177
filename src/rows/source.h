/* source.h - a column of vectors as a stream of batches, whatever stores it.
 *
 * Rows     "ordinal" counts the rows that are not deleted, over the chosen fragments in
 *          manifest order, from 0. Samples and tasks are ranges of ordinals, so they do not
 *          depend on how rows are cut into fragments, files and pages.
 * Owns     a source owns its open files and row maps; borrows the manifest.
 * Threads  reads from several threads, each with its own plm_batch.
 */
#ifndef PLM_SOURCE_H
#define PLM_SOURCE_H

#include "lance/column.h"
#include "lance/datafile.h"
#include "lance/rowmap.h"

enum plm_metric { PLM_L2, PLM_COSINE, PLM_DOT };
const char *plm_metric_name(enum plm_metric metric); /* "l2", "cosine", "dot" */

/* Why a row is not in the index. */
enum plm_drop { PLM_KEEP, PLM_DROP_NULL, PLM_DROP_NONFINITE, PLM_DROP_ZERO, PLM_N_DROPS };

struct plm_source {
    struct plm_ctx *ctx;
    struct plm_manifest *manifest;
    struct plm_column column;
    struct plm_source_fragment *fragments;
    size_t n_fragments;
    uint64_t n_live;      /* ordinals 0 .. n_live-1 */
    uint64_t n_deleted;
    uint64_t column_bytes; /* stored value bytes, for plans */
    struct plm_read_needs needs; /* of any of its files */
    bool is_copy;
    struct plm_store *copy; /* borrowed; see plm_source_open_copy() */
    const struct plm_kept *kept; /* borrowed; see plm_source_keep() */
    size_t n_kept;
};

/* Rows [first, first + n) that are in memory already, all usable, as plm_source_read() gives them. */
struct plm_kept {
    uint64_t first;
    size_t n;
    const float *rows; /* [n][dim] */
    const uint64_t *rowids;
};

/* fragments: ids, ascending, NULL = all. PLM_NOT_FOUND for an id that is not there. Opens and
 * checks every data file of the column (their footers are read in parallel). */
PLM_MUST_CHECK enum plm_code
plm_source_open(struct plm_manifest *manifest, const struct plm_column *column,
                const uint64_t *fragments, size_t n_fragments, struct plm_source *out,
                struct plm_err *err);
/* The same with the column's bytes read from a copy, whatever form the table has them in: file
 * `<path of the data file>` of the store `copy` has its rows, deleted ones too, as the only
 * column. NULL: the copy is not made yet; only to be planned with, not to be read. */
PLM_MUST_CHECK enum plm_code
plm_source_open_copy(struct plm_manifest *manifest, const struct plm_column *column,
                     const uint64_t *fragments, size_t n_fragments, struct plm_store *copy,
                     struct plm_source *out, struct plm_err *err);
void plm_source_close(struct plm_source *source);

/* Ranges of ordinals that are read soon, ascending (NULL = all rows): a remote store fetches them in long
 * requests and keeps what is still to be read. They replace those of the call before. Not while
 * the source is read. */
struct plm_ordinals {
    uint64_t first, n;
};
void plm_source_expect(struct plm_source *source, const struct plm_ordinals *ranges, size_t n);

/* Rows that are read next, from a local disk: as plm_file_ahead(). May be called while the source is read. */
void plm_source_ahead(struct plm_source *source, uint64_t first, uint64_t n);

/* From now on what lies in one of these stretches, ascending, is read from there (float32 only; the
 * metric is that of all reads). They are borrowed until the next call; n == 0: none. Not while the
 * source is read. */
void plm_source_keep(struct plm_source *source, const struct plm_kept *kept, size_t n);
/* How many of the n rows from `first` on are best read at once: as far as all of them are kept, or none. */
size_t plm_source_at_once(const struct plm_source *source, uint64_t first, size_t n);

/* Live rows of a range, ready for arithmetic. {0} is empty; reused from read to read. */
struct plm_batch {
    struct plm_ctx *ctx;
    size_t n, dim;            /* usable rows (dropped ones are already out) */
    enum plm_element element;
    float *rows;              /* [n][dim]: as float32; divided by the norm under cosine. Only to be
                                 read: they may be those of a plm_kept */
    void *raw;                /* [n][dim] of `element`: what a FLAT index stores (cosine:
                                 normalized); == rows when element is F32 */
    uint64_t *rowids;         /* [n] */
    uint64_t *ordinals;       /* [n] */
    uint64_t dropped[PLM_N_DROPS];
    size_t cap;               /* rows there is room for */
    void *scratch;            /* private */
};
/* Rows per read so that a batch takes about `bytes` of memory (at least 1). */
size_t plm_batch_rows(const struct plm_source *source, size_t bytes);
size_t plm_batch_bytes(const struct plm_source *source, size_t n_rows);
/* Rows per read of every thread, so that the batches of all together take half of what the budget has left, each of
 * `least` to `most` bytes. */
size_t plm_batch_rows_that_fit(const struct plm_source *source, size_t least, size_t most);

/* Ordinals [first, first + n) into batch. Norms are sums in double in one fixed order, so
 * that every kernel table gives the same bytes. Nothing is normalized unless the metric is cosine. */
PLM_MUST_CHECK enum plm_code
plm_source_read(struct plm_source *source, enum plm_metric metric, uint64_t first, size_t n,
                struct plm_batch *batch, struct plm_err *err);
/* The same to `rows`, [n][dim] of a region (mem.h), where that spares a copy: *done is false, and
 * nothing is read, where it does not. The batch's rows lie there until it is used again; of the
 * others behind them nothing is known. */
bool plm_source_may_be_viewed(const struct plm_source *source); /* can that be of use? */
PLM_MUST_CHECK enum plm_code
plm_source_read_there(struct plm_source *source, enum plm_metric metric, uint64_t first, size_t n,
                      float *rows, struct plm_batch *batch, bool *done, struct plm_err *err);
void plm_batch_reset(struct plm_batch *batch);

/* Ordinal of a row id; PLM_NOT_FOUND if no live row has it. */
PLM_MUST_CHECK enum plm_code
plm_source_find(struct plm_source *source, uint64_t rowid, uint64_t *ordinal, struct plm_err *err);

#endif
