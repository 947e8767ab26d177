/* search_parts.h - private to the search: its state, and the steps in other files.
 *
 * search.c        the walk: open, choose the index, combine, hand out
 * search_index.c  probing and scanning the segments of an index
 * search_exact.c  scanning and scoring rows of the table itself
 */
#ifndef PLM_SEARCH_PARTS_H
#define PLM_SEARCH_PARTS_H

#include "build/live.h"
#include "build/table.h"
#include "ivf/index.h"
#include "rows/source.h"

/* What one thread needs. */
struct plm_searcher {
    struct plm_top top;
    struct plm_scan_scratch scratch;
    struct plm_batch batch;
    struct plm_live_cursor cursor;
    uint64_t rows_scanned;
};

struct plm_search_job {
    struct plm_ctx *ctx;
    const struct plm_search_options *options;
    struct plm_table table;
    struct plm_column column;
    struct plm_store *copy;              /* of the column, made by the caller; NULL: the table's own */
    const struct plm_index_meta **metas; /* [n_metas] segments of the index; none: exact scan */
    size_t n_metas;
    enum plm_metric metric;
    float *query;                        /* [dim] in the column's element type */
    struct plm_segment *segments;        /* [n_metas] */
    uint32_t *covered;                   /* fragments of the bitmaps, ascending, distinct */
    size_t n_covered;
    struct plm_live live;
    struct plm_searcher *searchers;      /* [ctx->threads] */
    uint32_t nprobes;                    /* most that a segment was probed for */
};

/* ---- search_index.c --------------------------------------------------------------- */

/* Opens the segments and the set of rows they may return. */
PLM_MUST_CHECK enum plm_code plm_search_open_index(struct plm_search_job *job, struct plm_err *err);
/* Offers the rows of the probed partitions to the searchers. */
PLM_MUST_CHECK enum plm_code plm_search_index(struct plm_search_job *job, struct plm_err *err);

/* ---- search_exact.c --------------------------------------------------------------- */

/* The vector of one row as float32 into job->query. */
PLM_MUST_CHECK enum plm_code
plm_search_query_of_row(struct plm_search_job *job, uint64_t rowid, struct plm_err *err);
/* Offers every live row of these fragments (NULL = all) to the searchers. */
PLM_MUST_CHECK enum plm_code
plm_search_exact(struct plm_search_job *job, const uint64_t *fragments, size_t n_fragments,
                 struct plm_err *err);
/* Replaces the distances of rows by exact ones; NaN for a row without a usable vector. */
PLM_MUST_CHECK enum plm_code
plm_search_rescore(struct plm_search_job *job, struct plm_top *rows, struct plm_err *err);

#endif
