/* means.c - new points from sums, and a place for centroids that lost all their rows. */
#include <math.h>

#include "cluster/train_math.h"

void plm_cap_row(const float *row, size_t dim, float cap, float *out)
{
    for (size_t d = 0; d < dim; d++)
        out[d] = row[d] > cap ? cap : row[d] < -cap ? -cap : row[d];
}

/* Scales to norm 1; false for 0. */
static bool normalize(const struct plm_kernels *kernels, float *point, size_t dim)
{
    double norm = sqrt(kernels->norm2(point, dim));

    if (!(norm > 0))
        return false;
    for (size_t d = 0; d < dim; d++)
        point[d] = (float)((double)point[d] / norm);
    return true;
}

void plm_take_means(const struct plm_kernels *kernels, const struct plm_partial *sums, bool dot,
                    float *points, uint64_t *counts)
{
    size_t dim = sums->head->dim;

    for (size_t i = 0; i < sums->head->n; i++) {
        const double *sum = sums->sums + i * dim;
        float *point = points + i * dim;

        if (sums->sizes[i] == 0)
            continue;
        for (size_t d = 0; d < dim; d++)
            point[d] = (float)(sum[d] / (double)sums->sizes[i]);
        if (dot && !normalize(kernels, point, dim) && counts)
            counts[i] = 0;
    }
}

/* ---- empty centroids ------------------------------------------------------------------ */

/* Centroids that can be split, the one with the most rows (lowest number on ties) on top. */
struct heap {
    uint32_t *ids;
    size_t n;
    const uint64_t *counts;
};

static bool is_above(const struct heap *h, uint32_t a, uint32_t b)
{
    return h->counts[a] != h->counts[b] ? h->counts[a] > h->counts[b] : a < b;
}

static void sift_down(struct heap *h, size_t at)
{
    for (;;) {
        size_t top = at;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < h->n; child++)
            if (is_above(h, h->ids[child], h->ids[top]))
                top = child;
        if (top == at)
            return;
        uint32_t id = h->ids[at];
        h->ids[at] = h->ids[top];
        h->ids[top] = id;
        at = top;
    }
}

static void push(struct heap *h, uint32_t id)
{
    size_t at = h->n++;

    h->ids[at] = id;
    while (at > 0 && is_above(h, id, h->ids[(at - 1) / 2])) {
        h->ids[at] = h->ids[(at - 1) / 2];
        at = (at - 1) / 2;
        h->ids[at] = id;
    }
}

static bool can_split(uint64_t count, int64_t loss, bool dot) { return count >= 2 && (dot || loss > 0); }

/* The two move apart along a random diagonal. */
static void move_apart(float *a, float *b, size_t dim, double step, uint64_t seed)
{
    uint64_t bits = 0;

    for (size_t d = 0; d < dim; d++) {
        if (d % 64 == 0)
            bits = plm_mix64(seed, d / 64);
        double move = (bits >> (d % 64)) & 1 ? step : -step;

        b[d] = (float)((double)a[d] + move);
        a[d] = (float)((double)a[d] - move);
    }
}

static uint32_t largest_of(const uint64_t *counts, size_t k)
{
    size_t largest = 0;

    for (size_t i = 1; i < k; i++)
        if (counts[i] > counts[largest])
            largest = i;
    return (uint32_t)largest;
}

/* Splits centroid `from`; the empty one `to` takes half of its rows. */
static void split(const struct plm_kernels *kernels, float *centroids, size_t dim, bool dot,
                  uint64_t *counts, int64_t *losses, double scale, uint32_t from, uint32_t to,
                  uint64_t seed)
{
    float *a = centroids + (size_t)from * dim, *b = centroids + (size_t)to * dim;
    double mean = dot ? 1 : (double)losses[from] / scale / (double)counts[from];

    move_apart(a, b, dim, sqrt(mean / (double)dim) / 16, plm_mix64(seed, to));
    if (dot) { /* never 0: a had norm 1 and moved by 1/16 */
        (void)normalize(kernels, a, dim);
        (void)normalize(kernels, b, dim);
    }
    counts[to] = counts[from] / 2;
    counts[from] -= counts[to];
    losses[to] = losses[from] / 2;
    losses[from] -= losses[to];
}

enum plm_code plm_fill_empties(struct plm_ctx *ctx, float *centroids, size_t k, size_t dim, bool dot,
                               uint64_t *counts, int64_t *losses, double scale, uint64_t seed,
                               struct plm_err *err)
{
    struct heap heap = {.counts = counts};
    uint32_t largest = largest_of(counts, k);
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &heap.ids, k, sizeof *heap.ids, err));
    if (counts[largest] == 0) { /* dot, and every sum is 0: any direction will do */
        memset(centroids, 0, k * dim * sizeof *centroids);
        for (size_t i = 0; i < k; i++)
            centroids[i * dim + i % dim] = 1;
        goto done;
    }
    for (size_t i = 0; i < k; i++)
        if (can_split(counts[i], losses[i], dot))
            push(&heap, (uint32_t)i);
    for (size_t i = 0; i < k; i++) {
        if (counts[i] > 0)
            continue;
        if (heap.n == 0) {
            memcpy(centroids + i * dim, centroids + (size_t)largest * dim, dim * sizeof *centroids);
            continue;
        }
        uint32_t from = heap.ids[0];

        split(ctx->kernels, centroids, dim, dot, counts, losses, scale, from, (uint32_t)i, seed);
        if (!can_split(counts[from], losses[from], dot))
            heap.ids[0] = heap.ids[--heap.n];
        sift_down(&heap, 0);
        if (can_split(counts[i], losses[i], dot))
            push(&heap, (uint32_t)i);
    }
done:
    plm_free(ctx, heap.ids);
    return rc;
}
