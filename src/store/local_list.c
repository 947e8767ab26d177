/* local_list.c - what is in a directory. */
#include "store/local_impl.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct plm_entry *)a)->name, ((const struct plm_entry *)b)->name);
}

/* Every name in the directory, in the file system's order. */
static enum plm_code read_names(struct plm_ctx *ctx, DIR *dir, const char *path,
                                struct plm_entries *out, struct plm_err *err)
{
    size_t cap = 0;
    enum plm_code rc = PLM_OK;

    for (;;) {
        errno = 0;
        struct dirent *d = readdir(dir);

        if (!d && errno)
            return plm_fail_errno(err, errno, "%s: cannot list", path);
        if (!d)
            return PLM_OK;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        rc = plm_grow(ctx, &out->items, &cap, out->n, sizeof *out->items, err);
        if (rc)
            return rc;
        out->items[out->n] = (struct plm_entry){0};
        rc = plm_strdup(ctx, d->d_name, &out->items[out->n].name, err);
        if (rc)
            return rc;
        out->n++;
    }
}

/* Sizes and times of the first `limit` names; what vanished meanwhile, or leads nowhere, is
 * left out. */
static enum plm_code stat_names(struct plm_ctx *ctx, DIR *dir, const char *path, size_t limit,
                                struct plm_entries *out, struct plm_err *err)
{
    size_t kept = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < out->n; i++) {
        struct plm_entry entry = out->items[i];
        struct stat st;
        bool wanted = rc == PLM_OK && kept < limit;

        if (wanted && fstatat(dirfd(dir), entry.name, &st, 0) != 0) {
            wanted = false;
            if (errno != ENOENT && errno != ELOOP)
                rc = plm_fail_errno(err, errno, "%s/%s: cannot stat", path, entry.name);
        }
        if (!wanted) {
            plm_free(ctx, entry.name);
            continue;
        }
        entry.is_dir = S_ISDIR(st.st_mode);
        entry.size_bytes = entry.is_dir ? 0 : (uint64_t)st.st_size;
        entry.modified_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
        out->items[kept++] = entry;
    }
    out->n = kept;
    return rc;
}

enum plm_code plm_local_list(struct plm_store *store, const char *dir, size_t limit,
                             struct plm_entries *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct plm_entries found = {.ctx = ctx};
    char *path = NULL;
    DIR *handle = NULL;

    PLM_TRY(plm_local_path(store, dir, &path, err));
    PLM_TRY(plm_check_io_fault(ctx, err));
    plm_local_count(store, &ctx->n_list, 1);
    handle = opendir(path);
    if (!handle && errno != ENOENT)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot list", path));
    if (handle) {
        PLM_TRY(read_names(ctx, handle, path, &found, err));
        if (found.n > 0)
            qsort(found.items, found.n, sizeof *found.items, by_name);
        PLM_TRY(stat_names(ctx, handle, path, limit ? limit : SIZE_MAX, &found, err));
    }
    *out = found;
    found = (struct plm_entries){0};
done:
    if (handle)
        closedir(handle);
    plm_entries_reset(&found);
    plm_free(ctx, path);
    return rc;
}
