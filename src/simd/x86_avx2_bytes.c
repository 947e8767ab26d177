/* x86_avx2_bytes.c - rows and centroids in seven bits, for AVX2: products of unsigned and signed
 * bytes are added in pairs to 16 bits, and two such pairs, 4 * 127 * 63 = 32,004 at most, still fit
 * before they are widened. So a vector of 32 products costs two and a half instructions. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "simd/simd_tables.h"

#define BYTE_MOST 63
#define GROUP_BYTES (4 * PLM_GROUP)
#define PANEL_BYTES (4 * PLM_PANEL)

PLM_TARGET_BEGIN("avx2,fma")

/* ---- rows ---------------------------------------------------------------------------- */

/* Values d .. d+7 of a row, zeros behind its end. */
static inline __m256 eight_values(const float *row, size_t d, size_t dim)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    if (d + 8 <= dim)
        return _mm256_loadu_ps(row + d);
    return _mm256_maskload_ps(row + d,
                              _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(dim - d)), lane));
}

static float greatest_magnitude(const float *row, size_t dim)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 greatest = _mm256_setzero_ps();
    float lanes[8];

    for (size_t d = 0; d < dim; d += 8)
        greatest = _mm256_max_ps(_mm256_and_ps(eight_values(row, d, dim), magnitude), greatest);
    _mm256_storeu_ps(lanes, greatest);
    for (size_t i = 1; i < 8; i++)
        lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
}

static inline double sum_of(__m256 v)
{
    float lanes[8];
    double sum = 0;

    _mm256_storeu_ps(lanes, v);
    for (size_t i = 0; i < 8; i++)
        sum += (double)lanes[i];
    return sum;
}

/* out: this row's place in a group. */
static void quantize_row(const float *row, size_t dim, uint8_t *out, float *scale, float *rest)
{
    float greatest = greatest_magnitude(row, dim);
    bool is_zero = !(greatest >= PLM_BYTE_LEAST && greatest <= PLM_BYTE_GREATEST);
    __m256 inverse = _mm256_set1_ps(is_zero ? 0 : BYTE_MOST / greatest);
    __m256 step = _mm256_set1_ps(is_zero ? 0 : greatest / BYTE_MOST), sum = _mm256_setzero_ps();

    for (size_t d = 0; d < dim; d += 8) {
        __m256 value = eight_values(row, d, dim);
        __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(value, inverse));
        __m256 left = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(q), step, value);
        __m128i words;
        int four[2];

        sum = _mm256_fmadd_ps(left, left, sum);
        q = _mm256_add_epi32(q, _mm256_set1_epi32(BYTE_MOST + 1));
        words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        words = _mm_packus_epi16(words, words);
        four[0] = _mm_cvtsi128_si32(words);
        four[1] = _mm_extract_epi32(words, 1);
        memcpy(out, &four[0], 4);
        memcpy(out + GROUP_BYTES, &four[1], 4);
        out += 2 * GROUP_BYTES;
    }
    *scale = is_zero ? 0 : greatest / BYTE_MOST;
    *rest = plm_rest_norm(sum_of(sum), dim);
}

static void avx2_byte_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                           uint8_t *packed, float *scales, float *rests)
{
    plm_byte_rows_by(quantize_row, BYTE_MOST + 1, rows, row_stride, n, dim, packed, scales, rests);
}

/* ---- bounds -------------------------------------------------------------------------- */

/* Names, not an array: see x86_avx2.c. Twelve accumulators, a row's eight dimensions, the ones
 * and a sum are the sixteen registers; centroids come from memory. */
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define DECLARE(r) __m256i low##r = first_low, high##r = first_high;
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define FOUR_BYTES(p) _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)(p)))
#define ADD_PRODUCTS(sum, at)                                                                  \
    sum = _mm256_add_epi32(                                                                    \
        sum, _mm256_madd_epi16(                                                                \
                 _mm256_add_epi16(_mm256_maddubs_epi16(x0, LOAD(panel + at)),                  \
                                  _mm256_maddubs_epi16(x1, LOAD(panel + PANEL_BYTES + at))),   \
                 ones));
#define MULTIPLY_ADD(r)                                                             \
    {                                                                               \
        __m256i x0 = FOUR_BYTES(group + 4 * r);                                     \
        __m256i x1 = FOUR_BYTES(group + GROUP_BYTES + 4 * r);                       \
        ADD_PRODUCTS(low##r, 0)                                                     \
        ADD_PRODUCTS(high##r, 32)                                                   \
    }
#define HAND_OUT(r) products[2 * r] = low##r, products[2 * r + 1] = high##r;

static inline void tile_6x16(const uint8_t *group, const int8_t *panel, const int32_t *offsets,
                             size_t dim, __m256i products[2 * PLM_GROUP])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i first_low = LOAD(offsets), first_high = LOAD(offsets + 8);

    EACH_ROW(DECLARE)
    for (size_t d = 0; d < dim; d += 8) {
        EACH_ROW(MULTIPLY_ADD)
        group += 2 * GROUP_BYTES;
        panel += 2 * PANEL_BYTES;
    }
    EACH_ROW(HAND_OUT)
}

/* Eight bounds of a row from its terms r and the centroids' p. */
static inline void put_bounds(__m256i products, const float *r, const float *p, float *out)
{
    __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(products), _mm256_loadu_ps(p + PLM_PANEL));
    __m256 bound = _mm256_fnmadd_ps(_mm256_set1_ps(r[0]), scaled, _mm256_loadu_ps(p));

    for (size_t t = 1; t < PLM_BYTE_ROW_TERMS; t++)
        bound = _mm256_fnmadd_ps(_mm256_set1_ps(r[t]),
                                 _mm256_loadu_ps(p + (t + 1) * PLM_PANEL), bound);
    _mm256_storeu_ps(out, bound);
}

static void avx2_byte_bounds(const uint8_t *rows, const float *row_terms, size_t n,
                             const int8_t *panels, const int32_t *offsets,
                             const float *panel_terms, size_t n_panels, size_t dim, float *bounds,
                             size_t stride)
{
    for (size_t panel = 0; panel < n_panels; panel++) {
        const float *terms = panel_terms + panel * PLM_PANEL * PLM_BYTE_PANEL_TERMS;

        for (size_t row = 0; row < n; row += PLM_GROUP) {
            size_t n_group = n - row < PLM_GROUP ? n - row : PLM_GROUP;
            __m256i products[2 * PLM_GROUP];

            tile_6x16(rows + row * dim, panels + panel * PLM_PANEL * dim,
                      offsets + panel * PLM_PANEL, dim, products);
            for (size_t r = 0; r < n_group; r++) {
                const float *own = row_terms + (row + r) * PLM_BYTE_ROW_TERMS;
                float *out = bounds + (row + r) * stride + panel * PLM_PANEL;

                put_bounds(products[2 * r], own, terms, out);
                put_bounds(products[2 * r + 1], own, terms + 8, out + 8);
            }
        }
    }
}

PLM_TARGET_END

void plm_simd_avx2_bytes(struct plm_kernels *table)
{
    table->byte_most = BYTE_MOST;
    table->byte_rows = avx2_byte_rows;
    table->byte_bounds = avx2_byte_bounds;
}

#else
typedef int plm_no_avx2_bytes; /* ISO C wants something in every file */
#endif
