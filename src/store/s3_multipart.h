/* s3_multipart.h - a big object in the making, for the files that write one.
 *
 * s3_writer.c  the calls of a writer    s3_multipart.c  requests of an upload
 * s3_token.c   what names an upload     s3_uploads.c    uploads that others left
 */
#ifndef PLM_S3_MULTIPART_H
#define PLM_S3_MULTIPART_H

#include "store/s3.h"
#include "store/s3_xml.h"

struct plm_s3_writer {
    struct plm_writer base;
    pthread_mutex_t lock; /* of what follows */
    char *upload_id;      /* NULL: not begun */
    bool is_shared;       /* other processes write parts, too */
    bool is_put;          /* in one piece, and there */
    struct plm_s3_parts parts; /* written here, in no order */
    bool lacks_tag; /* the server named no tag for a part: then it is asked after all */
    char key[PLM_S3_KEY_BYTES_MAX + 1];
};

/* ---- requests (the key is set; all but begin need an upload id) ------------------------ */

/* Zeroed, but for method, key and upload id. */
void plm_s3_upload_request(const struct plm_s3_writer *w, const char *method,
                           struct plm_s3_request *q);
/* Sets the upload id. */
enum plm_code plm_s3_upload_begin(struct plm_s3_writer *w, struct plm_err *err);
/* An upload that is gone already is fine. */
enum plm_code plm_s3_upload_abort(struct plm_s3_writer *w, struct plm_err *err);
/* Appends all parts that S3 has, ascending. */
enum plm_code plm_s3_upload_parts(struct plm_s3_writer *w, struct plm_s3_parts *parts,
                                  struct plm_err *err);
enum plm_code plm_s3_upload_complete(struct plm_s3_writer *w, const struct plm_s3_parts *parts,
                                     struct plm_err *err);

/* ---- tokens -------------------------------------------------------------------------- */

/* Of the writer's upload; freed by the caller. */
enum plm_code plm_s3_token_make(const struct plm_s3_writer *w, char **out, struct plm_err *err);
/* Sets the upload id. PLM_ARG unless the token is one of an upload to the writer's key. */
enum plm_code plm_s3_token_read(struct plm_s3_writer *w, const char *token, struct plm_err *err);

#endif
