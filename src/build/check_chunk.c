/* check_chunk.c - a chunk of rows read from the table, assigned and encoded again.
 *
 * Of a sample the nearest partition is found by looking at all of them in float64, so that nothing
 * a build uses checks itself; of all rows, as a build finds it.
 */
#include <math.h>
#include <stdlib.h>

#include "build/check_rows_impl.h"
#include "cluster/assign.h"
#include "simd/simd.h"

#define WINDOW_BYTES ((size_t)4 << 20)
#define PART_VALUES 128

void plm_check_close_chunk(struct plm_check_chunk *c)
{
    struct plm_ctx *ctx = c->check->ctx;
    plm_free(ctx, c->vectors);
    plm_free(ctx, c->codes);
    plm_free(ctx, c->rows);
    plm_free(ctx, c->ids);
    plm_free(ctx, c->window);
    plm_free(ctx, c->window_ids);
    plm_free(ctx, c->code);
    plm_free(ctx, c->wanted);
    plm_free(ctx, c->matches);
    plm_read_scratch_reset(&c->read);
}

enum plm_code plm_check_open_chunk(struct plm_check *check, size_t cap, struct plm_check_chunk *c,
                                   struct plm_err *err)
{
    struct plm_ctx *ctx = check->ctx;
    const struct plm_model *m = &check->segment->model;
    enum plm_code rc = PLM_OK;

    *c = (struct plm_check_chunk){.check = check, .cap = cap, .dim = m->dim, .read.ctx = ctx};
    c->code_bytes = plm_model_code_bytes(m);
    uint64_t n_rows = plm_max_u64(1, check->segment->n_rows);
    size_t room = plm_window_bytes(ctx, WINDOW_BYTES) / (c->code_bytes + 8);
    c->window_rows = (size_t)plm_min_u64(n_rows, plm_max_size(64, room));
    PLM_TRY(plm_alloc(ctx, &c->vectors, cap * c->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &c->codes, cap, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->rows, cap, sizeof *c->rows, err));
    PLM_TRY(plm_alloc(ctx, &c->ids, cap, sizeof *c->ids, err));
    PLM_TRY(plm_alloc(ctx, &c->window, c->window_rows, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->window_ids, c->window_rows, sizeof(uint64_t), err));
    PLM_TRY(plm_alloc(ctx, &c->code, c->code_bytes, 1, err));
    PLM_TRY(plm_alloc(ctx, &c->wanted, m->k, 1, err));
    PLM_TRY(plm_alloc(ctx, &c->matches, cap, sizeof *c->matches, err));
done:
    return rc;
}

/* Live rows [first, first + n) into the chunk. */
enum plm_code plm_check_load(struct plm_check_chunk *c, uint64_t first, size_t n, struct plm_batch *batch,
                             struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    enum plm_code rc = plm_source_read(c->check->source, m->metric, first, n, batch, err);
    if (rc != PLM_OK)
        return rc;
    memcpy(c->vectors + c->n * c->dim, batch->rows, batch->n * c->dim * sizeof(float));
    if (m->quantizer == PLM_FLAT)
        memcpy(c->codes + c->n * c->code_bytes, batch->raw, batch->n * c->code_bytes);
    for (size_t i = 0; i < batch->n; i++)
        c->rows[c->n + i] = (struct plm_check_row){.rowid = batch->rowids[i], .at = c->n + i};
    c->n += batch->n;
    return PLM_OK;
}

/* ---- where they belong, and their codes -------------------------------------------------- */

double plm_check_distance(const struct plm_check_chunk *c, size_t at, uint32_t partition)
{
    const struct plm_model *m = &c->check->segment->model;
    const struct plm_kernels *k = c->check->ctx->kernels;
    const float *row = c->vectors + at * c->dim, *centroid = m->centroids + (size_t)partition * c->dim;
    return m->metric == PLM_DOT ? 1 - k->dot_exact(row, centroid, c->dim)
                                : k->l2_exact(row, centroid, c->dim);
}

/* Is the centroid farther than `best` by some of its values alone? A sum of squares only grows. */
static bool is_farther(const struct plm_check_chunk *c, size_t at, uint32_t partition, double best)
{
    const struct plm_model *m = &c->check->segment->model;
    const float *row = c->vectors + at * c->dim, *centroid = m->centroids + (size_t)partition * c->dim;
    double sum = 0;
    if (m->metric == PLM_DOT)
        return false;
    for (size_t d = 0; d + PART_VALUES < c->dim && sum <= best; d += PART_VALUES)
        sum += c->check->ctx->kernels->l2_exact(row + d, centroid + d, PART_VALUES);
    return sum > best * (1 + 1e-9);
}

/* The nearest partition by looking at all of them in float64: no filter that a build uses. */
static enum plm_code find_nearest(void *arg, size_t at, unsigned worker, struct plm_err *err)
{
    struct plm_check_chunk *c = arg;
    double best = INFINITY;
    (void)worker, (void)err;
    c->ids[at] = 0;
    for (uint32_t p = 0; p < c->check->segment->model.k; p++) {
        if (is_farther(c, at, p, best))
            continue;
        double d = plm_check_distance(c, at, p);
        if (d < best) {
            best = d;
            c->ids[at] = p;
        }
    }
    return PLM_OK;
}

/* A stretch of the chunk's rows, for one thread. */
struct lane {
    struct plm_check_chunk *chunk;
    size_t first, n;
    struct plm_assign_scratch assign;
    void *encode; /* PQ */
};

static enum plm_code work_on_lane(void *arg, size_t number, unsigned worker, struct plm_err *err)
{
    struct lane *lane = (struct lane *)arg + number;
    struct plm_check_chunk *c = lane->chunk;
    const struct plm_model *m = &c->check->segment->model;
    const struct plm_kernels *k = c->check->ctx->kernels;
    const float *vectors = c->vectors + lane->first * c->dim;
    uint8_t *codes = c->codes + lane->first * c->code_bytes;
    uint32_t *ids = c->ids + lane->first;
    enum plm_code rc = PLM_OK;

    (void)worker;
    if (c->assigner)
        rc = plm_assign(c->assigner, vectors, lane->n, ids, NULL, &lane->assign, err);
    if (rc != PLM_OK)
        return rc;
    if (m->quantizer == PLM_SQ)
        k->sq_encode(vectors, lane->n * c->dim, m->sq.lo, m->sq.hi, codes);
    if (m->quantizer == PLM_PQ)
        plm_pq_encode(k, &m->pq, vectors, lane->n, m->metric == PLM_DOT ? NULL : m->centroids, ids, codes, lane->encode);
    return PLM_OK;
}

/* One for each thread, as far as half of the memory that is left has room for what they need. */
static size_t count_lanes(const struct plm_check_chunk *c)
{
    const struct plm_ctx *ctx = c->check->ctx;
    const struct plm_model *m = &c->check->segment->model;
    size_t each = c->assigner ? plm_assign_scratch_bytes(m->k, m->dim) : 0;

    if (m->quantizer == PLM_PQ)
        each += plm_pq_encode_bytes(&m->pq);
    size_t room = (size_t)plm_min_u64(plm_memory_left(ctx) / 2 / plm_max_size(1, each), ctx->threads);
    return plm_max_size(1, plm_min_size(room, (c->n + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS));
}

/* Assigns the rows, where there is an assigner, and encodes them. */
static enum plm_code work_on_lanes(struct plm_check_chunk *c, struct plm_err *err)
{
    struct plm_ctx *ctx = c->check->ctx;
    const struct plm_model *m = &c->check->segment->model;
    size_t n_lanes = count_lanes(c), step = (c->n + n_lanes - 1) / n_lanes;
    struct lane *lanes = NULL;
    enum plm_code rc = PLM_OK;

    step = (step + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS * PLM_BLOCK_ROWS;
    PLM_TRY(plm_calloc(ctx, &lanes, n_lanes, sizeof *lanes, err));
    for (size_t i = 0; i < n_lanes; i++) {
        size_t first = plm_min_size(i * step, c->n);
        lanes[i] = (struct lane){.chunk = c, .first = first, .n = plm_min_size(step, c->n - first), .assign.ctx = ctx};
        if (m->quantizer == PLM_PQ)
            PLM_TRY(plm_alloc(ctx, &lanes[i].encode, 1, plm_pq_encode_bytes(&m->pq), err));
    }
    PLM_TRY(plm_parallel(ctx, n_lanes, work_on_lane, lanes, err));
done:
    for (size_t i = 0; lanes && i < n_lanes; i++) {
        plm_assign_scratch_reset(&lanes[i].assign);
        plm_free(ctx, lanes[i].encode);
    }
    plm_free(ctx, lanes);
    return rc;
}

int plm_check_by_partition(const void *a, const void *b)
{
    const struct plm_check_row *x = a, *y = b;
    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

enum plm_code plm_check_encode(struct plm_check_chunk *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (!c->assigner)
        PLM_TRY(plm_parallel(c->check->ctx, c->n, find_nearest, c, err));
    PLM_TRY(work_on_lanes(c, err));
    for (size_t i = 0; i < c->n; i++)
        c->rows[i].partition = c->ids[i];
    qsort(c->rows, c->n, sizeof *c->rows, plm_check_by_partition);
done:
    return rc;
}
