/* shard.c - one part of the sample: its projected rows, and who answers which step. */
#include <math.h>

#include "cluster/shard_impl.h"

#define PROJECTED_MAX 1e18f /* beyond it squares would not be finite */
#define PROJECT_ROWS PLM_PROJECT_ROWS

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

void plm_shard_forget(struct plm_shard *s)
{
    void *const owned[] = {s->projected, s->half_norms, s->squares,  s->node,
                           s->child,     s->order,      s->node_starts};

    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        plm_free(s->ctx, owned[i]);
    s->projected = s->half_norms = s->squares = NULL;
    s->node = s->child = s->order = NULL;
    s->node_starts = NULL;
    s->projection_hash = s->path_hash = s->child_hash = 0;
    s->n_applied = 0;
}

void plm_shard_destroy(struct plm_shard *shard)
{
    if (!shard)
        return;
    plm_shard_forget(shard);
    plm_free(shard->ctx, shard);
}

bool plm_shard_needs_cap(const struct plm_shard *shard, float cap)
{
    return shard->n > 0 && shard->sample->max_abs > cap;
}

/* ---- projection ------------------------------------------------------------------------- */

struct projecting {
    struct plm_shard *shard;
    const struct plm_step *step;
    const float *points; /* to be projected in place of the sample, */
    size_t n_points;
    float *projected;    /* to here */
    bool use_cap;
    struct plm_panels panels;
    float *offset;  /* [r] the mean, projected */
    size_t per_worker;
    float *scratch; /* per worker: packed rows, capped rows, rows read */
};

/* Rows of one block, n <= PLM_BLOCK_ROWS, into `out` [n][r]; squares may be NULL. */
static void project_block(const struct projecting *p, const float *rows, size_t n, float *packed,
                          float *out, float *squares)
{
    const struct plm_shard *s = p->shard;
    size_t r = p->step->head.r, dim = s->dim;

    if (squares)
        for (size_t i = 0; i < n; i++)
            squares[i] = (float)(p->step->head.metric == PLM_DOT
                                     ? s->kernels->norm2(rows + i * dim, dim)
                                     : s->kernels->l2_exact(rows + i * dim, p->step->mean, dim));
    if (p->step->head.has_basis) {
        s->kernels->pack_rows(rows, dim, n, dim, packed);
        s->kernels->project(packed, n, p->panels.values, p->panels.n_panels, dim, out, r);
        rows = out;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < r; d++) {
            float value = rows[i * r + d] - p->offset[d];

            value = value < PROJECTED_MAX ? value : PROJECTED_MAX; /* a NaN, too */
            out[i * r + d] = value > -PROJECTED_MAX ? value : -PROJECTED_MAX;
        }
}

static const float *cap_block(const struct projecting *p, const float *rows, size_t n, float *capped)
{
    size_t dim = p->shard->dim;

    for (size_t i = 0; i < n; i++)
        plm_cap_row(rows + i * dim, dim, p->step->head.cap, capped + i * dim);
    return capped;
}

static enum plm_code project_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct projecting *p = arg;
    struct plm_shard *s = p->shard;
    size_t first = task * PROJECT_ROWS, n = plm_min_size(PROJECT_ROWS, s->n - first), r = s->r;
    float *packed = p->scratch + worker * p->per_worker;
    float *capped = packed + plm_packed_floats(s->dim), *room = capped + plm_packed_floats(s->dim);
    const float *rows;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_sample_rows(s->sample, first, n, room, &rows, err));
    for (size_t i = 0; i < n; i += PLM_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_BLOCK_ROWS, n - i);
        const float *block = rows + i * s->dim;

        if (p->use_cap)
            block = cap_block(p, block, n_block, capped);
        project_block(p, block, n_block, packed, s->projected + (first + i) * r, s->squares + first + i);
    }
    for (size_t i = 0; i < n; i++)
        s->half_norms[first + i] = (float)(s->kernels->norm2(s->projected + (first + i) * r, r) / 2);
done:
    return rc;
}

static enum plm_code points_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct projecting *p = arg;
    size_t first = task * PLM_BLOCK_ROWS, dim = p->shard->dim;
    (void)err;

    project_block(p, p->points + first * dim, plm_min_size(PLM_BLOCK_ROWS, p->n_points - first),
                  p->scratch + worker * p->per_worker, p->projected + first * p->step->head.r, NULL);
    return PLM_OK;
}

/* What the projection depends on. */
static uint64_t projection_hash(const struct plm_step *step)
{
    const struct plm_step_head *h = &step->head;
    uint64_t parts[3] = {plm_xxh3(step->mean, h->dim * sizeof *step->mean), h->r, 0};

    if (step->basis)
        parts[2] = plm_xxh3(step->basis, (size_t)h->r * h->dim * sizeof *step->basis);
    uint32_t cap_bits;
    memcpy(&cap_bits, &h->cap, sizeof cap_bits);
    return plm_mix64(plm_xxh3(parts, sizeof parts), cap_bits) | 1; /* never 0 */
}

static enum plm_code prepare_projecting(struct projecting *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    struct plm_ctx *ctx = s->ctx;
    const struct plm_step_head *h = &p->step->head;
    enum plm_code rc = PLM_OK;

    p->per_worker = 2 * plm_packed_floats(s->dim) + (s->sample->rows ? 0 : PROJECT_ROWS * s->dim);
    PLM_TRY(plm_alloc(ctx, &p->offset, h->r, sizeof *p->offset, err));
    PLM_TRY(plm_alloc(ctx, &p->scratch, ctx->threads * p->per_worker, sizeof *p->scratch, err));
    for (size_t d = 0; d < h->r; d++)
        p->offset[d] = h->has_basis ? (float)s->kernels->dot_exact(p->step->mean,
                                                                   p->step->basis + d * h->dim, h->dim)
                                    : p->step->mean[d];
    if (h->has_basis) {
        PLM_TRY(plm_panels_alloc(ctx, h->r, h->dim, &p->panels, err));
        plm_panels_fill(&p->panels, p->step->basis, h->r, true);
    }
done:
    return rc;
}

static void finish_projecting(struct projecting *p)
{
    plm_panels_reset(&p->panels);
    plm_free(p->shard->ctx, p->offset);
    plm_free(p->shard->ctx, p->scratch);
}

enum plm_code plm_shard_project(struct plm_shard *s, const struct plm_step *step, struct plm_err *err)
{
    struct projecting p = {.shard = s, .step = step};
    uint64_t hash = projection_hash(step);
    float lo = 0, hi = 0;
    enum plm_code rc = PLM_OK;

    if (s->projection_hash == hash)
        return PLM_OK;
    plm_shard_forget(s);
    s->r = step->head.r;
    p.use_cap = plm_shard_needs_cap(s, step->head.cap);
    PLM_TRY(plm_alloc(s->ctx, &s->projected, s->n * s->r, sizeof *s->projected, err));
    PLM_TRY(plm_alloc(s->ctx, &s->half_norms, s->n, sizeof *s->half_norms, err));
    PLM_TRY(plm_alloc(s->ctx, &s->squares, s->n, sizeof *s->squares, err));
    PLM_TRY(prepare_projecting(&p, err));
    PLM_TRY(plm_parallel(s->ctx, (s->n + PROJECT_ROWS - 1) / PROJECT_ROWS, project_task, &p, err));
    if (s->n > 0)
        s->kernels->min_max(s->projected, s->n * s->r, &lo, &hi);
    s->max_projected = fmaxf(fabsf(lo), fabsf(hi));
    s->projection_hash = hash;
done:
    if (rc != PLM_OK)
        plm_shard_forget(s);
    finish_projecting(&p);
    return rc;
}

enum plm_code plm_shard_project_points(struct plm_shard *s, const struct plm_step *step,
                                       const float *points, size_t n, float *out, struct plm_err *err)
{
    struct projecting p = {.shard = s, .step = step, .points = points, .n_points = n, .projected = out};
    enum plm_code rc = PLM_OK;

    PLM_TRY(prepare_projecting(&p, err));
    PLM_TRY(plm_parallel(s->ctx, (n + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS, points_task, &p, err));
done:
    finish_projecting(&p);
    return rc;
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
