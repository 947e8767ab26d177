/* check_recall.c - recall at growing numbers of partitions probed.
 *
 * A query scans partitions nearest first and keeps its best rows as it goes, so one pass gives
 * every point of the curve. SQ and FLAT keep 10 rows; PQ keeps 50, because re-ranking them by exact
 * distance (refine factor 5, which is how PQ is searched) finds every true neighbour among them.
 */
#include <math.h>
#include <stdlib.h>

#include "build/check.h"

#define REFINE_FACTOR_PQ 5
#define SCAN_BYTES_MAX 2e9 /* of codes, all queries together; the curve ends there */

struct recall {
    struct plm_ctx *ctx;
    struct plm_segment *segments;
    size_t n_segments;
    const struct plm_probes *probes;
    const struct plm_neighbour *truth;
    uint32_t nprobes[PLM_RECALL_POINTS];
    size_t n_points, kept;
    struct plm_scan_scratch *scratch; /* one for each thread */
    double *hits, *rows;              /* [query][point] */
};

static bool is_not(void *arg, uint64_t rowid)
{
    return *(const uint64_t *)arg != rowid;
}

static double count_hits(const struct recall *r, size_t q, const struct plm_top *top)
{
    double hits = 0;
    for (size_t t = 0; t < PLM_PROBE_K; t++)
        for (size_t i = 0; i < top->n; i++)
            hits += top->rowids[i] == r->truth[q * PLM_PROBE_K + t].rowid;
    return hits;
}

static size_t n_true(const struct recall *r, size_t q)
{
    size_t n = 0;
    while (n < PLM_PROBE_K && isfinite(r->truth[q * PLM_PROBE_K + n].distance))
        n++;
    return n;
}

/* The candidates of all segments that a search with so many probes would see. */
static enum plm_code scan_segment(struct recall *r, size_t q, struct plm_segment *s, struct plm_top *top,
                                  struct plm_scan_scratch *scratch, struct plm_err *err)
{
    struct plm_ctx *ctx = r->ctx;
    const float *query = r->probes->vectors + q * s->model.dim;
    uint64_t self = r->probes->rowids[q];
    uint32_t *ids = NULL;
    size_t n = 0, at = 0;
    double rows = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &ids, r->nprobes[r->n_points - 1], sizeof *ids, err));
    PLM_TRY(plm_probe(ctx, &s->model, query, r->nprobes[r->n_points - 1], ids, &n, err));
    for (size_t point = 0; point < r->n_points; point++) {
        for (; at < n && at < r->nprobes[point]; at++) {
            PLM_TRY(plm_scan_partition(s, ids[at], query, is_not, &self, top, scratch, err));
            rows += s->lengths[ids[at]];
        }
        r->rows[q * r->n_points + point] += rows;
        r->hits[q * r->n_points + point] += count_hits(r, q, top);
    }
done:
    plm_free(ctx, ids);
    return rc;
}

static enum plm_code measure_query(void *arg, size_t q, unsigned worker, struct plm_err *err)
{
    struct recall *r = arg;
    struct plm_ctx *ctx = r->ctx;
    struct plm_top top = {.k = r->kept};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &top.distances, r->kept, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &top.rowids, r->kept, sizeof(uint64_t), err));
    for (size_t s = 0; s < r->n_segments; s++) {
        top.n = 0; /* each segment keeps its own best: true neighbours lie in one of them */
        PLM_TRY(scan_segment(r, q, &r->segments[s], &top, &r->scratch[worker], err));
    }
done:
    plm_free(ctx, top.distances);
    plm_free(ctx, top.rowids);
    return rc;
}

/* 1, 2, 4, ... up to all partitions, as far as the scan stays cheap. */
static void choose_points(struct recall *r)
{
    double bytes = 0, rows = 0;
    uint32_t k = 1;
    for (size_t s = 0; s < r->n_segments; s++) {
        const struct plm_model *m = &r->segments[s].model;
        k = m->k > k ? m->k : k;
        rows += (double)r->segments[s].n_rows;
        bytes = plm_model_code_bytes(m) + 8.0;
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
    for (size_t point = 0; point < f->n_recall; point++) {
        double hits = 0, rows = 0;
        for (size_t q = 0; q < r->probes->n; q++) {
            hits += r->hits[q * r->n_points + point];
            rows += r->rows[q * r->n_points + point];
        }
        f->recall[point] = (struct plm_recall){r->nprobes[point], rows / (double)r->probes->n,
                                               hits / n_neighbours};
    }
}

enum plm_code plm_check_recall(struct plm_ctx *ctx, struct plm_segment *segments, size_t n_segments,
                               const struct plm_probes *probes, const struct plm_neighbour *truth,
                               struct plm_findings *findings, struct plm_err *err)
{
    struct recall r = {ctx, segments, n_segments, probes, truth, .kept = PLM_PROBE_K};
    enum plm_code rc = PLM_OK;

    findings->n_recall = 0;
    findings->refine_factor = 1;
    if (probes->n == 0 || n_segments == 0)
        return PLM_OK;
    if (segments[0].model.quantizer == PLM_PQ)
        findings->refine_factor = REFINE_FACTOR_PQ;
    r.kept = PLM_PROBE_K * findings->refine_factor;
    choose_points(&r);
    PLM_TRY(plm_calloc(ctx, &r.scratch, ctx->threads, sizeof *r.scratch, err));
    PLM_TRY(plm_calloc(ctx, &r.hits, probes->n * r.n_points, sizeof(double), err));
    PLM_TRY(plm_calloc(ctx, &r.rows, probes->n * r.n_points, sizeof(double), err));
    PLM_TRY(plm_parallel(ctx, probes->n, measure_query, &r, err));
    sum_up(&r, findings);
done:
    for (unsigned i = 0; r.scratch && i < ctx->threads; i++)
        plm_scan_scratch_reset(&r.scratch[i]);
    plm_free(ctx, r.scratch);
    plm_free(ctx, r.hits);
    plm_free(ctx, r.rows);
    return rc;
}
