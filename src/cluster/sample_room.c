/* sample_room.c - where the rows of a sample are: in memory, in a spill file, or the caller's. */
#include <math.h>

#include "cluster/sample_impl.h"
#include "simd/simd.h"

/* ---- room ------------------------------------------------------------------------------ */

static enum plm_code make_rows(struct plm_sample_taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = plm_region_alloc(t->ctx, &s->rows, t->n_max * s->dim, sizeof *s->rows, err);

    s->n_room = t->n_max;
    return rc;
}

enum plm_code plm_sample_make_room(struct plm_sample_taking *t, uint64_t n_rows, size_t max_bytes,
                                   struct plm_store *spill_store, const char *spill_path,
                                   struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = PLM_OK;
    size_t bytes;

    if (n_rows > SIZE_MAX || !plm_size_mul((size_t)n_rows, s->dim, &bytes) ||
        !plm_size_mul(bytes, sizeof(float), &bytes))
        return plm_fail(err, PLM_LIMIT, "sample of %" PRIu64 " rows of %zu values is too large", n_rows,
                        s->dim);
    t->n_max = (size_t)n_rows;
    PLM_TRY(plm_alloc(t->ctx, &s->rowids, t->n_max, sizeof *s->rowids, err));
    if (bytes <= max_bytes)
        return make_rows(t, err);
    if (!spill_store)
        return plm_fail(err, PLM_LIMIT,
                        "sample of %" PRIu64 " rows needs %zu bytes, %zu are allowed and there is no "
                        "place to spill it", n_rows, bytes, max_bytes);
    PLM_TRY(plm_strdup(t->ctx, spill_path, &s->spill_path, err));
    PLM_TRY(plm_writer_open(spill_store, spill_path, bytes, NULL, NULL, &t->writer, err));
    s->spill_store = spill_store;
done:
    return rc;
}

enum plm_code plm_sample_finish_spill(struct plm_sample_taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = PLM_OK;

    if (!t->writer)
        return PLM_OK;
    PLM_TRY(plm_writer_finish_scratch(t->writer, err));
    t->writer = NULL;
    PLM_TRY(plm_file_open(s->spill_store, s->spill_path, 0, &s->spill, err));
done:
    return rc;
}

/* ---- using it -------------------------------------------------------------------------- */

void plm_sample_widen(struct plm_sample *s, float lo, float hi)
{
    s->lo = s->n == 0 || lo < s->lo ? lo : s->lo;
    s->hi = s->n == 0 || hi > s->hi ? hi : s->hi;
    s->max_abs = fmaxf(fabsf(s->lo), fabsf(s->hi));
}

void plm_sample_of(struct plm_ctx *ctx, const float *rows, size_t n, size_t dim,
                   struct plm_sample *out)
{
    struct plm_sample s = {.ctx = ctx, .dim = dim, .is_borrowed = true, .rows = (float *)(uintptr_t)rows};
    float lo, hi;

    if (n > 0) {
        ctx->kernels->min_max(rows, n * dim, &lo, &hi);
        plm_sample_widen(&s, lo, hi);
    }
    s.n = n;
    *out = s;
}

enum plm_code plm_sample_rows(const struct plm_sample *sample, size_t first, size_t n,
                              float *scratch, const float **rows, struct plm_err *err)
{
    PLM_ASSERT(first <= sample->n && n <= sample->n - first);
    if (sample->rows) {
        *rows = sample->rows + first * sample->dim;
        return PLM_OK;
    }
    size_t row_bytes = sample->dim * sizeof(float);
    if (n > 0) {
        enum plm_code rc = plm_file_read(sample->spill, (uint64_t)first * row_bytes, n * row_bytes,
                                         scratch, err);
        if (rc != PLM_OK)
            return rc;
    }
    *rows = scratch;
    return PLM_OK;
}

void plm_sample_reset(struct plm_sample *sample)
{
    if (sample->ctx && !sample->is_borrowed)
        plm_region_free(sample->ctx, sample->rows, sample->n_room * sample->dim, sizeof *sample->rows);
    if (sample->ctx)
        plm_free(sample->ctx, sample->kept);
    if (sample->ctx)
        plm_free(sample->ctx, sample->rowids);
    plm_file_close(sample->spill);
    /* A spill file that cannot be removed is found by gc: it lies in the job's directory. */
    if (sample->spill_store && sample->spill_path &&
        plm_store_delete(sample->spill_store, sample->spill_path, NULL) != PLM_OK)
        plm_warn(sample->ctx, "cannot remove the spilled sample %s", sample->spill_path);
    if (sample->ctx)
        plm_free(sample->ctx, sample->spill_path);
    *sample = (struct plm_sample){0};
}
