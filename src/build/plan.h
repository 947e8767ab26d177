/* plan.h - everything that is decided before the first row is read.
 *
 * Owns     a plan owns its texts, segments and tasks; plm_plan_reset() frees them.
 * Memory   the plan divides the context's budget: see struct plm_memory_plan.
 * Errors   PLM_ARG for options that never work, PLM_DATA for those that this table refuses,
 *          PLM_LIMIT for a budget that is too small.
 */
#ifndef PLM_PLAN_H
#define PLM_PLAN_H

#include "core/core.h"
#include "ivf/index.h"
#include "lance/column.h"
#include "rows/source.h"

/* A range of live rows, encoded into one run. */
struct plm_task {
    uint64_t first, n;
    uint32_t segment;
};

/* One segment of the index to be. */
struct plm_segment_plan {
    uint8_t uuid[16];
    uint32_t *fragments; /* ascending ids */
    size_t n_fragments;
    uint64_t first_row, n_rows; /* live rows */
    size_t first_task, n_tasks;
};

/* How the budget is divided; not part of what is built. */
struct plm_memory_plan {
    uint64_t smallest_bytes;   /* least budget that would do */
    unsigned train_threads, encode_threads, merge_threads;
    size_t batch_rows;         /* rows read at once by each encoding thread */
    uint64_t task_rows;        /* rows in a run */
    size_t sample_bytes;       /* rows of the sample kept in memory up to this, else spilled */
    bool spills_projected;     /* rows of the sample, projected for training, are spilled as well */
    bool keeps_sample;         /* until nothing reads the table any more: what is in it is not read again */
    bool views_sample;         /* its rows are pages of the table's files */
    uint64_t merge_bytes;      /* of index put together at once from runs */
    size_t slice_bytes;        /* of a run that a merging thread reads at once */
    uint64_t gather_bytes;     /* of index put together at once from the table; 0: runs carry codes */
    size_t pq_group;           /* sub-vectors trained between two checkpoints */
    uint64_t expected_bytes;   /* estimated peak, */
    uint64_t expected_with_axes_bytes; /* and when training does not give up the axes: as much or less */
};

/* Everything that was decided before the first row is read. */
struct plm_plan {
    struct plm_ctx *ctx;
    /* what shapes the result */
    char *column_path, *index_name;
    enum plm_quantizer quantizer;
    enum plm_metric metric;
    uint64_t asked_partitions, asked_sub_vectors; /* 0 = not given */
    uint32_t num_partitions, num_sub_vectors, num_bits, max_iters;
    uint64_t sample_rate, seed;
    uint64_t centroids_xxh3, codebook_xxh3; /* of given models, 0 = none */
    bool has_fragments;
    uint64_t *fragments; /* chosen ids, ascending; NULL = all */
    size_t n_fragments;
    bool replace;
    /* what it was made from */
    uint64_t version, manifest_xxh3;
    struct plm_column column;
    uint32_t file_major, file_minor;
    uint64_t n_live, n_deleted, column_bytes;
    uint64_t sample_rows;
    /* how it is cut and named */
    struct plm_segment_plan *segments;
    size_t n_segments;
    struct plm_task *tasks;
    size_t n_tasks;
    uint8_t transaction_uuid[16];
    uint64_t created_at_ms;
    char kernels[16];
    char id[33]; /* of the job: hash of the options that shape the result, hex */
    uint64_t budget_bytes;
    bool checks_all;    /* every row is looked for in the index before the commit */
    uint32_t n_workers; /* processes that share the work, each with this budget; 0 = this one */
    struct plm_memory_plan memory;
};

/* plan.c: settles every option of an identified plan against the table; may be done again.
 * Touches nothing. */
PLM_MUST_CHECK enum plm_code
plm_plan_make(struct plm_source *source, const struct plm_build_options *options,
              struct plm_plan *plan, struct plm_err *err);
void plm_plan_reset(struct plm_plan *plan);
/* An index that a page cache should not have to make room for: it is written, and its runs are, past the cache. */
bool plm_plan_is_large(const struct plm_plan *plan);
/* What a user is told of a number of partitions, its plural, the number asked for, the rows, their plural. */
#define PLM_FEWER_PARTITIONS "%u partition%s instead of %" PRIu64 ": the table has only %" PRIu64 " row%s"

/* memory.c: the process, what it may grow by uncharged, and what is charged now. */
uint64_t plm_fixed_bytes(const struct plm_ctx *ctx, bool is_remote);
/* A budget is refused with this size, in MiB: one more than `bytes`, for what the process itself takes differs a
 * little from run to run. */
uint64_t plm_named_mib(uint64_t bytes);
/* Tables and indexes are opened within this much where the budget is smaller, so that a refusal can say what would do. */
#define PLM_OPENING_BYTES ((uint64_t)1 << 30)
/* memory.c: divides plan->budget_bytes. PLM_LIMIT with the smallest budget that would do. */
PLM_MUST_CHECK enum plm_code
plm_plan_memory(const struct plm_source *source, struct plm_plan *plan, struct plm_err *err);

#endif
