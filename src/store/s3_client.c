/* s3_client.c - a batch of requests: filled into slots, signed, tried, judged, tried again.
 *
 * Each call borrows a transport (and its warm connections) from the client and drives it on
 * the caller's own thread. A slot holds one request from fill() to done().
 */
#ifdef PLM_WITH_S3

#include "store/s3_slot.h"

#include <openssl/crypto.h>
#include <stdlib.h>

/* An endpoint that never answered anything is given up sooner: most likely a wrong name. */
#define FIRST_CONTACT_S 15.0
#define TICK_S 0.2

/* ---- client ------------------------------------------------------------------- */

void plm_s3_client_init(struct plm_s3_client *client, struct plm_ctx *ctx,
                        struct plm_s3_config *config, struct plm_s3_secret *given)
{
    memset(client, 0, sizeof *client);
    client->ctx = ctx;
    client->config = *config;
    *config = (struct plm_s3_config){0};
    memcpy(client->region, client->config.region, sizeof client->region);
    plm_s3_creds_init(&client->creds, ctx, given);
    memcpy(client->creds.metadata, client->config.metadata, sizeof client->creds.metadata);
    plm_s3_rate_init(&client->rate);
    pthread_mutex_init(&client->lock, NULL);
    client->seed = plm_mix64(plm_unix_millis(), (uint64_t)(uintptr_t)client);
    client->open_http = plm_http_open;
}

void plm_s3_client_reset(struct plm_s3_client *client)
{
    if (client->ctx == NULL)
        return;
    for (size_t i = 0; i < client->n_idle; i++)
        client->idle[i]->close(client->idle[i]);
    client->n_idle = 0;
    plm_s3_creds_reset(&client->creds);
    plm_s3_rate_reset(&client->rate);
    pthread_mutex_destroy(&client->lock);
    plm_s3_config_reset(client->ctx, &client->config);
    client->ctx = NULL;
}

static enum plm_code borrow_http(struct plm_s3_client *client, struct plm_http **out,
                                 struct plm_err *err)
{
    struct plm_http *http = NULL;
    struct plm_http_options options = {.connect_s = client->config.connect_s,
                                       .ca_file = client->config.ca_file,
                                       .allow_http = client->config.allow_http};

    pthread_mutex_lock(&client->lock);
    if (client->n_idle > 0)
        http = client->idle[--client->n_idle];
    pthread_mutex_unlock(&client->lock);
    if (http == NULL)
        return client->open_http(client->ctx, &options, out, err);
    *out = http;
    return PLM_OK;
}

static void return_http(struct plm_s3_client *client, struct plm_http *http)
{
    pthread_mutex_lock(&client->lock);
    if (client->n_idle < sizeof client->idle / sizeof *client->idle) {
        client->idle[client->n_idle++] = http;
        http = NULL;
    }
    pthread_mutex_unlock(&client->lock);
    if (http)
        http->close(http);
}

/* ---- after a try --------------------------------------------------------------- */

/* What the retry is for, in a few words; never a secret, even if the server sends one back. */
static void describe(const struct plm_s3_slot *slot, char *out, size_t room)
{
    const struct plm_s3_reply *r = &slot->request.reply;
    const char *words = slot->secret && (strstr(r->message, slot->secret->key_id) ||
                                         strstr(r->message, slot->secret->key) ||
                                         (slot->secret->token[0] &&
                                          strstr(r->message, slot->secret->token)))
                            ? "(message withheld)"
                            : r->message;

    if (slot->call.fate != PLM_HTTP_ANSWERED)
        snprintf(out, room, "%s", slot->call.problem);
    else if (slot->problem[0])
        snprintf(out, room, "%s", slot->problem);
    else
        snprintf(out, room, "HTTP %ld%s%s%s%s%s%s", r->status, r->code[0] ? " " : "", r->code,
                 words[0] ? ": " : "", words, r->request_id[0] ? ", request " : "", r->request_id);
}

static enum plm_code give_up(const struct plm_s3_slot *slot, enum plm_code code, const char *why,
                             double now, struct plm_err *err)
{
    const struct plm_s3_config *config = &slot->client->config;
    const struct plm_s3_request *q = &slot->request;
    char what[640];

    describe(slot, what, sizeof what);
    (void)plm_fail(err, code, "s3://%s/%s: %s failed: %s%s (%u %s in %.1f s)", config->bucket, q->key,
                   q->method, what, why, q->n_tries, q->n_tries == 1 ? "try" : "tries",
                   now - slot->began);
    if (err)
        err->http_status = slot->call.fate == PLM_HTTP_ANSWERED ? (int)q->reply.status : 0;
    return code;
}

/* Sets the clock by the server's Date, once for a request. */
static bool correct_clock(struct plm_s3_slot *slot)
{
    int64_t server = plm_s3_time(slot->request.reply.date);

    if (slot->skew_corrected || server <= 0)
        return false;
    slot->skew_corrected = true;
    atomic_store(&slot->client->skew_ms, server - (int64_t)plm_unix_millis());
    return true;
}

/* Learns the bucket's region, unless one was given or it is what we thought. */
static bool follow_region(struct plm_s3_slot *slot)
{
    struct plm_s3_client *client = slot->client;
    const char *region = slot->request.reply.region;
    bool moved = false;

    if (client->config.region_given || slot->region_followed)
        return false;
    if (region[strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-")] != 0)
        return false;
    slot->region_followed = true;
    pthread_mutex_lock(&client->lock);
    if (strcmp(slot->region, region) != 0) {
        memcpy(client->region, region, sizeof client->region);
        moved = true;
    }
    pthread_mutex_unlock(&client->lock);
    return moved;
}

static enum plm_code refuse(struct plm_s3_slot *slot, enum plm_s3_verdict verdict, double now,
                            struct plm_err *err)
{
    enum plm_code code = plm_s3_code_of(slot->call.fate, &slot->request.reply);
    char why[160] = "";

    if (verdict == PLM_S3_SKEWED)
        snprintf(why, sizeof why, "; this machine's clock is %.0f s off the server's, set it right",
                 (double)((int64_t)plm_unix_millis() - plm_s3_time(slot->request.reply.date)) / 1000);
    else if (verdict == PLM_S3_MOVED && strcmp(slot->request.reply.region, slot->region) != 0)
        snprintf(why, sizeof why, "; the bucket is in region %s, not %s", slot->request.reply.region,
                 slot->region);
    else if (code == PLM_DENIED && strcmp(slot->request.method, "HEAD") == 0)
        snprintf(why, sizeof why, "; without s3:ListBucket S3 says so for missing objects too");
    if (slot->failed != PLM_OK) { /* our own check of the answer */
        if (err)
            *err = slot->failure;
        return slot->failed;
    }
    return give_up(slot, code, why, now, err);
}

/* Waits for another try, or gives up: time is up, or the outcome of a conditional write is
 * unknown, which only its caller can settle. */
static enum plm_code try_again(struct plm_s3_slot *slot, enum plm_s3_verdict verdict, double now,
                               struct plm_err *err)
{
    struct plm_s3_client *client = slot->client;
    struct plm_s3_request *q = &slot->request;
    uint64_t random = plm_mix64(client->seed, atomic_fetch_add(&client->n_random, 1));
    const char *after = slot->call.fate == PLM_HTTP_ANSWERED ? q->reply.retry_after : "";
    double wait = plm_s3_backoff(q->n_tries, after, (int64_t)plm_unix_millis(), random);
    double patience = client->config.retry_s;

    if (verdict == PLM_S3_AGAIN_UNSURE || verdict == PLM_S3_SLOWER_UNSURE)
        q->unsure = true;
    if (verdict == PLM_S3_SLOWER || verdict == PLM_S3_SLOWER_UNSURE)
        plm_s3_rate_throttled(&client->rate, now);
    if (q->if_absent && verdict == PLM_S3_AGAIN_UNSURE)
        return give_up(slot, PLM_RETRY, "; it is unknown whether the object was written", now, err);
    if (!atomic_load(&client->answered) && patience > FIRST_CONTACT_S)
        patience = FIRST_CONTACT_S;
    if (now + wait - slot->began > patience)
        return give_up(slot, slot->corrupt ? PLM_CORRUPT : PLM_RETRY, "; given up", now, err);
    slot->state = PLM_S3_SLOT_WAITING;
    slot->paced = false;
    slot->ready_at = now + wait;
    return PLM_OK;
}

static enum plm_code succeed(struct plm_s3_slot *slot, const struct plm_s3_batch *batch, double now,
                             struct plm_err *err)
{
    struct plm_s3_client *client = slot->client;
    enum plm_code rc = PLM_OK;

    plm_s3_rate_went_well(&client->rate, now);
    atomic_fetch_add(&client->ctx->bytes_written, slot->request.body_bytes);
    slot->state = PLM_S3_SLOT_FREE;
    if (batch->done)
        rc = batch->done(batch->arg, slot->index, &slot->request, err);
    return rc;
}

static enum plm_code after_try(struct plm_s3_slot *slot, const struct plm_s3_batch *batch,
                               double now, struct plm_err *err)
{
    enum plm_s3_verdict verdict = plm_s3_slot_judge(slot);
    struct plm_s3_request *q = &slot->request;

    slot->state = PLM_S3_SLOT_FREE;
    if (slot->call.fate == PLM_HTTP_ANSWERED)
        atomic_store(&slot->client->answered, true);
    switch (verdict) {
    case PLM_S3_GOOD: return succeed(slot, batch, now, err);
    case PLM_S3_SKEWED:
        if (!correct_clock(slot))
            return refuse(slot, verdict, now, err);
        return try_again(slot, PLM_S3_AGAIN, now, err);
    case PLM_S3_STALE:
        if (slot->credentials_renewed)
            return refuse(slot, verdict, now, err);
        slot->credentials_renewed = slot->renew = true;
        return try_again(slot, PLM_S3_AGAIN, now, err);
    case PLM_S3_MOVED:
        if (!follow_region(slot))
            return refuse(slot, verdict, now, err);
        return try_again(slot, PLM_S3_AGAIN, now, err);
    case PLM_S3_FINAL:
        /* After a try that may have been applied, 412 may be our own doing. */
        if (q->if_absent && q->unsure && (q->reply.status == 412 || q->reply.status == 409))
            return give_up(slot, PLM_RETRY, "; an earlier try may have written the object", now, err);
        return refuse(slot, verdict, now, err);
    default: return try_again(slot, verdict, now, err);
    }
}

/* ---- the loop ------------------------------------------------------------------ */

struct run {
    struct plm_s3_client *client;
    const struct plm_s3_batch *batch;
    struct plm_http *http;
    struct plm_s3_slot *slots;
    size_t n_slots, next;
    struct plm_s3_request *result; /* plm_s3_one: where the request ends up */
};

static enum plm_code fill_slot(struct run *run, struct plm_s3_slot *slot, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    plm_s3_slot_clear(slot);
    slot->index = run->next++;
    PLM_TRY(run->batch->fill(run->batch->arg, slot->index, &slot->request, err));
    slot->into_base = slot->request.into ? slot->request.into->len : 0;
    slot->state = PLM_S3_SLOT_WAITING;
    slot->began = slot->ready_at = run->http->now(run->http);
done:
    return rc;
}

/* Starts what is due. *soonest: seconds until the next start, at most a tick. */
static enum plm_code start_due(struct run *run, double *soonest, size_t *n_busy, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *soonest = TICK_S;
    *n_busy = 0;
    for (size_t i = 0; i < run->n_slots; i++) {
        struct plm_s3_slot *slot = &run->slots[i];
        double now = run->http->now(run->http);

        if (slot->state == PLM_S3_SLOT_FREE && run->next < run->batch->n)
            PLM_TRY(fill_slot(run, slot, err));
        if (slot->state == PLM_S3_SLOT_WAITING && slot->ready_at <= now && !slot->paced) {
            slot->paced = true;
            slot->ready_at = now + plm_s3_rate_take(&run->client->rate, now);
        }
        if (slot->state == PLM_S3_SLOT_WAITING && slot->ready_at <= now)
            PLM_TRY(plm_s3_slot_start(slot, run->http, err));
        if (slot->state == PLM_S3_SLOT_WAITING && slot->ready_at - now < *soonest)
            *soonest = slot->ready_at - now;
        *n_busy += slot->state != PLM_S3_SLOT_FREE;
    }
done:
    return rc;
}

static enum plm_code drive(struct run *run, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    double wait;
    size_t n_busy;

    for (;;) {
        struct plm_http_call *call;

        PLM_TRY(plm_check_cancel(run->client->ctx, err));
        PLM_TRY(start_due(run, &wait, &n_busy, err));
        if (n_busy == 0)
            break;
        for (call = run->http->wait(run->http, wait); call; call = run->http->wait(run->http, 0)) {
            struct plm_s3_slot *slot = call->user;

            PLM_TRY(after_try(slot, run->batch, run->http->now(run->http), err));
        }
    }
done:
    return rc;
}

static enum plm_code run_batch(struct run *run, struct plm_err *err)
{
    struct plm_s3_client *client = run->client;
    enum plm_code rc = PLM_OK;

    run->n_slots = plm_min_size(client->config.connections, run->batch->n);
    PLM_TRY(plm_calloc(client->ctx, &run->slots, run->n_slots, sizeof *run->slots, err));
    for (size_t i = 0; i < run->n_slots; i++)
        plm_s3_slot_init(&run->slots[i], client);
    PLM_TRY(borrow_http(client, &run->http, err));
    PLM_TRY(drive(run, err));
done:
    if (run->result && run->next > 0)
        *run->result = run->slots[0].request;
    for (size_t i = 0; run->slots && i < run->n_slots; i++)
        plm_s3_slot_reset(&run->slots[i], run->http);
    if (run->http)
        return_http(client, run->http);
    plm_free(client->ctx, run->slots);
    return rc;
}

enum plm_code plm_s3_run(struct plm_s3_client *client, const struct plm_s3_batch *batch,
                         struct plm_err *err)
{
    struct run run = {.client = client, .batch = batch};

    return batch->n == 0 ? PLM_OK : run_batch(&run, err);
}

static enum plm_code fill_one(void *arg, size_t i, struct plm_s3_request *request,
                              struct plm_err *err)
{
    (void)i, (void)err;
    *request = *(const struct plm_s3_request *)arg;
    return PLM_OK;
}

enum plm_code plm_s3_one(struct plm_s3_client *client, struct plm_s3_request *request,
                         struct plm_err *err)
{
    struct plm_s3_batch batch = {.n = 1, .arg = request, .fill = fill_one};
    struct run run = {.client = client, .batch = &batch, .result = request};

    return run_batch(&run, err);
}

#endif
