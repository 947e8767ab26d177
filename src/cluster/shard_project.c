/* shard_project.c - rows on the axes of the step: made once, kept in memory or in a file beside the
 * sample, and given out again in chunks grouped by node. */
#include <math.h>

#include "cluster/shard_impl.h"
#include "store/writer.h"

#define PROJECTED_MAX 1e18f /* beyond it squares would not be finite */
#define NODE_ROWS 128

struct projecting {
    struct plm_shard *shard;
    const struct plm_step *step;
    const float *points; /* to be projected in place of the sample, */
    size_t n_points;
    float *projected;    /* to here */
    struct plm_writer *writer; /* or there */
    float *made;         /* per worker: rows for the writer */
    float *least, *most; /* values of each task */
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
    size_t first = task * PLM_PROJECT_ROWS, n = plm_min_size(PLM_PROJECT_ROWS, s->n - first), r = s->r;
    float *packed = p->scratch + worker * p->per_worker;
    float *capped = packed + plm_packed_floats(s->dim), *room = capped + plm_packed_floats(s->dim);
    float *out = p->writer ? p->made + worker * PLM_PROJECT_ROWS * r : s->projected + first * r;
    const float *rows;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_sample_rows(s->sample, first, n, room, &rows, err));
    for (size_t i = 0; i < n; i += PLM_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_BLOCK_ROWS, n - i);
        const float *block = rows + i * s->dim;

        if (p->use_cap)
            block = cap_block(p, block, n_block, capped);
        project_block(p, block, n_block, packed, out + i * r, s->squares + first + i);
    }
    for (size_t i = 0; i < n; i++)
        s->half_norms[first + i] = (float)(s->kernels->norm2(out + i * r, r) / 2);
    s->kernels->min_max(out, n * r, &p->least[task], &p->most[task]);
    if (p->writer)
        PLM_TRY(plm_writer_write(p->writer, (unsigned)task + 1, (uint64_t)first * r * sizeof *out, out,
                                 n * r * sizeof *out, err));
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

    p->per_worker = 2 * plm_packed_floats(s->dim) + (s->sample->rows ? 0 : PLM_PROJECT_ROWS * s->dim);
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
    struct plm_ctx *ctx = p->shard->ctx;

    plm_writer_abort(p->writer);
    plm_panels_reset(&p->panels);
    plm_free(ctx, p->offset);
    plm_free(ctx, p->scratch);
    plm_free(ctx, p->made);
    plm_free(ctx, p->least);
    plm_free(ctx, p->most);
}

/* ---- where they are kept ---------------------------------------------------------------------- */

static enum plm_code make_place(struct projecting *p, size_t n_tasks, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    const struct plm_sample *sample = s->sample;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &s->half_norms, s->n, sizeof *s->half_norms, err));
    PLM_TRY(plm_alloc(s->ctx, &s->squares, s->n, sizeof *s->squares, err));
    PLM_TRY(plm_calloc(s->ctx, &p->least, n_tasks, sizeof *p->least, err));
    PLM_TRY(plm_calloc(s->ctx, &p->most, n_tasks, sizeof *p->most, err));
    if (sample->aside && s->n > 0) {
        PLM_TRY(plm_writer_open(sample->aside, sample->aside_path, (uint64_t)s->n * s->r * sizeof(float), NULL,
                                NULL, &p->writer, err));
        PLM_TRY(plm_alloc(s->ctx, &p->made, s->ctx->threads * PLM_PROJECT_ROWS * s->r, sizeof *p->made, err));
    } else {
        PLM_TRY(plm_alloc(s->ctx, &s->projected, s->n * s->r, sizeof *s->projected, err));
    }
done:
    return rc;
}

static enum plm_code keep(struct projecting *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    enum plm_code rc = PLM_OK;

    if (!p->writer)
        return PLM_OK;
    PLM_TRY(plm_writer_finish_scratch(p->writer, err));
    p->writer = NULL;
    PLM_TRY(plm_file_open(s->sample->aside, s->sample->aside_path, 0, &s->spill, err));
done:
    return rc;
}

enum plm_code plm_shard_project(struct plm_shard *s, const struct plm_step *step, struct plm_err *err)
{
    struct projecting p = {.shard = s, .step = step};
    uint64_t hash = projection_hash(step);
    size_t n_tasks = (s->n + PLM_PROJECT_ROWS - 1) / PLM_PROJECT_ROWS;
    enum plm_code rc = PLM_OK;

    if (s->projection_hash == hash)
        return PLM_OK;
    plm_shard_forget(s);
    s->r = step->head.r;
    p.use_cap = plm_shard_needs_cap(s, step->head.cap);
    PLM_TRY(make_place(&p, n_tasks, err));
    PLM_TRY(prepare_projecting(&p, err));
    PLM_TRY(plm_parallel(s->ctx, n_tasks, project_task, &p, err));
    PLM_TRY(keep(&p, err));
    s->max_projected = 0;
    for (size_t i = 0; i < n_tasks; i++)
        s->max_projected = fmaxf(s->max_projected, fmaxf(fabsf(p.least[i]), fabsf(p.most[i])));
    s->projection_hash = hash;
done:
    if (rc != PLM_OK)
        plm_shard_forget(s);
    finish_projecting(&p);
    return rc;
}

void plm_shard_leave_tree(struct plm_shard *s)
{
    void *const owned[] = {s->node, s->child, s->chunk.order, s->chunk.node_starts, s->chunk.room};

    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        plm_free(s->ctx, owned[i]);
    s->node = s->child = NULL;
    s->chunk = (struct plm_shard_chunk){0};
    s->path_hash = s->child_hash = 0;
    s->n_applied = 0;
}

void plm_shard_forget(struct plm_shard *s)
{
    void *const owned[] = {s->projected, s->half_norms, s->squares};

    plm_shard_leave_tree(s);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        plm_free(s->ctx, owned[i]);
    if (s->spill) {
        plm_file_close(s->spill);
        /* What cannot be removed is found by gc: it lies in the job's directory. */
        if (plm_store_delete(s->sample->aside, s->sample->aside_path, NULL) != PLM_OK)
            plm_warn(s->ctx, "cannot remove the spilled rows %s", s->sample->aside_path);
    }
    s->spill = NULL;
    s->projected = s->half_norms = s->squares = NULL;
    s->projection_hash = 0;
}

enum plm_code plm_shard_projected(const struct plm_shard *s, size_t first, size_t n, float *room,
                                  const float **rows, struct plm_err *err)
{
    size_t row_bytes = s->r * sizeof(float);

    if (!s->spill) {
        *rows = s->projected + first * s->r;
        return PLM_OK;
    }
    *rows = room;
    return plm_file_read(s->spill, (uint64_t)first * row_bytes, n * row_bytes, room, err);
}

/* ---- chunks ----------------------------------------------------------------------------------- */

static enum plm_code read_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct plm_shard *s = arg;
    size_t at = task * PLM_PROJECT_ROWS, n = plm_min_size(PLM_PROJECT_ROWS, s->chunk.n - at);
    const float *rows;
    (void)worker;

    return plm_shard_projected(s, s->chunk.first + at, n, s->chunk.room + at * s->r, &rows, err);
}

/* Of each node, when there are most of them, enough rows to be worth packing its children; of all of
 * them, a task for each thread. */
size_t plm_chunk_rows(size_t n, size_t k, unsigned threads)
{
    size_t nodes = (size_t)ceil(sqrt((double)k));

    return plm_min_size(n, plm_max_size(NODE_ROWS * nodes, threads * (size_t)PLM_UNIT_ROWS));
}

enum plm_code plm_shard_enter_tree(struct plm_shard *s, size_t k, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    plm_shard_leave_tree(s);
    PLM_TRY(plm_alloc(s->ctx, &s->node, s->n, sizeof *s->node, err));
    PLM_TRY(plm_alloc(s->ctx, &s->child, s->n, sizeof *s->child, err));
    s->chunk_rows = s->spill ? plm_chunk_rows(s->n, k, s->ctx->threads) : s->n;
    if (s->spill)
        PLM_TRY(plm_alloc(s->ctx, &s->chunk.room, s->chunk_rows * s->r, sizeof(float), err));
    PLM_TRY(plm_alloc(s->ctx, &s->chunk.order, s->chunk_rows, sizeof *s->chunk.order, err));
done:
    return rc;
}

enum plm_code plm_shard_take_chunk(struct plm_shard *s, size_t first, struct plm_err *err)
{
    struct plm_shard_chunk *c = &s->chunk;
    enum plm_code rc = PLM_OK;

    if (c->rows && c->first == first && c->is_grouped)
        return PLM_OK;
    PLM_TRY(plm_realloc(s->ctx, &c->node_starts, s->n_nodes + 1, sizeof *c->node_starts, err));
    if (!c->rows || c->first != first) {
        c->rows = NULL;
        c->first = first;
        c->n = plm_min_size(s->chunk_rows, s->n - first);
        if (s->spill)
            PLM_TRY(plm_parallel(s->ctx, (c->n + PLM_PROJECT_ROWS - 1) / PLM_PROJECT_ROWS, read_task, s, err));
        c->rows = s->spill ? c->room : s->projected;
    }
    plm_group_rows(s->node + first, c->n, s->n_nodes, c->node_starts, c->order);
    c->is_grouped = true;
done:
    return rc;
}

/* ---- other points ------------------------------------------------------------------------------- */

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

