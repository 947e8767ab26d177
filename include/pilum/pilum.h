/* pilum.h - build, check and search IVF vector indexes of Lance tables.
 *
 * The only installed header. The library neither prints nor exits and keeps no
 * global state: everything hangs off a context.
 *
 * Errors   every fallible call returns enum plm_code; the last argument, a
 *          struct plm_err, may be NULL. After an error no out-parameter has
 *          been written and the table is as it was.
 * Owns     strings and arrays handed out belong to the caller; release them
 *          with the function named beside them. NULL is fine everywhere there.
 * Threads  a context runs one call at a time; separate contexts are
 *          independent. plm_ctx_cancel() may be called from any thread and
 *          from a signal handler.
 * Versions an option struct that its default call has not filled is PLM_ARG.
 *          Structs change with the library's soname only.
 */
#ifndef PILUM_H
#define PILUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLM_VERSION "0.1.0"

#if defined(__GNUC__)
#define PLM_API __attribute__((visibility("default")))
#define PLM_MUST_CHECK __attribute__((warn_unused_result))
#define PLM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PLM_API
#define PLM_MUST_CHECK
#define PLM_PRINTF(f, a)
#endif

/* Codes say what a caller can do about it. Numbers never change. */
#define PLM_CODES(X)                                                                     \
    X(OK, 0, "done")                                                                     \
    X(ARG, 1, "wrong argument")                                                          \
    X(NOMEM, 2, "out of memory")                                                         \
    X(LIMIT, 3, "memory budget too small")                                               \
    X(NOT_FOUND, 4, "not found")                                                         \
    X(DENIED, 5, "access denied")                                                        \
    X(IO, 6, "input/output error")                                                       \
    X(RETRY, 7, "storage busy")                                                          \
    X(CONFLICT, 8, "conflicting change")                                                 \
    X(DATA, 9, "unsuitable data")                                                        \
    X(CORRUPT, 10, "corrupt file")                                                       \
    X(UNSUPPORTED, 11, "not supported")                                                  \
    X(CANCELLED, 12, "interrupted")                                                      \
    X(BUG, 13, "internal error")

enum plm_code {
#define PLM_CODE_ENUM(name, number, text) PLM_##name = number,
    PLM_CODES(PLM_CODE_ENUM)
#undef PLM_CODE_ENUM
};

/* What went wrong. Plain data: it can be copied and sent between processes. */
struct plm_err {
    enum plm_code code;
    int sys_errno;      /* errno of the failing call, 0 if none */
    int http_status;    /* status of the failing request, 0 if none */
    char message[1000]; /* one line, never holds a credential */
};

/* "CORRUPT" and "corrupt file" for PLM_CORRUPT; "?" for a number unknown. */
PLM_API const char *plm_code_name(enum plm_code code);
PLM_API const char *plm_code_text(enum plm_code code);

/* Where a call stands. Strings are valid during the callback only. */
struct plm_progress {
    const char *phase;    /* "plan", "train", "encode", "merge", "verify", "commit" */
    const char *detail;   /* "iteration 3 of 10", or "" */
    uint64_t done, total; /* in `unit`; total 0 = unknown */
    const char *unit;     /* "rows", "bytes", "steps" */
    uint64_t bytes_read;  /* since the context was created */
    uint64_t bytes_written;
    double seconds;       /* since this phase began */
};

struct plm_ctx;

/* Fill with plm_ctx_options_default() first. */
struct plm_ctx_options {
    size_t struct_bytes;          /* set by the default call, as in every option struct */
    unsigned threads;             /* 0 = all processors */
    uint64_t memory_budget_bytes; /* 0 = half of what the cgroup or machine allows */
    const char *simd;             /* "scalar", "avx2", ... caps the kernels; NULL = $PILUM_SIMD or best */
    /* Called from one thread at a time; must not call back into the context. */
    void (*progress)(void *user, const struct plm_progress *progress);
    void (*warn)(void *user, const char *message);
    void *user;
    /* The budget covers all that is resident in this process; false: what pilum adds to it. */
    bool budget_is_of_process;
    /* Parts of the table's files on a local disk may be mapped in place of being read, which spares
     * copies and fresh memory. Who shortens such a file meanwhile, or a disk that fails, ends the
     * process with SIGBUS: for programs whose process is their own. */
    bool map_files;
};

PLM_API void plm_ctx_options_default(struct plm_ctx_options *options);

/* options NULL = the defaults. PLM_ARG, PLM_NOMEM. Release with plm_ctx_destroy(). */
PLM_MUST_CHECK PLM_API enum plm_code
plm_ctx_create(const struct plm_ctx_options *options, struct plm_ctx **out, struct plm_err *err);
PLM_API void plm_ctx_destroy(struct plm_ctx *ctx);

/* Makes the running call (and later ones) return PLM_CANCELLED soon. */
PLM_API void plm_ctx_cancel(struct plm_ctx *ctx);

/* A table and how to reach it. */
struct plm_table_ref {
    const char *uri;                    /* path, file://..., s3://bucket/key */
    uint64_t version;                   /* 0 = latest */
    const char *branch;                 /* NULL = main */
    const char *const *storage_options; /* key, value, key, value, ..., NULL; or NULL */
};

/* The version that a tag of the table names, and its branch (NULL = main; plm_string_free()). PLM_NOT_FOUND: no such tag. */
PLM_MUST_CHECK PLM_API enum plm_code
plm_find_tag(struct plm_ctx *ctx, const struct plm_table_ref *table, const char *tag, uint64_t *version,
             char **branch, struct plm_err *err);

/* A matrix given by the caller: row-major, borrowed during the call. */
struct plm_matrix_view {
    const void *data; /* NULL = none given */
    int element;      /* 2 = float16, 4 = float32, 8 = float64 (bytes per element) */
    size_t n_dims;    /* 2 or 3 */
    size_t shape[3];
};

/* The options of create-index; names and defaults as on the command line.
 * Fill with plm_build_options_default() first. */
struct plm_build_options {
    size_t struct_bytes;
    const char *column;        /* required; nested names with dots, odd names in backticks */
    const char *type;          /* required: "IVF_FLAT", "IVF_SQ", "IVF_PQ", any case */
    const char *name;          /* NULL = <column>_idx */
    const char *metric;        /* "l2" (also "euclidean"), "cosine", "dot", any case */
    uint64_t num_partitions;   /* 0 = from the number of rows */
    uint64_t num_sub_vectors;  /* 0 = dimension / 16, else / 8 */
    uint32_t num_bits;         /* 8 or 4 */
    uint64_t sample_rate;      /* training rows per partition, 256 */
    uint32_t max_iters;        /* 50 */
    uint64_t seed;             /* 42 */
    struct plm_matrix_view ivf_centroids; /* [K, D] */
    struct plm_matrix_view pq_codebook;   /* [M, 2^bits, D/M] */
    const uint64_t *fragments; /* NULL = all */
    size_t n_fragments;
    uint64_t num_segments;     /* 1 */
    bool replace;              /* true */
    const char *work_dir;      /* NULL = <table>/_pilum */
    const char *verify;        /* "none", "sample", "full" */
    bool restart;              /* throw an unfinished job away */
    /* Of a column that cannot be read here (a file version, a packed struct): a folder where
     * somebody else has put the column of each data file, rows in their order, deleted ones too,
     * as the only column of a Lance file 2.0..2.2 with the same name. It belongs to the job and is
     * removed with it. "" = it will be made: only for plm_plan_index(). NULL = none. */
    const char *column_copy;
    /* Stop before the commit, which somebody else is to make: *report_json is then {"resumed",
     * "transaction": {...}} with all that it takes. The same call afterwards finds it in and ends the job. */
    bool leave_commit;
};

PLM_API void plm_build_options_default(struct plm_build_options *options);

/* Build an index and commit it. *report_json (may be NULL) receives the report,
 * a JSON document; release it with plm_string_free().
 *
 *   PLM_ARG, PLM_NOT_FOUND, PLM_DATA, PLM_UNSUPPORTED, PLM_LIMIT, PLM_CORRUPT
 *   PLM_CONFLICT   another writer changed what the index covers; run again
 *   PLM_CANCELLED  stopped; the same call carries on where this one ended */
PLM_MUST_CHECK PLM_API enum plm_code
plm_create_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
                 const struct plm_build_options *options, char **report_json, struct plm_err *err);

/* What plm_create_index() would do, as JSON (plm_string_free()); touches nothing. Codes as there. */
PLM_MUST_CHECK PLM_API enum plm_code
plm_plan_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
               const struct plm_build_options *options, char **plan_json, struct plm_err *err);

/* The table, its indexes, their segments and partition sizes, as JSON (plm_string_free()); `index`
 * NULL = all. PLM_NOT_FOUND: no such table, version or index. */
PLM_MUST_CHECK PLM_API enum plm_code
plm_inspect(struct plm_ctx *ctx, const struct plm_table_ref *table, const char *index,
            char **json, struct plm_err *err);

struct plm_verify_options {
    size_t struct_bytes;
    const char *index; /* required */
    bool full;         /* every row, not a sample */
    uint32_t queries;  /* 200; for the recall estimate, 0 = none */
    const char *column_copy; /* as in struct plm_build_options, but it stays the caller's */
};
PLM_API void plm_verify_options_default(struct plm_verify_options *options);

/* Check a committed index against the table. Problems found are in the report (may not be NULL;
 * plm_string_free()) and counted in *n_problems; the call itself then still returns PLM_OK. */
PLM_MUST_CHECK PLM_API enum plm_code
plm_verify_index(struct plm_ctx *ctx, const struct plm_table_ref *table,
                 const struct plm_verify_options *options, char **report_json,
                 uint64_t *n_problems, struct plm_err *err);

struct plm_search_options {
    size_t struct_bytes;
    const char *column;     /* required */
    const char *index;      /* NULL = the column's index */
    const float *vector;    /* [dim], or NULL: take the row `rowid` */
    size_t dim;
    uint64_t rowid;
    uint32_t k;             /* 10 */
    uint32_t nprobes;       /* 20 */
    uint32_t refine_factor; /* 0 = none */
    bool exact;             /* scan everything, use no index */
    const char *column_copy; /* as in struct plm_verify_options */
};
PLM_API void plm_search_options_default(struct plm_search_options *options);

struct plm_hits {
    size_t n;
    uint64_t *rowids;  /* [n], nearest first */
    float *distances;  /* [n], as stock Lance reports `_distance` */
    uint32_t nprobes;  /* partitions probed in each segment */
    uint64_t rows_scanned;
    double seconds;
};

/* The semantics of stock Lance's `nearest`: ties by row id, unindexed
 * fragments scanned too. Release with plm_hits_reset().
 *
 *   PLM_ARG        options not filled, k or nprobes 0, a query that is not finite
 *   PLM_NOT_FOUND  no such table, column, index or row
 *   PLM_DATA       a query of another dimension than the column */
PLM_MUST_CHECK PLM_API enum plm_code
plm_search(struct plm_ctx *ctx, const struct plm_table_ref *table,
           const struct plm_search_options *options, struct plm_hits *out, struct plm_err *err);
PLM_API void plm_hits_reset(struct plm_hits *hits);

/* List (and with `remove` delete) what killed builds left: job directories that no process holds,
 * unfinished uploads (S3), temporary files; as JSON (plm_string_free()). */
PLM_MUST_CHECK PLM_API enum plm_code
plm_gc(struct plm_ctx *ctx, const struct plm_table_ref *table, bool remove, char **json,
       struct plm_err *err);

/* {"pilum": "0.1.0", "kernels": "avx2", ...}; plm_string_free(). */
PLM_MUST_CHECK PLM_API enum plm_code
plm_version_json(struct plm_ctx *ctx, char **json, struct plm_err *err);

PLM_API void plm_string_free(char *string);

#ifdef __cplusplus
}
#endif
#endif
