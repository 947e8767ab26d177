/* check_recall_scan.c - a window of partitions, for all queries that visit them.
 *
 * SQ and PQ rank the rows by distance. FLAT distances are exact, so there a true neighbour is found if
 * and only if its partition is probed: row ids are all that is read.
 */
#include "build/check_recall_impl.h"

static const struct plm_recall_visit *find_visit(const struct plm_recall_visit *visits, size_t n,
                                                 uint32_t query)
{
    size_t low = 0, high = n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (visits[middle].query <= query)
            low = middle;
        else
            high = middle;
    }
    return n > 0 && visits[low].query == query ? &visits[low] : NULL;
}

static void look_for_sought(struct plm_recall_thread *t, size_t n_visits, size_t n_rows)
{
    const struct plm_recall_curve *r = t->recall;
    for (size_t i = 0; i < n_rows; i++) {
        size_t low = 0, high = r->n_sought; /* the first with an id that is not less */
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (r->sought[middle].rowid < t->ids[i])
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < r->n_sought && r->sought[low].rowid == t->ids[i]; low++) {
            const struct plm_recall_visit *v = find_visit(t->visiting, n_visits, r->sought[low].query);
            if (v)
                t->hits[v->query * r->n_points + v->point] += 1;
        }
    }
}

static void look_for_sought_in(struct plm_recall_thread *t, const struct plm_window *w, uint32_t p)
{
    const struct plm_recall_curve *r = t->recall;
    size_t n, at = plm_window_rows(r->segment, w, p, &n);

    t->visiting = r->visits + r->starts[p];
    t->ids = t->rowids + at;
    look_for_sought(t, r->starts[p + 1] - r->starts[p], n);
}

static void take_distances(void *arg, size_t i, size_t first, size_t n, const float *distances)
{
    struct plm_recall_thread *t = arg;
    const struct plm_recall_curve *r = t->recall;
    const struct plm_recall_visit *v = &t->visiting[i];
    struct plm_top *top = &t->tops[v->query * r->n_points + v->point];
    uint64_t self = r->probes->rowids[r->first + v->query];

    for (size_t row = 0; row < n; row++)
        if (!(top->n == top->k && distances[row] > top->distances[0]) && t->ids[first + row] != self)
            plm_top_offer(top, distances[row], t->ids[first + row]);
}

/* Queries [first, end) at partition p of the window. */
static void scan_partition(struct plm_recall_thread *t, const struct plm_window *w, uint32_t p,
                           uint32_t first, uint32_t end)
{
    const struct plm_recall_curve *r = t->recall;
    const struct plm_recall_visit *visits = r->visits + r->starts[p];
    size_t n, at = plm_window_rows(r->segment, w, p, &n), n_visits = r->starts[p + 1] - r->starts[p];
    const uint8_t *codes = t->codes + at * plm_model_code_bytes(&r->segment->model);

    while (n_visits > 0 && visits->query < first)
        visits++, n_visits--;
    while (n_visits > 0 && visits[n_visits - 1].query >= end)
        n_visits--;
    if (n_visits == 0 || n == 0)
        return;
    t->visiting = visits;
    t->ids = t->rowids + at;
    for (size_t i = 0; i < n_visits; i++)
        t->which[i] = visits[i].query;
    if (visits == r->visits + r->starts[p]) /* the first to come */
        plm_many_bases(r->many, p, codes, n, &t->scan, t->bases + at);
    plm_many_scan(r->many, p, codes, n, t->bases + at, t->which, n_visits, take_distances, t, &t->scan);
}

enum plm_code plm_recall_scan_window(void *arg, size_t number, unsigned worker, struct plm_err *err)
{
    struct plm_recall_curve *r = arg;
    struct plm_recall_thread *t = &r->threads[worker];
    const struct plm_window *w = &r->windows[number];
    enum plm_code rc = plm_window_read(r->segment, w, t->rowids, t->codes, &t->read, err);

    if (rc != PLM_OK)
        return rc;
    for (uint32_t p = w->first; plm_recall_is_flat(r) && p < w->end; p++)
        look_for_sought_in(t, w, p);
    for (uint32_t q = 0; !plm_recall_is_flat(r) && q < r->n; q += PLM_MANY_LANES)
        for (uint32_t p = w->first; p < w->end; p++)
            scan_partition(t, w, p, q, q + PLM_MANY_LANES);
    return PLM_OK;
}
