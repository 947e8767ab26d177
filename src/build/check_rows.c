/* check_rows.c - rows of the table checked against the index: which, a chunk at a time. */
#include "build/check_rows_impl.h"
#include "cluster/assign.h"

#define SAMPLE_SLICES 16
#define SAMPLE_ROWS_MIN 32
#define SAMPLE_WORK 2e9 /* multiply-adds of the float64 search for the nearest partition */
#define FULL_CHUNK_ROWS ((size_t)65536)
#define FULL_BATCH_BYTES ((size_t)64 << 20)

static enum plm_code check_chunk(struct plm_check_chunk *c, struct plm_err *err)
{
    bool all_found = true;
    enum plm_code rc = PLM_OK;

    if (c->n == 0)
        return PLM_OK;
    c->n_matches = 0;
    PLM_TRY(plm_check_encode(c, err));
    PLM_TRY(plm_check_look(c, err));
    for (size_t i = 0; i < c->n; i++)
        all_found = all_found && c->rows[i].found;
    if (!all_found)
        PLM_TRY(plm_check_look_elsewhere(c, err));
    c->check->findings->checked_rows += c->n;
    c->check->n_usable += c->n;
done:
    return rc;
}

static size_t sample_size(const struct plm_check *check)
{
    double each = (double)check->segment->model.k * check->segment->model.dim;
    double rows = SAMPLE_WORK / each;
    size_t n = rows > PLM_CHECK_SAMPLE_MAX ? PLM_CHECK_SAMPLE_MAX : rows < SAMPLE_ROWS_MIN ? SAMPLE_ROWS_MIN : (size_t)rows;
    return (size_t)plm_min_u64(n, check->n);
}

static enum plm_code check_sample(struct plm_check *check, struct plm_err *err)
{
    size_t n = sample_size(check), slice = (n + SAMPLE_SLICES - 1) / SAMPLE_SLICES;
    struct plm_batch batch = {0};
    struct plm_check_chunk c;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_open_chunk(check, SAMPLE_SLICES * slice, &c, err));
    for (uint64_t at = 0; n == check->n && at < n; at += slice)
        PLM_TRY(plm_check_load(&c, check->first + at, (size_t)plm_min_u64(slice, n - at), &batch, err));
    for (uint64_t i = 0, stride = check->n / SAMPLE_SLICES; n < check->n && i < SAMPLE_SLICES; i++) {
        size_t length = (size_t)plm_min_u64(slice, stride); /* slices never overlap */
        uint64_t at = i * stride + plm_mix64(check->seed, i) % (stride - length + 1);
        PLM_TRY(plm_check_load(&c, check->first + at, length, &batch, err));
    }
    PLM_TRY(check_chunk(&c, err));
done:
    plm_check_close_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

/* Rows of a chunk: as many as half of what is left has room for; the rest is for a window and for what encodes them. */
static size_t rows_together(const struct plm_check *check)
{
    const struct plm_model *m = &check->segment->model;
    size_t most = plm_min_size(FULL_CHUNK_ROWS, plm_batch_rows(check->source, FULL_BATCH_BYTES));
    size_t each = plm_check_row_bytes(m->dim, plm_model_code_bytes(m)) + plm_batch_bytes(check->source, 1) -
                  plm_batch_bytes(check->source, 0);
    uint64_t room = plm_memory_left(check->ctx) / 2 / each;

    return (size_t)plm_min_u64(check->n, plm_max_u64(PLM_CHECK_ROWS_MIN, plm_min_u64(most, room)));
}

static enum plm_code check_chunks(struct plm_check *check, const struct plm_assigner *assigner, struct plm_err *err)
{
    size_t step = rows_together(check);
    struct plm_batch batch = {0};
    struct plm_check_chunk c;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_check_open_chunk(check, step, &c, err));
    c.assigner = assigner;
    for (uint64_t at = 0; at < check->n; at += step) {
        size_t n = (size_t)plm_min_u64(step, check->n - at);
        c.n = 0;
        PLM_TRY(plm_check_cancel(check->ctx, err));
        PLM_TRY(plm_check_load(&c, check->first + at, n, &batch, err));
        PLM_TRY(check_chunk(&c, err));
        plm_progress_add(check->ctx, n);
    }
done:
    plm_check_close_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

static enum plm_code check_all(struct plm_check *check, struct plm_err *err)
{
    const struct plm_model *m = &check->segment->model;
    struct plm_assigner *assigner = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_assigner_create(check->ctx, m->centroids, m->k, m->dim, m->metric == PLM_DOT ? PLM_DOT : PLM_L2,
                                &assigner, err));
    PLM_TRY(check_chunks(check, assigner, err));
done:
    plm_assigner_destroy(assigner);
    return rc;
}

enum plm_code plm_check_rows(struct plm_check *check, bool full, struct plm_err *err)
{
    if (check->n == 0)
        return PLM_OK;
    return full ? check_all(check, err) : check_sample(check, err);
}
