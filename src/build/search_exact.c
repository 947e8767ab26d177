/* search_exact.c - the part of a search that the table's own vectors answer.
 *
 * Rows are read as they are, not normalized: the cosine is then taken of the stored values, as stock
 * Lance does, and not of their rounded directions. float64 rows are rounded to float32 either way, so
 * for the cosine their directions are: those have a place in float32 whatever their length. */
#include <math.h>

#include "build/search_parts.h"

#define SCAN_BYTES ((size_t)8 << 20) /* of vectors in one task, */
#define SCAN_BYTES_MIN ((size_t)128 << 10) /* fewer where memory is short */

struct exact_scan {
    struct plm_search_job *job;
    struct plm_source *source;
    size_t rows_per_task;
    struct plm_top *rows; /* of a rescore */
};

static enum plm_code open_source(struct plm_search_job *job, const uint64_t *fragments, size_t n_fragments,
                                 struct plm_source *out, struct plm_err *err)
{
    if (job->copy)
        return plm_source_open_copy(&job->table.manifest, &job->column, fragments, n_fragments,
                                    job->copy, out, err);
    return plm_source_open(&job->table.manifest, &job->column, fragments, n_fragments, out, err);
}

/* The metric that rows are read for. */
static enum plm_metric reading_metric(const struct plm_search_job *job)
{
    return job->metric == PLM_COSINE && job->column.element == PLM_F64 ? PLM_COSINE : PLM_L2;
}

/* ---- every row of some fragments ------------------------------------------------------ */

static enum plm_code scan_rows(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct exact_scan *scan = arg;
    struct plm_search_job *job = scan->job;
    struct plm_searcher *s = &job->searchers[worker];
    uint64_t first = (uint64_t)task * scan->rows_per_task;
    size_t n = (size_t)plm_min_u64(scan->rows_per_task, scan->source->n_live - first);
    enum plm_code rc = plm_source_read(scan->source, reading_metric(job), first, n, &s->batch, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < s->batch.n; i++) {
        float distance =
            plm_exact_distance(job->ctx->kernels, job->metric, job->query,
                               s->batch.rows + i * s->batch.dim, s->batch.dim);
        plm_top_offer(&s->top, distance, s->batch.rowids[i]);
    }
    s->rows_scanned += n;
    return PLM_OK;
}

enum plm_code plm_search_exact(struct plm_search_job *job, const uint64_t *fragments,
                               size_t n_fragments, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_source source = {0};
    struct exact_scan scan = {.job = job, .source = &source};

    PLM_TRY(open_source(job, fragments, n_fragments, &source, err));
    scan.rows_per_task = plm_batch_rows_that_fit(&source, SCAN_BYTES_MIN, SCAN_BYTES);
    uint64_t n_tasks = source.n_live / scan.rows_per_task + (source.n_live % scan.rows_per_task != 0);
    PLM_TRY(plm_parallel(job->ctx, (size_t)n_tasks, scan_rows, &scan, err));
done:
    plm_source_close(&source);
    return rc;
}

/* ---- single rows ---------------------------------------------------------------------- */

/* The fragments that hold these rows: NULL (all) with stable row ids, whose place is not in
 * their number. */
static enum plm_code fragments_of(const struct plm_search_job *job, const uint64_t *rowids, size_t n,
                                  uint64_t **fragments, size_t *n_fragments, struct plm_err *err)
{
    const struct plm_manifest *m = &job->table.manifest;
    uint64_t *chosen = NULL;
    size_t n_chosen = 0;

    if (m->reader_flags & PLM_FLAG_STABLE_ROW_IDS)
        return PLM_OK;
    enum plm_code rc = plm_alloc(job->ctx, &chosen, m->n_fragments, sizeof(*chosen), err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < m->n_fragments; i++)
        for (size_t j = 0; j < n; j++)
            if (rowids[j] >> 32 == m->fragments[i].id) {
                chosen[n_chosen++] = m->fragments[i].id;
                break;
            }
    *fragments = chosen;
    *n_fragments = n_chosen;
    return PLM_OK;
}

static enum plm_code open_source_of(struct plm_search_job *job, const uint64_t *rowids, size_t n,
                                    struct plm_source *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t *fragments = NULL;
    size_t n_fragments = 0;

    PLM_TRY(fragments_of(job, rowids, n, &fragments, &n_fragments, err));
    PLM_TRY(open_source(job, fragments, n_fragments, out, err));
done:
    plm_free(job->ctx, fragments);
    return rc;
}

/* batch->n is 0 for a row without a vector to compare with. */
static enum plm_code read_row(const struct plm_search_job *job, struct plm_source *source, uint64_t rowid,
                              struct plm_batch *batch, struct plm_err *err)
{
    uint64_t ordinal = 0;
    enum plm_code rc = plm_source_find(source, rowid, &ordinal, err);

    return rc ? rc : plm_source_read(source, reading_metric(job), ordinal, 1, batch, err);
}

/* Why a row that was read is not in the batch. */
static const char *reason_of(const struct plm_batch *batch)
{
    if (batch->dropped[PLM_DROP_NULL])
        return "null";
    if (batch->dropped[PLM_DROP_ZERO])
        return "zero, which has no direction to compare under cosine";
    return batch->element == PLM_F64 ? "not finite, or beyond the range of float32" : "not finite";
}

enum plm_code plm_search_query_of_row(struct plm_search_job *job, uint64_t rowid,
                                      struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_source source = {0};
    struct plm_batch batch = {0};

    PLM_TRY(open_source_of(job, &rowid, 1, &source, err));
    PLM_TRY(read_row(job, &source, rowid, &batch, err));
    if (batch.n == 0)
        PLM_TRY(plm_fail(err, PLM_DATA, "row %" PRIu64 " holds no vector to search with: it is %s", rowid,
                         reason_of(&batch)));
    memcpy(job->query, batch.rows, job->column.dim * sizeof(float));
done:
    plm_batch_reset(&batch);
    plm_source_close(&source);
    return rc;
}

static enum plm_code rescore_row(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct exact_scan *scan = arg;
    struct plm_search_job *job = scan->job;
    struct plm_batch *batch = &job->searchers[worker].batch;
    enum plm_code rc = read_row(job, scan->source, scan->rows->rowids[task], batch, err);

    if (rc != PLM_OK)
        return rc;
    scan->rows->distances[task] =
        batch->n == 0 ? NAN
                      : plm_exact_distance(job->ctx->kernels, job->metric, job->query, batch->rows,
                                           job->column.dim);
    return PLM_OK;
}

enum plm_code plm_search_rescore(struct plm_search_job *job, struct plm_top *rows,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_source source = {0};
    struct exact_scan scan = {.job = job, .source = &source, .rows = rows};

    if (rows->n == 0)
        return PLM_OK;
    PLM_TRY(open_source_of(job, rows->rowids, rows->n, &source, err));
    PLM_TRY(plm_parallel(job->ctx, rows->n, rescore_row, &scan, err));
done:
    plm_source_close(&source);
    return rc;
}
