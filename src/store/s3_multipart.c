/* s3_multipart.c - the requests of one multipart upload. */
#ifdef PLM_WITH_S3

#include "store/s3_multipart.h"

void plm_s3_upload_request(const struct plm_s3_writer *w, const char *method,
                           struct plm_s3_request *q)
{
    *q = (struct plm_s3_request){.method = method, .n_query = 1,
                                 .query = {{"uploadId", w->upload_id}}};
    memcpy(q->key, w->key, sizeof q->key);
}

enum plm_code plm_s3_upload_begin(struct plm_s3_writer *w, struct plm_err *err)
{
    struct plm_ctx *ctx = w->base.store->ctx;
    enum plm_code rc = PLM_OK;
    struct plm_buf xml;
    struct plm_s3_request q = {.method = "POST", .into = &xml, .n_query = 1,
                               .query = {{"uploads", ""}}};

    plm_buf_init(&xml, ctx, 64 << 10);
    memcpy(q.key, w->key, sizeof q.key);
    PLM_TRY(plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err));
    rc = plm_s3_xml_upload(ctx, xml.data, xml.len, &w->upload_id, err);
    if (rc)
        rc = plm_wrap(err, rc, "%s: start of a multipart upload", w->base.name);
done:
    plm_buf_reset(&xml);
    return rc;
}

enum plm_code plm_s3_upload_abort(struct plm_s3_writer *w, struct plm_err *err)
{
    struct plm_s3_request q;
    enum plm_code rc;

    plm_s3_upload_request(w, "DELETE", &q);
    rc = plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err);
    return rc == PLM_NOT_FOUND ? PLM_OK : rc;
}

enum plm_code plm_s3_upload_parts(struct plm_s3_writer *w, struct plm_s3_parts *parts,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf xml;
    char marker[16];

    plm_buf_init(&xml, parts->ctx, 8 << 20);
    do {
        struct plm_s3_request q;

        xml.len = 0;
        plm_s3_upload_request(w, "GET", &q);
        q.into = &xml;
        q.is_list = true;
        snprintf(marker, sizeof marker, "%u", parts->next_marker);
        if (parts->next_marker > 0)
            q.query[q.n_query++] = (struct plm_s3_pair){"part-number-marker", marker};
        PLM_TRY(plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err));
        rc = plm_s3_xml_parts(xml.data, xml.len, parts, err);
        if (rc)
            PLM_TRY(plm_wrap(err, rc, "%s: parts of the upload", w->base.name));
    } while (parts->truncated);
done:
    plm_buf_reset(&xml);
    return rc;
}

/* Text for XML; tags come with their quotes. */
static enum plm_code add_escaped(struct plm_buf *xml, const char *text, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (const char *p = text; *p; p++) {
        const char *as = *p == '&' ? "&amp;" : *p == '<' ? "&lt;" : *p == '>' ? "&gt;" : NULL;

        PLM_TRY(as ? plm_buf_add(xml, as, strlen(as), err) : plm_buf_add(xml, p, 1, err));
    }
done:
    return rc;
}

static enum plm_code make_manifest(const struct plm_s3_parts *parts, struct plm_buf *xml,
                                   struct plm_err *err)
{
    static const char head[] =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
    static const char tail[] = "</CompleteMultipartUpload>";
    enum plm_code rc = PLM_OK;
    char line[80];

    PLM_TRY(plm_buf_add(xml, head, sizeof head - 1, err));
    for (size_t i = 0; i < parts->n; i++) {
        int n = snprintf(line, sizeof line, "<Part><PartNumber>%u</PartNumber><ETag>",
                         parts->items[i].number);

        PLM_TRY(plm_buf_add(xml, line, (size_t)n, err));
        PLM_TRY(add_escaped(xml, parts->items[i].etag, err));
        PLM_TRY(plm_buf_add(xml, "</ETag></Part>", 14, err));
    }
    PLM_TRY(plm_buf_add(xml, tail, sizeof tail - 1, err));
done:
    return rc;
}

/* The upload is gone after a try whose answer was lost: was it that try's doing? */
static enum plm_code is_complete(struct plm_s3_writer *w, size_t n_parts, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_request q = {.method = "HEAD"};
    char suffix[24];
    size_t n, tag;

    memcpy(q.key, w->key, sizeof q.key);
    PLM_TRY(plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err));
    n = (size_t)snprintf(suffix, sizeof suffix, "-%zu\"", n_parts);
    tag = strlen(q.reply.etag);
    if (!q.reply.has_length || q.reply.length != w->base.size_bytes || tag < n ||
        strcmp(q.reply.etag + tag - n, suffix) != 0)
        PLM_TRY(plm_fail(err, PLM_IO, "%s: the upload is gone and the object there is another one",
                         w->base.name));
done:
    return rc;
}

enum plm_code plm_s3_upload_complete(struct plm_s3_writer *w, const struct plm_s3_parts *parts,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf body, answer;
    struct plm_s3_request q;

    plm_buf_init(&body, parts->ctx, 4 << 20);
    plm_buf_init(&answer, parts->ctx, 1 << 20);
    PLM_TRY(make_manifest(parts, &body, err));
    plm_s3_upload_request(w, "POST", &q);
    q.body = body.data;
    q.body_bytes = body.len;
    q.into = &answer;
    q.error_in_200 = q.slow_answer = true;
    rc = plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err);
    if (rc == PLM_NOT_FOUND && q.unsure)
        rc = is_complete(w, parts->n, err);
done:
    plm_buf_reset(&body);
    plm_buf_reset(&answer);
    return rc;
}

#endif
