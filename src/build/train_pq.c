/* train_pq.c - the codebook of a build, in groups of sub-vectors.
 *
 * Columns are gathered from the sample (in memory or spilled) into one array
 * [sub-vector][row][dsub], then each sub-vector is trained as one task. A process may have only a
 * part of the sample. What a group gave is kept in the file `pq`, so that a killed build repeats
 * at most the last few seconds.
 */
#include "build/train_parts.h"
#include "cluster/assign.h"

#define CHECKPOINT_EVERY_S 5.0

struct gathering {
    struct plm_pq_part *part;
    uint32_t first, n, dsub; /* sub-vectors */
    float *columns;          /* [n][part->n][dsub] */
    struct plm_assigner *assigner;
};

/* Where in the part's sample training row i of the part lies. */
static size_t row_at(const struct plm_pq_part *p, size_t i)
{
    return plm_pq_row(p->row + i, p->n_rows, p->n_sample) - p->first;
}

/* The first training row at or behind a row of the whole sample. */
static size_t first_at(const struct plm_pq_part *p, size_t row)
{
    return (size_t)(((__uint128_t)row * p->n_rows + p->n_sample - 1) / p->n_sample);
}

/* ---- gathering ------------------------------------------------------------------------- */

static void put_columns(struct gathering *g, size_t i, const float *row)
{
    const struct plm_pq_part *p = g->part;
    const float *centroid = p->ids ? p->job->model.centroids + (size_t)p->ids[i] * p->sample->dim : NULL;
    for (uint32_t j = 0; j < g->n; j++) {
        size_t from = (size_t)(g->first + j) * g->dsub;
        float *to = g->columns + ((size_t)j * p->n + i) * g->dsub;
        for (uint32_t d = 0; d < g->dsub; d++)
            to[d] = centroid ? row[from + d] - centroid[from + d] : row[from + d];
    }
}

/* The training rows of one chunk of the sample. */
static enum plm_code gather_chunk(void *arg, size_t chunk, unsigned worker, struct plm_err *err)
{
    struct gathering *g = arg;
    const struct plm_pq_part *p = g->part;
    size_t first = chunk * PLM_PQ_CHUNK_ROWS, n = plm_min_size(PLM_PQ_CHUNK_ROWS, p->sample->n - first);
    float *scratch = NULL;
    const float *rows;
    enum plm_code rc = PLM_OK;
    (void)worker;

    if (!p->sample->rows)
        PLM_TRY(plm_alloc(p->job->ctx, &scratch, n * p->sample->dim, sizeof(float), err));
    PLM_TRY(plm_sample_rows(p->sample, first, n, scratch, &rows, err));
    for (size_t i = first_at(p, p->first + first) - p->row; i < p->n && row_at(p, i) < first + n; i++)
        put_columns(g, i, rows + (row_at(p, i) - first) * p->sample->dim);
done:
    plm_free(p->job->ctx, scratch);
    return rc;
}

enum plm_code plm_pq_part_columns(struct plm_pq_part *part, uint32_t first, uint32_t n, float *columns,
                                  struct plm_err *err)
{
    struct gathering g = {.part = part, .first = first, .n = n, .columns = columns,
                          .dsub = part->job->plan.column.dim / part->job->plan.num_sub_vectors};
    return plm_parallel(part->job->ctx, (part->sample->n + PLM_PQ_CHUNK_ROWS - 1) / PLM_PQ_CHUNK_ROWS, gather_chunk, &g,
                        err);
}

static enum plm_code assign_chunk(void *arg, size_t chunk, unsigned worker, struct plm_err *err)
{
    struct gathering *g = arg;
    struct plm_pq_part *p = g->part;
    size_t first = chunk * PLM_PQ_CHUNK_ROWS, n = plm_min_size(PLM_PQ_CHUNK_ROWS, p->n - first);
    struct plm_assign_scratch scratch = {.ctx = p->job->ctx};
    size_t dim = p->sample->dim;
    float *rows = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;
    (void)worker;

    PLM_TRY(plm_alloc(p->job->ctx, &rows, n * dim, sizeof(float), err));
    for (size_t i = 0; i < n; i++) {
        PLM_TRY(plm_sample_rows(p->sample, row_at(p, first + i), 1, rows + i * dim, &row, err));
        if (row != rows + i * dim)
            memcpy(rows + i * dim, row, dim * sizeof(float));
    }
    PLM_TRY(plm_assign(g->assigner, rows, n, p->ids + first, NULL, &scratch, err));
done:
    plm_assign_scratch_reset(&scratch);
    plm_free(p->job->ctx, rows);
    return rc;
}

static enum plm_code find_partitions(struct plm_pq_part *part, struct plm_err *err)
{
    const struct plm_model *m = &part->job->model;
    struct gathering g = {.part = part};
    enum plm_code rc = PLM_OK;

    if (m->metric == PLM_DOT)
        return PLM_OK; /* codes are of the vectors themselves */
    PLM_TRY(plm_alloc(part->job->ctx, &part->ids, part->n, sizeof *part->ids, err));
    PLM_TRY(plm_assigner_create(part->job->ctx, m->centroids, m->k, m->dim, PLM_L2, &g.assigner, err));
    PLM_TRY(plm_parallel(part->job->ctx, (part->n + PLM_PQ_CHUNK_ROWS - 1) / PLM_PQ_CHUNK_ROWS, assign_chunk, &g, err));
done:
    plm_assigner_destroy(g.assigner);
    return rc;
}

enum plm_code plm_pq_part_open(struct plm_job *job, const struct plm_sample *sample, size_t n_sample,
                               size_t first, struct plm_pq_part *out, struct plm_err *err)
{
    struct plm_pq_part p = {.job = job, .sample = sample, .n_sample = n_sample, .first = first,
                            .n_rows = plm_pq_rows(&job->plan, n_sample)};
    enum plm_code rc = PLM_OK;

    p.row = first_at(&p, first);
    p.n = first_at(&p, first + sample->n) - p.row;
    PLM_TRY(find_partitions(&p, err));
    *out = p;
    p = (struct plm_pq_part){.job = job};
done:
    plm_pq_part_close(&p);
    return rc;
}

void plm_pq_part_close(struct plm_pq_part *part)
{
    if (part->job)
        plm_free(part->job->ctx, part->ids);
    *part = (struct plm_pq_part){0};
}

/* ---- training ---------------------------------------------------------------------------- */

struct columns_training {
    struct plm_job *job;
    const float *columns; /* [n][n_rows][dsub] */
    size_t n_rows;
    uint32_t first, dsub, n_codes;
    float *codewords;     /* [n][n_codes][dsub] */
    double *errors;       /* [n] */
};

static enum plm_code train_one(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct columns_training *t = arg;
    const struct plm_plan *p = &t->job->plan;
    struct plm_pq_train_options options = {p->num_bits, p->max_iters, p->seed};
    (void)worker;

    enum plm_code rc = plm_pq_train_subvector(t->job->ctx, t->columns + task * t->n_rows * t->dsub,
                                              t->n_rows, t->dsub, t->first + (uint32_t)task, &options,
                                              t->codewords + task * t->n_codes * t->dsub,
                                              &t->errors[task], err);
    if (rc == PLM_DATA) /* rows are finite, so what is left of them by their centroids is not */
        return plm_fail(err, PLM_DATA, "values of column \"%s\" are so near the end of float32, 3.4e38, that a row less "
                        "its partition's centroid is beyond it; scale them down, or build IVF_FLAT or IVF_SQ", p->column_path);
    if (rc == PLM_OK)
        plm_progress_add(t->job->ctx, 1);
    return rc;
}

enum plm_code plm_pq_train_columns(struct plm_job *job, const float *columns, size_t n_rows,
                                   uint32_t first, uint32_t n, float *codewords, double *errors,
                                   struct plm_err *err)
{
    struct columns_training t = {
        .job = job, .columns = columns, .n_rows = n_rows, .first = first,
        .dsub = job->plan.column.dim / job->plan.num_sub_vectors,
        .n_codes = 1u << job->plan.num_bits, .codewords = codewords, .errors = errors,
    };
    return plm_parallel(job->ctx, n, train_one, &t, err);
}

enum plm_code plm_pq_take_codebook(struct plm_job *job, float *codebook, struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    plm_round_to_element(codebook, (size_t)p->column.dim << p->num_bits, job->model.element);
    return plm_pq_init(job->ctx, p->num_sub_vectors, p->column.dim / p->num_sub_vectors, p->num_bits,
                       codebook, &job->model.pq, err);
}

/* ---- all of it on this machine ----------------------------------------------------------- */

struct pq_training {
    struct plm_job *job;
    struct plm_pq_part part;
    uint32_t m, dsub, n_codes;
    float *codebook; /* [m][n_codes][dsub] */
    double *errors;  /* [m] */
};

/* What is trained so far: u32 count, u32 xxh3 (low half), then errors and codewords. */
static enum plm_code save_progress(struct pq_training *t, uint32_t n_done, struct plm_err *err)
{
    struct plm_buf b;
    size_t words = (size_t)n_done * t->n_codes * t->dsub * sizeof(float);
    enum plm_code rc = PLM_OK;

    plm_buf_init(&b, t->job->ctx, SIZE_MAX);
    PLM_TRY(plm_buf_reserve(&b, 8 + n_done * sizeof(double) + words, err));
    b.len = 8;
    PLM_TRY(plm_buf_add(&b, t->errors, n_done * sizeof(double), err));
    PLM_TRY(plm_buf_add(&b, t->codebook, words, err));
    uint32_t head[2] = {n_done, (uint32_t)plm_xxh3(b.data + 8, b.len - 8)};
    memcpy(b.data, head, sizeof head);
    PLM_TRY(plm_store_put(t->job->work, "pq", b.data, b.len, err));
done:
    plm_buf_reset(&b);
    return rc;
}

/* Sub-vectors that an earlier process trained; a file that does not fit is ignored. */
static enum plm_code load_progress(struct pq_training *t, uint32_t *n_done, struct plm_err *err)
{
    struct plm_buf b;
    size_t each = (size_t)t->n_codes * t->dsub * sizeof(float);

    *n_done = 0;
    plm_buf_init(&b, t->job->ctx, 8 + (each + sizeof(double)) * t->m);
    enum plm_code rc = plm_store_get(t->job->work, "pq", &b, err);
    uint32_t head[2] = {0, 0};
    if (rc == PLM_OK && b.len > 8)
        memcpy(head, b.data, sizeof head);
    if (head[0] > 0 && head[0] <= t->m && b.len == 8 + head[0] * (each + sizeof(double)) &&
        head[1] == (uint32_t)plm_xxh3(b.data + 8, b.len - 8)) {
        *n_done = head[0];
        memcpy(t->errors, b.data + 8, head[0] * sizeof(double));
        memcpy(t->codebook, b.data + 8 + head[0] * sizeof(double), head[0] * each);
    }
    plm_buf_reset(&b);
    return rc == PLM_NOT_FOUND || rc == PLM_LIMIT ? PLM_OK : rc;
}

static enum plm_code train_groups(struct pq_training *t, struct plm_err *err)
{
    struct plm_ctx *ctx = t->job->ctx;
    double saved = plm_now_seconds();
    float *columns = NULL;
    uint32_t n_done;
    enum plm_code rc = PLM_OK;

    PLM_TRY(load_progress(t, &n_done, err));
    plm_progress_add(ctx, n_done);
    uint32_t group = (uint32_t)plm_min_size(t->job->plan.memory.pq_group, t->m);
    PLM_TRY(plm_alloc(ctx, &columns, (size_t)group * t->part.n * t->dsub, sizeof(float), err));
    for (uint32_t first = n_done, n; first < t->m; first += n) {
        n = (uint32_t)plm_min_size(group, t->m - first);
        plm_progress_detail(ctx, "sub-vector %u of %u", first + 1, t->m);
        PLM_TRY(plm_pq_part_columns(&t->part, first, n, columns, err));
        PLM_TRY(plm_pq_train_columns(t->job, columns, t->part.n, first, n,
                                     t->codebook + (size_t)first * t->n_codes * t->dsub,
                                     t->errors + first, err));
        if (plm_now_seconds() - saved >= CHECKPOINT_EVERY_S) {
            PLM_TRY(save_progress(t, first + n, err));
            saved = plm_now_seconds();
        }
    }
done:
    plm_free(ctx, columns);
    return rc;
}

static enum plm_code train_codebook(struct pq_training *t, const struct plm_sample *sample,
                                    struct plm_err *err)
{
    struct plm_job *job = t->job;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(job->ctx, &t->errors, t->m, sizeof(double), err));
    PLM_TRY(plm_pq_part_open(job, sample, sample->n, 0, &t->part, err));
    PLM_TRY(train_groups(t, err));
    job->pq_error = t->errors;
    job->n_pq_error = t->m;
    t->errors = NULL;
done:
    return rc;
}

enum plm_code plm_build_train_pq(struct plm_job *job, const struct plm_sample *sample,
                                 const struct plm_matrix_view *given, struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    struct pq_training t = {
        .job = job,
        .m = p->num_sub_vectors,
        .dsub = p->column.dim / p->num_sub_vectors,
        .n_codes = 1u << p->num_bits,
    };
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &t.codebook, (size_t)p->column.dim << p->num_bits, sizeof(float), err));
    if (given->data)
        PLM_TRY(plm_matrix_floats(given, "pq_codebook", t.codebook, err));
    else
        PLM_TRY(train_codebook(&t, sample, err));
    PLM_TRY(plm_pq_take_codebook(job, t.codebook, err));
done:
    plm_free(job->ctx, t.codebook);
    plm_free(job->ctx, t.errors);
    plm_pq_part_close(&t.part);
    return rc;
}
