/* x86_avx2.c - kernels for AVX2 + FMA + F16C. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "simd/simd_tables.h"

/* Everything that must be "same on every table" comes first, in a region without FMA: there a
 * compiler cannot contract a product and a sum, whatever its flags. */
PLM_TARGET_BEGIN("avx2,f16c")

/* ---- conversions and sums in double -------------------------------------------- */

static void avx2_f16_to_f32(const uint16_t *src, float *dst, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
    if (i < n) {
        uint16_t halves[8] = {0};
        float floats[8];

        memcpy(halves, src + i, (n - i) * sizeof *src);
        _mm256_storeu_ps(floats, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves)));
        memcpy(dst + i, floats, (n - i) * sizeof *dst);
    }
}

/* Four floats at p as doubles. */
static inline __m256d four_doubles(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

/* The eight running sums, with the values i..n-1 (i a multiple of 8) still to be added: `tail`
 * holds their terms. */
static inline double finish_sums(__m256d low, __m256d high, const double *tail, size_t n_tail)
{
    double s[8];

    _mm256_storeu_pd(s, low);
    _mm256_storeu_pd(s + 4, high);
    for (size_t i = 0; i < n_tail; i++)
        s[i] += tail[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static double avx2_dot_exact(const float *x, const float *c, size_t n)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    double tail[8];
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        low = _mm256_add_pd(low, _mm256_mul_pd(four_doubles(x + i), four_doubles(c + i)));
        high = _mm256_add_pd(high,
                             _mm256_mul_pd(four_doubles(x + i + 4), four_doubles(c + i + 4)));
    }
    for (size_t t = i; t < n; t++)
        tail[t - i] = (double)x[t] * (double)c[t];
    return finish_sums(low, high, tail, n - i);
}

static double avx2_norm2(const float *x, size_t n)
{
    return avx2_dot_exact(x, x, n);
}

static double avx2_l2_exact(const float *x, const float *c, size_t n)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    double tail[8];
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256d a = _mm256_sub_pd(four_doubles(x + i), four_doubles(c + i));
        __m256d b = _mm256_sub_pd(four_doubles(x + i + 4), four_doubles(c + i + 4));

        low = _mm256_add_pd(low, _mm256_mul_pd(a, a));
        high = _mm256_add_pd(high, _mm256_mul_pd(b, b));
    }
    for (size_t t = i; t < n; t++) {
        double difference = (double)x[t] - (double)c[t];

        tail[t - i] = difference * difference;
    }
    return finish_sums(low, high, tail, n - i);
}

static void avx2_grid_add(double *sums, const float *x, size_t n, double magic)
{
    const __m256d m = _mm256_set1_pd(magic);
    size_t i = 0;

    for (; i + 4 <= n; i += 4) {
        __m256d rounded = _mm256_sub_pd(_mm256_add_pd(four_doubles(x + i), m), m);

        _mm256_storeu_pd(sums + i, _mm256_add_pd(_mm256_loadu_pd(sums + i), rounded));
    }
    for (; i < n; i++)
        sums[i] += ((double)x[i] + magic) - magic;
}

/* ---- scans ---------------------------------------------------------------------------- */

/* min(v, acc) gives acc when v is NaN, as the reference does. */
static void avx2_min_max(const float *v, size_t n, float *lo, float *hi)
{
    __m256 least = _mm256_set1_ps(INFINITY), greatest = _mm256_set1_ps(-INFINITY);
    float low[8], high[8];
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(v + i);

        least = _mm256_min_ps(x, least);
        greatest = _mm256_max_ps(x, greatest);
    }
    _mm256_storeu_ps(low, least);
    _mm256_storeu_ps(high, greatest);
    for (; i < n; i++) {
        low[0] = v[i] < low[0] ? v[i] : low[0];
        high[0] = v[i] > high[0] ? v[i] : high[0];
    }
    for (size_t lane = 1; lane < 8; lane++) {
        low[0] = low[lane] < low[0] ? low[lane] : low[0];
        high[0] = high[lane] > high[0] ? high[lane] : high[0];
    }
    *lo = low[0] + 0.0f;
    *hi = high[0] + 0.0f;
}

static size_t avx2_at_most(const float *v, size_t n, float limit, uint32_t *places)
{
    const __m256 ceiling = _mm256_set1_ps(limit);
    size_t found = 0, i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 below = _mm256_cmp_ps(_mm256_loadu_ps(v + i), ceiling, _CMP_LE_OQ);

        for (unsigned mask = (unsigned)_mm256_movemask_ps(below); mask; mask &= mask - 1)
            places[found++] = (uint32_t)(i + (size_t)__builtin_ctz(mask));
    }
    for (; i < n; i++)
        if (v[i] <= limit)
            places[found++] = (uint32_t)i;
    return found;
}

static inline __m256i sixteen_words(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static uint32_t avx2_sq_l2(const uint8_t *a, const uint8_t *b, size_t n)
{
    __m256i sums = _mm256_setzero_si256();
    uint32_t lanes[8], sum = 0;
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256i difference = _mm256_sub_epi16(sixteen_words(a + i), sixteen_words(b + i));

        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(difference, difference));
    }
    _mm256_storeu_si256((__m256i *)lanes, sums);
    for (size_t lane = 0; lane < 8; lane++)
        sum += lanes[lane];
    for (; i < n; i++) {
        int difference = a[i] - b[i];

        sum += (uint32_t)(difference * difference);
    }
    return sum;
}

/* ---- packing ------------------------------------------------------------------------ */

/* Dimensions d.. of a group of n <= PLM_GROUP rows, one by one. */
static void pack_rest(const float *rows, size_t row_stride, size_t n, size_t d, size_t dim,
                      float *packed)
{
    for (; d < dim; d++)
        for (size_t i = 0; i < PLM_GROUP; i++)
            packed[d * PLM_GROUP + i] = i < n ? rows[i * row_stride + d] : 0;
}

/* Four dimensions of six rows: a 4x4 transpose and two interleaves. */
static inline void pack_four(const float *rows, size_t row_stride, float *out)
{
    __m128 a = _mm_loadu_ps(rows), b = _mm_loadu_ps(rows + row_stride);
    __m128 c = _mm_loadu_ps(rows + 2 * row_stride), d = _mm_loadu_ps(rows + 3 * row_stride);
    __m128 e = _mm_loadu_ps(rows + 4 * row_stride), f = _mm_loadu_ps(rows + 5 * row_stride);
    __m128 low = _mm_unpacklo_ps(e, f), high = _mm_unpackhi_ps(e, f);

    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storel_pi((__m64 *)(void *)(out + 4), low);
    _mm_storeu_ps(out + 6, b);
    _mm_storeh_pi((__m64 *)(void *)(out + 10), low);
    _mm_storeu_ps(out + 12, c);
    _mm_storel_pi((__m64 *)(void *)(out + 16), high);
    _mm_storeu_ps(out + 18, d);
    _mm_storeh_pi((__m64 *)(void *)(out + 22), high);
}

static void avx2_pack_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                           float *packed)
{
    for (size_t first = 0; first < n; first += PLM_GROUP) {
        const float *group = rows + first * row_stride;
        size_t n_group = n - first < PLM_GROUP ? n - first : PLM_GROUP, d = 0;

        if (n_group == PLM_GROUP)
            for (; d + 4 <= dim; d += 4)
                pack_four(group + d, row_stride, packed + d * PLM_GROUP);
        pack_rest(group, row_stride, n_group, d, dim, packed);
        packed += PLM_GROUP * dim;
    }
}

PLM_TARGET_END

PLM_TARGET_BEGIN("avx2,fma")

/* ---- packed rows against packed centroids ---------------------------------------- */

/* x.c of 6 rows and 16 centroids: products[2 r] are row r's first eight, products[2 r + 1] the
 * others. The 12 accumulators are names, not an array: an array stays in registers only while
 * every loop over it is fully unrolled, and losing that costs a factor of three, silently. */
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define DECLARE(r) __m256 low##r = _mm256_setzero_ps(), high##r = _mm256_setzero_ps();
#define MULTIPLY_ADD(r)                                \
    {                                                  \
        __m256 x = _mm256_broadcast_ss(group + r);     \
        low##r = _mm256_fmadd_ps(x, c_low, low##r);    \
        high##r = _mm256_fmadd_ps(x, c_high, high##r); \
    }
#define HAND_OUT(r) products[2 * r] = low##r, products[2 * r + 1] = high##r;

static inline void tile_6x16(const float *group, const float *panel, size_t dim,
                             __m256 products[2 * PLM_GROUP])
{
    EACH_ROW(DECLARE)
    for (size_t d = 0; d < dim; d++) {
        __m256 c_low = _mm256_loadu_ps(panel), c_high = _mm256_loadu_ps(panel + 8);

        EACH_ROW(MULTIPLY_ADD)
        group += PLM_GROUP;
        panel += PLM_PANEL;
    }
    EACH_ROW(HAND_OUT)
}

#include "simd/lanes256.h"

static void merge_lanes(const struct lanes *lanes, float *best, float *second, uint32_t *id)
{
    float values[8], seconds[8];
    uint32_t ids[8];

    _mm256_storeu_ps(values, lanes->best);
    _mm256_storeu_ps(seconds, lanes->second);
    _mm256_storeu_si256((__m256i *)ids, lanes->ids);
    plm_merge_lanes(values, seconds, ids, 8, best, second, id);
}

static void avx2_nearest(const float *rows_packed, size_t n, const float *panels,
                         const float *half_norms, size_t n_panels, size_t dim, float *best,
                         float *second, uint32_t *ids)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    struct lanes lanes[PLM_BLOCK_ROWS];

    for (size_t row = 0; row < PLM_BLOCK_ROWS; row++) {
        lanes[row].best = lanes[row].second = _mm256_set1_ps(INFINITY);
        lanes[row].ids = lane;
    }
    for (size_t panel = 0; panel < n_panels; panel++) {
        const float *halves = half_norms + panel * PLM_PANEL;
        __m256 h_low = _mm256_loadu_ps(halves), h_high = _mm256_loadu_ps(halves + 8);
        __m256i id_low = _mm256_add_epi32(lane, _mm256_set1_epi32((int)(panel * PLM_PANEL)));
        __m256i id_high = _mm256_add_epi32(id_low, _mm256_set1_epi32(8));

        for (size_t row = 0; row < n; row += PLM_GROUP) {
            __m256 products[2 * PLM_GROUP];

            tile_6x16(rows_packed + row * dim, panels + panel * PLM_PANEL * dim, dim, products);
            for (size_t r = 0; r < PLM_GROUP; r++) {
                struct lanes running = lanes[row + r];

                keep_least(&running, _mm256_sub_ps(h_low, products[2 * r]), id_low);
                keep_least(&running, _mm256_sub_ps(h_high, products[2 * r + 1]), id_high);
                lanes[row + r] = running;
            }
        }
    }
    for (size_t row = 0; row < n; row++)
        merge_lanes(&lanes[row], &best[row], &second[row], &ids[row]);
}

/* values[row * stride + j] = half_norms[j] - x.c_j; or x.c_j where half_norms is NULL. */
static inline void all_values(const float *rows_packed, size_t n, const float *panels,
                              const float *half_norms, size_t n_panels, size_t dim, float *values,
                              size_t stride)
{
    for (size_t panel = 0; panel < n_panels; panel++) {
        for (size_t row = 0; row < n; row += PLM_GROUP) {
            size_t n_group = n - row < PLM_GROUP ? n - row : PLM_GROUP;
            __m256 v[2 * PLM_GROUP];

            tile_6x16(rows_packed + row * dim, panels + panel * PLM_PANEL * dim, dim, v);
            for (size_t r = 0; r < n_group; r++) {
                float *out = values + (row + r) * stride + panel * PLM_PANEL;

                if (half_norms) {
                    const float *halves = half_norms + panel * PLM_PANEL;

                    v[2 * r] = _mm256_sub_ps(_mm256_loadu_ps(halves), v[2 * r]);
                    v[2 * r + 1] = _mm256_sub_ps(_mm256_loadu_ps(halves + 8), v[2 * r + 1]);
                }
                _mm256_storeu_ps(out, v[2 * r]);
                _mm256_storeu_ps(out + 8, v[2 * r + 1]);
            }
        }
    }
}

static void avx2_values(const float *rows_packed, size_t n, const float *panels,
                        const float *half_norms, size_t n_panels, size_t dim, float *values,
                        size_t stride)
{
    all_values(rows_packed, n, panels, half_norms, n_panels, dim, values, stride);
}

static void avx2_project(const float *rows_packed, size_t n, const float *panels,
                         size_t n_panels, size_t dim, float *out, size_t out_stride)
{
    all_values(rows_packed, n, panels, NULL, n_panels, dim, out, out_stride);
}

PLM_TARGET_END

void plm_simd_avx2(struct plm_kernels *table)
{
    table->name = "avx2";
    table->f16_to_f32 = avx2_f16_to_f32;
    table->norm2 = avx2_norm2;
    table->l2_exact = avx2_l2_exact;
    table->dot_exact = avx2_dot_exact;
    table->nearest = avx2_nearest;
    table->values = avx2_values;
    table->pack_rows = avx2_pack_rows;
    table->min_max = avx2_min_max;
    table->at_most = avx2_at_most;
    table->sq_l2 = avx2_sq_l2;
    table->grid_add = avx2_grid_add;
    table->project = avx2_project;
    plm_simd_avx2_pq(table);
    plm_simd_avx2_near(table);
    plm_simd_avx2_sq(table);
    plm_simd_avx2_bytes(table);
}

#else
typedef int plm_no_avx2; /* ISO C wants something in every file */
#endif
