/* s3_window.h - stretches of objects that were announced, fetched in long requests and kept
 * until they have been asked for.
 *
 * Owns     a shelf (one for a store) owns the bytes that are kept; a file owns its windows.
 * Memory   at most `keep_bytes`, charged to the context; what finds no room is fetched as asked.
 * Threads  reads from several threads; whoever comes first fetches, the others wait. expect()
 *          and forget() not while the file is read.
 */
#ifndef PLM_S3_WINDOW_H
#define PLM_S3_WINDOW_H

#include <pthread.h>

#include "store/store.h"

/* Requests are this long or longer (up to twice as long), where what is wanted is. */
#define PLM_S3_PIECE_BYTES ((uint64_t)8 << 20)
/* Ranges nearer than this are fetched as one: at 100 MB/s the gap costs 1 ms, a request 20. */
#define PLM_S3_GAP_BYTES ((uint64_t)128 << 10)

enum plm_s3_window_state { PLM_S3_ABSENT, PLM_S3_LOADING, PLM_S3_HELD };

struct plm_s3_window {
    uint64_t from, to;
    int64_t left; /* bytes that have not been asked for yet */
    uint8_t *bytes;
    enum plm_s3_window_state state;
    unsigned pins;    /* reads that wait for it or copy from it */
    uint64_t touched; /* shelf->n_reads at its last use */
    struct plm_s3_window *previous, *next; /* of those with bytes */
};

struct plm_s3_shelf {
    struct plm_ctx *ctx;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t keep_bytes, kept_bytes, n_reads;
    struct plm_s3_window *first; /* of those with bytes */
};

struct plm_s3_windows {
    struct plm_s3_window *items; /* ascending, disjoint */
    size_t n;
};

void plm_s3_shelf_init(struct plm_s3_shelf *shelf, struct plm_ctx *ctx);
void plm_s3_shelf_reset(struct plm_s3_shelf *shelf);

/* As plm_file_expect(). */
void plm_s3_windows_expect(struct plm_s3_shelf *shelf, struct plm_s3_windows *w,
                           const struct plm_range *ranges, size_t n);
void plm_s3_windows_forget(struct plm_s3_shelf *shelf, struct plm_s3_windows *w);

/* What one call of a reader takes from windows. */
struct plm_s3_served {
    struct plm_range *served, *rest; /* [n_served], [n_rest]: the ranges, cut in two lists */
    size_t n_served, n_rest;
    struct plm_s3_window **mine; /* [n_mine]: for the caller to fetch */
    size_t n_mine;
};
/* Finds and pins the windows of the ranges. The caller fetches out->mine and out->rest, then
 * calls finish() whatever came of it: `fetched` = those of mine that have their bytes now. */
PLM_MUST_CHECK enum plm_code
plm_s3_windows_begin(struct plm_s3_shelf *shelf, struct plm_s3_windows *w,
                     const struct plm_range *ranges, size_t n, struct plm_s3_served *out,
                     struct plm_err *err);
/* Copies what is served (when rc is PLM_OK), waiting for windows that others fetch. Ranges that they
 * failed to get are in again[0..*n_again), borrowed from `served`. Returns rc, or PLM_CANCELLED. */
PLM_MUST_CHECK enum plm_code
plm_s3_windows_finish(struct plm_s3_shelf *shelf, struct plm_s3_windows *w, enum plm_code rc,
                      struct plm_s3_served *served, size_t *n_again, struct plm_err *err);
void plm_s3_served_reset(struct plm_s3_shelf *shelf, struct plm_s3_served *served);
/* One of `mine` has its bytes. */
void plm_s3_window_came(struct plm_s3_shelf *shelf, struct plm_s3_window *window);

#endif
