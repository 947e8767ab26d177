/* s3_uploads.c - uploads that were begun and never finished, by whomever. */
#ifdef PLM_WITH_S3

#include "store/s3_multipart.h"

/* Upload ids to tokens, from item `first` on. */
static enum plm_code name_uploads(struct plm_s3 *s3, struct plm_uploads *list, size_t first,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = first; i < list->n; i++) {
        struct plm_s3_request q = {0}; /* for its key */
        struct plm_s3_writer w = {.base.store = &s3->base, .upload_id = list->items[i].token};
        char *token = NULL;

        PLM_TRY(plm_s3_key(s3, list->items[i].path, &q, err));
        memcpy(w.key, q.key, sizeof w.key);
        PLM_TRY(plm_s3_token_make(&w, &token, err));
        plm_free(list->ctx, list->items[i].token);
        list->items[i].token = token;
    }
done:
    return rc;
}

enum plm_code plm_s3_uploads(struct plm_store *store, const char *dir, struct plm_uploads *out,
                             struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_uploads list = {.ctx = store->ctx};
    struct plm_s3_upload_page page = {0}, next = {0};
    struct plm_buf xml;
    char *root = NULL, *prefix = NULL;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&xml, store->ctx, 8 << 20);
    PLM_TRY(plm_format(store->ctx, &root, err, "%s%s", s3->client.config.prefix,
                       *s3->client.config.prefix ? "/" : ""));
    PLM_TRY(plm_format(store->ctx, &prefix, err, "%s%s%s", root, dir, *dir ? "/" : ""));
    do {
        struct plm_s3_request q = {.method = "GET", .into = &xml, .is_list = true, .n_query = 2,
                                   .query = {{"uploads", ""}, {"prefix", prefix}}};
        size_t first = list.n;

        xml.len = 0;
        if (page.truncated) {
            q.query[q.n_query++] = (struct plm_s3_pair){"key-marker", page.next_key};
            q.query[q.n_query++] = (struct plm_s3_pair){"upload-id-marker", page.next_id};
        }
        PLM_TRY(plm_s3_one(&s3->client, &q, err));
        rc = plm_s3_xml_uploads(xml.data, xml.len, prefix, root, &list, &next, err);
        if (rc)
            PLM_TRY(plm_wrap(err, rc, "s3://%s/%s: unfinished uploads", s3->client.config.bucket,
                             prefix));
        PLM_TRY(name_uploads(s3, &list, first, err));
        if (next.truncated && page.truncated && strcmp(next.next_key, page.next_key) == 0 &&
            strcmp(next.next_id, page.next_id) == 0)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "list of uploads repeats its marker"));
        plm_s3_upload_page_reset(store->ctx, &page);
        page = next;
        next = (struct plm_s3_upload_page){0};
    } while (page.truncated);
    *out = list;
    list = (struct plm_uploads){0};
done:
    plm_s3_upload_page_reset(store->ctx, &page);
    plm_s3_upload_page_reset(store->ctx, &next);
    plm_uploads_reset(&list);
    plm_buf_reset(&xml);
    plm_free(store->ctx, prefix);
    plm_free(store->ctx, root);
    return rc;
}

#endif
