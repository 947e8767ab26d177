/* verify_index.c - plm_verify_index(): a committed index, ours or stock Lance's, against the table. */
#include <math.h>

#include "build/check.h"
#include "build/live.h"
#include "build/probes.h"
#include "build/report.h"
#include "build/run.h"
#include "build/table.h"
#include "simd/simd.h"

#define BATCH_BYTES_MAX ((size_t)8 << 20)

void plm_verify_options_default(struct plm_verify_options *options)
{
    *options = (struct plm_verify_options){.struct_bytes = sizeof *options, .queries = 200};
}

/* A segment, and the part of the table that it covers. */
struct covered {
    const struct plm_index_meta *meta;
    struct plm_source source;
};

struct verifying {
    struct plm_ctx *ctx;
    struct plm_table table;
    struct plm_store *copy; /* of the column, or NULL */
    struct plm_column column;
    struct covered *covered;
    struct plm_segment *segments; /* [n] */
    size_t n;
    struct plm_probes probes;
    struct plm_neighbour *truth;  /* [probes.n][PLM_PROBE_K] */
    struct plm_findings findings;
};

/* ---- opening ------------------------------------------------------------------------------------ */

static enum plm_code find_index(struct verifying *v, const char *name, struct plm_err *err)
{
    const struct plm_manifest *m = &v->table.manifest;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(v->ctx, &v->covered, m->n_indices, sizeof *v->covered, err));
    for (size_t i = 0; i < m->n_indices; i++)
        if (strcmp(m->indices[i].name, name) == 0)
            v->covered[v->n++].meta = &m->indices[i];
    if (v->n == 0)
        return plm_fail(err, PLM_NOT_FOUND, "the table has no index \"%s\"", name);
    PLM_TRY(plm_calloc(v->ctx, &v->segments, v->n, sizeof *v->segments, err));
done:
    return rc;
}

static enum plm_code find_column(struct verifying *v, struct plm_err *err)
{
    const struct plm_index_meta *meta = v->covered[0].meta;
    char *path = NULL;
    enum plm_code rc = PLM_OK;

    if (meta->n_fields != 1)
        return plm_fail(err, PLM_UNSUPPORTED, "index \"%s\" covers %zu columns", meta->name, meta->n_fields);
    PLM_TRY(plm_manifest_field_path(&v->table.manifest, meta->field_ids[0], &path, err));
    PLM_TRY(plm_manifest_find_column(&v->table.manifest, path, &v->column, err));
done:
    plm_free(v->ctx, path);
    return rc;
}

static bool has_fragment(const struct plm_manifest *m, uint64_t id)
{
    for (size_t i = 0; i < m->n_fragments; i++)
        if (m->fragments[i].id == id)
            return true;
    return false;
}

/* The manifest says how long the files of a segment are; readers that are told so do not notice a longer one. */
static enum plm_code check_sizes(struct verifying *v, const struct plm_index_meta *meta, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *store;
    const char *prefix;
    char uuid[37], *path = NULL;
    uint64_t size_bytes;

    plm_uuid_text(meta->uuid, uuid);
    PLM_TRY(plm_manifest_base(&v->table.manifest, meta->base_id, "_indices/", &store, &prefix, err));
    for (size_t i = 0; i < meta->n_files; i++) {
        PLM_TRY(plm_format(v->ctx, &path, err, "%s%s/%s", prefix, uuid, meta->files[i].path));
        PLM_TRY(plm_store_size(store, path, &size_bytes, err));
        if (meta->files[i].size_bytes != 0 && size_bytes != meta->files[i].size_bytes)
            plm_problem(&v->findings, "size", UINT64_MAX, meta->files[i].path, "%.0f bytes", (double)size_bytes,
                        (double)meta->files[i].size_bytes);
        plm_free(v->ctx, path);
        path = NULL;
    }
done:
    plm_free(v->ctx, path);
    return rc;
}

/* Fragments that were removed since do not count: their rows are dead. */
static enum plm_code open_covered(struct verifying *v, size_t i, struct plm_err *err)
{
    struct covered *c = &v->covered[i];
    uint64_t *ids = NULL;
    size_t n = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_segment_open(&v->table.manifest, c->meta, &v->segments[i], err));
    if (v->segments[i].model.dim != v->column.dim)
        return plm_fail(err, PLM_CORRUPT, "index \"%s\" has dimension %u, its column %u", c->meta->name,
                        v->segments[i].model.dim, v->column.dim);
    PLM_TRY(check_sizes(v, c->meta, err));
    PLM_TRY(plm_alloc(v->ctx, &ids, c->meta->n_fragments, sizeof *ids, err));
    for (size_t f = 0; f < c->meta->n_fragments; f++)
        if (has_fragment(&v->table.manifest, c->meta->fragments[f]))
            ids[n++] = c->meta->fragments[f];
    if (v->copy)
        PLM_TRY(plm_source_open_copy(&v->table.manifest, &v->column, ids, n, v->copy, &c->source, err));
    else
        PLM_TRY(plm_source_open(&v->table.manifest, &v->column, ids, n, &c->source, err));
done:
    plm_free(v->ctx, ids);
    return rc;
}

static void close_all(struct verifying *v)
{
    for (size_t i = 0; i < v->n; i++) {
        plm_source_close(&v->covered[i].source);
        if (v->segments)
            plm_segment_close(&v->segments[i]);
    }
    plm_free(v->ctx, v->covered);
    plm_free(v->ctx, v->segments);
    plm_free(v->ctx, v->probes.vectors);
    plm_free(v->ctx, v->probes.rowids);
    plm_free(v->ctx, v->truth);
    plm_findings_reset(&v->findings);
    plm_store_close(v->copy);
    plm_table_close(&v->table);
}

/* ---- row ids --------------------------------------------------------------------------------------- */

/* How many live rows the segment holds; ids that come twice are problems. */
static enum plm_code count_live(struct verifying *v, size_t i, uint64_t *n_live, struct plm_err *err)
{
    struct plm_segment *s = &v->segments[i];
    const struct plm_index_meta *meta = v->covered[i].meta;
    struct plm_live live = {0};
    uint64_t *ids = NULL, low, high, n = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_live_open(&v->table.manifest, meta->fragments, meta->n_fragments, &live, err));
    struct plm_live_cursor cursor = {.live = &live};
    PLM_TRY(plm_alloc(v->ctx, &ids, (size_t)s->n_rows, sizeof *ids, err));
    PLM_TRY(plm_check_rowids(s, &low, &high, ids, err));
    for (uint64_t r = 0; r < s->n_rows; r++) {
        n += plm_live_allow(&cursor, ids[r]);
        if (r > 0 && ids[r] == ids[r - 1])
            plm_problem(&v->findings, "repeated", ids[r], "row ids", "%.0f times", 2, 1);
    }
    *n_live = n;
done:
    plm_free(v->ctx, ids);
    plm_live_close(&live);
    return rc;
}

static enum plm_code check_one(struct verifying *v, size_t i, bool full, struct plm_err *err)
{
    struct plm_source *source = &v->covered[i].source;
    struct plm_check check = {
        .ctx = v->ctx,
        .source = source,
        .segment = &v->segments[i],
        .n = source->n_live,
        .seed = 42,
        .findings = &v->findings,
    };
    uint64_t n_live;
    enum plm_code rc = PLM_OK;

    PLM_TRY(count_live(v, i, &n_live, err));
    if (n_live > source->n_live)
        plm_problem(&v->findings, "count", UINT64_MAX, "live rows of the index", "%.0f", (double)n_live,
                    (double)source->n_live);
    PLM_TRY(plm_check_rows(&check, full, err));
    if (full && check.n_usable != n_live)
        plm_problem(&v->findings, "count", UINT64_MAX, "live rows of the index", "%.0f", (double)n_live,
                    (double)check.n_usable);
done:
    return rc;
}

/* ---- recall -------------------------------------------------------------------------------------------- */

static uint64_t rows_covered(const struct verifying *v)
{
    uint64_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += v->covered[i].source.n_live;
    return n;
}

/* Queries are rows of the table, each alone of its stretch of ordinals. */
static enum plm_code draw_queries(struct verifying *v, size_t n_wanted, struct plm_err *err)
{
    uint64_t total = rows_covered(v);
    size_t n = (size_t)plm_min_u64(n_wanted, total), dim = v->column.dim;
    struct plm_batch batch = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(v->ctx, &v->probes.vectors, n * dim, sizeof(float), err));
    PLM_TRY(plm_alloc(v->ctx, &v->probes.rowids, n, sizeof(uint64_t), err));
    for (size_t q = 0; q < n; q++) {
        uint64_t from = (uint64_t)((__uint128_t)total * q / n), to = (uint64_t)((__uint128_t)total * (q + 1) / n);
        uint64_t at = from + plm_mix64(7, q) % (to - from);
        size_t i = 0;
        while (at >= v->covered[i].source.n_live)
            at -= v->covered[i++].source.n_live;
        PLM_TRY(plm_source_read(&v->covered[i].source, v->segments[i].model.metric, at, 1, &batch, err));
        if (batch.n == 0)
            continue; /* not usable */
        memcpy(v->probes.vectors + v->probes.n * dim, batch.rows, dim * sizeof(float));
        v->probes.rowids[v->probes.n++] = batch.rowids[0];
    }
done:
    plm_batch_reset(&batch);
    return rc;
}

struct truth_scan {
    struct verifying *v;
    struct plm_source *source;
    struct plm_probe_panels panels;
    size_t step;
    struct scan_thread {
        struct plm_batch batch;
        float *packed, *values;
        struct plm_neighbour *best;
    } *threads;
};

static enum plm_code scan_step(void *arg, size_t step, unsigned worker, struct plm_err *err)
{
    struct truth_scan *t = arg;
    struct scan_thread *mine = &t->threads[worker];
    uint64_t first = (uint64_t)step * t->step;
    size_t n = (size_t)plm_min_u64(t->step, t->source->n_live - first);

    enum plm_code rc = plm_source_read(t->source, t->v->segments[0].model.metric, first, n, &mine->batch, err);
    if (rc != PLM_OK)
        return rc;
    plm_probe_offer(&t->panels, &mine->batch, mine->packed, mine->values, mine->best);
    plm_progress_add(t->v->ctx, n);
    return PLM_OK;
}

static enum plm_code open_scan(struct truth_scan *t, struct plm_err *err)
{
    struct verifying *v = t->v;
    size_t dim = v->column.dim, places = v->probes.n * PLM_PROBE_K;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_probe_panels_init(v->ctx, &v->probes, dim, v->segments[0].model.metric, &t->panels, err));
    PLM_TRY(plm_calloc(v->ctx, &t->threads, v->ctx->threads, sizeof *t->threads, err));
    for (unsigned i = 0; i < v->ctx->threads; i++) {
        struct scan_thread *mine = &t->threads[i];
        PLM_TRY(plm_alloc(v->ctx, &mine->packed, PLM_BLOCK_ROWS * dim, sizeof(float), err));
        PLM_TRY(plm_alloc(v->ctx, &mine->values, PLM_BLOCK_ROWS * PLM_PANEL * t->panels.n_panels,
                          sizeof(float), err));
        PLM_TRY(plm_alloc(v->ctx, &mine->best, places, sizeof *mine->best, err));
        plm_neighbours_clear(mine->best, v->probes.n);
    }
done:
    return rc;
}

/* The queries' true neighbours, by looking at every row. */
static enum plm_code find_truth(struct verifying *v, struct plm_err *err)
{
    struct truth_scan t = {.v = v};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(v->ctx, &v->truth, v->probes.n * PLM_PROBE_K, sizeof *v->truth, err));
    plm_neighbours_clear(v->truth, v->probes.n);
    PLM_TRY(open_scan(&t, err));
    for (size_t i = 0; i < v->n; i++) {
        t.source = &v->covered[i].source;
        t.step = plm_batch_rows_that_fit(t.source, PLM_TRUTH_BYTES_MIN, BATCH_BYTES_MAX);
        PLM_TRY(plm_parallel(v->ctx, (size_t)((t.source->n_live + t.step - 1) / t.step), scan_step, &t, err));
    }
    for (unsigned i = 0; i < v->ctx->threads; i++)
        for (size_t q = 0; q < v->probes.n; q++)
            plm_neighbours_merge(v->truth + q * PLM_PROBE_K, t.threads[i].best + q * PLM_PROBE_K, PLM_PROBE_K);
done:
    for (unsigned i = 0; t.threads && i < v->ctx->threads; i++) {
        plm_batch_reset(&t.threads[i].batch);
        plm_free(v->ctx, t.threads[i].packed);
        plm_free(v->ctx, t.threads[i].values);
        plm_free(v->ctx, t.threads[i].best);
    }
    plm_free(v->ctx, t.threads);
    plm_probe_panels_reset(&t.panels);
    return rc;
}

static enum plm_code measure_recall(struct verifying *v, uint32_t queries, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if (queries == 0 || rows_covered(v) == 0)
        return PLM_OK;
    PLM_TRY(draw_queries(v, queries, err));
    if (v->probes.n == 0)
        return PLM_OK;
    PLM_TRY(find_truth(v, err));
    PLM_TRY(plm_check_recall(v->ctx, v->segments, v->n, &v->probes, v->truth, &v->findings, err));
done:
    return rc;
}

/* ---- the call --------------------------------------------------------------------------------------------- */

static enum plm_code findings_json(const struct verifying *v, const char *index, char **out,
                                   struct plm_err *err)
{
    const struct plm_findings *f = &v->findings;
    json_t *problems = f->problems ? json_incref(f->problems) : json_array();
    return plm_json_string(json_pack("{s:s, s:I, s:o, s:I, s:I, s:o}", "index", index, "checked_rows",
                                     (json_int_t)f->checked_rows, "problems", problems, "n_problems",
                                     (json_int_t)f->n_problems, "misfiled", (json_int_t)f->misfiled,
                                     "recall_at_10", plm_recall_json(f)),
                           out, err);
}

static enum plm_code open_all(struct verifying *v, const struct plm_table_ref *ref,
                              const struct plm_verify_options *o, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_table_open(v->ctx, ref, &v->table, err));
    PLM_TRY(find_index(v, o->index, err));
    PLM_TRY(find_column(v, err));
    if (o->column_copy)
        PLM_TRY(plm_store_open(v->ctx, o->column_copy, ref->storage_options, &v->copy, err));
    for (size_t i = 0; i < v->n; i++)
        PLM_TRY(open_covered(v, i, err));
done:
    return rc;
}

/* PLM_LIMIT with the smallest budget that would do: known once the index is open. */
static enum plm_code check_budget(const struct verifying *v, const struct plm_verify_options *o, struct plm_err *err)
{
    const struct plm_ctx *ctx = v->ctx;
    uint64_t opening = ctx->memory_base_bytes + atomic_load(&ctx->memory_peak), most = 0;

    for (size_t i = 0; i < v->n; i++)
        most = plm_max_u64(most, plm_check_least_bytes(&v->segments[i], &v->covered[i].source, o->full, o->queries));
    most = plm_max_u64(opening, most + plm_fixed_bytes(ctx, !plm_store_is_local(v->table.store)));
    if (most > ctx->memory_budget_bytes)
        return plm_fail(err, PLM_LIMIT,
                        "memory budget of %" PRIu64 " bytes is too small: %" PRIu64
                        " MiB is the smallest that would do to check index \"%s\"",
                        ctx->memory_budget_bytes, plm_named_mib(most), o->index);
    return PLM_OK;
}

static enum plm_code verify_all(struct verifying *v, const struct plm_table_ref *ref,
                                const struct plm_verify_options *o, struct plm_err *err)
{
    uint64_t budget = v->ctx->memory_budget_bytes;
    enum plm_code rc = PLM_OK;

    v->ctx->memory_budget_bytes = plm_max_u64(budget, PLM_OPENING_BYTES);
    rc = open_all(v, ref, o, err);
    v->ctx->memory_budget_bytes = budget;
    if (rc != PLM_OK)
        return rc;
    PLM_TRY(check_budget(v, o, err));
    plm_progress_begin(v->ctx, "verify", rows_covered(v) * (o->full + (o->queries > 0)), "rows");
    for (size_t i = 0; i < v->n; i++)
        PLM_TRY(check_one(v, i, o->full, err));
    PLM_TRY(measure_recall(v, o->queries, err));
    plm_progress_end(v->ctx);
done:
    return rc;
}

enum plm_code plm_verify_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
                               const struct plm_verify_options *options, char **report_json,
                               uint64_t *n_problems, struct plm_err *err)
{
    struct verifying v = {.ctx = ctx};
    enum plm_code rc = PLM_OK;

    if (!options || options->struct_bytes != sizeof *options || !options->index)
        return plm_fail(err, PLM_ARG, "verify: options not filled, or no index named");
    PLM_TRY(verify_all(&v, table, options, err));
    PLM_TRY(findings_json(&v, options->index, report_json, err));
    *n_problems = v.findings.n_problems;
done:
    close_all(&v);
    return rc;
}
