/* s3_target.c - from bucket, key and query to URL, host and signed path. */
#ifdef PLM_WITH_S3

#include "store/s3.h"

void plm_s3_target_init(struct plm_s3_target *target, struct plm_ctx *ctx)
{
    plm_buf_init(&target->url, ctx, 32 << 10);
    plm_buf_init(&target->host, ctx, 4 << 10);
    plm_buf_init(&target->path, ctx, 16 << 10);
}

void plm_s3_target_reset(struct plm_s3_target *target)
{
    plm_buf_reset(&target->url);
    plm_buf_reset(&target->host);
    plm_buf_reset(&target->path);
}

static enum plm_code add(struct plm_buf *buf, const char *text, struct plm_err *err)
{
    return plm_buf_add(buf, text, strlen(text), err);
}

static enum plm_code terminate(struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = plm_buf_add(buf, "", 1, err);

    buf->len -= rc == PLM_OK;
    return rc;
}

static const char *amazon_domain(const char *region)
{
    return strncmp(region, "cn-", 3) == 0 ? "amazonaws.com.cn" : "amazonaws.com";
}

/* Host (with a port that is not the scheme's own) and the path in front of bucket or key. */
static enum plm_code make_host(struct plm_s3_target *t, const struct plm_s3_config *config,
                               const char *region, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const char *host = config->endpoint ? strstr(config->endpoint, "://") + 3 : "";
    size_t n = strcspn(host, "/"), bucket = strlen(config->bucket), kept = n;
    /* As in Lance, the endpoint may already name the bucket. */
    bool named = n > bucket && strncmp(host, config->bucket, bucket) == 0 && host[bucket] == '.';
    const char *port = config->endpoint && config->endpoint[4] == 's' ? ":443" : ":80";

    if (config->virtual_hosted && !named) {
        PLM_TRY(add(&t->host, config->bucket, err));
        PLM_TRY(add(&t->host, ".", err));
    }
    if (config->endpoint == NULL) {
        PLM_TRY(add(&t->host, "s3.", err));
        PLM_TRY(add(&t->host, region, err));
        PLM_TRY(add(&t->host, ".", err));
        PLM_TRY(add(&t->host, amazon_domain(region), err));
    } else {
        if (n > strlen(port) && memcmp(host + n - strlen(port), port, strlen(port)) == 0)
            kept = n - strlen(port);
        PLM_TRY(plm_buf_add(&t->host, host, kept, err));
        PLM_TRY(add(&t->path, host + n, err));
    }
done:
    return rc;
}

enum plm_code plm_s3_target_make(struct plm_s3_target *t, const struct plm_s3_config *config,
                                 const char *region, const char *key,
                                 const struct plm_s3_pair *query, size_t n_query,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    bool http = config->endpoint && config->endpoint[4] == ':';

    t->url.len = t->host.len = t->path.len = 0;
    PLM_TRY(make_host(t, config, region, err));
    if (!config->virtual_hosted) {
        PLM_TRY(add(&t->path, "/", err));
        PLM_TRY(plm_s3_encode(&t->path, config->bucket, false, err));
    }
    if (key[0] || config->virtual_hosted)
        PLM_TRY(add(&t->path, "/", err));
    PLM_TRY(plm_s3_encode(&t->path, key, true, err));
    PLM_TRY(add(&t->url, http ? "http://" : "https://", err));
    PLM_TRY(plm_buf_add(&t->url, t->host.data, t->host.len, err));
    PLM_TRY(plm_buf_add(&t->url, t->path.data, t->path.len, err));
    if (n_query > 0) {
        PLM_TRY(add(&t->url, "?", err));
        PLM_TRY(plm_s3_query(&t->url, query, n_query, err));
    }
    PLM_TRY(terminate(&t->url, err));
    PLM_TRY(terminate(&t->host, err));
    PLM_TRY(terminate(&t->path, err));
done:
    return rc;
}

#endif
