/* pq_train.c - k-means of one sub-vector.
 *
 * Rows are visited in a shuffled order (an affine walk, so no permutation is stored) and packed
 * once, in that order, into the groups the kernel wants; a prefix of them is a random sample.
 * Nearest codewords are exact and sums lie on one grid, so every kernel table trains the same
 * codewords. The error of a round comes from the sums, not from the rows:
 * sum |x-c|^2 = sum |x|^2 + sum_j (n_j |c_j|^2 - 2 c_j.S_j). */
#include <math.h>

#include "cluster/grid.h"
#include "quant/pq_impl.h"

#define FIRST_ROUNDS 20     /* on a quarter of the rows */
#define ALL_ROUNDS 15       /* on all rows */
#define LEAST_GAIN 1e-3     /* of the error, else a loop stops */
#define FIRST_ROWS_PER_CODE 16 /* a quarter with fewer rows than this teaches nothing */

struct training {
    struct plm_ctx *ctx;
    const struct plm_kernels *kernels;
    const float *rows;
    size_t n;
    uint32_t dsub, n_codes;
    uint64_t seed;
    size_t walk_start, walk_step; /* position p is row (start + p * step) mod n */
    float *groups;                /* rows by position, packed */
    float *codewords;             /* the caller's */
    float *half_norms;
    float max_half_norm;
    double *sums;                 /* [n_codes][dsub] */
    uint64_t *counts;             /* [n_codes] */
    struct plm_pq_block block;
    double magic;
};

/* ---- order of rows ----------------------------------------------------------------- */

static size_t greatest_divisor(size_t a, size_t b)
{
    while (b != 0) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Steps of about 0.618 n spread any prefix evenly over the rows. */
static void choose_walk(struct training *t)
{
    size_t step = (size_t)((double)t->n * 0.6180339887498949);

    step = (step + (size_t)(plm_mix64(t->seed, 0) % (t->n / 64 + 1))) % t->n;
    while (greatest_divisor(step, t->n) != 1)
        step++;
    t->walk_step = step % t->n;
    t->walk_start = (size_t)(plm_mix64(t->seed, 1) % t->n);
}

static size_t next_row(const struct training *t, size_t row)
{
    size_t left = t->n - row; /* no overflow: both are at most n */
    return t->walk_step < left ? row + t->walk_step : t->walk_step - left;
}

/* ---- start ------------------------------------------------------------------------- */

static bool is_codeword(const struct training *t, const float *row, uint32_t n_found)
{
    for (uint32_t code = 0; code < n_found; code++) {
        const float *c = t->codewords + (size_t)code * t->dsub;
        uint32_t d = 0;

        while (d < t->dsub && c[d] == row[d])
            d++;
        if (d == t->dsub)
            return true;
    }
    return false;
}

/* The first distinct rows of the walk; returns how many there are, at most n_codes. */
static uint32_t choose_start(struct training *t)
{
    size_t row = t->walk_start;
    uint32_t n_found = 0;

    for (size_t p = 0; p < t->n && n_found < t->n_codes; p++, row = next_row(t, row))
        if (!is_codeword(t, t->rows + row * t->dsub, n_found))
            memcpy(t->codewords + (size_t)n_found++ * t->dsub, t->rows + row * t->dsub,
                   t->dsub * sizeof(float));
    return n_found;
}

static void repeat_codewords(struct training *t, uint32_t n_found)
{
    for (uint32_t code = n_found; code < t->n_codes; code++)
        memcpy(t->codewords + (size_t)code * t->dsub,
               t->codewords + (size_t)(code % n_found) * t->dsub, t->dsub * sizeof(float));
}

static void pack_walk(struct training *t)
{
    size_t row = t->walk_start;

    for (size_t p = 0; p < t->n; p++, row = next_row(t, row)) {
        float *group = t->groups + p / PLM_PQ_LANES * PLM_PQ_LANES * t->dsub;

        for (uint32_t d = 0; d < t->dsub; d++)
            group[(size_t)d * PLM_PQ_LANES + p % PLM_PQ_LANES] = t->rows[row * t->dsub + d];
    }
}

/* ---- rounds ------------------------------------------------------------------------ */

/* Sums and counts of the first n positions under the present codewords. */
static enum plm_code add_up(struct training *t, size_t n, struct plm_err *err)
{
    struct plm_codewords codewords = {.values = t->codewords, .half_norms = t->half_norms,
                                      .n_codes = t->n_codes, .dsub = t->dsub};
    size_t row = t->walk_start;

    plm_codewords_prepare(t->kernels, t->codewords, t->n_codes, t->dsub, t->half_norms,
                          &codewords.max_half_norm);
    memset(t->sums, 0, (size_t)t->n_codes * t->dsub * sizeof *t->sums);
    memset(t->counts, 0, t->n_codes * sizeof *t->counts);
    for (size_t first = 0; first < n; first += PLM_PQ_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_PQ_BLOCK_ROWS, n - first);

        if (first % (64 * PLM_PQ_BLOCK_ROWS) == 0) {
            enum plm_code rc = plm_check_cancel(t->ctx, err);
            if (rc != PLM_OK)
                return rc;
        }
        plm_pq_block_codes(t->kernels, &codewords, t->groups + first * t->dsub, n_block, &t->block);
        for (size_t i = 0; i < n_block; i++, row = next_row(t, row)) {
            size_t code = t->block.codes[i];

            t->kernels->grid_add(t->sums + code * t->dsub, t->rows + row * t->dsub, t->dsub, t->magic);
            t->counts[code]++;
        }
    }
    return PLM_OK;
}

static double sum_of_norms(const struct training *t, size_t n)
{
    size_t row = t->walk_start;
    double sum = 0;

    for (size_t p = 0; p < n; p++, row = next_row(t, row))
        sum += t->kernels->norm2(t->rows + row * t->dsub, t->dsub);
    return sum;
}

/* Squared error of the round just added up. */
static double round_error(const struct training *t, double norms)
{
    double error = norms;

    for (size_t code = 0; code < t->n_codes; code++) {
        const float *c = t->codewords + code * t->dsub;
        double twice = 0;

        if (t->counts[code] == 0)
            continue;
        for (uint32_t d = 0; d < t->dsub; d++)
            twice += 2 * (double)c[d] * t->sums[code * t->dsub + d];
        error += (double)t->counts[code] * t->kernels->norm2(c, t->dsub) - twice;
    }
    return error > 0 ? error : 0;
}

static void take_means(struct training *t)
{
    for (size_t code = 0; code < t->n_codes; code++)
        for (uint32_t d = 0; d < t->dsub && t->counts[code] > 0; d++)
            t->codewords[code * t->dsub + d] =
                (float)(t->sums[code * t->dsub + d] / (double)t->counts[code]);
}

/* Every codeword without rows becomes a copy of the largest, moved a little: `spread` is the root
 * mean square error of one value. */
static void split_largest(struct training *t, double spread, uint64_t round)
{
    for (size_t code = 0; code < t->n_codes; code++) {
        size_t largest = 0;

        if (t->counts[code] > 0)
            continue;
        for (size_t other = 1; other < t->n_codes; other++)
            if (t->counts[other] > t->counts[largest])
                largest = other;
        uint64_t bits = plm_mix64(t->seed + round, code);
        for (uint32_t d = 0; d < t->dsub; d++) {
            double step = (bits >> (d % 64)) & 1 ? spread / 16 : -spread / 16;

            t->codewords[code * t->dsub + d] =
                (float)((double)t->codewords[largest * t->dsub + d] + step);
        }
        t->counts[code] = t->counts[largest] / 2;
        t->counts[largest] -= t->counts[code];
        if (t->counts[code] == 0)
            return; /* fewer rows than codewords: the rest may stay empty */
    }
}

/* k-means over the first n positions. *error is that of the codewords left behind. */
static enum plm_code run_loop(struct training *t, size_t n, uint32_t rounds, double *error,
                              struct plm_err *err)
{
    double norms = sum_of_norms(t, n), before = INFINITY;

    for (uint32_t round = 0;; round++) {
        enum plm_code rc = add_up(t, n, err);
        if (rc != PLM_OK)
            return rc;
        double now = round_error(t, norms);
        *error = now / (double)n;
        if (round >= rounds || now == 0 || before - now < LEAST_GAIN * before)
            return PLM_OK;
        before = now;
        take_means(t);
        split_largest(t, sqrt(*error / t->dsub), round);
    }
}

/* ---- the whole ---------------------------------------------------------------------- */

static size_t padded_rows(size_t n) { return (n + PLM_PQ_LANES - 1) / PLM_PQ_LANES * PLM_PQ_LANES; }

size_t plm_pq_train_bytes(size_t n, uint32_t dsub, uint32_t n_bits)
{
    size_t n_codes = (size_t)1 << n_bits;

    return (padded_rows(n) + 1) * dsub * sizeof(float) +
           n_codes * (dsub * (sizeof(double) + sizeof(float)) + sizeof(float) + sizeof(uint64_t)) +
           32768; /* and what its blocks are rounded up by */
}

static enum plm_code allocate(struct training *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_values;

    if (!plm_size_mul(padded_rows(t->n), t->dsub, &n_values))
        return plm_fail(err, PLM_LIMIT, "pq: %zu rows of %u values are too many", t->n, t->dsub);
    PLM_TRY(plm_calloc(t->ctx, &t->groups, n_values, sizeof *t->groups, err));
    PLM_TRY(plm_alloc(t->ctx, &t->half_norms, t->n_codes, sizeof *t->half_norms, err));
    PLM_TRY(plm_alloc(t->ctx, &t->sums, (size_t)t->n_codes * t->dsub, sizeof *t->sums, err));
    PLM_TRY(plm_alloc(t->ctx, &t->counts, t->n_codes, sizeof *t->counts, err));
    PLM_TRY(plm_alloc(t->ctx, &t->block.row, t->dsub, sizeof *t->block.row, err));
done:
    return rc;
}

static enum plm_code check_rows(struct training *t, struct plm_err *err)
{
    float lo, hi;

    for (size_t row = 0; row < t->n; row++)
        for (uint32_t d = 0; d < t->dsub; d++)
            if (!isfinite(t->rows[row * t->dsub + d]))
                return plm_fail(err, PLM_DATA, "pq: training row %zu holds a value that is not finite",
                                row);
    t->kernels->min_max(t->rows, t->n * t->dsub, &lo, &hi);
    t->magic = plm_grid_magic((double)t->n * fmax(fabs((double)lo), fabs((double)hi)));
    return PLM_OK;
}

static enum plm_code train(struct training *t, uint32_t max_iters, double *error, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t quarter = t->n / 4;
    uint32_t n_found = choose_start(t);

    *error = 0;
    if (n_found < t->n_codes) { /* every row is a codeword */
        repeat_codewords(t, n_found);
        return PLM_OK;
    }
    pack_walk(t);
    if (quarter >= (size_t)FIRST_ROWS_PER_CODE * t->n_codes)
        PLM_TRY(run_loop(t, quarter, (uint32_t)plm_min_size(FIRST_ROUNDS, max_iters), error, err));
    PLM_TRY(run_loop(t, t->n, (uint32_t)plm_min_size(ALL_ROUNDS, max_iters), error, err));
done:
    return rc;
}

enum plm_code plm_pq_train_subvector(struct plm_ctx *ctx, const float *rows, size_t n, uint32_t dsub,
                                     uint32_t subvector, const struct plm_pq_train_options *options,
                                     float *codewords, double *error, struct plm_err *err)
{
    struct training t = {.ctx = ctx, .kernels = ctx->kernels, .rows = rows, .n = n, .dsub = dsub,
                         .n_codes = 1u << (options->n_bits & 31u),
                         .seed = plm_mix64(options->seed, subvector)};
    enum plm_code rc = PLM_OK;
    double result;

    if (options->n_bits != 4 && options->n_bits != 8)
        return plm_fail(err, PLM_ARG, "pq: num_bits is %u, expected 4 or 8", options->n_bits);
    if (n == 0 || dsub == 0)
        return plm_fail(err, PLM_ARG, "pq: %zu training rows of %u values, expected at least one of each",
                        n, dsub);
    PLM_TRY(allocate(&t, err));
    PLM_TRY(plm_alloc(ctx, &t.codewords, (size_t)t.n_codes * dsub, sizeof *t.codewords, err));
    PLM_TRY(check_rows(&t, err));
    choose_walk(&t);
    PLM_TRY(train(&t, options->max_iters, &result, err));
    memcpy(codewords, t.codewords, (size_t)t.n_codes * dsub * sizeof *codewords);
    *error = result;
done:
    plm_free(ctx, t.codewords);
    plm_free(ctx, t.groups);
    plm_free(ctx, t.half_norms);
    plm_free(ctx, t.sums);
    plm_free(ctx, t.counts);
    plm_free(ctx, t.block.row);
    return rc;
}
