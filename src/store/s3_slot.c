/* s3_slot.c - one try: head and signature out, body in, checked as it comes. */
#ifdef PLM_WITH_S3

#include "store/s3_slot.h"
#include "store/s3_xml.h"

#include <openssl/crypto.h>

#define ERROR_BODY_MAX ((size_t)64 << 10)
#define SLOW_ANSWER_S 300.0

void plm_s3_slot_init(struct plm_s3_slot *slot, struct plm_s3_client *client)
{
    *slot = (struct plm_s3_slot){.client = client};
    plm_s3_target_init(&slot->target, client->ctx);
    plm_buf_init(&slot->authorization, client->ctx, 64 << 10);
    plm_buf_init(&slot->error_body, client->ctx, ERROR_BODY_MAX);
}

static void end_try(struct plm_s3_slot *slot)
{
    plm_s3_secret_release(slot->secret);
    slot->secret = NULL;
}

void plm_s3_slot_clear(struct plm_s3_slot *slot)
{
    struct plm_s3_target target = slot->target;
    struct plm_buf authorization = slot->authorization, error_body = slot->error_body;
    struct plm_s3_client *client = slot->client;

    end_try(slot);
    *slot = (struct plm_s3_slot){.client = client, .target = target,
                                 .authorization = authorization, .error_body = error_body};
}

void plm_s3_slot_reset(struct plm_s3_slot *slot, struct plm_http *http)
{
    if (slot->state == PLM_S3_SLOT_FLYING && http)
        http->drop(http, &slot->call);
    end_try(slot);
    plm_s3_target_reset(&slot->target);
    plm_buf_reset(&slot->authorization);
    plm_buf_reset(&slot->error_body);
}

/* ---- out ---------------------------------------------------------------------- */

static void add_header(struct plm_s3_slot *slot, const char *name, const char *value)
{
    PLM_ASSERT(slot->call.n_headers < PLM_S3_PAIRS_MAX);
    slot->call.headers[slot->call.n_headers++] = (struct plm_s3_pair){name, value};
}

static bool is_get(const struct plm_s3_request *q)
{
    return strcmp(q->method, "GET") == 0;
}

/* Carries on behind what came already, if it is sure to be the same object; else from the start. */
static void add_range(struct plm_s3_slot *slot)
{
    struct plm_s3_request *q = &slot->request;

    if (!is_get(q))
        return;
    if (q->n_got > 0 && slot->etag[0] == 0) {
        q->n_got = 0;
        slot->piece = 0;
        if (q->into)
            q->into->len = slot->into_base;
    }
    if (q->ranged)
        snprintf(slot->range, sizeof slot->range, "bytes=%" PRIu64 "-%" PRIu64, q->first + q->n_got,
                 q->first + q->n_bytes - 1);
    else if (q->n_got > 0)
        snprintf(slot->range, sizeof slot->range, "bytes=%" PRIu64 "-", q->n_got);
    if (q->ranged || q->n_got > 0)
        add_header(slot, "range", slot->range);
    else if (!q->is_list)
        add_header(slot, "x-amz-checksum-mode", "ENABLED");
    if (q->n_got > 0 || q->if_match)
        add_header(slot, "if-match", q->n_got > 0 ? slot->etag : q->if_match);
}

static enum plm_code add_headers(struct plm_s3_slot *slot, struct plm_err *err)
{
    struct plm_s3_request *q = &slot->request;
    enum plm_code rc = PLM_OK;
    int64_t now = (int64_t)plm_unix_millis() + atomic_load(&slot->client->skew_ms);
    uint8_t digest[32];

    plm_s3_date(now, slot->date);
    if (slot->payload_sha256[0] == 0) {
        PLM_TRY(plm_s3_sha256(q->body, q->body_bytes, digest, err));
        plm_s3_hex(digest, 32, slot->payload_sha256);
    }
    slot->call.n_headers = 0;
    add_header(slot, "host", (const char *)slot->target.host.data);
    if (!slot->client->config.anonymous) {
        add_header(slot, "x-amz-date", slot->date);
        add_header(slot, "x-amz-content-sha256", slot->payload_sha256);
    }
    add_range(slot);
    if (q->if_absent)
        add_header(slot, "if-none-match", "*");
done:
    return rc;
}

static enum plm_code sign(struct plm_s3_slot *slot, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_secret *stale = slot->renew ? slot->secret : NULL, *use = NULL;
    struct plm_s3_signing what = {.method = slot->request.method,
                                  .path = (const char *)slot->target.path.data,
                                  .query = slot->request.query, .n_query = slot->request.n_query,
                                  .payload_sha256 = slot->payload_sha256, .date = slot->date,
                                  .region = slot->region, .service = "s3"};

    if (slot->client->config.anonymous)
        return PLM_OK;
    PLM_TRY(plm_s3_creds_take(&slot->client->creds, stale, &use, err));
    end_try(slot);
    slot->renew = false;
    slot->secret = use;
    if (use->token[0])
        add_header(slot, "x-amz-security-token", use->token);
    what.headers = slot->call.headers;
    what.n_headers = slot->call.n_headers;
    slot->authorization.len = 0;
    PLM_TRY(plm_s3_authorization(&slot->authorization, &what, use->key_id, use->key, err));
    add_header(slot, "authorization", (const char *)slot->authorization.data);
done:
    return rc;
}

/* ---- in ----------------------------------------------------------------------- */

static void on_status(void *user, long status)
{
    struct plm_s3_slot *slot = user;

    slot->request.reply = (struct plm_s3_reply){.status = status};
    slot->error_body.len = 0;
}

static void on_header(void *user, const char *name, const char *value)
{
    struct plm_s3_slot *slot = user;

    plm_s3_reply_header(&slot->request.reply, name, value);
}

/* A finding of ours about the answer, for good: another try would bring the same. */
static bool reject(struct plm_s3_slot *slot, enum plm_code code, const char *what, uint64_t seen,
                   uint64_t expected)
{
    slot->failed = plm_fail(&slot->failure, code,
                            "s3://%s/%s: %s: seen %" PRIu64 ", expected %" PRIu64,
                            slot->client->config.bucket, slot->request.key, what, seen, expected);
    return false;
}

static bool suits_range(struct plm_s3_slot *slot, uint64_t from, uint64_t to)
{
    const struct plm_s3_reply *r = &slot->request.reply;
    const struct plm_s3_request *q = &slot->request;

    if (r->status == 200 && from == 0 && r->has_length && r->length == to)
        return true; /* all of it was asked for */
    if (r->status != 206 || !r->has_range)
        return reject(slot, PLM_UNSUPPORTED, "the server does not answer range requests; status",
                      (uint64_t)r->status, 206);
    if (q->object_bytes && r->range_total != UINT64_MAX && r->range_total != q->object_bytes)
        return reject(slot, PLM_CORRUPT, "object size in bytes", r->range_total, q->object_bytes);
    if (r->range_first != from)
        return reject(slot, PLM_CORRUPT, "answer begins at byte", r->range_first, from);
    if (r->range_last != to - 1)
        return reject(slot, PLM_CORRUPT, "answer ends at byte", r->range_last, to - 1);
    if (r->has_length && r->length != to - from)
        return reject(slot, PLM_CORRUPT, "answer's length in bytes", r->length, to - from);
    return true;
}

static bool suits_whole(struct plm_s3_slot *slot)
{
    const struct plm_s3_reply *r = &slot->request.reply;
    struct plm_s3_request *q = &slot->request;
    struct plm_buf *into = q->into;

    if (r->status == 200 && q->n_got > 0)
        return reject(slot, PLM_UNSUPPORTED, "the server does not answer range requests; status", 200,
                      206);
    if (r->status == 206 && (!r->has_range || r->range_first != q->n_got))
        return reject(slot, PLM_CORRUPT, "answer begins at byte", r->range_first, q->n_got);
    if (into && r->has_length && is_get(q)) {
        if (r->length > into->max_bytes - into->len)
            return reject(slot, PLM_LIMIT, "object is larger than the limit in bytes", r->length,
                          into->max_bytes - into->len);
        slot->failed = plm_buf_reserve(into, (size_t)r->length, &slot->failure);
        if (slot->failed)
            return false;
    }
    return true;
}

/* The head of a good answer, looked at before its first byte is taken. */
static bool accept_head(struct plm_s3_slot *slot)
{
    struct plm_s3_request *q = &slot->request;
    const struct plm_s3_reply *r = &q->reply;

    if (slot->accepted || r->status < 200 || r->status > 299)
        return true;
    if (is_get(q) && q->ranged && !suits_range(slot, q->first + q->n_got, q->first + q->n_bytes))
        return false;
    if (is_get(q) && !q->ranged && !suits_whole(slot))
        return false;
    if (r->etag[0] == '"')
        memcpy(slot->etag, r->etag, sizeof slot->etag);
    if (q->n_got == 0 && !q->ranged) {
        memcpy(slot->checksum, r->composite ? "" : r->checksum, r->composite ? 1 : sizeof slot->checksum);
        memcpy(slot->checksum_kind, r->checksum_kind, sizeof slot->checksum_kind);
    }
    slot->accepted = true;
    return true;
}

/* Bytes of the object from `at` on, to every piece that wants some of them. */
static void scatter(struct plm_s3_slot *slot, uint64_t at, const uint8_t *bytes, size_t n)
{
    const struct plm_s3_request *q = &slot->request;

    while (slot->piece < q->n_pieces &&
           q->pieces[slot->piece].offset + q->pieces[slot->piece].len <= at)
        slot->piece++;
    for (size_t i = slot->piece; i < q->n_pieces && q->pieces[i].offset < at + n; i++) {
        const struct plm_range *p = &q->pieces[i];
        uint64_t from = plm_max_u64(p->offset, at), to = plm_min_u64(p->offset + p->len, at + n);

        if (from < to)
            memcpy((uint8_t *)p->dst + (from - p->offset), bytes + (from - at), (size_t)(to - from));
    }
}

static bool take_error(struct plm_s3_slot *slot, const uint8_t *bytes, size_t n)
{
    struct plm_buf *body = &slot->error_body;

    n = plm_min_size(n, body->max_bytes - body->len);
    (void)!plm_buf_add(body, bytes, n, NULL); /* the status says enough without it */
    return true;
}

static bool on_body(void *user, const uint8_t *bytes, size_t n)
{
    struct plm_s3_slot *slot = user;
    struct plm_s3_request *q = &slot->request;

    if (q->reply.status < 200 || q->reply.status > 299)
        return take_error(slot, bytes, n);
    if (!accept_head(slot))
        return false;
    if (q->ranged && n > q->n_bytes - q->n_got)
        return reject(slot, PLM_CORRUPT, "answer is longer than asked; bytes", q->n_got + n, q->n_bytes);
    if (q->n_pieces > 0)
        scatter(slot, q->first + q->n_got, bytes, n);
    if (q->into) {
        slot->failed = plm_buf_add(q->into, bytes, n, &slot->failure);
        if (slot->failed)
            return false;
    }
    q->n_got += n;
    atomic_fetch_add(&slot->client->ctx->bytes_read, n);
    return true;
}

/* ---- a try -------------------------------------------------------------------- */

static void count(struct plm_s3_slot *slot)
{
    struct plm_ctx *ctx = slot->client->ctx;
    const struct plm_s3_request *q = &slot->request;

    if (q->is_list)
        atomic_fetch_add(&ctx->n_list, 1);
    else if (is_get(q) || strcmp(q->method, "HEAD") == 0)
        atomic_fetch_add(&ctx->n_get, 1);
    else
        atomic_fetch_add(strcmp(q->method, "DELETE") == 0 ? &ctx->n_delete : &ctx->n_put, 1);
    if (q->n_tries > 1)
        atomic_fetch_add(&ctx->n_retried, 1);
}

enum plm_code plm_s3_slot_start(struct plm_s3_slot *slot, struct plm_http *http, struct plm_err *err)
{
    struct plm_s3_client *client = slot->client;
    struct plm_s3_request *q = &slot->request;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_io_fault(client->ctx, err));
    pthread_mutex_lock(&client->lock);
    memcpy(slot->region, client->region, sizeof slot->region);
    pthread_mutex_unlock(&client->lock);
    PLM_TRY(plm_s3_target_make(&slot->target, &client->config, slot->region, q->key, q->query,
                               q->n_query, err));
    PLM_TRY(add_headers(slot, err));
    PLM_TRY(sign(slot, err));
    slot->call.method = q->method;
    slot->call.url = (const char *)slot->target.url.data;
    slot->call.body = q->body;
    slot->call.body_bytes = q->body_bytes;
    slot->call.attempt_s = client->config.attempt_s;
    slot->call.stall_s = q->slow_answer ? SLOW_ANSWER_S : client->config.stall_s;
    slot->call.once = q->if_absent || q->error_in_200;
    slot->call.status = on_status;
    slot->call.header = on_header;
    slot->call.take = on_body;
    slot->call.user = slot;
    slot->accepted = slot->corrupt = false;
    slot->failed = PLM_OK;
    slot->problem[0] = 0;
    slot->error_body.len = 0;
    q->reply = (struct plm_s3_reply){0};
    q->n_tries++;
    count(slot);
    PLM_TRY(http->start(http, &slot->call, err));
    slot->state = PLM_S3_SLOT_FLYING;
done:
    return rc;
}

/* A complete answer to a GET: all bytes there, and their checksum right. */
static enum plm_s3_verdict judge_body(struct plm_s3_slot *slot)
{
    struct plm_s3_request *q = &slot->request;

    if (q->ranged && q->n_got != q->n_bytes) {
        snprintf(slot->problem, sizeof slot->problem, "body ends after %" PRIu64 " of %" PRIu64 " bytes",
                 q->n_got, q->n_bytes);
        return PLM_S3_AGAIN;
    }
    if (!q->ranged && q->into && slot->checksum[0] &&
        !plm_s3_checksum_fits(slot->checksum_kind, slot->checksum, q->into->data + slot->into_base,
                              q->into->len - slot->into_base)) {
        snprintf(slot->problem, sizeof slot->problem, "the body's %s differs from the one sent with it",
                 slot->checksum_kind);
        slot->corrupt = true;
        slot->etag[0] = 0; /* from the start, next time */
        return PLM_S3_AGAIN;
    }
    return PLM_S3_GOOD;
}

enum plm_s3_verdict plm_s3_slot_judge(struct plm_s3_slot *slot)
{
    struct plm_s3_request *q = &slot->request;
    enum plm_s3_verdict verdict;
    bool ok = q->reply.status >= 200 && q->reply.status <= 299;

    if (slot->failed != PLM_OK)
        return PLM_S3_FINAL;
    if (slot->call.fate == PLM_HTTP_ANSWERED && !ok)
        (void)plm_s3_xml_error(slot->client->ctx, slot->error_body.data, slot->error_body.len,
                               &q->reply);
    if (slot->call.fate == PLM_HTTP_ANSWERED && ok && q->error_in_200 && q->into &&
        plm_s3_xml_error(slot->client->ctx, q->into->data + slot->into_base,
                         q->into->len - slot->into_base, &q->reply)) {
        q->reply.status = 500; /* as S3 means it: the work failed after the head was sent */
        q->into->len = slot->into_base;
    }
    if (slot->call.fate == PLM_HTTP_ANSWERED && q->reply.status == 412 && is_get(q)) {
        (void)!reject(slot, PLM_CORRUPT, "the object changed while it was read; status", 412, 206);
        return PLM_S3_FINAL;
    }
    if (ok && slot->accepted && q->ranged && q->n_got == q->n_bytes)
        return PLM_S3_GOOD; /* whatever became of the connection behind the last byte */
    verdict = plm_s3_judge(slot->call.fate, &q->reply);
    if (verdict != PLM_S3_GOOD) {
        if (q->into && !is_get(q))
            q->into->len = slot->into_base;
        return verdict;
    }
    if (!accept_head(slot))
        return PLM_S3_FINAL;
    return is_get(q) ? judge_body(slot) : PLM_S3_GOOD;
}

#endif
