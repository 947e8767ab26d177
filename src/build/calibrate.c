/* calibrate.c - what this machine does in a second, measured in a moment.
 *
 * Arithmetic, and reading what is in memory, is timed by the processor time of the thread, because
 * others may be using the processor; devices by the clock. Every measurement has a limit in seconds that follows
 * from the size of the table, so that small builds are not held up. Nothing measured here shapes an index.
 */
#include <fcntl.h>
#include <math.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "build/plan_parts.h"
#include "simd/simd.h"

#define SECONDS_PER_BYTE 1e-11 /* of the column, for one measurement: 1 GB, 10 ms */
#define SECONDS_MIN 0.3e-3
#define SECONDS_MAX 12e-3
#define WINDOWS 3 /* a measurement is the best of so many: others may use the machine, too */
#define CENTROIDS_MAX 512
#define PQ_GROUPS 8
#define COPY_BYTES_MAX ((size_t)8 << 20)
#define READ_PLACES 4
#define READ_BYTES_MAX ((size_t)4 << 20)
#define READ_BYTES_MIN ((size_t)64 << 10)
#define WRITE_BYTES_MAX ((size_t)4 << 20)
#define WRITE_BYTES_MIN ((size_t)512 << 10) /* with less, only the wait would be measured */
#define WRITES 3
#define SPREAD_ROWS 32 /* of each place */

/* What is usual where nothing can be measured. */
static const struct plm_rates usual = {
    .nearest = 25e9, .bytes = 40e9, .codewords = 20e9, .doubles = 3e9, .copy = 5e9, .touch = 2e9, .read = 1e9, .read_scales = true,
    .write = 0.3e9, .sync = 5e-3,
};
#define REMOTE_READ 80e6 /* of one thread, from object storage */
#define REMOTE_WRITE 100e6
#define REMOTE_SYNC 50e-3

struct calibration {
    struct plm_source *source;
    const struct plm_plan *plan;
    double seconds; /* for each measurement */
};

static double thread_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Reads of this thread that went to a device. */
static long device_reads(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_inblock : 0;
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

/* ---- arithmetic --------------------------------------------------------------------------- */

typedef void work_fn(void *arg);

/* Work a second when one call does so much, in the best of some windows; the first call is not counted. */
static double rate_of(const struct calibration *c, work_fn *fn, void *arg, double work)
{
    double best = 0;

    fn(arg);
    for (int i = 0; i < WINDOWS; i++) {
        double began = thread_seconds(), now, done = 0;
        do {
            fn(arg);
            done += work;
            now = thread_seconds();
        } while (now - began < c->seconds / WINDOWS);
        best = fmax(best, done / (now - began));
    }
    return best;
}

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

static enum plm_code time_nearest(const struct calibration *c, double *out)
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
static enum plm_code time_bytes(const struct calibration *c, double *out)
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

static enum plm_code time_codewords(const struct calibration *c, double *out)
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

static enum plm_code time_doubles(const struct calibration *c, double *out)
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

struct copy_work {
    uint8_t *from, *to;
    size_t n;
};

static void copy_once(void *arg)
{
    const struct copy_work *w = arg;

    memcpy(w->to, w->from, w->n);
}

/* Copying, and before that what memory costs that nobody wrote to yet. */
static enum plm_code time_memory(const struct calibration *c, struct plm_rates *out)
{
    struct plm_ctx *ctx = c->source->ctx;
    uint64_t share = plm_min_u64(c->plan->column_bytes, c->plan->budget_bytes) / 16;
    struct copy_work w = {.n = plm_max_size(1 << 18, plm_min_size(COPY_BYTES_MAX, (size_t)share))};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &w.from, w.n, 1, NULL));
    PLM_TRY(plm_alloc(ctx, &w.to, w.n, 1, NULL));
    double began = thread_seconds();
    memset(w.from, 1, w.n);
    out->touch = (double)w.n / fmax(1e-9, thread_seconds() - began);
    out->copy = rate_of(c, copy_once, &w, (double)w.n);
done:
    plm_free(ctx, w.from);
    plm_free(ctx, w.to);
    return rc;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Over pairs of rows less their mean, E|x|^2 is the sum of the eigenvalues of their covariance and
 * E(x.y)^2 the sum of their squares. */
struct spread {
    double norms, products;
    uint64_t n_norms, n_products;
};

static void add_pairs(const struct plm_kernels *kernels, float *rows, size_t n, size_t dim, struct spread *s)
{
    for (size_t d = 0; d < dim; d++) {
        double mean = 0;
        for (size_t i = 0; i < n; i++)
            mean += (double)rows[i * dim + d] / (double)n;
        for (size_t i = 0; i < n; i++)
            rows[i * dim + d] -= (float)mean;
    }
    for (size_t i = 0; i < n; i++) {
        s->norms += kernels->norm2(rows + i * dim, dim);
        for (size_t j = 0; j < i; j++) {
            double product = kernels->dot_exact(rows + i * dim, rows + j * dim, dim);
            s->products += product * product;
        }
    }
    s->n_norms += n;
    s->n_products += n * (n - 1) / 2;
}

/* Seconds that it takes; of the clock when a device was waited for, else of the processor. */
static enum plm_code time_read(const struct calibration *c, uint64_t first, size_t n, struct plm_batch *batch,
                               double *seconds, bool *waited)
{
    double began = plm_now_seconds(), worked = thread_seconds();
    long reads = device_reads();
    enum plm_code rc = plm_source_read(c->source, c->plan->metric, first, n, batch, NULL);

    *waited = device_reads() != reads;
    *seconds = *waited ? plm_now_seconds() - began : thread_seconds() - worked;
    return rc;
}

/* Rows at a few places: how fast they come, and how their variance is spread. */
static enum plm_code look_at_rows(const struct calibration *c, struct plm_rates *out)
{
    const struct plm_plan *p = c->plan;
    size_t row_bytes = p->column.dim * (size_t)plm_element_bytes(p->column.element);
    size_t bytes = plm_max_size(READ_BYTES_MIN, plm_min_size(READ_BYTES_MAX, (size_t)p->column_bytes / 32));
    size_t n = plm_max_size(1, (size_t)plm_min_u64(p->n_live / READ_PLACES, bytes / READ_PLACES / row_bytes));
    struct plm_batch batch = {0};
    struct spread spread = {0};
    double seconds, least = INFINITY; /* for a place: the best, as others use the machine too */
    bool waited, waited_ever = false;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < READ_PLACES && p->n_live >= READ_PLACES * n; i++) {
        PLM_TRY(time_read(c, p->n_live / READ_PLACES * i, n, &batch, &seconds, &waited));
        if (i > 0) { /* the first also allocates */
            least = fmin(least, seconds);
            waited_ever = waited_ever || waited;
        }
        if (p->num_partitions >= 64 && batch.n > 1)
            add_pairs(c->source->ctx->kernels, batch.rows, plm_min_size(batch.n, SPREAD_ROWS), batch.dim, &spread);
    }
    if (isfinite(least) && least > 0) {
        out->read = (double)(n * row_bytes) / least;
        out->read_scales = !waited_ever;
    }
    if (spread.products > 0) {
        double norm = spread.norms / (double)spread.n_norms;
        out->spread = norm * norm / (spread.products / (double)spread.n_products);
    }
done:
    plm_batch_reset(&batch);
    return rc;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static bool write_all(int file, const uint8_t *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t done = write(file, bytes + at, n - at);
        if (done <= 0)
            return false;
        at += (size_t)done;
    }
    return fdatasync(file) == 0;
}

/* The file has no name: nobody sees it, and it is gone when it is closed. */
static enum plm_code time_writes(const struct calibration *c, const char *dir, struct plm_rates *out)
{
    enum plm_code rc = PLM_OK;
#ifdef O_TMPFILE
    size_t n = plm_min_size(WRITE_BYTES_MAX, (size_t)plm_min_u64(c->plan->column_bytes / 64, c->plan->budget_bytes / 16));
    double sync = INFINITY, least = INFINITY;
    uint8_t *bytes = NULL;
    int file = -1;

    n = plm_max_size(n, WRITE_BYTES_MIN);
    PLM_TRY(plm_alloc(c->source->ctx, &bytes, n, 1, NULL));
    memset(bytes, 1, n);
    file = open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    for (int i = 0; i < 2 * WRITES; i++) { /* a little and a lot, in turn */
        double began = plm_now_seconds();
        if (file < 0 || !write_all(file, bytes, i % 2 ? n : 4096))
            goto done;
        double *best = i % 2 ? &least : &sync;
        *best = fmin(*best, plm_now_seconds() - began);
    }
    out->sync = sync;
    out->write = (double)n / fmax(fmax(least - sync, least / 2), (double)n / out->copy);
done:
    if (file >= 0)
        close(file);
    plm_free(c->source->ctx, bytes);
#else
    (void)c, (void)dir, (void)out;
#endif
    return rc;
}

/* ---- all of it -------------------------------------------------------------------------------------- */

static struct plm_rates remote(struct plm_rates rates, unsigned threads)
{
    rates.read = REMOTE_READ;
    rates.write = REMOTE_WRITE * threads;
    rates.sync = REMOTE_SYNC;
    return rates;
}

void plm_calibrate(struct plm_source *source, const struct plm_plan *plan, const struct plm_store *root,
                   struct plm_rates *out)
{
    struct calibration c = {source, plan, (double)plan->column_bytes * SECONDS_PER_BYTE};
    struct plm_rates rates = usual;

    if (plan->n_workers > 0) { /* what plans for workers is not where they work */
        *out = plm_store_is_local(root) ? rates : remote(rates, source->ctx->threads);
        return;
    }
    c.seconds = fmin(SECONDS_MAX, fmax(SECONDS_MIN, c.seconds));
    (void)!time_nearest(&c, &rates.nearest);
    (void)!time_bytes(&c, &rates.bytes);
    if (plan->quantizer == PLM_PQ)
        (void)!time_codewords(&c, &rates.codewords);
    (void)!time_doubles(&c, &rates.doubles);
    (void)!time_memory(&c, &rates);
    if (plm_store_is_local(root)) {
        (void)!look_at_rows(&c, &rates);
        (void)!time_writes(&c, plm_store_uri(root), &rates);
    } else {
        rates = remote(rates, source->ctx->threads);
    }
    *out = rates;
}
