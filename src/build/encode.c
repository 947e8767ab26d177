/* encode.c - rows to runs: read, drop, assign, encode, sort, write. One task, one run. */
#include <math.h>
#include <stdlib.h>

#include "build/encode.h"
#include "build/probes.h"
#include "build/run.h"
#include "cluster/assign.h"
#include "simd/simd.h"

/* What one thread keeps from task to task. */
struct encoder {
    struct plm_batch batch;
    struct plm_assign_scratch assign;
    struct plm_run_rows rows;
    void *pq_scratch;
    float *packed, *values;       /* probes */
    double *distances;            /* [batch] */
    struct plm_neighbour *best;   /* [probes][PLM_PROBE_K] */
};

struct plm_encoding {
    struct plm_job *job;
    struct plm_assigner *assigner;
    struct plm_probe_panels panels;
    struct encoder *encoders; /* one for each thread */
    unsigned n_encoders;
};

static void free_encoder(struct plm_ctx *ctx, struct encoder *e)
{
    plm_batch_reset(&e->batch);
    plm_assign_scratch_reset(&e->assign);
    plm_free(ctx, e->rows.rowids);
    plm_free(ctx, e->rows.ids);
    plm_free(ctx, e->rows.codes);
    plm_free(ctx, e->pq_scratch);
    plm_free(ctx, e->packed);
    plm_free(ctx, e->values);
    plm_free(ctx, e->distances);
    plm_free(ctx, e->best);
}

static enum plm_code prepare_encoder(struct plm_encoding *e, struct encoder *mine, struct plm_err *err)
{
    const struct plm_job *job = e->job;
    struct plm_ctx *ctx = job->ctx;
    size_t cap = job->plan.memory.task_rows, dim = job->model.dim;
    enum plm_code rc = PLM_OK;

    if (mine->rows.cap)
        return PLM_OK;
    mine->assign.ctx = ctx;
    PLM_TRY(plm_alloc(ctx, &mine->rows.rowids, cap, sizeof(uint64_t), err));
    PLM_TRY(plm_alloc(ctx, &mine->rows.ids, cap, sizeof(uint32_t), err));
    PLM_TRY(plm_alloc(ctx, &mine->rows.codes, cap, plm_run_code_bytes(job), err));
    PLM_TRY(plm_alloc(ctx, &mine->distances, job->plan.memory.batch_rows, sizeof(double), err));
    PLM_TRY(plm_alloc(ctx, &mine->packed, PLM_BLOCK_ROWS * dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &mine->values, PLM_BLOCK_ROWS * PLM_PANEL * plm_max_size(1, e->panels.n_panels),
                      sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &mine->best, job->probes.n * PLM_PROBE_K, sizeof *mine->best, err));
    if (job->model.quantizer == PLM_PQ)
        PLM_TRY(plm_alloc(ctx, &mine->pq_scratch, 1, plm_pq_encode_bytes(&job->model.pq), err));
    mine->rows.cap = cap;
done:
    return rc;
}

/* Where in the task the rows of the batch are. */
static void place_batch(const struct plm_batch *b, uint64_t task_first, uint8_t *codes)
{
    for (size_t i = 0; i < b->n; i++) {
        uint32_t place = (uint32_t)(b->ordinals[i] - task_first);
        memcpy(codes + i * sizeof place, &place, sizeof place);
    }
}

/* Codes of the batch behind those of the run. */
static void encode_batch(const struct plm_job *job, struct encoder *mine, uint64_t task_first,
                         const uint32_t *ids)
{
    const struct plm_model *m = &job->model;
    const struct plm_batch *b = &mine->batch;
    const struct plm_kernels *k = job->ctx->kernels;
    size_t code_bytes = plm_run_code_bytes(job);
    uint8_t *codes = mine->rows.codes + mine->rows.n * code_bytes;

    switch (m->quantizer) {
    case PLM_FLAT:
        if (job->plan.memory.gather_bytes)
            place_batch(b, task_first, codes);
        else
            memcpy(codes, b->raw, b->n * code_bytes);
        break;
    case PLM_SQ:
        k->sq_encode(b->rows, b->n * b->dim, m->sq.lo, m->sq.hi, codes);
        break;
    case PLM_PQ:
        plm_pq_encode(k, &m->pq, b->rows, b->n, m->metric == PLM_DOT ? NULL : m->centroids, ids, codes,
                      mine->pq_scratch);
        break;
    }
}

/* Distances are added as whole units, so that no order of rows or tasks changes the sum. */
static __int128 loss_of(const double *distances, size_t n, double unit)
{
    __int128 sum = 0;
    for (size_t i = 0; i < n; i++) {
        double units = distances[i] / unit; /* a power of two: exact */
        units = units > 0x1p62 ? 0x1p62 : units < -0x1p62 ? -0x1p62 : units;
        sum += (int64_t)units;
    }
    return sum;
}

static void count_batch(const struct plm_batch *b, struct plm_run_stats *stats)
{
    for (size_t i = 0; i < b->n; i++) {
        stats->hash_low += plm_mix64(1, b->rowids[i]);
        stats->hash_high += plm_mix64(2, b->rowids[i]);
    }
    for (int d = 0; d < PLM_N_DROPS; d++)
        stats->dropped[d] += b->dropped[d];
    stats->n += b->n;
}

/* Rows [at, at + n) of the task. */
static enum plm_code encode_rows(struct plm_encoding *e, struct encoder *mine, const struct plm_task *t,
                                 uint64_t at, size_t n, struct plm_run_stats *stats, struct plm_err *err)
{
    struct plm_job *job = e->job;
    struct plm_run_rows *rows = &mine->rows;
    struct plm_batch *b = &mine->batch;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_cancel(job->ctx, err));
    PLM_TRY(plm_source_read(&job->source, job->plan.metric, t->first + at, n, b, err));
    plm_source_ahead(&job->source, t->first + at + n, plm_min_u64(job->plan.memory.batch_rows, t->n - at - n));
    uint32_t *ids = rows->ids + rows->n;
    PLM_TRY(plm_assign(e->assigner, b->rows, b->n, ids, mine->distances, &mine->assign, err));
    encode_batch(job, mine, t->first, ids);
    memcpy(rows->rowids + rows->n, b->rowids, b->n * sizeof(uint64_t));
    rows->n += b->n;
    stats->loss += loss_of(mine->distances, b->n, job->loss_unit);
    count_batch(b, stats);
    plm_probe_offer(&e->panels, b, mine->packed, mine->values, mine->best);
    plm_progress_add(job->ctx, n);
done:
    return rc;
}

enum plm_code plm_encoding_task(struct plm_encoding *e, size_t task, unsigned worker, struct plm_err *err)
{
    const struct plm_plan *p = &e->job->plan;
    const struct plm_task *t = &p->tasks[task];
    struct encoder *mine = &e->encoders[worker];
    struct plm_run_stats stats;
    enum plm_code rc = PLM_OK;

    memset(&stats, 0, sizeof stats);
    PLM_TRY(prepare_encoder(e, mine, err));
    mine->rows.n = 0;
    plm_neighbours_clear(mine->best, e->job->probes.n);
    for (uint64_t at = 0; at < t->n;) {
        size_t n = (size_t)plm_min_u64(p->memory.batch_rows, t->n - at);

        n = plm_source_at_once(&e->job->source, t->first + at, n);
        PLM_TRY(encode_rows(e, mine, t, at, n, &stats, err));
        at += n;
    }
    PLM_TRY(plm_run_write(e->job, task, &mine->rows, &stats, mine->best, err));
done:
    return rc;
}

/* ---- an encoding ------------------------------------------------------------------------- */

enum plm_code plm_encoding_open(struct plm_job *job, struct plm_encoding **out, struct plm_err *err)
{
    struct plm_ctx *ctx = job->ctx;
    const struct plm_model *m = &job->model;
    struct plm_encoding *e = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &e, 1, sizeof *e, err));
    e->job = job;
    /* The budget has room for so many. */
    unsigned threads = (unsigned)plm_min_u64(ctx->threads, job->plan.memory.encode_threads);
    PLM_TRY(plm_calloc(ctx, &e->encoders, threads, sizeof *e->encoders, err));
    e->n_encoders = threads;
    PLM_TRY(plm_probe_panels_init(ctx, &job->probes, m->dim, m->metric, &e->panels, err));
    PLM_TRY(plm_assigner_create(ctx, m->centroids, m->k, m->dim, m->metric == PLM_DOT ? PLM_DOT : PLM_L2,
                                &e->assigner, err));
    *out = e;
    e = NULL;
done:
    plm_encoding_close(e);
    return rc;
}

void plm_encoding_close(struct plm_encoding *e)
{
    if (!e)
        return;
    struct plm_ctx *ctx = e->job->ctx;
    for (unsigned i = 0; i < e->n_encoders; i++)
        free_encoder(ctx, &e->encoders[i]);
    plm_free(ctx, e->encoders);
    plm_probe_panels_reset(&e->panels);
    plm_assigner_destroy(e->assigner);
    plm_free(ctx, e);
}

unsigned plm_encoding_threads(const struct plm_encoding *e)
{
    return e->n_encoders;
}

/* ---- what the runs saw ----------------------------------------------------------------------- */

enum plm_code plm_totals_begin(struct plm_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    memset(&job->totals, 0, sizeof job->totals);
    plm_free(job->ctx, job->truth);
    job->truth = NULL;
    PLM_TRY(plm_alloc(job->ctx, &job->truth, job->probes.n * PLM_PROBE_K, sizeof *job->truth, err));
    plm_neighbours_clear(job->truth, job->probes.n);
done:
    return rc;
}

void plm_totals_add(struct plm_job *job, const struct plm_run_stats *stats,
                    const struct plm_neighbour *neighbours)
{
    struct plm_run_stats *t = &job->totals;

    t->n += stats->n;
    for (int d = 0; d < PLM_N_DROPS; d++)
        t->dropped[d] += stats->dropped[d];
    t->hash_low += stats->hash_low;
    t->hash_high += stats->hash_high;
    t->loss += stats->loss;
    for (size_t q = 0; q < job->probes.n; q++)
        plm_neighbours_merge(job->truth + q * PLM_PROBE_K, neighbours + q * PLM_PROBE_K, PLM_PROBE_K);
}

enum plm_code plm_totals_check(const struct plm_job *job, struct plm_err *err)
{
    if (job->totals.n == 0)
        return plm_fail(err, PLM_DATA, "nothing to index: no row of \"%s\" has a usable vector",
                        job->plan.column_path);
    return PLM_OK;
}

/* ---- all of it on this machine ----------------------------------------------------------------- */

struct encode_phase {
    struct plm_job *job;
    struct plm_encoding *encoding;
    uint8_t *done; /* [task] its run is there already */
};

static enum plm_code encode_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct encode_phase *e = arg;
    if (!e->done[task])
        return plm_encoding_task(e->encoding, task, worker, err);
    plm_progress_add(e->job->ctx, e->job->plan.tasks[task].n);
    return PLM_OK;
}

/* Runs of an earlier process: there, whole and of this job. */
static enum plm_code find_done(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct encode_phase *e = arg;
    struct plm_run run = {0};
    struct plm_err why = {0};
    (void)worker;

    enum plm_code rc = plm_run_open(e->job, task, true, &run, NULL, &why);
    e->done[task] = rc == PLM_OK;
    plm_run_close(&run);
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT)
        return PLM_OK;
    if (rc != PLM_OK && err)
        *err = why;
    return rc;
}

/* Adds up what the runs say about themselves. */
static enum plm_code sum_up(struct plm_job *job, struct plm_err *err)
{
    struct plm_neighbour *found = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_totals_begin(job, err));
    PLM_TRY(plm_alloc(job->ctx, &found, job->probes.n * PLM_PROBE_K, sizeof *found, err));
    for (size_t task = 0; task < job->plan.n_tasks; task++) {
        struct plm_run run = {0};
        PLM_TRY(plm_run_open(job, task, false, &run, found, err));
        plm_totals_add(job, &run.stats, found);
        plm_run_close(&run);
    }
    PLM_TRY(plm_totals_check(job, err));
done:
    plm_free(job->ctx, found);
    return rc;
}

/* The rows of the tasks that are left. */
static enum plm_code expect_rows(struct encode_phase *e, struct plm_err *err)
{
    const struct plm_plan *p = &e->job->plan;
    struct plm_ordinals *ranges = NULL;
    size_t n = 0;
    enum plm_code rc = plm_alloc(e->job->ctx, &ranges, p->n_tasks, sizeof *ranges, err);

    for (size_t t = 0; rc == PLM_OK && t < p->n_tasks; t++)
        if (!e->done[t])
            ranges[n++] = (struct plm_ordinals){p->tasks[t].first, p->tasks[t].n};
    if (rc == PLM_OK)
        plm_source_expect(&e->job->source, ranges, n);
    plm_free(e->job->ctx, ranges);
    return rc;
}

static enum plm_code encode_all(struct encode_phase *e, struct plm_err *err)
{
    struct plm_ctx *ctx = e->job->ctx;
    unsigned threads = ctx->threads;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &e->done, e->job->plan.n_tasks, 1, err));
    PLM_TRY(plm_encoding_open(e->job, &e->encoding, err));
    ctx->threads = plm_encoding_threads(e->encoding);
    if (e->job->resumed)
        PLM_TRY(plm_parallel(ctx, e->job->plan.n_tasks, find_done, e, err));
    PLM_TRY(expect_rows(e, err));
    PLM_TRY(plm_parallel(ctx, e->job->plan.n_tasks, encode_task, e, err));
done:
    ctx->threads = threads;
    return rc;
}

enum plm_code plm_build_encode(struct plm_job *job, struct plm_err *err)
{
    struct encode_phase e = {.job = job};
    double began = plm_now_seconds();
    enum plm_code rc = PLM_OK;

    plm_progress_begin(job->ctx, "encode", job->plan.n_live, "rows");
    PLM_TRY(encode_all(&e, err));
    PLM_TRY(sum_up(job, err));
    plm_progress_end(job->ctx);
done:
    plm_encoding_close(e.encoding);
    plm_free(job->ctx, e.done);
    if (!job->plan.memory.gather_bytes) /* the table is not read again */
        plm_job_drop_sample(job);
    job->seconds.encode = plm_now_seconds() - began;
    return rc;
}
