/* job_dirs.c - where a job keeps its files, their lock and their end.
 *
 * A local table's job lives in <root>/_pilum/<job>/: plan.json, model pieces, runs, the lock and
 * the index files being assembled. With another work directory, pieces and runs go there and
 * only the lock and the assembled files stay with the table. A job shared by several processes
 * has everything in <root>/_pilum/<job>/, on S3 too.
 */
#include <stdlib.h>

#include "build/job_impl.h"
#include "build/table.h"

bool plm_job_is_remote(const struct plm_job *job)
{
    return !plm_store_is_local(job->root);
}

enum plm_code plm_job_open_root(struct plm_job *job, struct plm_err *err)
{
    char *below = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_open(job->ctx, job->table.uri, job->table.storage_options, &job->table_store,
                           err));
    PLM_TRY(plm_table_check_location(job->table_store, err));
    job->root = job->table_store;
    PLM_TRY(plm_manifest_open(job->table_store, job->table.branch, job->table.version,
                              &job->manifest, err));
    if (job->manifest.branch) {
        PLM_TRY(plm_format(job->ctx, &below, err, "tree/%s", job->manifest.branch));
        PLM_TRY(plm_store_open_at(job->table_store, below, &job->root, err));
    }
done:
    plm_free(job->ctx, below);
    return rc;
}

enum plm_code plm_job_open_work(struct plm_job *job, const struct plm_build_options *o,
                                struct plm_err *err)
{
    char *path = NULL;
    const char *temporary = getenv("TMPDIR");
    enum plm_code rc = PLM_OK;

    if (job->is_shared || (!o->work_dir && !plm_job_is_remote(job)))
        return plm_store_open_at(job->root, job->out_dir, &job->work, err);
    if (o->work_dir)
        PLM_TRY(plm_strdup(job->ctx, o->work_dir, &path, err));
    else
        PLM_TRY(plm_format(job->ctx, &path, err, "%s/pilum",
                           temporary && *temporary ? temporary : "/tmp"));
    PLM_TRY(plm_store_open(job->ctx, path, NULL, &job->work_parent, err));
    if (!plm_store_is_local(job->work_parent))
        rc = plm_fail(err, PLM_ARG, "the work directory must be on a local disk, not %s", o->work_dir);
    else
        rc = plm_store_open_at(job->work_parent, job->plan.id, &job->work, err);
    /* Of a build of a remote table, what goes to its storage counts. */
    if (rc == PLM_OK && plm_job_is_remote(job)) {
        plm_store_uncounted(job->work_parent);
        plm_store_uncounted(job->work);
    }
done:
    plm_free(job->ctx, path);
    return rc;
}

enum plm_code plm_job_lock(struct plm_job *job, struct plm_err *err)
{
    char *path = NULL;
    enum plm_code rc = PLM_OK;

    if (job->lock || (job->is_shared && plm_job_is_remote(job)))
        return PLM_OK;
    if (plm_job_is_remote(job))
        return plm_store_lock(job->work, "lock", &job->lock, err);
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/lock", job->out_dir));
    PLM_TRY(plm_store_lock(job->root, path, &job->lock, err));
done:
    plm_free(job->ctx, path);
    if (rc == PLM_CONFLICT)
        return plm_wrap(err, rc, "another process works on the same build");
    return rc;
}

enum plm_code plm_job_clear(struct plm_job *job, struct plm_err *err)
{
    struct plm_entries entries = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(job->work, "", 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++) {
        const struct plm_entry *left = &entries.items[i];
        if (strcmp(left->name, "lock") == 0 || strcmp(left->name, "plan.json") == 0)
            continue;
        if (left->is_dir)
            PLM_TRY(plm_store_delete_tree(job->work, left->name, err));
        else
            PLM_TRY(plm_store_delete(job->work, left->name, err));
    }
done:
    plm_entries_reset(&entries);
    return rc;
}

enum plm_code plm_job_remove(struct plm_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (job->copy)
        PLM_TRY(plm_store_delete_tree(job->copy_parent, job->copy_name, err));
    if (job->work_parent)
        PLM_TRY(plm_store_delete_tree(job->work_parent, job->plan.id, err));
    if (plm_job_is_remote(job) && job->is_shared)
        PLM_TRY(plm_store_delete_tree(job->root, job->out_dir, err));
    if (!plm_job_is_remote(job)) {
        PLM_TRY(plm_store_delete_tree(job->root, job->out_dir, err));
        PLM_TRY(plm_store_delete_empty(job->root, "_pilum", err)); /* other jobs may be in it */
    }
done:
    return rc;
}
