/* calibrate_work.c - how fast the kernels are at the shape of the plan, and memory.
 *
 * Timed by the processor time of the thread, because others may be using the processor.
 */
#include <math.h>
#include <time.h>

#include "build/calibrate_impl.h"
#include "simd/simd.h"

#define WINDOWS 3 /* a measurement is the best of so many: others may use the machine, too */
#define CENTROIDS_MAX 512
#define PQ_GROUPS 8
#define COPY_BYTES_MAX ((size_t)8 << 20)

double plm_thread_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef void work_fn(void *arg);

/* Work a second when one call does so much, in the best of some windows; the first call is not counted. */
static double rate_of(const struct plm_calibration *c, work_fn *fn, void *arg, double work)
{
    double best = 0;

    fn(arg);
    for (int i = 0; i < WINDOWS; i++) {
        double began = plm_thread_seconds(), now, done = 0;
        do {
            fn(arg);
            done += work;
            now = plm_thread_seconds();
        } while (now - began < c->seconds / WINDOWS);
        best = fmax(best, done / (now - began));
    }
    return best;
}

/* Values without pattern, none of them denormal. */
static void fill(float *values, size_t n)
{
    uint32_t state = 1;

    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
}

/* ---- nearest centroids ------------------------------------------------------------------- */

struct nearest_work {
    const struct plm_kernels *kernels;
    const float *rows, *panels, *half_norms;
    size_t n_panels, dim;
};

static void nearest_once(void *arg)
{
    const struct nearest_work *w = arg;
    float best[PLM_BLOCK_ROWS], second[PLM_BLOCK_ROWS];
    uint32_t ids[PLM_BLOCK_ROWS];

    w->kernels->nearest(w->rows, PLM_BLOCK_ROWS, w->panels, w->half_norms, w->n_panels, w->dim, best, second, ids);
}

enum plm_code plm_calibrate_nearest(const struct plm_calibration *c, double *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    size_t dim = c->plan->column.dim, k = plm_min_size(c->plan->num_partitions, CENTROIDS_MAX);
    struct nearest_work w = {.kernels = ctx->kernels, .n_panels = (k + PLM_PANEL - 1) / PLM_PANEL, .dim = dim};
    size_t n_rows = PLM_BLOCK_ROWS * dim, n_panels = w.n_panels * PLM_PANEL * dim;
    float *values = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &values, n_rows + n_panels + w.n_panels * PLM_PANEL, sizeof *values, NULL));
    fill(values, n_rows + n_panels + w.n_panels * PLM_PANEL);
    w.rows = values;
    w.panels = values + n_rows;
    w.half_norms = values + n_rows + n_panels;
    *out = rate_of(c, nearest_once, &w, (double)PLM_BLOCK_ROWS * (double)(w.n_panels * PLM_PANEL) * (double)dim);
done:
    plm_free(ctx, values);
    return rc;
}

struct byte_work {
    const struct plm_kernels *kernels;
    const uint8_t *rows;
    const int8_t *panels;
    const int32_t *offsets;
    const float *row_terms, *panel_terms;
    float *bounds;
    size_t n_panels, dim;
};

static void bytes_once(void *arg)
{
    const struct byte_work *w = arg;

    w->kernels->byte_bounds(w->rows, w->row_terms, PLM_BLOCK_ROWS, w->panels, w->offsets, w->panel_terms, w->n_panels,
                            w->dim, w->bounds, w->n_panels * PLM_PANEL);
}

/* The values do not matter to integer products: all are 1. */
enum plm_code plm_calibrate_bytes(const struct plm_calibration *c, double *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    size_t k = plm_min_size(c->plan->num_partitions, CENTROIDS_MAX), n_panels = (k + PLM_PANEL - 1) / PLM_PANEL;
    size_t dim = plm_byte_dims(plm_min_size(c->plan->column.dim, PLM_BYTE_DIM_MAX)), n_terms;
    uint8_t *values = NULL;
    float *terms = NULL;
    enum plm_code rc = PLM_OK;

    n_terms = PLM_BLOCK_ROWS * PLM_BYTE_ROW_TERMS + n_panels * PLM_PANEL * (PLM_BYTE_PANEL_TERMS + 1 + PLM_BLOCK_ROWS);
    PLM_TRY(plm_alloc(ctx, &values, (PLM_BLOCK_ROWS + n_panels * PLM_PANEL) * dim, 1, NULL));
    PLM_TRY(plm_calloc(ctx, &terms, n_terms, sizeof *terms, NULL));
    memset(values, 1, (PLM_BLOCK_ROWS + n_panels * PLM_PANEL) * dim);
    struct byte_work w = {.kernels = ctx->kernels, .rows = values, .n_panels = n_panels, .dim = dim, .row_terms = terms};
    w.panels = (const int8_t *)values + PLM_BLOCK_ROWS * dim;
    w.panel_terms = terms + PLM_BLOCK_ROWS * PLM_BYTE_ROW_TERMS;
    w.offsets = (const int32_t *)(const void *)(w.panel_terms + n_panels * PLM_PANEL * PLM_BYTE_PANEL_TERMS);
    w.bounds = terms + n_terms - n_panels * PLM_PANEL * PLM_BLOCK_ROWS;
    *out = rate_of(c, bytes_once, &w, (double)PLM_BLOCK_ROWS * (double)(n_panels * PLM_PANEL) * (double)dim);
done:
    plm_free(ctx, values);
    plm_free(ctx, terms);
    return rc;
}

/* ---- nearest codewords ------------------------------------------------------------------- */

struct codeword_work {
    const struct plm_kernels *kernels;
    const float *groups, *codebook, *half_norms;
    const int16_t *words; /* or NULL */
    const int32_t *offsets;
    size_t n_codes, dsub;
};

static void codewords_once(void *arg)
{
    const struct codeword_work *w = arg;
    uint8_t codes[PQ_GROUPS * PLM_PQ_LANES];
    float best[PQ_GROUPS * PLM_PQ_LANES], second[PQ_GROUPS * PLM_PQ_LANES];
    int32_t best_word[PQ_GROUPS * PLM_PQ_LANES], second_word[PQ_GROUPS * PLM_PQ_LANES];

    if (w->words)
        w->kernels->pq_words(w->groups, PQ_GROUPS, 1, w->words, w->offsets, w->n_codes, w->dsub, codes, best_word,
                             second_word);
    else
        w->kernels->pq_nearest(w->groups, PQ_GROUPS, w->codebook, w->half_norms, w->n_codes, w->dsub, codes, best,
                               second);
}

enum plm_code plm_calibrate_codewords(const struct plm_calibration *c, double *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    const struct plm_plan *p = c->plan;
    struct codeword_work w = {.kernels = ctx->kernels, .n_codes = (size_t)1 << p->num_bits,
                              .dsub = p->column.dim / p->num_sub_vectors};
    size_t n_rows = PQ_GROUPS * PLM_PQ_LANES * w.dsub, n_words = w.n_codes * w.dsub;
    float *values = NULL;
    int32_t *whole = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &values, n_rows + n_words + w.n_codes, sizeof *values, NULL));
    PLM_TRY(plm_calloc(ctx, &whole, w.n_codes, sizeof *whole + plm_pq_word_dims(w.dsub) * sizeof *w.words, NULL));
    fill(values, n_rows + n_words + w.n_codes);
    w.groups = values;
    w.codebook = values + n_rows;
    w.half_norms = values + n_rows + n_words;
    w.offsets = whole;
    w.words = plm_pq_has_words(ctx->kernels, (uint32_t)w.dsub) ? (const int16_t *)(whole + w.n_codes) : NULL;
    *out = rate_of(c, codewords_once, &w, (double)(PQ_GROUPS * PLM_PQ_LANES) * (double)n_words);
done:
    plm_free(ctx, whole);
    plm_free(ctx, values);
    return rc;
}

/* ---- exact distances --------------------------------------------------------------------- */

struct double_work {
    const struct plm_kernels *kernels;
    const float *a, *b;
    size_t n, dim;
    double sum;
};

static void doubles_once(void *arg)
{
    struct double_work *w = arg;

    for (size_t i = 0; i < w->n; i++)
        w->sum += w->kernels->l2_exact(w->a, w->b, w->dim);
}

enum plm_code plm_calibrate_doubles(const struct plm_calibration *c, double *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    size_t dim = c->plan->column.dim;
    struct double_work w = {.kernels = ctx->kernels, .n = 16, .dim = dim};
    float *values = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &values, 2 * dim, sizeof *values, NULL));
    fill(values, 2 * dim);
    w.a = values;
    w.b = values + dim;
    *out = rate_of(c, doubles_once, &w, (double)(w.n * dim));
done:
    plm_free(ctx, values);
    return rc;
}

/* ---- memory ------------------------------------------------------------------------------ */

struct copy_work {
    uint8_t *from, *to;
    size_t n;
};

static void copy_once(void *arg)
{
    const struct copy_work *w = arg;

    memcpy(w->to, w->from, w->n);
}

enum plm_code plm_calibrate_memory(const struct plm_calibration *c, struct plm_rates *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    uint64_t share = plm_min_u64(c->plan->column_bytes, c->plan->budget_bytes) / 16;
    struct copy_work w = {.n = plm_max_size(1 << 18, plm_min_size(COPY_BYTES_MAX, (size_t)share))};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &w.from, w.n, 1, NULL));
    PLM_TRY(plm_alloc(ctx, &w.to, w.n, 1, NULL));
    double began = plm_thread_seconds();
    memset(w.from, 1, w.n);
    out->touch = (double)w.n / fmax(1e-9, plm_thread_seconds() - began);
    out->copy = rate_of(c, copy_once, &w, (double)w.n);
done:
    plm_free(ctx, w.from);
    plm_free(ctx, w.to);
    return rc;
}
