/* s3_xml_uploads.c - ListMultipartUploads: one page of what was begun and not finished. */
#ifdef PLM_WITH_S3

#include "store/s3_xml_impl.h"

struct uploads_reader {
    const char *prefix;
    size_t n_root;
    struct plm_uploads *uploads;
    size_t cap;
    struct plm_s3_upload_page *page;
    struct plm_upload open;
    bool complete;
};

static void free_upload(struct plm_ctx *ctx, struct plm_upload *u)
{
    plm_free(ctx, u->path);
    plm_free(ctx, u->token);
    *u = (struct plm_upload){0};
}

/* Uploads elsewhere are passed over, whatever was asked for: not ours to touch. */
static enum plm_code close_upload(struct plm_xml *r, struct plm_err *err)
{
    struct uploads_reader *u = r->into;
    struct plm_uploads *list = u->uploads;
    size_t n = strlen(u->prefix);
    enum plm_code rc = PLM_OK;

    if (!u->open.path || !u->open.token || !*u->open.token)
        return plm_fail(err, PLM_CORRUPT, "list of uploads has one without key or id");
    if (strncmp(u->open.path, u->prefix, n) != 0 || u->open.path[n] == 0) {
        free_upload(r->ctx, &u->open);
        return PLM_OK;
    }
    memmove(u->open.path, u->open.path + u->n_root, strlen(u->open.path + u->n_root) + 1);
    PLM_TRY(plm_grow(r->ctx, &list->items, &u->cap, list->n, sizeof *list->items, err));
    list->items[list->n++] = u->open;
    u->open = (struct plm_upload){0};
done:
    return rc;
}

static enum plm_code keep_text(struct plm_xml *r, char **to, struct plm_err *err)
{
    return *to ? plm_fail(err, PLM_CORRUPT, "list of uploads says something twice")
               : plm_strdup(r->ctx, r->text, to, err);
}

static enum plm_code uploads_leaf(struct plm_xml *r, const char *parent, const char *name,
                                  struct plm_err *err)
{
    struct uploads_reader *u = r->into;

    if (r->depth == 1)
        u->complete = strncmp(name, "ListMultipartUploads", 20) == 0;
    else if (r->depth == 2 && plm_xml_is(name, "IsTruncated"))
        u->page->truncated = plm_xml_is(r->text, "true");
    else if (r->depth == 2 && plm_xml_is(name, "NextKeyMarker") && r->text[0])
        return keep_text(r, &u->page->next_key, err);
    else if (r->depth == 2 && plm_xml_is(name, "NextUploadIdMarker") && r->text[0])
        return keep_text(r, &u->page->next_id, err);
    else if (r->depth == 2 && plm_xml_is(name, "Upload"))
        return close_upload(r, err);
    else if (r->depth != 3 || !plm_xml_is(parent, "Upload"))
        return PLM_OK;
    else if (plm_xml_is(name, "Key"))
        return keep_text(r, &u->open.path, err);
    else if (plm_xml_is(name, "UploadId"))
        return keep_text(r, &u->open.token, err);
    else if (plm_xml_is(name, "Initiated"))
        u->open.begun_ms = plm_s3_time(r->text);
    return PLM_OK;
}

void plm_s3_upload_page_reset(struct plm_ctx *ctx, struct plm_s3_upload_page *page)
{
    plm_free(ctx, page->next_key);
    plm_free(ctx, page->next_id);
    *page = (struct plm_s3_upload_page){0};
}

enum plm_code plm_s3_xml_uploads(const void *xml, size_t n, const char *prefix, const char *root,
                                 struct plm_uploads *uploads, struct plm_s3_upload_page *page,
                                 struct plm_err *err)
{
    struct plm_ctx *ctx = uploads->ctx;
    struct plm_s3_upload_page got = {0};
    struct uploads_reader u = {.prefix = prefix, .n_root = strlen(root), .uploads = uploads,
                               .cap = uploads->n, .page = &got};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_xml_read(ctx, xml, n, uploads_leaf, &u, err));
    if (!u.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListMultipartUploadsResult"));
    if (got.truncated && (!got.next_key || !got.next_id))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "list of uploads is cut short without a marker"));
    *page = got;
    got = (struct plm_s3_upload_page){0};
done:
    free_upload(ctx, &u.open);
    plm_s3_upload_page_reset(ctx, &got);
    return rc;
}

#endif
