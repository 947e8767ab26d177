/* x86_avx512_sums.c - sums over a few rows, in double and fp32, for AVX-512.
 *
 * Those that are "same on every table" hold running sum i in lane i. AVX-512 includes fused
 * multiply-add, so here only -ffp-contract=off (set by the build, and the default of ISO C modes)
 * keeps products and sums apart; the kernel tests compare bits.
 * A masked lane adds +0 to a sum that is never -0, which changes nothing.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#include "simd/simd_tables.h"

PLM_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")

#define FOUR 4
#define EACH_OF_FOUR(i) _Pragma("GCC unroll 4") for (size_t i = 0; i < FOUR; i++)

/* ---- in double -------------------------------------------------------------------------- */

static inline __mmask8 eight_lanes(size_t d, size_t dim)
{
    return dim - d >= 8 ? 0xff : (__mmask8)((1u << (dim - d)) - 1);
}

static inline __m512d eight_doubles(const float *p, __mmask8 lanes)
{
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes, p));
}

static inline double add_eight(__m512d sums)
{
    double s[8];

    _mm512_storeu_pd(s, sums);
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static inline __m512d add_term(__m512d sum, __m512d x, __m512d c, bool l2)
{
    __m512d difference = l2 ? _mm512_sub_pd(x, c) : x;

    return _mm512_add_pd(sum, _mm512_mul_pd(difference, l2 ? difference : c));
}

static inline double one_pair(const float *x, const float *c, size_t n, bool l2)
{
    __m512d sum = _mm512_setzero_pd();

    for (size_t d = 0; d < n; d += 8) {
        __mmask8 lanes = eight_lanes(d, n);

        sum = add_term(sum, eight_doubles(x + d, lanes), eight_doubles(c + d, lanes), l2);
    }
    return add_eight(sum);
}

/* An addition waits four cycles for the one before it: four sums fill them. */
static inline void four_pairs(const float *const x[FOUR], const float *const c[FOUR], size_t n,
                              bool l2, double *out)
{
    __m512d sums[FOUR];

    EACH_OF_FOUR(i) sums[i] = _mm512_setzero_pd();
    for (size_t d = 0; d < n; d += 8) {
        __mmask8 lanes = eight_lanes(d, n);

        EACH_OF_FOUR(i)
        sums[i] = add_term(sums[i], eight_doubles(x[i] + d, lanes), eight_doubles(c[i] + d, lanes),
                           l2);
    }
    EACH_OF_FOUR(i) out[i] = add_eight(sums[i]);
}

static inline void pairs(const float *rows, size_t row_stride, const float *centroids,
                         const uint32_t *ids, size_t n, size_t dim, bool l2, double *out)
{
    size_t i = 0;

    for (; i + FOUR <= n; i += FOUR) {
        const float *x[FOUR], *c[FOUR];

        for (size_t j = 0; j < FOUR; j++) {
            x[j] = rows + (i + j) * row_stride;
            c[j] = centroids + ids[i + j] * dim;
        }
        four_pairs(x, c, dim, l2, out + i);
    }
    for (; i < n; i++)
        out[i] = one_pair(rows + i * row_stride, centroids + ids[i] * dim, dim, l2);
}

static double avx512_norm2(const float *x, size_t n)
{
    return one_pair(x, x, n, false);
}
static double avx512_l2_exact(const float *x, const float *c, size_t n)
{
    return one_pair(x, c, n, true);
}
static double avx512_dot_exact(const float *x, const float *c, size_t n)
{
    return one_pair(x, c, n, false);
}
static void avx512_l2_pairs(const float *rows, size_t row_stride, const float *centroids,
                            const uint32_t *ids, size_t n, size_t dim, double *out)
{
    pairs(rows, row_stride, centroids, ids, n, dim, true, out);
}
static void avx512_dot_pairs(const float *rows, size_t row_stride, const float *centroids,
                             const uint32_t *ids, size_t n, size_t dim, double *out)
{
    pairs(rows, row_stride, centroids, ids, n, dim, false, out);
}

static void avx512_grid_add(double *sums, const float *x, size_t n, double magic)
{
    const __m512d m = _mm512_set1_pd(magic);

    for (size_t i = 0; i < n; i += 8) {
        __mmask8 lanes = eight_lanes(i, n);
        __m512d rounded = _mm512_sub_pd(_mm512_add_pd(eight_doubles(x + i, lanes), m), m);
        __m512d sum = _mm512_maskz_loadu_pd(lanes, sums + i);

        _mm512_mask_storeu_pd(sums + i, lanes, _mm512_add_pd(sum, rounded));
    }
}

/* ---- frames --------------------------------------------------------------------------- */

/* Four rows; out may be NULL. Rows may repeat: they are written with the same values again. */
static inline void frame_four(const float *const rows[FOUR], float *const outs[FOUR], size_t dim,
                              const float *origin, float scale, double norms2[FOUR])
{
    const __m256 factor = _mm256_set1_ps(scale);
    __m512d sums[FOUR];

    EACH_OF_FOUR(i) sums[i] = _mm512_setzero_pd();
    for (size_t d = 0; d < dim; d += 8) {
        __mmask8 lanes = eight_lanes(d, dim);
        __m256 o = origin ? _mm256_maskz_loadu_ps(lanes, origin + d) : _mm256_setzero_ps();

        EACH_OF_FOUR(i)
        {
            __m256 v = _mm256_maskz_loadu_ps(lanes, rows[i] + d);
            __m512d wide;

            if (outs[i]) {
                v = origin ? _mm256_sub_ps(v, o) : v;
                v = _mm256_mul_ps(v, factor);
                _mm256_mask_storeu_ps(outs[i] + d, lanes, v);
            }
            wide = _mm512_cvtps_pd(v);
            sums[i] = _mm512_add_pd(sums[i], _mm512_mul_pd(wide, wide));
        }
    }
    EACH_OF_FOUR(i) norms2[i] = add_eight(sums[i]);
}

static void avx512_frame_rows(const float *rows, size_t n, size_t dim, const float *origin,
                              float scale, float *out, double *norms2)
{
    for (size_t i = 0; i < n; i += FOUR) {
        const float *in[FOUR];
        float *to[FOUR];
        double norms[FOUR];

        for (size_t j = 0; j < FOUR; j++) {
            size_t row = i + j < n ? i + j : n - 1;

            in[j] = rows + row * dim;
            to[j] = out ? out + row * dim : NULL;
        }
        frame_four(in, to, dim, origin, scale, norms);
        for (size_t j = 0; j < FOUR && i + j < n; j++)
            norms2[i + j] = norms[j];
    }
}

/* ---- estimates ------------------------------------------------------------------------- */

static inline __mmask16 sixteen_lanes(size_t d, size_t dim)
{
    return dim - d >= 16 ? 0xffff : (__mmask16)((1u << (dim - d)) - 1);
}

static inline __m512 add_near(__m512 sum, __m512 x, __m512 c, bool l2)
{
    __m512 difference = l2 ? _mm512_sub_ps(x, c) : x;

    return _mm512_fmadd_ps(difference, l2 ? difference : c, sum);
}

static inline void four_near(const float *row, const float *const c[FOUR], size_t dim, bool l2,
                             float out[FOUR])
{
    __m512 even[FOUR], odd[FOUR];
    size_t d = 0;

    EACH_OF_FOUR(i) even[i] = odd[i] = _mm512_setzero_ps();
    for (; d + 32 <= dim; d += 32) {
        __m512 x = _mm512_loadu_ps(row + d), y = _mm512_loadu_ps(row + d + 16);

        EACH_OF_FOUR(i)
        {
            even[i] = add_near(even[i], x, _mm512_loadu_ps(c[i] + d), l2);
            odd[i] = add_near(odd[i], y, _mm512_loadu_ps(c[i] + d + 16), l2);
        }
    }
    for (; d < dim; d += 16) {
        __mmask16 lanes = sixteen_lanes(d, dim);
        __m512 x = _mm512_maskz_loadu_ps(lanes, row + d);

        EACH_OF_FOUR(i)
        even[i] = add_near(even[i], x, _mm512_maskz_loadu_ps(lanes, c[i] + d), l2);
    }
    EACH_OF_FOUR(i) out[i] = _mm512_reduce_add_ps(_mm512_add_ps(even[i], odd[i]));
}

static inline float one_near(const float *row, const float *c, size_t dim, bool l2)
{
    __m512 sums[FOUR];
    size_t d = 0;

    EACH_OF_FOUR(i) sums[i] = _mm512_setzero_ps();
    for (; d + 64 <= dim; d += 64)
        EACH_OF_FOUR(i)
        sums[i] = add_near(sums[i], _mm512_loadu_ps(row + d + 16 * i),
                           _mm512_loadu_ps(c + d + 16 * i), l2);
    for (; d < dim; d += 16) {
        __mmask16 lanes = sixteen_lanes(d, dim);

        sums[0] = add_near(sums[0], _mm512_maskz_loadu_ps(lanes, row + d),
                           _mm512_maskz_loadu_ps(lanes, c + d), l2);
    }
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

#include "simd/near_rows.h"

static void avx512_l2_near(const float *row, const float *centroids, const uint32_t *ids,
                           size_t n, size_t dim, float *out)
{
    near(row, centroids, ids, n, dim, true, out);
}
static void avx512_dot_near(const float *row, const float *centroids, const uint32_t *ids,
                            size_t n, size_t dim, float *out)
{
    near(row, centroids, ids, n, dim, false, out);
}

/* ---- scans ------------------------------------------------------------------------------- */

/* min(v, acc) gives acc when v is NaN, as the reference does. */
static void avx512_min_max(const float *v, size_t n, float *lo, float *hi)
{
    __m512 least[2], greatest[2];
    size_t i = 0;

    least[0] = least[1] = _mm512_set1_ps(INFINITY);
    greatest[0] = greatest[1] = _mm512_set1_ps(-INFINITY);
    for (; i + 32 <= n; i += 32)
        for (size_t j = 0; j < 2; j++) {
            __m512 x = _mm512_loadu_ps(v + i + 16 * j);

            least[j] = _mm512_min_ps(x, least[j]);
            greatest[j] = _mm512_max_ps(x, greatest[j]);
        }
    for (; i < n; i += 16) {
        __mmask16 lanes = sixteen_lanes(i, n);
        __m512 x = _mm512_maskz_loadu_ps(lanes, v + i);

        least[0] = _mm512_mask_min_ps(least[0], lanes, x, least[0]);
        greatest[0] = _mm512_mask_max_ps(greatest[0], lanes, x, greatest[0]);
    }
    *lo = _mm512_reduce_min_ps(_mm512_min_ps(least[0], least[1])) + 0.0f;
    *hi = _mm512_reduce_max_ps(_mm512_max_ps(greatest[0], greatest[1])) + 0.0f;
}

static size_t avx512_at_most(const float *v, size_t n, float limit, uint32_t *places)
{
    const __m512 ceiling = _mm512_set1_ps(limit);
    size_t found = 0;

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = sixteen_lanes(i, n);
        unsigned mask = _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, v + i),
                                                ceiling, _CMP_LE_OQ);

        for (; mask; mask &= mask - 1)
            places[found++] = (uint32_t)(i + (size_t)__builtin_ctz(mask));
    }
    return found;
}

PLM_TARGET_END

void plm_simd_avx512_sums(struct plm_kernels *table)
{
    table->norm2 = avx512_norm2;
    table->l2_exact = avx512_l2_exact;
    table->dot_exact = avx512_dot_exact;
    table->l2_pairs = avx512_l2_pairs;
    table->dot_pairs = avx512_dot_pairs;
    table->l2_near = avx512_l2_near;
    table->dot_near = avx512_dot_near;
    table->frame_rows = avx512_frame_rows;
    table->grid_add = avx512_grid_add;
    table->min_max = avx512_min_max;
    table->at_most = avx512_at_most;
}

#else
typedef int plm_no_avx512_sums; /* ISO C wants something in every file */
#endif
