/* dist.c - handles of a shared build, its table of calls, its facts and its end. */
#include "build/dist.h"

#include <stdlib.h>
#include <sys/resource.h>

#include "build/dist_parts.h"
#include "build/model_file.h"
#include "build/pins.h"
#include "build/report.h"
#include "simd/simd.h"

/* ---- messages ------------------------------------------------------------------------- */

enum plm_code plm_reader_open(struct plm_view view, const char magic[8], const char *what,
                              struct plm_reader *out, struct plm_err *err)
{
    if (view.len < 8 || memcmp(view.data, magic, 8) != 0)
        return plm_fail(err, PLM_CORRUPT, "message: %zu bytes, expected %s", view.len, what);
    *out = (struct plm_reader){view, 8, what};
    return PLM_OK;
}

enum plm_code plm_reader_take(struct plm_reader *r, size_t n, size_t each, const uint8_t **out,
                              struct plm_err *err)
{
    size_t bytes;
    if (!plm_size_mul(n, each, &bytes) || bytes > r->view.len - r->at)
        return plm_fail(err, PLM_CORRUPT, "message: %s: %zu x %zu bytes at offset %zu, %zu are left", r->what,
                        n, each, r->at, r->view.len - r->at);
    *out = r->view.data + r->at;
    r->at += bytes;
    return PLM_OK;
}

enum plm_code plm_reader_copy(struct plm_reader *r, void *out, size_t n, struct plm_err *err)
{
    const uint8_t *from = NULL;
    enum plm_code rc = plm_reader_take(r, n, 1, &from, err);
    if (rc == PLM_OK && n)
        memcpy(out, from, n);
    return rc;
}

enum plm_code plm_reader_end(const struct plm_reader *r, struct plm_err *err)
{
    if (r->at != r->view.len)
        return plm_fail(err, PLM_CORRUPT, "message: %s: %zu bytes too many", r->what, r->view.len - r->at);
    return PLM_OK;
}

enum plm_code plm_put_u64(struct plm_buf *buf, uint64_t value, struct plm_err *err)
{
    return plm_buf_add(buf, &value, sizeof value, err);
}

enum plm_code plm_dist_check_segment(const struct plm_dist *d, uint64_t segment, struct plm_err *err)
{
    if (segment >= d->job.plan.n_segments)
        return plm_fail(err, PLM_ARG, "segment %" PRIu64 " of %zu", segment, d->job.plan.n_segments);
    return PLM_OK;
}

/* ---- handles --------------------------------------------------------------------------- */

static enum plm_code make(struct plm_ctx *ctx, const struct plm_build_options *options,
                          struct plm_dist **out, struct plm_err *err)
{
    struct plm_dist *d = NULL;
    enum plm_code rc = plm_calloc(ctx, &d, 1, sizeof *d, err);
    if (rc != PLM_OK)
        return rc;
    d->ctx = ctx;
    d->options = options;
    d->kernels = ctx->kernels;
    *out = d;
    return PLM_OK;
}

/* A model that an earlier driver finished. */
static enum plm_code find_model(struct plm_dist *d, struct plm_err *err)
{
    struct plm_err why = {0};
    enum plm_code rc = plm_model_load(&d->job, &why);

    d->has_model = rc == PLM_OK;
    if (rc == PLM_CORRUPT)
        plm_warn(d->ctx, "training anew: %s", why.message);
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT)
        return PLM_OK;
    if (rc != PLM_OK && err)
        *err = why;
    return rc;
}

enum plm_code plm_dist_open(struct plm_ctx *ctx, const struct plm_table_ref *table,
                            const struct plm_build_options *options, uint32_t n_workers,
                            struct plm_dist **out, bool *done, struct plm_err *err)
{
    struct plm_dist *d = NULL;
    bool committed = false;
    double began = plm_now_seconds();
    enum plm_code rc = PLM_OK;

    PLM_TRY(make(ctx, options, &d, err));
    plm_progress_begin(ctx, "plan", 0, "fragments");
    PLM_TRY(plm_job_open_shared(ctx, table, options, n_workers, &d->job, &committed, err));
    if (!committed)
        PLM_TRY(find_model(d, err));
    if (!committed) {
        PLM_TRY(plm_calloc(ctx, &d->job.lengths, d->job.plan.n_segments, sizeof *d->job.lengths, err));
        PLM_TRY(plm_calloc(ctx, &d->encoded, d->job.plan.n_tasks, 1, err));
    }
    d->job.seconds.plan = plm_now_seconds() - began;
    plm_progress_add(ctx, d->job.source.n_fragments);
    plm_progress_end(ctx);
    *done = committed;
    *out = d;
    d = NULL;
done:
    plm_dist_close(d);
    return rc;
}

enum plm_code plm_dist_join(struct plm_ctx *ctx, const struct plm_table_ref *table,
                            const struct plm_build_options *options, uint32_t n_workers,
                            struct plm_view plan_json, const char *spill_dir, struct plm_dist **out,
                            struct plm_err *err)
{
    struct plm_dist *d = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(make(ctx, options, &d, err));
    PLM_TRY(plm_job_join(ctx, table, options, n_workers, plan_json, &d->job, err));
    PLM_TRY(plm_store_open(ctx, spill_dir, NULL, &d->spill, err));
    if (!plm_store_is_local(d->spill))
        PLM_TRY(plm_fail(err, PLM_ARG, "the spill directory must be on a local disk, not %s", spill_dir));
    *out = d;
    d = NULL;
done:
    plm_dist_close(d);
    return rc;
}

void plm_dist_close(struct plm_dist *d)
{
    if (!d)
        return;
    struct plm_ctx *ctx = d->ctx;
    plm_dist_work_reset(d);
    plm_dist_segments_reset(d);
    plm_dist_drop_shards(d);
    plm_dist_sampling_reset(d);
    plm_free(ctx, d->codebook);
    plm_free(ctx, d->pq_error);
    plm_free(ctx, d->pq_done);
    plm_free(ctx, d->encoded);
    plm_free(ctx, d->checks);
    plm_free(ctx, d->checked);
    plm_store_close(d->spill);
    plm_job_close(&d->job);
    ctx->kernels = d->kernels; /* joining took those of the plan */
    plm_free(ctx, d);
}

/* ---- plan and facts ------------------------------------------------------------------------ */

static enum plm_code call_plan(struct plm_dist *d, const struct plm_dist_args *args,
                               struct plm_buf *answer, struct plm_err *err)
{
    (void)args; /* what lies there: another driver on S3 may have been first */
    return plm_store_get(d->job.work, "plan.json", answer, err);
}

static json_t *tasks_json(const struct plm_plan *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_tasks; i++)
        json_array_append_new(list, json_integer((json_int_t)p->tasks[i].n));
    return list;
}

static json_t *segments_json(const struct plm_plan *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_segments; i++)
        json_array_append_new(list, json_pack("{s:I, s:I, s:I}", "rows", (json_int_t)p->segments[i].n_rows,
                                              "first_task", (json_int_t)p->segments[i].first_task,
                                              "n_tasks", (json_int_t)p->segments[i].n_tasks));
    return list;
}

static enum plm_code add_json(struct plm_buf *answer, json_t *root, struct plm_err *err)
{
    char *text = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_json_string(root, &text, err));
    PLM_TRY(plm_buf_add(answer, text, strlen(text), err));
done:
    plm_string_free(text);
    return rc;
}

/* What an engine needs to know to share out the work. */
static enum plm_code call_facts(struct plm_dist *d, const struct plm_dist_args *args,
                                struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_plan *p = &d->job.plan;
    const struct plm_build_options *o = d->options;
    json_t *root = json_pack(
        "{s:s, s:b, s:b, s:I, s:s, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:s, s:s}", "job", p->id,
        "resumed", (int)d->job.resumed, "trained", (int)d->has_model, "version", (json_int_t)p->version,
        "kernels", p->kernels, "rows", (json_int_t)p->n_live, "tasks", tasks_json(p), "segments",
        segments_json(p), "partitions", (json_int_t)p->num_partitions, "sub_vectors",
        (json_int_t)p->num_sub_vectors, "dimension", (json_int_t)p->column.dim, "sample_rows",
        (json_int_t)p->sample_rows, "given_centroids", o->ivf_centroids.data != NULL, "given_codebook",
        o->pq_codebook.data != NULL, "smallest_bytes", (json_int_t)p->memory.smallest_bytes, "index",
        p->index_name, "work", plm_store_uri(d->job.work));
    (void)args;
    return add_json(answer, root, err);
}

/* ---- accounts and the end -------------------------------------------------------------------- */

static enum plm_code call_seconds(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err)
{
    struct plm_seconds *s = &d->job.seconds;
    double *const phases[] = {&s->plan, &s->train, &s->encode, &s->merge, &s->verify};
    (void)answer;

    if (args->numbers[0] >= sizeof phases / sizeof *phases)
        return plm_fail(err, PLM_ARG, "phase %" PRIu64 ", expected 0..4", args->numbers[0]);
    *phases[args->numbers[0]] = (double)args->numbers[1] * 1e-6;
    return PLM_OK;
}

static enum plm_code call_account(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err)
{
    struct plm_ctx *c = d->ctx;
    atomic_uint_fast64_t *const counters[] = {&c->bytes_read, &c->bytes_written, &c->n_get,
                                              &c->n_put,      &c->n_list,        &c->n_delete,
                                              &c->n_retried};
    (void)answer, (void)err;
    for (size_t i = 0; i < 7; i++)
        atomic_fetch_add(counters[i], args->numbers[i]);
    return PLM_OK;
}

static uint64_t micros(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec;
}

static enum plm_code call_usage(struct plm_dist *d, const struct plm_dist_args *args,
                                struct plm_buf *answer, struct plm_err *err)
{
    struct plm_ctx *c = d->ctx;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uint64_t all[] = {c->bytes_read, c->bytes_written, c->n_get,
                      c->n_put,      c->n_list,        c->n_delete,
                      c->n_retried,  (uint64_t)usage.ru_maxrss * 1024,
                      micros(&usage.ru_utime) + micros(&usage.ru_stime)};
    (void)args;
    return plm_buf_add(answer, all, sizeof all, err);
}

static enum plm_code add_report(struct plm_dist *d, bool committed, struct plm_buf *answer,
                                struct plm_err *err)
{
    char *report = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(committed ? plm_job_finish_committed(&d->job, &report, err)
                      : plm_job_finish(&d->job, &report, err));
    PLM_TRY(plm_buf_add(answer, report, strlen(report), err));
done:
    plm_string_free(report);
    return rc;
}

static enum plm_code call_finish(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    (void)args;
    return add_report(d, false, answer, err);
}

static enum plm_code call_publish(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err)
{
    char *json = NULL;
    enum plm_code rc = PLM_OK;

    (void)args;
    PLM_TRY(plm_job_publish(&d->job, &json, err));
    PLM_TRY(plm_buf_add(answer, json, strlen(json), err));
done:
    plm_string_free(json);
    return rc;
}

static enum plm_code call_finish_committed(struct plm_dist *d, const struct plm_dist_args *args,
                                           struct plm_buf *answer, struct plm_err *err)
{
    (void)args;
    return add_report(d, true, answer, err);
}

/* ---- the table ------------------------------------------------------------------------------------ */

static const struct plm_dist_entry own_calls[] = {
    {"plan", call_plan, 0, 0},
    {"facts", call_facts, 0, 0},
    {"seconds", call_seconds, 2, 0},
    {"account", call_account, 7, 0},
    {"usage", call_usage, 0, 0},
    {"finish", call_finish, 0, 0},
    {"publish", call_publish, 0, 0},
    {"finish_committed", call_finish_committed, 0, 0},
    {NULL, NULL, 0, 0},
};

static const struct plm_dist_entry *find_call(const char *name)
{
    const struct plm_dist_entry *const tables[] = {
        own_calls,           plm_dist_sample_calls, plm_dist_train_calls, plm_dist_codebook_calls,
        plm_dist_probes_calls, plm_dist_work_calls, plm_dist_verify_calls};
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct plm_dist_entry *e = tables[t]; e->name; e++)
            if (strcmp(e->name, name) == 0)
                return e;
    return NULL;
}

enum plm_code plm_dist_call(struct plm_dist *d, const char *name, const struct plm_dist_args *args,
                            struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_dist_entry *e = find_call(name);
    size_t before = answer->len;

    if (!e)
        return plm_fail(err, PLM_ARG, "\"%.40s\" is no call of a shared build", name);
    if ((e->n_numbers != PLM_ANY && args->n_numbers != e->n_numbers) ||
        (e->n_messages != PLM_ANY && args->n_messages != e->n_messages))
        return plm_fail(err, PLM_ARG, "%s: %zu numbers and %zu messages", name, args->n_numbers,
                        args->n_messages);
    enum plm_code rc = e->fn(d, args, answer, err);
    if (rc != PLM_OK)
        answer->len = before;
    return rc;
}
