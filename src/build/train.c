/* train.c - the model of a build: centroids, then the quantizer, then the probe queries.
 *
 * The sample is taken once; IVF training runs through cluster/train.h with a checkpoint every few
 * seconds; sub-vectors of PQ are trained in groups, each group checkpointed.
 */
#include <math.h>

#include "build/model_file.h"
#include "build/train_parts.h"
#include "rows/half.h"

#define CHECKPOINT_EVERY_S 5.0
#define CHECKPOINT_BYTES_MAX ((size_t)2 << 30)

void plm_job_model_init(struct plm_job *job, uint32_t k)
{
    const struct plm_plan *p = &job->plan;
    struct plm_model *m = &job->model;

    plm_model_reset(m);
    m->ctx = job->ctx;
    m->quantizer = p->quantizer;
    m->metric = p->metric;
    m->element = p->column.element;
    m->dim = p->column.dim;
    m->k = k;
}

enum plm_code plm_job_model_room(struct plm_job *job, struct plm_err *err)
{
    struct plm_model *m = &job->model;

    return plm_alloc(job->ctx, &m->centroids, (size_t)m->k * m->dim, sizeof(float), err);
}

void plm_job_model_reset(struct plm_job *job)
{
    struct plm_ctx *ctx = job->ctx;
    plm_model_reset(&job->model);
    plm_free(ctx, job->probes.vectors);
    plm_free(ctx, job->probes.rowids);
    plm_free(ctx, job->ivf_loss);
    plm_free(ctx, job->pq_error);
    job->probes = (struct plm_probes){0};
    job->ivf_loss = job->pq_error = NULL;
    job->n_ivf_loss = job->n_pq_error = 0;
}

enum plm_code plm_matrix_floats(const struct plm_matrix_view *m, const char *what, float *out,
                                struct plm_err *err)
{
    size_t n = 1;
    for (size_t i = 0; i < m->n_dims; i++)
        n *= m->shape[i];
    for (size_t i = 0; i < n; i++) {
        switch (m->element) {
        case 2:
            out[i] = plm_f16_to_f32(((const uint16_t *)m->data)[i]);
            break;
        case 4:
            out[i] = ((const float *)m->data)[i];
            break;
        default:
            out[i] = (float)((const double *)m->data)[i];
        }
        if (!isfinite(out[i]))
            return plm_fail(err, PLM_ARG, "%s: value %zu is not a finite float32", what, i);
    }
    return PLM_OK;
}

/* ---- the sample ------------------------------------------------------------------------ */

static enum plm_code take_sample(struct plm_job *job, struct plm_sample *sample, struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_sample_take(&job->source, p->metric, p->sample_rows, p->seed, p->memory.sample_bytes,
                            job->work, "sample", sample, err));
    if (p->memory.spills_projected) {
        sample->aside = job->work;
        snprintf(sample->aside_path, sizeof sample->aside_path, "projected");
    }
done:
    return rc;
}

void plm_job_drop_sample(struct plm_job *job)
{
    plm_source_keep(&job->source, NULL, 0);
    plm_sample_reset(&job->sample);
}

/* What the sample has of the table need not be read again. Empties it. */
static void keep_sample(struct plm_job *job, struct plm_sample *sample)
{
    if (!job->plan.memory.keeps_sample || !sample->kept)
        return;
    job->sample = *sample;
    *sample = (struct plm_sample){0};
    plm_source_keep(&job->source, job->sample.kept, job->sample.n_kept);
}

/* A power of two so small that a distance in units of it keeps 60 bits, and so large that no
 * distance between sampled rows reaches 2^62 units. */
static double loss_unit(size_t dim, float max_abs)
{
    double largest = 4.0 * (double)dim * max_abs * (double)max_abs + 4;
    return ldexp(1, ilogb(largest) + 1 - 60);
}

enum plm_code plm_probes_alloc(struct plm_job *job, size_t n_sample, struct plm_err *err)
{
    struct plm_probes *q = &job->probes;
    size_t n = plm_probe_count(n_sample);
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(job->ctx, &q->vectors, n * job->model.dim, sizeof(float), err));
    PLM_TRY(plm_alloc(job->ctx, &q->rowids, n, sizeof *q->rowids, err));
    q->n = n;
done:
    return rc;
}

/* Spread over the sample, so over the table. */
static enum plm_code draw_probes(struct plm_job *job, const struct plm_sample *sample,
                                 struct plm_err *err)
{
    struct plm_probes *q = &job->probes;
    float *scratch = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_probes_alloc(job, sample->n, err));
    PLM_TRY(plm_alloc(job->ctx, &scratch, sample->dim, sizeof(float), err));
    for (size_t i = 0; i < q->n; i++) {
        size_t at = plm_probe_row(i, sample->n);
        PLM_TRY(plm_sample_rows(sample, at, 1, scratch, &row, err));
        memcpy(q->vectors + i * sample->dim, row, sample->dim * sizeof(float));
        q->rowids[i] = sample->rowids[at];
    }
done:
    plm_free(job->ctx, scratch);
    return rc;
}

/* ---- centroids -------------------------------------------------------------------------- */

struct checkpoints {
    struct plm_job *job;
    double last;
};

enum plm_code plm_train_checkpoint(struct plm_job *job, const struct plm_trainer *trainer, double *last,
                                   struct plm_err *err)
{
    struct plm_buf saved;
    double now = plm_now_seconds();
    enum plm_code rc = PLM_OK;

    if (now - *last < CHECKPOINT_EVERY_S)
        return PLM_OK;
    *last = now;
    plm_buf_init(&saved, job->ctx, CHECKPOINT_BYTES_MAX);
    PLM_TRY(plm_trainer_save(trainer, &saved, err));
    PLM_TRY(plm_store_put(job->work, "trainer", saved.data, saved.len, err));
done:
    plm_buf_reset(&saved);
    return rc;
}

static enum plm_code after_step(void *arg, const struct plm_trainer *trainer, struct plm_err *err)
{
    struct checkpoints *c = arg;
    return plm_train_checkpoint(c->job, trainer, &c->last, err);
}

static bool is_same_training(const struct plm_train_options *a, const struct plm_train_options *b)
{
    return a->n_sample == b->n_sample && a->dim == b->dim && a->k == b->k && a->metric == b->metric &&
           a->seed == b->seed && a->max_iters == b->max_iters;
}

/* The trainer where an earlier process left it, else a fresh one. */
static enum plm_code open_trainer(struct plm_job *job, uint64_t n_sample, uint32_t k,
                                  struct plm_trainer **out, struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    struct plm_train_options options = {
        .n_sample = (size_t)n_sample,
        .dim = p->column.dim,
        .k = k,
        .metric = p->metric == PLM_DOT ? PLM_DOT : PLM_L2,
        .seed = p->seed,
        .max_iters = p->max_iters,
    };
    struct plm_buf saved;
    plm_buf_init(&saved, job->ctx, CHECKPOINT_BYTES_MAX);
    enum plm_code rc = plm_store_get(job->work, "trainer", &saved, err);
    if (rc == PLM_OK)
        rc = plm_trainer_load(job->ctx, (struct plm_view){saved.data, saved.len}, out, err);
    plm_buf_reset(&saved);
    if (rc == PLM_OK && !is_same_training(plm_trainer_options(*out), &options)) {
        plm_trainer_destroy(*out);
        rc = PLM_CORRUPT;
    }
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT)
        rc = plm_trainer_create(job->ctx, &options, out, err);
    return rc;
}

static enum plm_code begin_centroids(struct plm_job *job, uint64_t n_sample, struct plm_trainer **out,
                                     struct plm_err *err)
{
    struct plm_trainer *trainer = NULL;
    unsigned done = 0, total = 0;
    enum plm_code rc = PLM_OK;
    uint32_t k = (uint32_t)plm_min_u64(job->plan.num_partitions, n_sample);

    if (k < job->plan.num_partitions)
        plm_warn(job->ctx, "%u partition%s instead of %u: there are no more usable rows", k, k == 1 ? "" : "s",
                 job->plan.num_partitions);
    plm_job_model_init(job, k);
    PLM_TRY(open_trainer(job, n_sample, k, &trainer, err));
    plm_trainer_progress(trainer, &done, &total);
    plm_progress_begin(job->ctx, "train", total + job->plan.num_sub_vectors, "steps");
    plm_progress_add(job->ctx, done);
    *out = trainer;
done:
    return rc;
}

enum plm_code plm_train_take_centroids(struct plm_job *job, const struct plm_trainer *trainer,
                                       struct plm_err *err)
{
    size_t n_values = (size_t)job->model.k * job->model.dim;
    const double *losses;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_job_model_room(job, err));
    memcpy(job->model.centroids, plm_trainer_centroids(trainer), n_values * sizeof(float));
    plm_round_to_element(job->model.centroids, n_values, job->model.element);
    size_t n = plm_trainer_losses(trainer, &losses);
    PLM_TRY(plm_alloc(job->ctx, &job->ivf_loss, n, sizeof(double), err));
    memcpy(job->ivf_loss, losses, n * sizeof(double));
    job->n_ivf_loss = n;
done:
    return rc;
}

static enum plm_code train_centroids(struct plm_job *job, const struct plm_sample *sample,
                                     struct plm_trainer *trainer, struct plm_err *err)
{
    struct checkpoints c = {.job = job, .last = plm_now_seconds()};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_train_local(job->ctx, sample, trainer, after_step, &c, err));
    PLM_TRY(plm_train_take_centroids(job, trainer, err));
done:
    return rc;
}

static enum plm_code take_given(struct plm_job *job, const struct plm_matrix_view *given,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    plm_job_model_init(job, job->plan.num_partitions);
    PLM_TRY(plm_job_model_room(job, err));
    PLM_TRY(plm_matrix_floats(given, "ivf_centroids", job->model.centroids, err));
    plm_round_to_element(job->model.centroids, (size_t)job->model.k * job->model.dim, job->model.element);
    plm_progress_begin(job->ctx, "train", job->plan.num_sub_vectors, "steps");
done:
    return rc;
}

enum plm_code plm_train_begin(struct plm_job *job, const struct plm_build_options *o,
                              const struct plm_sample_facts *facts, struct plm_trainer **out,
                              struct plm_err *err)
{
    struct plm_trainer *trainer = NULL;
    enum plm_code rc = PLM_OK;

    if (facts->n == 0)
        return plm_fail(err, PLM_DATA, "nothing to index: no row of \"%s\" has a usable vector",
                        job->plan.column_path);
    job->trained_rows = facts->n;
    job->loss_unit = loss_unit(job->plan.column.dim, facts->max_abs);
    if (o->ivf_centroids.data)
        PLM_TRY(take_given(job, &o->ivf_centroids, err));
    else
        PLM_TRY(begin_centroids(job, facts->n, &trainer, err));
    job->model.sq = (struct plm_sq){facts->lo, facts->hi};
    *out = trainer;
done:
    return rc;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static enum plm_code make_model(struct plm_job *job, const struct plm_build_options *o,
                                struct plm_err *err)
{
    struct plm_sample sample = {0};
    struct plm_trainer *trainer = NULL;
    unsigned threads = job->ctx->threads;
    enum plm_code rc = PLM_OK;

    /* The budget has room for so many. */
    job->ctx->threads = (unsigned)plm_min_u64(threads, job->plan.memory.train_threads);
    plm_progress_begin(job->ctx, "train", 0, "rows");
    plm_progress_detail(job->ctx, "sampling");
    PLM_TRY(take_sample(job, &sample, err));
    struct plm_sample_facts facts = {sample.n, sample.lo, sample.hi, sample.max_abs};
    PLM_TRY(plm_train_begin(job, o, &facts, &trainer, err));
    if (trainer)
        PLM_TRY(train_centroids(job, &sample, trainer, err));
    plm_trainer_destroy(trainer); /* as large as the centroids */
    trainer = NULL;
    if (job->plan.quantizer == PLM_PQ)
        PLM_TRY(plm_build_train_pq(job, &sample, &o->pq_codebook, err));
    PLM_TRY(draw_probes(job, &sample, err));
    keep_sample(job, &sample);
    plm_progress_end(job->ctx);
done:
    job->ctx->threads = threads;
    plm_trainer_destroy(trainer);
    plm_sample_reset(&sample);
    return rc;
}

enum plm_code plm_train_end(struct plm_job *job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    PLM_TRY(plm_model_save(job, err));
    PLM_TRY(plm_store_delete(job->work, "trainer", err));
    PLM_TRY(plm_store_delete(job->work, "pq", err));
done:
    return rc;
}

enum plm_code plm_build_train(struct plm_job *job, const struct plm_build_options *o,
                              struct plm_err *err)
{
    double began = plm_now_seconds();
    struct plm_err why = {0};
    enum plm_code rc = plm_model_load(job, &why);

    if (rc == PLM_CORRUPT)
        plm_warn(job->ctx, "training anew: %s", why.message);
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT) {
        PLM_TRY(make_model(job, o, err));
        PLM_TRY(plm_train_end(job, err));
    } else if (rc != PLM_OK && err) {
        *err = why;
    }
done:
    job->seconds.train = plm_now_seconds() - began;
    return rc;
}
