/* finish.c - the commit phase: files into their place, then one new version of the table. */
#include "build/segment_dir.h"

static enum plm_code place_segment(struct plm_job *job, size_t i, struct plm_err *err)
{
    struct plm_new_segment *made = &job->made[i];
    char *made_dir = NULL, *final_dir = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_segment_merged_dir(job, i, &made_dir, err));
    PLM_TRY(plm_segment_final_dir(job, i, &final_dir, err));
    if (strcmp(made_dir, final_dir) != 0)
        PLM_TRY(plm_store_rename(job->root, made_dir, final_dir, err));
    made->auxiliary_bytes = job->sizes[i].auxiliary;
    made->index_bytes = job->sizes[i].index;
done:
    plm_free(job->ctx, made_dir);
    plm_free(job->ctx, final_dir);
    return rc;
}

/* Back to the job directory: after a refused commit nothing that no version names may stay. */
static void take_back(struct plm_job *job)
{
    for (size_t i = 0; plm_store_is_local(job->root) && i < job->plan.n_segments; i++) {
        char *made = NULL, *final = NULL;
        if (plm_segment_made_dir(job, i, &made, NULL) == PLM_OK &&
            plm_segment_final_dir(job, i, &final, NULL) == PLM_OK &&
            plm_store_rename(job->root, final, made, NULL) != PLM_OK)
            plm_warn(job->ctx, "%s could not be moved back and is left for cleanup_old_versions", final);
        plm_free(job->ctx, made);
        plm_free(job->ctx, final);
    }
}

static bool is_covered(const struct plm_plan *p, uint64_t fragment)
{
    for (size_t s = 0; s < p->n_segments; s++)
        for (size_t i = 0; i < p->segments[s].n_fragments; i++)
            if (p->segments[s].fragments[i] == fragment)
                return true;
    return false;
}

/* Rows that came while the index was built; the index does not hold them. */
static enum plm_code count_appended(struct plm_job *job, struct plm_err *err)
{
    struct plm_manifest now = {0};
    enum plm_code rc = PLM_OK;

    job->rows_appended = 0;
    if (job->version_committed <= job->plan.version + 1 || job->plan.has_fragments)
        return PLM_OK;
    PLM_TRY(plm_manifest_open(job->table_store, job->table.branch, job->version_committed, &now, err));
    for (size_t i = 0; i < now.n_fragments; i++)
        if (!is_covered(&job->plan, now.fragments[i].id))
            job->rows_appended += now.fragments[i].n_physical_rows - now.fragments[i].deletion.n_deleted;
done:
    if (now.ctx)
        plm_manifest_reset(&now);
    return rc;
}

enum plm_code plm_build_place(struct plm_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    for (size_t i = 0; i < job->plan.n_segments; i++)
        PLM_TRY(place_segment(job, i, err));
done:
    return rc;
}

enum plm_code plm_build_commit(struct plm_job *job, struct plm_err *err)
{
    double began = plm_now_seconds();
    struct plm_commit_request request;
    struct plm_buf details;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&details, job->ctx, 4096);
    plm_progress_begin(job->ctx, "commit", 1, "versions");
    PLM_TRY(plm_job_commit_request(job, &details, &request, err));
    PLM_TRY(plm_build_place(job, err));
    rc = plm_commit_index(job->table_store, job->table.branch, &request, &job->version_committed, err);
    if (rc != PLM_OK && rc != PLM_RETRY) /* RETRY: it may be in after all */
        take_back(job);
    PLM_TRY(rc);
    PLM_TRY(count_appended(job, err));
    plm_progress_end(job->ctx);
done:
    plm_buf_reset(&details);
    job->seconds.commit = plm_now_seconds() - began;
    return rc;
}
