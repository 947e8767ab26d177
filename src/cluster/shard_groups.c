/* shard_groups.c - points in about sqrt(k) groups, and rows that look into some of them. */
#include "cluster/shard_groups.h"

#include <math.h>

#include "cluster/shard_impl.h"

#define ROUNDS 2    /* of k-means, from runs of neighbouring points: the tree numbers them so */
#define LOOKS 16 /* 1 / this of the groups is looked into, and at least so many */

struct plm_groups {
    struct plm_ctx *ctx;
    size_t k, dim, n, n_looks; /* n groups */
    struct plm_panels centres;
    size_t *starts;            /* [n + 1] of each group in `order` */
    size_t *panel_starts;      /* [n + 1] in panels */
    uint32_t *order;           /* [k] points by group, ascending in each */
    float *panels, *biases;    /* of the points, each group from a panel of its own */
    size_t size_max;           /* points of the largest group, in whole panels */
    struct worker {
        float *gathered, *packed; /* [PLM_BLOCK_ROWS][dim] */
        float *values;            /* [PLM_BLOCK_ROWS][centres], or [PLM_GROUP][points of a group] */
        float *sorted;            /* [n] */
        uint16_t *looks;          /* [PLM_GROUPS_ROWS][n_looks] groups each row looks into */
        uint16_t *rows;           /* [PLM_GROUPS_ROWS * n_looks] rows that look into each group */
        uint32_t *row_starts;     /* [n + 1] in it */
        uint32_t *places;         /* [size_max] */
    } *workers;
};

static size_t count_of(size_t k) { return (size_t)ceil(sqrt((double)k)); }

static size_t looks_of(size_t n) { return plm_min_size(n, plm_max_size(LOOKS, n / LOOKS)); }

size_t plm_groups_bytes(size_t k, size_t dim, unsigned threads)
{
    size_t n = count_of(k), places = k + n * PLM_PANEL, packed = 2 * plm_packed_floats(dim) * sizeof(float);
    size_t most = plm_panels_of(k) * PLM_PANEL; /* points of a group, and no more */
    size_t each = packed + (plm_max_size(PLM_BLOCK_ROWS * (n + PLM_PANEL), PLM_GROUP * most) + n + most) * 4 +
                  PLM_GROUPS_ROWS * looks_of(n) * 4 + n * 8 + 4096;

    return places * (dim * sizeof(float) + 16) + n * dim * 16 + threads * each + 8192;
}

/* ---- groups ---------------------------------------------------------------------------------- */

struct grouping {
    struct plm_groups *groups;
    const float *points;
    uint32_t *ids; /* [k] group of each point */
    float *packed; /* per worker */
};

static enum plm_code assign_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct grouping *g = arg;
    const struct plm_groups *s = g->groups;
    const struct plm_kernels *kernels = s->ctx->kernels;
    size_t first = task * PLM_BLOCK_ROWS, n = plm_min_size(PLM_BLOCK_ROWS, s->k - first);
    float *packed = g->packed + worker * plm_packed_floats(s->dim), best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    (void)err;

    kernels->pack_rows(g->points + first * s->dim, s->dim, n, s->dim, packed);
    kernels->nearest(packed, n, s->centres.values, s->centres.half_norms, s->centres.n_panels, s->dim, best, second,
                     g->ids + first);
    for (size_t i = 0; i < n; i++)
        if (g->ids[first + i] >= s->n) /* values that were not finite */
            g->ids[first + i] = 0;
    return PLM_OK;
}

/* Centres are the means of their points, those without any stay; biases likewise. */
static void move_centres(const struct grouping *g, const float *biases, bool dot, double *sums, float *centres)
{
    struct plm_groups *s = g->groups;
    const struct plm_kernels *kernels = s->ctx->kernels;
    size_t dim = s->dim, each = dim + 2; /* the last two: excess of biases over half norms, points */

    memset(sums, 0, s->n * each * sizeof *sums);
    for (size_t j = 0; j < s->k; j++) {
        const float *point = g->points + j * dim;
        double *sum = sums + g->ids[j] * each;

        for (size_t d = 0; d < dim; d++)
            sum[d] += (double)point[d];
        sum[dim] += (double)biases[j] - kernels->norm2(point, dim) / 2;
        sum[dim + 1]++;
    }
    for (size_t i = 0; i < s->n; i++)
        for (size_t d = 0; d < dim && sums[i * each + dim + 1] > 0; d++)
            centres[i * dim + d] = (float)(sums[i * each + d] / sums[i * each + dim + 1]);
    plm_panels_fill(&s->centres, centres, s->n, dot);
    for (size_t i = 0; i < s->n && !dot; i++)
        if (sums[i * each + dim + 1] > 0)
            s->centres.half_norms[i] += (float)(sums[i * each + dim] / sums[i * each + dim + 1]);
}

static enum plm_code find_groups(struct grouping *g, const float *biases, bool dot, struct plm_err *err)
{
    struct plm_groups *s = g->groups;
    double *sums = NULL;
    float *centres = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &sums, s->n * (s->dim + 2), sizeof *sums, err));
    PLM_TRY(plm_calloc(s->ctx, &centres, s->n * s->dim, sizeof *centres, err));
    for (size_t j = 0; j < s->k; j++)
        g->ids[j] = (uint32_t)(j * s->n / s->k);
    for (int round = 0; round < ROUNDS; round++) {
        move_centres(g, biases, dot, sums, centres);
        PLM_TRY(plm_parallel(s->ctx, (s->k + PLM_BLOCK_ROWS - 1) / PLM_BLOCK_ROWS, assign_task, g, err));
    }
    move_centres(g, biases, dot, sums, centres);
done:
    plm_free(s->ctx, sums);
    plm_free(s->ctx, centres);
    return rc;
}

static enum plm_code order_points(const struct grouping *g, struct plm_err *err)
{
    struct plm_groups *s = g->groups;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(s->ctx, &s->starts, s->n + 1, sizeof *s->starts, err));
    PLM_TRY(plm_calloc(s->ctx, &s->panel_starts, s->n + 1, sizeof *s->panel_starts, err));
    PLM_TRY(plm_alloc(s->ctx, &s->order, s->k, sizeof *s->order, err));
    plm_group_rows(g->ids, s->k, s->n, s->starts, s->order);
    for (size_t i = 0; i < s->n; i++) {
        size_t n_panels = plm_panels_of(s->starts[i + 1] - s->starts[i]);

        s->panel_starts[i + 1] = s->panel_starts[i] + n_panels;
        s->size_max = plm_max_size(s->size_max, n_panels * PLM_PANEL);
    }
done:
    return rc;
}

static enum plm_code fill_points(const struct grouping *g, const float *biases, struct plm_err *err)
{
    struct plm_groups *s = g->groups;
    size_t n_places = s->panel_starts[s->n] * PLM_PANEL, dim = s->dim;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(s->ctx, &s->panels, n_places * dim, sizeof *s->panels, err));
    PLM_TRY(plm_alloc(s->ctx, &s->biases, n_places, sizeof *s->biases, err));
    for (size_t i = 0; i < n_places; i++)
        s->biases[i] = INFINITY;
    for (size_t i = 0; i < s->n; i++)
        for (size_t j = s->starts[i]; j < s->starts[i + 1]; j++) {
            size_t place = s->panel_starts[i] * PLM_PANEL + j - s->starts[i];
            float *lane = s->panels + place / PLM_PANEL * PLM_PANEL * dim + place % PLM_PANEL;

            for (size_t d = 0; d < dim; d++)
                lane[d * PLM_PANEL] = g->points[s->order[j] * dim + d];
            s->biases[place] = biases[s->order[j]];
        }
done:
    return rc;
}

static enum plm_code make_workers(struct plm_groups *s, struct plm_err *err)
{
    struct plm_ctx *ctx = s->ctx;
    size_t values = plm_max_size(PLM_BLOCK_ROWS * s->centres.n_panels * PLM_PANEL, PLM_GROUP * s->size_max);
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &s->workers, ctx->threads, sizeof *s->workers, err));
    for (size_t i = 0; i < ctx->threads; i++) {
        struct worker *w = &s->workers[i];

        PLM_TRY(plm_alloc(ctx, &w->gathered, plm_packed_floats(s->dim), sizeof *w->gathered, err));
        PLM_TRY(plm_alloc(ctx, &w->packed, plm_packed_floats(s->dim), sizeof *w->packed, err));
        PLM_TRY(plm_alloc(ctx, &w->values, values, sizeof *w->values, err));
        PLM_TRY(plm_alloc(ctx, &w->sorted, s->n, sizeof *w->sorted, err));
        PLM_TRY(plm_alloc(ctx, &w->looks, PLM_GROUPS_ROWS * s->n_looks, sizeof *w->looks, err));
        PLM_TRY(plm_alloc(ctx, &w->rows, PLM_GROUPS_ROWS * s->n_looks, sizeof *w->rows, err));
        PLM_TRY(plm_alloc(ctx, &w->row_starts, s->n + 2, sizeof *w->row_starts, err));
        PLM_TRY(plm_alloc(ctx, &w->places, s->size_max, sizeof *w->places, err));
    }
done:
    return rc;
}

enum plm_code plm_groups_create(struct plm_ctx *ctx, const float *points, const float *biases, size_t k, size_t dim,
                                bool dot, struct plm_groups **out, struct plm_err *err)
{
    struct plm_groups *s = NULL;
    struct grouping g = {.points = points};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &s, 1, sizeof *s, err));
    s->ctx = ctx;
    s->k = k;
    s->dim = dim;
    s->n = count_of(k);
    s->n_looks = looks_of(s->n);
    g.groups = s;
    PLM_ASSERT(s->n <= UINT16_MAX);
    PLM_TRY(plm_alloc(ctx, &g.ids, k, sizeof *g.ids, err));
    PLM_TRY(plm_alloc(ctx, &g.packed, ctx->threads * plm_packed_floats(dim), sizeof *g.packed, err));
    PLM_TRY(plm_panels_alloc(ctx, s->n, dim, &s->centres, err));
    PLM_TRY(find_groups(&g, biases, dot, err));
    PLM_TRY(order_points(&g, err));
    PLM_TRY(fill_points(&g, biases, err));
    PLM_TRY(make_workers(s, err));
    *out = s;
    s = NULL;
done:
    plm_free(ctx, g.ids);
    plm_free(ctx, g.packed);
    plm_groups_destroy(s);
    return rc;
}

void plm_groups_destroy(struct plm_groups *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->workers && i < s->ctx->threads; i++) {
        struct worker *w = &s->workers[i];
        void *const owned[] = {w->gathered, w->packed, w->values,     w->sorted,
                               w->looks,    w->rows,   w->row_starts, w->places};

        for (size_t j = 0; j < sizeof owned / sizeof *owned; j++)
            plm_free(s->ctx, owned[j]);
    }
    plm_free(s->ctx, s->workers);
    plm_panels_reset(&s->centres);
    plm_free(s->ctx, s->starts);
    plm_free(s->ctx, s->panel_starts);
    plm_free(s->ctx, s->order);
    plm_free(s->ctx, s->panels);
    plm_free(s->ctx, s->biases);
    plm_free(s->ctx, s);
}

/* ---- where to look ------------------------------------------------------------------------------ */

/* The nth least of n_all values, which change their places. */
static float nth_least(float *values, size_t n_all, size_t nth)
{
    size_t low = 0, high = n_all - 1;

    while (low < high) {
        float pivot = values[low + (high - low) / 2];
        size_t i = low, j = high;

        for (;;) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i >= j)
                break;
            float value = values[i];
            values[i++] = values[j];
            values[j--] = value;
        }
        if (nth <= j)
            high = j;
        else
            low = j + 1;
    }
    return values[nth];
}

/* The groups of least value, the first on ties. A NaN is never among them. */
static void choose_looks(const struct plm_groups *s, struct worker *w, const float *values, uint16_t *looks)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++)
        w->sorted[i] = values[i] == values[i] ? values[i] : INFINITY;
    float limit = nth_least(w->sorted, s->n, s->n_looks - 1);
    for (size_t i = 0; i < s->n && n < s->n_looks; i++)
        if (values[i] < limit)
            looks[n++] = (uint16_t)i;
    for (size_t i = 0; i < s->n && n < s->n_looks; i++)
        if (!(values[i] < limit) && (values[i] == limit || !isfinite(limit)))
            looks[n++] = (uint16_t)i;
}

/* Rows that look into each group. */
static void cast_rows(const struct plm_groups *s, struct worker *w, size_t n)
{
    memset(w->row_starts, 0, (s->n + 2) * sizeof *w->row_starts);
    for (size_t i = 0; i < n * s->n_looks; i++)
        w->row_starts[w->looks[i] + 2]++;
    for (size_t i = 2; i < s->n + 2; i++)
        w->row_starts[i] += w->row_starts[i - 1];
    for (size_t i = 0; i < n * s->n_looks; i++)
        w->rows[w->row_starts[w->looks[i] + 1]++] = (uint16_t)(i / s->n_looks);
}

static void look_for_groups(const struct plm_groups *s, struct worker *w, const float *rows, size_t n)
{
    const struct plm_kernels *kernels = s->ctx->kernels;
    size_t stride = s->centres.n_panels * PLM_PANEL;

    for (size_t first = 0; first < n; first += PLM_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_BLOCK_ROWS, n - first);

        kernels->pack_rows(rows + first * s->dim, s->dim, n_block, s->dim, w->packed);
        kernels->values(w->packed, n_block, s->centres.values, s->centres.half_norms, s->centres.n_panels, s->dim,
                        w->values, stride);
        for (size_t i = 0; i < n_block; i++)
            choose_looks(s, w, w->values + i * stride, w->looks + (first + i) * s->n_looks);
    }
    cast_rows(s, w, n);
}

/* ---- looking -------------------------------------------------------------------------------------- */

static void gather(const struct plm_groups *s, struct worker *w, const float *rows, const uint16_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memcpy(w->gathered + i * s->dim, rows + list[i] * s->dim, s->dim * sizeof *rows);
    s->ctx->kernels->pack_rows(w->gathered, s->dim, n, s->dim, w->packed);
}

/* What one more group gave for a row. */
static void take_better(float *best, float *second, uint32_t *id, float value, float next, uint32_t point)
{
    if (value < *best || (value == *best && point < *id)) {
        *second = fminf(*best, next);
        *best = value;
        *id = point;
    } else {
        *second = fminf(*second, value);
    }
}

void plm_groups_nearest(const struct plm_groups *s, const float *rows, size_t n, unsigned worker, float *best,
                        float *second, uint32_t *ids)
{
    struct worker *w = &s->workers[worker];
    float values[PLM_BLOCK_ROWS], next[PLM_BLOCK_ROWS];
    uint32_t places[PLM_BLOCK_ROWS];

    for (size_t i = 0; i < n; i++) {
        best[i] = second[i] = INFINITY;
        ids[i] = (uint32_t)s->k;
    }
    look_for_groups(s, w, rows, n);
    for (size_t g = 0; g < s->n; g++) {
        const size_t size = s->starts[g + 1] - s->starts[g], panel = s->panel_starts[g];

        for (size_t at = w->row_starts[g]; size > 0 && at < w->row_starts[g + 1]; at += PLM_BLOCK_ROWS) {
            size_t n_block = plm_min_size(PLM_BLOCK_ROWS, w->row_starts[g + 1] - at);

            gather(s, w, rows, w->rows + at, n_block);
            s->ctx->kernels->nearest(w->packed, n_block, s->panels + panel * PLM_PANEL * s->dim,
                                     s->biases + panel * PLM_PANEL, s->panel_starts[g + 1] - panel, s->dim, values,
                                     next, places);
            for (size_t i = 0; i < n_block; i++) {
                size_t row = w->rows[at + i];

                if (places[i] < size && isfinite(values[i]))
                    take_better(&best[row], &second[row], &ids[row], values[i], next[i],
                                s->order[s->starts[g] + places[i]]);
            }
        }
    }
}

/* Kept if there is room, or in place of the greatest. */
static void keep(struct plm_found *f, uint32_t id, float value)
{
    size_t at = f->n;

    f->n_all++;
    if (f->n < PLM_GROUPS_FOUND) {
        f->n++;
    } else {
        at = 0;
        for (size_t i = 1; i < f->n; i++)
            if (f->values[i] > f->values[at])
                at = i;
        if (value >= f->values[at])
            return;
    }
    f->ids[at] = id;
    f->values[at] = value;
}

void plm_groups_at_most(const struct plm_groups *s, const float *rows, size_t n, unsigned worker, const bool *which,
                        const float *limits, struct plm_found *found)
{
    struct worker *w = &s->workers[worker];
    const struct plm_kernels *kernels = s->ctx->kernels;
    uint16_t list[PLM_GROUP];

    for (size_t i = 0; i < n; i++)
        found[i].n = found[i].n_all = 0;
    for (size_t g = 0; g < s->n; g++) {
        size_t size = s->starts[g + 1] - s->starts[g], panel = s->panel_starts[g], at = w->row_starts[g];
        size_t n_panels = s->panel_starts[g + 1] - panel;

        while (size > 0 && at < w->row_starts[g + 1]) {
            size_t n_list = 0;

            for (; n_list < PLM_GROUP && at < w->row_starts[g + 1]; at++)
                if (which[w->rows[at]])
                    list[n_list++] = w->rows[at];
            if (n_list == 0)
                continue;
            gather(s, w, rows, list, n_list);
            kernels->values(w->packed, n_list, s->panels + panel * PLM_PANEL * s->dim, s->biases + panel * PLM_PANEL,
                            n_panels, s->dim, w->values, n_panels * PLM_PANEL);
            for (size_t i = 0; i < n_list; i++) {
                const float *values = w->values + i * n_panels * PLM_PANEL;
                size_t n_places = kernels->at_most(values, size, limits[list[i]], w->places);

                for (size_t j = 0; j < n_places; j++)
                    keep(&found[list[i]], s->order[s->starts[g] + w->places[j]], values[w->places[j]]);
            }
        }
    }
}
