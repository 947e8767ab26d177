/* shard.c - one part of the sample, and who answers which step. */
#include "cluster/shard_impl.h"

enum plm_code plm_shard_create(struct plm_ctx *ctx, const struct plm_sample *sample, size_t first,
                               struct plm_shard **out, struct plm_err *err)
{
    struct plm_shard *s;

    if (sample->n > UINT32_MAX || first > UINT32_MAX - sample->n || sample->dim < 1 ||
        sample->dim > PLM_TRAIN_DIM_MAX)
        return plm_fail(err, PLM_ARG,
                        "shard: rows %zu + %zu of %zu values, expected fewer than 2^32 rows of 1..%d "
                        "values", first, sample->n, sample->dim, PLM_TRAIN_DIM_MAX);
    enum plm_code rc = plm_calloc(ctx, &s, 1, sizeof *s, err);
    if (rc != PLM_OK)
        return rc;
    s->ctx = ctx;
    s->kernels = ctx->kernels;
    s->sample = sample;
    s->first = first;
    s->n = sample->n;
    s->dim = sample->dim;
    *out = s;
    return PLM_OK;
}

void plm_shard_destroy(struct plm_shard *shard)
{
    if (!shard)
        return;
    plm_shard_forget(shard);
    plm_last_forget(shard);
    plm_free(shard->ctx, shard);
}

bool plm_shard_needs_cap(const struct plm_shard *shard, float cap)
{
    return shard->n > 0 && shard->sample->max_abs > cap;
}

/* ---- steps --------------------------------------------------------------------------------- */

static enum plm_code check_step(const struct plm_shard *s, const struct plm_step *step,
                                struct plm_err *err)
{
    if (step->head.dim != s->dim)
        return plm_fail(err, PLM_CORRUPT, "training step: for %u values in a row, this shard has %zu",
                        step->head.dim, s->dim);
    if (s->first + s->n > step->head.n_sample)
        return plm_fail(err, PLM_CORRUPT,
                        "training step: for a sample of %" PRIu64 " rows, this shard is rows %zu..%zu",
                        step->head.n_sample, s->first, s->first + s->n);
    return PLM_OK;
}

enum plm_code plm_shard_run(struct plm_shard *shard, struct plm_view bytes, struct plm_buf *partial,
                            struct plm_err *err)
{
    struct plm_step step;
    struct plm_view aligned;
    void *copy = NULL;
    size_t before = partial->len;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_aligned(shard->ctx, bytes, &copy, &aligned, err));
    PLM_TRY(plm_step_parse(aligned, &step, err));
    PLM_TRY(check_step(shard, &step, err));
    if (step.head.kind == PLM_STEP_FETCH)
        PLM_TRY(plm_shard_fetch(shard, &step, partial, err));
    else if (step.head.kind == PLM_STEP_SEEDS)
        PLM_TRY(plm_shard_seeds(shard, &step, partial, err));
    else if (step.head.kind == PLM_STEP_SPLIT)
        PLM_TRY(plm_shard_split(shard, &step, partial, err));
    else
        PLM_TRY(plm_shard_full(shard, &step, partial, err));
done:
    if (rc != PLM_OK)
        partial->len = before;
    plm_free(shard->ctx, copy);
    return rc;
}
