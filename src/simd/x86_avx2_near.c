/* x86_avx2_near.c - sums over a few rows for AVX2: pairs and frames in double, estimates in fp32. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "simd/simd_tables.h"

#define TWO 2
#define EACH_OF_TWO(i) _Pragma("GCC unroll 2") for (size_t i = 0; i < TWO; i++)

/* Without FMA: what is "same on every table" must not be contracted. */
PLM_TARGET_BEGIN("avx2")

/* Values d .. d+3, or as many as there are and zeros. */
static inline __m128 four_values(const float *row, size_t d, size_t dim)
{
    const __m128i lane = _mm_setr_epi32(0, 1, 2, 3);

    if (d + 4 <= dim)
        return _mm_loadu_ps(row + d);
    if (d >= dim)
        return _mm_setzero_ps();
    return _mm_maskload_ps(row + d, _mm_cmpgt_epi32(_mm_set1_epi32((int)(dim - d)), lane));
}

static inline double add_eight(__m256d low, __m256d high)
{
    double s[8];

    _mm256_storeu_pd(s, low);
    _mm256_storeu_pd(s + 4, high);
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static inline __m256d add_term(__m256d sum, __m128 x4, __m128 c4, bool l2)
{
    __m256d x = _mm256_cvtps_pd(x4), c = _mm256_cvtps_pd(c4);
    __m256d difference = l2 ? _mm256_sub_pd(x, c) : x;

    return _mm256_add_pd(sum, _mm256_mul_pd(difference, l2 ? difference : c));
}

/* Two pairs, four sums in flight. Lanes beyond the end add +0 to sums that are never -0. */
static inline void two_pairs(const float *const x[TWO], const float *const c[TWO], size_t n,
                             bool l2, double out[TWO])
{
    __m256d low[TWO], high[TWO];

    EACH_OF_TWO(i) low[i] = high[i] = _mm256_setzero_pd();
    for (size_t d = 0; d < n; d += 8)
        EACH_OF_TWO(i)
        {
            low[i] = add_term(low[i], four_values(x[i], d, n), four_values(c[i], d, n), l2);
            high[i] = add_term(high[i], four_values(x[i], d + 4, n), four_values(c[i], d + 4, n),
                               l2);
        }
    EACH_OF_TWO(i) out[i] = add_eight(low[i], high[i]);
}

static inline void pairs(const float *rows, size_t row_stride, const float *centroids,
                         const uint32_t *ids, size_t n, size_t dim, bool l2, double *out)
{
    for (size_t i = 0; i < n; i += TWO) {
        size_t last = i + 1 < n ? i + 1 : i; /* an odd end is done twice */
        const float *x[TWO] = {rows + i * row_stride, rows + last * row_stride};
        const float *c[TWO] = {centroids + ids[i] * dim, centroids + ids[last] * dim};
        double values[TWO];

        two_pairs(x, c, dim, l2, values);
        out[i] = values[0];
        out[last] = values[last - i];
    }
}

static void avx2_l2_pairs(const float *rows, size_t row_stride, const float *centroids,
                          const uint32_t *ids, size_t n, size_t dim, double *out)
{
    pairs(rows, row_stride, centroids, ids, n, dim, true, out);
}
static void avx2_dot_pairs(const float *rows, size_t row_stride, const float *centroids,
                           const uint32_t *ids, size_t n, size_t dim, double *out)
{
    pairs(rows, row_stride, centroids, ids, n, dim, false, out);
}

static inline __m256d add_square(__m256d sum, __m128 v)
{
    __m256d wide = _mm256_cvtps_pd(v);

    return _mm256_add_pd(sum, _mm256_mul_pd(wide, wide));
}

/* out NULL: the norm alone. */
static inline double frame_row(const float *row, size_t dim, const float *origin, float scale,
                               float *out)
{
    const __m256 factor = _mm256_set1_ps(scale);
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    float rest[8] = {0};
    size_t d = 0;

    for (; d + 8 <= dim; d += 8) {
        __m256 v = _mm256_loadu_ps(row + d);

        if (out) {
            v = origin ? _mm256_sub_ps(v, _mm256_loadu_ps(origin + d)) : v;
            v = _mm256_mul_ps(v, factor);
            _mm256_storeu_ps(out + d, v);
        }
        low = add_square(low, _mm256_castps256_ps128(v));
        high = add_square(high, _mm256_extractf128_ps(v, 1));
    }
    for (size_t i = 0; d + i < dim; i++) {
        rest[i] = row[d + i];
        if (out)
            out[d + i] = rest[i] = (origin ? rest[i] - origin[d + i] : rest[i]) * scale;
    }
    low = add_square(low, _mm_loadu_ps(rest));
    high = add_square(high, _mm_loadu_ps(rest + 4));
    return add_eight(low, high);
}

static void avx2_frame_rows(const float *rows, size_t n, size_t dim, const float *origin,
                            float scale, float *out, double *norms2)
{
    for (size_t i = 0; i < n; i++)
        norms2[i] = frame_row(rows + i * dim, dim, origin, scale, out ? out + i * dim : NULL);
}

PLM_TARGET_END

PLM_TARGET_BEGIN("avx2,fma")

/* ---- estimates ------------------------------------------------------------------------- */

#define FOUR 4
#define EACH_OF_FOUR(i) _Pragma("GCC unroll 4") for (size_t i = 0; i < FOUR; i++)

static inline __m256 eight_values(const float *row, size_t d, size_t dim)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_maskload_ps(row + d,
                              _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(dim - d)), lane));
}

static inline __m256 add_near(__m256 sum, __m256 x, __m256 c, bool l2)
{
    __m256 difference = l2 ? _mm256_sub_ps(x, c) : x;

    return _mm256_fmadd_ps(difference, l2 ? difference : c, sum);
}

static inline float sum_of(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline void four_near(const float *row, const float *const c[FOUR], size_t dim, bool l2,
                             float out[FOUR])
{
    __m256 even[FOUR], odd[FOUR];
    size_t d = 0;

    EACH_OF_FOUR(i) even[i] = odd[i] = _mm256_setzero_ps();
    for (; d + 16 <= dim; d += 16) {
        __m256 x = _mm256_loadu_ps(row + d), y = _mm256_loadu_ps(row + d + 8);

        EACH_OF_FOUR(i)
        {
            even[i] = add_near(even[i], x, _mm256_loadu_ps(c[i] + d), l2);
            odd[i] = add_near(odd[i], y, _mm256_loadu_ps(c[i] + d + 8), l2);
        }
    }
    for (; d < dim; d += 8)
        EACH_OF_FOUR(i)
        even[i] = add_near(even[i], eight_values(row, d, dim), eight_values(c[i], d, dim), l2);
    EACH_OF_FOUR(i) out[i] = sum_of(_mm256_add_ps(even[i], odd[i]));
}

static inline float one_near(const float *row, const float *c, size_t dim, bool l2)
{
    __m256 sums[FOUR];
    size_t d = 0;

    EACH_OF_FOUR(i) sums[i] = _mm256_setzero_ps();
    for (; d + 32 <= dim; d += 32)
        EACH_OF_FOUR(i)
        sums[i] = add_near(sums[i], _mm256_loadu_ps(row + d + 8 * i),
                           _mm256_loadu_ps(c + d + 8 * i), l2);
    for (; d < dim; d += 8)
        sums[0] = add_near(sums[0], eight_values(row, d, dim), eight_values(c, d, dim), l2);
    return sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
}

#include "simd/near_rows.h"

static void avx2_l2_near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                         size_t dim, float *out)
{
    near(row, centroids, ids, n, dim, true, out);
}
static void avx2_dot_near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                          size_t dim, float *out)
{
    near(row, centroids, ids, n, dim, false, out);
}

PLM_TARGET_END

void plm_simd_avx2_near(struct plm_kernels *table)
{
    table->l2_pairs = avx2_l2_pairs;
    table->dot_pairs = avx2_dot_pairs;
    table->frame_rows = avx2_frame_rows;
    table->l2_near = avx2_l2_near;
    table->dot_near = avx2_dot_near;
}

#else
typedef int plm_no_avx2_near; /* ISO C wants something in every file */
#endif
