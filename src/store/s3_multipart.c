/* s3_multipart.c - a big object from parts, written by several threads or processes.
 *
 * The token is "s3:<upload id>:<key>", both percent-encoded. What parts other processes wrote is asked
 * from S3 at the end, so nobody has to carry their tags around. A writer of this process alone
 * notes them itself, and begins no upload before its first part: an object in one piece is one PUT.
 */
#ifdef PLM_WITH_S3

#include "store/s3.h"
#include "store/s3_xml.h"

#include <stdlib.h>

#define PART_BYTES_MIN ((uint64_t)5 << 20)
#define WHOLE_PUT_BYTES_MAX ((uint64_t)1 << 30)

struct s3_writer {
    struct plm_writer base;
    pthread_mutex_t lock; /* of what follows */
    char *upload_id;      /* NULL: not begun */
    bool is_shared;       /* other processes write parts, too */
    bool is_put;          /* in one piece, and there */
    struct plm_s3_parts parts; /* written here, in no order */
    bool lacks_tag; /* the server named no tag for a part: then it is asked after all */
    char key[PLM_S3_KEY_BYTES_MAX + 1];
};

static struct plm_s3 *s3_of(struct s3_writer *w)
{
    return (struct plm_s3 *)w->base.store;
}

static void request_of(const struct s3_writer *w, const char *method, struct plm_s3_request *q)
{
    *q = (struct plm_s3_request){.method = method, .n_query = 1,
                                 .query = {{"uploadId", w->upload_id}}};
    memcpy(q->key, w->key, sizeof q->key);
}

static void free_writer(struct s3_writer *w)
{
    struct plm_ctx *ctx;

    if (w == NULL)
        return;
    ctx = w->base.store->ctx;
    plm_free(ctx, w->parts.items);
    pthread_mutex_destroy(&w->lock);
    plm_free(ctx, w->upload_id);
    plm_free(ctx, w->base.name);
    plm_free(ctx, w);
}

static enum plm_code abort_upload(struct s3_writer *w, struct plm_err *err)
{
    struct plm_s3_request q;
    enum plm_code rc;

    request_of(w, "DELETE", &q);
    rc = plm_s3_one(&s3_of(w)->client, &q, err);
    return rc == PLM_NOT_FOUND ? PLM_OK : rc;
}

/* ---- the token ----------------------------------------------------------------- */

static enum plm_code make_token(const struct s3_writer *w, char **out, struct plm_err *err)
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

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The upload id inside a token, decoded; only its own making is accepted. */
static enum plm_code read_token(struct s3_writer *w, const char *token, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *again = NULL, *to;
    size_t n = strncmp(token, "s3:", 3) == 0 ? strcspn(token + 3, ":") : 0;

    PLM_TRY(plm_strndup(w->base.store->ctx, token + (n ? 3 : 0), n, &w->upload_id, err));
    to = w->upload_id;
    for (const char *p = w->upload_id; *p; p++) {
        int high = *p == '%' ? hex_digit(p[1]) : -1;
        int low = high < 0 ? -1 : hex_digit(p[2]);

        *to++ = low < 0 ? *p : (char)(high * 16 + low);
        p += low < 0 ? 0 : 2;
    }
    *to = 0;
    PLM_TRY(make_token(w, &again, err));
    if (n == 0 || strcmp(again, token) != 0)
        PLM_TRY(plm_fail(err, PLM_ARG, "%s: the token \"%.100s\" is not of an upload to this object",
                         w->base.name, token));
done:
    plm_free(w->base.store->ctx, again);
    return rc;
}

/* ---- calls ---------------------------------------------------------------------- */

static enum plm_code begin_upload(struct s3_writer *w, struct plm_err *err)
{
    struct plm_ctx *ctx = w->base.store->ctx;
    enum plm_code rc = PLM_OK;
    struct plm_buf xml;
    struct plm_s3_request q = {.method = "POST", .into = &xml, .n_query = 1, .query = {{"uploads", ""}}};

    plm_buf_init(&xml, ctx, 64 << 10);
    memcpy(q.key, w->key, sizeof q.key);
    PLM_TRY(plm_s3_one(&s3_of(w)->client, &q, err));
    rc = plm_s3_xml_upload(ctx, xml.data, xml.len, &w->upload_id, err);
    if (rc)
        rc = plm_wrap(err, rc, "%s: start of a multipart upload", w->base.name);
done:
    plm_buf_reset(&xml);
    return rc;
}

enum plm_code plm_s3_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                 const char *token, char **token_out, struct plm_writer **out,
                                 struct plm_err *err)
{
    struct plm_s3 *s3 = (struct plm_s3 *)store;
    enum plm_code rc = PLM_OK;
    struct s3_writer *w = NULL;
    struct plm_s3_request q = {0}; /* for its key */
    char *fresh = NULL;

    PLM_TRY(plm_calloc(store->ctx, &w, 1, sizeof *w, err));
    pthread_mutex_init(&w->lock, NULL);
    w->parts.ctx = store->ctx;
    w->is_shared = token || token_out;
    w->base.store = store;
    w->base.size_bytes = size_bytes;
    PLM_TRY(plm_s3_key(s3, path, &q, err));
    memcpy(w->key, q.key, sizeof w->key);
    PLM_TRY(plm_format(store->ctx, &w->base.name, err, "s3://%s/%s", s3->client.config.bucket, q.key));
    if (token)
        PLM_TRY(read_token(w, token, err));
    else if (w->is_shared)
        PLM_TRY(begin_upload(w, err));
    if (token_out) {
        rc = make_token(w, &fresh, err);
        if (rc && !token)
            (void)!abort_upload(w, NULL); /* nobody could ever name it again */
        PLM_TRY(rc);
        *token_out = fresh;
    }
    *out = &w->base;
    w = NULL;
done:
    free_writer(w);
    return rc;
}

/* All of a small object. */
static enum plm_code put_whole(struct s3_writer *w, const void *bytes, size_t n, struct plm_err *err)
{
    struct plm_s3_request q = {.method = "PUT", .body = bytes, .body_bytes = n};
    enum plm_code rc;

    memcpy(q.key, w->key, sizeof q.key);
    rc = plm_s3_one(&s3_of(w)->client, &q, err);
    w->is_put = rc == PLM_OK;
    return rc;
}

static enum plm_code begin_once(struct s3_writer *w, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&w->lock);
    if (w->upload_id == NULL)
        rc = begin_upload(w, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* A part written twice counts as it was the second time. */
static enum plm_code note_part(struct s3_writer *w, unsigned number, size_t n,
                               const struct plm_s3_reply *reply, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t at = 0;

    pthread_mutex_lock(&w->lock);
    while (at < w->parts.n && w->parts.items[at].number != number)
        at++;
    if (at == w->parts.cap) {
        size_t cap = w->parts.cap ? 2 * w->parts.cap : 16;

        PLM_TRY(plm_realloc(w->parts.ctx, &w->parts.items, cap, sizeof *w->parts.items, err));
        w->parts.cap = cap;
    }
    w->parts.n = plm_max_size(w->parts.n, at + 1);
    w->parts.items[at].number = number;
    w->parts.items[at].size_bytes = n;
    memcpy(w->parts.items[at].etag, reply->etag, sizeof reply->etag);
    w->lacks_tag = w->lacks_tag || reply->etag[0] == 0;
done:
    pthread_mutex_unlock(&w->lock);
    return rc;
}

enum plm_code plm_s3_writer_write(struct plm_writer *writer, unsigned part, uint64_t offset,
                                  const void *bytes, size_t n, struct plm_err *err)
{
    struct s3_writer *w = (struct s3_writer *)writer;
    struct plm_s3_request q;
    char number[16];
    enum plm_code rc = PLM_OK;

    if (n < PART_BYTES_MIN && offset + n != writer->size_bytes)
        return plm_fail(err, PLM_ARG, "%s: part %u has %zu bytes, every part but the last needs 5 MiB",
                        writer->name, part, n);
    if (!w->is_shared && n == writer->size_bytes && n <= WHOLE_PUT_BYTES_MAX)
        return put_whole(w, bytes, n, err);
    PLM_TRY(begin_once(w, err));
    snprintf(number, sizeof number, "%u", part);
    request_of(w, "PUT", &q);
    q.query[q.n_query++] = (struct plm_s3_pair){"partNumber", number};
    q.body = bytes;
    q.body_bytes = n;
    PLM_TRY(plm_s3_one(&s3_of(w)->client, &q, err));
    if (!w->is_shared)
        PLM_TRY(note_part(w, part, n, &q.reply, err));
done:
    return rc;
}

static int by_number(const void *a, const void *b)
{
    const struct plm_s3_part *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

/* Together the parts must be the whole object. */
static enum plm_code check_parts(const struct s3_writer *w, struct plm_s3_parts *parts, struct plm_err *err)
{
    uint64_t sum = 0;

    if (parts->n > 1)
        qsort(parts->items, parts->n, sizeof *parts->items, by_number);
    for (size_t i = 0; i < parts->n; i++)
        sum += parts->items[i].size_bytes; /* at most 10000: cannot wrap below the true size */
    if (sum != w->base.size_bytes)
        return plm_fail(err, PLM_IO, "%s: the %zu parts written hold %" PRIu64 " bytes, expected %" PRIu64,
                        w->base.name, parts->n, sum, w->base.size_bytes);
    return PLM_OK;
}

/* All parts S3 has. */
static enum plm_code list_parts(struct s3_writer *w, struct plm_s3_parts *parts, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf xml;
    char marker[16];

    plm_buf_init(&xml, parts->ctx, 8 << 20);
    do {
        struct plm_s3_request q;

        xml.len = 0;
        request_of(w, "GET", &q);
        q.into = &xml;
        q.is_list = true;
        snprintf(marker, sizeof marker, "%u", parts->next_marker);
        if (parts->n > 0)
            q.query[q.n_query++] = (struct plm_s3_pair){"part-number-marker", marker};
        PLM_TRY(plm_s3_one(&s3_of(w)->client, &q, err));
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
    static const char head[] = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
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
static enum plm_code is_complete(struct s3_writer *w, size_t n_parts, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_request q = {.method = "HEAD"};
    char suffix[24];
    size_t n, tag;

    memcpy(q.key, w->key, sizeof q.key);
    PLM_TRY(plm_s3_one(&s3_of(w)->client, &q, err));
    n = (size_t)snprintf(suffix, sizeof suffix, "-%zu\"", n_parts);
    tag = strlen(q.reply.etag);
    if (!q.reply.has_length || q.reply.length != w->base.size_bytes || tag < n ||
        strcmp(q.reply.etag + tag - n, suffix) != 0)
        PLM_TRY(plm_fail(err, PLM_IO, "%s: the upload is gone and the object there is another one",
                         w->base.name));
done:
    return rc;
}

static enum plm_code complete(struct s3_writer *w, const struct plm_s3_parts *parts,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf body, answer;
    struct plm_s3_request q;

    plm_buf_init(&body, parts->ctx, 4 << 20);
    plm_buf_init(&answer, parts->ctx, 1 << 20);
    PLM_TRY(make_manifest(parts, &body, err));
    request_of(w, "POST", &q);
    q.body = body.data;
    q.body_bytes = body.len;
    q.into = &answer;
    q.error_in_200 = q.slow_answer = true;
    rc = plm_s3_one(&s3_of(w)->client, &q, err);
    if (rc == PLM_NOT_FOUND && q.unsure)
        rc = is_complete(w, parts->n, err);
done:
    plm_buf_reset(&body);
    plm_buf_reset(&answer);
    return rc;
}

/* S3 has no multipart upload of nothing: an empty object is a plain PUT. */
static enum plm_code finish_empty(struct s3_writer *w, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_request q = {.method = "PUT"};

    memcpy(q.key, w->key, sizeof q.key);
    if (w->upload_id)
        PLM_TRY(abort_upload(w, err));
    PLM_TRY(plm_s3_one(&s3_of(w)->client, &q, err));
done:
    return rc;
}

enum plm_code plm_s3_writer_finish(struct plm_writer *writer, struct plm_err *err)
{
    struct s3_writer *w = (struct s3_writer *)writer;
    enum plm_code rc = PLM_OK;

    if (writer->size_bytes == 0)
        return finish_empty(w, err);
    if (w->is_put)
        return PLM_OK;
    if (w->is_shared || w->lacks_tag) {
        w->parts.n = 0;
        PLM_TRY(list_parts(w, &w->parts, err));
    }
    PLM_TRY(check_parts(w, &w->parts, err));
    PLM_TRY(complete(w, &w->parts, err));
done:
    return rc;
}

void plm_s3_writer_close(struct plm_writer *writer, bool remove)
{
    struct s3_writer *w = (struct s3_writer *)writer;
    struct plm_err err;

    if (w && remove && w->upload_id && abort_upload(w, &err) != PLM_OK)
        plm_warn(writer->store->ctx, "%s: unfinished upload stays behind: %s; pilum gc removes it",
                 writer->name, err.message);
    if (w && remove && w->is_put) {
        struct plm_s3_request q = {.method = "DELETE"};

        memcpy(q.key, w->key, sizeof q.key);
        if (plm_s3_one(&s3_of(w)->client, &q, &err) != PLM_OK)
            plm_warn(writer->store->ctx, "%s stays behind: %s", writer->name, err.message);
    }
    free_writer(w);
}

/* ---- what others left ------------------------------------------------------------- */

/* Upload ids to tokens, from item `first` on. */
static enum plm_code name_uploads(struct plm_s3 *s3, struct plm_uploads *list, size_t first,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = first; i < list->n; i++) {
        struct plm_s3_request q = {0}; /* for its key */
        struct s3_writer w = {.base.store = &s3->base, .upload_id = list->items[i].token};
        char *token = NULL;

        PLM_TRY(plm_s3_key(s3, list->items[i].path, &q, err));
        memcpy(w.key, q.key, sizeof w.key);
        PLM_TRY(make_token(&w, &token, err));
        plm_free(list->ctx, list->items[i].token);
        list->items[i].token = token;
    }
done:
    return rc;
}

enum plm_code plm_s3_uploads(struct plm_store *store, const char *dir, struct plm_uploads *out,
                             struct plm_err *err)
{
    struct plm_s3 *s3 = (struct plm_s3 *)store;
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
            PLM_TRY(plm_wrap(err, rc, "s3://%s/%s: unfinished uploads", s3->client.config.bucket, prefix));
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
