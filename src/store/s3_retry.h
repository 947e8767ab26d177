/* s3_retry.h - what an answer means, how long to wait, how fast to go.
 *
 * Owns     plm_s3_rate is a plain value with a lock inside; init and reset it.
 * Threads  one rate is shared by all threads of a store.
 * Repeats  pure functions of their input; jitter comes from the seed given.
 */
#ifndef PLM_S3_RETRY_H
#define PLM_S3_RETRY_H

#include <pthread.h>

#include "store/s3_http.h"

#define PLM_S3_BACKOFF_MIN_S 0.05
#define PLM_S3_BACKOFF_MAX_S 5.0
#define PLM_S3_RETRY_AFTER_MAX_S 60.0

/* The parts of a response that matter, bounded and NUL-terminated. */
struct plm_s3_reply {
    long status; /* 0 = none */
    char etag[160];
    char region[64];     /* x-amz-bucket-region */
    char request_id[80]; /* for the message */
    char retry_after[64];
    char date[64];
    char checksum[80];      /* base64 of the strongest x-amz-checksum-* that covers the object */
    char checksum_kind[16]; /* "sha256", "crc32", "crc32c", "crc64nvme" or empty */
    bool has_length, has_range, composite;
    uint64_t length;                    /* Content-Length */
    uint64_t range_first, range_last;   /* Content-Range */
    uint64_t range_total;               /* UINT64_MAX = unknown */
    char code[64];     /* <Code> of an error body */
    char message[240]; /* <Message>, printable */
};

/* Takes in one header line; malformed ones leave their field empty. */
void plm_s3_reply_header(struct plm_s3_reply *reply, const char *name, const char *value);

enum plm_s3_verdict {
    PLM_S3_GOOD,
    PLM_S3_AGAIN,        /* passing trouble, surely not applied */
    PLM_S3_AGAIN_UNSURE, /* passing trouble, a write may have been applied */
    PLM_S3_SLOWER,       /* throttled; surely not applied */
    PLM_S3_SLOWER_UNSURE,
    PLM_S3_SKEWED, /* the clocks differ */
    PLM_S3_STALE,  /* the credentials have expired */
    PLM_S3_MOVED,  /* reply->region is the bucket's */
    PLM_S3_FINAL,
};
enum plm_s3_verdict plm_s3_judge(enum plm_http_fate fate, const struct plm_s3_reply *reply);
/* The code for a request that is given up or refused for good. */
enum plm_code plm_s3_code_of(enum plm_http_fate fate, const struct plm_s3_reply *reply);

/* Seconds before try number n_failed + 1 (n_failed >= 1): full jitter below a doubling
 * ceiling, 50 ms to 5 s; Retry-After (seconds or a date) makes it longer, to one minute. */
double plm_s3_backoff(unsigned n_failed, const char *retry_after, int64_t unix_ms, uint64_t random);
/* Unix milliseconds of an HTTP date or ISO 8601 time, or -1. */
int64_t plm_s3_time(const char *text);

/* Requests per second, learnt from throttling: unlimited until the first 503, then halved
 * at most once a second and raised again by a tenth a second. */
struct plm_s3_rate {
    pthread_mutex_t lock;
    double limit; /* 0 = none */
    double next_slot, last_cut, last_raise;
    double window_began, measured;
    uint64_t n_window;
};
void plm_s3_rate_init(struct plm_s3_rate *rate);
void plm_s3_rate_reset(struct plm_s3_rate *rate);
/* Takes the next slot: seconds until it may be used. */
double plm_s3_rate_take(struct plm_s3_rate *rate, double now);
void plm_s3_rate_throttled(struct plm_s3_rate *rate, double now);
void plm_s3_rate_went_well(struct plm_s3_rate *rate, double now);

#endif
