/* s3_creds.h - who we are: keys from options, environment, profile files, container or
 * instance metadata; renewed before they expire.
 *
 * Owns     a secret is shared: take it, use it, release it; the last release wipes it.
 * Memory   secrets live on pages of their own, kept out of core dumps, wiped before unmapping.
 * Threads  a chain may be asked from several threads; one of them fetches, the others wait.
 */
#ifndef PLM_S3_CREDS_H
#define PLM_S3_CREDS_H

#include <pthread.h>

#include "store/s3_http.h"

#define PLM_S3_KEY_ID_MAX 255
#define PLM_S3_KEY_MAX 507
#define PLM_S3_TOKEN_MAX 12287

struct plm_s3_secret {
    atomic_int n_users;
    size_t mapped_bytes;
    int64_t expires_ms; /* Unix, 0 = never */
    char key_id[PLM_S3_KEY_ID_MAX + 1];
    char key[PLM_S3_KEY_MAX + 1];
    char token[PLM_S3_TOKEN_MAX + 1]; /* "" = none */
};
PLM_MUST_CHECK enum plm_code plm_s3_secret_new(struct plm_s3_secret **out, struct plm_err *err);
void plm_s3_secret_release(struct plm_s3_secret *secret);
/* Copies n bytes into one of the fields above; `what` names it when it does not fit. */
PLM_MUST_CHECK enum plm_code plm_s3_secret_set(char *field, size_t max, const char *text, size_t n,
                                               const char *what, struct plm_err *err);

/* The value of `key` in section [name] (or [profile name]) of an AWS profile file; blanks
 * around it dropped. False if there is none. */
bool plm_s3_profile_value(const char *text, size_t n, const char *profile, const char *key,
                          struct plm_view *value);
/* The files' `key` of the profile in use ("" if none), for region and endpoint_url. */
PLM_MUST_CHECK enum plm_code plm_s3_profile_setting(struct plm_ctx *ctx, const char *key, char *out,
                                                    size_t room, struct plm_err *err);
/* Reads a small file whole; PLM_NOT_FOUND, PLM_LIMIT above 1 MiB. Wipe before reset. */
PLM_MUST_CHECK enum plm_code plm_s3_read_file(const char *path, struct plm_buf *buf,
                                              struct plm_err *err);
void plm_s3_wipe_buf(struct plm_buf *buf);
/* {"AccessKeyId": ..., "SecretAccessKey": ..., "Token": ..., "Expiration": ...} */
PLM_MUST_CHECK enum plm_code plm_s3_secret_json(struct plm_s3_secret *secret, const void *json,
                                                size_t n, struct plm_err *err);

struct plm_s3_creds {
    struct plm_ctx *ctx;
    pthread_mutex_t lock;
    struct plm_s3_secret *now;   /* NULL until first asked */
    struct plm_s3_secret *given; /* from the options, or NULL */
    double next_try_s;           /* no renewal ahead of time before this */
    char metadata[256];          /* base URL of the instance metadata, "" = the usual one */
};
/* Takes `given` (may be NULL). */
void plm_s3_creds_init(struct plm_s3_creds *creds, struct plm_ctx *ctx, struct plm_s3_secret *given);
void plm_s3_creds_reset(struct plm_s3_creds *creds);
/* *out is to be released. `stale`: the secret the server called expired, or NULL. PLM_DENIED
 * names every place looked at. */
PLM_MUST_CHECK enum plm_code plm_s3_creds_take(struct plm_s3_creds *creds,
                                               const struct plm_s3_secret *stale,
                                               struct plm_s3_secret **out, struct plm_err *err);

/* s3_metadata.c: credentials from the container or instance endpoint. *found false: there is
 * none to ask. */
PLM_MUST_CHECK enum plm_code plm_s3_from_container(struct plm_s3_creds *creds,
                                                   struct plm_s3_secret *into, bool *found,
                                                   struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_s3_from_instance(struct plm_s3_creds *creds,
                                                  struct plm_s3_secret *into, bool *found,
                                                  struct plm_err *err);

#endif
