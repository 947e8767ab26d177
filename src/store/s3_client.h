/* s3_client.h - requests that are signed, retried and checked.
 *
 * Owns     a client owns its settings, secrets and idle connections; requests borrow.
 * Threads  a client is shared by threads; each call to run() drives its own connections.
 * Errors   as store.h says; a message names the object, the status, how many tries and why.
 */
#ifndef PLM_S3_CLIENT_H
#define PLM_S3_CLIENT_H

#include "store/s3_config.h"
#include "store/s3_retry.h"
#include "store/store.h"

#define PLM_S3_KEY_BYTES_MAX 1024

struct plm_s3_client {
    struct plm_ctx *ctx;
    struct plm_s3_config config;
    struct plm_s3_creds creds;
    struct plm_s3_rate rate;
    pthread_mutex_t lock; /* region, idle */
    char region[64];
    struct plm_http *idle[32];
    size_t n_idle;
    atomic_int_fast64_t skew_ms; /* server's clock minus ours */
    atomic_bool answered;        /* the endpoint exists: be patient with it */
    atomic_uint_fast64_t n_random;
    uint64_t seed;
    /* plm_http_open, or a test's */
    enum plm_code (*open_http)(struct plm_ctx *, const struct plm_http_options *,
                               struct plm_http **, struct plm_err *);
};
/* Takes config and given; both are gone after a failure too. */
void plm_s3_client_init(struct plm_s3_client *client, struct plm_ctx *ctx,
                        struct plm_s3_config *config, struct plm_s3_secret *given);
void plm_s3_client_reset(struct plm_s3_client *client);

struct plm_s3_request {
    const char *method;
    char key[PLM_S3_KEY_BYTES_MAX + 1];
    struct plm_s3_pair query[8];
    size_t n_query;
    const void *body;
    size_t body_bytes;
    bool if_absent;          /* If-None-Match: *; an unknown outcome ends in PLM_RETRY */
    bool error_in_200;       /* a 200 may carry an <Error> body in `into` */
    bool slow_answer;        /* the server may think for minutes */
    bool is_list;            /* for the counters */
    const char *if_match;    /* or NULL */
    /* GET: a part of an object whose size is known, or all of it */
    bool ranged;
    uint64_t first, n_bytes, object_bytes;
    struct plm_buf *into;           /* where the body goes, or */
    const struct plm_range *pieces; /* ranges ascending by offset, cut from first..+n_bytes */
    size_t n_pieces;
    /* out */
    struct plm_s3_reply reply; /* of the last answer */
    unsigned n_tries;
    uint64_t n_got;
    bool unsure; /* an earlier try may have been applied */
};

/* n requests, up to config.connections at once. fill() writes request i into the zeroed
 * struct, done() (may be NULL) sees it after it succeeded; both run on the caller's thread.
 * Ends at the first failure. */
struct plm_s3_batch {
    size_t n;
    void *arg;
    enum plm_code (*fill)(void *arg, size_t i, struct plm_s3_request *, struct plm_err *);
    enum plm_code (*done)(void *arg, size_t i, struct plm_s3_request *, struct plm_err *);
};
PLM_MUST_CHECK enum plm_code plm_s3_run(struct plm_s3_client *client, const struct plm_s3_batch *batch,
                                        struct plm_err *err);
/* One request; its out fields are written after a failure too. */
PLM_MUST_CHECK enum plm_code plm_s3_one(struct plm_s3_client *client, struct plm_s3_request *request,
                                        struct plm_err *err);

#endif
