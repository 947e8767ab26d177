/* dist_parts.h - private to the shared build: its state, and the calls in other files.
 *
 * dist.c         handles, the table of calls, plan, facts, report
 * dist_sample.c  choosing the sample, holding shards of it
 * dist_train.c   centroids, the model
 * dist_codebook.c, dist_probes.c
 * dist_work.c    encoding and merging
 * dist_verify.c  checks before the commit
 */
#ifndef PLM_DIST_PARTS_H
#define PLM_DIST_PARTS_H

#include "build/dist.h"
#include "build/encode.h"
#include "build/merge.h"
#include "build/train_parts.h"
#include "build/verify.h"
#include "cluster/sample_slices.h"

#define PLM_DIST_MESSAGE_MAX ((size_t)8 << 30)

/* A shard that this worker holds. */
struct plm_dist_shard {
    uint64_t number, message_xxh3, first;
    struct plm_sample sample;
    struct plm_shard *shard; /* NULL until the first step */
    struct plm_buf answer;   /* given when it was read */
};

/* The driver's choice of the sample. */
struct plm_dist_sampling {
    struct plm_slices slices;
    enum { PLM_ROUND_FIRST, PLM_ROUND_COUNT, PLM_ROUND_LAST, PLM_ROUND_DONE } round;
    size_t from, to;              /* slices of the list in this round */
    size_t n_used;
    uint64_t n_rows;
    struct plm_slice **by_number; /* [to - from] */
    size_t n_shards, n_messages;  /* n_messages: of this round */
    struct plm_sample_facts *held; /* [n_shards] */
    uint8_t *answered;            /* [n_shards] in this round */
};

/* One of the verify tasks. */
struct plm_dist_check {
    uint64_t kind, segment, first, end;
};

struct plm_dist {
    struct plm_ctx *ctx;
    const struct plm_build_options *options;
    const struct plm_kernels *kernels; /* of the context before the job was opened */
    struct plm_job job;
    bool has_model;
    /* driver */
    struct plm_dist_sampling sampling;
    struct plm_sample_facts sample;
    bool is_training;      /* train_begin was called */
    float *codebook;
    double *pq_error;
    uint8_t *pq_done;      /* [sub-vector] */
    uint8_t *encoded;      /* [task] */
    struct plm_dist_check *checks;
    uint8_t *checked;
    size_t n_checks;
    struct plm_id_sum ids;
    /* worker */
    struct plm_store *spill;
    char *spill_dir;
    struct plm_dist_shard *shards;
    size_t n_shards;
    struct plm_encoding *encoding;
    struct plm_merge *merge;
    char *merge_token;     /* of `merge`, NULL = not joined */
    struct plm_segment *segments;
    size_t n_segments;
};

typedef enum plm_code plm_dist_fn(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err);
struct plm_dist_entry {
    const char *name;
    plm_dist_fn *fn;
    uint8_t n_numbers, n_messages; /* PLM_ANY: any number of them */
};
#define PLM_ANY 255
/* Each ends with an entry without a name. */
extern const struct plm_dist_entry plm_dist_sample_calls[], plm_dist_train_calls[],
    plm_dist_codebook_calls[], plm_dist_probes_calls[], plm_dist_work_calls[], plm_dist_verify_calls[];

void plm_dist_sampling_reset(struct plm_dist *d);
void plm_dist_drop_shards(struct plm_dist *d);
void plm_dist_work_reset(struct plm_dist *d);
void plm_dist_segments_reset(struct plm_dist *d);
/* PLM_NOT_FOUND when this worker does not hold the shard. */
PLM_MUST_CHECK enum plm_code
plm_dist_find_shard(struct plm_dist *d, uint64_t number, struct plm_dist_shard **out,
                    struct plm_err *err);
/* The answer of train_end, into the model of this handle. */
PLM_MUST_CHECK enum plm_code
plm_dist_take_centroids(struct plm_dist *d, struct plm_view message, struct plm_err *err);
/* The finished model, from storage; drops the shards. */
PLM_MUST_CHECK enum plm_code plm_dist_need_model(struct plm_dist *d, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_dist_check_segment(const struct plm_dist *d, uint64_t segment, struct plm_err *err);

/* ---- messages: a magic of 8 bytes, then numbers and arrays as they lie in memory --------- */

struct plm_reader {
    struct plm_view view;
    size_t at;
    const char *what;
};
PLM_MUST_CHECK enum plm_code
plm_reader_open(struct plm_view view, const char magic[8], const char *what, struct plm_reader *out,
                struct plm_err *err);
/* The next n * each bytes, borrowed; not aligned. */
PLM_MUST_CHECK enum plm_code
plm_reader_take(struct plm_reader *r, size_t n, size_t each, const uint8_t **out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_reader_copy(struct plm_reader *r, void *out, size_t n, struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_reader_end(const struct plm_reader *r, struct plm_err *err);
static inline size_t plm_reader_left(const struct plm_reader *r) { return r->view.len - r->at; }
PLM_MUST_CHECK enum plm_code
plm_put_u64(struct plm_buf *buf, uint64_t value, struct plm_err *err);

#endif
