/* local_impl.h - the local store's files to one another.
 *
 * local_steps.c  single steps on the file system      local_remove.c  files and trees
 * local_read.c   files open for reading, their pool   local_writer.c  big objects, in place
 * local_view.c   views of them                        local_lock.c    locks
 * local_list.c   directories                          local_put.c     whole objects
 *
 * Paths of the calls are those of store_impl.h; the steps take full ones.
 */
#ifndef PLM_LOCAL_IMPL_H
#define PLM_LOCAL_IMPL_H

#include "store/store_impl.h"

#define PLM_LOCAL_PIECE_BYTES ((size_t)16 << 20) /* one read(2) or write(2), at the most */

/* The same file twice: through the page cache, and past it (or -1). */
struct plm_local_fds {
    int fd, direct_fd;
};

/* ---- steps ------------------------------------------------------------------------------ */

/* Adds n to a counter of the context, unless the store is one that is not counted. */
void plm_local_count(const struct plm_store *store, atomic_uint_fast64_t *counter, uint64_t n);
/* "<root>/<path>"; path "" is the root. Freed by the caller. */
enum plm_code plm_local_path(struct plm_store *store, const char *path, char **out,
                             struct plm_err *err);
/* open(2) that survives signals and never waits for the other end of a pipe. */
int plm_local_open(const char *path, int flags);
/* Opens a regular file and learns its size. The descriptor is the caller's to close. */
enum plm_code plm_local_open_regular(struct plm_ctx *ctx, const char *path, int flags, int *fd_out,
                                     uint64_t *size_bytes, struct plm_err *err);
/* The file that fds->fd is, past the page cache. Nothing changes where that cannot be, or `path` is another file by now. */
void plm_local_open_direct(struct plm_local_fds *fds, const char *path, int flags);
void plm_local_close(struct plm_local_fds *fds); /* those that are open; they are -1 then */
/* Where the next of n bytes are read or written, and (*n) how many of them at once: through the cache up to a page boundary and
 * behind the last one, past it between them. */
int plm_local_way(const struct plm_local_fds *fds, uint64_t offset, const void *bytes, size_t *n);
/* All n bytes at `offset`; `path` is for messages. */
enum plm_code plm_local_write(struct plm_store *store, const struct plm_local_fds *fds, const char *path, uint64_t offset,
                              const uint8_t *bytes, size_t n, struct plm_err *err);
enum plm_code plm_local_sync(struct plm_ctx *ctx, int fd, const char *path, struct plm_err *err);
/* Makes the names in the directory that holds `path` durable. */
enum plm_code plm_local_sync_parent(struct plm_ctx *ctx, const char *path, struct plm_err *err);
/* Makes every missing directory above `path`. */
enum plm_code plm_local_make_parents(struct plm_ctx *ctx, const char *path, struct plm_err *err);

/* The file's descriptor; it stays open until end_reading(). */
enum plm_code plm_local_begin_reading(struct plm_file *file, int *fd, struct plm_err *err);
void plm_local_end_reading(struct plm_file *file);
/* Begins to read just these bytes into the page cache, and none around them. */
void plm_local_read_ahead(int fd, uint64_t offset, size_t len);
/* n bytes came in so many seconds: from a device? */
void plm_local_note_speed(struct plm_ctx *ctx, size_t n, double seconds);

/* ---- calls, as struct plm_store_ops says ---------------------------------------------- */

enum plm_code plm_local_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                  struct plm_file **out, struct plm_err *err);
enum plm_code plm_local_read_ranges(struct plm_file *base, const struct plm_range *ranges,
                                    size_t n, struct plm_err *err);
enum plm_code plm_local_file_view(struct plm_file *base, const struct plm_range *range,
                                  struct plm_err *err);
void plm_local_file_ahead(struct plm_file *base, const struct plm_range *ranges, size_t n);
void plm_local_file_set_direct(struct plm_file *base);
void plm_local_file_close(struct plm_file *base);
enum plm_code plm_local_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                             struct plm_err *err);
enum plm_code plm_local_list(struct plm_store *store, const char *dir, size_t limit,
                             struct plm_entries *out, struct plm_err *err);
enum plm_code plm_local_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                            bool if_absent, struct plm_err *err);
enum plm_code plm_local_rename(struct plm_store *store, const char *from, const char *to,
                               struct plm_err *err);
enum plm_code plm_local_delete(struct plm_store *store, const char *path, struct plm_err *err);
enum plm_code plm_local_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err);
enum plm_code plm_local_delete_empty(struct plm_store *store, const char *dir, struct plm_err *err);
enum plm_code plm_local_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                    const char *token, char **token_out, struct plm_writer **out,
                                    struct plm_err *err);
enum plm_code plm_local_writer_write(struct plm_writer *base, unsigned part, uint64_t offset,
                                     const void *bytes, size_t n, struct plm_err *err);
void plm_local_writer_set_direct(struct plm_writer *base);
enum plm_code plm_local_writer_finish(struct plm_writer *base, struct plm_err *err);
void plm_local_writer_close(struct plm_writer *base, bool remove_it);
enum plm_code plm_local_lock(struct plm_store *store, const char *path, struct plm_lock **out,
                             struct plm_err *err);

#endif
