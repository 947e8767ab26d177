/* local_steps.c - single steps on the file system, repeated after a signal; those that change
 * something first ask whether they are to fail. */
#include "store/local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECT_BYTES_MIN ((size_t)256 << 10) /* less is left to the page cache */
#define MAKE_TRIES 4

void plm_local_count(const struct plm_store *store, atomic_uint_fast64_t *counter, uint64_t n)
{
    if (store->is_uncounted)
        return;
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

enum plm_code plm_local_path(struct plm_store *store, const char *path, char **out,
                             struct plm_err *err)
{
    const char *root = strcmp(store->uri, "/") == 0 ? "" : store->uri;

    return *path ? plm_format(store->ctx, out, err, "%s/%s", root, path)
                 : plm_strdup(store->ctx, store->uri, out, err);
}

int plm_local_open(const char *path, int flags)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

enum plm_code plm_local_sync(struct plm_ctx *ctx, int fd, const char *path, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);

    if (rc)
        return rc;
    while (fsync(fd) != 0)
        if (errno != EINTR)
            return plm_fail_errno(err, errno, "%s: cannot sync", path);
    return PLM_OK;
}

enum plm_code plm_local_sync_parent(struct plm_ctx *ctx, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *dir = NULL;
    int fd = -1;
    const char *slash = strrchr(path, '/');

    PLM_TRY(plm_check_io_fault(ctx, err));
    PLM_TRY(plm_strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path), &dir, err));
    fd = plm_local_open(dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot open the directory to sync it", dir));
    while (fsync(fd) != 0) {
        if (errno == EINVAL || errno == ENOTSUP)
            break; /* this file system does not sync directories */
        if (errno != EINTR)
            PLM_TRY(plm_fail_errno(err, errno, "%s: cannot sync the directory", dir));
    }
done:
    if (fd >= 0)
        close(fd);
    plm_free(ctx, dir);
    return rc;
}

/* One step of mkdir -p. What exists is fine; if it is no directory, the next step says so. */
static enum plm_code make_directory(struct plm_ctx *ctx, const char *dir, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);
    struct stat st;

    if (rc)
        return rc;
    if (mkdir(dir, 0777) == 0)
        return plm_local_sync_parent(ctx, dir, err);

    int why = errno;

    /* A read-only or foreign parent may refuse even where the directory is there. */
    if (why == EEXIST || (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)))
        return PLM_OK;
    return plm_fail_errno(err, why, "%s: cannot make the directory", dir);
}

static enum plm_code make_each(struct plm_ctx *ctx, char *dir, struct plm_err *err)
{
    for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        enum plm_code rc = make_directory(ctx, dir, err);
        *slash = '/';
        if (rc)
            return rc;
    }
    return make_directory(ctx, dir, err);
}

enum plm_code plm_local_make_parents(struct plm_ctx *ctx, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *copy = NULL;
    struct stat st;

    PLM_TRY(plm_strdup(ctx, path, &copy, err));
    *strrchr(copy, '/') = '\0';
    if (*copy == '\0' || stat(copy, &st) == 0)
        goto done;
    rc = PLM_NOT_FOUND; /* another process may remove an empty directory before the next is made in it */
    for (int tries = 0; rc == PLM_NOT_FOUND && tries < MAKE_TRIES; tries++)
        rc = make_each(ctx, copy, err);
done:
    plm_free(ctx, copy);
    return rc;
}

void plm_local_open_direct(struct plm_local_fds *fds, const char *path, int flags)
{
#ifdef O_DIRECT
    struct stat here, there;
    int fd = fds->direct_fd < 0 ? plm_local_open(path, flags | O_DIRECT) : -1;

    if (fd >= 0 && fstat(fds->fd, &here) == 0 && fstat(fd, &there) == 0 && here.st_dev == there.st_dev &&
        here.st_ino == there.st_ino)
        fds->direct_fd = fd;
    else if (fd >= 0)
        close(fd);
#else
    (void)fds, (void)path, (void)flags;
#endif
}

void plm_local_close(struct plm_local_fds *fds)
{
    if (fds->fd >= 0)
        close(fds->fd);
    if (fds->direct_fd >= 0)
        close(fds->direct_fd);
    *fds = (struct plm_local_fds){-1, -1};
}

int plm_local_way(const struct plm_local_fds *fds, uint64_t offset, const void *bytes, size_t *n)
{
    size_t lead = (size_t)(-offset % PLM_DIRECT_ALIGN);

    *n = plm_min_size(*n, PLM_LOCAL_PIECE_BYTES);
    if (fds->direct_fd < 0 || *n < DIRECT_BYTES_MIN || ((uintptr_t)bytes + lead) % PLM_DIRECT_ALIGN != 0)
        return fds->fd;
    *n = lead > 0 ? lead : *n / PLM_DIRECT_ALIGN * PLM_DIRECT_ALIGN;
    return lead > 0 ? fds->fd : fds->direct_fd;
}

/* A write of nothing would loop forever: it is an error. */
enum plm_code plm_local_write(struct plm_store *store, const struct plm_local_fds *fds, const char *path, uint64_t offset,
                              const uint8_t *bytes, size_t n, struct plm_err *err)
{
    struct plm_ctx *ctx = store->ctx;
    struct plm_local_fds ways = *fds;
    size_t done = 0;
    enum plm_code rc = plm_check_io_fault(ctx, err);

    while (rc == PLM_OK && done < n) {
        size_t piece = n - done;
        int fd = plm_local_way(&ways, offset + done, bytes + done, &piece);
        ssize_t got = pwrite(fd, bytes + done, piece, (off_t)(offset + done));

        if (got > 0) {
            done += (size_t)got;
            continue;
        }
        if (got < 0 && errno == EINVAL && fd == ways.direct_fd) {
            ways.direct_fd = -1; /* pages of this file system are larger, or it knows better */
            continue;
        }
        if (got == 0 || errno != EINTR)
            rc = plm_fail_errno(err, got == 0 ? EIO : errno,
                                "%s: cannot write %zu bytes at offset %" PRIu64, path, n - done,
                                offset + done);
    }
    plm_local_count(store, &ctx->bytes_written, done);
    return rc;
}

enum plm_code plm_local_open_regular(struct plm_ctx *ctx, const char *path, int flags, int *fd_out,
                                     uint64_t *size_bytes, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct stat st;
    int fd = -1;

    PLM_TRY(plm_check_io_fault(ctx, err));
    fd = plm_local_open(path, flags);
    if (fd < 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot open", path));
    if (fstat(fd, &st) != 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot stat", path));
    if (!S_ISREG(st.st_mode))
        PLM_TRY(plm_fail(err, PLM_IO, "%s: is %s, expected a file", path,
                         S_ISDIR(st.st_mode) ? "a directory" : "a special file"));
    *size_bytes = (uint64_t)st.st_size;
    *fd_out = fd;
    fd = -1;
done:
    if (fd >= 0)
        close(fd);
    return rc;
}
