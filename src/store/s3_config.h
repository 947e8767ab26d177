/* s3_config.h - where a bucket is and how it is spoken to: settings, and the URLs made from them.
 *
 * Owns     what a config or a target holds is freed by its reset.
 */
#ifndef PLM_S3_CONFIG_H
#define PLM_S3_CONFIG_H

#include "store/s3_creds.h"

struct plm_s3_config {
    char bucket[64];
    char *prefix;       /* without '/' at its ends; "" = the bucket */
    char *endpoint;     /* "https://host[:port][/path]" without '/' at the end; NULL = AWS */
    char *ca_file;      /* NULL = the system's */
    char region[64];    /* where to start */
    bool region_given;  /* else the bucket's own is learnt from its first refusal */
    bool virtual_hosted, allow_http, anonymous;
    double connect_s, attempt_s, stall_s, retry_s; /* attempt_s 0 = no limit */
    unsigned connections; /* of one call */
    char metadata[256];
};
/* *given: the secret in the options, or NULL. Release with plm_s3_config_reset(). */
PLM_MUST_CHECK enum plm_code plm_s3_config_read(struct plm_ctx *ctx, const char *uri,
                                                const char *const *options,
                                                struct plm_s3_config *out,
                                                struct plm_s3_secret **given, struct plm_err *err);
void plm_s3_config_reset(struct plm_ctx *ctx, struct plm_s3_config *config);

/* Where a request goes. The texts are NUL-terminated in `url`, `host`, `path`. */
struct plm_s3_target {
    struct plm_buf url, host, path;
};
void plm_s3_target_init(struct plm_s3_target *target, struct plm_ctx *ctx);
void plm_s3_target_reset(struct plm_s3_target *target);
/* key "" = the bucket itself. */
PLM_MUST_CHECK enum plm_code plm_s3_target_make(struct plm_s3_target *target,
                                                const struct plm_s3_config *config,
                                                const char *region, const char *key,
                                                const struct plm_s3_pair *query, size_t n_query,
                                                struct plm_err *err);

#endif
