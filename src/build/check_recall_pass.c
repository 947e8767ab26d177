/* check_recall_pass.c - one segment and some of the queries: each partition is read once.
 *
 * A query keeps its best rows apart for each stretch of the curve; put together in order, they give
 * every point of it. SQ keeps 10 rows; PQ keeps 50, because re-ranking them by exact distance (refine
 * factor 5, which is how PQ is searched) finds every true neighbour among them.
 */
#include "build/check_recall_impl.h"

#define WINDOW_BYTES ((size_t)4 << 20)
#define WINDOW_BYTES_MIN ((size_t)64 << 10)
#define GAP_BYTES ((size_t)256 << 10) /* read rather than skipped */

/* ---- what its threads have --------------------------------------------------------------- */

static enum plm_code open_thread(struct plm_recall_curve *r, struct plm_recall_thread *t,
                                 size_t rows, struct plm_err *err)
{
    struct plm_ctx *ctx = r->ctx;
    size_t places = r->n * r->n_points;
    enum plm_code rc = PLM_OK;

    t->recall = r;
    PLM_TRY(plm_alloc(ctx, &t->rowids, rows, sizeof *t->rowids, err));
    PLM_TRY(plm_alloc(ctx, &t->which, r->n, sizeof *t->which, err));
    PLM_TRY(plm_calloc(ctx, &t->hits, places, sizeof *t->hits, err));
    if (plm_recall_is_flat(r))
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

static void close_pass(struct plm_recall_curve *r)
{
    struct plm_ctx *ctx = r->ctx;
    for (unsigned i = 0; r->threads && i < ctx->threads; i++) {
        struct plm_recall_thread *t = &r->threads[i];
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

/* ---- what they found --------------------------------------------------------------------- */

/* The best rows of the stretches up to each point, and how many of them are true neighbours. */
static void count_hits(struct plm_recall_curve *r, size_t q, struct plm_top *best)
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

static void add_up(struct plm_recall_curve *r)
{
    float distances[PLM_PROBE_K * PLM_RECALL_REFINE_PQ];
    uint64_t rowids[PLM_PROBE_K * PLM_RECALL_REFINE_PQ];
    struct plm_top best = {.k = r->kept, .distances = distances, .rowids = rowids};

    for (size_t q = 0; q < r->n; q++) {
        double found = 0, *hits = r->hits + (r->first + q) * r->n_points;
        if (!plm_recall_is_flat(r)) {
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

/* ---- the pass ---------------------------------------------------------------------------- */

static size_t window_rows(const struct plm_recall_curve *r)
{
    struct plm_ctx *ctx = r->ctx;
    size_t row = 8 + (plm_recall_is_flat(r) ? 0 : plm_model_code_bytes(&r->segment->model));
    uint64_t room = plm_memory_left(ctx) / (8 * ctx->threads);
    uint64_t bytes = plm_max_u64(WINDOW_BYTES_MIN, plm_min_u64(WINDOW_BYTES, room));
    return plm_max_size(16, (size_t)plm_min_u64(bytes / row, plm_max_u64(1, r->segment->n_rows)));
}

enum plm_code plm_recall_measure_pass(struct plm_recall_curve *r, struct plm_err *err)
{
    struct plm_segment *s = r->segment;
    uint8_t *wanted = NULL;
    size_t n_windows = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_recall_plan_visits(r, err));
    PLM_TRY(plm_calloc(r->ctx, &wanted, s->model.k, 1, err));
    for (uint32_t p = 0; p < s->model.k; p++)
        wanted[p] = r->starts[p + 1] > r->starts[p];
    if (plm_recall_is_flat(r))
        PLM_TRY(plm_recall_list_sought(r, err));
    else
        PLM_TRY(plm_many_open(s, r->probes->vectors + r->first * s->model.dim, r->n, &r->many, err));
    size_t rows = window_rows(r), gap = GAP_BYTES / (8 + plm_model_code_bytes(&s->model));
    PLM_TRY(plm_windows_make(s, wanted, 0, s->model.k, rows, gap, &r->windows, &n_windows, err));
    PLM_TRY(plm_calloc(r->ctx, &r->threads, r->ctx->threads, sizeof *r->threads, err));
    for (unsigned i = 0; i < r->ctx->threads; i++)
        PLM_TRY(open_thread(r, &r->threads[i], rows, err));
    PLM_TRY(plm_parallel(r->ctx, n_windows, plm_recall_scan_window, r, err));
    add_up(r);
done:
    plm_free(r->ctx, wanted);
    close_pass(r);
    return rc;
}
