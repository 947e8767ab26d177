/* shard_tree.c - rows led down the tree, and the k-means rounds of a level. */
#include <math.h>

#include "cluster/shard_impl.h"

#define UNIT_ROWS (20 * PLM_BLOCK_ROWS) /* rows of one node given to a thread at a time */

/* ---- grouping ------------------------------------------------------------------------------ */

void plm_group_rows(const uint32_t *ids, size_t n, size_t n_ids, size_t *starts, uint32_t *order)
{
    memset(starts, 0, (n_ids + 1) * sizeof *starts);
    for (size_t i = 0; i < n; i++)
        starts[ids[i] + 1]++;
    for (size_t i = 0; i < n_ids; i++)
        starts[i + 1] += starts[i];
    for (size_t i = 0; i < n; i++)
        order[starts[ids[i]]++] = (uint32_t)i;
    memmove(starts + 1, starts, n_ids * sizeof *starts); /* each had moved to its end */
    starts[0] = 0;
}

/* ---- the nearest child of every row ----------------------------------------------------------- */

struct unit { /* rows order[first .. first + n) of one node */
    size_t node, first, n;
};

struct walking {
    struct plm_shard *shard;
    const struct plm_level *level;
    bool dot;
    uint32_t *first_child; /* [n_nodes] */
    struct unit *units;
    size_t n_units;
    struct plm_panels *panels; /* per worker */
    float *scratch;            /* per worker: gathered rows, packed rows */
};

static void walk_block(const struct walking *w, const struct unit *unit, const uint32_t *rows,
                       size_t n, struct plm_panels *panels, float *gathered)
{
    struct plm_shard *s = w->shard;
    size_t r = s->r;
    float *packed = gathered + plm_packed_floats(r);
    float best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    uint32_t ids[PLM_BLOCK_ROWS];

    for (size_t i = 0; i < n; i++)
        memcpy(gathered + i * r, s->projected + (size_t)rows[i] * r, r * sizeof *gathered);
    s->kernels->pack_rows(gathered, r, n, r, packed);
    s->kernels->nearest(packed, n, panels->values, panels->half_norms, panels->n_panels, r, best,
                        second, ids);
    for (size_t i = 0; i < n; i++) {
        bool is_real = ids[i] < w->level->fan[unit->node]; /* else its values were not finite */

        s->child[rows[i]] = w->first_child[unit->node] + (is_real ? ids[i] : 0);
        s->distance[rows[i]] = w->dot ? 1 + best[i] : 2 * (best[i] + s->half_norms[rows[i]]);
    }
}

static enum plm_code walk_unit(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct walking *w = arg;
    const struct unit *unit = &w->units[task];
    struct plm_panels *panels = &w->panels[worker];
    size_t fan = w->level->fan[unit->node];

    if (fan == 0)
        return plm_fail(err, PLM_CORRUPT, "training step: node %zu has rows but no children", unit->node);
    plm_panels_fill(panels, w->level->points + (size_t)w->first_child[unit->node] * w->shard->r, fan,
                    w->dot);
    for (size_t i = 0; i < unit->n; i += PLM_BLOCK_ROWS)
        walk_block(w, unit, w->shard->order + unit->first + i,
                   plm_min_size(PLM_BLOCK_ROWS, unit->n - i), panels,
                   w->scratch + worker * 2 * plm_packed_floats(w->shard->r));
    return PLM_OK;
}

static enum plm_code cut_units(struct walking *w, struct plm_err *err)
{
    const struct plm_shard *s = w->shard;
    uint32_t n_children = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &w->first_child, s->n_nodes, sizeof *w->first_child, err));
    PLM_TRY(plm_alloc(s->ctx, &w->units, s->n / UNIT_ROWS + s->n_nodes, sizeof *w->units, err));
    for (size_t node = 0; node < s->n_nodes; node++) {
        w->first_child[node] = n_children;
        n_children += w->level->fan[node];
        for (size_t at = s->node_starts[node]; at < s->node_starts[node + 1]; at += UNIT_ROWS)
            w->units[w->n_units++] =
                (struct unit){node, at, plm_min_size(UNIT_ROWS, s->node_starts[node + 1] - at)};
    }
done:
    return rc;
}

/* Fills child and distance. */
static enum plm_code walk(struct plm_shard *s, const struct plm_level *level, bool dot,
                          struct plm_err *err)
{
    struct walking w = {.shard = s, .level = level, .dot = dot};
    size_t fan_max = 1;
    enum plm_code rc = PLM_OK;

    PLM_ASSERT(level->n_nodes == s->n_nodes);
    for (size_t node = 0; node < s->n_nodes; node++)
        fan_max = plm_max_size(fan_max, level->fan[node]);
    PLM_TRY(cut_units(&w, err));
    PLM_TRY(plm_calloc(s->ctx, &w.panels, s->ctx->threads, sizeof *w.panels, err));
    PLM_TRY(plm_alloc(s->ctx, &w.scratch, s->ctx->threads * 2 * plm_packed_floats(s->r),
                      sizeof *w.scratch, err));
    for (size_t i = 0; i < s->ctx->threads; i++)
        PLM_TRY(plm_panels_alloc(s->ctx, fan_max, s->r, &w.panels[i], err));
    PLM_TRY(plm_parallel(s->ctx, w.n_units, walk_unit, &w, err));
done:
    for (size_t i = 0; w.panels && i < s->ctx->threads; i++)
        plm_panels_reset(&w.panels[i]);
    plm_free(s->ctx, w.panels);
    plm_free(s->ctx, w.scratch);
    plm_free(s->ctx, w.units);
    plm_free(s->ctx, w.first_child);
    return rc;
}

/* ---- the way down --------------------------------------------------------------------------------- */

static enum plm_code regroup(struct plm_shard *s, size_t n_nodes, struct plm_err *err)
{
    enum plm_code rc = plm_realloc(s->ctx, &s->node_starts, n_nodes + 1, sizeof *s->node_starts, err);

    if (rc != PLM_OK)
        return rc;
    s->n_nodes = n_nodes;
    plm_group_rows(s->node, s->n, n_nodes, s->node_starts, s->order);
    return PLM_OK;
}

/* Back to the root: one node with every row. */
static enum plm_code start_at_root(struct plm_shard *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    s->path_hash = 0; /* until all is in place */
    if (!s->node) {
        PLM_TRY(plm_alloc(s->ctx, &s->node, s->n, sizeof *s->node, err));
    }
    if (!s->child)
        PLM_TRY(plm_alloc(s->ctx, &s->child, s->n, sizeof *s->child, err));
    if (!s->order)
        PLM_TRY(plm_alloc(s->ctx, &s->order, s->n, sizeof *s->order, err));
    if (!s->distance)
        PLM_TRY(plm_alloc(s->ctx, &s->distance, s->n, sizeof *s->distance, err));
    memset(s->node, 0, s->n * sizeof *s->node);
    PLM_TRY(regroup(s, 1, err));
    s->n_applied = 0;
    s->path_hash = s->projection_hash;
done:
    return rc;
}

static uint64_t level_hash(uint64_t above, const struct plm_level *level, size_t r)
{
    uint64_t parts[3] = {above, plm_xxh3(level->fan, level->n_nodes * sizeof *level->fan),
                         plm_xxh3(level->points, level->n_points * r * sizeof *level->points)};
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
        PLM_TRY(start_at_root(s, err));
    while (s->n_applied < n_levels) {
        const struct plm_level *level = &step->levels[s->n_applied];

        PLM_TRY(walk(s, level, step->head.metric == PLM_DOT, err));
        s->path_hash = 0; /* node and order change together, or not at all */
        memcpy(s->node, s->child, s->n * sizeof *s->node);
        PLM_TRY(regroup(s, level->n_points, err));
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
    size_t *starts = NULL;
    uint32_t *order = NULL;
    struct plm_partial sums = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_shard_project(s, step, err));
    PLM_TRY(plm_shard_route(s, step, h->n_levels - 1, err));
    PLM_TRY(walk(s, level, h->metric == PLM_DOT, err));
    PLM_TRY(plm_alloc(s->ctx, &starts, (size_t)level->n_points + 1, sizeof *starts, err));
    PLM_TRY(plm_alloc(s->ctx, &order, s->n, sizeof *order, err));
    plm_group_rows(s->child, s->n, level->n_points, starts, order);
    PLM_TRY(plm_partial_begin(partial, PLM_SUMS, step, level->n_points, h->r, 0, &sums, err));
    sums.head->n_rows = s->n;
    struct plm_adding adding = {.ctx = s->ctx, .rows = s->projected, .n = s->n, .dim = s->r,
                                .n_ids = level->n_points, .starts = starts, .order = order,
                                .distances = s->distance, .step = step, .sums = &sums};
    PLM_TRY(plm_add_grouped(&adding, err));
done:
    plm_free(s->ctx, starts);
    plm_free(s->ctx, order);
    return rc;
}
