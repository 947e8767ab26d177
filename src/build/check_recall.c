/* check_recall.c - recall at growing numbers of partitions probed.
 *
 * The curve ends where probing twice as many partitions, at least one in 16, finds no more.
 */
#include <math.h>

#include "build/check_recall_impl.h"

#define SCAN_BYTES_MAX 2e9 /* of codes, all queries together; the curve ends there, too */
#define ENOUGH_SHARE 16    /* of the partitions: one in so many */
#define GAIN_MIN 1e-3      /* of recall */
#define QUERIES_OF_PASS 256

/* Queries at once: so many that their tables take a quarter of what memory is left. */
static size_t queries_of_pass(const struct plm_recall_curve *r)
{
    const struct plm_ctx *ctx = r->ctx;
    const struct plm_model *m = &r->segment->model;
    uint64_t room = plm_memory_left(ctx) / 4;
    uint64_t each = 8 * (uint64_t)r->nprobes[r->n_points - 1] * (sizeof(struct plm_recall_visit) + sizeof(uint32_t)) +
                    plm_many_bytes(m, 8) + 8 * ctx->threads * r->n_points * (r->kept + 4) * 12;
    return (size_t)plm_max_u64(1, plm_min_u64(QUERIES_OF_PASS / 8, room / each)) * 8;
}

/* Each segment keeps its own best: true neighbours lie in one of them. */
static enum plm_code measure_segment(struct plm_recall_curve *r, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    r->segment = s;
    size_t step = queries_of_pass(r);
    for (r->first = 0; rc == PLM_OK && r->first < r->probes->n; r->first += step) {
        r->n = plm_min_size(step, r->probes->n - r->first);
        rc = plm_recall_measure_pass(r, err);
    }
    return rc;
}

/* 1, 2, 4, ... up to all partitions, as far as the scan stays cheap. */
static void choose_points(struct plm_recall_curve *r, const struct plm_segment *segments, size_t n_segments)
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

static size_t n_true(const struct plm_recall_curve *r, size_t q)
{
    size_t n = 0;
    while (n < PLM_PROBE_K && isfinite(r->truth[q * PLM_PROBE_K + n].distance))
        n++;
    return n;
}

static void sum_up(const struct plm_recall_curve *r, struct plm_findings *f)
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
static enum plm_code measure(struct plm_recall_curve *r, struct plm_segment *segments,
                             size_t n_segments, size_t n_points, struct plm_findings *findings,
                             struct plm_err *err)
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
static size_t points_to_begin_with(const struct plm_recall_curve *r, const struct plm_segment *s)
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
    struct plm_recall_curve r = {.ctx = ctx, .probes = probes, .truth = truth};
    enum plm_code rc = PLM_OK;

    findings->n_recall = 0;
    findings->refine_factor = 1;
    if (probes->n == 0 || n_segments == 0)
        return PLM_OK;
    if (segments[0].model.quantizer == PLM_PQ)
        findings->refine_factor = PLM_RECALL_REFINE_PQ;
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
