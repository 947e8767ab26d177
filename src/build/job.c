/* job.c - the life of a job: planned, opened or joined, closed. */
#include "build/job_impl.h"
#include "build/plan_parts.h"

/* Reading manifests and planning may take this much even under a smaller budget, so that the
 * refusal can name the budget that would do. */

/* ---- planning -------------------------------------------------------------------------- */

/* Its folder is opened by way of the one above, so that it can be removed. */
static enum plm_code open_copy(struct plm_job *job, const char *path, struct plm_err *err)
{
    const char *slash = strrchr(path, '/');
    char *parent = NULL;
    enum plm_code rc = PLM_OK;

    if (!slash || slash == path || !slash[1])
        return plm_fail(err, PLM_ARG, "column_copy is \"%s\", expected <folder>/<name>", path);
    PLM_TRY(plm_format(job->ctx, &parent, err, "%.*s", (int)(slash - path), path));
    PLM_TRY(plm_strdup(job->ctx, slash + 1, &job->copy_name, err));
    PLM_TRY(plm_store_open(job->ctx, parent, job->table.storage_options, &job->copy_parent, err));
    PLM_TRY(plm_store_open_at(job->copy_parent, job->copy_name, &job->copy, err));
done:
    plm_free(job->ctx, parent);
    return rc;
}

static enum plm_code open_source(struct plm_job *job, const char *column_copy, struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    struct plm_column column;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_manifest_find_column(&job->manifest, p->column_path, &column, err));
    if (column_copy && *column_copy && !job->copy)
        PLM_TRY(open_copy(job, column_copy, err));
    if (column_copy)
        PLM_TRY(plm_source_open_copy(&job->manifest, &column, p->fragments, p->n_fragments, job->copy,
                                     &job->source, err));
    else
        PLM_TRY(plm_source_open(&job->manifest, &column, p->fragments, p->n_fragments,
                                &job->source, err));
done:
    return rc;
}

enum plm_code plm_job_make_plan(struct plm_job *job, const struct plm_build_options *o,
                                struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    enum plm_code rc = PLM_OK;

    PLM_TRY(open_source(job, o->column_copy, err));
    PLM_TRY(plm_plan_make(&job->source, o, &job->plan, err));
    /* What a remote store fetches ahead gets the room that the plan leaves. */
    plm_store_keep(job->table_store, plm_plan_keep_bytes(p));
done:
    return rc;
}

static enum plm_code save_plan(struct plm_job *job, struct plm_err *err)
{
    struct plm_buf json;
    enum plm_code rc = PLM_OK;
    plm_buf_init(&json, job->ctx, PLM_PLAN_BYTES_MAX);
    PLM_TRY(plm_pins_save(&job->plan, &json, err));
    if (job->is_shared && plm_job_is_remote(job)) /* the lock of a store that has none */
        PLM_TRY(plm_store_put_if_absent(job->work, "plan.json", json.data, json.len, err));
    else
        PLM_TRY(plm_store_put(job->work, "plan.json", json.data, json.len, err));
done:
    plm_buf_reset(&json);
    return rc;
}

/* ---- opening and closing ----------------------------------------------------------------------- */

/* What plan.json of an earlier process holds: 0 when there is none. */
static enum plm_code look_for_plan(struct plm_job *job, uint64_t *xxh3, struct plm_err *err)
{
    struct plm_buf json;
    plm_buf_init(&json, job->ctx, PLM_PLAN_BYTES_MAX);
    enum plm_code rc = plm_store_get(job->work, "plan.json", &json, err);

    *xxh3 = rc == PLM_OK ? plm_max_u64(plm_xxh3(json.data, json.len), 1) : rc == PLM_LIMIT;
    plm_buf_reset(&json);
    return rc == PLM_NOT_FOUND || rc == PLM_LIMIT ? PLM_OK : rc;
}

static enum plm_code identify(struct plm_job *job, const struct plm_build_options *o,
                              struct plm_err *err)
{
    char *salt = NULL;
    enum plm_code rc = PLM_OK;
    bool elsewhere = !job->is_shared && (o->work_dir || plm_job_is_remote(job));

    PLM_TRY(plm_format(job->ctx, &salt, err, "%s|%s", job->manifest.branch ? job->manifest.branch : "",
                       elsewhere ? plm_store_uri(job->root) : ""));
    PLM_TRY(plm_plan_identify(job->ctx, o, salt, &job->plan, err));
    PLM_TRY(plm_format(job->ctx, &job->out_dir, err, "_pilum/%s", job->plan.id));
    PLM_TRY(plm_job_open_work(job, o, err));
done:
    plm_free(job->ctx, salt);
    return rc;
}

static enum plm_code remove_if_empty(struct plm_job *job, const char *dir, size_t n_kept)
{
    struct plm_entries entries = {0};
    enum plm_code rc = plm_store_list(job->root, dir, n_kept + 1, &entries, NULL);

    if (rc == PLM_OK && entries.n <= n_kept)
        rc = plm_store_delete_tree(job->root, dir, NULL);
    plm_entries_reset(&entries);
    return rc;
}

/* A job that could not be begun (a work directory that cannot be made) leaves no directory with a mere lock. */
static void forget_job(struct plm_job *job)
{
    if (job->lock && !plm_job_is_remote(job) && remove_if_empty(job, job->out_dir, 1) == PLM_OK &&
        remove_if_empty(job, "_pilum", 0) != PLM_OK)
        plm_warn(job->ctx, "%s/_pilum could not be removed", plm_store_uri(job->root));
}

/* Nobody holds the lock of a shared job on a remote store: whoever writes plan.json first has it. Only
 * the plan that was found to be of no use (0: none was found) is removed, not one written since then. */
static enum plm_code take_over(struct plm_job *job, uint64_t useless, struct plm_err *err)
{
    uint64_t now;
    enum plm_code rc = PLM_OK;

    if (!job->is_shared || !plm_job_is_remote(job))
        return PLM_OK;
    PLM_TRY(look_for_plan(job, &now, err));
    if (now && now != useless)
        return plm_fail(err, PLM_CONFLICT, "another process has begun the same build");
    if (now)
        rc = plm_store_delete(job->work, "plan.json", err);
done:
    return rc;
}

/* plan.json of a job begun here and now; *carry changes when another process was first. */
static enum plm_code begin_plan(struct plm_job *job, const struct plm_build_options *o,
                                uint64_t useless, enum plm_carry *carry, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_job_make_plan(job, o, err));
    PLM_TRY(plm_job_lock(job, err));
    rc = take_over(job, useless, err);
    if (rc == PLM_OK)
        PLM_TRY(plm_job_clear(job, err));
    if (rc == PLM_OK)
        rc = save_plan(job, err);
    if (rc == PLM_CONFLICT || rc == PLM_RETRY) { /* RETRY: it may be ours after all */
        plm_source_close(&job->source);
        rc = plm_job_carry_on(job, o, carry, err);
        if (rc == PLM_OK && *carry == PLM_CARRY_NOTHING)
            rc = plm_fail(err, PLM_CONFLICT, "another process works on the same build");
    }
done:
    if (rc != PLM_OK)
        forget_job(job);
    return rc;
}

static void estimate(struct plm_job *job, const struct plm_build_options *o)
{
    struct plm_rates rates;

    plm_calibrate(&job->source, &job->plan, job->root, &rates);
    plm_plan_estimate(&job->source, &job->plan, &rates, o->verify, plm_now_seconds() - job->began,
                      &job->estimate);
}

static enum plm_code open_job(struct plm_job *job, const struct plm_build_options *o, bool *done,
                              struct plm_err *err)
{
    uint64_t found = 0;
    enum plm_carry carry = PLM_CARRY_NOTHING;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_options_check(o, &job->plan, err)); /* wrong whatever the table holds */
    if (o->column_copy && !*o->column_copy)
        PLM_TRY(plm_fail(err, PLM_ARG, "column_copy is empty, expected a folder"));
    PLM_TRY(plm_job_open_root(job, err));
    PLM_TRY(identify(job, o, err));
    PLM_TRY(look_for_plan(job, &found, err));
    if (found) {
        PLM_TRY(plm_job_lock(job, err));
        if (!o->restart)
            PLM_TRY(plm_job_carry_on(job, o, &carry, err));
    }
    if (carry == PLM_CARRY_NOTHING)
        PLM_TRY(begin_plan(job, o, found, &carry, err));
    if (carry == PLM_CARRY_NOTHING && job->plan.asked_partitions > job->plan.num_partitions)
        plm_warn(job->ctx, PLM_FEWER_PARTITIONS, job->plan.num_partitions, job->plan.num_partitions == 1 ? "" : "s",
                 job->plan.asked_partitions, job->plan.n_live, job->plan.n_live == 1 ? "" : "s");
    job->resumed = carry != PLM_CARRY_NOTHING;
    *done = carry == PLM_CARRY_COMMITTED;
    estimate(job, o);
done:
    return rc;
}

static enum plm_code preview_job(struct plm_job *job, const struct plm_build_options *o,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    PLM_TRY(plm_options_check(o, &job->plan, err));
    PLM_TRY(plm_job_open_root(job, err));
    PLM_TRY(identify(job, o, err));
    PLM_TRY(plm_job_make_plan(job, o, err));
    estimate(job, o);
done:
    return rc;
}

static void begin_job(struct plm_ctx *ctx, const struct plm_table_ref *table, struct plm_job *out)
{
    *out = (struct plm_job){.ctx = ctx, .table = *table, .began = plm_now_seconds()};
    out->plan.budget_bytes = ctx->memory_budget_bytes;
    ctx->memory_budget_bytes = plm_max_u64(ctx->memory_budget_bytes, PLM_OPENING_BYTES);
}

static enum plm_code end_opening(struct plm_job *job, uint64_t budget, enum plm_code rc)
{
    job->ctx->memory_budget_bytes = budget;
    if (rc != PLM_OK)
        plm_job_close(job);
    return rc;
}

enum plm_code plm_job_open(struct plm_ctx *ctx, const struct plm_table_ref *table,
                           const struct plm_build_options *o, struct plm_job *out, bool *done,
                           struct plm_err *err)
{
    uint64_t budget = ctx->memory_budget_bytes;
    begin_job(ctx, table, out);
    return end_opening(out, budget, open_job(out, o, done, err));
}

enum plm_code plm_job_open_shared(struct plm_ctx *ctx, const struct plm_table_ref *table,
                                  const struct plm_build_options *o, uint32_t n_workers,
                                  struct plm_job *out, bool *done, struct plm_err *err)
{
    uint64_t budget = ctx->memory_budget_bytes;
    begin_job(ctx, table, out);
    out->is_shared = true;
    out->plan.n_workers = n_workers;
    return end_opening(out, budget, open_job(out, o, done, err));
}

/* The driver's plan must be in the job's directory as this process sees it. */
static enum plm_code check_shared(struct plm_job *job, struct plm_view plan_json, struct plm_err *err)
{
    struct plm_buf here;
    plm_buf_init(&here, job->ctx, PLM_PLAN_BYTES_MAX);
    enum plm_code rc = plm_store_get(job->work, "plan.json", &here, err);

    if (rc == PLM_NOT_FOUND ||
        (rc == PLM_OK &&
         (here.len != plan_json.len || memcmp(here.data, plan_json.data, here.len) != 0)))
        rc = plm_fail(err, PLM_NOT_FOUND,
                      "%s: the files of the build are not visible here; a table on local disk needs "
                      "a file system that all nodes share",
                      plm_store_uri(job->work));
    plm_buf_reset(&here);
    return rc;
}

static enum plm_code join_job(struct plm_job *job, const struct plm_build_options *o,
                              struct plm_view plan_json, struct plm_err *err)
{
    struct plm_pins pins = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_options_check(o, &job->plan, err));
    PLM_TRY(plm_job_open_root(job, err));
    PLM_TRY(identify(job, o, err));
    PLM_TRY(plm_pins_load(job->ctx, plan_json, job->plan.id, &pins, err));
    PLM_TRY(check_shared(job, plan_json, err));
    PLM_TRY(plm_job_reopen_pinned(job, &pins, err));
    PLM_TRY(plm_job_adopt_pins(job, o, &pins, err));
done:
    plm_pins_reset(&pins);
    return rc;
}

enum plm_code plm_job_join(struct plm_ctx *ctx, const struct plm_table_ref *table,
                           const struct plm_build_options *o, uint32_t n_workers,
                           struct plm_view plan_json, struct plm_job *out, struct plm_err *err)
{
    uint64_t budget = ctx->memory_budget_bytes;
    begin_job(ctx, table, out);
    out->is_shared = true;
    out->plan.n_workers = n_workers;
    return end_opening(out, budget, join_job(out, o, plan_json, err));
}

enum plm_code plm_job_preview(struct plm_ctx *ctx, const struct plm_table_ref *table,
                              const struct plm_build_options *o, struct plm_job *out,
                              struct plm_err *err)
{
    uint64_t budget = ctx->memory_budget_bytes;
    begin_job(ctx, table, out);
    return end_opening(out, budget, preview_job(out, o, err));
}

void plm_job_close(struct plm_job *job)
{
    struct plm_ctx *ctx = job->ctx;
    if (!ctx)
        return;
    plm_job_findings_reset(job);
    for (size_t i = 0; job->lengths && i < job->plan.n_segments; i++)
        plm_free(ctx, job->lengths[i]);
    plm_free(ctx, job->lengths);
    plm_free(ctx, job->truth);
    plm_free(ctx, job->made);
    plm_free(ctx, job->sizes);
    plm_job_model_reset(job);
    plm_job_drop_sample(job);
    plm_source_close(&job->source);
    plm_plan_reset(&job->plan);
    plm_manifest_reset(&job->manifest);
    plm_store_unlock(job->lock);
    plm_store_close(job->work);
    plm_store_close(job->work_parent);
    plm_store_close(job->copy);
    plm_store_close(job->copy_parent);
    plm_free(ctx, job->copy_name);
    if (job->root != job->table_store)
        plm_store_close(job->root);
    plm_store_close(job->table_store);
    plm_free(ctx, job->out_dir);
    *job = (struct plm_job){0};
}

enum plm_code plm_job_commit_request(struct plm_job *job, struct plm_buf *details,
                                     struct plm_commit_request *out, struct plm_err *err)
{
    static const char letters[] = {[PLM_FLAT] = 'F', [PLM_SQ] = 'S', [PLM_PQ] = 'P'};
    const struct plm_plan *p = &job->plan;
    enum plm_code rc = PLM_OK;

    if (!job->made) {
        PLM_TRY(plm_calloc(job->ctx, &job->made, p->n_segments, sizeof *job->made, err));
        for (size_t i = 0; i < p->n_segments; i++) {
            memcpy(job->made[i].uuid, p->segments[i].uuid, 16);
            job->made[i].fragments = p->segments[i].fragments;
            job->made[i].n_fragments = p->segments[i].n_fragments;
        }
    }
    PLM_TRY(plm_index_details(letters[p->quantizer], plm_metric_name(p->metric), p->num_bits,
                              p->num_sub_vectors, p->max_iters, p->sample_rate, details, err));
    *out = (struct plm_commit_request){
        .index_name = p->index_name,
        .field_id = p->column.field_id,
        .read_version = p->version,
        .created_at_ms = p->created_at_ms,
        .segments = job->made,
        .n_segments = p->n_segments,
        .details = {details->data, details->len},
        .known = &job->manifest,
        .replace = p->replace,
    };
    memcpy(out->transaction_uuid, p->transaction_uuid, 16);
done:
    return rc;
}
