/* x86_sq.c - scalar quantization for AVX2 and AVX-512.
 *
 * The codes are defined in double, with a division. Here (v - lo) * k is taken in fp32 first, with
 * k = 255 / (hi - lo), and only where it lies within sq_margin() of a whole number from 1 to
 * 255 does the definition decide: for one value in ten thousand.
 *
 * With u = 2^-24 and the true T = (v - lo) * 255 / (hi - lo), which double misses by 4 * 2^-53 T:
 * fl(lo) is off by u |lo|, which moves T by 255 u |lo| / (hi - lo); the difference, k and
 * the product each have a relative error of u, 3.1 u in all, which for 0 <= T <= 256 is 796 u. A T
 * beyond those is cut to 0 and 255, and is as clearly beyond them in fp32. Underflow: k <= 2^100
 * makes of 2^-126 less than 2^-26.
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "simd/simd_tables.h"

/* Greater than 0.01 where fp32 is of no use. */
static float sq_margin(double lo, double range)
{
    double k = 255 / range;

    if (!(k >= 0x1p-100 && k <= 0x1p100))
        return 1;
    return (float)(1.01 * 0x1p-24 * (fabs(lo) * k + 800) + 0x1p-24);
}

/* Cut to these the values below 1 and from 255 up lie as far from a whole number as can be. */
#define T_LEAST 0.5f
#define T_MOST 255.5f

/* Without FMA: what is "same on every table" must not be contracted. */
PLM_TARGET_BEGIN("avx2")

/* Four codes as 32-bit integers. The order of operands matters: max(NaN, 0) is 0. */
static inline __m128i four_codes(__m128 v, __m256d lo, __m256d range)
{
    __m256d t = _mm256_sub_pd(_mm256_cvtps_pd(v), lo);

    t = _mm256_div_pd(_mm256_mul_pd(t, _mm256_set1_pd(255)), range);
    t = _mm256_max_pd(t, _mm256_setzero_pd());
    t = _mm256_min_pd(t, _mm256_set1_pd(255));
    return _mm256_cvttpd_epi32(t);
}

static void exact_codes(const float *v, size_t n, double lo, double hi, uint8_t *codes)
{
    const __m256d low = _mm256_set1_pd(lo), range = _mm256_set1_pd(hi - lo);
    size_t i = 0;

    if (!(hi - lo > 0)) {
        memset(codes, 0, n);
        return;
    }
    for (; i + 8 <= n; i += 8) {
        __m128i words = _mm_packs_epi32(four_codes(_mm_loadu_ps(v + i), low, range),
                                        four_codes(_mm_loadu_ps(v + i + 4), low, range));

        _mm_storel_epi64((__m128i *)(codes + i), _mm_packus_epi16(words, words));
    }
    for (; i < n; i++)
        codes[i] = (uint8_t)_mm_cvtsi128_si32(four_codes(_mm_set_ss(v[i]), low, range));
}

/* 32 codes; false, and nothing done, where fp32 does not decide. */
static inline bool near_codes(const float *v, __m256 lo, __m256 k, __m256 margin, uint8_t *codes)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the lanes of packs */
    __m256 open = _mm256_setzero_ps();
    __m256i words[4];

    for (size_t i = 0; i < 4; i++) {
        __m256 t = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(v + 8 * i), lo), k), off;

        t = _mm256_max_ps(t, _mm256_set1_ps(T_LEAST)); /* a NaN becomes that, too */
        t = _mm256_min_ps(t, _mm256_set1_ps(T_MOST));
        off = _mm256_sub_ps(t, _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        open = _mm256_or_ps(open,
                            _mm256_cmp_ps(_mm256_and_ps(off, magnitude), margin, _CMP_LE_OQ));
        words[i] = _mm256_cvttps_epi32(t);
    }
    if (_mm256_movemask_ps(open))
        return false;
    words[0] = _mm256_packus_epi16(_mm256_packs_epi32(words[0], words[1]),
                                   _mm256_packs_epi32(words[2], words[3]));
    _mm256_storeu_si256((__m256i *)codes, _mm256_permutevar8x32_epi32(words[0], order));
    return true;
}

static void avx2_sq_encode(const float *v, size_t n, double lo, double hi, uint8_t *codes)
{
    float margin = sq_margin(lo, hi - lo);
    const __m256 low = _mm256_set1_ps((float)lo), k = _mm256_set1_ps((float)(255 / (hi - lo)));
    const __m256 margins = _mm256_set1_ps(margin);
    size_t i = 0;

    for (; margin < 0.01f && i + 32 <= n; i += 32)
        if (!near_codes(v + i, low, k, margins, codes + i))
            exact_codes(v + i, 32, lo, hi, codes + i);
    exact_codes(v + i, n - i, lo, hi, codes + i);
}

PLM_TARGET_END

void plm_simd_avx2_sq(struct plm_kernels *table)
{
    table->sq_encode = avx2_sq_encode;
}

PLM_TARGET_BEGIN("avx2,avx512f,avx512bw,avx512vl,avx512dq")

/* Sixteen codes; false, and nothing done, where fp32 does not decide. */
static inline bool sixteen_near_codes(const float *v, __m512 lo, __m512 k, __m512 margin,
                                      uint8_t *codes)
{
    __m512 t = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(v), lo), k), off;

    t = _mm512_max_ps(t, _mm512_set1_ps(T_LEAST));
    t = _mm512_min_ps(t, _mm512_set1_ps(T_MOST));
    off = _mm512_sub_ps(t, _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    if (_mm512_cmp_ps_mask(_mm512_abs_ps(off), margin, _CMP_LE_OQ))
        return false;
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(t)));
    return true;
}

static void avx512_sq_encode(const float *v, size_t n, double lo, double hi, uint8_t *codes)
{
    float margin = sq_margin(lo, hi - lo);
    const __m512 low = _mm512_set1_ps((float)lo), k = _mm512_set1_ps((float)(255 / (hi - lo)));
    const __m512 margins = _mm512_set1_ps(margin);
    size_t i = 0;

    for (; margin < 0.01f && i + 16 <= n; i += 16)
        if (!sixteen_near_codes(v + i, low, k, margins, codes + i))
            exact_codes(v + i, 16, lo, hi, codes + i);
    exact_codes(v + i, n - i, lo, hi, codes + i);
}

PLM_TARGET_END

void plm_simd_avx512_sq(struct plm_kernels *table)
{
    table->sq_encode = avx512_sq_encode;
}

#else
typedef int plm_no_x86_sq; /* ISO C wants something in every file */
#endif
