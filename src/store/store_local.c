/* store_local.c - a store in a directory of the local (or a shared POSIX) file system.
 *
 * New objects are written under a temporary name beside their place, `<name>#<pid>-<random>`,
 * synced and then renamed (put) or linked (put_if_absent) there, so that a reader never sees
 * half an object and a killed writer leaves nothing that stands in another's way.
 */
#include "store/store_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)16 << 20) /* between two looks at the cancel flag */
#define TREE_DEPTH_MAX 64              /* nesting of directories that delete_tree goes down */
#define TREE_PASSES_MAX 16             /* tries to empty one directory that others still fill */
#define LOCK_TRIES_MAX 16
#define POOL_MAX 1024                  /* files kept open for reading */
#define TOKEN "local"

struct local_file {
    struct plm_file base;
    int fd; /* -1: closed for now, see `pool` */
    unsigned n_readers;
    dev_t device;
    ino_t inode;
    struct local_file *newer, *older; /* in the pool, while open */
};
struct local_writer {
    struct plm_writer base; /* base.name is the full path */
    int fd;
};
struct plm_lock {
    struct plm_ctx *ctx;
    int fd;
};

/* ---- small steps, each of which may be told to fail --------------------------------- */

static void count(const struct plm_store *store, atomic_uint_fast64_t *counter, uint64_t n)
{
    if (store->is_uncounted)
        return;
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* "<root>/<path>"; path "" is the root. */
static enum plm_code full_path(struct plm_store *store, const char *path, char **out,
                               struct plm_err *err)
{
    const char *root = strcmp(store->uri, "/") == 0 ? "" : store->uri;

    return *path ? plm_format(store->ctx, out, err, "%s/%s", root, path)
                 : plm_strdup(store->ctx, store->uri, out, err);
}

/* open(2) that survives signals and never waits for the other end of a pipe. */
static int open_retry(const char *path, int flags)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static enum plm_code sync_fd(struct plm_ctx *ctx, int fd, const char *path, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(ctx, err);

    if (rc)
        return rc;
    while (fsync(fd) != 0)
        if (errno != EINTR)
            return plm_fail_errno(err, errno, "%s: cannot sync", path);
    return PLM_OK;
}

/* Makes the names in the directory that holds `path` durable. */
static enum plm_code sync_parent(struct plm_ctx *ctx, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *dir = NULL;
    int fd = -1;
    const char *slash = strrchr(path, '/');

    PLM_TRY(plm_check_io_fault(ctx, err));
    PLM_TRY(plm_strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path), &dir, err));
    fd = open_retry(dir, O_RDONLY | O_DIRECTORY);
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
        return sync_parent(ctx, dir, err);

    int why = errno;

    /* A read-only or foreign parent may refuse even where the directory is there. */
    if (why == EEXIST || (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)))
        return PLM_OK;
    return plm_fail_errno(err, why, "%s: cannot make the directory", dir);
}

/* Makes every missing directory above `path`. */
static enum plm_code make_parents(struct plm_ctx *ctx, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *copy = NULL;
    struct stat st;

    PLM_TRY(plm_strdup(ctx, path, &copy, err));
    *strrchr(copy, '/') = '\0';
    if (*copy == '\0' || stat(copy, &st) == 0)
        goto done;
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        rc = make_directory(ctx, copy, err);
        *slash = '/';
        if (rc)
            goto done;
    }
    PLM_TRY(make_directory(ctx, copy, err));
done:
    plm_free(ctx, copy);
    return rc;
}

/* All n bytes at `offset`. A write of nothing would loop forever: it is an error. */
static enum plm_code write_at(struct plm_store *store, int fd, const char *path, uint64_t offset,
                              const uint8_t *bytes, size_t n, struct plm_err *err)
{
    struct plm_ctx *ctx = store->ctx;
    size_t done = 0;
    enum plm_code rc = plm_check_io_fault(ctx, err);

    while (rc == PLM_OK && done < n) {
        ssize_t got = pwrite(fd, bytes + done, plm_min_size(n - done, PIECE_BYTES),
                             (off_t)(offset + done));
        if (got > 0) {
            done += (size_t)got;
            continue;
        }
        if (got == 0 || errno != EINTR)
            rc = plm_fail_errno(err, got == 0 ? EIO : errno,
                                "%s: cannot write %zu bytes at offset %" PRIu64, path, n - done,
                                offset + done);
    }
    count(store, &ctx->bytes_written, done);
    return rc;
}

/* ---- reading ---------------------------------------------------------------------- */

/* Opens a regular file and learns its size. */
static enum plm_code open_regular(struct plm_ctx *ctx, const char *path, int flags, int *fd_out,
                                  uint64_t *size_bytes, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct stat st;
    int fd = -1;

    PLM_TRY(plm_check_io_fault(ctx, err));
    fd = open_retry(path, flags);
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

/* ---- few files open at once ----------------------------------------------------------- */

/* A table or a merge has more files than a process may have open: of those that are not being read,
 * the one that was read longest ago is closed, and opened again when it is wanted. The limit is the
 * process's, hence one pool for all stores. */
static struct {
    pthread_mutex_t lock;
    struct local_file *newest, *oldest;
    size_t n;
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
    pool.n--;
}

static void put_into_pool(struct local_file *file)
{
    file->older = pool.newest;
    *(pool.newest ? &pool.newest->newer : &pool.oldest) = file;
    pool.newest = file;
    pool.n++;
}

static void close_oldest(size_t n_max)
{
    for (struct local_file *file = pool.oldest, *next; file && pool.n > n_max; file = next) {
        next = file->newer;
        if (file->n_readers > 0)
            continue;
        take_from_pool(file);
        close(file->fd);
        file->fd = -1;
    }
}

/* The file that was opened first, not one that has taken its name since. */
static enum plm_code open_again(struct local_file *file, struct plm_err *err)
{
    struct stat st;
    int fd = open_retry(file->base.name, O_RDONLY);

    if (fd < 0)
        return plm_fail_errno(err, errno, "%s: cannot open again", file->base.name);
    if (fstat(fd, &st) != 0 || st.st_dev != file->device || st.st_ino != file->inode) {
        close(fd);
        return plm_fail(err, PLM_CORRUPT, "%s: was replaced while it was read", file->base.name);
    }
    file->fd = fd;
    return PLM_OK;
}

/* The file stays open until end_reading(). */
static enum plm_code begin_reading(struct local_file *file, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&pool.lock);
    if (file->fd >= 0) {
        take_from_pool(file);
    } else {
        close_oldest(pool_max() - 1);
        rc = open_again(file, err);
    }
    if (rc == PLM_OK) {
        file->n_readers++;
        put_into_pool(file);
    }
    pthread_mutex_unlock(&pool.lock);
    return rc;
}

static void end_reading(struct local_file *file)
{
    pthread_mutex_lock(&pool.lock);
    file->n_readers--;
    pthread_mutex_unlock(&pool.lock);
}

/* ---- open files ---------------------------------------------------------------------- */

static enum plm_code local_file_open(struct plm_store *store, const char *path,
                                     uint64_t size_bytes, struct plm_file **out,
                                     struct plm_err *err)
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
    PLM_TRY(full_path(store, path, &name, err));
    PLM_TRY(open_regular(ctx, name, O_RDONLY, &fd, &seen, err));
    if (seen < size_bytes)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "%s: is %" PRIu64 " bytes long, expected %" PRIu64, name, seen,
                         size_bytes));
    if (fstat(fd, &st) != 0)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot stat", name));
    PLM_TRY(plm_alloc(ctx, &file, 1, sizeof *file, err));
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* pages are read in large slices */
    *file = (struct local_file){.base = {store, size_bytes ? size_bytes : seen, name},
                                .fd = fd, .device = st.st_dev, .inode = st.st_ino};
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

static void local_file_close(struct plm_file *base)
{
    struct local_file *file = (struct local_file *)base;
    struct plm_ctx *ctx = base->store->ctx;

    pthread_mutex_lock(&pool.lock);
    if (file->fd >= 0) {
        take_from_pool(file);
        close(file->fd);
    }
    pthread_mutex_unlock(&pool.lock);
    plm_free(ctx, base->name);
    plm_free(ctx, file);
}

static enum plm_code read_range(struct plm_store *store, int fd, const char *path,
                                const struct plm_range *range, struct plm_err *err)
{
    struct plm_ctx *ctx = store->ctx;
    uint8_t *dst = range->dst;
    size_t done = 0;
    enum plm_code rc = plm_check_io_fault(ctx, err);

    while (rc == PLM_OK && done < range->len) {
        uint64_t at = range->offset + done;
        ssize_t got = pread(fd, dst + done, plm_min_size(range->len - done, PIECE_BYTES),
                            (off_t)at);
        if (got > 0) {
            done += (size_t)got;
            rc = done < range->len ? plm_check_cancel(ctx, err) : PLM_OK;
        } else if (got == 0) {
            rc = plm_fail(err, PLM_CORRUPT,
                          "%s: ends at offset %" PRIu64 ", expected %zu more bytes", path, at,
                          range->len - done);
        } else if (errno != EINTR) {
            rc = plm_fail_errno(err, errno, "%s: cannot read %zu bytes at offset %" PRIu64, path,
                                range->len - done, at);
        }
    }
    count(store, &ctx->n_get, 1);
    count(store, &ctx->bytes_read, done);
    return rc;
}

/* The kernel is told of the next range before this one is read: two in flight. */
static enum plm_code local_read_ranges(struct plm_file *base, const struct plm_range *ranges,
                                       size_t n, struct plm_err *err)
{
    struct local_file *file = (struct local_file *)base;
    enum plm_code rc = begin_reading(file, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n && rc == PLM_OK; i++) {
        if (i + 1 < n)
            (void)posix_fadvise(file->fd, (off_t)ranges[i + 1].offset, (off_t)ranges[i + 1].len,
                                POSIX_FADV_WILLNEED);
        rc = read_range(base->store, file->fd, base->name, &ranges[i], err);
    }
    end_reading(file);
    return rc;
}

static enum plm_code local_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *name = NULL;
    int fd = -1;

    PLM_TRY(full_path(store, path, &name, err));
    PLM_TRY(open_regular(store->ctx, name, O_RDONLY, &fd, size_bytes, err));
    close(fd);
done:
    plm_free(store->ctx, name);
    return rc;
}

/* ---- listing ------------------------------------------------------------------------ */

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
        if (out->n == cap) {
            cap = cap ? 2 * cap : 32;
            rc = plm_realloc(ctx, &out->items, cap, sizeof *out->items, err);
            if (rc)
                return rc;
        }
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

static enum plm_code local_list(struct plm_store *store, const char *dir, size_t limit,
                                struct plm_entries *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct plm_entries found = {.ctx = ctx};
    char *path = NULL;
    DIR *handle = NULL;

    PLM_TRY(full_path(store, dir, &path, err));
    PLM_TRY(plm_check_io_fault(ctx, err));
    count(store, &ctx->n_list, 1);
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

/* ---- whole objects -------------------------------------------------------------------- */

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

    int fd = open_retry(temp, O_WRONLY | O_CREAT | O_EXCL);

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
    rc = sync_parent(ctx, path, err);
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
    return sync_parent(ctx, to, err);
}

static enum plm_code local_put(struct plm_store *store, const char *path, const void *bytes,
                               size_t n, bool if_absent, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    char *full = NULL, *temp = NULL;
    int fd = -1;

    PLM_TRY(full_path(store, path, &full, err));
    PLM_TRY(make_parents(ctx, full, err));
    PLM_TRY(create_temp(ctx, full, &temp, &fd, err));
    PLM_TRY(write_at(store, fd, temp, 0, bytes, n, err));
    PLM_TRY(sync_fd(ctx, fd, temp, err));
    PLM_TRY(if_absent ? link_into_place(ctx, temp, fd, full, err)
                      : rename_into_place(ctx, temp, full, err));
    count(store, &ctx->n_put, 1);
done:
    if (fd >= 0)
        close(fd);
    if (temp)
        unlink(temp); /* gone already after a rename */
    plm_free(ctx, temp);
    plm_free(ctx, full);
    return rc;
}

static enum plm_code local_rename(struct plm_store *store, const char *from, const char *to,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    char *from_full = NULL, *to_full = NULL;

    PLM_TRY(full_path(store, from, &from_full, err));
    PLM_TRY(full_path(store, to, &to_full, err));
    PLM_TRY(make_parents(ctx, to_full, err));
    PLM_TRY(rename_into_place(ctx, from_full, to_full, err));
    PLM_TRY(sync_parent(ctx, from_full, err));
done:
    plm_free(ctx, from_full);
    plm_free(ctx, to_full);
    return rc;
}

/* ---- removing ----------------------------------------------------------------------- */

static bool is_missing(int why) { return why == ENOENT || why == ENOTDIR; }

static enum plm_code local_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *full = NULL;

    PLM_TRY(full_path(store, path, &full, err));
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

static enum plm_code local_delete_tree(struct plm_store *store, const char *dir,
                                       struct plm_err *err)
{
    char *full = NULL;
    enum plm_code rc = full_path(store, dir, &full, err);

    if (rc == PLM_OK) {
        struct tree tree = {store->ctx, full};

        rc = remove_entry(&tree, AT_FDCWD, full, 0, err);
    }
    plm_free(store->ctx, full);
    return rc;
}

/* ---- big objects ---------------------------------------------------------------------- */

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

    PLM_TRY(make_parents(ctx, path, err));
    PLM_TRY(plm_check_io_fault(ctx, err));
    if (unlink(path) != 0 && errno != ENOENT)
        PLM_TRY(plm_fail_errno(err, errno, "%s: cannot replace", path));
    fd = open_retry(path, O_RDWR | O_CREAT | O_EXCL);
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

    enum plm_code rc = open_regular(ctx, path, O_RDWR, &fd, &seen, err);

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

static enum plm_code local_writer_open(struct plm_store *store, const char *path,
                                       uint64_t size_bytes, const char *token, char **token_out,
                                       struct plm_writer **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct local_writer *writer = NULL;
    char *full = NULL, *new_token = NULL;
    int fd = -1;

    /* Memory first: once the file is there, nothing can fail. */
    PLM_TRY(full_path(store, path, &full, err));
    PLM_TRY(plm_alloc(ctx, &writer, 1, sizeof *writer, err));
    if (token_out)
        PLM_TRY(plm_strdup(ctx, TOKEN, &new_token, err));
    PLM_TRY(token ? join_big(ctx, full, size_bytes, token, &fd, err)
                  : create_big(ctx, full, size_bytes, &fd, err));
    *writer = (struct local_writer){{store, size_bytes, full}, fd};
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

static enum plm_code local_writer_write(struct plm_writer *writer, unsigned part, uint64_t offset,
                                        const void *bytes, size_t n, struct plm_err *err)
{
    struct plm_ctx *ctx = writer->store->ctx;

    (void)part; /* the offset says it all */
    count(writer->store, &ctx->n_put, 1);
    return write_at(writer->store, ((struct local_writer *)writer)->fd, writer->name, offset, bytes, n, err);
}

static enum plm_code local_writer_finish(struct plm_writer *writer, struct plm_err *err)
{
    struct plm_ctx *ctx = writer->store->ctx;
    enum plm_code rc = sync_fd(ctx, ((struct local_writer *)writer)->fd, writer->name, err);

    return rc ? rc : sync_parent(ctx, writer->name, err);
}

static void local_writer_close(struct plm_writer *writer, bool remove_it)
{
    struct plm_ctx *ctx = writer->store->ctx;

    if (remove_it)
        unlink(writer->name);
    close(((struct local_writer *)writer)->fd);
    plm_free(ctx, writer->name);
    plm_free(ctx, writer);
}

/* ---- locks ------------------------------------------------------------------------------ */

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
    fd = open_retry(path, O_RDWR | O_CREAT);
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
    PLM_TRY(write_at(store, fd, path, 0, (const uint8_t *)pid, strlen(pid), err));
    *fd_out = fd;
    fd = -1;
done:
    if (fd >= 0)
        close(fd);
    return rc;
}

static enum plm_code local_lock(struct plm_store *store, const char *path, struct plm_lock **out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = store->ctx;
    struct plm_lock *lock = NULL;
    char *full = NULL;
    int fd = -1;

    PLM_TRY(full_path(store, path, &full, err));
    PLM_TRY(make_parents(ctx, full, err));
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

/* ---- the store itself --------------------------------------------------------------------- */

static void local_close(struct plm_store *store)
{
    struct plm_ctx *ctx = store->ctx;

    plm_store_options_free(ctx, store->options);
    plm_free(ctx, store->uri);
    plm_free(ctx, store);
}

static const struct plm_store_ops local_ops = {
    .close = local_close,
    .file_open = local_file_open,
    .file_read_ranges = local_read_ranges,
    .file_close = local_file_close,
    .size = local_size,
    .list = local_list,
    .put = local_put,
    .del = local_delete,
    .delete_tree = local_delete_tree,
    .rename = local_rename,
    .writer_open = local_writer_open,
    .writer_write = local_writer_write,
    .writer_finish = local_writer_finish,
    .writer_close = local_writer_close,
    .lock = local_lock,
};

/* Absolute, so that a later chdir() of the host process does not move the table. */
static enum plm_code absolute_path(struct plm_ctx *ctx, const char *path, char **out,
                                   struct plm_err *err)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    if (path[0] == '/')
        return plm_strndup(ctx, path, n, out, err);

    char *here = getcwd(NULL, 0);

    if (!here)
        return plm_fail_errno(err, errno, "\"%s\": cannot find the working directory", path);
    while (n >= 2 && path[0] == '.' && path[1] == '/')
        path += 2, n -= 2;

    bool is_here = n == 0 || (n == 1 && path[0] == '.');
    enum plm_code rc = plm_format(ctx, out, err, "%s%s%.*s", here,
                                  is_here || strcmp(here, "/") == 0 ? "" : "/",
                                  is_here ? 0 : (int)n, path);

    free(here);
    return rc;
}

enum plm_code plm_store_open_local(struct plm_ctx *ctx, const char *root,
                                   const char *const *options, struct plm_store **out,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *uri = NULL, **copy = NULL;
    struct plm_store *store = NULL;

    PLM_TRY(absolute_path(ctx, root, &uri, err));
    PLM_TRY(plm_store_options_copy(ctx, options, &copy, err));
    PLM_TRY(plm_alloc(ctx, &store, 1, sizeof *store, err));
    *store = (struct plm_store){.ops = &local_ops, .ctx = ctx, .uri = uri, .options = copy};
    *out = store;
    return PLM_OK;
done:
    plm_store_options_free(ctx, copy);
    plm_free(ctx, uri);
    return rc;
}
