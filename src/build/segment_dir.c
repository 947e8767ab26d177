#include "build/segment_dir.h"

enum plm_code plm_segment_final_dir(struct plm_job *job, size_t segment, char **out,
                                    struct plm_err *err)
{
    char uuid[37];
    plm_uuid_text(job->plan.segments[segment].uuid, uuid);
    return plm_format(job->ctx, out, err, "_indices/%s", uuid);
}

enum plm_code plm_segment_made_dir(struct plm_job *job, size_t segment, char **out,
                                   struct plm_err *err)
{
    char uuid[37];
    if (!plm_store_is_local(job->root))
        return plm_segment_final_dir(job, segment, out, err);
    plm_uuid_text(job->plan.segments[segment].uuid, uuid);
    return plm_format(job->ctx, out, err, "%s/%s", job->out_dir, uuid);
}

static enum plm_code holds_index(struct plm_job *job, const char *dir, struct plm_err *err)
{
    char *path = NULL;
    uint64_t size;
    enum plm_code rc = PLM_OK;
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/" PLM_AUX_FILE, dir));
    PLM_TRY(plm_store_size(job->root, path, &size, err));
done:
    plm_free(job->ctx, path);
    return rc;
}

enum plm_code plm_segment_current_dir(struct plm_job *job, size_t segment, char **out,
                                      struct plm_err *err)
{
    char *dir = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_segment_made_dir(job, segment, &dir, err));
    rc = holds_index(job, dir, err);
    if (rc == PLM_NOT_FOUND) {
        plm_free(job->ctx, dir);
        dir = NULL;
        PLM_TRY(plm_segment_final_dir(job, segment, &dir, err));
        rc = holds_index(job, dir, err);
    }
    if (rc == PLM_OK) {
        *out = dir;
        dir = NULL;
    }
done:
    plm_free(job->ctx, dir);
    return rc;
}
