/* pq_nearest.c - the float64 nearest codeword on every kernel table.
 *
 * A kernel gives a row's best and second-best value, in fp32 or in whole numbers (pq_prepare.c). Where
 * they lie further apart than both can be off, the best is the answer. The other rows, one of a
 * hundred behind whole numbers and one of thousands behind fp32, get all their values in fp32, one
 * row at a time, and those that may be the least are compared in float64.
 */
#include <float.h>
#include <math.h>

#include "quant/pq_impl.h"

#define CODES_MAX 256

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

/* ---- rows one by one ------------------------------------------------------------------------ */

/* Among the codes in places, ascending. */
static uint8_t exact_code(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                          const float *row, const uint32_t *places, size_t n)
{
    uint32_t nearest = 0;
    double least = INFINITY;

    if (n == 1)
        return (uint8_t)places[0];
    for (size_t i = 0; i < n; i++) {
        double d = kernels->l2_exact(row, codewords->values + (size_t)places[i] * codewords->dsub,
                                     codewords->dsub);

        if (d < least) {
            least = d;
            nearest = places[i];
        }
    }
    return (uint8_t)nearest;
}

/* The codes whose values may be the least; all of them where fp32 values mean nothing. */
static size_t open_codes(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                         const float *packed, float norm2, uint32_t places[CODES_MAX])
{
    double error = value_error(norm2, codewords->max_half_norm, codewords->dsub);
    float values[CODES_MAX], least, greatest;
    size_t n_codes = codewords->n_codes;

    if (error < 1e30) { /* then no sum overflows */
        kernels->values(packed, 1, codewords->panels, codewords->half_norms, n_codes / PLM_PANEL,
                        codewords->dsub, values, n_codes);
        kernels->min_max(values, n_codes, &least, &greatest);
        return kernels->at_most(values, n_codes,
                                nextafterf((float)((double)least + 2 * error), INFINITY), places);
    }
    for (size_t code = 0; code < n_codes; code++)
        places[code] = (uint32_t)code;
    return n_codes;
}

static uint8_t lone_code(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                         const float *lane, float norm2, struct plm_pq_block *block)
{
    uint32_t places[CODES_MAX];

    for (size_t d = 0; d < codewords->dsub; d++)
        block->row[d] = block->packed[d * PLM_GROUP] = lane[d * PLM_PQ_LANES];
    return exact_code(kernels, codewords, block->row, places,
                      open_codes(kernels, codewords, block->packed, norm2, places));
}

/* ---- blocks ----------------------------------------------------------------------------------- */

/* False also for infinities and NaN. */
static bool words_decide(const struct plm_codewords *codewords, const struct plm_pq_block *block,
                         size_t i, float norm2)
{
    return (float)(block->second_word[i] - block->best_word[i]) >
               codewords->gap + norm2 * codewords->gap_more &&
           norm2 <= codewords->norm2_most;
}

static bool floats_decide(const struct plm_codewords *codewords, const struct plm_pq_block *block,
                          size_t i, float norm2, float rough)
{
    if (block->second[i] - block->best[i] > rough * (norm2 + 2 * codewords->max_half_norm))
        return true;
    return (double)block->second[i] - (double)block->best[i] >
           2 * value_error(norm2, codewords->max_half_norm, codewords->dsub);
}

void plm_pq_block_codes(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                        const float *groups, size_t n, struct plm_pq_block *block)
{
    size_t n_groups = (n + PLM_PQ_LANES - 1) / PLM_PQ_LANES, dsub = codewords->dsub;
    float norms[PLM_PQ_LANES], rough = rough_error(codewords);
    const bool in_words = codewords->per_unit > 0;

    if (in_words)
        kernels->pq_words(groups, n_groups, codewords->per_unit, codewords->words,
                          codewords->offsets, codewords->n_codes, dsub, block->codes,
                          block->best_word, block->second_word);
    else
        kernels->pq_nearest(groups, n_groups, codewords->values, codewords->half_norms,
                            codewords->n_codes, dsub, block->codes, block->best, block->second);
    for (size_t i = 0; i < n; i++) {
        const float *group = groups + i / PLM_PQ_LANES * PLM_PQ_LANES * dsub;
        size_t lane = i % PLM_PQ_LANES;

        if (lane == 0)
            lane_norms(group, dsub, norms);
        if (!(in_words ? words_decide(codewords, block, i, norms[lane])
                       : floats_decide(codewords, block, i, norms[lane], rough)))
            block->codes[i] = lone_code(kernels, codewords, group + lane, norms[lane], block);
    }
}
