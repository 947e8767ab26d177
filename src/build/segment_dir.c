#include "build/segment_dir.h"
#include "store/writer.h"

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

/* ---- sizes --------------------------------------------------------------------------- */

static enum plm_code make_sizes(struct plm_job *job, struct plm_err *err)
{
    return job->sizes ? PLM_OK
                      : plm_calloc(job->ctx, &job->sizes, job->plan.n_segments, sizeof *job->sizes, err);
}

enum plm_code plm_segment_note_size(struct plm_job *job, size_t segment, bool is_aux, uint64_t size_bytes,
                                    struct plm_err *err)
{
    enum plm_code rc = make_sizes(job, err);
    if (rc == PLM_OK)
        *(is_aux ? &job->sizes[segment].auxiliary : &job->sizes[segment].index) = size_bytes;
    return rc;
}

static enum plm_code list_sizes(struct plm_job *job, size_t segment, const char *dir, struct plm_err *err)
{
    struct plm_entries files = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(job->root, dir, 0, &files, err));
    for (size_t i = 0; i < files.n; i++) {
        bool is_aux = strcmp(files.items[i].name, PLM_AUX_FILE) == 0;
        if (is_aux || strcmp(files.items[i].name, PLM_INDEX_FILE) == 0)
            PLM_TRY(plm_segment_note_size(job, segment, is_aux, files.items[i].size_bytes, err));
    }
    if (job->sizes[segment].auxiliary == 0 || job->sizes[segment].index == 0)
        rc = plm_fail(err, PLM_NOT_FOUND, "%s/%s does not hold the files of an index",
                      plm_store_uri(job->root), dir);
done:
    plm_entries_reset(&files);
    return rc;
}

enum plm_code plm_segment_merged_dir(struct plm_job *job, size_t segment, char **out, struct plm_err *err)
{
    char *dir = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(make_sizes(job, err));
    if (plm_store_is_local(job->root))
        PLM_TRY(plm_segment_current_dir(job, segment, &dir, err));
    else
        PLM_TRY(plm_segment_final_dir(job, segment, &dir, err));
    if (job->sizes[segment].auxiliary == 0 || job->sizes[segment].index == 0)
        PLM_TRY(list_sizes(job, segment, dir, err));
    *out = dir;
    dir = NULL;
done:
    plm_free(job->ctx, dir);
    return rc;
}

enum plm_code plm_segment_clear_uploads(struct plm_job *job, size_t segment, struct plm_err *err)
{
    struct plm_uploads uploads = {0};
    struct plm_writer *writer = NULL;
    char *dir = NULL;
    enum plm_code rc = PLM_OK;

    if (!job->resumed || plm_store_is_local(job->root))
        return PLM_OK;
    PLM_TRY(plm_segment_final_dir(job, segment, &dir, err));
    PLM_TRY(plm_store_uploads(job->root, dir, &uploads, err));
    for (size_t i = 0; i < uploads.n; i++) {
        PLM_TRY(plm_writer_open(job->root, uploads.items[i].path, 1, uploads.items[i].token, NULL, &writer,
                                err));
        plm_writer_abort(writer);
    }
done:
    plm_uploads_reset(&uploads);
    plm_free(job->ctx, dir);
    return rc;
}
