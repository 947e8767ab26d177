/* shard_near.c - very many points: rows find theirs by groups, on the axes (MEANS) or, where there are
 * none, in few dimensions (LLOYD). */
#include <math.h>

#include "cluster/shard_groups.h"
#include "cluster/shard_impl.h"

struct plm_place_near {
    struct plm_shard *shard;
    const struct plm_step *step;
    struct plm_groups *groups;
    bool is_projected;
    size_t dim;      /* of the space */
    float *offset;   /* [dim] LLOYD: the mean of the points, 0 for dot: values stay small */
    float *scratch;  /* per worker: rows of a task */
};

bool plm_place_near_pays(const struct plm_step *step)
{
    const struct plm_step_head *h = &step->head;
    bool is_low = h->kind == PLM_STEP_MEANS || (!h->has_basis && plm_projected_dim(h->dim, PLM_FETCH_ROWS) == 0);

    return is_low && (h->kind == PLM_STEP_MEANS ? plm_groups_find_leaves(h->n_points) : plm_groups_pay(h->n_points));
}

size_t plm_place_near_bytes(size_t k, size_t dim, unsigned threads)
{
    return plm_groups_bytes(k, dim, threads) + k * (dim + 1) * sizeof(float) +
           threads * PLM_PASS_ROWS * dim * sizeof(float) + dim * 12;
}

static enum plm_code find_offset(struct plm_place_near *p, struct plm_err *err)
{
    const struct plm_step_head *h = &p->step->head;
    double *sums = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(p->shard->ctx, &p->offset, p->dim, sizeof *p->offset, err));
    PLM_TRY(plm_calloc(p->shard->ctx, &sums, p->dim, sizeof *sums, err));
    for (size_t j = 0; j < h->n_points; j++)
        for (size_t d = 0; d < p->dim; d++)
            sums[d] += (double)p->step->points[j * p->dim + d];
    for (size_t d = 0; d < p->dim && h->metric != PLM_DOT; d++)
        p->offset[d] = (float)(sums[d] / h->n_points);
done:
    plm_free(p->shard->ctx, sums);
    return rc;
}

static void move_rows(const struct plm_place_near *p, const float *rows, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < p->dim; d++)
            out[i * p->dim + d] = rows[i * p->dim + d] - p->offset[d];
}

static enum plm_code make_groups(struct plm_place_near *p, struct plm_err *err)
{
    struct plm_ctx *ctx = p->shard->ctx;
    const struct plm_step_head *h = &p->step->head;
    bool dot = h->metric == PLM_DOT;
    float *moved = NULL, *biases = NULL;
    const float *points = p->step->points;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &biases, h->n_points, sizeof *biases, err));
    if (!p->is_projected) {
        PLM_TRY(plm_alloc(ctx, &moved, h->n_points * p->dim, sizeof *moved, err));
        move_rows(p, points, h->n_points, moved);
        points = moved;
    }
    for (size_t j = 0; j < h->n_points; j++)
        biases[j] = dot ? 0 : (float)(ctx->kernels->norm2(points + j * p->dim, p->dim) / 2);
    PLM_TRY(plm_groups_create(ctx, points, biases, h->n_points, p->dim, dot, &p->groups, err));
done:
    plm_free(ctx, moved);
    plm_free(ctx, biases);
    return rc;
}

enum plm_code plm_place_near_create(struct plm_shard *shard, const struct plm_step *step,
                                    struct plm_place_near **out, struct plm_err *err)
{
    struct plm_ctx *ctx = shard->ctx;
    struct plm_place_near *p = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &p, 1, sizeof *p, err));
    p->shard = shard;
    p->step = step;
    p->is_projected = step->head.kind == PLM_STEP_MEANS;
    if (p->is_projected)
        PLM_TRY(plm_shard_project(shard, step, err));
    p->dim = p->is_projected ? shard->r : shard->dim;
    if (!p->is_projected)
        PLM_TRY(find_offset(p, err));
    PLM_TRY(plm_alloc(ctx, &p->scratch, ctx->threads * PLM_PASS_ROWS * p->dim, sizeof *p->scratch, err));
    PLM_TRY(make_groups(p, err));
    *out = p;
    p = NULL;
done:
    plm_place_near_destroy(p);
    return rc;
}

void plm_place_near_destroy(struct plm_place_near *near)
{
    if (!near)
        return;
    plm_groups_destroy(near->groups);
    plm_free(near->shard->ctx, near->offset);
    plm_free(near->shard->ctx, near->scratch);
    plm_free(near->shard->ctx, near);
}

enum plm_code plm_place_near(const struct plm_place_near *p, const float *rows, size_t first, size_t n,
                             unsigned worker, uint32_t *ids, float *distances, struct plm_err *err)
{
    const struct plm_shard *s = p->shard;
    const struct plm_kernels *kernels = s->kernels;
    bool dot = p->step->head.metric == PLM_DOT;
    float *room = p->scratch + worker * PLM_PASS_ROWS * p->dim, second[PLM_PASS_ROWS];
    const float *moved = room;
    enum plm_code rc = PLM_OK;

    if (p->is_projected)
        PLM_TRY(plm_shard_projected(s, first, n, room, &moved, err));
    else
        move_rows(p, rows, n, room);
    plm_groups_nearest(p->groups, moved, n, worker, distances, second, ids);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= p->step->head.n_points) /* values that were not finite */
            ids[i] = 0;
        const float *row = rows + i * s->dim, *point = p->step->points + (size_t)ids[i] * p->dim;

        if (p->is_projected)
            distances[i] = dot ? 1 + distances[i] : 2 * (distances[i] + s->half_norms[first + i]);
        else
            distances[i] = (float)(dot ? 1 - kernels->dot_exact(row, point, p->dim)
                                       : kernels->l2_exact(row, point, p->dim));
    }
done:
    return rc;
}
