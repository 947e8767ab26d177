/* check_recall.c - recall at growing numbers of partitions probed.
 *
 * Each partition is read once, for all queries that visit it. A query keeps its best rows apart
 * for each stretch of the curve; put together in order, they give every point of it. SQ keeps 10
 * rows; PQ keeps 50, because re-ranking them by exact distance (refine factor 5, which is how PQ
 * is searched) finds every true neighbour among them. FLAT distances are exact, so there a true
 * neighbour is found if and only if its partition is probed: row ids are all that is read.
 *
 * The curve ends where probing twice as many partitions, at least one in 16, finds no more.
 */
#include <math.h>
#include <stdlib.h>

#include "build/check.h"
#include "ivf/window.h"

#define REFINE_FACTOR_PQ 5
#define SCAN_BYTES_MAX 2e9 /* of codes, all queries together; the curve ends there, too */
#define ENOUGH_SHARE 16    /* of the partitions: one in so many */
#define GAIN_MIN 1e-3      /* of recall */
#define WINDOW_BYTES ((size_t)4 << 20)
#define WINDOW_BYTES_MIN ((size_t)64 << 10)
#define GAP_BYTES ((size_t)256 << 10) /* read rather than skipped */
#define QUERIES_OF_PASS 256

/* A query comes to a partition, on the way to a point of the curve. */
struct visit {
    uint32_t query, point;
};

/* A true neighbour, by row id. */
struct sought {
    uint64_t rowid;
    uint32_t query;
};

struct recall {
    struct plm_ctx *ctx;
    const struct plm_probes *probes;
    const struct plm_neighbour *truth;
    uint32_t nprobes[PLM_RECALL_POINTS];
    size_t n_points, kept;
    double *hits, *rows; /* [query][point]; rows that a point adds to the one before */
    /* of one segment and pass */
    struct plm_segment *segment;
    size_t first, n;     /* queries */
    uint32_t *ranked;    /* [n][probes] partitions, nearest first */
    size_t *n_ranked;    /* [n] */
    size_t *starts;      /* [k + 1] visits of each partition */
    struct visit *visits;
    struct sought *sought; /* FLAT: sorted */
    size_t n_sought;
    struct plm_window *windows;
    struct plm_many *many; /* SQ, PQ */
    struct recall_thread *threads;
};

struct recall_thread {
    struct recall *recall;
    struct plm_read_scratch read;
    struct plm_many_scratch scan;
    uint64_t *rowids;
    uint8_t *codes;
    uint32_t *which;             /* queries that visit the partition at hand */
    double *bases;               /* of the rows of the window */
    struct plm_top *tops;        /* SQ, PQ: [n][point] */
    float *distances;            /* theirs */
    uint64_t *top_rowids;
    double *hits;                /* FLAT: [n][point] */
    const struct visit *visiting; /* of the partition at hand */
    const uint64_t *ids;
};

static bool is_flat(const struct recall *r)
{
    return r->segment->model.quantizer == PLM_FLAT;
}

/* ---- who goes where -------------------------------------------------------------------------- */

static enum plm_code rank_partitions(void *arg, size_t q, unsigned worker, struct plm_err *err)
{
    struct recall *r = arg;
    uint32_t most = r->nprobes[r->n_points - 1];
    const float *query = r->probes->vectors + (r->first + q) * r->segment->model.dim;
    (void)worker;
    return plm_probe(r->ctx, &r->segment->model, query, most, r->ranked + q * most, &r->n_ranked[q], err);
}

static size_t point_of(const struct recall *r, size_t rank)
{
    size_t point = 0;
    while (rank >= r->nprobes[point])
        point++;
    return point;
}

/* Visits sorted by partition, then query; rows seen on the way to each point. */
static enum plm_code plan_visits(struct recall *r, struct plm_err *err)
{
    uint32_t k = r->segment->model.k, most = r->nprobes[r->n_points - 1];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(r->ctx, &r->ranked, r->n * most, sizeof *r->ranked, err));
    PLM_TRY(plm_calloc(r->ctx, &r->n_ranked, r->n, sizeof *r->n_ranked, err));
    PLM_TRY(plm_parallel(r->ctx, r->n, rank_partitions, r, err));
    PLM_TRY(plm_calloc(r->ctx, &r->starts, (size_t)k + 2, sizeof *r->starts, err));
    PLM_TRY(plm_alloc(r->ctx, &r->visits, r->n * most, sizeof *r->visits, err));
    for (size_t q = 0; q < r->n; q++)
        for (size_t i = 0; i < r->n_ranked[q]; i++)
            r->starts[r->ranked[q * most + i] + 2]++;
    for (uint32_t p = 0; p < k; p++)
        r->starts[p + 2] += r->starts[p + 1];
    for (size_t q = 0; q < r->n; q++) {
        double *rows = r->rows + (r->first + q) * r->n_points;
        for (size_t i = 0; i < r->n_ranked[q]; i++) {
            uint32_t p = r->ranked[q * most + i];
            r->visits[r->starts[p + 1]++] = (struct visit){(uint32_t)q, (uint32_t)point_of(r, i)};
            rows[point_of(r, i)] += r->segment->lengths[p];
        }
    }
done:
    return rc;
}

static int by_rowid(const void *a, const void *b)
{
    const struct sought *x = a, *y = b;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

static enum plm_code list_sought(struct recall *r, struct plm_err *err)
{
    enum plm_code rc = plm_alloc(r->ctx, &r->sought, r->n * PLM_PROBE_K, sizeof *r->sought, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < r->n * PLM_PROBE_K; i++) {
        const struct plm_neighbour *t = &r->truth[r->first * PLM_PROBE_K + i];
        if (isfinite(t->distance))
            r->sought[r->n_sought++] = (struct sought){t->rowid, (uint32_t)(i / PLM_PROBE_K)};
    }
    qsort(r->sought, r->n_sought, sizeof *r->sought, by_rowid);
    return PLM_OK;
}

/* ---- a partition at hand ------------------------------------------------------------------------ */

static const struct visit *find_visit(const struct visit *visits, size_t n, uint32_t query)
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

static void look_for_sought(struct recall_thread *t, size_t n_visits, size_t n_rows)
{
    const struct recall *r = t->recall;
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
            const struct visit *v = find_visit(t->visiting, n_visits, r->sought[low].query);
            if (v)
                t->hits[v->query * r->n_points + v->point] += 1;
        }
    }
}

static void take_distances(void *arg, size_t i, size_t first, size_t n, const float *distances)
{
    struct recall_thread *t = arg;
    const struct recall *r = t->recall;
    const struct visit *v = &t->visiting[i];
    struct plm_top *top = &t->tops[v->query * r->n_points + v->point];
    uint64_t self = r->probes->rowids[r->first + v->query];

    for (size_t row = 0; row < n; row++)
        if (!(top->n == top->k && distances[row] > top->distances[0]) && t->ids[first + row] != self)
            plm_top_offer(top, distances[row], t->ids[first + row]);
}

/* Queries [first, end) at partition p of the window. */
static void scan_partition(struct recall_thread *t, const struct plm_window *w, uint32_t p, uint32_t first,
                           uint32_t end)
{
    const struct recall *r = t->recall;
    const struct visit *visits = r->visits + r->starts[p];
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

static void look_for_sought_in(struct recall_thread *t, const struct plm_window *w, uint32_t p)
{
    const struct recall *r = t->recall;
    size_t n, at = plm_window_rows(r->segment, w, p, &n);

    t->visiting = r->visits + r->starts[p];
    t->ids = t->rowids + at;
    look_for_sought(t, r->starts[p + 1] - r->starts[p], n);
}

static enum plm_code scan_window(void *arg, size_t number, unsigned worker, struct plm_err *err)
{
    struct recall *r = arg;
    struct recall_thread *t = &r->threads[worker];
    const struct plm_window *w = &r->windows[number];
    enum plm_code rc = plm_window_read(r->segment, w, t->rowids, t->codes, &t->read, err);

    if (rc != PLM_OK)
        return rc;
    for (uint32_t p = w->first; is_flat(r) && p < w->end; p++)
        look_for_sought_in(t, w, p);
    for (uint32_t q = 0; !is_flat(r) && q < r->n; q += PLM_MANY_LANES)
        for (uint32_t p = w->first; p < w->end; p++)
            scan_partition(t, w, p, q, q + PLM_MANY_LANES);
    return PLM_OK;
}

/* ---- a pass ---------------------------------------------------------------------------------------- */

static enum plm_code open_thread(struct recall *r, struct recall_thread *t, size_t rows, struct plm_err *err)
{
    struct plm_ctx *ctx = r->ctx;
    size_t places = r->n * r->n_points;
    enum plm_code rc = PLM_OK;

    t->recall = r;
    PLM_TRY(plm_alloc(ctx, &t->rowids, rows, sizeof *t->rowids, err));
    PLM_TRY(plm_alloc(ctx, &t->which, r->n, sizeof *t->which, err));
    PLM_TRY(plm_calloc(ctx, &t->hits, places, sizeof *t->hits, err));
    if (is_flat(r))
        return PLM_OK;
    PLM_TRY(plm_alloc(ctx, &t->bases, rows, sizeof *t->bases, err));
    PLM_TRY(plm_alloc(ctx, &t->codes, rows, plm_model_code_bytes(&r->segment->model), err));
    PLM_TRY(plm_many_scratch_init(r->many, &t->scan, err));
    PLM_TRY(plm_alloc(ctx, &t->tops, places, sizeof *t->tops, err));
    PLM_TRY(plm_alloc(ctx, &t->distances, places * r->kept, sizeof *t->distances, err));
    PLM_TRY(plm_alloc(ctx, &t->top_rowids, places * r->kept, sizeof *t->top_rowids, err));
    for (size_t i = 0; i < places; i++)
        t->tops[i] = (struct plm_top){r->kept, 0, t->distances + i * r->kept, t->top_rowids + i * r->kept};
done:
    return rc;
}

static void close_pass(struct recall *r)
{
    struct plm_ctx *ctx = r->ctx;
    for (unsigned i = 0; r->threads && i < ctx->threads; i++) {
        struct recall_thread *t = &r->threads[i];
        plm_read_scratch_reset(&t->read);
        plm_many_scratch_reset(&t->scan);
        void *const all[] = {t->rowids, t->codes, t->bases, t->which, t->tops, t->distances, t->top_rowids, t->hits};
        for (size_t a = 0; a < sizeof all / sizeof *all; a++)
            plm_free(ctx, all[a]);
    }
    plm_many_close(r->many);
    void *const all[] = {r->threads, r->ranked, r->n_ranked, r->starts, r->visits, r->sought, r->windows};
    for (size_t a = 0; a < sizeof all / sizeof *all; a++)
        plm_free(ctx, all[a]);
    r->many = NULL;
    r->threads = NULL;
    r->ranked = NULL;
    r->n_ranked = r->starts = NULL;
    r->visits = NULL;
    r->sought = NULL;
    r->n_sought = 0;
    r->windows = NULL;
}

/* The best rows of the stretches up to each point, and how many of them are true neighbours. */
static void count_hits(struct recall *r, size_t q, struct plm_top *best)
{
    const struct plm_neighbour *truth = r->truth + (r->first + q) * PLM_PROBE_K;
    double *hits = r->hits + (r->first + q) * r->n_points;

    best->n = 0;
    for (size_t point = 0; point < r->n_points; point++) {
        for (unsigned i = 0; i < r->ctx->threads; i++) {
            const struct plm_top *top = &r->threads[i].tops[q * r->n_points + point];
            for (size_t c = 0; c < top->n; c++)
                plm_top_offer(best, top->distances[c], top->rowids[c]);
        }
        for (size_t t = 0; t < PLM_PROBE_K; t++)
            for (size_t i = 0; i < best->n; i++)
                hits[point] += best->rowids[i] == truth[t].rowid;
    }
}

static void add_up(struct recall *r)
{
    float distances[PLM_PROBE_K * REFINE_FACTOR_PQ];
    uint64_t rowids[PLM_PROBE_K * REFINE_FACTOR_PQ];
    struct plm_top best = {.k = r->kept, .distances = distances, .rowids = rowids};

    for (size_t q = 0; q < r->n; q++) {
        double found = 0, *hits = r->hits + (r->first + q) * r->n_points;
        if (!is_flat(r)) {
            count_hits(r, q, &best);
            continue;
        }
        for (size_t point = 0; point < r->n_points; point++) {
            for (unsigned i = 0; i < r->ctx->threads; i++)
                found += r->threads[i].hits[q * r->n_points + point];
            hits[point] += found;
        }
    }
}

static size_t window_rows(const struct recall *r)
{
    struct plm_ctx *ctx = r->ctx;
    size_t row = 8 + (is_flat(r) ? 0 : plm_model_code_bytes(&r->segment->model));
    uint64_t room = plm_memory_left(ctx) / (8 * ctx->threads);
    uint64_t bytes = plm_max_u64(WINDOW_BYTES_MIN, plm_min_u64(WINDOW_BYTES, room));
    return plm_max_size(16, (size_t)plm_min_u64(bytes / row, plm_max_u64(1, r->segment->n_rows)));
}

static enum plm_code measure_pass(struct recall *r, struct plm_err *err)
{
    struct plm_segment *s = r->segment;
    uint8_t *wanted = NULL;
    size_t n_windows = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plan_visits(r, err));
    PLM_TRY(plm_calloc(r->ctx, &wanted, s->model.k, 1, err));
    for (uint32_t p = 0; p < s->model.k; p++)
        wanted[p] = r->starts[p + 1] > r->starts[p];
    if (is_flat(r))
        PLM_TRY(list_sought(r, err));
    else
        PLM_TRY(plm_many_open(s, r->probes->vectors + r->first * s->model.dim, r->n, &r->many, err));
    size_t rows = window_rows(r), gap = GAP_BYTES / (8 + plm_model_code_bytes(&s->model));
    PLM_TRY(plm_windows_make(s, wanted, 0, s->model.k, rows, gap, &r->windows, &n_windows, err));
    PLM_TRY(plm_calloc(r->ctx, &r->threads, r->ctx->threads, sizeof *r->threads, err));
    for (unsigned i = 0; i < r->ctx->threads; i++)
        PLM_TRY(open_thread(r, &r->threads[i], rows, err));
    PLM_TRY(plm_parallel(r->ctx, n_windows, scan_window, r, err));
    add_up(r);
done:
    plm_free(r->ctx, wanted);
    close_pass(r);
    return rc;
}

/* ---- the curve ---------------------------------------------------------------------------------------- */

/* Queries at once: so many that their tables take a quarter of what memory is left. */
static size_t queries_of_pass(const struct recall *r)
{
    const struct plm_ctx *ctx = r->ctx;
    const struct plm_model *m = &r->segment->model;
    uint64_t room = plm_memory_left(ctx) / 4;
    uint64_t each = 8 * (uint64_t)r->nprobes[r->n_points - 1] * (sizeof(struct visit) + sizeof(uint32_t)) +
                    plm_many_bytes(m, 8) + 8 * ctx->threads * r->n_points * (r->kept + 4) * 12;
    return (size_t)plm_max_u64(1, plm_min_u64(QUERIES_OF_PASS / 8, room / each)) * 8;
}

/* Each segment keeps its own best: true neighbours lie in one of them. */
static enum plm_code measure_segment(struct recall *r, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    r->segment = s;
    size_t step = queries_of_pass(r);
    for (r->first = 0; rc == PLM_OK && r->first < r->probes->n; r->first += step) {
        r->n = plm_min_size(step, r->probes->n - r->first);
        rc = measure_pass(r, err);
    }
    return rc;
}

static size_t n_true(const struct recall *r, size_t q)
{
    size_t n = 0;
    while (n < PLM_PROBE_K && isfinite(r->truth[q * PLM_PROBE_K + n].distance))
        n++;
    return n;
}

/* 1, 2, 4, ... up to all partitions, as far as the scan stays cheap. */
static void choose_points(struct recall *r, const struct plm_segment *segments, size_t n_segments)
{
    double bytes = 0, rows = 0;
    uint32_t k = 1;
    for (size_t s = 0; s < n_segments; s++) {
        const struct plm_model *m = &segments[s].model;
        k = m->k > k ? m->k : k;
        rows += (double)segments[s].n_rows;
        bytes = 8.0 + (m->quantizer == PLM_FLAT ? 0 : plm_model_code_bytes(m));
    }
    for (uint32_t n = 1; r->n_points < PLM_RECALL_POINTS; n *= 2) {
        uint32_t probes = n < k ? n : k;
        double scanned = rows / k * probes * bytes * (double)r->probes->n;
        if (r->n_points > 0 && scanned > SCAN_BYTES_MAX)
            break;
        r->nprobes[r->n_points++] = probes;
        if (probes == k)
            break;
    }
}

static void sum_up(const struct recall *r, struct plm_findings *f)
{
    double n_neighbours = 0;
    for (size_t q = 0; q < r->probes->n; q++)
        n_neighbours += (double)n_true(r, q);
    f->n_recall = n_neighbours > 0 ? r->n_points : 0;
    double rows = 0;
    for (size_t point = 0; point < f->n_recall; point++) {
        double hits = 0;
        for (size_t q = 0; q < r->probes->n; q++) {
            hits += r->hits[q * r->n_points + point];
            rows += r->rows[q * r->n_points + point];
        }
        f->recall[point] = (struct plm_recall){r->nprobes[point], rows / (double)r->probes->n,
                                               hits / n_neighbours};
    }
}

/* The first n_points of the curve. */
static enum plm_code measure(struct recall *r, struct plm_segment *segments, size_t n_segments, size_t n_points,
                             struct plm_findings *findings, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    r->n_points = n_points;
    memset(r->hits, 0, r->probes->n * n_points * sizeof *r->hits);
    memset(r->rows, 0, r->probes->n * n_points * sizeof *r->rows);
    for (size_t s = 0; s < n_segments; s++)
        PLM_TRY(measure_segment(r, &segments[s], err));
    sum_up(r, findings);
done:
    return rc;
}

/* Points that are measured at first; all, if they cost nothing or are few. */
static size_t points_to_begin_with(const struct recall *r, const struct plm_segment *s)
{
    size_t n = 1;
    if (s->model.quantizer == PLM_FLAT)
        return r->n_points;
    while (n < r->n_points && (n < 3 || r->nprobes[n - 1] < s->model.k / ENOUGH_SHARE))
        n++;
    return n;
}

static bool is_enough(const struct plm_findings *f)
{
    return f->n_recall == 0 || (f->n_recall > 1 && f->recall[f->n_recall - 1].recall -
                                                           f->recall[f->n_recall - 2].recall < GAIN_MIN);
}

enum plm_code plm_check_recall(struct plm_ctx *ctx, struct plm_segment *segments, size_t n_segments,
                               const struct plm_probes *probes, const struct plm_neighbour *truth,
                               struct plm_findings *findings, struct plm_err *err)
{
    struct recall r = {.ctx = ctx, .probes = probes, .truth = truth};
    enum plm_code rc = PLM_OK;

    findings->n_recall = 0;
    findings->refine_factor = 1;
    if (probes->n == 0 || n_segments == 0)
        return PLM_OK;
    if (segments[0].model.quantizer == PLM_PQ)
        findings->refine_factor = REFINE_FACTOR_PQ;
    r.kept = PLM_PROBE_K * findings->refine_factor;
    choose_points(&r, segments, n_segments);
    PLM_TRY(plm_alloc(ctx, &r.hits, probes->n * r.n_points, sizeof(double), err));
    PLM_TRY(plm_alloc(ctx, &r.rows, probes->n * r.n_points, sizeof(double), err));
    size_t all = r.n_points, n = points_to_begin_with(&r, &segments[0]);
    PLM_TRY(measure(&r, segments, n_segments, n, findings, err));
    if (n < all && !is_enough(findings)) /* anew: twice the points take a multiple of the time anyway */
        PLM_TRY(measure(&r, segments, n_segments, all, findings, err));
done:
    plm_free(ctx, r.hits);
    plm_free(ctx, r.rows);
    return rc;
}
