/* local_remove.c - removing a file, and a tree that others may still be filling. */
#include "store/local_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREE_DEPTH_MAX 64  /* nesting of directories that delete_tree goes down */
#define TREE_PASSES_MAX 16 /* tries to empty one directory that others still fill */

static bool is_missing(int why) { return why == ENOENT || why == ENOTDIR; }

enum plm_code plm_local_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *full = NULL;

    PLM_TRY(plm_local_path(store, path, &full, err));
    PLM_TRY(plm_check_io_fault(store->ctx, err));
    if (unlink(full) != 0 && !is_missing(errno))
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot delete", full));
done:
    plm_free(store->ctx, full);
    return rc;
}

/* Where delete_tree stands; `shown` is the tree's path for messages. */
struct tree {
    struct plm_ctx *ctx;
    const char *shown;
};

static enum plm_code remove_entry(const struct tree *tree, int dir_fd, const char *name,
                                  unsigned depth, struct plm_err *err);

/* One pass over an open directory; *n_seen counts what was there. */
static enum plm_code remove_contents(const struct tree *tree, DIR *dir, unsigned depth,
                                     size_t *n_seen, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    rewinddir(dir);
    *n_seen = 0;
    while (rc == PLM_OK) {
        errno = 0;
        struct dirent *d = readdir(dir);

        if (!d && errno)
            return plm_fail_errno(err, errno, "%s: cannot list a directory in it", tree->shown);
        if (!d)
            break;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        rc = remove_entry(tree, dirfd(dir), d->d_name, depth + 1, err);
        ++*n_seen;
    }
    return rc;
}

/* Empties and removes a directory. Others may still be writing into it, hence the passes. */
static enum plm_code remove_directory(const struct tree *tree, int dir_fd, const char *name,
                                      unsigned depth, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_seen = 1;
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

    if (!dir) {
        int why = errno;

        if (fd >= 0)
            close(fd);
        return why == ENOENT ? PLM_OK
                             : plm_fail_errno(err, why, "%s: cannot open \"%s\" to empty it",
                                              tree->shown, name);
    }
    for (int pass = 0; pass < TREE_PASSES_MAX && n_seen > 0; pass++)
        PLM_TRY(remove_contents(tree, dir, depth, &n_seen, err));
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot remove \"%s\"", tree->shown, name));
done:
    closedir(dir);
    return rc;
}

/* A file, a link (not what it points to) or a whole directory. */
static enum plm_code remove_entry(const struct tree *tree, int dir_fd, const char *name,
                                  unsigned depth, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(tree->ctx, err);
    struct stat st;

    if (rc)
        return rc;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return is_missing(errno)
                   ? PLM_OK
                   : plm_fail_errno(err, errno, "%s: cannot stat \"%s\"", tree->shown, name);
    if (S_ISDIR(st.st_mode)) {
        if (depth > TREE_DEPTH_MAX)
            return plm_fail(err, PLM_IO, "%s: \"%s\" is nested deeper than %d directories",
                            tree->shown, name, TREE_DEPTH_MAX);
        return remove_directory(tree, dir_fd, name, depth, err);
    }
    if (unlinkat(dir_fd, name, 0) != 0 && errno != ENOENT)
        return plm_fail_errno(err, errno, "%s: cannot delete \"%s\"", tree->shown, name);
    return PLM_OK;
}

enum plm_code plm_local_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err)
{
    char *full = NULL;
    enum plm_code rc = plm_local_path(store, dir, &full, err);

    if (rc == PLM_OK) {
        struct tree tree = {store->ctx, full};

        rc = remove_entry(&tree, AT_FDCWD, full, 0, err);
    }
    plm_free(store->ctx, full);
    return rc;
}

enum plm_code plm_local_delete_empty(struct plm_store *store, const char *dir, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *full = NULL;

    PLM_TRY(plm_local_path(store, dir, &full, err));
    PLM_TRY(plm_check_io_fault(store->ctx, err));
    if (rmdir(full) != 0 && !is_missing(errno) && errno != ENOTEMPTY && errno != EEXIST)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot remove the directory", full));
done:
    plm_free(store->ctx, full);
    return rc;
}
