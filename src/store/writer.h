/* writer.h - a big object of known size, written in pieces from several threads (or, on S3, several
 * processes).
 *
 * Owns     a writer belongs to the caller until finish succeeds, detach or abort.
 * Threads  pieces may be written from several threads at once; finish, detach, abort alone.
 * Local    a preallocated `path` written in place with pwrite, in any number of parts: the caller
 *          renames it when complete.
 * S3       one multipart upload: `part` (1..10000, ascending with offset) becomes the part number,
 *          every piece but the last is at least 5 MiB.
 */
#ifndef PLM_WRITER_H
#define PLM_WRITER_H

#include "store/store.h"

struct plm_writer;

/* token: NULL starts a new object and *token_out (may be NULL; plm_free) names it for other
 * processes; non-NULL joins one already started. ENOSPC: PLM_IO, nothing left behind. */
PLM_MUST_CHECK enum plm_code
plm_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes, const char *token,
                char **token_out, struct plm_writer **out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_writer_write(struct plm_writer *writer, unsigned part, uint64_t offset, const void *bytes,
                 size_t n, struct plm_err *err);
/* As plm_file_set_direct(), for pieces. Before the first is written. */
void plm_writer_set_direct(struct plm_writer *writer);
/* finish: durable and visible at `path` (the parts of all processes included).
 * After PLM_OK the writer is gone, after an error it is the caller's to abort or detach.
 * finish_scratch: the same for what need not outlive the machine's power: no sync of local files.
 * detach: closes this process's handle, the object stays unfinished. abort: removes it. */
PLM_MUST_CHECK enum plm_code plm_writer_finish(struct plm_writer *writer, struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_writer_finish_scratch(struct plm_writer *writer, struct plm_err *err);
void plm_writer_detach(struct plm_writer *writer);
void plm_writer_abort(struct plm_writer *writer);

/* Objects begun in pieces and never finished, below `dir` ("" = the root; paths are from the root):
 * S3 keeps (and bills) their parts. Where nothing of the kind exists (local) the list is empty. A
 * token opens a writer, to abort. */
struct plm_upload {
    char *path, *token;
    int64_t begun_ms; /* Unix */
};
struct plm_uploads {
    struct plm_ctx *ctx;
    struct plm_upload *items;
    size_t n;
};
PLM_MUST_CHECK enum plm_code
plm_store_uploads(struct plm_store *store, const char *dir, struct plm_uploads *out,
                  struct plm_err *err);
void plm_uploads_reset(struct plm_uploads *uploads);

#endif
