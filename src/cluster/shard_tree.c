/* shard_tree.c - rows led down the tree, and the k-means rounds of a level. */
#include <math.h>
#include <pthread.h>

#include "cluster/shard_impl.h"

#define UNIT_ROWS PLM_UNIT_ROWS

/* ---- the nearest child of every row ----------------------------------------------------------- */

struct unit { /* rows order[first .. first + n) of one node in the chunk */
    size_t node, first, n;
};

struct walking {
    struct plm_shard *shard;
    const struct plm_step *step;
    struct plm_partial *sums;  /* to add the rows to, or NULL */
    double *own;               /* per worker: sums of one node's children, added to those at the end */
    uint64_t *sizes;           /* per worker: [fan_max] */
    int64_t *losses;           /* likewise */
    size_t fan_max;
    pthread_mutex_t *lock;     /* of the sums of nodes with several units */
    const struct plm_level *level;
    bool dot;
    uint32_t *first_child; /* [n_nodes] */
    struct unit *units;    /* of the chunk */
    size_t n_units;
    struct plm_panels *panels; /* per worker */
    float *scratch;            /* per worker: gathered rows, packed rows */
};

/* Sums, sizes and losses of a node's children, in the partial or aside. */
struct children {
    double *sums;
    uint64_t *sizes;
    int64_t *losses;
};

static void walk_block(const struct walking *w, const struct unit *unit, const uint32_t *rows,
                       size_t n, struct plm_panels *panels, float *gathered,
                       const struct children *to)
{
    struct plm_shard *s = w->shard;
    const float *half_norms = s->half_norms + s->chunk.first;
    uint32_t *child = s->child + s->chunk.first;
    const float *biases = w->level->biases + w->first_child[unit->node];
    size_t r = s->r;
    float *packed = gathered + plm_packed_floats(r);
    float best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    uint32_t ids[PLM_BLOCK_ROWS];

    for (size_t i = 0; i < n; i++)
        memcpy(gathered + i * r, s->chunk.rows + (size_t)rows[i] * r, r * sizeof *gathered);
    s->kernels->pack_rows(gathered, r, n, r, packed);
    s->kernels->nearest(packed, n, panels->values, panels->half_norms, panels->n_panels, r, best,
                        second, ids);
    for (size_t i = 0; i < n; i++) {
        bool is_real = ids[i] < w->level->fan[unit->node]; /* else its values were not finite */
        uint32_t id = is_real ? ids[i] : 0;
        float nearest = best[i] - biases[id];
        float distance = w->dot ? 1 + nearest : 2 * (nearest + half_norms[rows[i]]);

        child[rows[i]] = w->first_child[unit->node] + id;
        if (!w->sums)
            continue;
        s->kernels->grid_add(to->sums + id * r, gathered + i * r, r, w->step->head.magic_sum);
        to->losses[id] += plm_fixed((double)distance, w->step->head.loss_limit, w->step->head.loss_scale);
        to->sizes[id]++;
    }
}

/* Sums that other units of the node add to as well: exact, hence in any order. */
static void add_children(const struct walking *w, const struct children *to, const struct children *from,
                         size_t fan)
{
    pthread_mutex_lock(w->lock);
    for (size_t i = 0; i < fan * w->shard->r; i++)
        to->sums[i] += from->sums[i];
    for (size_t i = 0; i < fan; i++) {
        to->sizes[i] += from->sizes[i];
        to->losses[i] += from->losses[i];
    }
    pthread_mutex_unlock(w->lock);
}

static struct children children_of(const struct walking *w, size_t node)
{
    size_t first = w->first_child[node];

    if (!w->sums)
        return (struct children){0};
    return (struct children){w->sums->sums + first * w->shard->r, w->sums->sizes + first,
                             w->sums->losses + first};
}

/* Zeros of this worker. */
static struct children own_children(const struct walking *w, unsigned worker, size_t fan)
{
    struct children own = {w->own + worker * w->fan_max * w->shard->r,
                           w->sizes + worker * w->fan_max, w->losses + worker * w->fan_max};

    memset(own.sums, 0, fan * w->shard->r * sizeof *own.sums);
    memset(own.sizes, 0, fan * sizeof *own.sizes);
    memset(own.losses, 0, fan * sizeof *own.losses);
    return own;
}

static enum plm_code walk_unit(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct walking *w = arg;
    const struct unit *unit = &w->units[task];
    struct plm_panels *panels = &w->panels[worker];
    size_t fan = w->level->fan[unit->node];
    const struct plm_shard_chunk *c = &w->shard->chunk;
    bool is_whole = unit->n == c->node_starts[unit->node + 1] - c->node_starts[unit->node];
    struct children all = children_of(w, unit->node), to = all;

    if (w->sums && !is_whole)
        to = own_children(w, worker, fan);
    if (fan == 0)
        return plm_fail(err, PLM_CORRUPT, "training step: node %zu has rows but no children", unit->node);
    plm_panels_fill(panels, w->level->points + (size_t)w->first_child[unit->node] * w->shard->r, fan,
                    w->dot);
    for (size_t i = 0; i < fan; i++)
        panels->half_norms[i] += w->level->biases[w->first_child[unit->node] + i];
    for (size_t i = 0; i < unit->n; i += PLM_BLOCK_ROWS)
        walk_block(w, unit, c->order + unit->first + i,
                   plm_min_size(PLM_BLOCK_ROWS, unit->n - i), panels,
                   w->scratch + worker * 2 * plm_packed_floats(w->shard->r), &to);
    if (w->sums && !is_whole)
        add_children(w, &all, &to, fan);
    return PLM_OK;
}

static enum plm_code make_units(struct walking *w, struct plm_err *err)
{
    const struct plm_shard *s = w->shard;
    uint32_t n_children = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &w->first_child, s->n_nodes, sizeof *w->first_child, err));
    PLM_TRY(plm_alloc(s->ctx, &w->units, s->chunk_rows / UNIT_ROWS + s->n_nodes, sizeof *w->units, err));
    for (size_t node = 0; node < s->n_nodes; node++) {
        w->first_child[node] = n_children;
        n_children += w->level->fan[node];
    }
done:
    return rc;
}

static void cut_units(struct walking *w)
{
    const struct plm_shard *s = w->shard;
    const size_t *starts = s->chunk.node_starts;

    w->n_units = 0;
    for (size_t node = 0; node < s->n_nodes; node++)
        for (size_t at = starts[node]; at < starts[node + 1]; at += UNIT_ROWS)
            w->units[w->n_units++] = (struct unit){node, at, plm_min_size(UNIT_ROWS, starts[node + 1] - at)};
}

static enum plm_code make_own(struct walking *w, struct plm_err *err)
{
    struct plm_ctx *ctx = w->shard->ctx;
    size_t n = ctx->threads * w->fan_max;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &w->own, n * w->shard->r, sizeof *w->own, err));
    PLM_TRY(plm_alloc(ctx, &w->sizes, n, sizeof *w->sizes, err));
    PLM_TRY(plm_alloc(ctx, &w->losses, n, sizeof *w->losses, err));
done:
    return rc;
}

/* Fills child, and adds every row to the sums of its child (may be NULL). */
static enum plm_code walk(struct plm_shard *s, const struct plm_step *step, const struct plm_level *level,
                          struct plm_partial *sums, struct plm_err *err)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct walking w = {.shard = s, .step = step, .level = level, .sums = sums, .lock = &lock,
                        .dot = step->head.metric == PLM_DOT, .fan_max = 1};
    enum plm_code rc = PLM_OK;

    PLM_ASSERT(level->n_nodes == s->n_nodes);
    s->child_hash = 0;
    for (size_t node = 0; node < s->n_nodes; node++)
        w.fan_max = plm_max_size(w.fan_max, level->fan[node]);
    if (sums)
        PLM_TRY(make_own(&w, err));
    PLM_TRY(make_units(&w, err));
    PLM_TRY(plm_calloc(s->ctx, &w.panels, s->ctx->threads, sizeof *w.panels, err));
    PLM_TRY(plm_alloc(s->ctx, &w.scratch, s->ctx->threads * 2 * plm_packed_floats(s->r),
                      sizeof *w.scratch, err));
    for (size_t i = 0; i < s->ctx->threads; i++)
        PLM_TRY(plm_panels_alloc(s->ctx, w.fan_max, s->r, &w.panels[i], err));
    for (size_t first = 0; first < s->n; first += s->chunk.n) {
        PLM_TRY(plm_shard_take_chunk(s, first, err));
        cut_units(&w);
        PLM_TRY(plm_parallel(s->ctx, w.n_units, walk_unit, &w, err));
    }
done:
    for (size_t i = 0; w.panels && i < s->ctx->threads; i++)
        plm_panels_reset(&w.panels[i]);
    plm_free(s->ctx, w.panels);
    plm_free(s->ctx, w.own);
    plm_free(s->ctx, w.sizes);
    plm_free(s->ctx, w.losses);
    plm_free(s->ctx, w.scratch);
    plm_free(s->ctx, w.units);
    plm_free(s->ctx, w.first_child);
    return rc;
}

/* ---- the way down --------------------------------------------------------------------------------- */

static void set_nodes(struct plm_shard *s, size_t n_nodes)
{
    s->n_nodes = n_nodes;
    s->chunk.is_grouped = false;
}

/* Back to the root: one node with every row. */
static enum plm_code start_at_root(struct plm_shard *s, size_t k, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_shard_enter_tree(s, k, err));
    memset(s->node, 0, s->n * sizeof *s->node);
    set_nodes(s, 1);
    s->path_hash = s->projection_hash;
done:
    return rc;
}

static uint64_t level_hash(uint64_t above, const struct plm_level *level, size_t r)
{
    uint64_t parts[4] = {above, plm_xxh3(level->fan, level->n_nodes * sizeof *level->fan),
                         plm_xxh3(level->points, level->n_points * r * sizeof *level->points),
                         plm_xxh3(level->biases, level->n_points * sizeof *level->biases)};
    return plm_xxh3(parts, sizeof parts) | 1;
}

enum plm_code plm_shard_route(struct plm_shard *s, const struct plm_step *step, uint32_t n_levels,
                              struct plm_err *err)
{
    uint64_t hashes[PLM_TREE_LEVELS + 1];
    enum plm_code rc = PLM_OK;

    hashes[0] = s->projection_hash;
    for (uint32_t i = 0; i < n_levels; i++)
        hashes[i + 1] = level_hash(hashes[i], &step->levels[i], s->r);
    if (!s->path_hash || s->n_applied > n_levels || s->path_hash != hashes[s->n_applied])
        PLM_TRY(start_at_root(s, step->head.k, err));
    while (s->n_applied < n_levels) {
        const struct plm_level *level = &step->levels[s->n_applied];

        if (s->child_hash != hashes[s->n_applied + 1])
            PLM_TRY(walk(s, step, level, NULL, err));
        s->child_hash = 0;
        memcpy(s->node, s->child, s->n * sizeof *s->node);
        set_nodes(s, level->n_points);
        s->path_hash = hashes[++s->n_applied];
    }
done:
    return rc;
}

enum plm_code plm_shard_split(struct plm_shard *s, const struct plm_step *step,
                              struct plm_buf *partial, struct plm_err *err)
{
    const struct plm_step_head *h = &step->head;
    const struct plm_level *level = &step->levels[h->n_levels - 1];
    struct plm_partial sums = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_shard_project(s, step, err));
    PLM_TRY(plm_shard_route(s, step, h->n_levels - 1, err));
    PLM_TRY(plm_partial_begin(partial, PLM_SUMS, step, level->n_points, h->r, 0, &sums, err));
    sums.head->n_rows = s->n;
    PLM_TRY(walk(s, step, level, &sums, err));
    s->child_hash = level_hash(s->path_hash, level, s->r);
done:
    return rc;
}
