#include "build/gc_left.h"
#include "store/writer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#define UPLOAD_STALE_MS ((int64_t)24 * 3600 * 1000)
#define FILE_STALE_MS ((int64_t)60 * 1000)

static void add_found(json_t *found, const char *path, int64_t modified_ms, bool removed)
{
    json_array_append_new(found, json_pack("{s:s, s:I, s:b}", "path", path, "modified_ms",
                                           (json_int_t)modified_ms, "removed", (int)removed));
}

/* ---- uploads ------------------------------------------------------------------------------ */

/* The second part of "first/second/...", and no more of it than fits. */
static bool second_part(const char *path, const char *first, char *out, size_t room)
{
    size_t n = strlen(first), len;

    if (strncmp(path, first, n) != 0)
        return false;
    len = strcspn(path + n, "/");
    if (len == 0 || len >= room || path[n + len] != '/')
        return false;
    memcpy(out, path + n, len);
    out[len] = 0;
    return true;
}

static bool is_committed(const struct plm_manifest *m, const char *uuid)
{
    char text[37];

    for (size_t i = 0; i < m->n_indices; i++) {
        plm_uuid_text(m->indices[i].uuid, text);
        if (strcmp(text, uuid) == 0)
            return true;
    }
    return false;
}

static bool is_listed(const json_t *jobs, const char *job)
{
    for (size_t i = 0; i < json_array_size(jobs); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(jobs, i), "job"));

        if (name && strcmp(name, job) == 0)
            return true;
    }
    return false;
}

static enum plm_code has_plan(struct plm_store *root, const char *job, bool *yes, struct plm_err *err)
{
    char *path = NULL;
    uint64_t size;
    enum plm_code rc = plm_format(plm_store_ctx(root), &path, err, "_pilum/%s/plan.json", job);

    if (rc == PLM_OK)
        rc = plm_store_size(root, path, &size, err);
    plm_free(plm_store_ctx(root), path);
    *yes = rc == PLM_OK;
    return rc == PLM_NOT_FOUND ? PLM_OK : rc;
}

static enum plm_code is_stale(struct plm_store *root, const struct plm_manifest *manifest,
                              const json_t *jobs, const struct plm_upload *upload, bool *yes,
                              struct plm_err *err)
{
    bool is_old = (int64_t)plm_unix_millis() - upload->begun_ms > UPLOAD_STALE_MS, at_work = true;
    enum plm_code rc = PLM_OK;
    char part[64];

    *yes = false;
    if (second_part(upload->path, "_indices/", part, sizeof part)) {
        *yes = is_old || is_committed(manifest, part);
    } else if (second_part(upload->path, "_pilum/", part, sizeof part)) {
        *yes = is_old || is_listed(jobs, part);
        if (!*yes)
            rc = has_plan(root, part, &at_work, err);
        *yes = *yes || !at_work;
    }
    return rc;
}

static enum plm_code abort_upload(struct plm_store *root, const struct plm_upload *upload,
                                  struct plm_err *err)
{
    struct plm_writer *writer = NULL;
    enum plm_code rc = plm_writer_open(root, upload->path, 1, upload->token, NULL, &writer, err);

    if (rc == PLM_OK)
        plm_writer_abort(writer);
    return rc;
}

enum plm_code plm_gc_uploads(struct plm_store *root, const struct plm_manifest *manifest,
                             const json_t *jobs, bool remove, json_t *found, struct plm_err *err)
{
    struct plm_uploads uploads = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_uploads(root, "", &uploads, err));
    for (size_t i = 0; i < uploads.n; i++) {
        const struct plm_upload *upload = &uploads.items[i];
        bool stale;

        PLM_TRY(is_stale(root, manifest, jobs, upload, &stale, err));
        if (!stale)
            continue;
        if (remove)
            PLM_TRY(abort_upload(root, upload, err));
        add_found(found, upload->path, upload->begun_ms, remove);
    }
done:
    plm_uploads_reset(&uploads);
    return rc;
}

/* ---- temporary files ------------------------------------------------------------------------- */

/* `<name>#<pid>-<12 hex digits>`, as local_put.c names them; the pid, 0 for other names. */
static long writer_of(const char *name)
{
    const char *mark = strrchr(name, '#');
    char *end;

    if (!mark || mark == name || mark[1] < '1' || mark[1] > '9')
        return 0;
    errno = 0;
    long pid = strtol(mark + 1, &end, 10);
    if (errno || *end != '-' || strlen(end + 1) != 12 || end[1 + strspn(end + 1, "0123456789abcdef")] != 0)
        return 0;
    return pid;
}

static enum plm_code collect_dir(struct plm_store *root, const char *dir, bool remove, json_t *found,
                                 struct plm_err *err)
{
    struct plm_entries entries = {0};
    char *path = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(root, dir, 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++) {
        const struct plm_entry *e = &entries.items[i];
        long pid = e->is_dir ? 0 : writer_of(e->name);
        bool is_old = (int64_t)plm_unix_millis() - e->modified_ms > FILE_STALE_MS;

        if (pid == 0 || !is_old || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
            continue;
        PLM_TRY(plm_format(plm_store_ctx(root), &path, err, "%s/%s", dir, e->name));
        if (remove)
            PLM_TRY(plm_store_delete(root, path, err));
        add_found(found, path, e->modified_ms, remove);
        plm_free(plm_store_ctx(root), path);
        path = NULL;
    }
done:
    plm_free(plm_store_ctx(root), path);
    plm_entries_reset(&entries);
    return rc;
}

enum plm_code plm_gc_files(struct plm_store *root, bool remove, json_t *found, struct plm_err *err)
{
    static const char *const dirs[] = {"_versions", "_transactions"};
    struct plm_entries indexes = {0};
    char *dir = NULL;
    enum plm_code rc = PLM_OK;

    if (!plm_store_is_local(root))
        return PLM_OK; /* S3 shows nothing before it is whole */
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        PLM_TRY(collect_dir(root, dirs[i], remove, found, err));
    PLM_TRY(plm_store_list(root, "_indices", 0, &indexes, err));
    for (size_t i = 0; i < indexes.n; i++) {
        if (!indexes.items[i].is_dir)
            continue;
        PLM_TRY(plm_format(plm_store_ctx(root), &dir, err, "_indices/%s", indexes.items[i].name));
        PLM_TRY(collect_dir(root, dir, remove, found, err));
        plm_free(plm_store_ctx(root), dir);
        dir = NULL;
    }
done:
    plm_free(plm_store_ctx(root), dir);
    plm_entries_reset(&indexes);
    return rc;
}
