/* x86_avx512_vnni.c - rows and centroids in eight bits, for AVX-512 with VNNI: one instruction
 * adds 64 products of bytes to 16 sums of 32 bits, four times what an fp32 instruction does. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "simd/simd_tables.h"

#define BYTE_MOST 127
#define GROUP_BYTES (4 * PLM_GROUP)
#define PANEL_BYTES (4 * PLM_PANEL)

PLM_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

/* ---- rows ---------------------------------------------------------------------------- */

/* The lanes of a vector at dimension d that lie within the row. */
static inline __mmask16 lanes_of(size_t d, size_t dim)
{
    return dim - d >= 16 ? 0xffff : (__mmask16)((1u << (dim - d)) - 1);
}

static float greatest_magnitude(const float *row, size_t dim)
{
    __m512 a = _mm512_setzero_ps(), b = a;
    size_t d = 0;

    for (; d + 32 <= dim; d += 32) {
        a = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(row + d)), a);
        b = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(row + d + 16)), b);
    }
    for (; d < dim; d += 16)
        a = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_of(d, dim), row + d)), a);
    return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

/* Four dwords of a row to their places in the group, as many as there are. */
static inline void put_sixteen(uint8_t *out, __m128i bytes, size_t n_fours)
{
    int32_t fours[4];

    _mm_storeu_si128((__m128i *)fours, bytes);
    for (size_t i = 0; i < n_fours; i++)
        memcpy(out + i * GROUP_BYTES, &fours[i], 4);
}

/* out: this row's place in a group. */
static void quantize_row(const float *row, size_t dim, uint8_t *out, float *scale, float *rest)
{
    float greatest = greatest_magnitude(row, dim);
    bool is_zero = !(greatest >= PLM_BYTE_LEAST && greatest <= PLM_BYTE_GREATEST);
    __m512 inverse = _mm512_set1_ps(is_zero ? 0 : BYTE_MOST / greatest);
    __m512 step = _mm512_set1_ps(is_zero ? 0 : greatest / BYTE_MOST), sum = _mm512_setzero_ps();
    size_t dims = plm_byte_dims(dim);

    for (size_t d = 0; d < dim; d += 16) {
        __m512 value = _mm512_maskz_loadu_ps(lanes_of(d, dim), row + d);
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse));
        __m512 left = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), step, value);
        __m128i bytes = _mm512_cvtepi32_epi8(q);

        sum = _mm512_fmadd_ps(left, left, sum);
        bytes = _mm_xor_si128(bytes, _mm_set1_epi8((char)-128)); /* adds 128 */
        put_sixteen(out, bytes, d + 16 <= dims ? 4 : (dims - d) / 4);
        out += 4 * GROUP_BYTES;
    }
    *scale = is_zero ? 0 : greatest / BYTE_MOST;
    *rest = plm_rest_norm((double)_mm512_reduce_add_ps(sum), dim);
}

static void vnni_byte_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                           uint8_t *packed, float *scales, float *rests)
{
    plm_byte_rows_by(quantize_row, BYTE_MOST + 1, rows, row_stride, n, dim, packed, scales, rests);
}

/* ---- bounds -------------------------------------------------------------------------- */

/* Two groups of rows by two panels, as in x86_avx512.c. */
#define ROWS (2 * PLM_GROUP)
#define EACH_ROW(X)                                                               \
    X(0, group_a, 0) X(1, group_a, 1) X(2, group_a, 2) X(3, group_a, 3)           \
    X(4, group_a, 4) X(5, group_a, 5) X(6, group_b, 0) X(7, group_b, 1)           \
    X(8, group_b, 2) X(9, group_b, 3) X(10, group_b, 4) X(11, group_b, 5)
#define DECLARE(r, group, i) __m512i p##r = first_p, q##r = first_q;
#define FOUR_BYTES(p) \
    _mm512_castps_si512(_mm512_broadcastss_ps(_mm_load_ss((const float *)(const void *)(p))))
#define MULTIPLY_ADD(r, group, i)                       \
    {                                                   \
        __m512i x = FOUR_BYTES((group) + 4 * (i));      \
        p##r = _mm512_dpbusd_epi32(p##r, x, c_p);       \
        q##r = _mm512_dpbusd_epi32(q##r, x, c_q);       \
    }
#define HAND_OUT(r, group, i) products[2 * r] = p##r, products[2 * r + 1] = q##r;

static inline void tile_12x32(const uint8_t *group_a, const uint8_t *group_b,
                              const int8_t *panel_p, const int8_t *panel_q, __m512i first_p,
                              __m512i first_q, size_t dim, __m512i products[2 * ROWS])
{
    EACH_ROW(DECLARE)
    for (size_t d = 0; d < dim; d += 4) {
        __m512i c_p = _mm512_loadu_si512(panel_p), c_q = _mm512_loadu_si512(panel_q);

        EACH_ROW(MULTIPLY_ADD)
        group_a += GROUP_BYTES;
        group_b += GROUP_BYTES;
        panel_p += PANEL_BYTES;
        panel_q += PANEL_BYTES;
    }
    EACH_ROW(HAND_OUT)
}

/* Sixteen bounds of a row from its terms r and the centroids' p. */
static inline void put_bounds(__m512i products, const float *r, const float *p, float *out)
{
    __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(products), _mm512_loadu_ps(p + PLM_PANEL));
    __m512 bound = _mm512_fnmadd_ps(_mm512_set1_ps(r[0]), scaled, _mm512_loadu_ps(p));

    for (size_t t = 1; t < PLM_BYTE_ROW_TERMS; t++)
        bound = _mm512_fnmadd_ps(_mm512_set1_ps(r[t]),
                                 _mm512_loadu_ps(p + (t + 1) * PLM_PANEL), bound);
    _mm512_storeu_ps(out, bound);
}

/* At an odd end the second operand is the first again, and its results are dropped. */
static void vnni_byte_bounds(const uint8_t *rows, const float *row_terms, size_t n,
                             const int8_t *panels, const int32_t *offsets,
                             const float *panel_terms, size_t n_panels, size_t dim, float *bounds,
                             size_t stride)
{
    const size_t terms_each = PLM_PANEL * PLM_BYTE_PANEL_TERMS;

    for (size_t panel = 0; panel < n_panels; panel += 2) {
        size_t second = panel + 1 < n_panels ? panel + 1 : panel;
        __m512i first_p = _mm512_loadu_si512(offsets + panel * PLM_PANEL);
        __m512i first_q = _mm512_loadu_si512(offsets + second * PLM_PANEL);

        for (size_t row = 0; row < n; row += ROWS) {
            const uint8_t *group = rows + row * dim;
            const uint8_t *other = row + PLM_GROUP < n ? group + PLM_GROUP * dim : group;
            size_t n_rows = n - row < ROWS ? n - row : ROWS;
            __m512i products[2 * ROWS];

            tile_12x32(group, other, panels + panel * PLM_PANEL * dim,
                       panels + second * PLM_PANEL * dim, first_p, first_q, dim, products);
            for (size_t r = 0; r < n_rows; r++) {
                const float *own = row_terms + (row + r) * PLM_BYTE_ROW_TERMS;
                float *out = bounds + (row + r) * stride + panel * PLM_PANEL;

                put_bounds(products[2 * r], own, panel_terms + panel * terms_each, out);
                if (second != panel)
                    put_bounds(products[2 * r + 1], own, panel_terms + second * terms_each,
                               out + PLM_PANEL);
            }
        }
    }
}

PLM_TARGET_END

void plm_simd_avx512_vnni(struct plm_kernels *table)
{
    table->byte_most = BYTE_MOST;
    table->byte_rows = vnni_byte_rows;
    table->byte_bounds = vnni_byte_bounds;
    plm_simd_avx512_words(table);
}

#else
typedef int plm_no_avx512_vnni; /* ISO C wants something in every file */
#endif
