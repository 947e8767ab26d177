/* shard_full.c - passes over the rows in full dimension, a chunk at a time. */
#include "cluster/assign.h"
#include "cluster/shard_impl.h"

#define TASK_ROWS PLM_PASS_ROWS
#define CHUNK_ROWS ((size_t)1 << 16)    /* in memory: only ids and distances are kept */
#define CHUNK_BYTES ((size_t)32 << 20)  /* rows read back from a spilled sample at a time, at most */

/* ---- sums ------------------------------------------------------------------------------------- */

/* Groups are cut into tasks of about equal rows; no two tasks touch the same sum. */
struct cuts {
    const struct plm_adding *adding;
    size_t n_tasks;
    float *capped; /* per worker */
};

static size_t first_group(const struct cuts *c, size_t task)
{
    const struct plm_adding *a = c->adding;
    size_t rows = (size_t)((unsigned __int128)a->n * task / c->n_tasks), low = 0, high = a->n_ids;

    while (low < high) { /* least group that starts at or behind `rows` */
        size_t middle = low + (high - low) / 2;

        if (a->starts[middle] < rows)
            low = middle + 1;
        else
            high = middle;
    }
    return task == c->n_tasks ? a->n_ids : low;
}

static enum plm_code add_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct cuts *c = arg;
    const struct plm_adding *a = c->adding;
    const struct plm_kernels *kernels = a->ctx->kernels;
    const struct plm_step_head *h = &a->step->head;
    float *capped = c->capped + worker * a->dim;
    (void)err;

    for (size_t id = first_group(c, task); id < first_group(c, task + 1); id++) {
        double *sums = a->sums->sums + id * a->dim;

        a->sums->sizes[id] += a->starts[id + 1] - a->starts[id];
        for (size_t i = a->starts[id]; i < a->starts[id + 1]; i++) {
            size_t row = a->order[i];
            const float *values = a->rows + row * a->dim;

            if (a->use_cap) {
                plm_cap_row(values, a->dim, h->cap, capped);
                values = capped;
            }
            kernels->grid_add(sums, values, a->dim, h->magic_sum);
            a->sums->losses[id] += plm_fixed((double)a->distances[row], h->loss_limit, h->loss_scale);
        }
    }
    return PLM_OK;
}

enum plm_code plm_add_grouped(struct plm_adding *adding, struct plm_err *err)
{
    struct cuts c = {.adding = adding,
                     .n_tasks = plm_min_size(adding->n_ids, 4 * (size_t)adding->ctx->threads)};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(adding->ctx, &c.capped, adding->ctx->threads * adding->dim, sizeof *c.capped, err));
    PLM_TRY(plm_parallel(adding->ctx, c.n_tasks, add_task, &c, err));
done:
    plm_free(adding->ctx, c.capped);
    return rc;
}

/* ---- one pass ----------------------------------------------------------------------------------- */

struct pass {
    struct plm_shard *shard;
    const struct plm_step *step;
    struct plm_place_head *head;         /* LLOYD with axes */
    struct plm_assigner *assigner;       /* LLOYD without, and for rows left open */
    struct plm_assign_scratch *scratch;  /* of the assigner, per worker */
    double *exact;                       /* LLOYD without axes, per worker: [TASK_ROWS] */
    float *gathered;                     /* rows left open, per worker */
    struct plm_panels panels;            /* MEANS */
    float *packed;                       /* MEANS, per worker */
    size_t chunk_rows, first, n, n_open; /* the chunk in work */
    float *room;                         /* rows of a chunk, when spilled */
    const float *rows;                   /* of the chunk */
    uint32_t *ids, *order;               /* [chunk_rows] */
    float *distances;
    size_t *starts;
};

static void place_projected(const struct pass *p, size_t at, size_t n, float *packed)
{
    const struct plm_shard *s = p->shard;
    bool dot = p->step->head.metric == PLM_DOT;
    float second[PLM_BLOCK_ROWS];

    for (size_t i = at; i < at + n; i += PLM_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_BLOCK_ROWS, at + n - i), row = p->first + i;
        float *best = p->distances + i;

        s->kernels->pack_rows(s->projected + row * s->r, s->r, n_block, s->r, packed);
        s->kernels->nearest(packed, n_block, p->panels.values, p->panels.half_norms,
                            p->panels.n_panels, s->r, best, second, p->ids + i);
        for (size_t j = 0; j < n_block; j++) {
            if (p->ids[i + j] >= p->step->head.n_points) /* values that were not finite */
                p->ids[i + j] = 0;
            best[j] = dot ? 1 + best[j] : 2 * (best[j] + s->half_norms[row + j]);
        }
    }
}

static enum plm_code place_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct pass *p = arg;
    const struct plm_shard *s = p->shard;
    size_t at = task * TASK_ROWS, n = plm_min_size(TASK_ROWS, p->n - at);
    const float *rows;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_sample_rows(s->sample, p->first + at, n, p->room ? p->room + at * s->dim : NULL, &rows,
                            err));
    if (p->head) {
        plm_place_by_head(p->head, rows, p->first + at, n, worker, p->ids + at);
        for (size_t i = at; i < at + n; i++)
            p->distances[i] = p->step->head.metric == PLM_DOT ? 0 : s->squares[p->first + i];
        return PLM_OK;
    }
    if (p->packed) {
        place_projected(p, at, n, p->packed + worker * plm_packed_floats(s->r));
        return PLM_OK;
    }
    double *exact = p->exact + worker * (size_t)TASK_ROWS;
    PLM_TRY(plm_assign(p->assigner, rows, n, p->ids + at, exact, &p->scratch[worker], err));
    for (size_t i = 0; i < n; i++)
        p->distances[at + i] = (float)exact[i];
done:
    return rc;
}

static enum plm_code make_assigner(struct pass *p, struct plm_err *err)
{
    struct plm_ctx *ctx = p->shard->ctx;
    const struct plm_step_head *h = &p->step->head;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_assigner_create(ctx, p->step->points, h->k, h->dim, (enum plm_metric)h->metric,
                                &p->assigner, err));
    PLM_TRY(plm_calloc(ctx, &p->scratch, ctx->threads, sizeof *p->scratch, err));
    for (size_t i = 0; i < ctx->threads; i++)
        p->scratch[i].ctx = ctx;
done:
    return rc;
}

/* Open rows order[task * PLM_BLOCK_ROWS ...) of the chunk, exactly. */
static enum plm_code place_open(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct pass *p = arg;
    size_t dim = p->shard->dim, n = plm_min_size(PLM_BLOCK_ROWS, p->n_open - task * PLM_BLOCK_ROWS);
    const uint32_t *open = p->order + task * PLM_BLOCK_ROWS;
    float *rows = p->gathered + worker * plm_packed_floats(dim);
    uint32_t ids[PLM_BLOCK_ROWS];
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < n; i++)
        memcpy(rows + i * dim, p->rows + open[i] * dim, dim * sizeof *rows);
    PLM_TRY(plm_assign(p->assigner, rows, n, ids, NULL, &p->scratch[worker], err));
    for (size_t i = 0; i < n; i++)
        p->ids[open[i]] = ids[i];
done:
    return rc;
}

/* What the head left open. `order` is free until rows are grouped. */
static enum plm_code settle_open(struct pass *p, struct plm_err *err)
{
    struct plm_ctx *ctx = p->shard->ctx;
    enum plm_code rc = PLM_OK;

    p->n_open = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->ids[i] == PLM_ROW_OPEN)
            p->order[p->n_open++] = (uint32_t)i;
    if (p->n_open == 0)
        return PLM_OK;
    if (!p->assigner) {
        PLM_TRY(make_assigner(p, err));
        PLM_TRY(plm_alloc(ctx, &p->gathered, ctx->threads * plm_packed_floats(p->shard->dim),
                          sizeof *p->gathered, err));
    }
    PLM_TRY(plm_parallel(ctx, (p->n_open + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS, place_open, p, err));
done:
    return rc;
}

static enum plm_code run_chunk(struct pass *p, struct plm_partial *sums, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    struct plm_adding adding = {.ctx = s->ctx, .n = p->n, .dim = s->dim,
                                .n_ids = sums->head->n, .starts = p->starts, .order = p->order,
                                .distances = p->distances, .step = p->step, .sums = sums,
                                .use_cap = plm_shard_needs_cap(s, p->step->head.cap)};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_parallel(s->ctx, (p->n + TASK_ROWS - 1) / TASK_ROWS, place_task, p, err));
    p->rows = p->room;
    if (!p->room)
        PLM_TRY(plm_sample_rows(s->sample, p->first, p->n, NULL, &p->rows, err));
    adding.rows = p->rows;
    if (p->head) {
        PLM_TRY(settle_open(p, err));
        sums->head->n_open += (uint32_t)p->n_open;
    }
    plm_group_rows(p->ids, p->n, sums->head->n, p->starts, p->order);
    PLM_TRY(plm_add_grouped(&adding, err));
done:
    return rc;
}

static size_t chunk_rows_of(const struct plm_shard *s, size_t n_points)
{
    size_t rows = CHUNK_ROWS;

    if (!s->sample->rows) { /* half of what the sums, which come later, leave */
        size_t row_bytes = s->dim * sizeof(float), sums = n_points * (s->dim * sizeof(double) + 16);
        uint64_t left = plm_memory_left(s->ctx);
        size_t room = left > sums ? (size_t)plm_min_u64(CHUNK_BYTES, (left - sums) / 2) : 0;

        rows = plm_max_size(TASK_ROWS, room / row_bytes / TASK_ROWS * TASK_ROWS);
    }
    return plm_max_size(1, plm_min_size(rows, s->n));
}

static enum plm_code prepare_nearest(struct pass *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    const struct plm_step_head *h = &p->step->head;
    enum plm_code rc = PLM_OK;

    if (h->kind == PLM_STEP_LLOYD && h->has_basis) {
        PLM_TRY(plm_place_head_create(s, p->step, &p->head, err));
    } else if (h->kind == PLM_STEP_LLOYD) {
        plm_shard_forget(s); /* what was projected is not needed any more */
        PLM_TRY(make_assigner(p, err));
        PLM_TRY(plm_alloc(s->ctx, &p->exact, s->ctx->threads * (size_t)TASK_ROWS, sizeof *p->exact, err));
    } else {
        PLM_TRY(plm_shard_project(s, p->step, err));
        PLM_TRY(plm_panels_alloc(s->ctx, h->n_points, s->r, &p->panels, err));
        plm_panels_fill(&p->panels, p->step->points, h->n_points, h->metric == PLM_DOT);
        PLM_TRY(plm_alloc(s->ctx, &p->packed, s->ctx->threads * plm_packed_floats(s->r),
                          sizeof *p->packed, err));
    }
done:
    return rc;
}

static enum plm_code prepare_chunks(struct pass *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    enum plm_code rc = PLM_OK;

    p->chunk_rows = chunk_rows_of(s, p->step->head.n_points);
    if (!s->sample->rows)
        PLM_TRY(plm_alloc(s->ctx, &p->room, p->chunk_rows * s->dim, sizeof *p->room, err));
    PLM_TRY(plm_alloc(s->ctx, &p->ids, p->chunk_rows, sizeof *p->ids, err));
    PLM_TRY(plm_alloc(s->ctx, &p->order, p->chunk_rows, sizeof *p->order, err));
    PLM_TRY(plm_alloc(s->ctx, &p->distances, p->chunk_rows, sizeof *p->distances, err));
    PLM_TRY(plm_alloc(s->ctx, &p->starts, (size_t)p->step->head.n_points + 1, sizeof *p->starts, err));
done:
    return rc;
}

static void release(struct pass *p)
{
    struct plm_ctx *ctx = p->shard->ctx;
    void *const owned[] = {p->exact, p->gathered, p->packed,    p->room,
                           p->ids,   p->order,    p->distances, p->starts};

    plm_place_head_destroy(p->head);
    plm_assigner_destroy(p->assigner);
    for (size_t i = 0; p->scratch && i < ctx->threads; i++)
        plm_assign_scratch_reset(&p->scratch[i]);
    plm_free(ctx, p->scratch);
    plm_panels_reset(&p->panels);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        plm_free(ctx, owned[i]);
}

enum plm_code plm_shard_full(struct plm_shard *shard, const struct plm_step *step,
                             struct plm_buf *partial, struct plm_err *err)
{
    struct pass p = {.shard = shard, .step = step};
    struct plm_partial sums = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(prepare_nearest(&p, err));
    PLM_TRY(prepare_chunks(&p, err));
    PLM_TRY(plm_partial_begin(partial, PLM_SUMS, step, step->head.n_points, step->head.dim, 0, &sums,
                              err));
    sums.head->n_rows = shard->n;
    for (p.first = 0; p.first < shard->n; p.first += p.n) {
        p.n = plm_min_size(p.chunk_rows, shard->n - p.first);
        PLM_TRY(run_chunk(&p, &sums, err));
    }
done:
    release(&p);
    return rc;
}
