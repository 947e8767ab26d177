/* s3_writer.c - a big object from parts, written by several threads or processes.
 *
 * What parts other processes wrote is asked from S3 at the end, so nobody has to carry their tags
 * around. A writer of this process alone notes them itself, and begins no upload before its first
 * part: an object in one piece is one PUT.
 */
#ifdef PLM_WITH_S3

#include "store/s3_multipart.h"

#include <stdlib.h>

#define PART_BYTES_MIN ((uint64_t)5 << 20)
#define PARTS_MAX 10000
#define WHOLE_PUT_BYTES_MAX ((uint64_t)1 << 30)

static void free_writer(struct plm_s3_writer *w)
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

enum plm_code plm_s3_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                 const char *token, char **token_out, struct plm_writer **out,
                                 struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    enum plm_code rc = PLM_OK;
    struct plm_s3_writer *w = NULL;
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
    PLM_TRY(plm_format(store->ctx, &w->base.name, err, "s3://%s/%s", s3->client.config.bucket,
                       q.key));
    if (token)
        PLM_TRY(plm_s3_token_read(w, token, err));
    else if (w->is_shared)
        PLM_TRY(plm_s3_upload_begin(w, err));
    if (token_out) {
        rc = plm_s3_token_make(w, &fresh, err);
        if (rc && !token)
            (void)!plm_s3_upload_abort(w, NULL); /* nobody could ever name it again */
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
static enum plm_code put_whole(struct plm_s3_writer *w, const void *bytes, size_t n,
                               struct plm_err *err)
{
    struct plm_s3_request q = {.method = "PUT", .body = bytes, .body_bytes = n};
    enum plm_code rc;

    memcpy(q.key, w->key, sizeof q.key);
    rc = plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err);
    w->is_put = rc == PLM_OK;
    return rc;
}

static enum plm_code begin_once(struct plm_s3_writer *w, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&w->lock);
    if (w->upload_id == NULL)
        rc = plm_s3_upload_begin(w, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* A part written twice counts as it was the second time. */
static enum plm_code note_part(struct plm_s3_writer *w, unsigned number, size_t n,
                               const struct plm_s3_reply *reply, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t at = 0;

    pthread_mutex_lock(&w->lock);
    while (at < w->parts.n && w->parts.items[at].number != number)
        at++;
    PLM_TRY(plm_grow(w->parts.ctx, &w->parts.items, &w->parts.cap, at, sizeof *w->parts.items,
                     err));
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
    struct plm_s3_writer *w = (struct plm_s3_writer *)writer;
    struct plm_s3_request q;
    char number[16];
    enum plm_code rc = PLM_OK;

    if (part > PARTS_MAX)
        return plm_fail(err, PLM_ARG, "%s: part %u, expected 1..%d", writer->name, part, PARTS_MAX);
    if (n < PART_BYTES_MIN && offset + n != writer->size_bytes)
        return plm_fail(err, PLM_ARG,
                        "%s: part %u has %zu bytes, every part but the last needs 5 MiB",
                        writer->name, part, n);
    if (!w->is_shared && n == writer->size_bytes && n <= WHOLE_PUT_BYTES_MAX)
        return put_whole(w, bytes, n, err);
    PLM_TRY(begin_once(w, err));
    snprintf(number, sizeof number, "%u", part);
    plm_s3_upload_request(w, "PUT", &q);
    q.query[q.n_query++] = (struct plm_s3_pair){"partNumber", number};
    q.body = bytes;
    q.body_bytes = n;
    PLM_TRY(plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err));
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
static enum plm_code check_parts(const struct plm_s3_writer *w, struct plm_s3_parts *parts,
                                 struct plm_err *err)
{
    uint64_t sum = 0;

    if (parts->n > 1)
        qsort(parts->items, parts->n, sizeof *parts->items, by_number);
    for (size_t i = 0; i < parts->n; i++)
        if (__builtin_add_overflow(sum, parts->items[i].size_bytes, &sum))
            sum = UINT64_MAX; /* no object is as large, so the sizes differ */
    if (sum != w->base.size_bytes)
        return plm_fail(err, PLM_IO,
                        "%s: the %zu parts written hold %" PRIu64 " bytes, expected %" PRIu64,
                        w->base.name, parts->n, sum, w->base.size_bytes);
    return PLM_OK;
}

/* S3 has no multipart upload of nothing: an empty object is a plain PUT. */
static enum plm_code finish_empty(struct plm_s3_writer *w, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_request q = {.method = "PUT"};

    memcpy(q.key, w->key, sizeof q.key);
    if (w->upload_id)
        PLM_TRY(plm_s3_upload_abort(w, err));
    PLM_TRY(plm_s3_one(&plm_s3_of(w->base.store)->client, &q, err));
done:
    return rc;
}

enum plm_code plm_s3_writer_finish(struct plm_writer *writer, struct plm_err *err)
{
    struct plm_s3_writer *w = (struct plm_s3_writer *)writer;
    enum plm_code rc = PLM_OK;

    if (writer->size_bytes == 0)
        return finish_empty(w, err);
    if (w->is_put)
        return PLM_OK;
    if (w->is_shared || w->lacks_tag) {
        w->parts.n = w->parts.next_marker = 0;
        PLM_TRY(plm_s3_upload_parts(w, &w->parts, err));
    }
    PLM_TRY(check_parts(w, &w->parts, err));
    PLM_TRY(plm_s3_upload_complete(w, &w->parts, err));
done:
    return rc;
}

void plm_s3_writer_close(struct plm_writer *writer, bool remove)
{
    struct plm_s3_writer *w = (struct plm_s3_writer *)writer;
    struct plm_err err;

    if (w && remove && w->upload_id && plm_s3_upload_abort(w, &err) != PLM_OK)
        plm_warn(writer->store->ctx, "%s: unfinished upload stays behind: %s; pilum gc removes it",
                 writer->name, err.message);
    if (w && remove && w->is_put) {
        struct plm_s3_request q = {.method = "DELETE"};

        memcpy(q.key, w->key, sizeof q.key);
        if (plm_s3_one(&plm_s3_of(w->base.store)->client, &q, &err) != PLM_OK)
            plm_warn(writer->store->ctx, "%s stays behind: %s", writer->name, err.message);
    }
    free_writer(w);
}

#endif
