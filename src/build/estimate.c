/* estimate.c - what a build will cost: the work of each phase, divided by what this machine does in
 * a second (calibrate.c).
 *
 * A phase is a sum of terms. Each is work over rate, times a weight: what the formula leaves out,
 * found by comparing builds with their plans. `bench/fit.py` does that and prints the weights.
 */
#include <math.h>

#include "build/plan_parts.h"

/* Passes and shapes, as the phases have them. */
#define START 1e-3       /* seconds: a phase's own beginning and end, in units that the weights multiply */
#define AXES_ROWS 2000   /* rows the projection is made from */
#define AXES_SPREAD 0.6  /* of the dimensions: variance spread over more leaves too much beside the axes */
#define AXES_ROUNDS 3    /* of subspace iteration */
#define ROOT_FAN 256
#define LEVEL_ROUNDS 10  /* k-means rounds of a tree level */
#define FEW_ROUNDS 12    /* and of the only one, where there are few partitions */
#define LLOYD_ROUNDS 3   /* refinement in full dimension */
#define GROUPED 4096     /* from so many partitions on training finds leaves in groups of near ones, */
#define GROUPED_FULL 16384 /* and partitions; between, exactly, */
#define GROUP_LOOKS 16   /* at least so many groups, or one in so many */
#define PQ_PASSES 20     /* over the training rows, the smaller sample counted in */
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
#define CACHED_SHARE 0.875 /* of the memory that is left to this process: for the column and what the build takes */
#define CURVE_BYTES 2e9  /* the recall curve ends where more would be scanned */
#define CURVE_SHARE 16   /* measured at first up to one partition in so many */
#define CURVE_ENOUGH 64  /* partitions probed: where the curve is seldom measured further */
#define CURVE_LANES 8    /* queries that are compared with a PQ code at once */
#define ID_WORK 40       /* multiply-adds in double that a row id costs which is hashed twice, */
#define LOOK_WORK 400    /* and one that is looked for among true neighbours */

struct term_info {
    const char *phase, *name;
    double weight;
};

static const struct term_info infos[PLM_N_TERMS] = {
    [PLM_TERM_TRAIN_START] = {"train", "start", 34.2},
    [PLM_TERM_SAMPLE] = {"train", "read", 8.57},
    [PLM_TERM_COPY] = {"train", "copy", 0.668},
    [PLM_TERM_AXES] = {"train", "axes", 1.91},
    [PLM_TERM_PROJECT] = {"train", "project", 0.0865},
    [PLM_TERM_TREE] = {"train", "tree", 1.81},
    [PLM_TERM_NODES] = {"train", "nodes", 3.62},
    [PLM_TERM_LEAVES] = {"train", "leaves", 0.02},
    [PLM_TERM_LLOYD] = {"train", "refine", 1.23},
    [PLM_TERM_SUMS] = {"train", "sums", 1.82},
    [PLM_TERM_CENTROIDS] = {"train", "centroids", 0.02},
    [PLM_TERM_CODEBOOK] = {"train", "codebook", 0.77},
    [PLM_TERM_COLUMNS] = {"train", "columns", 1.49},
    [PLM_TERM_ENCODE_START] = {"encode", "start", 8.35},
    [PLM_TERM_READ] = {"encode", "read", 0.815},
    [PLM_TERM_ASSIGN] = {"encode", "assign", 1.14},
    [PLM_TERM_CODES] = {"encode", "codes", 2.36},
    [PLM_TERM_PROBES] = {"encode", "probes", 2.51},
    [PLM_TERM_RUNS] = {"encode", "write", 3.17},
    [PLM_TERM_MERGE_START] = {"merge", "start", 2.05},
    [PLM_TERM_GATHER] = {"merge", "gather", 1.77},
    [PLM_TERM_ROOM] = {"merge", "room", 0.84},
    [PLM_TERM_PAGES] = {"merge", "pages", 0.929},
    [PLM_TERM_WRITE] = {"merge", "write", 1.27},
    [PLM_TERM_VERIFY_START] = {"verify", "start", 2.42},
    [PLM_TERM_FETCH] = {"verify", "read", 2.95},
    [PLM_TERM_IDS] = {"verify", "ids", 2.32},
    [PLM_TERM_CHECK] = {"verify", "check", 1.28},
    [PLM_TERM_SCAN] = {"verify", "scan", 0.388},
    [PLM_TERM_LINES] = {"verify", "lines", 4.08},
    [PLM_TERM_LOOK] = {"verify", "look", 3.3},
    [PLM_TERM_TABLES] = {"verify", "tables", 7.16},
    [PLM_TERM_COMMIT] = {"commit", "sync", 22.3},
};

const char *plm_term_name(enum plm_term term, const char **phase)
{
    *phase = infos[term].phase;
    return infos[term].name;
}

/* The plan in numbers that multiply. */
struct work {
    double n, d, k, sample, threads, code, column_bytes, element_bytes;
    double projected, fans, codewords, pq_rows;
    bool verifies, verifies_all, stays_cached;
    const struct plm_plan *plan;
    const struct plm_rates *rates;
};

/* Children of the root and of a node below it. */
static double fans_of(double k)
{
    double root = fmax(1, fmax(ceil(sqrt(k)), fmin(ROOT_FAN, k)));

    return root + (k > root ? ceil(k / root) : 0);
}

static double level_rounds(double k) { return k > ROOT_FAN ? LEVEL_ROUNDS : FEW_ROUNDS; }

static double tree_rounds(double k) { return (k > ROOT_FAN ? 2 : 1) * level_rounds(k); }

static struct work work_of(const struct plm_plan *p, const struct plm_rates *rates, const char *verify, unsigned threads)
{
    struct work w = {
        .n = (double)p->n_live, .d = p->column.dim, .k = p->num_partitions, .sample = (double)p->sample_rows,
        .threads = threads, .code = plm_plan_code_bytes(p) + 8.0, .column_bytes = (double)p->column_bytes,
        .plan = p, .rates = rates,
        .verifies = !verify || strcmp(verify, "none") != 0, .verifies_all = verify && strcmp(verify, "full") == 0,
    };
    w.projected = w.d < 96 || (w.d <= 256 && rates->spread > AXES_SPREAD * w.d) ? w.d : w.d <= 256 ? 64 : 128;
    w.fans = fans_of(w.k);
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

static double first_written(const struct work *w, double bytes)
{
    return bytes / (w->rates->touch * w->threads);
}

static double exactly(const struct work *w, double multiply_adds)
{
    return multiply_adds / (w->rates->doubles * w->threads);
}

static double fetched(const struct work *w, double bytes)
{
    return bytes / (w->rates->read * (w->rates->read_scales ? w->threads : 1));
}

/* What was read before, sample and all: from memory, where the page cache can hold the column. */
static double fetched_again(const struct work *w, double bytes)
{
    return w->stays_cached ? bytes / (w->rates->again * w->threads) : fetched(w, bytes);
}

/* Runs hold no codes: merging takes them from the table. */
static bool is_gathered(const struct work *w)
{
    return w->plan->memory.gather_bytes > 0;
}

/* Share of the column that is read once the sample is there: it may be kept, and stands for its rows then. */
static double share_read(const struct work *w)
{
    return w->plan->memory.keeps_sample ? 1 - w->sample / w->n : 1;
}

/* Do few leading dimensions hold most of the variance? */
static bool has_head(const struct work *w)
{
    return w->rates->spread > 0 && w->rates->spread <= HEAD_SPREAD * w->d;
}

/* Exact assignment of a row in multiply-adds of the fp32 kernel, the best way: all partitions; all in
 * bytes, and a few in full; their leading dimensions, where these hold most of the variance. */
static double assign_work(const struct work *w)
{
    double all = w->k * w->d, in_bytes = w->rates->nearest / w->rates->bytes;

    if (w->k < FILTER_PARTITIONS || w->d < FILTER_DIM)
        return all;
    double best = fmin(all, all * in_bytes + (FILTER_ROW + BYTES_LEFT) * w->d + FILTER_PLACE * w->k);
    if (has_head(w))
        best = fmin(best, w->d * HEAD_RANK + w->k * (HEAD_RANK + 2) * fmin(1, in_bytes) +
                              (FILTER_ROW + HEAD_LEFT) * w->d + FILTER_PLACE * w->k);
    return best;
}

/* Points that a row is compared with while training. */
static double looked_at(double k)
{
    double groups = ceil(sqrt(k)), looks = fmin(groups, fmax(GROUP_LOOKS, groups / GROUP_LOOKS));

    return k < GROUPED ? k : groups * (1 + looks);
}

/* A row of the sample in a Lloyd step: by its coordinates on the axes, and a few in full; exactly, where the
 * axes say too little. */
static double place_work(const struct work *w)
{
    if (w->k >= GROUPED && w->k < GROUPED_FULL)
        return assign_work(w);
    if (w->projected >= w->d)
        return fmin(assign_work(w), looked_at(w->k) * w->d);
    return w->k >= FILTER_PARTITIONS && !has_head(w) ? assign_work(w) : looked_at(w->k) * w->projected + HEAD_LEFT * w->d;
}

/* ---- phases ------------------------------------------------------------------------------- */

static void estimate_centroids(const struct work *w, double *terms)
{
    double axes_rows = fmin(AXES_ROWS, w->sample), r = w->projected, values = w->sample * r;

    if (r < w->d) {
        terms[PLM_TERM_AXES] = computed(w, 2 * AXES_ROUNDS * axes_rows * w->d * r) +
                               w->threads * exactly(w, AXES_ROUNDS * 2 * r * r * w->d);
        terms[PLM_TERM_PROJECT] = computed(w, values * w->d) + moved(w, w->sample * w->d * 4);
    }
    terms[PLM_TERM_TREE] = computed(w, level_rounds(w->k) * values * w->fans);
    terms[PLM_TERM_NODES] = moved(w, tree_rounds(w->k) * values * 4);
    terms[PLM_TERM_LEAVES] = computed(w, values * looked_at(w->k));
    terms[PLM_TERM_LLOYD] = LLOYD_ROUNDS * computed(w, w->sample * place_work(w));
    terms[PLM_TERM_SUMS] = (LLOYD_ROUNDS + 1) * moved(w, w->sample * w->d * 4);
    terms[PLM_TERM_CENTROIDS] = (LLOYD_ROUNDS + 1) * w->threads * moved(w, w->k * w->d * 8);
}

static void estimate_train(const struct work *w, double *terms)
{
    const struct plm_plan *p = w->plan;

    terms[PLM_TERM_TRAIN_START] = START;
    terms[PLM_TERM_SAMPLE] = moved(w, w->sample * w->d * 4);
    if (!p->memory.views_sample)
        terms[PLM_TERM_COPY] = fetched(w, w->column_bytes * w->sample / w->n) + first_written(w, w->sample * w->d * 4);
    else if (!w->rates->read_scales) /* not copied, but on a device still */
        terms[PLM_TERM_COPY] = fetched(w, w->column_bytes * w->sample / w->n);
    if (p->centroids_xxh3 == 0)
        estimate_centroids(w, terms);
    if (p->quantizer == PLM_PQ && p->codebook_xxh3 == 0) {
        terms[PLM_TERM_CODEBOOK] = w->pq_rows * PQ_PASSES * w->codewords * w->d / (w->rates->codewords * w->threads);
        terms[PLM_TERM_COLUMNS] = computed(w, w->pq_rows * assign_work(w)) + moved(w, w->pq_rows * w->d * 8);
    }
}

static void estimate_encode(const struct work *w, double *terms)
{
    double run = w->n * (is_gathered(w) ? 12 : w->code);

    terms[PLM_TERM_ENCODE_START] = START;
    double sampled = w->plan->memory.keeps_sample ? 0 : w->sample / w->n;
    terms[PLM_TERM_READ] = fetched(w, w->column_bytes * (1 - w->sample / w->n)) + fetched_again(w, w->column_bytes * sampled);
    terms[PLM_TERM_ASSIGN] = computed(w, w->n * assign_work(w));
    terms[PLM_TERM_PROBES] = computed(w, w->n * w->d * PLM_PROBE_QUERIES);
    if (w->plan->quantizer == PLM_PQ)
        terms[PLM_TERM_CODES] = w->n * w->codewords * w->d / (w->rates->codewords * w->threads);
    else
        terms[PLM_TERM_CODES] = moved(w, w->n * w->d * 4);
    terms[PLM_TERM_RUNS] = moved(w, 2 * run) + (plm_plan_is_large(w->plan) ? run / w->rates->write : first_written(w, run));
}

static void estimate_merge(const struct work *w, double *terms)
{
    double bytes = w->n * w->code, room = (double)(is_gathered(w) ? w->plan->memory.gather_bytes : w->plan->memory.merge_bytes);

    terms[PLM_TERM_MERGE_START] = START + 3 * (double)w->plan->n_segments * w->rates->sync;
    terms[PLM_TERM_GATHER] = moved(w, 2 * bytes) + (is_gathered(w) ? fetched_again(w, w->column_bytes * share_read(w)) : 0);
    terms[PLM_TERM_ROOM] = first_written(w, fmin(bytes, room));
    terms[PLM_TERM_PAGES] = plm_plan_is_large(w->plan) ? 0 : bytes / w->rates->touch;
    double runs = plm_plan_is_large(w->plan) && !is_gathered(w) ? bytes : 0; /* read from where the index goes */
    terms[PLM_TERM_WRITE] = (runs + bytes + w->k * w->d * 4) / w->rates->write;
}

/* ---- the recall curve, as check_recall.c draws it ------------------------------------------------ */

/* Shares of the partitions that are probed: by the first measurement of the curve, and by a second one
 * of all of it (0: there will be none). */
struct curve {
    double first, all;
};

static struct curve curve_of(const struct work *w)
{
    double bytes = PLM_PROBE_QUERIES * w->n * (w->plan->quantizer == PLM_FLAT ? 8 : w->code), n = 1;
    struct curve c = {.first = 1 / w->k, .all = 1 / w->k};
    bool begun = false;

    for (unsigned points = 1; points < PLM_RECALL_POINTS && n < w->k && fmin(2 * n, w->k) / w->k * bytes <= CURVE_BYTES; points++) {
        begun = begun || (points >= 3 && n >= w->k / CURVE_SHARE);
        n = fmin(2 * n, w->k);
        c.all = n / w->k;
        if (!begun)
            c.first = c.all;
    }
    if (w->plan->quantizer == PLM_FLAT)
        c.first = c.all;
    bool is_enough = c.first >= c.all || (c.first * w->k >= CURVE_ENOUGH && has_head(w));
    return is_enough ? (struct curve){c.first, 0} : c;
}

/* A code is compared with the lanes of a group of queries when any of them visits its partition. */
static double visited(double share)
{
    return PLM_PROBE_QUERIES * (1 - pow(1 - share, CURVE_LANES));
}

/* Every row read, placed and encoded again. */
static void estimate_full_check(const struct work *w, double *terms)
{
    double encode[PLM_N_TERMS] = {0};

    estimate_encode(w, encode);
    for (int t = PLM_TERM_READ; t <= PLM_TERM_CODES; t++)
        terms[PLM_TERM_CHECK] += infos[t].weight * encode[t] / infos[PLM_TERM_CHECK].weight;
    terms[PLM_TERM_IDS] += moved(w, w->n * w->code);
}

static void estimate_verify(const struct work *w, double *terms)
{
    if (!w->verifies)
        return;
    struct curve c = curve_of(w);
    double rows = fmin(CHECK_ROWS_MAX, fmax(CHECK_ROWS_MIN, CHECK_WORK / (w->k * w->d))), passes = 1 + (c.all > 0);

    terms[PLM_TERM_VERIFY_START] = START;
    if (plm_plan_is_large(w->plan)) /* and no page cache has it */
        terms[PLM_TERM_FETCH] = w->n * (w->plan->quantizer == PLM_FLAT ? 8 : w->code) / w->rates->write;
    terms[PLM_TERM_IDS] = exactly(w, w->n * ID_WORK);
    terms[PLM_TERM_CHECK] = exactly(w, (fmin(rows, w->n) + passes * PLM_PROBE_QUERIES) * w->k * w->d);
    if (w->verifies_all)
        estimate_full_check(w, terms);
    if (w->plan->quantizer == PLM_FLAT) { /* distances are exact: neighbours are looked for by row id */
        terms[PLM_TERM_LOOK] = exactly(w, w->n * LOOK_WORK);
        return;
    }
    terms[PLM_TERM_LOOK] = exactly(w, PLM_PROBE_QUERIES * (c.first + c.all) * w->n);
    if (w->plan->quantizer == PLM_SQ) {
        terms[PLM_TERM_SCAN] = exactly(w, PLM_PROBE_QUERIES * (c.first + c.all) * w->n * w->d);
        return;
    }
    terms[PLM_TERM_LINES] = exactly(w, (visited(c.first) + visited(c.all)) * w->n * (w->code - 8));
    terms[PLM_TERM_TABLES] = exactly(w, passes * PLM_PROBE_QUERIES * 2 * w->codewords * w->d);
}

/* ---- all of it ------------------------------------------------------------------------------- */

void plm_plan_estimate(const struct plm_source *source, const struct plm_plan *p, const struct plm_rates *rates,
                       const char *verify, double seconds_so_far, struct plm_estimate *out)
{
    struct work w = work_of(p, rates, verify, source->ctx->threads);
    w.stays_cached = w.column_bytes + (double)p->memory.expected_bytes <= CACHED_SHARE * (double)source->ctx->memory_limit_bytes;
    struct plm_estimate e = {.plan = seconds_so_far, .rates = *rates};
    double *const phases[] = {&e.train, &e.encode, &e.merge, &e.verify, &e.commit};
    static const char *const names[] = {"train", "encode", "merge", "verify", "commit"};

    e.peak_rss_bytes = w.projected < w.d ? p->memory.expected_with_axes_bytes : p->memory.expected_bytes;
    estimate_train(&w, e.terms);
    estimate_encode(&w, e.terms);
    estimate_merge(&w, e.terms);
    estimate_verify(&w, e.terms);
    e.terms[PLM_TERM_COMMIT] = rates->sync;
    e.total = e.plan;
    for (int t = 0; t < PLM_N_TERMS; t++) {
        e.terms[t] *= infos[t].weight;
        for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
            if (strcmp(infos[t].phase, names[i]) == 0)
                *phases[i] += e.terms[t];
        e.total += e.terms[t];
    }
    if (plm_store_is_local(source->manifest->store))
        plm_estimate_local(source, p, w.projected, w.verifies, &e);
    else
        plm_estimate_remote(source, p, w.verifies, &e);
    *out = e;
}
