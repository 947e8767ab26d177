/* shard_head.c - Lloyd steps by a few coordinates.
 *
 * The rows' coordinates on the axes of the tree are kept. With a row x = (h, u) and a centroid
 * c = (g, w), both less the mean, u and w what the axes leave out,
 *
 *     |c|^2/2 - x.c  =  |c|^2/2 - h.g - u.w,    |u.w| <= |u||w|,
 *
 * and u.w is seldom near that bound. For rows that belong to c it is |w|^2 on average, since w is
 * the mean of their u, and spreads around by |u||w| over the root of the dimensions in use. So OWN
 * |w|^2 + UNSEEN |u||w| is taken for it. The centroid whose value is least then wins if no other is
 * within twice the spread; else those that are compete in full, and a row with many of them is left
 * open. This is the exact answer for nearly all rows: training has no need of more. The answer
 * depends on nothing but the row and the step.
 *
 * Of very many centroids only groups of near ones are valued (shard_groups.h), and a row with many of
 * them in doubt takes the best of those that have the least values.
 *
 * Measured, loss after training against exact comparisons: 128,116 x 2,048 synthetic, K = 1,000, the
 * same; packages-384, K = 1,000, + 0.1 %; packages-lsa-256, K = 250, - 0.5 %. With nothing for |w|^2
 * the last one would lose 4 %. */
#include <math.h>
#include <stdatomic.h>

#include "cluster/shard_groups.h"
#include "cluster/shard_impl.h"

#define OWN 0.5f
#define UNSEEN 0.25f
#define CANDIDATES 32 /* more than these are compared faster all together */
#define SOME_ROWS 24  /* undecided rows valued together */

struct plm_place_head {
    struct plm_shard *shard;
    const struct plm_step *step;
    struct plm_panels panels; /* [k] of r coordinates and |w|, or in groups */
    struct plm_groups *groups;
    struct plm_found *found;  /* with groups, per worker: [PLM_PASS_ROWS] */
    _Atomic size_t n_doubtful; /* with groups: rows that had more than these */
    float *tails;             /* [k] |w| */
    size_t row_floats, per_worker;
    float *scratch;           /* per worker: rows of a block, packed; values of some rows */
    uint32_t *places;         /* per worker */
};

/* ---- centroids ------------------------------------------------------------------------------ */

static double tail_of(double squares, double head_squares)
{
    return squares > head_squares ? sqrt(squares - head_squares) : 0;
}

static enum plm_code fill_panels(struct plm_place_head *p, struct plm_err *err)
{
    struct plm_shard *s = p->shard;
    const struct plm_kernels *kernels = s->kernels;
    const struct plm_step_head *h = &p->step->head;
    size_t r = h->r, k = h->k;
    float *projected = NULL, *points = NULL, *biases = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &biases, k, sizeof *biases, err));
    PLM_TRY(plm_alloc(s->ctx, &projected, k * r, sizeof *projected, err));
    PLM_TRY(plm_alloc(s->ctx, &points, k * p->row_floats, sizeof *points, err));
    PLM_TRY(plm_shard_project_points(s, p->step, p->step->points, k, projected, err));
    for (size_t j = 0; j < k; j++) {
        const float *centroid = p->step->points + j * h->dim;
        double squares = h->metric == PLM_DOT ? kernels->norm2(centroid, h->dim)
                                              : kernels->l2_exact(centroid, p->step->mean, h->dim);

        memcpy(points + j * p->row_floats, projected + j * r, r * sizeof *points);
        p->tails[j] = (float)tail_of(squares, kernels->norm2(projected + j * r, r));
        points[j * p->row_floats + r] = p->tails[j];
        biases[j] = (h->metric == PLM_DOT ? 0 : (float)(squares / 2)) - OWN * p->tails[j] * p->tails[j];
    }
    plm_free(s->ctx, projected);
    projected = NULL;
    if (plm_groups_pay(k)) {
        PLM_TRY(plm_groups_create(s->ctx, points, biases, k, p->row_floats, h->metric == PLM_DOT, &p->groups, err));
        goto done;
    }
    PLM_TRY(plm_panels_alloc(s->ctx, k, p->row_floats, &p->panels, err));
    plm_panels_fill(&p->panels, points, k, true);
    memcpy(p->panels.half_norms, biases, k * sizeof *biases);
done:
    plm_free(s->ctx, biases);
    plm_free(s->ctx, projected);
    plm_free(s->ctx, points);
    return rc;
}

enum plm_code plm_place_head_create(struct plm_shard *shard, const struct plm_step *step,
                                    struct plm_place_head **out, struct plm_err *err)
{
    struct plm_ctx *ctx = shard->ctx;
    struct plm_place_head *p = NULL;
    size_t k = step->head.k, n_values;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_shard_project(shard, step, err));
    PLM_TRY(plm_calloc(ctx, &p, 1, sizeof *p, err));
    p->shard = shard;
    p->step = step;
    p->row_floats = step->head.r + 1;
    n_values = SOME_ROWS * plm_max_size(plm_panels_of(k) * PLM_PANEL, p->row_floats);
    p->per_worker = plm_groups_pay(k) ? PLM_PASS_ROWS * (2 * step->head.r + 1)
                                      : 2 * plm_packed_floats(p->row_floats) + n_values;
    PLM_TRY(plm_alloc(ctx, &p->tails, k, sizeof *p->tails, err));
    PLM_TRY(plm_alloc(ctx, &p->scratch, ctx->threads * p->per_worker, sizeof *p->scratch, err));
    if (plm_groups_pay(k))
        PLM_TRY(plm_alloc(ctx, &p->found, ctx->threads * (size_t)PLM_PASS_ROWS, sizeof *p->found, err));
    else
        PLM_TRY(plm_alloc(ctx, &p->places, ctx->threads * k, sizeof *p->places, err));
    PLM_TRY(fill_panels(p, err));
    *out = p;
    p = NULL;
done:
    plm_place_head_destroy(p);
    return rc;
}

void plm_place_head_destroy(struct plm_place_head *head)
{
    if (!head)
        return;
    struct plm_ctx *ctx = head->shard->ctx;
    plm_panels_reset(&head->panels);
    plm_groups_destroy(head->groups);
    plm_free(ctx, head->found);
    plm_free(ctx, head->tails);
    plm_free(ctx, head->scratch);
    plm_free(ctx, head->places);
    plm_free(ctx, head);
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* Row i of the shard, projected, as r coordinates and UNSEEN |u|; returns the latter. */
static float put_row(const struct plm_place_head *p, size_t i, const float *projected, float *to)
{
    const struct plm_shard *s = p->shard;

    memcpy(to, projected, s->r * sizeof *to);
    return to[s->r] = UNSEEN * (float)tail_of((double)s->squares[i], 2 * (double)s->half_norms[i]);
}

/* The place of the least value moves to the end of the list. */
static uint32_t take_least(uint32_t *places, size_t n, const float *values)
{
    size_t least = 0;

    for (size_t i = 1; i < n; i++)
        if (values[places[i]] < values[places[least]])
            least = i;
    uint32_t place = places[least];
    places[least] = places[n - 1];
    return place;
}

/* The nearest of n centroids: places[i] has values[places[i]] and is centroid ids[places[i]], or, with
 * ids NULL, places[i] itself. Once one is nearer than the values of the others allow, these are out. */
static uint32_t compare_in_full(const struct plm_place_head *p, const float *row, float squares,
                                const float *values, const uint32_t *ids, uint32_t *places, size_t n)
{
    const struct plm_step_head *h = &p->step->head;
    const struct plm_kernels *kernels = p->shard->kernels;
    uint32_t nearest = PLM_ROW_OPEN;
    double least = INFINITY;

    for (; n > 0; n--) {
        uint32_t at = take_least(places, n, values), place = ids ? ids[at] : at;
        const float *centroid = p->step->points + (size_t)place * h->dim;
        double value;

        if ((double)values[at] > least)
            break;
        value = h->metric == PLM_DOT ? -kernels->dot_exact(row, centroid, h->dim)
                                     : (kernels->l2_exact(row, centroid, h->dim) - (double)squares) / 2;
        if (value < least || (value == least && place < nearest)) {
            least = value;
            nearest = place;
        }
    }
    return nearest;
}

/* Rows list[0..n) of a block, n <= SOME_ROWS: all values, then a comparison in full. */
static void settle_some(const struct plm_place_head *p, const float *rows, size_t first,
                        const float *block, const size_t *list, size_t n, const float *limits, float *scratch,
                        uint32_t *places, uint32_t *ids)
{
    size_t each = p->row_floats, stride = p->panels.n_panels * PLM_PANEL, dim = p->shard->dim;
    float *packed = scratch, *values = scratch + plm_packed_floats(each);

    for (size_t i = 0; i < n; i++)
        memcpy(values + i * each, block + list[i] * each, each * sizeof *values);
    p->shard->kernels->pack_rows(values, each, n, each, packed);
    p->shard->kernels->values(packed, n, p->panels.values, p->panels.half_norms, p->panels.n_panels,
                              each, values, stride);
    for (size_t i = 0; i < n; i++) {
        size_t n_places = p->shard->kernels->at_most(values + i * stride, p->step->head.k, limits[list[i]], places);

        ids[list[i]] = n_places > CANDIDATES
                           ? PLM_ROW_OPEN
                           : compare_in_full(p, rows + list[i] * dim, p->shard->squares[first + list[i]],
                                             values + i * stride, NULL, places, n_places);
    }
}

static enum plm_code place_block(const struct plm_place_head *p, const float *rows, size_t first, size_t n,
                                 unsigned worker, uint32_t *ids, struct plm_err *err)
{
    float *block = p->scratch + worker * p->per_worker;
    float *packed = block + plm_packed_floats(p->row_floats);
    float unseen[PLM_BLOCK_ROWS], best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    size_t open[PLM_BLOCK_ROWS], n_open = 0;
    const float *projected;
    enum plm_code rc = plm_shard_projected(p->shard, first, n, packed, &projected, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        unseen[i] = put_row(p, first + i, projected + i * p->shard->r, block + i * p->row_floats);
    p->shard->kernels->pack_rows(block, p->row_floats, n, p->row_floats, packed);
    p->shard->kernels->nearest(packed, n, p->panels.values, p->panels.half_norms, p->panels.n_panels,
                               p->row_floats, best, second, ids);
    for (size_t i = 0; i < n; i++) {
        bool is_real = ids[i] < p->step->head.k; /* else its values were not finite */
        float limit = is_real ? best[i] + 2 * p->tails[ids[i]] * unseen[i] : NAN;

        if (second[i] > limit)
            continue;
        best[i] = limit;
        open[n_open++] = i;
    }
    for (size_t i = 0; i < n_open; i += SOME_ROWS)
        settle_some(p, rows, first, block, open + i, plm_min_size(SOME_ROWS, n_open - i), best, packed,
                    p->places + worker * p->step->head.k, ids);
    return PLM_OK;
}

/* The same by groups: nothing stays open. */
static enum plm_code place_in_groups(struct plm_place_head *p, const float *rows, size_t first, size_t n,
                                     unsigned worker, uint32_t *ids, struct plm_err *err)
{
    float *block = p->scratch + worker * p->per_worker, *room = block + PLM_PASS_ROWS * p->row_floats;
    float best[PLM_PASS_ROWS], second[PLM_PASS_ROWS], unseen[PLM_PASS_ROWS];
    struct plm_found *found = p->found + worker * (size_t)PLM_PASS_ROWS;
    bool open[PLM_PASS_ROWS];
    size_t n_doubtful = 0;
    const float *projected;
    enum plm_code rc = plm_shard_projected(p->shard, first, n, room, &projected, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        unseen[i] = put_row(p, first + i, projected + i * p->shard->r, block + i * p->row_floats);
    plm_groups_nearest(p->groups, block, n, worker, best, second, ids);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= p->step->head.k) /* values that were not finite */
            ids[i] = 0;
        best[i] += 2 * p->tails[ids[i]] * unseen[i];
        open[i] = !(second[i] > best[i]);
    }
    plm_groups_at_most(p->groups, block, n, worker, open, best, found);
    for (size_t i = 0; i < n; i++) {
        uint32_t places[PLM_GROUPS_FOUND];

        n_doubtful += found[i].n_all > PLM_GROUPS_FOUND;
        for (uint32_t j = 0; j < found[i].n; j++)
            places[j] = j;
        if (found[i].n > 1)
            ids[i] = compare_in_full(p, rows + i * p->shard->dim, p->shard->squares[first + i], found[i].values,
                                     found[i].ids, places, found[i].n);
        if (ids[i] >= p->step->head.k)
            ids[i] = 0;
    }
    atomic_fetch_add(&p->n_doubtful, n_doubtful);
    return PLM_OK;
}

size_t plm_place_head_doubtful(const struct plm_place_head *head)
{
    return atomic_load(&((struct plm_place_head *)(uintptr_t)head)->n_doubtful);
}

enum plm_code plm_place_by_head(struct plm_place_head *head, const float *rows, size_t first, size_t n,
                                unsigned worker, uint32_t *ids, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (head->groups)
        return place_in_groups(head, rows, first, n, worker, ids, err);
    for (size_t i = 0; i < n; i += PLM_BLOCK_ROWS)
        PLM_TRY(place_block(head, rows + i * head->shard->dim, first + i, plm_min_size(PLM_BLOCK_ROWS, n - i),
                            worker, ids + i, err));
done:
    return rc;
}
