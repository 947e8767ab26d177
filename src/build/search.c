/* search.c - plm_search(): one query answered as stock Lance answers it (lance-format.md 5).
 *
 * 1. The index gives its best k (times the refine factor) by approximate distance.
 * 2. Fragments outside its bitmaps are scanned exactly for their best k.
 * 3. With a refine factor, or when 2 had anything to scan, all candidates are scored exactly.
 * 4. The k nearest, ties by row id. */
#include <math.h>
#include <stdlib.h>

#include "build/search_parts.h"
#include "lance/wire_get.h"

void plm_search_options_default(struct plm_search_options *options)
{
    *options = (struct plm_search_options){
        .struct_bytes = sizeof(*options), .k = 10, .nprobes = 20};
}

void plm_hits_reset(struct plm_hits *hits)
{
    if (!hits)
        return;
    free(hits->rowids);
    free(hits->distances);
    memset(hits, 0, sizeof(*hits));
}

static enum plm_code check_options(const struct plm_search_options *o, struct plm_err *err)
{
    if (o && o->struct_bytes != sizeof(*o))
        return plm_fail(err, PLM_ARG, "search options: struct_bytes is %zu; fill them with "
                        "plm_search_options_default() first", o->struct_bytes);
    if (!o || !o->column || !*o->column)
        return plm_fail(err, PLM_ARG, "search: no column given");
    if (o->k == 0)
        return plm_fail(err, PLM_ARG, "search: k is 0, expected at least 1");
    if (o->nprobes == 0 && !o->exact)
        return plm_fail(err, PLM_ARG, "search: nprobes is 0, expected at least 1");
    for (size_t i = 0; o->vector && i < o->dim; i++)
        if (!isfinite(o->vector[i]))
            return plm_fail(err, PLM_ARG, "search: value %zu of the query is not finite, or beyond the range of float32",
                            i);
    return PLM_OK;
}

/* ---- the index ------------------------------------------------------------------------- */

#define INDEX_VERSION_MAX 2 /* stock Lance does not see indexes above it */

static bool is_on_column(const struct plm_index_meta *meta, int32_t field_id)
{
    return meta->n_fields == 1 && meta->field_ids[0] == field_id &&
           meta->index_version <= INDEX_VERSION_MAX;
}

/* The name to use: the one asked for, or that of the column's first index; NULL = none. */
static enum plm_code choose_name(const struct plm_search_job *job, const char **out,
                                 struct plm_err *err)
{
    const struct plm_manifest *m = &job->table.manifest;
    const char *wanted = job->options->index;
    bool is_elsewhere = false;

    for (size_t i = 0; i < m->n_indices; i++) {
        const struct plm_index_meta *meta = &m->indices[i];
        bool is_named = !wanted || strcmp(meta->name, wanted) == 0;
        if (is_named && is_on_column(meta, job->column.field_id)) {
            *out = meta->name;
            return PLM_OK;
        }
        is_elsewhere = is_elsewhere || (wanted && is_named);
    }
    if (is_elsewhere)
        return plm_fail(err, PLM_NOT_FOUND, "index \"%s\" is not on column \"%s\"", wanted,
                        job->options->column);
    if (wanted)
        return plm_fail(err, PLM_NOT_FOUND, "no index \"%s\" in version %" PRIu64 " of the table",
                        wanted, m->version);
    *out = NULL;
    return PLM_OK;
}

static enum plm_code choose_index(struct plm_search_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_manifest *m = &job->table.manifest;
    const char *name = NULL;

    PLM_TRY(choose_name(job, &name, err));
    PLM_TRY(plm_alloc(job->ctx, &job->metas, m->n_indices, sizeof(*job->metas), err));
    for (size_t i = 0; name && i < m->n_indices; i++)
        if (strcmp(m->indices[i].name, name) == 0 &&
            is_on_column(&m->indices[i], job->column.field_id))
            job->metas[job->n_metas++] = &m->indices[i];
done:
    return rc;
}

/* The metric of an index that is not going to be opened: field 1 of its details. An index
 * written without details is opened after all. */
static enum plm_code metric_of_index(struct plm_search_job *job, struct plm_err *err)
{
    static const enum plm_metric metrics[] = {PLM_L2, PLM_COSINE, PLM_DOT};
    enum plm_code rc = PLM_OK;
    const struct plm_index_meta *meta = job->metas[0];
    uint64_t number = 0;

    if (meta->details.len == 0)
        return plm_search_open_index(job, err);
    PLM_PB_EACH(meta->details)
        if (field.number == 1 && field.wire == 0)
            number = field.value;
    PLM_TRY(rc);
    if (number > 2)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "index \"%s\" has a metric other than l2, cosine and "
                         "dot", meta->name));
    job->metric = metrics[number];
done:
    return rc;
}

/* ---- the query --------------------------------------------------------------------------- */

static enum plm_code take_query(struct plm_search_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_search_options *o = job->options;

    if (o->vector && o->dim != job->column.dim)
        return plm_fail(err, PLM_DATA, "the query has %zu values, column \"%s\" has dimension %" PRIu32,
                        o->dim, o->column, job->column.dim);
    PLM_TRY(plm_alloc(job->ctx, &job->query, job->column.dim, sizeof(*job->query), err));
    if (!o->vector) {
        PLM_TRY(plm_search_query_of_row(job, o->rowid, err));
        return PLM_OK;
    }
    memcpy(job->query, o->vector, o->dim * sizeof(float));
    plm_round_to_element(job->query, o->dim, job->column.element);
    for (size_t i = 0; i < o->dim; i++)
        if (!isfinite(job->query[i]))
            return plm_fail(err, PLM_DATA, "value %zu of the query, %g, is beyond the range of "
                            "float16, the type of column \"%s\"", i, (double)o->vector[i], o->column);
done:
    return rc;
}

/* ---- combining ----------------------------------------------------------------------------- */

static enum plm_code top_create(struct plm_ctx *ctx, size_t k, struct plm_top *top,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    top->k = k;
    PLM_TRY(plm_alloc(ctx, &top->distances, k, sizeof(*top->distances), err));
    PLM_TRY(plm_alloc(ctx, &top->rowids, k, sizeof(*top->rowids), err));
done:
    return rc;
}

static void top_reset(struct plm_ctx *ctx, struct plm_top *top)
{
    plm_free(ctx, top->distances);
    plm_free(ctx, top->rowids);
    memset(top, 0, sizeof(*top));
}

/* Empties every searcher's heap and gives it room for k rows. */
static enum plm_code begin_searchers(struct plm_search_job *job, size_t k, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (unsigned i = 0; i < job->ctx->threads; i++) {
        top_reset(job->ctx, &job->searchers[i].top);
        PLM_TRY(top_create(job->ctx, k, &job->searchers[i].top, err));
    }
done:
    return rc;
}

/* Appends the best `k` of what the searchers hold to `all` (which has room), nearest first. */
static enum plm_code gather(struct plm_search_job *job, size_t k, struct plm_top *all,
                            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_top best = {0};

    PLM_TRY(top_create(job->ctx, k, &best, err));
    for (unsigned i = 0; i < job->ctx->threads; i++) {
        const struct plm_top *top = &job->searchers[i].top;
        for (size_t j = 0; j < top->n; j++)
            plm_top_offer(&best, top->distances[j], top->rowids[j]);
    }
    plm_top_sort(&best);
    PLM_ASSERT(all->n + best.n <= all->k);
    memcpy(all->distances + all->n, best.distances, best.n * sizeof(float));
    memcpy(all->rowids + all->n, best.rowids, best.n * sizeof(uint64_t));
    all->n += best.n;
done:
    top_reset(job->ctx, &best);
    return rc;
}

static int by_fragment(const void *key, const void *item)
{
    uint64_t id = *(const uint64_t *)key, covered = *(const uint32_t *)item;
    return (id > covered) - (id < covered);
}

/* Fragments outside the index; *n = 0 when it covers the table. */
static enum plm_code uncovered(struct plm_search_job *job, uint64_t **out, size_t *n,
                               struct plm_err *err)
{
    const struct plm_manifest *m = &job->table.manifest;
    enum plm_code rc = plm_alloc(job->ctx, out, m->n_fragments, sizeof(**out), err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < m->n_fragments; i++)
        if (!bsearch(&m->fragments[i].id, job->covered, job->n_covered, sizeof(*job->covered),
                     by_fragment))
            (*out)[(*n)++] = m->fragments[i].id;
    return PLM_OK;
}

static uint64_t rows_of_table(const struct plm_manifest *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_fragments; i++)
        n += m->fragments[i].n_physical_rows;
    return n;
}

static enum plm_code with_index(struct plm_search_job *job, size_t k, struct plm_top *all,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t *fragments = NULL, rows = 0;
    size_t n_fragments = 0, n_wanted = k;

    PLM_TRY(uncovered(job, &fragments, &n_fragments, err));
    for (size_t i = 0; i < job->n_metas; i++)
        rows += job->segments[i].n_rows;
    if (job->options->refine_factor && !plm_size_mul(k, job->options->refine_factor, &n_wanted))
        n_wanted = SIZE_MAX;
    n_wanted = (size_t)plm_min_u64(n_wanted, rows);
    PLM_TRY(top_create(job->ctx, n_wanted + k, all, err));
    PLM_TRY(begin_searchers(job, n_wanted, err));
    PLM_TRY(plm_search_index(job, err));
    PLM_TRY(gather(job, n_wanted, all, err));
    if (n_fragments) {
        PLM_TRY(begin_searchers(job, k, err));
        PLM_TRY(plm_search_exact(job, fragments, n_fragments, err));
        PLM_TRY(gather(job, k, all, err));
    }
    if (n_fragments || job->options->refine_factor)
        PLM_TRY(plm_search_rescore(job, all, err));
done:
    plm_free(job->ctx, fragments);
    return rc;
}

static enum plm_code without_index(struct plm_search_job *job, size_t k, struct plm_top *all,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(top_create(job->ctx, k, all, err));
    PLM_TRY(begin_searchers(job, k, err));
    PLM_TRY(plm_search_exact(job, NULL, 0, err));
    PLM_TRY(gather(job, k, all, err));
done:
    return rc;
}

/* The k nearest of all; a row that two segments hold counts once. */
static enum plm_code hand_out(struct plm_search_job *job, struct plm_top *all, size_t k,
                              struct plm_hits *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_top sorted = {0};
    struct plm_hits hits = {.nprobes = job->nprobes};

    PLM_TRY(top_create(job->ctx, all->n, &sorted, err));
    for (size_t i = 0; i < all->n; i++)
        plm_top_offer(&sorted, all->distances[i], all->rowids[i]);
    plm_top_sort(&sorted);
    hits.rowids = malloc(plm_max_size(1, plm_min_size(k, sorted.n)) * sizeof(*hits.rowids));
    hits.distances = malloc(plm_max_size(1, plm_min_size(k, sorted.n)) * sizeof(*hits.distances));
    if (!hits.rowids || !hits.distances)
        PLM_TRY(plm_fail(err, PLM_NOMEM, "search: out of memory for %zu hits", sorted.n));
    for (size_t i = 0; i < sorted.n && hits.n < k; i++) {
        if (hits.n && hits.rowids[hits.n - 1] == sorted.rowids[i])
            continue;
        hits.rowids[hits.n] = sorted.rowids[i];
        hits.distances[hits.n++] = sorted.distances[i];
    }
    for (unsigned i = 0; i < job->ctx->threads; i++)
        hits.rows_scanned += job->searchers[i].rows_scanned;
    *out = hits;
    memset(&hits, 0, sizeof(hits));
done:
    plm_hits_reset(&hits);
    top_reset(job->ctx, &sorted);
    return rc;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static void job_close(struct plm_search_job *job)
{
    struct plm_ctx *ctx = job->ctx;

    for (unsigned i = 0; job->searchers && i < ctx->threads; i++) {
        struct plm_searcher *s = &job->searchers[i];
        top_reset(ctx, &s->top);
        plm_scan_scratch_reset(&s->scratch);
        plm_batch_reset(&s->batch);
    }
    for (size_t i = 0; job->segments && i < job->n_metas; i++)
        plm_segment_close(&job->segments[i]);
    plm_live_close(&job->live);
    plm_free(ctx, job->searchers);
    plm_free(ctx, job->segments);
    plm_free(ctx, job->covered);
    plm_free(ctx, job->query);
    plm_free(ctx, job->metas);
    plm_store_close(job->copy);
    plm_table_close(&job->table);
}

static enum plm_code job_open(struct plm_search_job *job, const struct plm_table_ref *ref,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_cancel(job->ctx, err));
    PLM_TRY(plm_table_open(job->ctx, ref, &job->table, err));
    PLM_TRY(plm_manifest_find_column(&job->table.manifest, job->options->column, &job->column, err));
    if (job->options->column_copy)
        PLM_TRY(plm_store_open(job->ctx, job->options->column_copy, ref->storage_options, &job->copy, err));
    PLM_TRY(choose_index(job, err));
    PLM_TRY(plm_calloc(job->ctx, &job->searchers, job->ctx->threads, sizeof(*job->searchers), err));
    if (job->n_metas && job->options->exact)
        PLM_TRY(metric_of_index(job, err));
    else if (job->n_metas)
        PLM_TRY(plm_search_open_index(job, err));
    PLM_TRY(take_query(job, err));
done:
    return rc;
}

enum plm_code plm_search(struct plm_ctx *ctx, const struct plm_table_ref *table,
                         const struct plm_search_options *options, struct plm_hits *out,
                         struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    double began = plm_now_seconds();
    struct plm_search_job job = {.ctx = ctx, .options = options, .metric = PLM_L2};
    struct plm_top all = {0};
    size_t k;

    PLM_TRY(check_options(options, err));
    PLM_TRY(job_open(&job, table, err));
    k = (size_t)plm_min_u64(options->k, rows_of_table(&job.table.manifest));
    if (job.n_metas && !options->exact)
        PLM_TRY(with_index(&job, k, &all, err));
    else
        PLM_TRY(without_index(&job, k, &all, err));
    PLM_TRY(hand_out(&job, &all, k, out, err));
    out->seconds = plm_now_seconds() - began;
done:
    top_reset(ctx, &all);
    job_close(&job);
    return rc;
}
