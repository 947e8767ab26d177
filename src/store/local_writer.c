/* local_writer.c - big objects: a file of its final size, written in place from many sides. */
#include "store/local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TOKEN "local" /* whoever knows the path can join */

struct local_writer {
    struct plm_writer base; /* base.name is the full path */
    struct plm_local_fds fds;
};

/* Without fallocate(2), the next best: is there room now? (glibc's posix_fallocate() would
 * touch every block of a file of any size instead.) */
static int reserve_by_size(int fd, uint64_t size_bytes, uint64_t free_bytes)
{
    if (size_bytes > free_bytes)
        return ENOSPC;
    return ftruncate(fd, (off_t)size_bytes) == 0 ? 0 : errno;
}

/* All blocks now, so that a full disk shows before hours of work. */
static enum plm_code preallocate(struct plm_ctx *ctx, int fd, const char *path,
                                 uint64_t size_bytes, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);
    struct statvfs fs;
    uint64_t free_bytes = UINT64_MAX; /* unknown */
    int why = 0;

    if (rc || size_bytes == 0)
        return rc;
    if (size_bytes > INT64_MAX)
        return plm_fail(err, PLM_ARG, "%s: %" PRIu64 " bytes are more than a file can hold", path,
                        size_bytes);
    if (fstatvfs(fd, &fs) == 0)
        free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_frsize;
    do
        why = fallocate(fd, 0, 0, (off_t)size_bytes) == 0 ? 0 : errno;
    while (why == EINTR);
    if (why == EOPNOTSUPP || why == ENOSYS)
        why = reserve_by_size(fd, size_bytes, free_bytes);
    if (why)
        return plm_fail_errno(err, why,
                              "%s: cannot reserve %" PRIu64 " bytes, %" PRIu64 " are free", path,
                              size_bytes, free_bytes);
    return PLM_OK;
}

/* A new file in place of what was there: whoever has the old one open keeps the old one. */
static enum plm_code create_big(struct plm_ctx *ctx, const char *path, uint64_t size_bytes,
                                int *fd_out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    int fd = -1;

    PLM_TRY(plm_local_make_parents(ctx, path, err));
    PLM_TRY(plm_check_io_fault(ctx, err));
    if (unlink(path) != 0 && errno != ENOENT)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot replace", path));
    fd = plm_local_open(path, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot create", path));
    PLM_TRY(preallocate(ctx, fd, path, size_bytes, err));
    *fd_out = fd;
    fd = -1;
done:
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    return rc;
}

/* The file that another process (or an earlier life of this one) has begun. */
static enum plm_code join_big(struct plm_ctx *ctx, const char *path, uint64_t size_bytes,
                              const char *token, int *fd_out, struct plm_err *err)
{
    uint64_t seen = 0;
    int fd = -1;

    if (strcmp(token, TOKEN) != 0)
        return plm_fail(err, PLM_ARG, "%s: unknown upload token \"%.40s\", expected \"" TOKEN "\"",
                        path, token);

    enum plm_code rc = plm_local_open_regular(ctx, path, O_RDWR, &fd, &seen, err);

    if (rc)
        return rc;
    if (seen != size_bytes) {
        close(fd);
        return plm_fail(err, PLM_CORRUPT, "%s: is %" PRIu64 " bytes long, expected %" PRIu64, path,
                        seen, size_bytes);
    }
    *fd_out = fd;
    return PLM_OK;
}

enum plm_code plm_local_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                    const char *token, char **token_out, struct plm_writer **out,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct local_writer *writer = NULL;
    char *full = NULL, *new_token = NULL;
    int fd = -1;

    /* Memory first: once the file is there, nothing can fail. */
    PLM_TRY(plm_local_path(store, path, &full, err));
    PLM_TRY(plm_alloc(ctx, &writer, 1, sizeof *writer, err));
    if (token_out)
        PLM_TRY(plm_strdup(ctx, TOKEN, &new_token, err));
    PLM_TRY(token ? join_big(ctx, full, size_bytes, token, &fd, err)
                  : create_big(ctx, full, size_bytes, &fd, err));
    *writer = (struct local_writer){{store, size_bytes, full}, {fd, -1}};
    *out = &writer->base;
    if (token_out)
        *token_out = new_token;
    return PLM_OK;
done:
    plm_free(ctx, new_token);
    plm_free(ctx, writer);
    plm_free(ctx, full);
    return rc;
}

enum plm_code plm_local_writer_write(struct plm_writer *base, unsigned part, uint64_t offset,
                                     const void *bytes, size_t n, struct plm_err *err)
{
    struct local_writer *writer = (struct local_writer *)base;

    (void)part; /* the offset says it all */
    plm_local_count(base->store, &base->store->ctx->n_put, 1);
    return plm_local_write(base->store, &writer->fds, base->name, offset, bytes, n, err);
}

void plm_local_writer_set_direct(struct plm_writer *base)
{
    struct local_writer *writer = (struct local_writer *)base;

    plm_local_open_direct(&writer->fds, base->name, O_WRONLY);
}

enum plm_code plm_local_writer_finish(struct plm_writer *base, struct plm_err *err)
{
    struct local_writer *writer = (struct local_writer *)base;
    struct plm_ctx *ctx = base->store->ctx;
    enum plm_code rc = plm_local_sync(ctx, writer->fds.fd, base->name, err);

    return rc ? rc : plm_local_sync_parent(ctx, base->name, err);
}

void plm_local_writer_close(struct plm_writer *base, bool remove_it)
{
    struct local_writer *writer = (struct local_writer *)base;
    struct plm_ctx *ctx = base->store->ctx;

    if (remove_it)
        unlink(base->name);
    plm_local_close(&writer->fds);
    plm_free(ctx, base->name);
    plm_free(ctx, writer);
}
