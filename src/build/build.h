/* build.h - the life of one build: plan, train, encode, merge, verify, commit.
 *
 * A build is a job: a directory of pieces, each a pure function of (plan, task number), so
 * that any process can make any piece and a killed build carries on. This header is what the
 * phases share; one file per phase implements it.
 *
 * Owns     a job owns its plan, model, stores and open source.
 * Memory   the plan divides the context's budget: see struct plm_memory_plan.
 * Threads  a phase runs its tasks with plm_parallel(); one job, one calling thread.
 */
#ifndef PLM_BUILD_H
#define PLM_BUILD_H

#include "build/estimate.h"
#include "build/found.h"
#include "build/plan.h"
#include "cluster/sample.h"
#include "core/core.h"
#include "ivf/index.h"
#include "lance/commit.h"
#include "lance/manifest.h"
#include "rows/source.h"
#include "store/store.h"

struct plm_job {
    struct plm_ctx *ctx;
    struct plm_table_ref table;
    struct plm_store *table_store; /* root of the table */
    struct plm_store *root;   /* of the branch: == table_store on main */
    struct plm_store *work;   /* the job's own directory; local unless is_shared */
    struct plm_store *work_parent; /* when that is not below root; else NULL */
    struct plm_store *copy_parent, *copy; /* of a column that cannot be read here; else NULL */
    char *copy_name;          /* below copy_parent */
    bool is_shared;           /* work lies with the table: other processes see it (dist.h) */
    char *out_dir;            /* below root: where index files are assembled */
    struct plm_lock *lock;
    struct plm_manifest manifest;
    struct plm_source source;
    struct plm_plan plan;
    struct plm_estimate estimate;
    struct plm_model model;
    struct plm_probes probes;
    struct plm_sample sample; /* {0} unless it is kept for the phases to come */
    uint64_t trained_rows;
    double loss_unit;
    double *ivf_loss, *pq_error;
    size_t n_ivf_loss, n_pq_error;
    struct plm_run_stats totals;
    uint32_t **lengths;       /* [segment][k] rows of each partition */
    struct plm_neighbour *truth; /* [probes][PLM_PROBE_K] */
    struct plm_new_segment *made; /* [segment] */
    struct {
        uint64_t index, auxiliary;
    } *sizes;                     /* [segment] bytes of its files, 0 = not known; may be NULL */
    struct plm_findings findings;
    struct plm_seconds seconds, cpu; /* by the clock; of all processors (create.c) */
    double began; /* when it was opened */
    bool resumed;
    uint64_t version_committed, rows_appended;
};

/* ---- the phases, in order; each does nothing that is already done -------------------- */

/* job.c: opens the table, finds or makes the job, takes its lock. *done = the job's
 * transaction is committed already. */
PLM_MUST_CHECK enum plm_code
plm_job_open(struct plm_ctx *ctx, const struct plm_table_ref *table,
             const struct plm_build_options *options, struct plm_job *out, bool *done,
             struct plm_err *err);
/* The same with the pieces in the table's storage, for n_workers processes. On S3 there is no lock:
 * who comes second carries on with the plan of the first. */
PLM_MUST_CHECK enum plm_code
plm_job_open_shared(struct plm_ctx *ctx, const struct plm_table_ref *table,
                    const struct plm_build_options *options, uint32_t n_workers,
                    struct plm_job *out, bool *done, struct plm_err *err);
/* A worker's view of a job that another process opened; plan_json: its plan.json, which must lie
 * in the job's directory as this process sees it (PLM_NOT_FOUND otherwise). Takes no lock. */
PLM_MUST_CHECK enum plm_code
plm_job_join(struct plm_ctx *ctx, const struct plm_table_ref *table,
             const struct plm_build_options *options, uint32_t n_workers,
             struct plm_view plan_json, struct plm_job *out, struct plm_err *err);
/* Plans without a job: nothing is written and no lock is taken. */
PLM_MUST_CHECK enum plm_code
plm_job_preview(struct plm_ctx *ctx, const struct plm_table_ref *table,
                const struct plm_build_options *options, struct plm_job *out, struct plm_err *err);
void plm_job_close(struct plm_job *job);
/* Removes the job's files after success. */
PLM_MUST_CHECK enum plm_code plm_job_remove(struct plm_job *job, struct plm_err *err);
/* What is asked of commit.h. segments: job->made. */
PLM_MUST_CHECK enum plm_code
plm_job_commit_request(struct plm_job *job, struct plm_buf *details,
                       struct plm_commit_request *out, struct plm_err *err);

PLM_MUST_CHECK enum plm_code
plm_build_train(struct plm_job *job, const struct plm_build_options *options, struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_build_encode(struct plm_job *job, struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_build_merge(struct plm_job *job, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_build_verify(struct plm_job *job, const char *level, struct plm_err *err);
PLM_MUST_CHECK enum plm_code plm_build_commit(struct plm_job *job, struct plm_err *err);

/* train.c: an empty model of k partitions of the plan's shape; room for its centroids; and everything
 * trained, freed. */
void plm_job_model_init(struct plm_job *job, uint32_t k);
PLM_MUST_CHECK enum plm_code plm_job_model_room(struct plm_job *job, struct plm_err *err);
void plm_job_model_reset(struct plm_job *job);
/* train.c: from now on every row is read from the table. */
void plm_job_drop_sample(struct plm_job *job);
/* verify.c: frees what was found. */
void plm_job_findings_reset(struct plm_job *job);

/* create.c: keeps the report, commits, removes the job's files; these too when others have made the commit impossible
 * for ever. *report: plm_string_free(). */
PLM_MUST_CHECK enum plm_code plm_job_finish(struct plm_job *job, char **report, struct plm_err *err);
/* create.c: all of that but the commit, and nothing is removed. *json: plm_string_free(). */
PLM_MUST_CHECK enum plm_code plm_job_publish(struct plm_job *job, char **json, struct plm_err *err);
/* finish.c: index files into their place. */
PLM_MUST_CHECK enum plm_code plm_build_place(struct plm_job *job, struct plm_err *err);
/* The same for a job that an earlier process committed. */
PLM_MUST_CHECK enum plm_code
plm_job_finish_committed(struct plm_job *job, char **report, struct plm_err *err);
/* report.c: the report of a finished job; plm_string_free(). */
PLM_MUST_CHECK enum plm_code
plm_job_report(struct plm_job *job, char **json, struct plm_err *err);

#endif
