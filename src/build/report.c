#include "build/report.h"

#include <math.h>
#include <stdlib.h>

#include "build/plan_parts.h"
#include "simd/simd.h"

void plm_string_free(char *string)
{
    free(string);
}

enum plm_code plm_json_string(json_t *root, char **out, struct plm_err *err)
{
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text)
        return plm_fail(err, PLM_NOMEM, "report: out of memory");
    *out = text;
    return PLM_OK;
}

static json_int_t I(uint64_t n)
{
    return (json_int_t)n;
}

/* ---- parts ---------------------------------------------------------------------------------- */

static json_t *index_json(const struct plm_plan *p, uint32_t k)
{
    char uuid[37];
    bool is_pq = p->quantizer == PLM_PQ;
    plm_uuid_text(p->segments[0].uuid, uuid);
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:o}", "name", p->index_name, "uuid", uuid, "type",
                     plm_quantizer_type(p->quantizer), "metric", plm_metric_name(p->metric),
                     "num_partitions", I(k), "num_sub_vectors",
                     is_pq ? json_integer(I(p->num_sub_vectors)) : json_null(), "num_bits",
                     is_pq ? json_integer(p->num_bits)
                           : p->quantizer == PLM_SQ ? json_integer(8) : json_null());
}

static json_t *rows_json(const struct plm_job *job)
{
    const struct plm_plan *p = &job->plan;
    const uint64_t *dropped = job->totals.dropped;
    return json_pack("{s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:I}", "total", I(p->n_live + p->n_deleted), "indexed",
                     I(job->totals.n), "dropped", "deleted", I(p->n_deleted), "null", I(dropped[PLM_DROP_NULL]),
                     "nonfinite", I(dropped[PLM_DROP_NONFINITE]), "zero", I(dropped[PLM_DROP_ZERO]),
                     "appended_since", I(job->rows_appended));
}

/* Sizes over all segments: they share their centroids. */
static json_t *partitions_json(const struct plm_job *job)
{
    uint32_t k = job->model.k;
    uint64_t empty = 0, max = 0, sum = 0;
    double squares = 0;
    json_t *sizes = json_array();

    for (uint32_t p = 0; p < k; p++) {
        uint64_t n = 0;
        for (size_t s = 0; job->lengths && s < job->plan.n_segments; s++)
            n += job->lengths[s][p];
        empty += n == 0;
        max = n > max ? n : max;
        sum += n;
        squares += (double)n * (double)n;
        json_array_append_new(sizes, json_integer(I(n)));
    }
    double mean = (double)sum / k, variance = squares / k - mean * mean;
    return json_pack("{s:I, s:I, s:f, s:f, s:o}", "empty", I(empty), "max", I(max), "mean", mean, "cv",
                     mean > 0 ? sqrt(variance > 0 ? variance : 0) / mean : 0.0, "sizes", sizes);
}

static json_t *numbers_json(const double *values, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(values[i]));
    return list;
}

json_t *plm_recall_json(const struct plm_findings *f)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->n_recall; i++)
        json_array_append_new(list, json_pack("{s:i, s:f, s:f, s:i}", "nprobes", (int)f->recall[i].nprobes,
                                              "rows_scanned", f->recall[i].rows_scanned, "recall",
                                              f->recall[i].recall, "refine_factor", (int)f->refine_factor));
    return list;
}

static json_t *seconds_json(const struct plm_seconds *s)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "plan", s->plan, "train", s->train, "encode",
                     s->encode, "merge", s->merge, "verify", s->verify, "commit", s->commit, "total",
                     s->plan + s->train + s->encode + s->merge + s->verify + s->commit);
}

/* Of one process; null where workers shared the phases. */
static json_t *cpu_json(const struct plm_seconds *cpu)
{
    return cpu->plan > 0 ? seconds_json(cpu) : json_null();
}

static json_t *requests_json(uint64_t get, uint64_t put, uint64_t list, uint64_t deleted, uint64_t retried)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "get", I(get), "put", I(put), "list", I(list), "delete",
                     I(deleted), "retried", I(retried));
}

static json_t *resources_json(struct plm_job *job)
{
    struct plm_ctx *ctx = job->ctx;
    return json_pack("{s:I, s:o, s:I, s:i, s:s, s:I, s:I, s:o}", "peak_rss_bytes", I(plm_resident_peak_bytes()),
                     "cpu_seconds", cpu_json(&job->cpu), "memory_budget_bytes", I(ctx->memory_budget_bytes), "threads",
                     (int)ctx->threads, "kernels", ctx->kernels->name, "bytes_read", I(atomic_load(&ctx->bytes_read)), "bytes_written",
                     I(atomic_load(&ctx->bytes_written)), "requests",
                     requests_json(atomic_load(&ctx->n_get), atomic_load(&ctx->n_put),
                                   atomic_load(&ctx->n_list), atomic_load(&ctx->n_delete),
                                   atomic_load(&ctx->n_retried)));
}

/* {phase: {part: seconds}}, parts that take no time left out. */
static json_t *terms_json(const struct plm_estimate *e)
{
    json_t *root = json_object();
    for (int t = 0; t < PLM_N_TERMS; t++) {
        const char *phase, *name = plm_term_name((enum plm_term)t, &phase);
        if (e->terms[t] > 0) {
            if (!json_object_get(root, phase))
                json_object_set_new(root, phase, json_object());
            json_object_set_new(json_object_get(root, phase), name, json_real(e->terms[t]));
        }
    }
    return root;
}

static json_t *rates_json(const struct plm_rates *r)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "multiply_adds_per_s", r->nearest,
                     "byte_multiply_adds_per_s", r->bytes, "codeword_multiply_adds_per_s", r->codewords,
                     "double_multiply_adds_per_s", r->doubles, "copy_bytes_per_s", r->copy, "touch_bytes_per_s", r->touch,
                     "read_bytes_per_s", r->read, "read_again_bytes_per_s", r->again, "write_bytes_per_s", r->write, "sync_seconds", r->sync,
                     "spread_dimensions", r->spread);
}

/* Estimates under the names of "seconds" and "resources"; what they are made of; what was measured. */
static json_t *estimate_json(struct plm_ctx *ctx, const struct plm_estimate *e)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:i, s:s, s:I, s:I, s:o, s:o, s:o}", "plan", e->plan,
                     "train", e->train, "encode", e->encode, "merge", e->merge, "verify", e->verify, "commit",
                     e->commit, "total", e->total, "peak_rss_bytes", I(e->peak_rss_bytes),
                     "memory_budget_bytes", I(ctx->memory_budget_bytes), "threads", (int)ctx->threads, "kernels",
                     ctx->kernels->name, "bytes_read", I(e->bytes_read), "bytes_written", I(e->bytes_written),
                     "requests", requests_json(e->get, e->put, e->list, e->deleted, 0), "parts", terms_json(e), "calibration",
                     rates_json(&e->rates));
}

/* ---- documents ------------------------------------------------------------------------------- */

enum plm_code plm_job_report(struct plm_job *job, char **json, struct plm_err *err)
{
    const struct plm_findings *f = &job->findings;
    json_t *committed = job->version_committed ? json_integer(I(job->version_committed)) : json_null();
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:{s:I, s:o, s:o}, s:{s:o, s:I, s:I}, s:o, s:o, s:o, s:b}", "pilum",
        PLM_VERSION, "table", plm_store_uri(job->table_store), "version_read", I(job->plan.version),
        "version_committed", committed, "index", index_json(&job->plan, job->model.k), "rows", rows_json(job),
        "partitions", partitions_json(job), "training", "sample_rows", I(job->trained_rows), "ivf_loss",
        numbers_json(job->ivf_loss, job->n_ivf_loss), "pq_error", numbers_json(job->pq_error, job->n_pq_error),
        "quality", "recall_at_10", plm_recall_json(f), "checked_rows", I(f->checked_rows), "misfiled",
        I(f->misfiled), "seconds", seconds_json(&job->seconds), "resources", resources_json(job), "plan",
        estimate_json(job->ctx, &job->estimate), "resumed", (int)job->resumed);
    return plm_json_string(root, json, err);
}

/* What a user should know before the build begins. */
static json_t *notes_json(const struct plm_plan *p)
{
    json_t *notes = json_array();

    if (p->asked_partitions > p->num_partitions)
        json_array_append_new(notes, json_sprintf(PLM_FEWER_PARTITIONS, p->num_partitions, p->num_partitions == 1 ? "" : "s",
                                                  p->asked_partitions, p->n_live, p->n_live == 1 ? "" : "s"));
    uint64_t wanted;
    if (__builtin_mul_overflow(p->sample_rate, (uint64_t)p->num_partitions, &wanted))
        wanted = UINT64_MAX;
    if (wanted > p->n_live)
        json_array_append_new(notes, json_sprintf("training uses all rows, %" PRIu64 "; %u partition%s at sample rate %" PRIu64
                                                  " would take %" PRIu64, p->n_live, p->num_partitions,
                                                  p->num_partitions == 1 ? "" : "s", p->sample_rate, wanted));
    if (p->sample_rows * p->column.dim * sizeof(float) > p->memory.sample_bytes)
        json_array_append_new(notes, json_string("the training sample is spilled to disk: it exceeds the memory budget"));
    if (p->memory.encode_threads < p->ctx->threads)
        json_array_append_new(notes, json_sprintf("the memory budget has room for %u encoding threads of %u",
                                                  p->memory.encode_threads, p->ctx->threads));
    return notes;
}

enum plm_code plm_plan_report(const struct plm_source *source, const struct plm_plan *p,
                              const struct plm_estimate *e, char **json, struct plm_err *err)
{
    json_t *index = index_json(p, p->num_partitions);
    if (index)
        json_object_set_new(index, "uuid", json_null()); /* none is taken by planning */
    json_t *root = json_pack("{s:o, s:{s:I, s:I, s:I, s:I}, s:o, s:I, s:I, s:o}", "plan",
                             estimate_json(source->ctx, e), "rows", "total", I(p->n_live + p->n_deleted), "live",
                             I(p->n_live), "deleted", I(p->n_deleted), "sample", I(p->sample_rows), "index", index,
                             "tasks", I(p->n_tasks), "fragments", I(source->n_fragments), "notes",
                             notes_json(p));
    return plm_json_string(root, json, err);
}
