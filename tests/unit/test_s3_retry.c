/* test_s3_retry.c - retries, waiting and resuming, over a scripted wire with a clock of its own:
 * nothing here sleeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "store/store_impl.h"

#ifndef PLM_WITH_S3

static void test_other_clouds_stay_unsupported(void **state)
{
    (void)state;
    struct plm_store *store = NULL;

    assert_int_equal(plm_store_open(NULL, "gs://bucket/t", NULL, &store, NULL), PLM_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_other_clouds_stay_unsupported)};

    return cmocka_run_group_tests_name("s3_retry", tests, NULL, NULL);
}

#else

#include "store/s3.h"

/* ---- the scripted wire ---------------------------------------------------------- */

/* One answer. The body comes in two chunks; `cut` ends it early with `fate`. */
struct answer {
    enum plm_http_fate fate;
    long status;
    const char *headers; /* "name: value\n..." */
    const char *body;
    size_t cut; /* bytes of the body that come; 0 = all */
    bool empty; /* none of it */
    double takes_s;
};

#define SCRIPT_MAX 64
static struct {
    struct answer answers[SCRIPT_MAX]; /* the last one repeats */
    size_t n_answers, n_asked, n_played;
    double now;
    double asked_at[256];
    char asked[256][160]; /* "METHOD url range=... " of each try */
    struct plm_http_call *flying[32];
    size_t n_flying, n_dropped;
    double cancel_at;
} wire;

static struct plm_ctx *ctx;
static struct plm_err err;

static const char *header_of(const struct plm_http_call *call, const char *name)
{
    for (size_t i = 0; i < call->n_headers; i++)
        if (strcmp(call->headers[i].name, name) == 0)
            return call->headers[i].value;
    return "";
}

static enum plm_code fake_start(struct plm_http *http, struct plm_http_call *call, struct plm_err *e)
{
    (void)http, (void)e;
    assert_true(wire.n_flying < 32 && wire.n_asked < 256);
    snprintf(wire.asked[wire.n_asked], sizeof wire.asked[0], "%s %s %s %s%s", call->method,
             strrchr(call->url, '/'), header_of(call, "range"), header_of(call, "if-match"),
             call->once ? " once" : "");
    wire.asked_at[wire.n_asked++] = wire.now;
    wire.flying[wire.n_flying++] = call;
    return PLM_OK;
}

static void give_headers(struct plm_http_call *call, const char *text)
{
    char line[256];

    while (text && *text) {
        size_t n = strcspn(text, "\n");
        char *colon;

        assert_true(n < sizeof line);
        memcpy(line, text, n);
        line[n] = 0;
        colon = strstr(line, ": ");
        assert_non_null(colon);
        *colon = 0;
        call->header(call->user, line, colon + 2);
        text += n + (text[n] == '\n');
    }
}

static void play(struct plm_http_call *call, const struct answer *a)
{
    size_t n = a->body && !a->empty ? strlen(a->body) : 0;

    call->fate = a->fate;
    snprintf(call->problem, sizeof call->problem, "%s", a->fate == PLM_HTTP_ANSWERED ? "" : "broken wire");
    if (a->status == 0)
        return;
    call->status(call->user, a->status);
    give_headers(call, a->headers);
    n = a->cut ? a->cut : n;
    for (size_t at = 0, half = n / 2; n > 0 && at < n; at = at < half ? half : n) {
        size_t to = at < half ? half : n;

        if (!call->take(call->user, (const uint8_t *)a->body + at, to - at)) {
            call->fate = PLM_HTTP_STOPPED;
            return;
        }
    }
}

static struct plm_http_call *fake_wait(struct plm_http *http, double seconds)
{
    struct plm_http_call *call;
    const struct answer *a;

    (void)http;
    if (wire.cancel_at > 0 && wire.now >= wire.cancel_at)
        plm_ctx_cancel(ctx);
    if (wire.n_flying == 0) {
        wire.now += seconds > 0 ? seconds : 0;
        return NULL;
    }
    a = &wire.answers[plm_min_size(wire.n_played++, wire.n_answers - 1)];
    call = wire.flying[0];
    memmove(wire.flying, wire.flying + 1, --wire.n_flying * sizeof *wire.flying);
    wire.now += a->takes_s;
    play(call, a);
    return call;
}

static void fake_drop(struct plm_http *http, struct plm_http_call *call)
{
    (void)http;
    for (size_t i = 0; i < wire.n_flying; i++)
        if (wire.flying[i] == call) {
            wire.flying[i] = wire.flying[--wire.n_flying];
            wire.n_dropped++;
            return;
        }
    fail_msg("a call was dropped that is not in flight");
}

static double fake_now(struct plm_http *http)
{
    (void)http;
    return wire.now;
}

static void fake_close(struct plm_http *http)
{
    (void)http;
}

static enum plm_code fake_open(struct plm_ctx *c, const struct plm_http_options *options,
                               struct plm_http **out, struct plm_err *e)
{
    static struct plm_http http = {fake_start, fake_wait, fake_drop, fake_now, fake_close};

    (void)c, (void)options, (void)e;
    *out = &http;
    return PLM_OK;
}

/* ---- a store over it ------------------------------------------------------------ */

#define SECRET "verysecretkey"
#define TOKEN "verysecrettoken"

static struct plm_store *open_store(void)
{
    const char *options[] = {"aws_access_key_id", "AKIDTEST", "aws_secret_access_key", SECRET,
                             "aws_session_token", TOKEN, "endpoint", "https://store.example", NULL};
    struct plm_store *store = NULL;

    assert_int_equal(plm_store_open(ctx, "s3://bucket", options, &store, &err), PLM_OK);
    ((struct plm_s3 *)store)->client.open_http = fake_open;
    return store;
}

static void script(const struct answer *answers, size_t n)
{
    memset(&wire, 0, sizeof wire);
    memcpy(wire.answers, answers, n * sizeof *answers);
    wire.n_answers = n;
    wire.now = 1000;
}
#define SCRIPT(...) script((const struct answer[]){__VA_ARGS__},                                   \
                           sizeof((const struct answer[]){__VA_ARGS__}) / sizeof(struct answer))
#define ANSWER(code, ...) {.fate = PLM_HTTP_ANSWERED, .status = code, __VA_ARGS__}
#define NO_ANSWER(what) {.fate = what}

static enum plm_code get(const char *key, struct plm_buf *buf)
{
    struct plm_store *store = open_store();
    enum plm_code rc;

    plm_buf_init(buf, ctx, 1 << 20);
    rc = plm_store_get(store, key, buf, &err);
    plm_store_close(store);
    assert_int_equal(wire.n_flying, 0);
    return rc;
}

static void assert_got(const char *text)
{
    struct plm_buf buf;

    assert_int_equal(get("k", &buf), PLM_OK);
    assert_int_equal(buf.len, strlen(text));
    assert_memory_equal(buf.data, text, buf.len);
    plm_buf_reset(&buf);
}

static void assert_not_got(enum plm_code code, const char *hint)
{
    struct plm_buf buf;

    assert_int_equal(get("k", &buf), code);
    assert_int_equal(buf.len, 0);
    assert_non_null(strstr(err.message, hint));
    assert_null(strstr(err.message, SECRET));
    assert_null(strstr(err.message, TOKEN));
    plm_buf_reset(&buf);
}

static int setup(void **state)
{
    (void)state;
    struct plm_ctx_options options;

    unsetenv("AWS_CA_BUNDLE");
    unsetenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST");
    unsetenv("AWS_SKIP_SIGNATURE");
    setenv("HOME", "/nonexistent", 1);
    plm_ctx_options_default(&options);
    options.threads = 1;
    options.memory_budget_bytes = (uint64_t)64 << 20;
    return plm_ctx_create(&options, &ctx, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    int leaked = atomic_load(&ctx->memory_used) != 0;

    plm_ctx_destroy(ctx);
    return leaked;
}

/* ---- verdicts, waiting, rate ------------------------------------------------------ */

static enum plm_s3_verdict judge(long status, const char *code, const char *region)
{
    struct plm_s3_reply reply = {.status = status};

    snprintf(reply.code, sizeof reply.code, "%s", code);
    snprintf(reply.region, sizeof reply.region, "%s", region);
    return plm_s3_judge(PLM_HTTP_ANSWERED, &reply);
}

static void test_verdicts(void **state)
{
    (void)state;
    struct plm_s3_reply none = {0};

    assert_int_equal(judge(200, "", ""), PLM_S3_GOOD);
    assert_int_equal(judge(204, "", ""), PLM_S3_GOOD);
    assert_int_equal(judge(206, "", ""), PLM_S3_GOOD);
    assert_int_equal(judge(304, "", ""), PLM_S3_FINAL);
    assert_int_equal(judge(400, "RequestTimeout", ""), PLM_S3_AGAIN);
    assert_int_equal(judge(400, "ExpiredToken", ""), PLM_S3_STALE);
    assert_int_equal(judge(400, "AuthorizationHeaderMalformed", "eu-1"), PLM_S3_MOVED);
    assert_int_equal(judge(301, "PermanentRedirect", "eu-1"), PLM_S3_MOVED);
    assert_int_equal(judge(403, "AccessDenied", "eu-1"), PLM_S3_FINAL);
    assert_int_equal(judge(403, "RequestTimeTooSkewed", ""), PLM_S3_SKEWED);
    assert_int_equal(judge(404, "NoSuchKey", ""), PLM_S3_FINAL);
    assert_int_equal(judge(409, "OperationAborted", ""), PLM_S3_AGAIN);
    assert_int_equal(judge(409, "ConditionalRequestConflict", ""), PLM_S3_FINAL);
    assert_int_equal(judge(412, "", ""), PLM_S3_FINAL);
    assert_int_equal(judge(429, "", ""), PLM_S3_SLOWER);
    assert_int_equal(judge(500, "", ""), PLM_S3_AGAIN_UNSURE);
    assert_int_equal(judge(501, "", ""), PLM_S3_FINAL);
    assert_int_equal(judge(502, "", ""), PLM_S3_AGAIN_UNSURE);
    assert_int_equal(judge(503, "SlowDown", ""), PLM_S3_SLOWER_UNSURE);
    assert_int_equal(judge(504, "", ""), PLM_S3_AGAIN_UNSURE);
    assert_int_equal(plm_s3_judge(PLM_HTTP_NOT_SENT, &none), PLM_S3_AGAIN);
    assert_int_equal(plm_s3_judge(PLM_HTTP_BROKEN, &none), PLM_S3_AGAIN_UNSURE);
    assert_int_equal(plm_s3_judge(PLM_HTTP_STALLED, &none), PLM_S3_AGAIN_UNSURE);
    assert_int_equal(plm_s3_judge(PLM_HTTP_REFUSED, &none), PLM_S3_FINAL);
}

static void test_backoff(void **state)
{
    (void)state;
    static const char date[] = "Fri, 24 May 2013 00:00:10 GMT";

    for (unsigned n = 1; n < 100; n++)
        for (unsigned i = 0; i < 20; i++) {
            double s = plm_s3_backoff(n, "", 0, plm_mix64(n, i));

            assert_true(s >= 0.05 && s <= 5.0);
            assert_true(n > 1 || s <= 0.1);
        }
    assert_true(plm_s3_backoff(20, "", 0, UINT64_MAX) > 4.9);
    assert_true(plm_s3_backoff(1, "7", 0, 0) == 7);
    assert_true(plm_s3_backoff(1, "86400", 0, 0) == 60);
    assert_true(plm_s3_backoff(1, "99999999999999999999", 0, 0) < 1);
    assert_true(plm_s3_backoff(1, "-5", 0, 0) < 1);
    assert_true(plm_s3_backoff(1, date, 1369353600000, 0) == 10);
    assert_true(plm_s3_backoff(1, date, 1369353600000 + 11000, 0) < 1);
}

static void test_rate(void **state)
{
    (void)state;
    struct plm_s3_rate rate;
    double now = 100, limit;

    plm_s3_rate_init(&rate);
    for (int i = 0; i < 1000; i++)
        assert_true(plm_s3_rate_take(&rate, now += 0.005) == 0);
    plm_s3_rate_throttled(&rate, now);
    limit = rate.limit; /* 200 a second were measured */
    assert_true(limit > 60 && limit < 120);
    plm_s3_rate_throttled(&rate, now + 0.1); /* the same wave of refusals */
    assert_true(rate.limit == limit);
    assert_true(plm_s3_rate_take(&rate, now) > 0);
    assert_true(plm_s3_rate_take(&rate, now) > 1 / limit);
    plm_s3_rate_throttled(&rate, now + 2);
    assert_true(rate.limit == limit / 2);
    for (int i = 0; i < 20; i++)
        plm_s3_rate_throttled(&rate, now += 2);
    assert_true(rate.limit == 1);
    for (int i = 0; i < 200 && rate.limit > 0; i++)
        plm_s3_rate_went_well(&rate, now += 1);
    assert_true(rate.limit == 0); /* back to full speed in minutes */
    plm_s3_rate_reset(&rate);
}

static void test_reply_headers(void **state)
{
    (void)state;
    static const char *const bad_ranges[] = {"bytes 0-9", "bytes 9-0/10", "bytes 0-10/10", "0-9/10",
                                             "bytes -1-9/10", "bytes 0-9/x",
                                             "bytes 0-99999999999999999999/100000000000000000000"};
    struct plm_s3_reply r = {0};

    for (size_t i = 0; i < sizeof bad_ranges / sizeof *bad_ranges; i++) {
        plm_s3_reply_header(&r, "content-range", bad_ranges[i]);
        assert_false(r.has_range);
    }
    plm_s3_reply_header(&r, "content-range", "bytes 5-9/*");
    assert_true(r.has_range && r.range_first == 5 && r.range_last == 9 && r.range_total == UINT64_MAX);
    plm_s3_reply_header(&r, "content-range", "bytes 0-9/10");
    assert_true(r.range_total == 10);
    plm_s3_reply_header(&r, "content-length", "12x");
    assert_false(r.has_length);
    plm_s3_reply_header(&r, "content-length", "12");
    assert_true(r.has_length && r.length == 12);
    plm_s3_reply_header(&r, "x-amz-checksum-crc32", "AAAAAA==");
    plm_s3_reply_header(&r, "x-amz-checksum-sha256", "abc-2"); /* of parts: says nothing here */
    assert_string_equal(r.checksum_kind, "crc32");
    plm_s3_reply_header(&r, "x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
    plm_s3_reply_header(&r, "x-amz-checksum-crc32c", "AAAAAA==");
    assert_string_equal(r.checksum_kind, "crc64nvme");
}

/* ---- reading ---------------------------------------------------------------------- */

static void test_errors_pass(void **state)
{
    (void)state;
    SCRIPT(NO_ANSWER(PLM_HTTP_NOT_SENT), ANSWER(503), ANSWER(500), NO_ANSWER(PLM_HTTP_STALLED),
           NO_ANSWER(PLM_HTTP_BROKEN), ANSWER(429), ANSWER(200, .body = "abc"));
    uint64_t retried = atomic_load(&ctx->n_retried);

    assert_got("abc");
    assert_int_equal(wire.n_asked, 7);
    assert_int_equal(atomic_load(&ctx->n_retried) - retried, 6);
}

static void test_patience(void **state)
{
    (void)state;
    SCRIPT(ANSWER(503, .body = "<Error><Code>SlowDown</Code><Message>please</Message></Error>"));
    assert_not_got(PLM_RETRY, "SlowDown: please");
    assert_int_equal(err.http_status, 503);
    assert_true(wire.now - 1000 > 170 && wire.now - 1000 <= 181);
    assert_non_null(strstr(err.message, "s3://bucket/k"));
    assert_non_null(strstr(err.message, " tries in 1"));
    assert_true(wire.n_asked > 36); /* never more than 5 s between two */
}

static void test_a_wrong_endpoint_is_given_up_sooner(void **state)
{
    (void)state;
    SCRIPT(NO_ANSWER(PLM_HTTP_NOT_SENT));
    assert_not_got(PLM_RETRY, "broken wire");
    assert_true(wire.now - 1000 <= 15);
    SCRIPT(NO_ANSWER(PLM_HTTP_REFUSED));
    assert_not_got(PLM_IO, "broken wire");
    assert_int_equal(wire.n_asked, 1);
}

static void test_secrets_sent_back_are_withheld(void **state)
{
    (void)state;
    SCRIPT(ANSWER(403, .body = "<Error><Code>No</Code><Message>you said " SECRET "</Message></Error>"));
    assert_not_got(PLM_DENIED, "withheld");
    SCRIPT(ANSWER(403, .body = "<Error><Code>No</Code><Message>you said " TOKEN "</Message></Error>"));
    assert_not_got(PLM_DENIED, "withheld");
}

static void test_resuming(void **state)
{
    (void)state;
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 200, .body = "0123456789", .cut = 4,
            .headers = "content-length: 10\netag: \"tag\""},
           NO_ANSWER(PLM_HTTP_BROKEN),
           ANSWER(206, .body = "456789", .headers = "content-range: bytes 4-9/10\ncontent-length: 6"));
    assert_got("0123456789");
    assert_string_equal(wire.asked[1], "GET /k bytes=4- \"tag\"");
    assert_string_equal(wire.asked[2], "GET /k bytes=4- \"tag\"");
}

static void test_without_a_tag_it_starts_over(void **state)
{
    (void)state;
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 200, .body = "old text", .cut = 4, .headers = "etag: W/\"1\""},
           ANSWER(200, .body = "new text"));
    assert_got("new text");
    assert_string_equal(wire.asked[1], "GET /k  ");
}

static void test_changed_in_between(void **state)
{
    (void)state;
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 200, .body = "0123456789", .cut = 4, .headers = "etag: \"tag\""},
           ANSWER(412));
    assert_not_got(PLM_CORRUPT, "changed");
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 200, .body = "0123456789", .cut = 4, .headers = "etag: \"tag\""},
           ANSWER(206, .body = "x", .headers = "content-range: bytes 3-9/10"));
    assert_not_got(PLM_CORRUPT, "begins at byte");
}

static void test_checksum_of_the_whole(void **state)
{
    (void)state;
    static const char head[] = "x-amz-checksum-crc32: y/Q5Jg==\netag: \"tag\"";

    SCRIPT(ANSWER(200, .body = "123456780", .headers = head),
           ANSWER(200, .body = "123456789", .headers = head));
    assert_got("123456789");
    SCRIPT(ANSWER(200, .body = "123456780", .headers = head));
    assert_not_got(PLM_CORRUPT, "crc32");
    SCRIPT(ANSWER(200, .body = "anything", .headers = "x-amz-checksum-crc32: y/Q5Jg==\n"
                                                      "x-amz-checksum-type: COMPOSITE"));
    assert_got("anything"); /* of its parts, not of the bytes */
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 200, .body = "123456789", .cut = 4, .headers = head},
           ANSWER(206, .body = "56780", .headers = "content-range: bytes 4-8/9"),
           ANSWER(200, .body = "123456789", .headers = head));
    assert_got("123456789"); /* the sum of the first head holds for all pieces together */
    assert_string_equal(wire.asked[2], "GET /k  ");
}

static void test_ceiling(void **state)
{
    (void)state;
    SCRIPT(ANSWER(200, .headers = "content-length: 9999999999", .body = "x"));
    assert_not_got(PLM_LIMIT, "9999999999");
}

/* A read of bytes 2..7 of an object of 10. */
static enum plm_code read_six(char out[7])
{
    struct plm_store *store = open_store();
    struct plm_file *file = NULL;
    enum plm_code rc;

    memset(out, 0, 7);
    assert_int_equal(plm_file_open(store, "k", 10, &file, &err), PLM_OK);
    rc = plm_file_read(file, 2, 6, out, &err);
    plm_file_close(file);
    plm_store_close(store);
    return rc;
}

static void test_ranged_read_resumes(void **state)
{
    (void)state;
    char out[7];

    SCRIPT({.fate = PLM_HTTP_STALLED, .status = 206, .body = "234567", .cut = 3,
            .headers = "content-range: bytes 2-7/10\netag: \"t\""},
           ANSWER(206, .body = "567", .headers = "content-range: bytes 5-7/10"));
    assert_int_equal(read_six(out), PLM_OK);
    assert_string_equal(out, "234567");
    assert_string_equal(wire.asked[0], "GET /k bytes=2-7 ");
    assert_string_equal(wire.asked[1], "GET /k bytes=5-7 \"t\"");
    /* All bytes are there, only the end of the connection is odd. */
    SCRIPT({.fate = PLM_HTTP_BROKEN, .status = 206, .body = "234567",
            .headers = "content-range: bytes 2-7/10"});
    assert_int_equal(read_six(out), PLM_OK);
    assert_int_equal(wire.n_asked, 1);
    /* Complete, says the wire, but bytes are missing. */
    SCRIPT(ANSWER(206, .body = "23", .headers = "content-range: bytes 2-7/10"),
           ANSWER(206, .body = "234567", .headers = "content-range: bytes 2-7/10"));
    assert_int_equal(read_six(out), PLM_OK);
    assert_string_equal(out, "234567");
}

static void test_ranged_read_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *headers, *body, *hint;
        long status;
        enum plm_code code;
    } cases[] = {
        {"content-range: bytes 2-7/11", "234567", "object size", 206, PLM_CORRUPT},
        {"content-range: bytes 0-5/10", "012345", "begins at", 206, PLM_CORRUPT},
        {"content-range: bytes 2-6/10", "23456", "ends at", 206, PLM_CORRUPT},
        {"content-range: bytes 2-7/10\ncontent-length: 7", "234567", "length", 206, PLM_CORRUPT},
        {"content-range: bytes 2-7/10", "23456789", "longer than asked", 206, PLM_CORRUPT},
        {"", "234567", "range requests", 206, PLM_UNSUPPORTED},
        {"content-length: 10", "0123456789", "range requests", 200, PLM_UNSUPPORTED},
        {"", "", "416", 416, PLM_CORRUPT},
        {"", "", "404", 404, PLM_NOT_FOUND}};
    char out[7];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SCRIPT(ANSWER(cases[i].status, .headers = cases[i].headers, .body = cases[i].body));
        assert_int_equal(read_six(out), cases[i].code);
        assert_non_null(strstr(err.message, cases[i].hint));
        assert_int_equal(wire.n_asked, 1);
    }
}

static void test_overlapping_ranges(void **state)
{
    (void)state;
    char a[5] = {0}, b[3] = {0}, c[4] = {0}, d[2] = {0};
    struct plm_range ranges[] = {{6, 3, c}, {1, 4, a}, {9, 1, d}, {2, 2, b}, {3, 0, NULL}};
    struct plm_store *store = open_store();
    struct plm_file *file = NULL;

    SCRIPT(ANSWER(206, .body = "123456789", .headers = "content-range: bytes 1-9/10"));
    assert_int_equal(plm_file_open(store, "k", 10, &file, &err), PLM_OK);
    assert_int_equal(plm_file_read_ranges(file, ranges, 5, &err), PLM_OK);
    assert_string_equal(a, "1234");
    assert_string_equal(b, "23");
    assert_string_equal(c, "678");
    assert_string_equal(d, "9");
    plm_file_close(file);
    plm_store_close(store);
}

static void test_credentials_refused_once(void **state)
{
    (void)state;
    SCRIPT(ANSWER(400, .body = "<Error><Code>ExpiredToken</Code></Error>"),
           ANSWER(200, .body = "abc"));
    assert_got("abc");
    SCRIPT(ANSWER(400, .body = "<Error><Code>ExpiredToken</Code></Error>"));
    assert_not_got(PLM_IO, "ExpiredToken");
    assert_int_equal(wire.n_asked, 2);
}

static void test_region_and_clock_once(void **state)
{
    (void)state;
    SCRIPT(ANSWER(400, .headers = "x-amz-bucket-region: mars-1"));
    assert_not_got(PLM_IO, "400");
    assert_int_equal(wire.n_asked, 2); /* there it is refused as well */
    SCRIPT(ANSWER(400, .headers = "x-amz-bucket-region: a/../b"));
    assert_not_got(PLM_IO, "400");
    assert_int_equal(wire.n_asked, 1);
    SCRIPT(ANSWER(403, .headers = "date: Fri, 24 May 2013 00:00:00 GMT",
                  .body = "<Error><Code>RequestTimeTooSkewed</Code></Error>"));
    assert_not_got(PLM_DENIED, "clock");
    assert_int_equal(wire.n_asked, 2);
}

static void test_cancelled_while_waiting(void **state)
{
    (void)state;
    struct plm_buf buf;

    SCRIPT(ANSWER(503));
    wire.cancel_at = 1005;
    assert_int_equal(get("k", &buf), PLM_CANCELLED);
    assert_true(wire.now - 1005 < 1);
    plm_buf_reset(&buf);
    atomic_store(&ctx->cancelled, false);
}

static void test_a_failure_ends_the_batch(void **state)
{
    (void)state;
    struct plm_store *store = open_store();
    struct plm_file *file = NULL;
    struct plm_range ranges[8];
    char out[8];

    SCRIPT(ANSWER(404));
    assert_int_equal(plm_file_open(store, "k", 100000000, &file, &err), PLM_OK);
    for (size_t i = 0; i < 8; i++)
        ranges[i] = (struct plm_range){i * 10000000, 1, out + i};
    assert_int_equal(plm_file_read_ranges(file, ranges, 8, &err), PLM_NOT_FOUND);
    assert_int_equal(wire.n_asked, 8);
    assert_int_equal(wire.n_dropped, 7);
    assert_int_equal(wire.n_flying, 0);
    plm_file_close(file);
    plm_store_close(store);
}

/* ---- conditional writes ------------------------------------------------------------ */

/* Behind a probe that went well: PUT 200, PUT 412, DELETE 204. */
#define PROBED ANSWER(200), ANSWER(412), ANSWER(204)

static enum plm_code put_if_absent(void)
{
    struct plm_store *store = open_store();
    enum plm_code rc = plm_store_put_if_absent(store, "k", "x", 1, &err);

    plm_store_close(store);
    return rc;
}

static void test_conditional_outcomes(void **state)
{
    (void)state;
    SCRIPT(PROBED, ANSWER(200));
    assert_int_equal(put_if_absent(), PLM_OK);
    assert_non_null(strstr(wire.asked[0], "PUT /probe-"));
    assert_non_null(strstr(wire.asked[2], "DELETE /probe-"));
    assert_string_equal(wire.asked[3], "PUT /k   once");
    SCRIPT(PROBED, ANSWER(412));
    assert_int_equal(put_if_absent(), PLM_CONFLICT);
    SCRIPT(PROBED, ANSWER(409));
    assert_int_equal(put_if_absent(), PLM_CONFLICT);
    SCRIPT(PROBED, NO_ANSWER(PLM_HTTP_NOT_SENT), ANSWER(429), ANSWER(412));
    assert_int_equal(put_if_absent(), PLM_CONFLICT); /* surely nobody saw the first two */
    SCRIPT(PROBED, ANSWER(503), ANSWER(200));
    assert_int_equal(put_if_absent(), PLM_OK);
    SCRIPT(PROBED, ANSWER(403));
    assert_int_equal(put_if_absent(), PLM_DENIED);
}

static void test_unknown_outcomes(void **state)
{
    (void)state;
    static const struct answer unclear[] = {NO_ANSWER(PLM_HTTP_BROKEN), NO_ANSWER(PLM_HTTP_STALLED),
                                            ANSWER(500), ANSWER(502), ANSWER(504), ANSWER(408)};

    for (size_t i = 0; i < sizeof unclear / sizeof *unclear; i++) {
        SCRIPT(PROBED, unclear[i], ANSWER(200));
        assert_int_equal(put_if_absent(), PLM_RETRY);
        assert_int_equal(wire.n_asked, 4); /* not sent again */
    }
    SCRIPT(PROBED, ANSWER(503), ANSWER(412));
    assert_int_equal(put_if_absent(), PLM_RETRY);
    SCRIPT(PROBED, ANSWER(503), ANSWER(409));
    assert_int_equal(put_if_absent(), PLM_RETRY);
    SCRIPT(PROBED, ANSWER(503));
    assert_int_equal(put_if_absent(), PLM_RETRY); /* patience at its end */
}

static void test_probe_verdicts(void **state)
{
    (void)state;
    SCRIPT(ANSWER(200), ANSWER(200), ANSWER(204));
    assert_int_equal(put_if_absent(), PLM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "If-None-Match"));
    assert_int_equal(wire.n_asked, 3); /* the probe is gone, nothing was committed */
    SCRIPT(ANSWER(501), ANSWER(204));
    assert_int_equal(put_if_absent(), PLM_UNSUPPORTED);
    SCRIPT(ANSWER(412), ANSWER(204));
    assert_int_equal(put_if_absent(), PLM_UNSUPPORTED);
    SCRIPT(ANSWER(403), ANSWER(204));
    assert_int_equal(put_if_absent(), PLM_DENIED);
    SCRIPT(NO_ANSWER(PLM_HTTP_BROKEN), ANSWER(204), PROBED, ANSWER(200));
    assert_int_equal(put_if_absent(), PLM_OK); /* unclear: asked again with another key */
    assert_true(strcmp(wire.asked[0], wire.asked[2]) != 0);
    SCRIPT(ANSWER(200), ANSWER(503), ANSWER(412), ANSWER(204), ANSWER(200));
    assert_int_equal(put_if_absent(), PLM_OK); /* the key was there before: 412 is an answer */
}

static void test_probe_is_made_once(void **state)
{
    (void)state;
    struct plm_store *store = open_store();

    SCRIPT(PROBED, ANSWER(200));
    assert_int_equal(plm_store_put_if_absent(store, "a", "x", 1, &err), PLM_OK);
    assert_int_equal(plm_store_put_if_absent(store, "b", "x", 1, &err), PLM_OK);
    assert_int_equal(wire.n_asked, 5);
    plm_store_close(store);
}

/* ---- listing, multipart: the server lies ------------------------------------------- */

static void test_endless_listing(void **state)
{
    (void)state;
    struct plm_store *store = open_store();
    struct plm_entries entries = {0};

    SCRIPT(ANSWER(200, .body = "<ListBucketResult><IsTruncated>true</IsTruncated>"
                               "<NextContinuationToken>same</NextContinuationToken></ListBucketResult>"));
    assert_int_equal(plm_store_list(store, "d", 0, &entries, &err), PLM_CORRUPT);
    assert_int_equal(wire.n_asked, 2);
    assert_null(entries.items);
    plm_store_close(store);
}

static void test_delete_tree_keeps_to_its_tree(void **state)
{
    (void)state;
    struct plm_store *store = open_store();

    SCRIPT(ANSWER(200, .body = "<ListBucketResult><Contents><Key>data/precious</Key><Size>1</Size>"
                               "</Contents></ListBucketResult>"));
    assert_int_equal(plm_store_delete_tree(store, "job", &err), PLM_CORRUPT);
    assert_int_equal(wire.n_asked, 1); /* nothing was deleted */
    plm_store_close(store);
}

#define PARTS_OF_10 "<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>\"e\"</ETag>"             \
                    "<Size>10</Size></Part></ListPartsResult>"

static enum plm_code finish_upload(void)
{
    struct plm_store *store = open_store();
    struct plm_writer *writer = NULL;
    enum plm_code rc;

    assert_int_equal(plm_writer_open(store, "k", 10, "s3:id:k", NULL, &writer, &err), PLM_OK);
    rc = plm_writer_finish(writer, &err);
    if (rc)
        plm_writer_detach(writer);
    plm_store_close(store);
    return rc;
}

static void test_completing(void **state)
{
    (void)state;
    static const char failed[] = "<Error><Code>InternalError</Code></Error>";
    struct answer parts = ANSWER(200, .body = PARTS_OF_10), lost = NO_ANSWER(PLM_HTTP_BROKEN);
    struct answer gone = ANSWER(404, .body = "<Error><Code>NoSuchUpload</Code></Error>");

    SCRIPT(parts, ANSWER(200, .body = failed), ANSWER(200, .body = "<ok/>"));
    assert_int_equal(finish_upload(), PLM_OK); /* 200 with an error inside is none */
    assert_int_equal(wire.n_asked, 3);
    SCRIPT(parts, gone);
    assert_int_equal(finish_upload(), PLM_NOT_FOUND);
    SCRIPT(parts, lost, gone, ANSWER(200, .headers = "content-length: 10\netag: \"abc-1\""));
    assert_int_equal(finish_upload(), PLM_OK); /* our own lost try completed it */
    SCRIPT(parts, lost, gone, ANSWER(200, .headers = "content-length: 10\netag: \"abc\""));
    assert_int_equal(finish_upload(), PLM_IO); /* somebody else's object */
    SCRIPT(parts, lost, gone, ANSWER(404));
    assert_int_equal(finish_upload(), PLM_NOT_FOUND);
}

/* ---- faults ------------------------------------------------------------------------- */

/* Fails allocation 1, 2, ... until the whole passes; nothing may leak or stay in flight. */
static void test_every_allocation_fails_once(void **state)
{
    (void)state;
    enum plm_code rc = PLM_NOMEM;
    int n;

    for (n = 1; rc != PLM_OK && n < 500; n++) {
        struct plm_store *store = open_store();
        struct plm_buf buf;

        SCRIPT(ANSWER(503), ANSWER(200, .body = "abc", .headers = "content-length: 3"));
        plm_buf_init(&buf, ctx, 1000);
        atomic_store(&ctx->faults.alloc_countdown, n);
        rc = plm_store_get(store, "k", &buf, &err);
        atomic_store(&ctx->faults.alloc_countdown, 0);
        assert_true(rc == PLM_OK || rc == PLM_NOMEM);
        assert_int_equal(wire.n_flying, 0);
        plm_buf_reset(&buf);
        plm_store_close(store);
        assert_int_equal(atomic_load(&ctx->memory_used), 0);
    }
    assert_true(n > 10 && n < 500);
}

static void test_the_fault_hook(void **state)
{
    (void)state;
    SCRIPT(ANSWER(200, .body = "abc"));
    atomic_store(&ctx->faults.io_countdown, 1);
    struct plm_buf buf;

    assert_int_equal(get("k", &buf), PLM_IO);
    assert_int_equal(wire.n_asked, 0);
    plm_buf_reset(&buf);
    atomic_store(&ctx->faults.io_countdown, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_reply_headers),
        cmocka_unit_test(test_errors_pass),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_a_wrong_endpoint_is_given_up_sooner),
        cmocka_unit_test(test_secrets_sent_back_are_withheld),
        cmocka_unit_test(test_resuming),
        cmocka_unit_test(test_without_a_tag_it_starts_over),
        cmocka_unit_test(test_changed_in_between),
        cmocka_unit_test(test_checksum_of_the_whole),
        cmocka_unit_test(test_ceiling),
        cmocka_unit_test(test_ranged_read_resumes),
        cmocka_unit_test(test_ranged_read_hostile),
        cmocka_unit_test(test_overlapping_ranges),
        cmocka_unit_test(test_credentials_refused_once),
        cmocka_unit_test(test_region_and_clock_once),
        cmocka_unit_test(test_cancelled_while_waiting),
        cmocka_unit_test(test_a_failure_ends_the_batch),
        cmocka_unit_test(test_conditional_outcomes),
        cmocka_unit_test(test_unknown_outcomes),
        cmocka_unit_test(test_probe_verdicts),
        cmocka_unit_test(test_probe_is_made_once),
        cmocka_unit_test(test_endless_listing),
        cmocka_unit_test(test_delete_tree_keeps_to_its_tree),
        cmocka_unit_test(test_completing),
        cmocka_unit_test(test_every_allocation_fails_once),
        cmocka_unit_test(test_the_fault_hook),
    };

    return cmocka_run_group_tests_name("s3_retry", tests, setup, teardown);
}

#endif
