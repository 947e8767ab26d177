/* search_index.c - the part of a search that an index answers. */
#include <math.h>
#include <stdlib.h>

#include "build/search_parts.h"
#include "simd/simd.h"

/* ---- opening ------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The union of the bitmaps. */
static enum plm_code cover(struct plm_search_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n = 0, n_distinct = 0;

    for (size_t i = 0; i < job->n_metas; i++)
        n += job->metas[i]->n_fragments;
    PLM_TRY(plm_alloc(job->ctx, &job->covered, n, sizeof(*job->covered), err));
    n = 0;
    for (size_t i = 0; i < job->n_metas; i++)
        for (size_t j = 0; j < job->metas[i]->n_fragments; j++)
            job->covered[n++] = job->metas[i]->fragments[j];
    qsort(job->covered, n, sizeof(*job->covered), by_value);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || job->covered[i] != job->covered[i - 1])
            job->covered[n_distinct++] = job->covered[i];
    job->n_covered = n_distinct;
done:
    return rc;
}

static enum plm_code check_segment(const struct plm_search_job *job, size_t i, struct plm_err *err)
{
    const struct plm_model *m = &job->segments[i].model;
    const char *name = job->metas[i]->name;

    if (m->dim != job->column.dim)
        return plm_fail(err, PLM_CORRUPT, "index \"%s\" has dimension %" PRIu32
                        ", its column %" PRIu32, name, m->dim, job->column.dim);
    if (m->metric != job->segments[0].model.metric)
        return plm_fail(err, PLM_UNSUPPORTED, "index \"%s\" has segments with metrics %s and %s",
                        name, plm_metric_name(job->segments[0].model.metric),
                        plm_metric_name(m->metric));
    return PLM_OK;
}

enum plm_code plm_search_open_index(struct plm_search_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &job->segments, job->n_metas, sizeof(*job->segments), err));
    for (size_t i = 0; i < job->n_metas; i++) {
        const struct plm_index_meta *meta = job->metas[i];
        if (!meta->has_bitmap)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "index \"%s\" does not say which fragments it "
                             "covers; build it anew", meta->name));
        PLM_TRY(plm_segment_open(&job->table.manifest, meta, &job->segments[i], err));
        PLM_TRY(check_segment(job, i, err));
    }
    job->metric = job->segments[0].model.metric;
    PLM_TRY(cover(job, err));
    PLM_TRY(plm_live_open(&job->table.manifest, job->covered, job->n_covered, &job->live, err));
done:
    return rc;
}

/* ---- scanning ----------------------------------------------------------------------- */

struct probe_list {
    struct plm_search_job *job;
    const float *query; /* normalized for cosine */
    struct probe {
        uint32_t segment, partition;
    } *probes;
    size_t n;
};

static enum plm_code normalize(struct plm_search_job *job, float *unit, struct plm_err *err)
{
    double norm2 = job->ctx->kernels->norm2(job->query, job->column.dim);

    if (norm2 == 0)
        return plm_fail(err, PLM_DATA, "the query is a zero vector, which has no direction to "
                        "compare under cosine");
    double inverse = 1 / sqrt(norm2);
    for (uint32_t d = 0; d < job->column.dim; d++)
        unit[d] = (float)(job->query[d] * inverse);
    plm_round_to_element(unit, job->column.dim, job->column.element);
    return PLM_OK;
}

static enum plm_code probe_segments(struct probe_list *list, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_search_job *job = list->job;
    uint32_t *ids = NULL;
    size_t n_max = 0;

    for (size_t i = 0; i < job->n_metas; i++)
        n_max += plm_min_size(job->options->nprobes, job->segments[i].model.k);
    PLM_TRY(plm_alloc(job->ctx, &list->probes, n_max, sizeof(*list->probes), err));
    PLM_TRY(plm_alloc(job->ctx, &ids, n_max, sizeof(*ids), err));
    for (size_t i = 0; i < job->n_metas; i++) {
        size_t n = 0;
        PLM_TRY(plm_probe(job->ctx, &job->segments[i].model, list->query, job->options->nprobes,
                          ids, &n, err));
        for (size_t j = 0; j < n; j++)
            list->probes[list->n++] = (struct probe){(uint32_t)i, ids[j]};
        job->nprobes = n > job->nprobes ? (uint32_t)n : job->nprobes;
    }
done:
    plm_free(job->ctx, ids);
    return rc;
}

static enum plm_code scan_probe(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct probe_list *list = arg;
    struct probe probe = list->probes[task];
    struct plm_searcher *s = &list->job->searchers[worker];
    struct plm_segment *segment = &list->job->segments[probe.segment];

    s->cursor.live = &list->job->live;
    s->rows_scanned += segment->lengths[probe.partition];
    return plm_scan_partition(segment, probe.partition, list->query, plm_live_allow, &s->cursor,
                              &s->top, &s->scratch, err);
}

enum plm_code plm_search_index(struct plm_search_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct probe_list list = {.job = job, .query = job->query};
    float *unit = NULL;

    if (job->metric == PLM_COSINE) {
        PLM_TRY(plm_alloc(job->ctx, &unit, job->column.dim, sizeof(*unit), err));
        PLM_TRY(normalize(job, unit, err));
        list.query = unit;
    }
    PLM_TRY(probe_segments(&list, err));
    PLM_TRY(plm_parallel(job->ctx, list.n, scan_probe, &list, err));
done:
    plm_free(job->ctx, list.probes);
    plm_free(job->ctx, unit);
    return rc;
}
