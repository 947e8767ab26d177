/* top.c - the k best rows so far, in a heap with the worst one on top. */
#include <math.h>

#include "ivf/index.h"

/* Whether a comes behind b: farther, or as far with the greater row id. */
static bool is_behind(const struct plm_top *top, size_t a, size_t b)
{
    if (top->distances[a] != top->distances[b])
        return top->distances[a] > top->distances[b];
    return top->rowids[a] > top->rowids[b];
}

static void swap(struct plm_top *top, size_t a, size_t b)
{
    float distance = top->distances[a];
    uint64_t rowid = top->rowids[a];

    top->distances[a] = top->distances[b];
    top->rowids[a] = top->rowids[b];
    top->distances[b] = distance;
    top->rowids[b] = rowid;
}

static void sift_up(struct plm_top *top, size_t i)
{
    while (i > 0 && is_behind(top, i, (i - 1) / 2)) {
        swap(top, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
}

/* The heap is the first n entries. */
static void sift_down(struct plm_top *top, size_t i, size_t n)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && is_behind(top, child + 1, child))
            child++;
        if (!is_behind(top, child, i))
            return;
        swap(top, i, child);
        i = child;
    }
}

/* A distance that is not a number is no distance: such a row is never kept. */
void plm_top_offer(struct plm_top *top, float distance, uint64_t rowid)
{
    if (isnan(distance) || top->k == 0)
        return;
    if (top->n < top->k) {
        top->distances[top->n] = distance;
        top->rowids[top->n] = rowid;
        sift_up(top, top->n++);
        return;
    }
    if (distance > top->distances[0] ||
        (distance == top->distances[0] && rowid >= top->rowids[0]))
        return;
    top->distances[0] = distance;
    top->rowids[0] = rowid;
    sift_down(top, 0, top->n);
}

void plm_top_sort(struct plm_top *top)
{
    for (size_t n = top->n; n > 1; n--) {
        swap(top, 0, n - 1);
        sift_down(top, 0, n - 1);
    }
}
