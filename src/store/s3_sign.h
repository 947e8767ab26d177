/* s3_sign.h - AWS Signature Version 4, as S3 wants it: pure functions of their input.
 *
 * Owns     nothing; results go into the caller's buffers.
 * Secrets  keys derived on the way are wiped before the call returns.
 */
#ifndef PLM_S3_SIGN_H
#define PLM_S3_SIGN_H

#include "core/core.h"

struct plm_s3_pair {
    const char *name;
    const char *value;
};

/* The most query parameters or headers of one request. */
#define PLM_S3_PAIRS_MAX 16

/* What gets signed. Header names are lower case; all of them are signed. */
struct plm_s3_signing {
    const char *method;
    const char *path; /* percent-encoded, starts with '/' */
    const struct plm_s3_pair *query;
    size_t n_query;
    const struct plm_s3_pair *headers; /* must hold host and x-amz-date */
    size_t n_headers;
    const char *payload_sha256; /* hex */
    const char *date;           /* YYYYMMDDTHHMMSSZ, the same as x-amz-date */
    const char *region, *service;
};

/* Lower-case hex and a NUL: out has room for 2 * n + 1. */
void plm_s3_hex(const uint8_t *bytes, size_t n, char *out);
PLM_MUST_CHECK enum plm_code
plm_s3_sha256(const void *bytes, size_t n, uint8_t out[32], struct plm_err *err);
/* "20130524T000000Z" of a Unix time. */
void plm_s3_date(int64_t unix_ms, char out[17]);

/* Appends `text` percent-encoded: everything but A-Z a-z 0-9 - . _ ~ (and '/' if kept). */
PLM_MUST_CHECK enum plm_code
plm_s3_encode(struct plm_buf *out, const char *text, bool keep_slash, struct plm_err *err);
/* Appends name=value&..., encoded and in canonical order; the same text serves in the URL. */
PLM_MUST_CHECK enum plm_code
plm_s3_query(struct plm_buf *out, const struct plm_s3_pair *query, size_t n, struct plm_err *err);
/* Appends the value of the Authorization header and a NUL. */
PLM_MUST_CHECK enum plm_code
plm_s3_authorization(struct plm_buf *out, const struct plm_s3_signing *what, const char *key_id,
                     const char *secret, struct plm_err *err);

#endif
