/* train_pq.c - the codebook of a build, in groups of sub-vectors.
 *
 * A group's columns are gathered from the sample (in memory or spilled) into one array
 * [sub-vector][row][dsub], then each sub-vector is trained as one task. What a group gave is
 * kept in the file `pq`, so that a killed build repeats at most the last few seconds.
 */
#include "build/train_parts.h"
#include "cluster/assign.h"

#define CHUNK_ROWS 1024
#define CHECKPOINT_EVERY_S 5.0

struct pq_training {
    struct plm_job *job;
    const struct plm_sample *sample;
    size_t n;            /* training rows, spread evenly over the sample */
    uint32_t m, dsub, n_codes;
    uint32_t *ids;       /* [n] partition of each; NULL: no residuals */
    struct plm_assigner *assigner;
    float *codebook;     /* [m][n_codes][dsub] */
    double *errors;      /* [m] */
    uint32_t first, group; /* sub-vectors being trained */
    float *columns;      /* [group][n][dsub] */
};

static size_t sample_row(const struct pq_training *t, size_t i)
{
    return (size_t)((__uint128_t)i * t->sample->n / t->n);
}

/* ---- gathering ------------------------------------------------------------------------- */

typedef void chunk_fn(struct pq_training *t, size_t i, const float *row);

/* Calls `use` for each training row of one chunk of the sample. */
static enum plm_code each_row(struct pq_training *t, size_t chunk, chunk_fn *use, struct plm_err *err)
{
    size_t first = chunk * CHUNK_ROWS, n = plm_min_size(CHUNK_ROWS, t->sample->n - first);
    float *scratch = NULL;
    const float *rows;
    enum plm_code rc = PLM_OK;

    if (!t->sample->rows)
        PLM_TRY(plm_alloc(t->job->ctx, &scratch, n * t->sample->dim, sizeof(float), err));
    PLM_TRY(plm_sample_rows(t->sample, first, n, scratch, &rows, err));
    /* The first i with sample_row(i) >= first: sample_row is i * N / n rounded down. */
    size_t i = (size_t)(((__uint128_t)first * t->n + t->sample->n - 1) / t->sample->n);
    for (; i < t->n && sample_row(t, i) < first + n; i++)
        use(t, i, rows + (sample_row(t, i) - first) * t->sample->dim);
done:
    plm_free(t->job->ctx, scratch);
    return rc;
}

static void use_for_columns(struct pq_training *t, size_t i, const float *row)
{
    const float *centroid = t->ids ? t->job->model.centroids + (size_t)t->ids[i] * t->sample->dim : NULL;
    for (uint32_t g = 0; g < t->group; g++) {
        size_t from = (size_t)(t->first + g) * t->dsub;
        float *to = t->columns + ((size_t)g * t->n + i) * t->dsub;
        for (uint32_t d = 0; d < t->dsub; d++)
            to[d] = centroid ? row[from + d] - centroid[from + d] : row[from + d];
    }
}

static enum plm_code gather_chunk(void *arg, size_t chunk, unsigned worker, struct plm_err *err)
{
    (void)worker;
    return each_row(arg, chunk, use_for_columns, err);
}

static enum plm_code assign_chunk(void *arg, size_t chunk, unsigned worker, struct plm_err *err)
{
    struct pq_training *t = arg;
    size_t first = chunk * CHUNK_ROWS, n = plm_min_size(CHUNK_ROWS, t->n - first);
    struct plm_assign_scratch scratch = {.ctx = t->job->ctx};
    size_t dim = t->sample->dim;
    float *rows = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;
    (void)worker;

    PLM_TRY(plm_alloc(t->job->ctx, &rows, n * dim, sizeof(float), err));
    for (size_t i = 0; i < n; i++) {
        PLM_TRY(plm_sample_rows(t->sample, sample_row(t, first + i), 1, rows + i * dim, &row, err));
        if (row != rows + i * dim)
            memcpy(rows + i * dim, row, dim * sizeof(float));
    }
    PLM_TRY(plm_assign(t->assigner, rows, n, t->ids + first, NULL, &scratch, err));
done:
    plm_assign_scratch_reset(&scratch);
    plm_free(t->job->ctx, rows);
    return rc;
}

static enum plm_code find_partitions(struct pq_training *t, struct plm_err *err)
{
    const struct plm_model *m = &t->job->model;
    enum plm_code rc = PLM_OK;

    if (m->metric == PLM_DOT)
        return PLM_OK; /* codes are of the vectors themselves */
    PLM_TRY(plm_alloc(t->job->ctx, &t->ids, t->n, sizeof *t->ids, err));
    PLM_TRY(plm_assigner_create(t->job->ctx, m->centroids, m->k, m->dim, PLM_L2, &t->assigner, err));
    PLM_TRY(plm_parallel(t->job->ctx, (t->n + CHUNK_ROWS - 1) / CHUNK_ROWS, assign_chunk, t, err));
done:
    plm_assigner_destroy(t->assigner);
    t->assigner = NULL;
    return rc;
}

/* ---- training ---------------------------------------------------------------------------- */

static enum plm_code train_one(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct pq_training *t = arg;
    const struct plm_plan *p = &t->job->plan;
    struct plm_pq_train_options options = {p->num_bits, p->max_iters, p->seed};
    uint32_t j = t->first + (uint32_t)task;
    (void)worker;

    enum plm_code rc = plm_pq_train_subvector(t->job->ctx, t->columns + task * t->n * t->dsub, t->n, t->dsub, j,
                                              &options, t->codebook + (size_t)j * t->n_codes * t->dsub,
                                              &t->errors[j], err);
    if (rc == PLM_OK)
        plm_progress_add(t->job->ctx, 1);
    return rc;
}

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
    size_t n_chunks = (t->sample->n + CHUNK_ROWS - 1) / CHUNK_ROWS;
    double saved = plm_now_seconds();
    uint32_t n_done;
    enum plm_code rc = PLM_OK;

    PLM_TRY(load_progress(t, &n_done, err));
    plm_progress_add(ctx, n_done);
    uint32_t group = (uint32_t)plm_min_size(t->job->plan.memory.pq_group, t->m);
    PLM_TRY(plm_alloc(ctx, &t->columns, (size_t)group * t->n * t->dsub, sizeof(float), err));
    for (t->first = n_done; t->first < t->m; t->first += t->group) {
        t->group = (uint32_t)plm_min_size(group, t->m - t->first);
        plm_progress_detail(ctx, "sub-vector %u of %u", t->first + 1, t->m);
        PLM_TRY(plm_parallel(ctx, n_chunks, gather_chunk, t, err));
        PLM_TRY(plm_parallel(ctx, t->group, train_one, t, err));
        if (plm_now_seconds() - saved >= CHECKPOINT_EVERY_S) {
            PLM_TRY(save_progress(t, t->first + t->group, err));
            saved = plm_now_seconds();
        }
    }
done:
    plm_free(ctx, t->columns);
    t->columns = NULL;
    return rc;
}

static enum plm_code train_codebook(struct pq_training *t, struct plm_err *err)
{
    struct plm_job *job = t->job;
    enum plm_code rc = PLM_OK;

    t->n = (size_t)plm_min_u64(t->sample->n, (uint64_t)PLM_PQ_SAMPLE_PER_CODE << job->plan.num_bits);
    PLM_TRY(plm_alloc(job->ctx, &t->errors, t->m, sizeof(double), err));
    PLM_TRY(find_partitions(t, err));
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
        .sample = sample,
        .m = p->num_sub_vectors,
        .dsub = p->column.dim / p->num_sub_vectors,
        .n_codes = 1u << p->num_bits,
    };
    size_t n_values = (size_t)t.m * t.n_codes * t.dsub;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &t.codebook, n_values, sizeof(float), err));
    if (given->data)
        PLM_TRY(plm_matrix_floats(given, "pq_codebook", t.codebook, err));
    else
        PLM_TRY(train_codebook(&t, err));
    plm_round_to_element(t.codebook, n_values, job->model.element);
    PLM_TRY(plm_pq_init(job->ctx, t.m, t.dsub, p->num_bits, t.codebook, &job->model.pq, err));
done:
    plm_free(job->ctx, t.codebook);
    plm_free(job->ctx, t.errors);
    plm_free(job->ctx, t.ids);
    return rc;
}
