/* dist_probes.c - the probe queries of a shared build: rows of the sample, which its shards give. */
#include <math.h>

#include "build/dist_parts.h"

static const char picks_magic[8] = "PLMPICK1", rows_magic[8] = "PLMROWS1";

/* Which rows of a shard are probe queries: u64 {place among the queries, row of the shard}. */
static enum plm_code call_probes_message(struct plm_dist *d, const struct plm_dist_args *args,
                                         struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_dist_sampling *s = &d->sampling;
    uint64_t first = 0;
    enum plm_code rc = PLM_OK;

    if (s->round != PLM_ROUND_DONE || args->numbers[0] >= s->n_shards)
        return plm_fail(err, PLM_ARG, "probes_message: shard %" PRIu64 " of %zu", args->numbers[0], s->n_shards);
    if (!d->job.probes.vectors)
        PLM_TRY(plm_probes_alloc(&d->job, (size_t)d->sample.n, err));
    for (size_t i = 0; i < args->numbers[0]; i++)
        first += s->held[i].n;
    PLM_TRY(plm_buf_add(answer, picks_magic, 8, err));
    for (size_t i = 0; i < d->job.probes.n; i++) {
        uint64_t row = plm_probe_row(i, (size_t)d->sample.n);
        uint64_t pair[2] = {i, row - first};
        if (row >= first && row - first < s->held[args->numbers[0]].n)
            PLM_TRY(plm_buf_add(answer, pair, sizeof pair, err));
    }
done:
    return rc;
}

/* For each row asked for: u64 {place, row id}, float32 [dim]. */
static enum plm_code call_shard_rows(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_shard *s = NULL;
    struct plm_reader r;
    float *scratch = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_find_shard(d, args->numbers[0], &s, err));
    PLM_TRY(plm_reader_open(args->messages[0], picks_magic, "rows of a shard", &r, err));
    PLM_TRY(plm_alloc(d->ctx, &scratch, s->sample.dim, sizeof(float), err));
    PLM_TRY(plm_buf_add(answer, rows_magic, 8, err));
    while (plm_reader_left(&r) > 0) {
        uint64_t pair[2];
        PLM_TRY(plm_reader_copy(&r, pair, sizeof pair, err));
        if (pair[1] >= s->sample.n)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: row %" PRIu64 " of a shard of %zu", pair[1], s->sample.n));
        PLM_TRY(plm_sample_rows(&s->sample, (size_t)pair[1], 1, scratch, &row, err));
        PLM_TRY(plm_put_u64(answer, pair[0], err));
        PLM_TRY(plm_put_u64(answer, s->sample.rowids[pair[1]], err));
        PLM_TRY(plm_buf_add(answer, row, s->sample.dim * sizeof(float), err));
    }
done:
    plm_free(d->ctx, scratch);
    return rc;
}

static enum plm_code call_probes_answer(struct plm_dist *d, const struct plm_dist_args *args,
                                        struct plm_buf *answer, struct plm_err *err)
{
    struct plm_probes *q = &d->job.probes;
    size_t dim = d->job.plan.column.dim;
    struct plm_reader r;
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(plm_reader_open(args->messages[0], rows_magic, "rows", &r, err));
    while (plm_reader_left(&r) > 0) {
        uint64_t pair[2];
        PLM_TRY(plm_reader_copy(&r, pair, sizeof pair, err));
        if (pair[0] >= q->n)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: probe query %" PRIu64 " of %zu", pair[0], q->n));
        q->rowids[pair[0]] = pair[1];
        PLM_TRY(plm_reader_copy(&r, q->vectors + pair[0] * dim, dim * sizeof(float), err));
        for (size_t i = 0; i < dim; i++)
            if (!isfinite(q->vectors[pair[0] * dim + i]))
                PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: probe query %" PRIu64 " is not finite", pair[0]));
    }
done:
    return rc;
}

const struct plm_dist_entry plm_dist_probes_calls[] = {
    {"probes_message", call_probes_message, 1, 0},
    {"shard_rows", call_shard_rows, 1, 1},
    {"probes_answer", call_probes_answer, 0, 1},
    {NULL, NULL, 0, 0},
};
