/* pq_nearest.c - the float64 nearest codeword on every kernel table. */
#include <float.h>
#include <math.h>

#include "quant/pq_impl.h"

#define CODES_MAX 256

static bool same_values(const float *a, const float *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* halves[0..code]: |c|^2 / 2, equal for equal codewords. */
static bool repeats_lower(const float *values, const float *halves, uint32_t code, uint32_t dsub)
{
    for (uint32_t lower = 0; lower < code; lower++)
        if (halves[lower] == halves[code] &&
            same_values(values + (size_t)lower * dsub, values + (size_t)code * dsub, dsub))
            return true;
    return false;
}

void plm_codewords_prepare(const struct plm_kernels *kernels, const float *values, uint32_t n_codes,
                           uint32_t dsub, float *half_norms, float *max_half_norm)
{
    float greatest = 0, halves[CODES_MAX];

    for (uint32_t code = 0; code < n_codes; code++) {
        halves[code] = (float)(kernels->norm2(values + (size_t)code * dsub, dsub) / 2);
        greatest = halves[code] > greatest ? halves[code] : greatest;
        half_norms[code] = repeats_lower(values, halves, code, dsub) ? INFINITY : halves[code];
    }
    *max_half_norm = greatest;
}

/* Squared norm of each lane of a group: an upper estimate is enough (see below). */
static void lane_norms(const float *group, size_t dsub, float norms[PLM_PQ_LANES])
{
    for (size_t i = 0; i < PLM_PQ_LANES; i++)
        norms[i] = 0;
    for (size_t d = 0; d < dsub; d++)
        for (size_t i = 0; i < PLM_PQ_LANES; i++)
            norms[i] += group[d * PLM_PQ_LANES + i] * group[d * PLM_PQ_LANES + i];
}

/* How far a kernel's value |c|^2/2 - x.c can be from the truth, whatever the order of its sum and
 * with or without FMA: dsub + 1 roundings of a sum that starts at |c|^2/2 (Higham, section 3.1),
 * one more when |c|^2/2 became a float, dsub underflows of at most FLT_TRUE_MIN, and the rounding
 * of the float64 decision itself. The 1 + 2^-10 covers the roundings of |x|^2 and of this formula. */
static double value_error(float x_norm2, float max_half_norm, uint32_t dsub)
{
    double x = sqrt((double)x_norm2 * (1 + 0x1p-10 + (double)dsub * 0x1p-23));
    double c = sqrt(2 * (double)max_half_norm);
    double relative = (double)plm_dot_error((size_t)dsub + 2);

    return (1 + 0x1p-10) * (relative * ((double)max_half_norm + x * c) +
                            ((double)dsub + 4) * 0x1p-52 * (x + c) * (x + c) +
                            ((double)dsub + 1) * (double)FLT_MIN);
}

/* Twice that is less than this times |x|^2 + |c|^2, for any codeword, because |x||c| is at most half
 * of it; for rows that are neither tiny nor near overflow (there the product is 0 or infinite, or the
 * row is looked at closely). Twice too large, for its own roundings. */
static float rough_error(const struct plm_codewords *codewords)
{
    double norm2 = 2 * (double)codewords->max_half_norm;
    double relative = (double)plm_dot_error((size_t)codewords->dsub + 2);

    if (!(norm2 > 1e-20 && norm2 < 1e30)) /* underflows count: nothing is certain by this */
        return INFINITY;
    return (float)(4 * (relative + ((double)codewords->dsub + 4) * 0x1p-51));
}

static uint8_t exact_code(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                          const float *row)
{
    uint32_t nearest = 0;
    double least = INFINITY;

    for (uint32_t code = 0; code < codewords->n_codes; code++) {
        double d = kernels->l2_exact(row, codewords->values + (size_t)code * codewords->dsub,
                                     codewords->dsub);

        if (d < least) {
            least = d;
            nearest = code;
        }
    }
    return (uint8_t)nearest;
}

void plm_pq_block_codes(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                        const float *groups, size_t n, struct plm_pq_block *block)
{
    size_t n_groups = (n + PLM_PQ_LANES - 1) / PLM_PQ_LANES, dsub = codewords->dsub;
    float norms[PLM_PQ_LANES], rough = rough_error(codewords);

    kernels->pq_nearest(groups, n_groups, codewords->values, codewords->half_norms,
                        codewords->n_codes, dsub, block->codes, block->best, block->second);
    for (size_t i = 0; i < n; i++) {
        const float *group = groups + i / PLM_PQ_LANES * PLM_PQ_LANES * dsub;
        size_t lane = i % PLM_PQ_LANES;

        if (lane == 0)
            lane_norms(group, dsub, norms);
        if (block->second[i] - block->best[i] > rough * (norms[lane] + 2 * codewords->max_half_norm))
            continue;
        double error = value_error(norms[lane], codewords->max_half_norm, codewords->dsub);
        if ((double)block->second[i] - (double)block->best[i] > 2 * error)
            continue; /* also false for infinities and NaN: those are decided below */
        for (size_t d = 0; d < dsub; d++)
            block->row[d] = group[d * PLM_PQ_LANES + lane];
        block->codes[i] = exact_code(kernels, codewords, block->row);
    }
}
