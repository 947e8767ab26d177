/* job_carry.c - a build that an earlier process has begun is carried on, if it still can be. */
#include "build/job_impl.h"
#include "build/plan_parts.h"
#include "simd/simd.h"

/* plan.json of an earlier process; *found = false when there is none, or none that is usable. */
static enum plm_code load_pins(struct plm_job *job, struct plm_pins *pins, bool *found,
                               struct plm_err *err)
{
    struct plm_buf json;
    plm_buf_init(&json, job->ctx, PLM_PLAN_BYTES_MAX);
    enum plm_code rc = plm_store_get(job->work, "plan.json", &json, err);

    *found = rc == PLM_OK;
    if (rc == PLM_NOT_FOUND)
        rc = PLM_OK;
    PLM_TRY(rc);
    if (*found) {
        struct plm_err why = {0};
        rc = plm_pins_load(job->ctx, (struct plm_view){json.data, json.len}, job->plan.id, pins, &why);
        if (rc == PLM_CORRUPT) {
            plm_warn(job->ctx, "starting anew: %s", why.message);
            *found = false;
            rc = PLM_OK;
        } else if (rc != PLM_OK && err) {
            *err = why;
        }
    }
done:
    plm_buf_reset(&json);
    return rc;
}

enum plm_code plm_job_reopen_pinned(struct plm_job *job, const struct plm_pins *pins,
                                    struct plm_err *err)
{
    struct plm_manifest pinned = {0};
    enum plm_code rc = PLM_OK;

    if (job->manifest.version != pins->version) {
        PLM_TRY(plm_manifest_open(job->table_store, job->table.branch, pins->version, &pinned, err));
        plm_manifest_reset(&job->manifest);
        job->manifest = pinned;
    }
    if (job->manifest.xxh3 != pins->manifest_xxh3)
        rc = plm_fail(err, PLM_NOT_FOUND, "version %" PRIu64 " is not the one that was planned for",
                      pins->version);
done:
    return rc;
}

enum plm_code plm_job_adopt_pins(struct plm_job *job, const struct plm_build_options *o,
                                 const struct plm_pins *pins, struct plm_err *err)
{
    struct plm_plan *p = &job->plan;
    const struct plm_kernels *kernels = plm_kernels_for(pins->kernels);
    enum plm_code rc = PLM_OK;

    if (!kernels)
        return plm_fail(err, PLM_NOT_FOUND, "it was begun with %s kernels, which this processor lacks",
                        pins->kernels);
    job->ctx->kernels = kernels;
    PLM_TRY(plm_job_make_plan(job, o, err));
    if (p->n_segments != pins->n_uuids)
        return plm_fail(err, PLM_NOT_FOUND, "it has %zu segments, not %zu", pins->n_uuids,
                        p->n_segments);
    memcpy(p->transaction_uuid, pins->transaction_uuid, 16);
    p->created_at_ms = pins->created_at_ms;
    for (size_t i = 0; i < p->n_segments; i++)
        memcpy(p->segments[i].uuid, pins->uuids[i], 16);
    if (p->memory.task_rows != pins->task_rows) {
        p->memory.task_rows = pins->task_rows;
        PLM_TRY(plm_plan_tasks(p, err));
    }
done:
    return rc;
}

enum plm_code plm_job_carry_on(struct plm_job *job, const struct plm_build_options *o,
                               enum plm_carry *carry, struct plm_err *err)
{
    struct plm_pins pins = {0};
    struct plm_err why = {0};
    struct plm_buf details;
    bool found = false;
    enum plm_code rc = PLM_OK;

    *carry = PLM_CARRY_NOTHING;
    plm_buf_init(&details, job->ctx, 4096);
    PLM_TRY(load_pins(job, &pins, &found, err));
    if (!found)
        goto done;
    rc = plm_job_reopen_pinned(job, &pins, &why);
    if (rc == PLM_OK)
        rc = plm_job_adopt_pins(job, o, &pins, &why);
    if (rc == PLM_OK) {
        struct plm_commit_request request;
        enum plm_commit_outcome outcome = PLM_COMMIT_FREE;
        rc = plm_job_commit_request(job, &details, &request, &why);
        if (rc == PLM_OK)
            rc = plm_commit_check(job->table_store, job->table.branch, &request, &outcome,
                                  &job->version_committed, &why);
        if (rc == PLM_OK)
            *carry = outcome == PLM_COMMIT_DONE_BEFORE ? PLM_CARRY_COMMITTED : PLM_CARRY_ON;
    }
    if (rc == PLM_CONFLICT || rc == PLM_NOT_FOUND) {
        plm_warn(job->ctx, "the unfinished build cannot be carried on and starts anew: %s", why.message);
        plm_source_close(&job->source);
        plm_manifest_reset(&job->manifest);
        plm_free(job->ctx, job->made);
        job->made = NULL;
        rc = plm_manifest_open(job->table_store, job->table.branch, job->table.version, &job->manifest,
                               err);
    } else if (rc != PLM_OK && err) {
        *err = why;
    }
done:
    plm_buf_reset(&details);
    plm_pins_reset(&pins);
    return rc;
}
