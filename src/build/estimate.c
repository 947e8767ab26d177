/* estimate.c - what a build will cost: the work of each phase, divided by what this machine does in
 * a second (calibrate.c).
 *
 * A phase is a sum of terms. Each is work over rate, times a weight: what the formula leaves out,
 * found by comparing builds with their plans. `bench/fit.py` does that and prints the weights.
 */
#include <math.h>

#include "build/plan_parts.h"

/* Passes and shapes, as the phases have them. */
#define AXES_ROWS 2000   /* rows the projection is made from */
#define AXES_ROUNDS 3    /* of subspace iteration */
#define DOUBLES_PER_S 3e9 /* multiply-adds in double, one thread */
#define LEVEL_ROUNDS 10  /* k-means rounds of a tree level */
#define LLOYD_ROUNDS 3   /* refinement in full dimension */
#define PQ_PASSES 18     /* over the training rows, the smaller sample counted in */
#define HEAD_RANK 80     /* leading dimensions by which most partitions are excluded */
#define HEAD_SPREAD 0.15 /* of the dimensions: variance spread over no more than that makes a head pay */
#define HEAD_LEFT 8      /* partitions evaluated in full behind a head */
#define FILTER_PARTITIONS 128 /* below that, or below so many dimensions, there is no filter */
#define FILTER_DIM 64
#define FILTER_ROW 16    /* multiply-adds a dimension that packing a row for a filter costs */
#define FILTER_PLACE 16  /* multiply-adds that a look at a bound costs */
#define BYTES_LEFT 4     /* partitions evaluated in full behind bytes */
#define CHECK_ROWS_MIN 32
#define CHECK_ROWS_MAX 1024
#define CHECK_WORK 2e9   /* multiply-adds in double of the sampled check */
#define CHECK_READS 262144 /* bytes of the index read for a row that is looked for */
#define CHECK_SMALL_READS 80 /* slices of the table, tails and ids of the index */
#define CURVE_SHARE 0.0625 /* of the partitions: recall is measured up to there at least */

struct term_info {
    const char *phase, *name;
    double weight;
};

static const struct term_info infos[PLM_N_TERMS] = {
    [PLM_TERM_SAMPLE] = {"train", "read", 1.13},
    [PLM_TERM_AXES] = {"train", "axes", 1.14},
    [PLM_TERM_TREE] = {"train", "tree", 4.69},
    [PLM_TERM_LEAVES] = {"train", "leaves", 1.44},
    [PLM_TERM_LLOYD] = {"train", "refine", 1.63},
    [PLM_TERM_SUMS] = {"train", "sums", 1.0},
    [PLM_TERM_CODEBOOK] = {"train", "codebook", 0.56},
    [PLM_TERM_READ] = {"encode", "read", 2.88},
    [PLM_TERM_ASSIGN] = {"encode", "assign", 1.05},
    [PLM_TERM_CODES] = {"encode", "codes", 1.36},
    [PLM_TERM_PROBES] = {"encode", "probes", 2.07},
    [PLM_TERM_RUNS] = {"encode", "write", 1.69},
    [PLM_TERM_GATHER] = {"merge", "gather", 2.00},
    [PLM_TERM_WRITE] = {"merge", "write", 1.0},
    [PLM_TERM_CHECK] = {"verify", "check", 0.9},
    [PLM_TERM_SCAN] = {"verify", "scan", 3.00},
    [PLM_TERM_TABLES] = {"verify", "tables", 25.00},
    [PLM_TERM_COMMIT] = {"commit", "sync", 7.9},
};

const char *plm_term_name(enum plm_term term, const char **phase)
{
    *phase = infos[term].phase;
    return infos[term].name;
}

/* The plan in numbers that multiply. */
struct work {
    double n, d, k, sample, threads, code, column_bytes, element_bytes;
    double projected, fan, codewords, pq_rows;
    const struct plm_plan *plan;
    const struct plm_rates *rates;
};

static struct work work_of(const struct plm_plan *p, const struct plm_rates *rates, unsigned threads)
{
    struct work w = {
        .n = (double)p->n_live, .d = p->column.dim, .k = p->num_partitions, .sample = (double)p->sample_rows,
        .threads = threads, .code = plm_plan_code_bytes(p) + 8.0, .column_bytes = (double)p->column_bytes,
        .plan = p, .rates = rates,
    };
    w.projected = w.d < 96 ? w.d : w.d <= 256 ? 64 : 128;
    w.fan = ceil(sqrt(w.k));
    if (p->quantizer == PLM_PQ) {
        w.codewords = (double)(1u << p->num_bits);
        w.pq_rows = fmin(w.codewords * PLM_PQ_SAMPLE_PER_CODE, w.sample);
    }
    return w;
}

static double computed(const struct work *w, double multiply_adds)
{
    return multiply_adds / (w->rates->nearest * w->threads);
}

static double moved(const struct work *w, double bytes)
{
    return bytes / (w->rates->copy * w->threads);
}

static double fetched(const struct work *w, double bytes)
{
    return bytes / (w->rates->read * (w->rates->read_scales ? w->threads : 1));
}

/* Runs hold no codes: merging takes them from the table. */
static bool reads_again(const struct work *w)
{
    return w->plan->memory.gather_bytes > 0;
}

/* Exact assignment of a row in multiply-adds of the fp32 kernel, the best way: all partitions; all in
 * bytes, and a few in full; their leading dimensions, where these hold most of the variance. */
static double assign_work(const struct work *w)
{
    double all = w->k * w->d, in_bytes = w->rates->nearest / w->rates->bytes;

    if (w->k < FILTER_PARTITIONS || w->d < FILTER_DIM)
        return all;
    double best = fmin(all, all * in_bytes + (FILTER_ROW + BYTES_LEFT) * w->d + FILTER_PLACE * w->k);
    if (w->rates->spread > 0 && w->rates->spread <= HEAD_SPREAD * w->d)
        best = fmin(best, w->d * HEAD_RANK + w->k * (HEAD_RANK + 2) * fmin(1, in_bytes) +
                              (FILTER_ROW + HEAD_LEFT) * w->d + FILTER_PLACE * w->k);
    return best;
}

/* ---- phases ------------------------------------------------------------------------------- */

static void estimate_train(const struct work *w, double *terms)
{
    const struct plm_plan *p = w->plan;
    double axes_rows = fmin(AXES_ROWS, w->sample), r = w->projected;
    bool given = p->centroids_xxh3 != 0;

    terms[PLM_TERM_SAMPLE] = fetched(w, w->column_bytes * w->sample / w->n) + moved(w, w->sample * w->d * 4);
    if (!given) {
        if (r < w->d)
            terms[PLM_TERM_AXES] = computed(w, (2 * AXES_ROUNDS * axes_rows + w->sample) * w->d * r) +
                                   AXES_ROUNDS * 2 * r * r * w->d / DOUBLES_PER_S;
        terms[PLM_TERM_TREE] = computed(w, 2 * LEVEL_ROUNDS * w->sample * w->fan * r) +
                               moved(w, 2 * LEVEL_ROUNDS * w->sample * r * 4 * 2);
        terms[PLM_TERM_LEAVES] = computed(w, w->sample * w->k * r);
        terms[PLM_TERM_LLOYD] = LLOYD_ROUNDS * computed(w, w->sample * assign_work(w));
        terms[PLM_TERM_SUMS] = (LLOYD_ROUNDS + 1) * moved(w, w->sample * w->d * 4);
    }
    if (p->quantizer == PLM_PQ && p->codebook_xxh3 == 0)
        terms[PLM_TERM_CODEBOOK] = w->pq_rows * PQ_PASSES * w->codewords * w->d / (w->rates->codewords * w->threads) +
                                   computed(w, w->pq_rows * assign_work(w)) + moved(w, w->pq_rows * w->d * 8);
}

static void estimate_encode(const struct work *w, double *terms)
{
    terms[PLM_TERM_READ] = fetched(w, w->column_bytes);
    terms[PLM_TERM_ASSIGN] = computed(w, w->n * assign_work(w));
    terms[PLM_TERM_PROBES] = computed(w, w->n * w->d * PLM_PROBE_QUERIES);
    if (w->plan->quantizer == PLM_PQ)
        terms[PLM_TERM_CODES] = w->n * w->codewords * w->d / (w->rates->codewords * w->threads);
    else
        terms[PLM_TERM_CODES] = moved(w, w->n * w->d * 4);
    terms[PLM_TERM_RUNS] = moved(w, 2 * w->n * (w->plan->memory.gather_bytes ? 12 : w->code)) + (double)w->plan->n_tasks * w->rates->sync / w->threads;
}

/* Bytes of a row of the index that a query looks at: FLAT distances need not be computed again. */
static double seen_bytes(const struct work *w)
{
    return w->plan->quantizer == PLM_FLAT ? 8 : w->code;
}

static void estimate_rest(const struct work *w, double *terms)
{
    double bytes = w->n * w->code + w->k * w->d * 4;
    double rows = fmin(CHECK_ROWS_MAX, fmax(CHECK_ROWS_MIN, CHECK_WORK / (w->k * w->d)));
    double scanned = PLM_PROBE_QUERIES * CURVE_SHARE * w->n * seen_bytes(w);

    terms[PLM_TERM_GATHER] = moved(w, 2 * w->n * w->code) + (reads_again(w) ? fetched(w, w->column_bytes) : 0);
    terms[PLM_TERM_WRITE] = bytes / w->rates->write + 3 * (double)w->plan->n_segments * w->rates->sync;
    terms[PLM_TERM_CHECK] = fmin(rows, w->n) * w->k * w->d / (DOUBLES_PER_S * w->threads) + moved(w, w->n * 16);
    terms[PLM_TERM_SCAN] = moved(w, scanned);
    if (w->plan->quantizer == PLM_PQ) /* a table of distances for each query and partition */
        terms[PLM_TERM_TABLES] = computed(w, PLM_PROBE_QUERIES * fmax(1, w->k * CURVE_SHARE) * w->codewords * w->d);
    terms[PLM_TERM_COMMIT] = w->rates->sync;
}

/* ---- bytes and requests ----------------------------------------------------------------------- */

/* The column once for the sample's share and once for all rows; runs written and read back, or, where
 * they hold no codes, the column once more; what the check reads of the index. The model lies in the job
 * and in the index. */
static void estimate_bytes(const struct work *w, struct plm_estimate *out)
{
    double codes = w->n * w->code, model = (w->k + w->codewords) * w->d * 4, spilled = 0;
    bool again = reads_again(w);
    double runs = again ? w->n * 12 : codes;

    if (w->sample * w->d * 4 > (double)w->plan->memory.sample_bytes)
        spilled = w->sample * w->d * 4;
    double projected = w->plan->memory.spills_projected ? w->sample * w->projected * 4 : 0;

    out->bytes_read = (uint64_t)(w->column_bytes * (1 + again + w->sample / w->n) + runs + w->n * (8 + seen_bytes(w)) +
                                 fmin(codes, CHECK_ROWS_MAX * (double)CHECK_READS) + spilled * (LLOYD_ROUNDS + 2) +
                                 projected * (2 * LEVEL_ROUNDS + LLOYD_ROUNDS + 1));
    out->bytes_written = (uint64_t)(runs + codes + 2 * model + PLM_PROBE_QUERIES * w->d * 4 + spilled + projected);
}

/* Reads and writes of merging: each group of blocks takes two slices of every run, or stretches of rows
 * of the table. */
static void estimate_merge_requests(const struct plm_plan *p, struct plm_estimate *out)
{
    struct plm_layout l = plm_layout_of(p->n_live, plm_plan_code_bytes(p));
    uint64_t whole = plm_layout_end(&l), each = p->memory.gather_bytes ? p->memory.gather_bytes : p->memory.merge_bytes;
    uint64_t groups = whole / plm_max_u64(1, each) + 1;

    if (!p->memory.gather_bytes)
        out->get += 2 * groups * p->n_tasks + whole / plm_max_u64(1, p->memory.slice_bytes);
    else
        out->get += groups * p->n_tasks + (groups > 1 ? p->n_live - p->n_live / groups : whole >> 20);
    out->put += l.n_blocks;
}

/* As local I/O counts them: footers, batches, runs and their slices. */
static void estimate_requests(const struct plm_source *source, const struct plm_plan *p, struct plm_estimate *out)
{
    uint64_t batches = p->n_live / p->memory.batch_rows + p->n_tasks;
    /* Slices next to each other are read at once: those with none behind them are a stretch. */
    double missed = 1 - (double)p->sample_rows / (double)p->n_live;
    uint64_t stretches = (uint64_t)((double)(p->sample_rows / PLM_SLICE_ROWS) * missed) + source->n_fragments;

    uint64_t checks = p->n_live * plm_plan_code_bytes(p) / CHECK_READS + CHECK_SMALL_READS;
    out->get = 3 + 2 * source->n_fragments + batches + stretches + p->n_tasks +
               plm_min_u64(CHECK_ROWS_MAX, checks);
    out->put = p->n_tasks + 2 * p->n_segments + 6;
    out->list = 4;
    estimate_merge_requests(p, out);
}

void plm_plan_estimate(const struct plm_source *source, const struct plm_plan *p, const struct plm_rates *rates,
                       double seconds_so_far, struct plm_estimate *out)
{
    struct work w = work_of(p, rates, source->ctx->threads);
    struct plm_estimate e = {.plan = seconds_so_far, .peak_rss_bytes = p->memory.expected_bytes, .rates = *rates};
    double *const phases[] = {&e.train, &e.encode, &e.merge, &e.verify, &e.commit};
    static const char *const names[] = {"train", "encode", "merge", "verify", "commit"};

    estimate_train(&w, e.terms);
    estimate_encode(&w, e.terms);
    estimate_rest(&w, e.terms);
    e.total = e.plan;
    for (int t = 0; t < PLM_N_TERMS; t++) {
        e.terms[t] *= infos[t].weight;
        for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
            if (strcmp(infos[t].phase, names[i]) == 0)
                *phases[i] += e.terms[t];
        e.total += e.terms[t];
    }
    estimate_bytes(&w, &e);
    estimate_requests(source, p, &e);
    if (!plm_store_is_local(source->manifest->store))
        plm_estimate_remote(source, p, &e);
    *out = e;
}
