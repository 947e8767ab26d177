/* s3_http.c - the transport over libcurl's multi interface. */
#ifdef PLM_WITH_S3

#include "store/s3_http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

/* Slower than this for stall_s counts as stalled. */
#define SLOW_BYTES_PER_SECOND 4096L
#define HEADER_LINE_MAX 8192

struct curl_wire {
    struct plm_http base;
    struct plm_ctx *ctx;
    CURLM *multi;
    struct plm_http_options options;
    char *ca_file;
};

/* What a call has on the wire. */
struct transfer {
    struct curl_wire *wire;
    struct plm_http_call *call;
    CURL *easy;
    struct curl_slist *headers;
    size_t sent;
    char error[CURL_ERROR_SIZE];
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void init_curl(void)
{
    curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
    struct transfer *t = user;

    (void)size; /* always 1 */
    return t->call->take(t->call->user, (const uint8_t *)bytes, n) ? n : 0;
}

/* Splits "Name: value\r\n" and hands it on; anything odd is left out. */
static void split_header(struct plm_http_call *call, const char *line, size_t n)
{
    char text[HEADER_LINE_MAX];
    char *colon, *value, *end;

    if (n >= sizeof text)
        return;
    memcpy(text, line, n);
    text[n] = 0;
    end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = 0;
    colon = strchr(text, ':');
    if (colon == NULL)
        return;
    *colon = 0;
    for (char *p = text; p < colon; p++)
        *p = (char)tolower((unsigned char)*p);
    value = colon + 1;
    while (*value == ' ' || *value == '\t')
        value++;
    call->header(call->user, text, value);
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct transfer *t = user;
    long status = 0;

    (void)size;
    if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        t->call->status(t->call->user, status);
    } else {
        split_header(t->call, line, n);
    }
    return n;
}

static size_t on_send(char *into, size_t size, size_t room, void *user)
{
    struct transfer *t = user;
    size_t n = plm_min_size(size * room, t->call->body_bytes - t->sent);

    if (n > 0)
        memcpy(into, (const char *)t->call->body + t->sent, n);
    t->sent += n;
    return n;
}

/* curl rewinds when a kept connection turns out dead before anything was answered. */
static int on_seek(void *user, curl_off_t offset, int origin)
{
    struct transfer *t = user;

    if (origin != SEEK_SET || offset < 0 || (size_t)offset > t->call->body_bytes)
        return CURL_SEEKFUNC_FAIL;
    t->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* Header lines hold the session token: wiped before they are freed. */
static void free_headers(struct curl_slist *headers)
{
    for (struct curl_slist *h = headers; h; h = h->next)
        OPENSSL_cleanse(h->data, strlen(h->data));
    curl_slist_free_all(headers);
}

static void free_transfer(struct transfer *t)
{
    if (t == NULL)
        return;
    if (t->easy)
        curl_easy_cleanup(t->easy);
    free_headers(t->headers);
    plm_free(t->wire->ctx, t);
}

static bool add_header(struct curl_slist **list, const char *name, const char *value)
{
    size_t n = strlen(name) + strlen(value) + 3;
    char *line = malloc(n);
    struct curl_slist *longer;

    if (line == NULL)
        return false;
    /* A ';' instead of ':' makes curl send a header without a value. */
    snprintf(line, n, *value ? "%s: %s" : "%s;", name, value);
    longer = curl_slist_append(*list, line);
    OPENSSL_cleanse(line, n);
    free(line);
    if (longer == NULL)
        return false;
    *list = longer;
    return true;
}

static bool add_headers(struct transfer *t)
{
    const struct plm_http_call *call = t->call;
    bool ok = true;

    for (size_t i = 0; i < call->n_headers; i++)
        ok = ok && add_header(&t->headers, call->headers[i].name, call->headers[i].value);
    for (int i = 0; i < 2 && ok; i++) { /* without what curl adds and S3 has no use for */
        struct curl_slist *longer = curl_slist_append(t->headers, i ? "Expect:" : "Accept:");

        ok = longer != NULL;
        t->headers = longer ? longer : t->headers;
    }
    return ok;
}

static void set_method(CURL *easy, const struct plm_http_call *call, struct transfer *t)
{
    if (strcmp(call->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (strcmp(call->method, "PUT") == 0 || strcmp(call->method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->body_bytes);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(easy, CURLOPT_READDATA, t);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, t);
        curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, 256L << 10);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
    } else if (strcmp(call->method, "GET") != 0) {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
    }
}

static void set_limits(CURL *easy, const struct curl_wire *wire, const struct plm_http_call *call)
{
    long stall = (long)(call->stall_s + 0.5);

    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(wire->options.connect_s * 1000));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(call->attempt_s * 1000));
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, SLOW_BYTES_PER_SECOND);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, stall < 1 ? 1 : stall);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, wire->options.allow_http ? "http,https" : "https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "pilum/" PLM_VERSION);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, call->once ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 256L << 10);
    if (wire->ca_file)
        curl_easy_setopt(easy, CURLOPT_CAINFO, wire->ca_file);
    if (wire->options.direct)
        curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
}

static enum plm_code wire_start(struct plm_http *http, struct plm_http_call *call,
                                struct plm_err *err)
{
    struct curl_wire *wire = (struct curl_wire *)http;
    enum plm_code rc = PLM_OK;
    struct transfer *t = NULL;

    PLM_TRY(plm_calloc(wire->ctx, &t, 1, sizeof *t, err));
    t->wire = wire;
    t->call = call;
    t->easy = curl_easy_init();
    if (t->easy == NULL || !add_headers(t))
        PLM_TRY(plm_fail(err, PLM_NOMEM, "s3: out of memory in libcurl"));
    curl_easy_setopt(t->easy, CURLOPT_URL, call->url);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    set_limits(t->easy, wire, call);
    set_method(t->easy, call, t);
    if (curl_multi_add_handle(wire->multi, t->easy) != CURLM_OK)
        PLM_TRY(plm_fail(err, PLM_NOMEM, "s3: out of memory in libcurl"));
    call->wire = t;
    t = NULL;
done:
    free_transfer(t);
    return rc;
}

static void wire_drop(struct plm_http *http, struct plm_http_call *call)
{
    struct curl_wire *wire = (struct curl_wire *)http;
    struct transfer *t = call->wire;

    if (t == NULL)
        return;
    curl_multi_remove_handle(wire->multi, t->easy);
    call->wire = NULL;
    free_transfer(t);
}

static enum plm_http_fate fate_of(CURLcode code, CURL *easy)
{
    curl_off_t sending_us = 0;

    switch (code) {
    case CURLE_OK: return PLM_HTTP_ANSWERED;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR: return PLM_HTTP_NOT_SENT;
    case CURLE_OPERATION_TIMEDOUT:
        curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &sending_us);
        return sending_us == 0 ? PLM_HTTP_NOT_SENT : PLM_HTTP_STALLED;
    case CURLE_WRITE_ERROR: return PLM_HTTP_STOPPED;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_OUT_OF_MEMORY: return PLM_HTTP_REFUSED;
    default: return PLM_HTTP_BROKEN;
    }
}

static struct plm_http_call *next_finished(struct curl_wire *wire)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(wire->multi, &left)) != NULL) {
        struct transfer *t = NULL;
        struct plm_http_call *call;
        CURLcode code = msg->data.result;

        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        call = t->call;
        call->fate = fate_of(code, t->easy);
        call->problem[0] = 0;
        if (code != CURLE_OK)
            snprintf(call->problem, sizeof call->problem, "%s",
                     t->error[0] ? t->error : curl_easy_strerror(code));
        wire_drop(&wire->base, call);
        return call;
    }
    return NULL;
}

static struct plm_http_call *wire_wait(struct plm_http *http, double seconds)
{
    struct curl_wire *wire = (struct curl_wire *)http;
    struct plm_http_call *call;
    int running = 0;

    curl_multi_perform(wire->multi, &running);
    call = next_finished(wire);
    if (call || seconds <= 0)
        return call;
    curl_multi_poll(wire->multi, NULL, 0, (int)(seconds * 1000) + 1, NULL);
    curl_multi_perform(wire->multi, &running);
    return next_finished(wire);
}

static double wire_now(struct plm_http *http)
{
    (void)http;
    return plm_now_seconds();
}

static void wire_close(struct plm_http *http)
{
    struct curl_wire *wire = (struct curl_wire *)http;

    if (wire == NULL)
        return;
    if (wire->multi)
        curl_multi_cleanup(wire->multi);
    plm_free(wire->ctx, wire->ca_file);
    plm_free(wire->ctx, wire);
}

enum plm_code plm_http_open(struct plm_ctx *ctx, const struct plm_http_options *options,
                            struct plm_http **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct curl_wire *wire = NULL;

    pthread_once(&curl_once, init_curl);
    if (curl_ready != CURLE_OK)
        return plm_fail(err, PLM_IO, "s3: libcurl does not start: %s", curl_easy_strerror(curl_ready));
    PLM_TRY(plm_calloc(ctx, &wire, 1, sizeof *wire, err));
    wire->base = (struct plm_http){wire_start, wire_wait, wire_drop, wire_now, wire_close};
    wire->ctx = ctx;
    wire->options = *options;
    if (options->ca_file)
        PLM_TRY(plm_strdup(ctx, options->ca_file, &wire->ca_file, err));
    wire->multi = curl_multi_init();
    if (wire->multi == NULL)
        PLM_TRY(plm_fail(err, PLM_NOMEM, "s3: out of memory in libcurl"));
    *out = &wire->base;
    wire = NULL;
done:
    wire_close(wire ? &wire->base : NULL);
    return rc;
}

#endif
