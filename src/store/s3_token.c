/* s3_token.c - what names an upload to other processes: "s3:<upload id>:<key>", percent-encoded. */
#ifdef PLM_WITH_S3

#include "store/s3_multipart.h"

enum plm_code plm_s3_token_make(const struct plm_s3_writer *w, char **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = w->base.store->ctx;
    struct plm_buf text;

    plm_buf_init(&text, ctx, 16 << 10);
    PLM_TRY(plm_buf_add(&text, "s3:", 3, err));
    PLM_TRY(plm_s3_encode(&text, w->upload_id, false, err));
    PLM_TRY(plm_buf_add(&text, ":", 1, err));
    PLM_TRY(plm_s3_encode(&text, w->key, false, err));
    PLM_TRY(plm_strndup(ctx, (const char *)text.data, text.len, out, err));
done:
    plm_buf_reset(&text);
    return rc;
}

/* Only what plm_s3_token_make() makes is accepted. */
enum plm_code plm_s3_token_read(struct plm_s3_writer *w, const char *token, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *again = NULL;
    const char *bad;
    size_t n = strncmp(token, "s3:", 3) == 0 ? strcspn(token + 3, ":") : 0;

    PLM_TRY(plm_strndup(w->base.store->ctx, token + (n ? 3 : 0), n, &w->upload_id, err));
    bad = plm_percent_decode(w->upload_id, false);
    PLM_TRY(plm_s3_token_make(w, &again, err));
    if (n == 0 || bad || strcmp(again, token) != 0)
        PLM_TRY(plm_fail(err, PLM_ARG,
                         "%s: the token \"%.100s\" is not of an upload to this object",
                         w->base.name, token));
done:
    plm_free(w->base.store->ctx, again);
    return rc;
}

#endif
