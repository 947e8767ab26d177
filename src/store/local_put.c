/* local_put.c - whole objects, which come into being at once.
 *
 * New objects are written under a temporary name beside their place, `<name>#<pid>-<random>`,
 * synced and then renamed (put) or linked (put_if_absent) there, so that a reader never sees
 * half an object and a killed writer leaves nothing that stands in another's way.
 */
#include "store/local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* A fresh file beside `path` that nobody else has. */
static enum plm_code create_temp(struct plm_ctx *ctx, const char *path, char **temp_out,
                                 int *fd_out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *temp = NULL;
    uint8_t uuid[16];
    char text[37];

    PLM_TRY(plm_uuid_random(uuid, err));
    plm_uuid_text(uuid, text);
    PLM_TRY(plm_format(ctx, &temp, err, "%s#%ld-%.8s%.4s", path, (long)getpid(), text, text + 9));
    PLM_TRY(plm_check_io_fault(ctx, err));

    int fd = plm_local_open(temp, O_WRONLY | O_CREAT | O_EXCL);

    if (fd < 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot create", temp));
    *fd_out = fd;
    *temp_out = temp;
    temp = NULL;
done:
    plm_free(ctx, temp);
    return rc;
}

/* Once linked, the object is there for everybody: what fails afterwards leaves the outcome
 * open, it does not undo it. */
static enum plm_code link_into_place(struct plm_ctx *ctx, const char *temp, int fd,
                                     const char *path, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);
    struct stat st;

    if (rc)
        return rc;
    if (link(temp, path) != 0) {
        int why = errno;

        if (why == EPERM || why == EOPNOTSUPP || why == ENOSYS)
            return plm_fail(err, PLM_UNSUPPORTED,
                            "%s: the file system has no hard links, which a safe commit needs",
                            path);
        /* NFS may repeat a call that worked and then report its own link. */
        if (fstat(fd, &st) != 0 || st.st_nlink != 2)
            return why == EEXIST ? plm_fail(err, PLM_CONFLICT, "%s: exists already", path)
                                 : plm_fail_errno(err, why, "%s: cannot link into place", path);
    }
    rc = plm_local_sync_parent(ctx, path, err);
    if (rc) {
        if (err)
            err->code = PLM_RETRY;
        return plm_wrap(err, PLM_RETRY, "%s: is in place, but perhaps not durable", path);
    }
    return PLM_OK;
}

static enum plm_code rename_into_place(struct plm_ctx *ctx, const char *from, const char *to,
                                       struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);

    if (rc)
        return rc;
    if (rename(from, to) != 0)
        return plm_fail_errno(err, errno, "%s: cannot rename to \"%s\"", from, to);
    return plm_local_sync_parent(ctx, to, err);
}

enum plm_code plm_local_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                            bool if_absent, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    char *full = NULL, *temp = NULL;
    int fd = -1;

    PLM_TRY(plm_local_path(store, path, &full, err));
    PLM_TRY(plm_local_make_parents(ctx, full, err));
    PLM_TRY(create_temp(ctx, full, &temp, &fd, err));
    PLM_TRY(plm_local_write(store, &(struct plm_local_fds){fd, -1}, temp, 0, bytes, n, err));
    PLM_TRY(plm_local_sync(ctx, fd, temp, err));
    PLM_TRY(if_absent ? link_into_place(ctx, temp, fd, full, err)
                      : rename_into_place(ctx, temp, full, err));
    plm_local_count(store, &ctx->n_put, 1);
done:
    if (fd >= 0)
        close(fd);
    if (temp)
        unlink(temp); /* gone already after a rename */
    plm_free(ctx, temp);
    plm_free(ctx, full);
    return rc;
}

enum plm_code plm_local_rename(struct plm_store *store, const char *from, const char *to,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    char *from_full = NULL, *to_full = NULL;

    PLM_TRY(plm_local_path(store, from, &from_full, err));
    PLM_TRY(plm_local_path(store, to, &to_full, err));
    PLM_TRY(plm_local_make_parents(ctx, to_full, err));
    PLM_TRY(rename_into_place(ctx, from_full, to_full, err));
    PLM_TRY(plm_local_sync_parent(ctx, from_full, err));
done:
    plm_free(ctx, from_full);
    plm_free(ctx, to_full);
    return rc;
}
