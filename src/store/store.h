/* store.h - where a table's bytes live: local disk or S3 behind one table of calls.
 * Big objects are written in pieces: writer.h.
 *
 * Owns     a store or file belongs to the caller until its close call.
 * Paths    relative to the store's root, '/' separated, no leading slash, no "..".
 * Threads  one store or file may be used from several threads at once.
 * Errors   PLM_NOT_FOUND, PLM_DENIED, PLM_IO, PLM_RETRY (throttled beyond patience),
 *          PLM_CORRUPT (shorter than promised). Messages name the full path.
 * Counts   adds to ctx->bytes_read/bytes_written/n_get/n_put/n_list; S3 to n_delete and n_retried too.
 */
#ifndef PLM_STORE_H
#define PLM_STORE_H

#include "core/core.h"

struct plm_store; /* a root: a directory or a bucket + prefix */
struct plm_file;  /* open for reading */

/* uri: a path, file://..., s3://bucket/prefix. options: key, value, ..., NULL (or NULL).
 * Does not need to exist yet. Unknown schemes (gs, az, ...) are PLM_UNSUPPORTED by name. */
PLM_MUST_CHECK enum plm_code
plm_store_open(struct plm_ctx *ctx, const char *uri, const char *const *options,
               struct plm_store **out, struct plm_err *err);
/* A store on another root with the same options (base paths, `tree/{branch}`). An absolute
 * path or URI stands for itself, anything else is below `store`'s root. */
PLM_MUST_CHECK enum plm_code
plm_store_open_at(struct plm_store *store, const char *uri_or_subpath, struct plm_store **out,
                  struct plm_err *err);
void plm_store_close(struct plm_store *store);
const char *plm_store_uri(const struct plm_store *store); /* root, for messages */
bool plm_store_is_local(const struct plm_store *store);
/* From now on nothing that the store does is counted: scratch beside a remote table. */
void plm_store_uncounted(struct plm_store *store);
struct plm_ctx *plm_store_ctx(const struct plm_store *store);

/* ---- reading ---------------------------------------------------------------- */

/* size_bytes: known size (saves a request), or 0 = ask. */
PLM_MUST_CHECK enum plm_code
plm_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
              struct plm_file **out, struct plm_err *err);
uint64_t plm_file_size(const struct plm_file *file);
const char *plm_file_name(const struct plm_file *file); /* for messages */
/* Exactly `len` bytes at `offset`, or an error (past the end: PLM_CORRUPT). */
PLM_MUST_CHECK enum plm_code
plm_file_read(struct plm_file *file, uint64_t offset, size_t len, void *dst, struct plm_err *err);
/* As plm_file_read() into a region (mem.h). Where the context maps files and this one lies on a disk of
 * this machine, whole pages whose place in the file and in memory agree are not copied: they become views of the file, private
 * to the region. For files that nobody shortens: who looks at a page that is gone dies of SIGBUS. */
PLM_MUST_CHECK enum plm_code
plm_file_view(struct plm_file *file, uint64_t offset, size_t len, void *dst, struct plm_err *err);
/* Several ranges at once; a remote store fetches them in parallel and joins near ones. */
struct plm_range {
    uint64_t offset;
    size_t len;
    void *dst;
};
PLM_MUST_CHECK enum plm_code
plm_file_read_ranges(struct plm_file *file, const struct plm_range *ranges, size_t n,
                     struct plm_err *err);
/* The ranges that are read soon, most of each (`dst` is not looked at); they replace those of the
 * call before. A remote store then fetches near ones together, in requests of 8 MiB and more, and
 * keeps what has not been asked for yet. A hint: without memory nothing comes of it. Not while the
 * file is read. */
void plm_file_expect(struct plm_file *file, const struct plm_range *ranges, size_t n);
/* Local: begins to read these ranges into the page cache, if reading has had to wait for a device of late. A hint, and nothing
 * elsewhere. May be called while the file is read. */
void plm_file_ahead(struct plm_file *file, const struct plm_range *ranges, size_t n);
/* Local: bytes that are looked at once are not worth their place in the page cache, nor what making that place costs. From
 * now on long reads go past it with the pages whose address and offset agree modulo PLM_DIRECT_ALIGN. A hint: where the
 * file system cannot, nothing changes. Not while the file is read. */
#define PLM_DIRECT_ALIGN ((size_t)4096)
void plm_file_set_direct(struct plm_file *file);
void plm_file_close(struct plm_file *file);
/* How much may be kept in that way, of all files of the store together; 8 MiB at first. */
void plm_store_keep(struct plm_store *store, uint64_t bytes);

/* A whole small object into `buf` (initialised by the caller; its ceiling is the limit). */
PLM_MUST_CHECK enum plm_code
plm_store_get(struct plm_store *store, const char *path, struct plm_buf *buf, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_store_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
               struct plm_err *err);

/* One entry of a listing, relative to the directory listed. */
struct plm_entry {
    char *name;
    uint64_t size_bytes;
    int64_t modified_ms; /* Unix */
    bool is_dir;
};
struct plm_entries {
    struct plm_ctx *ctx;
    struct plm_entry *items;
    size_t n;
};
/* The entries directly in `dir`, sorted by name (bytewise). A missing directory is an
 * empty listing. limit 0 = all, else at least the first `limit` in order. */
PLM_MUST_CHECK enum plm_code
plm_store_list(struct plm_store *store, const char *dir, size_t limit, struct plm_entries *out,
               struct plm_err *err);
void plm_entries_reset(struct plm_entries *entries);

/* ---- writing ---------------------------------------------------------------- */

/* All or nothing: readers see the old object or the new one. Local: temporary, fsync,
 * rename, fsync of the directory; directories are created. */
PLM_MUST_CHECK enum plm_code
plm_store_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
              struct plm_err *err);
/* The same, only if nothing is there: PLM_CONFLICT otherwise. Local: link(2).
 * Atomic against every other writer; a leftover of a killed writer never blocks it.
 * PLM_RETRY = outcome unknown (S3 time-out; local: in place, but the directory could not
 * be synced): read back before deciding. */
PLM_MUST_CHECK enum plm_code
plm_store_put_if_absent(struct plm_store *store, const char *path, const void *bytes, size_t n,
                        struct plm_err *err);
/* As plm_store_put() of an object nobody else writes. On a remote store it is also where conditions
 * are tried out before the first plm_store_put_if_absent(): the object is put twice under one,
 * which must succeed and then fail. PLM_UNSUPPORTED if they do not; the object is gone then. */
PLM_MUST_CHECK enum plm_code
plm_store_put_probing(struct plm_store *store, const char *path, const void *bytes, size_t n,
                      struct plm_err *err);
/* Missing is fine. */
PLM_MUST_CHECK enum plm_code
plm_store_delete(struct plm_store *store, const char *path, struct plm_err *err);
/* Everything below a directory (and it, never the root). Missing is fine; symbolic links
 * are removed, not followed. */
PLM_MUST_CHECK enum plm_code
plm_store_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err);
/* A directory with nothing in it. One that somebody has filled in the meantime stays, which is fine, too. Where there are
 * no directories (S3) nothing happens. */
PLM_MUST_CHECK enum plm_code
plm_store_delete_empty(struct plm_store *store, const char *dir, struct plm_err *err);
/* Local only (S3: PLM_UNSUPPORTED). Files or directories; creates the parent, fsyncs it. */
PLM_MUST_CHECK enum plm_code
plm_store_rename(struct plm_store *store, const char *from, const char *to, struct plm_err *err);

/* ---- locks ------------------------------------------------------------------ */

/* Exclusive lock on a local file for the life of the process (flock). PLM_CONFLICT names
 * the holder's pid, which is in the file. On S3: PLM_UNSUPPORTED. */
struct plm_lock;
PLM_MUST_CHECK enum plm_code
plm_store_lock(struct plm_store *store, const char *path, struct plm_lock **out,
               struct plm_err *err);
void plm_store_unlock(struct plm_lock *lock);

#endif
