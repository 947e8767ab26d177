/* check_rows.c - rows of the table checked against the index: which, a chunk at a time. */
#include "build/check_rows_impl.h"

#define SAMPLE_SLICES 16
#define SAMPLE_ROWS_MIN 32
#define SAMPLE_WORK 2e9 /* multiply-adds of the float64 search for the nearest partition */
#define FULL_CHUNK_ROWS ((size_t)65536)

static enum plm_code check_chunk(struct plm_check_chunk *c, bool all_in_float64, struct plm_err *err)
{
    bool all_found = true;
    enum plm_code rc = PLM_OK;

    if (c->n == 0)
        return PLM_OK;
    c->n_matches = 0;
    PLM_TRY(plm_check_encode(c, all_in_float64, err));
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
    if (n == check->n) {
        PLM_TRY(plm_check_load(&c, check->first, n, &batch, err));
    } else {
        uint64_t stride = check->n / SAMPLE_SLICES; /* slices never overlap */
        for (uint64_t i = 0; i < SAMPLE_SLICES; i++) {
            size_t length = (size_t)plm_min_u64(slice, stride);
            uint64_t at = i * stride + plm_mix64(check->seed, i) % (stride - length + 1);
            PLM_TRY(plm_check_load(&c, check->first + at, length, &batch, err));
        }
    }
    PLM_TRY(check_chunk(&c, true, err));
done:
    plm_check_close_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

static enum plm_code check_all(struct plm_check *check, struct plm_err *err)
{
    size_t step = plm_min_size(FULL_CHUNK_ROWS, plm_max_size(256, plm_batch_rows(check->source, 64u << 20)));
    struct plm_batch batch = {0};
    struct plm_check_chunk c;
    enum plm_code rc = PLM_OK;

    step = (size_t)plm_min_u64(step, check->n);
    PLM_TRY(plm_check_open_chunk(check, step, &c, err));
    for (uint64_t at = 0; at < check->n; at += step) {
        size_t n = (size_t)plm_min_u64(step, check->n - at);
        c.n = 0;
        PLM_TRY(plm_check_cancel(check->ctx, err));
        PLM_TRY(plm_check_load(&c, check->first + at, n, &batch, err));
        PLM_TRY(check_chunk(&c, false, err));
        plm_progress_add(check->ctx, n);
    }
done:
    plm_check_close_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

enum plm_code plm_check_rows(struct plm_check *check, bool full, struct plm_err *err)
{
    if (check->n == 0)
        return PLM_OK;
    return full ? check_all(check, err) : check_sample(check, err);
}
