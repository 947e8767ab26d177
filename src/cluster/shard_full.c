/* shard_full.c - passes over the rows in full dimension, a chunk at a time.
 *
 * A chunk's rows are placed, then added to the sums. Where these are large, all rows are placed first:
 * what that takes is gone when the sums come. */
#include "cluster/assign.h"
#include "cluster/shard_groups.h"
#include "cluster/shard_impl.h"

#define TASK_ROWS PLM_PASS_ROWS
#define CHUNK_ROWS ((size_t)1 << 16)    /* in memory: only ids and distances are kept */
#define CHUNK_BYTES ((size_t)32 << 20)  /* rows read back from a spilled sample at a time, at most */
#define SUMS_BYTES ((size_t)64 << 20)   /* larger ones wait until all rows are placed */

/* ---- one pass ----------------------------------------------------------------------------------- */

struct pass {
    struct plm_shard *shard;
    const struct plm_step *step;
    struct plm_place_head *head;         /* LLOYD with axes */
    struct plm_place_near *near;         /* very many points in few dimensions */
    struct plm_assigner *assigner;       /* LLOYD without, and for rows left open */
    struct plm_assign_scratch *scratch;  /* of the assigner, per worker */
    double *exact;                       /* LLOYD without axes, per worker: [TASK_ROWS] */
    float *gathered;                     /* rows left open, per worker */
    struct plm_panels panels;            /* MEANS */
    float *packed;                       /* MEANS, per worker: rows packed, rows read */
    bool sums_wait;                      /* until all rows are placed */
    bool moves, keeps;                   /* from and for the sums kept */
    uint32_t n_open_all;
    size_t chunk_rows, first, n, n_open; /* the chunk in work */
    float *room;                         /* rows of a chunk, when spilled */
    const float *rows;                   /* of the chunk */
    uint32_t *all_ids, *order;           /* [rows if sums wait, else chunk_rows]; [chunk_rows], twice if moves */
    float *all_distances;                /* as all_ids */
    uint32_t *ids;                       /* those of the chunk */
    float *distances;
    size_t *starts;
};

static enum plm_code place_projected(const struct pass *p, size_t at, size_t n, float *packed,
                                     struct plm_err *err)
{
    const struct plm_shard *s = p->shard;
    bool dot = p->step->head.metric == PLM_DOT;
    float second[PLM_BLOCK_ROWS];
    const float *rows;
    enum plm_code rc = PLM_OK;

    for (size_t i = at; i < at + n; i += PLM_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_BLOCK_ROWS, at + n - i), row = p->first + i;
        float *best = p->distances + i;

        PLM_TRY(plm_shard_projected(s, row, n_block, packed + plm_packed_floats(s->r), &rows, err));
        s->kernels->pack_rows(rows, s->r, n_block, s->r, packed);
        s->kernels->nearest(packed, n_block, p->panels.values, p->panels.half_norms,
                            p->panels.n_panels, s->r, best, second, p->ids + i);
        for (size_t j = 0; j < n_block; j++) {
            if (p->ids[i + j] >= p->step->head.n_points) /* values that were not finite */
                p->ids[i + j] = 0;
            best[j] = dot ? 1 + best[j] : 2 * (best[j] + s->half_norms[row + j]);
        }
    }
done:
    return rc;
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
        PLM_TRY(plm_place_by_head(p->head, rows, p->first + at, n, worker, p->ids + at, err));
        for (size_t i = at; i < at + n; i++)
            p->distances[i] = p->step->head.metric == PLM_DOT ? 0 : s->squares[p->first + i];
        return PLM_OK;
    }
    if (p->near)
        return plm_place_near(p->near, rows, p->first + at, n, worker, p->ids + at, p->distances + at, err);
    if (p->packed)
        return place_projected(p, at, n, p->packed + worker * 2 * plm_packed_floats(s->r), err);
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

static void take_chunk(struct pass *p, size_t first)
{
    p->first = first;
    p->n = plm_min_size(p->chunk_rows, p->shard->n - first);
    p->ids = p->all_ids + (p->sums_wait ? first : 0);
    p->distances = p->all_distances + (p->sums_wait ? first : 0);
}

static enum plm_code read_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct pass *p = arg;
    size_t at = task * TASK_ROWS;
    const float *rows;
    (void)worker;

    return plm_sample_rows(p->shard->sample, p->first + at, plm_min_size(TASK_ROWS, p->n - at),
                           p->room + at * p->shard->dim, &rows, err);
}

static enum plm_code place_chunk(struct pass *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_parallel(s->ctx, (p->n + TASK_ROWS - 1) / TASK_ROWS, place_task, p, err));
    p->rows = p->room;
    if (!p->room)
        PLM_TRY(plm_sample_rows(s->sample, p->first, p->n, NULL, &p->rows, err));
    if (p->head) {
        PLM_TRY(settle_open(p, err));
        p->n_open_all += (uint32_t)p->n_open;
    }
done:
    return rc;
}

static enum plm_code add_chunk(struct pass *p, struct plm_partial *sums, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    struct plm_adding adding = {.ctx = s->ctx, .rows = p->rows, .n = p->n, .dim = s->dim,
                                .n_ids = sums->head->n, .starts = p->starts, .order = p->order, .ids = p->ids,
                                .before = p->moves ? s->last.ids + p->first : NULL,
                                .distances = p->distances, .step = p->step, .sums = sums,
                                .use_cap = plm_shard_needs_cap(s, p->step->head.cap)};
    enum plm_code rc = plm_add_rows(&adding, err);

    if (rc == PLM_OK && p->keeps)
        memcpy(s->last.ids + p->first, p->ids, p->n * sizeof *p->ids);
    return rc;
}

static size_t chunk_rows_of(const struct pass *p)
{
    const struct plm_shard *s = p->shard;
    const struct plm_step_head *h = &p->step->head;
    size_t rows = p->sums_wait ? s->n : CHUNK_ROWS;

    if (!s->sample->rows) { /* half of what is left by the sums, and for open rows, which come later */
        size_t row_bytes = s->dim * sizeof(float), later = 0, sums = plm_sums_bytes(h->n_points, s->dim);
        uint64_t left = plm_memory_left(s->ctx);

        if (p->head && !plm_groups_pay(h->k))
            later = plm_assigner_bytes(h->k, s->dim) +
                    s->ctx->threads * (plm_assign_scratch_bytes(h->k, s->dim) + plm_packed_floats(s->dim) * sizeof(float));
        later = p->sums_wait ? plm_max_size(later, sums) : later + sums;
        size_t room = left > later ? (size_t)plm_min_u64(CHUNK_BYTES, (left - later) / 2) : 0;

        rows = plm_max_size(TASK_ROWS, room / row_bytes / TASK_ROWS * TASK_ROWS);
    }
    return plm_max_size(1, plm_min_size(rows, s->n));
}

static enum plm_code prepare_nearest(struct pass *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    const struct plm_step_head *h = &p->step->head;
    enum plm_code rc = PLM_OK;

    if (plm_place_near_pays(p->step)) {
        if (h->kind == PLM_STEP_LLOYD)
            plm_shard_forget(s);
        PLM_TRY(plm_place_near_create(s, p->step, &p->near, err));
    } else if (h->kind == PLM_STEP_LLOYD && h->has_basis) {
        PLM_TRY(plm_place_head_create(s, p->step, &p->head, err));
    } else if (h->kind == PLM_STEP_LLOYD) {
        plm_shard_forget(s); /* what was projected is not needed any more */
        PLM_TRY(make_assigner(p, err));
        PLM_TRY(plm_alloc(s->ctx, &p->exact, s->ctx->threads * (size_t)TASK_ROWS, sizeof *p->exact, err));
    } else {
        PLM_TRY(plm_shard_project(s, p->step, err));
        PLM_TRY(plm_panels_alloc(s->ctx, h->n_points, s->r, &p->panels, err));
        plm_panels_fill(&p->panels, p->step->points, h->n_points, h->metric == PLM_DOT);
        PLM_TRY(plm_alloc(s->ctx, &p->packed, s->ctx->threads * 2 * plm_packed_floats(s->r),
                          sizeof *p->packed, err));
    }
done:
    return rc;
}

static enum plm_code prepare_chunks(struct pass *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    size_t n_kept;
    enum plm_code rc = PLM_OK;

    p->sums_wait = plm_sums_wait(p->step->head.n_points, s->dim);
    p->chunk_rows = chunk_rows_of(p);
    p->moves = !p->sums_wait && plm_last_serves(s, p->step);
    p->keeps = !p->sums_wait && plm_last_make_room(s, p->step);
    n_kept = p->sums_wait ? s->n : p->chunk_rows;
    if (!s->sample->rows)
        PLM_TRY(plm_alloc(s->ctx, &p->room, p->chunk_rows * s->dim, sizeof *p->room, err));
    PLM_TRY(plm_alloc(s->ctx, &p->all_ids, n_kept, sizeof *p->all_ids, err));
    PLM_TRY(plm_alloc(s->ctx, &p->all_distances, n_kept, sizeof *p->all_distances, err));
    PLM_TRY(plm_alloc(s->ctx, &p->order, p->chunk_rows * (p->moves ? 2 : 1), sizeof *p->order, err));
    PLM_TRY(plm_alloc(s->ctx, &p->starts, (size_t)p->step->head.n_points + 1, sizeof *p->starts, err));
done:
    return rc;
}

/* What placing takes; `room` stays. */
static void release_nearest(struct pass *p)
{
    struct plm_ctx *ctx = p->shard->ctx;

    plm_place_head_destroy(p->head);
    plm_place_near_destroy(p->near);
    plm_assigner_destroy(p->assigner);
    for (size_t i = 0; p->scratch && i < ctx->threads; i++)
        plm_assign_scratch_reset(&p->scratch[i]);
    plm_panels_reset(&p->panels);
    plm_free(ctx, p->scratch);
    plm_free(ctx, p->exact);
    plm_free(ctx, p->gathered);
    plm_free(ctx, p->packed);
    p->head = NULL;
    p->near = NULL;
    p->assigner = NULL;
    p->scratch = NULL;
    p->exact = NULL;
    p->gathered = p->packed = NULL;
}

static void release(struct pass *p)
{
    struct plm_ctx *ctx = p->shard->ctx;

    release_nearest(p);
    plm_free(ctx, p->room);
    plm_free(ctx, p->all_ids);
    plm_free(ctx, p->all_distances);
    plm_free(ctx, p->order);
    plm_free(ctx, p->starts);
}

static enum plm_code place_and_add(struct pass *p, struct plm_partial *sums, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t first = 0; first < p->shard->n; first += p->n) {
        take_chunk(p, first);
        PLM_TRY(place_chunk(p, err));
        if (!p->sums_wait)
            PLM_TRY(add_chunk(p, sums, err));
    }
done:
    return rc;
}

static enum plm_code add_all(struct pass *p, struct plm_partial *sums, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t first = 0; first < p->shard->n; first += p->n) {
        take_chunk(p, first);
        if (p->room && p->n < p->shard->n) /* else they are there */
            PLM_TRY(plm_parallel(p->shard->ctx, (p->n + TASK_ROWS - 1) / TASK_ROWS, read_task, p, err));
        else if (!p->room)
            PLM_TRY(plm_sample_rows(p->shard->sample, first, p->n, NULL, &p->rows, err));
        PLM_TRY(add_chunk(p, sums, err));
    }
done:
    return rc;
}

enum plm_code plm_shard_full(struct plm_shard *shard, const struct plm_step *step,
                             struct plm_buf *partial, struct plm_err *err)
{
    struct pass p = {.shard = shard, .step = step};
    struct plm_partial sums = {0};
    enum plm_code rc = PLM_OK;

    plm_shard_leave_tree(shard);
    PLM_TRY(prepare_nearest(&p, err));
    PLM_TRY(prepare_chunks(&p, err));
    if (p.sums_wait) {
        PLM_TRY(place_and_add(&p, NULL, err));
        p.n_open_all += p.head ? (uint32_t)plm_place_head_doubtful(p.head) : 0;
        release_nearest(&p);
    }
    PLM_TRY(plm_partial_begin(partial, PLM_SUMS, step, step->head.n_points, step->head.dim, 0, &sums,
                              err));
    if (p.moves)
        memcpy(sums.sums, shard->last.sums, shard->last.n_points * shard->dim * sizeof *sums.sums);
    shard->last.is_whole = false;
    PLM_TRY(p.sums_wait ? add_all(&p, &sums, err) : place_and_add(&p, &sums, err));
    if (p.keeps)
        plm_last_keep(shard, step, &sums);
    sums.head->n_rows = shard->n;
    sums.head->n_open = p.n_open_all + (p.head ? (uint32_t)plm_place_head_doubtful(p.head) : 0);
done:
    release(&p);
    return rc;
}

size_t plm_sums_bytes(size_t n_points, size_t dim) { return n_points * (dim * sizeof(double) + 16); }

bool plm_sums_wait(size_t n_points, size_t dim) { return plm_sums_bytes(n_points, dim) > SUMS_BYTES; }
