/* s3_http.h - one attempt of an HTTP request on the wire; libcurl behind it, or a test's fake.
 *
 * Owns     a call belongs to its maker, who keeps it (and its url and body) in place until it
 *          is finished or dropped; header values are copied by start().
 * Threads  one transport is used by one thread at a time. It keeps its connections alive.
 */
#ifndef PLM_S3_HTTP_H
#define PLM_S3_HTTP_H

#include "store/s3_sign.h"

/* How an attempt ended. */
enum plm_http_fate {
    PLM_HTTP_ANSWERED, /* complete response, see status */
    PLM_HTTP_NOT_SENT, /* no connection: the server has not seen the request */
    PLM_HTTP_BROKEN,   /* reset or cut short, on the way out or back */
    PLM_HTTP_STALLED,  /* too slow or out of time */
    PLM_HTTP_REFUSED,  /* certificate, bad URL: trying again will not help */
    PLM_HTTP_STOPPED,  /* take() returned false */
};

struct plm_http_call {
    const char *method, *url;
    struct plm_s3_pair headers[PLM_S3_PAIRS_MAX];
    size_t n_headers;
    const void *body;
    size_t body_bytes;
    double attempt_s; /* limit for the whole attempt, 0 = none */
    double stall_s;   /* slower than 4 KiB/s for this long = stalled */
    bool once;        /* never repeated behind our back: on a kept connection that turns out
                         dead before an answer, curl would send the request again */
    /* Called from wait(): header() once for each line of the final header block, name in lower
     * case (a new block starts with status(), which forgets the earlier one), then take(). */
    void (*status)(void *user, long status);
    void (*header)(void *user, const char *name, const char *value);
    bool (*take)(void *user, const uint8_t *bytes, size_t n);
    void *user;
    /* results */
    enum plm_http_fate fate;
    char problem[256]; /* empty if ANSWERED */
    void *wire;        /* the transport's own */
};

struct plm_http {
    PLM_MUST_CHECK enum plm_code (*start)(struct plm_http *, struct plm_http_call *,
                                          struct plm_err *);
    /* A finished call, or NULL once `seconds` have passed without one. */
    struct plm_http_call *(*wait)(struct plm_http *, double seconds);
    void (*drop)(struct plm_http *, struct plm_http_call *);
    double (*now)(struct plm_http *); /* seconds, monotonic */
    void (*close)(struct plm_http *);
};

struct plm_http_options {
    double connect_s;
    const char *ca_file; /* PEM, NULL = the system's */
    bool direct;         /* never through a proxy (metadata endpoints) */
    bool allow_http;     /* else https only */
};

PLM_MUST_CHECK enum plm_code plm_http_open(struct plm_ctx *ctx, const struct plm_http_options *options,
                                           struct plm_http **out, struct plm_err *err);

#endif
