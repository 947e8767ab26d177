/* create.c - plm_create_index() and plm_plan_index(): the phases in order. */
#include <stdlib.h>
#include <sys/resource.h>

#include "build/plan_parts.h"
#include "build/report.h"
#include "simd/simd.h"

#define REPORT_BYTES_MAX ((size_t)256 << 20)

static double cpu_seconds(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* What the process used since *from, which becomes now. */
static double cpu_since(double *from)
{
    double now = cpu_seconds(), used = now - *from;

    *from = now;
    return used;
}

/* The report is kept before the commit, so that a build killed between the commit and its end
 * still has one. */
static enum plm_code keep_report(struct plm_job *job, struct plm_err *err)
{
    char *json = NULL;
    enum plm_code rc = PLM_OK;
    PLM_TRY(plm_job_report(job, &json, err));
    PLM_TRY(plm_store_put(job->work, "report.json", json, strlen(json), err));
done:
    plm_string_free(json);
    return rc;
}

/* The report of a job whose commit is in but whose process did not come to its end. */
enum plm_code plm_job_finish_committed(struct plm_job *job, char **report, struct plm_err *err)
{
    struct plm_buf kept;
    json_error_t where;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&kept, job->ctx, REPORT_BYTES_MAX);
    PLM_TRY(plm_store_get(job->work, "report.json", &kept, err));
    json_t *root = json_loadb((const char *)kept.data, kept.len, 0, &where);
    if (!root)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%s/report.json: not JSON at byte %d: %s; version %" PRIu64
                         " of the table has the index", plm_store_uri(job->work), where.position, where.text,
                         job->version_committed));
    json_object_set_new(root, "version_committed", json_integer((json_int_t)job->version_committed));
    json_object_set_new(root, "resumed", json_true());
    PLM_TRY(plm_json_string(root, report, err));
    rc = plm_job_remove(job, err);
done:
    plm_buf_reset(&kept);
    return rc;
}

/* A commit was refused: what others committed in between may stay in the way for ever. */
static bool is_hopeless(struct plm_job *job)
{
    struct plm_commit_request request;
    enum plm_commit_outcome outcome;
    struct plm_buf details;
    uint64_t version;

    plm_buf_init(&details, job->ctx, 4096);
    enum plm_code rc = plm_job_commit_request(job, &details, &request, NULL);
    if (rc == PLM_OK)
        rc = plm_commit_check(job->table_store, job->table.branch, &request, &outcome, &version, NULL);
    plm_buf_reset(&details);
    return rc == PLM_CONFLICT;
}

enum plm_code plm_job_finish(struct plm_job *job, char **report, struct plm_err *err)
{
    double at = cpu_seconds();
    enum plm_code rc = PLM_OK;

    PLM_TRY(keep_report(job, err));
    rc = plm_build_commit(job, err);
    if (rc == PLM_CONFLICT && is_hopeless(job) && plm_job_remove(job, NULL) != PLM_OK)
        plm_warn(job->ctx, "the job's files are of no use any more and could not be removed; `pilum gc` will");
    PLM_TRY(rc);
    job->cpu.commit = cpu_since(&at);
    PLM_TRY(plm_job_report(job, report, err));
    rc = plm_job_remove(job, err);
    if (rc != PLM_OK) { /* the index is in: what is left over is for gc */
        plm_warn(job->ctx, "the job's files could not be removed; `pilum gc` will");
        rc = PLM_OK;
    }
done:
    return rc;
}

/* ---- a commit that somebody else makes ------------------------------------------------ */

static json_t *hex_json(const uint8_t *bytes, size_t n)
{
    char text[2 * 4096 + 1] = "";
    for (size_t i = 0; i < n && 2 * i + 2 < sizeof text; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return json_string(text);
}

static json_t *segment_json(const struct plm_new_segment *s)
{
    json_t *fragments = json_array();
    for (size_t i = 0; i < s->n_fragments; i++)
        json_array_append_new(fragments, json_integer(s->fragments[i]));
    return json_pack("{s:o, s:o, s:I, s:I}", "uuid", hex_json(s->uuid, 16), "fragments", fragments,
                     "auxiliary_bytes", (json_int_t)s->auxiliary_bytes, "index_bytes",
                     (json_int_t)s->index_bytes);
}

static enum plm_code request_json(const struct plm_commit_request *r, bool resumed, char **out,
                                  struct plm_err *err)
{
    json_t *segments = json_array();
    for (size_t i = 0; i < r->n_segments; i++)
        json_array_append_new(segments, segment_json(&r->segments[i]));
    json_t *root = json_pack("{s:b, s:{s:o, s:s, s:i, s:I, s:I, s:o, s:b, s:o}}", "resumed", (int)resumed,
                             "transaction", "uuid",
                             hex_json(r->transaction_uuid, 16), "name", r->index_name, "field",
                             (int)r->field_id, "read_version", (json_int_t)r->read_version,
                             "created_at_ms", (json_int_t)r->created_at_ms, "details",
                             hex_json(r->details.data, r->details.len), "replace", (int)r->replace,
                             "segments", segments);
    return plm_json_string(root, out, err);
}

enum plm_code plm_job_publish(struct plm_job *job, char **json, struct plm_err *err)
{
    struct plm_commit_request request;
    struct plm_buf details;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&details, job->ctx, 4096);
    PLM_TRY(keep_report(job, err));
    PLM_TRY(plm_job_commit_request(job, &details, &request, err));
    PLM_TRY(plm_build_place(job, err));
    PLM_TRY(request_json(&request, job->resumed, json, err));
done:
    plm_buf_reset(&details);
    return rc;
}

/* The same command would fail the same way, or has done nothing yet: there is nothing to carry on. */
static void drop_job(struct plm_job *job)
{
    if (plm_job_remove(job, NULL) != PLM_OK)
        plm_warn(job->ctx, "the job's files are of no use and could not be removed; `pilum gc` will");
}

static enum plm_code run_phases(struct plm_job *job, const struct plm_build_options *options,
                                char **report, struct plm_err *err)
{
    double at = cpu_seconds();
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_build_train(job, options, err));
    job->cpu.train = cpu_since(&at);
    PLM_TRY(plm_build_encode(job, err));
    job->cpu.encode = cpu_since(&at);
    PLM_TRY(plm_build_merge(job, err));
    job->cpu.merge = cpu_since(&at);
    PLM_TRY(plm_build_verify(job, options->verify, err));
    job->cpu.verify = cpu_since(&at);
    PLM_TRY(options->leave_commit ? plm_job_publish(job, report, err) : plm_job_finish(job, report, err));
done:
    if (rc == PLM_DATA || rc == PLM_ARG)
        drop_job(job);
    return rc;
}

enum plm_code plm_create_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
                               const struct plm_build_options *options, char **report_json,
                               struct plm_err *err)
{
    const struct plm_kernels *kernels = ctx->kernels;
    struct plm_job job = {0};
    char *report = NULL;
    bool committed = false;
    double began = plm_now_seconds(), cpu = cpu_seconds();
    enum plm_code rc = PLM_OK;

    plm_progress_begin(ctx, "plan", 0, "fragments");
    PLM_TRY(plm_job_open(ctx, table, options, &job, &committed, err));
    job.seconds.plan = plm_now_seconds() - began;
    job.cpu.plan = cpu_since(&cpu);
    plm_progress_add(ctx, job.source.n_fragments);
    plm_progress_end(ctx);
    if (!committed && !job.resumed) { /* else some of it is there already */
        rc = plm_plan_check_space(&job.plan, job.work, job.root, err);
        if (rc != PLM_OK)
            drop_job(&job);
        PLM_TRY(rc);
    }
    rc = committed ? plm_job_finish_committed(&job, &report, err) : run_phases(&job, options, &report, err);
    if (rc == PLM_OK && report_json) {
        *report_json = report;
        report = NULL;
    }
done:
    plm_string_free(report);
    plm_job_close(&job);
    ctx->kernels = kernels; /* a resumed job may have been begun with a lower table */
    return rc;
}

enum plm_code plm_plan_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
                             const struct plm_build_options *options, char **plan_json,
                             struct plm_err *err)
{
    struct plm_job job = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_job_preview(ctx, table, options, &job, err));
    PLM_TRY(plm_plan_report(&job.source, &job.plan, &job.estimate, plan_json, err));
done:
    plm_job_close(&job);
    return rc;
}

enum plm_code plm_version_json(struct plm_ctx *ctx, char **json, struct plm_err *err)
{
    json_t *root = json_pack("{s:s, s:s, s:i, s:I}", "pilum", PLM_VERSION, "kernels", ctx->kernels->name,
                             "threads", (int)ctx->threads, "memory_budget_bytes",
                             (json_int_t)ctx->memory_budget_bytes);
    return plm_json_string(root, json, err);
}
