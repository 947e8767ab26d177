/* s3_retry.c - judging answers, waiting, and the shared request rate. */
#ifdef PLM_WITH_S3

#include "store/s3_retry.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

/* ---- headers ---------------------------------------------------------------- */

static void keep(char *field, size_t room, const char *value)
{
    size_t n = strlen(value);

    if (n < room)
        memcpy(field, value, n + 1);
}

/* Digits only, no sign, no overflow; *end is the first other character. */
static bool read_u64(const char *text, const char **end, uint64_t *out)
{
    uint64_t v = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    if (p == text)
        return false;
    *end = p;
    *out = v;
    return true;
}

/* "bytes 0-9/443" or "bytes 0-9/" followed by a star. */
static void read_range(struct plm_s3_reply *reply, const char *value)
{
    uint64_t first, last, total = UINT64_MAX;
    const char *p = value;

    if (strncasecmp(p, "bytes ", 6) != 0)
        return;
    if (!read_u64(p + 6, &p, &first) || *p != '-' || !read_u64(p + 1, &p, &last) || *p != '/')
        return;
    if (strcmp(p, "/*") != 0 && (!read_u64(p + 1, &p, &total) || *p != 0))
        return;
    if (first > last || last >= total)
        return;
    reply->has_range = true;
    reply->range_first = first;
    reply->range_last = last;
    reply->range_total = total;
}

/* The strongest of several wins; a composite one (of parts) covers no plain bytes. */
static void read_checksum(struct plm_s3_reply *reply, const char *kind, const char *value)
{
    static const char *const weak_to_strong[] = {"crc32", "crc32c", "crc64nvme", "sha256"};
    int have = -1, is = -1;

    for (int i = 0; i < 4; i++) {
        have = strcmp(weak_to_strong[i], reply->checksum_kind) == 0 ? i : have;
        is = strcmp(weak_to_strong[i], kind) == 0 ? i : is;
    }
    if (is > have && strchr(value, '-') == NULL && strlen(value) < sizeof reply->checksum) {
        keep(reply->checksum, sizeof reply->checksum, value);
        keep(reply->checksum_kind, sizeof reply->checksum_kind, kind);
    }
}

void plm_s3_reply_header(struct plm_s3_reply *reply, const char *name, const char *value)
{
    const char *end;

    if (strcmp(name, "content-length") == 0)
        reply->has_length = read_u64(value, &end, &reply->length) && *end == 0;
    else if (strcmp(name, "content-range") == 0)
        read_range(reply, value);
    else if (strcmp(name, "etag") == 0)
        keep(reply->etag, sizeof reply->etag, value);
    else if (strcmp(name, "date") == 0)
        keep(reply->date, sizeof reply->date, value);
    else if (strcmp(name, "retry-after") == 0)
        keep(reply->retry_after, sizeof reply->retry_after, value);
    else if (strcmp(name, "x-amz-bucket-region") == 0)
        keep(reply->region, sizeof reply->region, value);
    else if (strcmp(name, "x-amz-request-id") == 0)
        keep(reply->request_id, sizeof reply->request_id, value);
    else if (strcmp(name, "x-amz-checksum-type") == 0)
        reply->composite = strcasecmp(value, "COMPOSITE") == 0;
    else if (strncmp(name, "x-amz-checksum-", 15) == 0)
        read_checksum(reply, name + 15, value);
}

/* ---- verdicts ---------------------------------------------------------------- */

static bool code_is(const struct plm_s3_reply *reply, const char *code)
{
    return strcmp(reply->code, code) == 0;
}

static enum plm_s3_verdict judge_refusal(const struct plm_s3_reply *reply)
{
    if (code_is(reply, "RequestTimeTooSkewed"))
        return PLM_S3_SKEWED;
    if (code_is(reply, "ExpiredToken") || code_is(reply, "TokenRefreshRequired") ||
        code_is(reply, "ExpiredTokenException"))
        return PLM_S3_STALE;
    if (code_is(reply, "RequestTimeout"))
        return PLM_S3_AGAIN;
    if (code_is(reply, "SlowDown") || code_is(reply, "TooManyRequests") ||
        code_is(reply, "RequestLimitExceeded"))
        return PLM_S3_SLOWER;
    if (reply->region[0] && reply->status != 403 && reply->status != 404)
        return PLM_S3_MOVED;
    return PLM_S3_FINAL;
}

enum plm_s3_verdict plm_s3_judge(enum plm_http_fate fate, const struct plm_s3_reply *reply)
{
    switch (fate) {
    case PLM_HTTP_NOT_SENT: return PLM_S3_AGAIN;
    case PLM_HTTP_BROKEN:
    case PLM_HTTP_STALLED: return PLM_S3_AGAIN_UNSURE;
    case PLM_HTTP_REFUSED:
    case PLM_HTTP_STOPPED: return PLM_S3_FINAL;
    case PLM_HTTP_ANSWERED: break;
    }
    switch (reply->status) {
    case 429: return PLM_S3_SLOWER;
    case 503: return PLM_S3_SLOWER_UNSURE;
    case 408:
    case 500:
    case 502:
    case 504: return PLM_S3_AGAIN_UNSURE;
    case 301:
    case 307:
    case 400:
    case 401:
    case 403: return judge_refusal(reply);
    case 409: return code_is(reply, "OperationAborted") ? PLM_S3_AGAIN : PLM_S3_FINAL;
    default: return reply->status >= 200 && reply->status < 300 ? PLM_S3_GOOD : PLM_S3_FINAL;
    }
}

enum plm_code plm_s3_code_of(enum plm_http_fate fate, const struct plm_s3_reply *reply)
{
    if (fate == PLM_HTTP_REFUSED || fate == PLM_HTTP_STOPPED)
        return PLM_IO;
    if (fate != PLM_HTTP_ANSWERED)
        return PLM_RETRY;
    switch (reply->status) {
    case 401:
    case 403: return PLM_DENIED;
    case 404: return PLM_NOT_FOUND;
    case 409:
    case 412: return PLM_CONFLICT;
    case 416: return PLM_CORRUPT;
    case 501: return PLM_UNSUPPORTED;
    case 408:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504: return PLM_RETRY;
    default: return PLM_IO;
    }
}

/* ---- waiting ----------------------------------------------------------------- */

int64_t plm_s3_time(const char *text)
{
    int y, mo, d, h, mi, s, n = 0;
    time_t seconds;

    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &y, &mo, &d, &h, &mi, &s, &n) == 6 && n == 19) {
        struct tm tm = {.tm_year = y - 1900, .tm_mon = mo - 1, .tm_mday = d,
                        .tm_hour = h, .tm_min = mi, .tm_sec = s};
        int64_t ms = 0, unit = 100;

        if (y < 1970 || mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 23 || mi < 0 ||
            mi > 59 || s < 0 || s > 60)
            return -1;
        if (text[n] == '.')
            for (const char *p = text + n + 1; *p >= '0' && *p <= '9'; p++, unit /= 10)
                ms += unit * (*p - '0');
        return (int64_t)timegm(&tm) * 1000 + ms;
    }
    seconds = curl_getdate(text, NULL);
    return seconds < 0 ? -1 : (int64_t)seconds * 1000;
}

static double retry_after_seconds(const char *text, int64_t unix_ms)
{
    uint64_t seconds;
    const char *end;
    int64_t at;

    if (text == NULL || text[0] == 0)
        return 0;
    if (read_u64(text, &end, &seconds) && *end == 0)
        return (double)plm_min_u64(seconds, (uint64_t)PLM_S3_RETRY_AFTER_MAX_S);
    at = plm_s3_time(text);
    if (at <= unix_ms)
        return 0;
    return (double)plm_min_u64((uint64_t)(at - unix_ms), (uint64_t)(PLM_S3_RETRY_AFTER_MAX_S * 1000)) /
           1000;
}

double plm_s3_backoff(unsigned n_failed, const char *retry_after, int64_t unix_ms, uint64_t random)
{
    double ceiling = PLM_S3_BACKOFF_MIN_S, part = (double)(random >> 11) * 0x1p-53;
    double asked = retry_after_seconds(retry_after, unix_ms), wait;

    for (unsigned i = 0; i < n_failed && ceiling < PLM_S3_BACKOFF_MAX_S; i++)
        ceiling *= 2;
    if (ceiling > PLM_S3_BACKOFF_MAX_S)
        ceiling = PLM_S3_BACKOFF_MAX_S;
    wait = PLM_S3_BACKOFF_MIN_S + part * (ceiling - PLM_S3_BACKOFF_MIN_S);
    return asked > wait ? asked : wait;
}

/* ---- rate -------------------------------------------------------------------- */

#define RATE_MIN 1.0
#define RATE_UNLIMITED 5000.0 /* S3 promises 5,500 GETs a second per prefix */
#define RATE_CUT_EVERY_S 1.0

void plm_s3_rate_init(struct plm_s3_rate *rate)
{
    *rate = (struct plm_s3_rate){0};
    pthread_mutex_init(&rate->lock, NULL);
}

void plm_s3_rate_reset(struct plm_s3_rate *rate)
{
    pthread_mutex_destroy(&rate->lock);
}

/* How fast we have been going, over windows of half a second or more. */
static void measure(struct plm_s3_rate *rate, double now)
{
    double span = now - rate->window_began;

    rate->n_window++;
    if (span < 0.5)
        return;
    rate->measured = span > 5 ? 0 : (double)rate->n_window / span;
    rate->window_began = now;
    rate->n_window = 0;
}

double plm_s3_rate_take(struct plm_s3_rate *rate, double now)
{
    double at = now;

    pthread_mutex_lock(&rate->lock);
    measure(rate, now);
    if (rate->limit > 0) {
        at = rate->next_slot > now ? rate->next_slot : now;
        rate->next_slot = at + 1 / rate->limit;
    }
    pthread_mutex_unlock(&rate->lock);
    return at - now;
}

void plm_s3_rate_throttled(struct plm_s3_rate *rate, double now)
{
    pthread_mutex_lock(&rate->lock);
    if (rate->limit == 0 || now - rate->last_cut >= RATE_CUT_EVERY_S) {
        double from = rate->limit;

        if (from == 0)
            from = plm_max_size(20, (size_t)rate->measured);
        rate->limit = from / 2 > RATE_MIN ? from / 2 : RATE_MIN;
        rate->last_cut = rate->last_raise = now;
        rate->next_slot = now + 1 / rate->limit;
    }
    pthread_mutex_unlock(&rate->lock);
}

void plm_s3_rate_went_well(struct plm_s3_rate *rate, double now)
{
    pthread_mutex_lock(&rate->lock);
    if (rate->limit > 0) {
        rate->limit += (1 + rate->limit / 10) * (now - rate->last_raise);
        rate->last_raise = now;
        if (rate->limit > RATE_UNLIMITED)
            rate->limit = 0;
    }
    pthread_mutex_unlock(&rate->lock);
}

#endif
