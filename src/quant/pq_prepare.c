/* pq_prepare.c - the codewords of a sub-vector in the layouts of the kernels.
 *
 * Words. Let U = 1 / per_unit (per_unit as the float it is), C >= |c| for all codewords, and a prime
 * mean "divided by U": per_unit = 2^14 / C, so |c'| <= 2^14 (1 + 2^-20) = t. A row's q and a codeword's
 * word w (with the sign turned back) are whole numbers; each of their dsub values is off by at
 * most 0.5, and by less than 0.002 more for the rounding of the product with per_unit. So with
 * e = 0.502 sqrt(dsub): |x' - q| <= e, |c' - w| <= e. For |x'| <= ROW_MOST every |q| is within 16 bits
 * and every value within 2^27 + (ROW_MOST + e)(t + e) < PLM_PQ_WORDS_VALUE_MOST.
 *
 * The value stands for V_j = |c'_j|^2 / 2 - x'.c'_j. Its first part is rounded once more, by 0.502; and
 *     |x'.c' - q.w| = |(x' - q).c' + q.(c' - w)| <= e t + (|x'| + e) e.
 * What the contract asks to minimize, l2_exact / (2 U^2) - |x'|^2 / 2, differs from V_j by at most
 * (dsub + 8) 2^-53 (|x'|^2 + t^2) < 10^-4. So a value is off by at most
 *     E = 0.503 + e (t + |x'| + e),
 * and where second - best > 2 E the code of the best is the one answer, without a tie. With
 * |x'| <= (|x'|^2 / 2^14 + 2^14) / 2, which needs no root, 2 E is at most
 *     1.01 + e (3.0001 * 2^14 + 2 e) + |x'|^2 e / 2^14,
 * taken a little larger for the roundings of |x|^2 and of this formula in fp32.
 */
#include <math.h>

#include "quant/pq_impl.h"

#define CODES_MAX 256
#define WORDS_FROM 4 /* dimensions: with fewer, near-ties are too many */
#define C_UNITS 0x1p14
#define ROW_MOST 32700.0
#define SPREAD_MOST 25 /* greatest of |c|^2 over their mean */

/* ---- room ---------------------------------------------------------------------------- */

size_t plm_codewords_bytes(uint32_t n_codes, uint32_t dsub)
{
    size_t n_values = (size_t)n_codes * dsub, n_words = (size_t)n_codes * plm_pq_word_dims(dsub);

    return n_values * sizeof(float) + n_codes * (sizeof(float) + sizeof(int32_t)) +
           n_words * sizeof(int16_t);
}

/* n_codes is a multiple of 16, so all stays aligned. */
void plm_codewords_place(struct plm_codewords *codewords, void *room)
{
    codewords->panels = room;
    codewords->half_norms = codewords->panels + (size_t)codewords->n_codes * codewords->dsub;
    codewords->offsets = (int32_t *)(void *)(codewords->half_norms + codewords->n_codes);
    codewords->words = (int16_t *)(void *)(codewords->offsets + codewords->n_codes);
}

/* ---- half norms, panels ------------------------------------------------------------------ */

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
    uint32_t n_equal = 0; /* seldom any: counted without a branch, which is four times as fast */

    for (uint32_t lower = 0; lower < code; lower++)
        n_equal += halves[lower] == halves[code];
    for (uint32_t lower = 0; n_equal > 0 && lower < code; lower++)
        if (halves[lower] == halves[code] &&
            same_values(values + (size_t)lower * dsub, values + (size_t)code * dsub, dsub))
            return true;
    return false;
}

static void fill_panels(const struct plm_codewords *codewords)
{
    size_t dsub = codewords->dsub;

    for (size_t code = 0; code < codewords->n_codes; code++) {
        float *lane = codewords->panels + code / PLM_PANEL * PLM_PANEL * dsub + code % PLM_PANEL;

        for (size_t d = 0; d < dsub; d++)
            lane[d * PLM_PANEL] = codewords->values[code * dsub + d];
    }
}

/* ---- words ------------------------------------------------------------------------------ */

/* v rounded to a whole number, |v| < 2^31: the sum's last bits are that number. */
static int32_t whole(double v)
{
    double sum = v + 0x1.8p52;
    uint64_t bits;

    memcpy(&bits, &sum, sizeof bits);
    return (int32_t)(uint32_t)bits;
}

static void fill_words(const struct plm_codewords *codewords)
{
    size_t dsub = codewords->dsub, dims = plm_pq_word_dims(dsub);
    double per_unit = (double)codewords->per_unit;

    for (size_t code = 0; code < codewords->n_codes; code++) {
        const float *c = codewords->values + code * dsub;
        int16_t *word = codewords->words + code * dims;
        bool repeats = isinf(codewords->half_norms[code]);
        double norm2 = 0;

        word[dims - 1] = 0;
        for (size_t d = 0; d < dsub; d++) {
            norm2 += (double)c[d] * (double)c[d];
            word[d] = repeats ? 0 : (int16_t)-whole((double)c[d] * per_unit);
        }
        codewords->offsets[code] =
            repeats ? PLM_PQ_WORDS_VALUE_MOST : whole(norm2 / 2 * per_unit * per_unit);
    }
}

bool plm_pq_has_words(const struct plm_kernels *kernels, uint32_t dsub)
{
    return kernels->pq_words_pay && dsub >= WORDS_FROM && dsub <= PLM_PQ_WORDS_DIM_MAX;
}

/* per_unit and what it makes certain; or 0. */
static void choose_unit(const struct plm_kernels *kernels, struct plm_codewords *codewords,
                        double mean_norm2)
{
    double greatest = 2 * (double)codewords->max_half_norm, dsub = codewords->dsub;
    double e = 0.502 * sqrt(dsub), per_unit2;

    codewords->per_unit = 0;
    if (!plm_pq_has_words(kernels, codewords->dsub) || !(greatest > 1e-20 && greatest < 1e30) ||
        greatest > SPREAD_MOST * mean_norm2)
        return;
    codewords->per_unit = (float)(C_UNITS / sqrt(greatest));
    per_unit2 = (double)codewords->per_unit * (double)codewords->per_unit;
    codewords->gap = (float)((1.01 + e * (3.0001 * C_UNITS + 2 * e)) * (1 + 0x1p-8));
    codewords->gap_more = (float)(e / C_UNITS * per_unit2 * (1 + 0x1p-8));
    codewords->norm2_most = (float)(ROW_MOST * ROW_MOST / per_unit2 * (1 - 0x1p-8));
}

void plm_codewords_prepare(const struct plm_kernels *kernels, struct plm_codewords *codewords)
{
    uint32_t dsub = codewords->dsub;
    float greatest = 0, halves[CODES_MAX];
    double sum = 0;

    for (uint32_t code = 0; code < codewords->n_codes; code++) {
        double norm2 = kernels->norm2(codewords->values + (size_t)code * dsub, dsub);

        sum += norm2;
        halves[code] = (float)(norm2 / 2);
        greatest = halves[code] > greatest ? halves[code] : greatest;
        codewords->half_norms[code] =
            repeats_lower(codewords->values, halves, code, dsub) ? INFINITY : halves[code];
    }
    codewords->max_half_norm = greatest;
    fill_panels(codewords);
    choose_unit(kernels, codewords, sum / codewords->n_codes);
    if (codewords->per_unit > 0)
        fill_words(codewords);
}
