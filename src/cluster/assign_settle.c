/* assign_settle.c - the answer for one row whose centroids all have a lower bound.
 *
 * The centroid of the least bound is looked at first: what it really is excludes most others.
 * Those left are taken four at a time, least bounds first, and estimated in fp32 with a margin
 * (plm_assign_near); each estimate may exclude more. What the estimates cannot tell apart, seldom
 * more than one, is compared in float64: least value, then lowest id.
 */
#include <math.h>

#include "cluster/assign_impl.h"

#define AT_ONCE 4

/* Survivors stand in places[0 .. n_left - 1]; behind them, up to n_all, those already estimated, each
 * with the least it can be. */
struct settling {
    const struct plm_assigner *assigner;
    const float *row, *bounds;
    double norm;
    uint32_t *places;
    double *least;
    size_t n_left, n_all;
    double ceiling; /* one of the estimated is at most this */
};

/* Moves the survivor with the least bound to the end of the survivors, and off their list. */
static void take_least(struct settling *s)
{
    size_t least = 0, last = --s->n_left;
    uint32_t place;

    for (size_t i = 1; i <= last; i++)
        if (s->bounds[s->places[i]] < s->bounds[s->places[least]])
            least = i;
    place = s->places[least];
    s->places[least] = s->places[last];
    s->places[last] = place;
}

/* Estimates the n that were taken last. */
static void estimate(struct settling *s, size_t n)
{
    double most[AT_ONCE];

    plm_assign_near(s->assigner, s->row, s->norm, s->places + s->n_left, n, s->least + s->n_left,
                    most);
    for (size_t i = 0; i < n; i++)
        s->ceiling = fmin(s->ceiling, most[i]);
}

/* Among the estimated, in float64 where the estimates leave more than one. */
static uint32_t decide(const struct settling *s)
{
    const struct plm_assigner *assigner = s->assigner;
    size_t n_open = 0, winner = 0;
    double least = INFINITY;

    for (size_t i = s->n_left; i < s->n_all; i++)
        if (s->least[i] <= s->ceiling)
            s->places[n_open++] = s->places[i]; /* the survivors are done with */
    if (n_open == 1)
        return assigner->ids[s->places[0]];
    for (size_t i = 0; i < n_open; i++) {
        size_t place = s->places[i];
        double value = plm_assign_exact(assigner, s->row, place);

        if (i == 0 || value < least || (value == least && place < winner)) {
            least = value;
            winner = place;
        }
    }
    return assigner->ids[winner];
}

/* All places whose bounds do not exceed the limit of a first guess; false if more than `most`. */
static bool find_survivors(struct settling *s, size_t most)
{
    const struct plm_assigner *assigner = s->assigner;
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    float least_bound, greatest_bound;
    double least;

    kernels->min_max(s->bounds, assigner->n_packed, &least_bound, &greatest_bound);
    if (kernels->at_most(s->bounds, assigner->n_packed, least_bound, s->places) == 0)
        return false;
    plm_assign_near(assigner, s->row, s->norm, s->places, 1, &least, &s->ceiling);
    s->n_all = s->n_left = kernels->at_most(
        s->bounds, assigner->n_packed, plm_bound_limit(assigner, s->norm, s->ceiling), s->places);
    return s->n_all > 0 && s->n_all <= most;
}

bool plm_settle_by_bounds(const struct plm_assigner *assigner, const float *row, double norm,
                          const float *bounds, size_t most, uint32_t *places, double *least,
                          uint32_t *id)
{
    struct settling s = {.assigner = assigner, .row = row, .bounds = bounds, .norm = norm,
                         .places = places, .least = least};

    if (!find_survivors(&s, most))
        return false;
    if (s.n_all == 1) {
        *id = assigner->ids[places[0]];
        return true;
    }
    while (s.n_left > 0) {
        size_t n = 0;

        do
            take_least(&s);
        while (++n < AT_ONCE && s.n_left > 0);
        if (bounds[places[s.n_left + n - 1]] > plm_bound_limit(assigner, norm, s.ceiling)) {
            s.n_left += n;
            break;
        }
        estimate(&s, n);
    }
    *id = decide(&s);
    return true;
}
