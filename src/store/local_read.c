/* local_read.c - files open for reading.
 *
 * A table or a merge has more files than a process may have open: of those that are not being read,
 * the one that was read longest ago is closed, and opened again when it is wanted. The limit is the
 * process's, hence one pool for all stores.
 */
#include "store/local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define POOL_MAX 1024 /* files kept open */
#define AHEAD_BYTES ((size_t)128 << 10)  /* the kernel reads as much ahead when asked to, at least */
#define TIMED_BYTES ((size_t)64 << 10)   /* shorter reads say nothing */
#define CACHED_BYTES_PER_S 2e9           /* slower reads have waited for a device: */
#define WAITS_FOR 64                     /* what is read until so many did not is read ahead */

struct local_file {
    struct plm_file base;
    struct plm_local_fds fds; /* -1: closed for now */
    bool is_direct;
    unsigned n_readers;
    dev_t device;
    ino_t inode;
    struct local_file *newer, *older; /* in the pool, while open */
};

static struct {
    pthread_mutex_t lock;
    struct local_file *newest, *oldest;
    size_t n; /* descriptors: a direct file may have two */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Half of what is allowed: sockets, locks and the host's own files need some, too. */
static size_t pool_max(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY)
        return POOL_MAX;
    return (size_t)plm_max_u64(4, plm_min_u64(POOL_MAX, files.rlim_cur / 2));
}

/* The caller holds the lock, here and below. */
static void take_from_pool(struct local_file *file)
{
    *(file->newer ? &file->newer->older : &pool.newest) = file->older;
    *(file->older ? &file->older->newer : &pool.oldest) = file->newer;
    file->newer = file->older = NULL;
    pool.n -= 1 + file->is_direct;
}

static void put_into_pool(struct local_file *file)
{
    file->older = pool.newest;
    *(pool.newest ? &pool.newest->newer : &pool.oldest) = file;
    pool.newest = file;
    pool.n += 1 + file->is_direct;
}

static void close_oldest(size_t n_max)
{
    for (struct local_file *file = pool.oldest, *next; file && pool.n > n_max; file = next) {
        next = file->newer;
        if (file->n_readers > 0)
            continue;
        take_from_pool(file);
        plm_local_close(&file->fds);
    }
}

/* The file that was opened first, not one that has taken its name since. */
static enum plm_code open_again(struct local_file *file, struct plm_err *err)
{
    struct stat st;
    int fd = plm_local_open(file->base.name, O_RDONLY);

    if (fd < 0)
        return plm_fail_errno(err, errno, "%s: cannot open again", file->base.name);
    if (fstat(fd, &st) != 0 || st.st_dev != file->device || st.st_ino != file->inode) {
        close(fd);
        return plm_fail(err, PLM_CORRUPT, "%s: was replaced while it was read", file->base.name);
    }
    file->fds.fd = fd;
    if (file->is_direct)
        plm_local_open_direct(&file->fds, file->base.name, O_RDONLY);
    return PLM_OK;
}

/* The file stays open until end_reading(). */
enum plm_code plm_local_begin_reading(struct plm_file *base, int *fd, struct plm_err *err)
{
    struct local_file *file = (struct local_file *)base;
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&pool.lock);
    if (file->fds.fd >= 0) {
        take_from_pool(file);
    } else {
        close_oldest(pool_max() - 2);
        rc = open_again(file, err);
    }
    if (rc == PLM_OK) {
        file->n_readers++;
        put_into_pool(file);
        *fd = file->fds.fd;
    }
    pthread_mutex_unlock(&pool.lock);
    return rc;
}

void plm_local_end_reading(struct plm_file *base)
{
    struct local_file *file = (struct local_file *)base;

    pthread_mutex_lock(&pool.lock);
    file->n_readers--;
    pthread_mutex_unlock(&pool.lock);
}

/* ---- the calls -------------------------------------------------------------------------- */

enum plm_code plm_local_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                  struct plm_file **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct local_file *file = NULL;
    char *name = NULL;
    int fd = -1;
    struct stat st;
    uint64_t seen = 0;

    pthread_mutex_lock(&pool.lock);
    close_oldest(pool_max() - 1);
    pthread_mutex_unlock(&pool.lock);
    PLM_TRY(plm_local_path(store, path, &name, err));
    PLM_TRY(plm_local_open_regular(ctx, name, O_RDONLY, &fd, &seen, err));
    if (seen < size_bytes)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "%s: is %" PRIu64 " bytes long, expected %" PRIu64, name, seen,
                         size_bytes));
    if (fstat(fd, &st) != 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot stat", name));
    PLM_TRY(plm_alloc(ctx, &file, 1, sizeof *file, err));
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* pages are read in large slices */
    *file = (struct local_file){.base = {store, size_bytes ? size_bytes : seen, name},
                                .fds = {fd, -1}, .device = st.st_dev, .inode = st.st_ino};
    name = NULL;
    fd = -1;
    pthread_mutex_lock(&pool.lock);
    put_into_pool(file);
    pthread_mutex_unlock(&pool.lock);
    *out = &file->base;
done:
    if (fd >= 0)
        close(fd);
    plm_free(ctx, name);
    return rc;
}

void plm_local_file_close(struct plm_file *base)
{
    struct local_file *file = (struct local_file *)base;
    struct plm_ctx *ctx = base->store->ctx;

    pthread_mutex_lock(&pool.lock);
    if (file->fds.fd >= 0)
        take_from_pool(file);
    plm_local_close(&file->fds);
    pthread_mutex_unlock(&pool.lock);
    plm_free(ctx, base->name);
    plm_free(ctx, file);
}

void plm_local_file_set_direct(struct plm_file *base)
{
    struct local_file *file = (struct local_file *)base;
    bool is_open;

    pthread_mutex_lock(&pool.lock);
    is_open = file->fds.fd >= 0;
    if (is_open)
        take_from_pool(file);
    file->is_direct = true;
    if (is_open) {
        plm_local_open_direct(&file->fds, file->base.name, O_RDONLY);
        put_into_pool(file);
    }
    pthread_mutex_unlock(&pool.lock);
}

/* ---- reading ahead ------------------------------------------------------------------------ */

void plm_local_note_speed(struct plm_ctx *ctx, size_t n, double seconds)
{
    unsigned waits = atomic_load(&ctx->reads_wait);

    if (n < TIMED_BYTES)
        return;
    if ((double)n < seconds * CACHED_BYTES_PER_S)
        atomic_store(&ctx->reads_wait, WAITS_FOR);
    else if (waits > 0)
        (void)atomic_compare_exchange_strong(&ctx->reads_wait, &waits, waits - 1);
}

void plm_local_read_ahead(int fd, uint64_t offset, size_t len)
{
    for (size_t at = 0; at < len; at += AHEAD_BYTES)
        (void)posix_fadvise(fd, (off_t)(offset + at), (off_t)plm_min_size(AHEAD_BYTES, len - at), POSIX_FADV_WILLNEED);
}

void plm_local_file_ahead(struct plm_file *base, const struct plm_range *ranges, size_t n)
{
    int fd;

    if (atomic_load(&base->store->ctx->reads_wait) == 0 || plm_local_begin_reading(base, &fd, NULL) != PLM_OK)
        return;
    for (size_t i = 0; i < n; i++)
        plm_local_read_ahead(fd, ranges[i].offset, ranges[i].len);
    plm_local_end_reading(base);
}

/* ---- reading ------------------------------------------------------------------------------ */

/* The file is in the pool, with a reader. */
static enum plm_code read_range(const struct local_file *file, const struct plm_range *range, struct plm_err *err)
{
    struct plm_store *store = file->base.store;
    struct plm_ctx *ctx = store->ctx;
    struct plm_local_fds ways = file->fds;
    const char *path = file->base.name;
    uint8_t *dst = range->dst;
    size_t done = 0;
    double began = plm_now_seconds();
    enum plm_code rc = plm_check_io_fault(ctx, err);

    while (rc == PLM_OK && done < range->len) {
        uint64_t at = range->offset + done;
        size_t n = range->len - done;
        int fd = plm_local_way(&ways, at, dst + done, &n);
        ssize_t got = pread(fd, dst + done, n, (off_t)at);

        if (got > 0) {
            done += (size_t)got;
            rc = done < range->len ? plm_check_cancel(ctx, err) : PLM_OK;
        } else if (got == 0) {
            rc = plm_fail(err, PLM_CORRUPT,
                          "%s: ends at offset %" PRIu64 ", expected %zu more bytes", path, at,
                          range->len - done);
        } else if (errno == EINVAL && fd == ways.direct_fd) {
            ways.direct_fd = -1; /* pages of this file system are larger, or it knows better */
        } else if (errno != EINTR) {
            rc = plm_fail_errno(err, errno, "%s: cannot read %zu bytes at offset %" PRIu64, path,
                                range->len - done, at);
        }
    }
    plm_local_count(store, &ctx->n_get, 1);
    plm_local_count(store, &ctx->bytes_read, done);
    if (!file->is_direct)
        plm_local_note_speed(ctx, done, plm_now_seconds() - began);
    return rc;
}

/* The kernel is told of the next range before this one is read: two in flight. */
enum plm_code plm_local_read_ranges(struct plm_file *base, const struct plm_range *ranges,
                                    size_t n, struct plm_err *err)
{
    struct local_file *file = (struct local_file *)base;
    int fd = -1;
    enum plm_code rc = plm_local_begin_reading(base, &fd, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n && rc == PLM_OK; i++) {
        if (i + 1 < n && !file->is_direct)
            (void)posix_fadvise(fd, (off_t)ranges[i + 1].offset, (off_t)ranges[i + 1].len,
                                POSIX_FADV_WILLNEED);
        rc = read_range(file, &ranges[i], err);
    }
    plm_local_end_reading(base);
    return rc;
}

enum plm_code plm_local_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                             struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *name = NULL;
    int fd = -1;

    PLM_TRY(plm_local_path(store, path, &name, err));
    PLM_TRY(plm_local_open_regular(store->ctx, name, O_RDONLY, &fd, size_bytes, err));
    close(fd);
done:
    plm_free(store->ctx, name);
    return rc;
}
