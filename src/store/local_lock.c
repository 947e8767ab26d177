/* local_lock.c - exclusive locks that end with their process. */
#include "store/local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES_MAX 16

struct plm_lock {
    struct plm_ctx *ctx;
    int fd;
};

static enum plm_code lock_is_held(int fd, const char *path, struct plm_err *err)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);

    text[n > 0 ? strspn(text, "0123456789") : 0] = '\0';
    return plm_fail(err, PLM_CONFLICT, "%s: held by %s%s", path,
                    *text ? "process " : "another process", text);
}

/* One try. *fd_out stays -1 when the file was replaced between opening and locking it: the
 * lock of a file without a name protects nothing. */
static enum plm_code try_lock(struct plm_store *store, const char *path, int *fd_out,
                              struct plm_err *err)
{
    struct plm_ctx *ctx = store->ctx;
    enum plm_code rc = PLM_OK;
    struct stat ours, named;
    char pid[24];
    int fd = -1;

    PLM_TRY(plm_check_io_fault(ctx, err));
    fd = plm_local_open(path, O_RDWR | O_CREAT);
    if (fd < 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot open", path));
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            PLM_TRY(lock_is_held(fd, path, err));
        if (errno != EINTR)
            PLM_TRY(plm_fail_errno(err, errno, "%s: cannot lock", path));
    }
    if (fstat(fd, &ours) != 0 || stat(path, &named) != 0 || ours.st_ino != named.st_ino ||
        ours.st_dev != named.st_dev)
        goto done;
    if (ftruncate(fd, 0) != 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot write", path));
    snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    PLM_TRY(plm_local_write(store, &(struct plm_local_fds){fd, -1}, path, 0, (const uint8_t *)pid, strlen(pid), err));
    *fd_out = fd;
    fd = -1;
done:
    if (fd >= 0)
        close(fd);
    return rc;
}

enum plm_code plm_local_lock(struct plm_store *store, const char *path, struct plm_lock **out,
                             struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct plm_lock *lock = NULL;
    char *full = NULL;
    int fd = -1;

    PLM_TRY(plm_local_path(store, path, &full, err));
    PLM_TRY(plm_local_make_parents(ctx, full, err));
    PLM_TRY(plm_alloc(ctx, &lock, 1, sizeof *lock, err));
    for (int i = 0; i < LOCK_TRIES_MAX && fd < 0; i++)
        PLM_TRY(try_lock(store, full, &fd, err));
    if (fd < 0)
        PLM_TRY(plm_fail(err, PLM_CONFLICT, "%s: others keep replacing this lock file", full));
    *lock = (struct plm_lock){ctx, fd};
    *out = lock;
    lock = NULL;
done:
    plm_free(ctx, lock);
    plm_free(ctx, full);
    return rc;
}

/* The file stays: removing it would let two processes lock two files of one name. */
void plm_store_unlock(struct plm_lock *lock)
{
    if (!lock)
        return;
    close(lock->fd);
    plm_free(lock->ctx, lock);
}
