/* store_impl.h - what a kind of store fills in; for store.c and the implementations only.
 *
 * Each kind embeds `struct plm_store` first. Paths are already checked; the I/O fault hook
 * and the counters are the implementation's to call.
 *
 * Checked already   paths (a directory comes without trailing '/'; "" = the root, for `list`
 *                   only), ranges against size_bytes, parts, `offset + n` of a writer.
 * Handles           close, file_close and writer_close free the whole struct, the fields of
 *                   the embedded base included. writer_finish frees nothing: after it returns
 *                   PLM_OK store.c calls writer_close(w, false); after an error the caller
 *                   still has the writer, to abort or detach.
 * NULL              `get`, `rename`, `lock`, `file_view`, `file_ahead`, `file_expect`, `keep`, `put_probing` and
 *                   `uploads` may be NULL: open + read, PLM_UNSUPPORTED twice, read, nothing twice,
 *                   `put`, none.
 */
#ifndef PLM_STORE_IMPL_H
#define PLM_STORE_IMPL_H

#include "store/writer.h"

struct plm_store_ops {
    void (*close)(struct plm_store *);
    enum plm_code (*file_open)(struct plm_store *, const char *path, uint64_t size_bytes,
                               struct plm_file **, struct plm_err *);
    enum plm_code (*file_read_ranges)(struct plm_file *, const struct plm_range *, size_t n,
                                      struct plm_err *);
    enum plm_code (*file_view)(struct plm_file *, const struct plm_range *, struct plm_err *);
    void (*file_set_direct)(struct plm_file *); /* NULL: no page cache */
    void (*file_close)(struct plm_file *);
    void (*file_ahead)(struct plm_file *, const struct plm_range *, size_t n);
    void (*file_expect)(struct plm_file *, const struct plm_range *, size_t n);
    void (*keep)(struct plm_store *, uint64_t bytes);
    enum plm_code (*size)(struct plm_store *, const char *path, uint64_t *, struct plm_err *);
    enum plm_code (*list)(struct plm_store *, const char *dir, size_t limit, struct plm_entries *,
                          struct plm_err *);
    enum plm_code (*put)(struct plm_store *, const char *path, const void *, size_t, bool if_absent,
                         struct plm_err *);
    enum plm_code (*put_probing)(struct plm_store *, const char *path, const void *, size_t,
                                 struct plm_err *);
    enum plm_code (*del)(struct plm_store *, const char *path, struct plm_err *);
    enum plm_code (*delete_tree)(struct plm_store *, const char *dir, struct plm_err *);
    enum plm_code (*delete_empty)(struct plm_store *, const char *dir, struct plm_err *); /* NULL: no directories */
    enum plm_code (*rename)(struct plm_store *, const char *, const char *, struct plm_err *);
    enum plm_code (*writer_open)(struct plm_store *, const char *path, uint64_t size_bytes,
                                 const char *token, char **token_out, struct plm_writer **,
                                 struct plm_err *);
    enum plm_code (*writer_write)(struct plm_writer *, unsigned part, uint64_t offset, const void *,
                                  size_t, struct plm_err *);
    void (*writer_set_direct)(struct plm_writer *); /* NULL: no page cache */
    enum plm_code (*writer_finish)(struct plm_writer *, struct plm_err *);
    void (*writer_close)(struct plm_writer *, bool remove);
    enum plm_code (*uploads)(struct plm_store *, const char *dir, struct plm_uploads *,
                             struct plm_err *);
    enum plm_code (*lock)(struct plm_store *, const char *path, struct plm_lock **,
                          struct plm_err *);
    enum plm_code (*get)(struct plm_store *, const char *path, struct plm_buf *,
                         struct plm_err *);
};
struct plm_store {
    const struct plm_store_ops *ops;
    struct plm_ctx *ctx;
    char *uri;
    bool is_uncounted;
    char **options; /* owned copy, NULL-terminated pairs, or NULL */
};
struct plm_file {
    struct plm_store *store; /* borrowed: must outlive the file */
    uint64_t size_bytes;
    char *name;
};
struct plm_writer {
    struct plm_store *store;
    uint64_t size_bytes;
    char *name;
};
/* Owned copy of key, value, ..., NULL (NULL stays NULL); PLM_ARG for a key without value. */
enum plm_code plm_store_options_copy(struct plm_ctx *ctx, const char *const *options, char ***out,
                                     struct plm_err *err);
void plm_store_options_free(struct plm_ctx *ctx, char **options);

/* Undoes %-escapes in place. NULL, or where the first bad one is: %00 always, one without two
 * digits if is_strict (else it stays as it is). */
const char *plm_percent_decode(char *text, bool is_strict);

/* root: a path, made absolute. The options are for stores opened from this one. */
enum plm_code plm_store_open_local(struct plm_ctx *ctx, const char *root,
                                   const char *const *options, struct plm_store **out,
                                   struct plm_err *err);
enum plm_code plm_store_open_s3(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                struct plm_store **out, struct plm_err *err);

#endif
