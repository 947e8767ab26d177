/* s3.h - one bucket and prefix as a store: the files behind the table of store_s3.c to one another.
 *
 * s3_read.c   files open for reading    s3_put.c     whole objects
 * s3_list.c   listings, trees           s3_writer.c  big objects in parts
 */
#ifndef PLM_S3_H
#define PLM_S3_H

#include "store/s3_client.h"
#include "store/s3_window.h"
#include "store/store_impl.h"

struct plm_s3 {
    struct plm_store base;
    struct plm_s3_client client;
    struct plm_s3_shelf shelf;
    pthread_mutex_t probe_lock;
    bool conditional_works; /* the probe went well */
};
static inline struct plm_s3 *plm_s3_of(struct plm_store *store)
{
    return (struct plm_s3 *)store;
}
/* prefix + '/' + path into request->key. PLM_ARG above 1024 bytes. */
PLM_MUST_CHECK enum plm_code plm_s3_key(const struct plm_s3 *s3, const char *path,
                                        struct plm_s3_request *request, struct plm_err *err);

/* ---- calls, as struct plm_store_ops says ---------------------------------------------- */

enum plm_code plm_s3_file_open(struct plm_store *, const char *path, uint64_t size_bytes,
                               struct plm_file **, struct plm_err *);
enum plm_code plm_s3_file_read_ranges(struct plm_file *, const struct plm_range *, size_t n,
                                      struct plm_err *);
void plm_s3_file_expect(struct plm_file *, const struct plm_range *, size_t n);
void plm_s3_file_close(struct plm_file *);
void plm_s3_keep(struct plm_store *, uint64_t bytes);
enum plm_code plm_s3_size(struct plm_store *, const char *path, uint64_t *, struct plm_err *);
enum plm_code plm_s3_get(struct plm_store *, const char *path, struct plm_buf *,
                         struct plm_err *);
enum plm_code plm_s3_list(struct plm_store *, const char *dir, size_t limit, struct plm_entries *,
                          struct plm_err *);
enum plm_code plm_s3_delete_tree(struct plm_store *, const char *dir, struct plm_err *);
enum plm_code plm_s3_put(struct plm_store *, const char *path, const void *, size_t,
                         bool if_absent, struct plm_err *);
enum plm_code plm_s3_put_probing(struct plm_store *, const char *path, const void *, size_t,
                                 struct plm_err *);
enum plm_code plm_s3_delete(struct plm_store *, const char *path, struct plm_err *);
enum plm_code plm_s3_writer_open(struct plm_store *, const char *path, uint64_t size_bytes,
                                 const char *token, char **token_out, struct plm_writer **,
                                 struct plm_err *);
enum plm_code plm_s3_writer_write(struct plm_writer *, unsigned part, uint64_t offset, const void *,
                                  size_t, struct plm_err *);
enum plm_code plm_s3_writer_finish(struct plm_writer *, struct plm_err *);
void plm_s3_writer_close(struct plm_writer *, bool remove);
enum plm_code plm_s3_uploads(struct plm_store *, const char *dir, struct plm_uploads *,
                             struct plm_err *);

#endif
