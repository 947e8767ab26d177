/* pq_train.c - k-means of one sub-vector, block by block.
 *
 * Rows are visited in a shuffled order (an affine walk, so no permutation is stored) and packed
 * once, in that order, into the groups the kernel wants; a block of them is a random sample. The
 * first block is trained alone for a few rounds. Then blocks take turns: a block's rows look for
 * their codewords again, the sums lose what left and gain what came, and all codewords move to
 * RELAX times the way to their means: so they move eight times in a pass over the rows, further
 * than to where they are sure to be better but not so far that they could be worse. On residuals of
 * 2,048 dimensions (65,536 x 16, 256 codewords) that ends with the error of 25 rounds on all rows; 50 of
 * them have 0.4 % less, for four times the time.
 *
 * Nearest codewords are exact and sums lie on one grid, on which rows can be taken back without
 * a trace: every kernel table trains the same codewords. The error comes from the sums:
 * sum |x-c|^2 = sum |x|^2 + sum_j (n_j |c_j|^2 - 2 c_j.S_j).
 * Source: Neal, Hinton, A view of the EM algorithm that justifies incremental variants (1998). */
#include <math.h>

#include "cluster/grid.h"
#include "quant/pq_impl.h"

#define BLOCKS 8            /* of all rows */
#define BLOCK_ROWS_PER_CODE 16 /* a block with fewer rows than this teaches nothing */
#define FIRST_ROUNDS 8      /* of the first block alone */
#define PASSES 15           /* over all rows */
#define LEAST_GAIN 1.2e-3   /* of the error in a pass, else it is the last */
#define RELAX 1.8 /* with 1.6: a pass or so more, for the same error */

struct training {
    struct plm_ctx *ctx;
    const struct plm_kernels *kernels;
    const float *rows;
    size_t n;
    uint32_t dsub, n_codes;
    uint64_t seed;
    size_t walk_start, walk_step; /* position p is row (start + p * step) mod n */
    float *groups;                /* rows by position, packed */
    float *codewords;
    struct plm_codewords prepared; /* for the kernels, as they are now */
    uint8_t *room;                /* of those */
    double *sums;                 /* [n_codes][dsub] */
    uint64_t *counts, *split;     /* [n_codes]; the latter while empty codewords are filled */
    uint8_t *codes;               /* [n] of the first n_seen positions */
    size_t n_seen, block_rows;
    double norms;                 /* sum of |x|^2 over those */
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

/* ---- blocks ------------------------------------------------------------------------ */

/* The row at a position is taken from its old codeword, where it has one, and given to another. */
static void move_row(struct training *t, size_t position, size_t lane, const float *group, uint8_t code)
{
    uint8_t old = t->codes[position];
    bool is_new = position >= t->n_seen;

    if (!is_new && old == code)
        return;
    for (uint32_t d = 0; d < t->dsub; d++)
        t->block.row[d] = group[(size_t)d * PLM_PQ_LANES + lane];
    t->kernels->grid_add(t->sums + (size_t)code * t->dsub, t->block.row, t->dsub, t->magic);
    t->counts[code]++;
    t->codes[position] = code;
    if (is_new)
        return;
    for (uint32_t d = 0; d < t->dsub; d++)
        t->block.row[d] = -t->block.row[d];
    t->kernels->grid_add(t->sums + (size_t)old * t->dsub, t->block.row, t->dsub, t->magic);
    t->counts[old]--;
}

/* Positions [first, end) under the present codewords; first is a multiple of PLM_PQ_BLOCK_ROWS. */
static enum plm_code place_rows(struct training *t, size_t first, size_t end, struct plm_err *err)
{
    enum plm_code rc = plm_check_cancel(t->ctx, err);

    if (rc != PLM_OK)
        return rc;
    plm_codewords_prepare(t->kernels, &t->prepared);
    for (size_t at = first; at < end; at += PLM_PQ_BLOCK_ROWS) {
        size_t n = plm_min_size(PLM_PQ_BLOCK_ROWS, end - at);

        plm_pq_block_codes(t->kernels, &t->prepared, t->groups + at * t->dsub, n, &t->block);
        for (size_t i = 0; i < n; i++)
            move_row(t, at + i, i % PLM_PQ_LANES,
                     t->groups + (at + i / PLM_PQ_LANES * PLM_PQ_LANES) * t->dsub, t->block.codes[i]);
    }
    if (end > t->n_seen) { /* lanes behind the last row are zero */
        size_t groups = (end + PLM_PQ_LANES - 1) / PLM_PQ_LANES - t->n_seen / PLM_PQ_LANES;

        t->norms += t->kernels->norm2(t->groups + t->n_seen * t->dsub, groups * PLM_PQ_LANES * t->dsub);
        t->n_seen = end;
    }
    return PLM_OK;
}

/* Squared error of the rows seen, each against the codeword it was last given to. */
static double error_of(const struct training *t)
{
    double error = t->norms;

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

static void move_codewords(struct training *t, double relax)
{
    for (size_t code = 0; code < t->n_codes; code++)
        for (uint32_t d = 0; d < t->dsub && t->counts[code] > 0; d++) {
            float *value = &t->codewords[code * t->dsub + d];
            double mean = t->sums[code * t->dsub + d] / (double)t->counts[code];

            *value = (float)((double)*value + relax * (mean - (double)*value));
        }
}

/* Every codeword without rows becomes a copy of the largest, moved a little: `spread` is the root
 * mean square error of one value. */
static void split_largest(struct training *t, double spread, uint64_t round)
{
    memcpy(t->split, t->counts, t->n_codes * sizeof *t->split);
    for (size_t code = 0; code < t->n_codes; code++) {
        size_t largest = 0;

        if (t->split[code] > 0)
            continue;
        for (size_t other = 1; other < t->n_codes; other++)
            if (t->split[other] > t->split[largest])
                largest = other;
        uint64_t bits = plm_mix64(t->seed + round, code);
        for (uint32_t d = 0; d < t->dsub; d++) {
            double step = (bits >> (d % 64)) & 1 ? spread / 16 : -spread / 16;

            t->codewords[code * t->dsub + d] =
                (float)((double)t->codewords[largest * t->dsub + d] + step);
        }
        t->split[code] = t->split[largest] / 2;
        t->split[largest] -= t->split[code];
        if (t->split[code] == 0)
            return; /* fewer rows than codewords: the rest may stay empty */
    }
}

/* Block after block, then once more from the start. The last thing is that codewords take their
 * means. */
static enum plm_code train_blocks(struct training *t, uint32_t max_iters, double *error,
                                  struct plm_err *err)
{
    size_t n_blocks = (t->n + t->block_rows - 1) / t->block_rows;
    uint32_t first_rounds = n_blocks > 1 ? (uint32_t)plm_min_size(FIRST_ROUNDS, max_iters) : 0;
    double before = INFINITY, now = 0;
    uint64_t round = 0;

    for (uint32_t pass = 0;; pass++) {
        for (size_t i = 0; i < n_blocks + (pass ? 0 : first_rounds); i++) {
            size_t block = pass ? i : i < first_rounds ? 0 : i - first_rounds;
            enum plm_code rc = place_rows(t, block * t->block_rows,
                                          plm_min_size((block + 1) * t->block_rows, t->n), err);

            if (rc != PLM_OK)
                return rc;
            now = error_of(t);
            move_codewords(t, RELAX);
            split_largest(t, sqrt(now / (double)t->n_seen / t->dsub), round++);
        }
        if (now == 0 || pass + 1 >= plm_min_size(PASSES, max_iters) || before - now < LEAST_GAIN * before)
            break;
        before = now;
    }
    move_codewords(t, 1);
    *error = error_of(t) / (double)t->n;
    return PLM_OK;
}

/* ---- the whole ---------------------------------------------------------------------- */

static size_t padded_rows(size_t n) { return (n + PLM_PQ_LANES - 1) / PLM_PQ_LANES * PLM_PQ_LANES; }

size_t plm_pq_train_bytes(size_t n, uint32_t dsub, uint32_t n_bits)
{
    size_t n_codes = (size_t)1 << n_bits;

    return (padded_rows(n) + 1 + PLM_GROUP) * dsub * sizeof(float) +
           plm_codewords_bytes((uint32_t)n_codes, dsub) +
           n_codes * (dsub * (sizeof(double) + sizeof(float)) + 2 * sizeof(uint64_t)) +
           n + 32768; /* and what its blocks are rounded up by */
}

static enum plm_code allocate(struct training *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_values;

    if (!plm_size_mul(padded_rows(t->n), t->dsub, &n_values))
        return plm_fail(err, PLM_LIMIT, "pq: %zu rows of %u values are too many", t->n, t->dsub);
    PLM_TRY(plm_calloc(t->ctx, &t->groups, n_values, sizeof *t->groups, err));
    PLM_TRY(plm_alloc(t->ctx, &t->codewords, (size_t)t->n_codes * t->dsub, sizeof *t->codewords, err));
    PLM_TRY(plm_alloc(t->ctx, &t->room, 1, plm_codewords_bytes(t->n_codes, t->dsub), err));
    PLM_TRY(plm_calloc(t->ctx, &t->sums, (size_t)t->n_codes * t->dsub, sizeof *t->sums, err));
    PLM_TRY(plm_calloc(t->ctx, &t->counts, t->n_codes, sizeof *t->counts, err));
    PLM_TRY(plm_alloc(t->ctx, &t->split, t->n_codes, sizeof *t->split, err));
    PLM_TRY(plm_alloc(t->ctx, &t->codes, t->n, 1, err));
    PLM_TRY(plm_alloc(t->ctx, &t->block.row, t->dsub, sizeof *t->block.row, err));
    PLM_TRY(plm_calloc(t->ctx, &t->block.packed, (size_t)t->dsub * PLM_GROUP, sizeof *t->block.packed, err));
    t->prepared = (struct plm_codewords){.values = t->codewords, .n_codes = t->n_codes, .dsub = t->dsub};
    plm_codewords_place(&t->prepared, t->room);
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
    uint32_t n_found = choose_start(t);
    size_t block = plm_max_size(t->n / BLOCKS, (size_t)BLOCK_ROWS_PER_CODE * t->n_codes);

    *error = 0;
    if (n_found < t->n_codes) { /* every row is a codeword */
        repeat_codewords(t, n_found);
        return PLM_OK;
    }
    t->block_rows = (block + PLM_PQ_BLOCK_ROWS - 1) / PLM_PQ_BLOCK_ROWS * PLM_PQ_BLOCK_ROWS;
    pack_walk(t);
    return train_blocks(t, max_iters, error, err);
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
    PLM_TRY(check_rows(&t, err));
    choose_walk(&t);
    PLM_TRY(train(&t, options->max_iters, &result, err));
    memcpy(codewords, t.codewords, (size_t)t.n_codes * dsub * sizeof *codewords);
    *error = result;
done:
    plm_free(ctx, t.codewords);
    plm_free(ctx, t.groups);
    plm_free(ctx, t.room);
    plm_free(ctx, t.sums);
    plm_free(ctx, t.counts);
    plm_free(ctx, t.split);
    plm_free(ctx, t.codes);
    plm_free(ctx, t.block.row);
    plm_free(ctx, t.block.packed);
    return rc;
}
