/* store_s3.c - the calls of store_impl.h over S3 requests. */
#ifdef PLM_WITH_S3

#include "store/s3.h"

enum plm_code plm_s3_key(const struct plm_s3 *s3, const char *path, struct plm_s3_request *request,
                         struct plm_err *err)
{
    const char *prefix = s3->client.config.prefix;
    int n = snprintf(request->key, sizeof request->key, "%s%s%s", prefix, *prefix && *path ? "/" : "",
                     path);

    if (n < 0 || (size_t)n >= sizeof request->key)
        return plm_fail(err, PLM_ARG, "s3://%s/%.100s...: the key is %d bytes long, S3 takes %d",
                        s3->client.config.bucket, prefix, n, PLM_S3_KEY_BYTES_MAX);
    return PLM_OK;
}

static void s3_close(struct plm_store *store)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_ctx *ctx = store->ctx;

    plm_s3_client_reset(&s3->client);
    plm_s3_shelf_reset(&s3->shelf);
    pthread_mutex_destroy(&s3->probe_lock);
    plm_store_options_free(ctx, store->options);
    plm_free(ctx, store->uri);
    plm_free(ctx, s3);
}

static const struct plm_store_ops s3_ops = {
    .close = s3_close,
    .file_open = plm_s3_file_open,
    .file_read_ranges = plm_s3_file_read_ranges,
    .file_expect = plm_s3_file_expect,
    .keep = plm_s3_keep,
    .file_close = plm_s3_file_close,
    .size = plm_s3_size,
    .list = plm_s3_list,
    .put = plm_s3_put,
    .put_probing = plm_s3_put_probing,
    .del = plm_s3_delete,
    .delete_tree = plm_s3_delete_tree,
    .writer_open = plm_s3_writer_open,
    .writer_write = plm_s3_writer_write,
    .writer_finish = plm_s3_writer_finish,
    .writer_close = plm_s3_writer_close,
    .uploads = plm_s3_uploads,
    .get = plm_s3_get,
};

enum plm_code plm_store_open_s3(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                struct plm_store **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3 *s3 = NULL;
    struct plm_s3_config config = {0};
    struct plm_s3_secret *given = NULL;

    PLM_TRY(plm_calloc(ctx, &s3, 1, sizeof *s3, err));
    s3->base.ops = &s3_ops;
    s3->base.ctx = ctx;
    pthread_mutex_init(&s3->probe_lock, NULL);
    plm_s3_shelf_init(&s3->shelf, ctx);
    PLM_TRY(plm_store_options_copy(ctx, options, &s3->base.options, err));
    PLM_TRY(plm_strdup(ctx, uri, &s3->base.uri, err));
    PLM_TRY(plm_s3_config_read(ctx, uri, (const char *const *)s3->base.options, &config, &given, err));
    plm_s3_client_init(&s3->client, ctx, &config, given);
    *out = &s3->base;
    s3 = NULL;
done:
    if (s3)
        s3_close(&s3->base);
    return rc;
}


#endif
