/* shard_picks.c - rows of least priority: those the projection is made from, and seeds.
 *
 * A row's priority is plm_mix64 of a seed and its number in the whole sample, so the choice does
 * not depend on how the sample is cut. */
#include <stdlib.h>

#include "cluster/shard_impl.h"

#define FETCH_SALT 0x5eed0001u
#define SEEDS_SALT 0x5eed0100u /* + level */

/* The `want` least picks so far, the greatest on top. */
struct least {
    struct plm_pick *picks;
    uint32_t n, want;
};

static bool is_before(struct plm_pick a, struct plm_pick b)
{
    return a.priority != b.priority ? a.priority < b.priority : a.row < b.row;
}

static int by_priority(const void *a, const void *b)
{
    const struct plm_pick *x = a, *y = b;

    return is_before(*x, *y) ? -1 : is_before(*y, *x);
}

static void sift_down(struct least *l)
{
    size_t at = 0;

    for (;;) {
        size_t top = at;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < l->n; child++)
            if (is_before(l->picks[top], l->picks[child]))
                top = child;
        if (top == at)
            return;
        struct plm_pick pick = l->picks[at];
        l->picks[at] = l->picks[top];
        l->picks[top] = pick;
        at = top;
    }
}

static void offer(struct least *l, struct plm_pick pick)
{
    size_t at = l->n;

    if (l->want == 0)
        return;
    if (l->n == l->want) {
        if (is_before(pick, l->picks[0])) {
            l->picks[0] = pick;
            sift_down(l);
        }
        return;
    }
    l->picks[l->n++] = pick;
    while (at > 0 && is_before(l->picks[(at - 1) / 2], l->picks[at])) {
        struct plm_pick parent = l->picks[(at - 1) / 2];
        l->picks[(at - 1) / 2] = l->picks[at];
        l->picks[at] = parent;
        at = (at - 1) / 2;
    }
}

static void put_pick(struct plm_partial *p, size_t at, struct plm_pick pick, const float *vector)
{
    uint8_t *to = p->picks + at * plm_pick_bytes(p->head->dim);

    memcpy(to, &pick, sizeof pick);
    memcpy(to + sizeof pick, vector, p->head->dim * sizeof *vector);
}

/* ---- FETCH ------------------------------------------------------------------------------- */

static enum plm_code copy_rows(struct plm_shard *s, const struct least *l, struct plm_partial *p,
                               struct plm_err *err)
{
    float *room = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &room, s->dim, sizeof *room, err));
    for (size_t i = 0; i < l->n; i++) {
        PLM_TRY(plm_sample_rows(s->sample, (size_t)(l->picks[i].row - s->first), 1, room, &row, err));
        put_pick(p, i, l->picks[i], row);
    }
done:
    plm_free(s->ctx, room);
    return rc;
}

enum plm_code plm_shard_fetch(struct plm_shard *s, const struct plm_step *step,
                              struct plm_buf *partial, struct plm_err *err)
{
    struct least least = {.want = (uint32_t)plm_min_size(step->head.n_points, s->n)};
    uint64_t seed = plm_mix64(step->head.seed, FETCH_SALT);
    struct plm_partial p = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &least.picks, least.want, sizeof *least.picks, err));
    PLM_TRY(plm_partial_begin(partial, PLM_PICKS, step, 1, (uint32_t)s->dim, least.want, &p, err));
    for (size_t i = 0; i < s->n; i++)
        offer(&least, (struct plm_pick){plm_mix64(seed, s->first + i), s->first + i});
    qsort(least.picks, least.n, sizeof *least.picks, by_priority);
    p.head->n_rows = p.sizes[0] = s->n;
    p.head->max_abs = s->sample->max_abs;
    p.want[0] = step->head.n_points;
    p.have[0] = least.n;
    PLM_TRY(copy_rows(s, &least, &p, err));
done:
    plm_free(s->ctx, least.picks);
    return rc;
}

/* ---- SEEDS -------------------------------------------------------------------------------- */

struct seeding {
    struct plm_shard *shard;
    uint64_t seed;
    struct plm_partial *partial;
    size_t *starts;         /* [n_nodes + 1] first pick of each node */
    struct plm_pick *picks; /* of all nodes */
    uint32_t *n_picks;      /* of each node, so far */
    float *room;            /* a row, per worker */
};

/* Rows of the chunk. */
static enum plm_code seed_node(void *arg, size_t node, unsigned worker, struct plm_err *err)
{
    const struct seeding *s = arg;
    const struct plm_shard *shard = s->shard;
    const struct plm_shard_chunk *c = &shard->chunk;
    struct least least = {s->picks + s->starts[node], s->n_picks[node], s->partial->have[node]};
    (void)worker, (void)err;

    for (size_t i = c->node_starts[node]; i < c->node_starts[node + 1] && least.want; i++) {
        uint64_t row = shard->first + c->first + c->order[i];

        offer(&least, (struct plm_pick){plm_mix64(s->seed, row), row});
    }
    s->n_picks[node] = least.n;
    return PLM_OK;
}

static enum plm_code put_node(void *arg, size_t node, unsigned worker, struct plm_err *err)
{
    const struct seeding *s = arg;
    const struct plm_shard *shard = s->shard;
    struct plm_pick *picks = s->picks + s->starts[node];
    const float *row;
    enum plm_code rc = PLM_OK;

    qsort(picks, s->n_picks[node], sizeof *picks, by_priority);
    for (size_t i = 0; i < s->n_picks[node]; i++) {
        PLM_TRY(plm_shard_projected(shard, (size_t)(picks[i].row - shard->first), 1, s->room + worker * shard->r,
                                    &row, err));
        put_pick(s->partial, s->starts[node] + i, picks[i], row);
    }
done:
    return rc;
}

static enum plm_code find_seeds(struct seeding *s, size_t n_nodes, struct plm_err *err)
{
    struct plm_shard *shard = s->shard;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(shard->ctx, &s->n_picks, n_nodes, sizeof *s->n_picks, err));
    PLM_TRY(plm_alloc(shard->ctx, &s->room, shard->ctx->threads * shard->r, sizeof *s->room, err));
    for (size_t first = 0; first < shard->n; first += shard->chunk.n) {
        PLM_TRY(plm_shard_take_chunk(shard, first, err));
        PLM_TRY(plm_parallel(shard->ctx, n_nodes, seed_node, s, err));
    }
    PLM_TRY(plm_parallel(shard->ctx, n_nodes, put_node, s, err));
done:
    return rc;
}

enum plm_code plm_shard_seeds(struct plm_shard *shard, const struct plm_step *step,
                              struct plm_buf *partial, struct plm_err *err)
{
    const struct plm_step_head *h = &step->head;
    struct plm_partial p = {0};
    struct seeding s = {.shard = shard, .partial = &p,
                        .seed = plm_mix64(h->seed, SEEDS_SALT + h->n_levels)};
    size_t *sizes = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_shard_project(shard, step, err));
    PLM_TRY(plm_shard_route(shard, step, h->n_levels, err));
    PLM_TRY(plm_calloc(shard->ctx, &sizes, h->n_nodes, sizeof *sizes, err));
    PLM_TRY(plm_alloc(shard->ctx, &s.starts, (size_t)h->n_nodes + 1, sizeof *s.starts, err));
    for (size_t i = 0; i < shard->n; i++)
        sizes[shard->node[i]]++;
    s.starts[0] = 0;
    for (size_t i = 0; i < h->n_nodes; i++)
        s.starts[i + 1] = s.starts[i] + plm_min_size(step->want[i], sizes[i]);
    PLM_TRY(plm_alloc(shard->ctx, &s.picks, s.starts[h->n_nodes], sizeof *s.picks, err));
    PLM_TRY(plm_partial_begin(partial, PLM_PICKS, step, h->n_nodes, h->r, s.starts[h->n_nodes], &p,
                              err));
    p.head->n_rows = shard->n;
    p.head->max_abs = shard->max_projected;
    for (size_t i = 0; i < h->n_nodes; i++) {
        p.sizes[i] = sizes[i];
        p.want[i] = step->want[i];
        p.have[i] = (uint32_t)(s.starts[i + 1] - s.starts[i]);
    }
    PLM_TRY(find_seeds(&s, h->n_nodes, err));
done:
    plm_free(shard->ctx, sizes);
    plm_free(shard->ctx, s.starts);
    plm_free(shard->ctx, s.picks);
    plm_free(shard->ctx, s.n_picks);
    plm_free(shard->ctx, s.room);
    return rc;
}
