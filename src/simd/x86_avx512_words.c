/* x86_avx512_words.c - the nearest codewords in whole numbers, for AVX-512 with VNNI: one instruction
 * adds 32 products of 16-bit numbers to 16 sums, twice what an fp32 instruction does.
 *
 * Sums carry a bias that makes of every value in range the bits of a positive float, whose order is
 * that of the bits: so they are compared as floats, for which both vector units have instructions.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#include "simd/simd_tables.h"

#define BIAS 0x40000000 /* with PLM_PQ_WORDS_VALUE_MOST: 0x01000000 .. 0x7f000000, all normal */

PLM_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

#define AS_VALUE(v) _mm512_castsi512_ps(v)
#include "simd/pq512.h"

/* 48 rows, two dimensions of each next to each other. */
struct words48 {
    __m512i pairs[PLM_PQ_WORDS_DIM_MAX / 2][3];
};

static inline __m512i pair_of(__m512 x, __m512 y, __m512 per_unit)
{
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(x, per_unit));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(y, per_unit));

    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
}

static inline void quantize_groups(const float *a, const float *b, size_t dsub, float per_unit,
                                   struct words48 *out)
{
    const __m512 factor = _mm512_set1_ps(per_unit), zero = _mm512_setzero_ps();

    for (size_t d = 0; d < dsub; d += 2) {
        const float *a1 = a + PLM_PQ_LANES, *b1 = b + PLM_PQ_LANES;
        bool has_two = d + 1 < dsub;
        __m512i *pairs = out->pairs[d / 2];

        pairs[0] = pair_of(_mm512_loadu_ps(a), has_two ? _mm512_loadu_ps(a1) : zero, factor);
        pairs[1] = pair_of(_mm512_loadu_ps(b), has_two ? _mm512_loadu_ps(b1) : zero, factor);
        pairs[2] = pair_of(last_eight(a, b), has_two ? last_eight(a1, b1) : zero, factor);
        a += 2 * PLM_PQ_LANES;
        b += 2 * PLM_PQ_LANES;
    }
}

/* Two 16-bit numbers in every lane. */
#define TWO_WORDS(p) \
    _mm512_castps_si512(_mm512_broadcastss_ps(_mm_load_ss((const float *)(const void *)(p))))
#define DECLARE_CODE(q)                           \
    const int16_t *word##q = words + q * dims;    \
    __m512i a##q = _mm512_add_epi32(_mm512_set1_epi32(offsets[q]), bias), b##q = a##q, c##q = a##q;
#define MULTIPLY_CODE(q)                             \
    {                                                \
        __m512i w = TWO_WORDS(word##q + d);          \
        a##q = _mm512_dpwssd_epi32(a##q, x0, w);     \
        b##q = _mm512_dpwssd_epi32(b##q, x1, w);     \
        c##q = _mm512_dpwssd_epi32(c##q, x2, w);     \
    }

static inline void eight_codewords(const struct words48 *rows, const int16_t *words,
                                   const int32_t *offsets, size_t dims, size_t code,
                                   struct lanes lanes[3])
{
    const __m512i bias = _mm512_set1_epi32(BIAS);

    EACH_CODE(DECLARE_CODE)
    for (size_t d = 0; d < dims; d += 2) {
        const __m512i *pairs = rows->pairs[d / 2];
        __m512i x0 = pairs[0], x1 = pairs[1], x2 = pairs[2];

        EACH_CODE(MULTIPLY_CODE)
    }
    KEEP_EIGHT
}

static inline void store_values(const struct lanes lanes[3], bool best, int32_t *a, int32_t *b)
{
    const __m512i bias = _mm512_set1_epi32(BIAS);
    __m512i v[3];

    for (size_t i = 0; i < 3; i++)
        v[i] = _mm512_sub_epi32(_mm512_castps_si512(best ? lanes[i].best : lanes[i].second), bias);
    store_pair(v[0], v[1], v[2], a, b);
}

/* A last odd group is its own partner: both get the same. */
static void vnni_pq_words(const float *groups, size_t n_groups, float per_unit,
                          const int16_t *words, const int32_t *offsets, size_t n_codes, size_t dsub,
                          uint8_t *codes, int32_t *best, int32_t *second)
{
    const __m512i most = _mm512_set1_epi32(PLM_PQ_WORDS_VALUE_MOST + BIAS);
    const size_t dims = plm_pq_word_dims(dsub);

    for (size_t g = 0; g < n_groups; g += 2) {
        size_t row = g * PLM_PQ_LANES, other = g + 1 < n_groups ? row + PLM_PQ_LANES : row;
        struct lanes lanes[3];
        struct words48 rows;

        quantize_groups(groups + row * dsub, groups + other * dsub, dsub, per_unit, &rows);
        start_lanes(lanes, _mm512_castsi512_ps(most));
        for (size_t code = 0; code < n_codes; code += 8)
            eight_codewords(&rows, words + code * dims, offsets + code, dims, code, lanes);
        store_values(lanes, true, best + row, best + other);
        store_values(lanes, false, second + row, second + other);
        store_codes(lanes, codes + row, codes + other);
    }
}

PLM_TARGET_END

void plm_simd_avx512_words(struct plm_kernels *table)
{
    table->pq_words = vnni_pq_words;
    table->pq_words_pay = true;
}

#else
typedef int plm_no_avx512_words; /* ISO C wants something in every file */
#endif
