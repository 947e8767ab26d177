/* x86_avx512.c - kernels for AVX-512 F, BW, VL, DQ where they beat AVX2. The others, above all
 * those that must be "same on every table", stay as they are. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>

#include "simd/simd_tables.h"

PLM_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")

/* ---- packed rows against packed centroids ---------------------------------------- */

/* A tile is two groups of rows by two panels: 24 accumulators, two loads and twelve broadcasts
 * for 24 multiply-adds. At an odd end the second operand is the first again, and its results are
 * dropped: under two per cent of the work from 50 panels on, for one code path.
 * Accumulators are names, not an array; see x86_avx2.c. */
#define ROWS (2 * PLM_GROUP)
#define EACH_ROW(X)                                                               \
    X(0, group_a, 0) X(1, group_a, 1) X(2, group_a, 2) X(3, group_a, 3)           \
    X(4, group_a, 4) X(5, group_a, 5) X(6, group_b, 0) X(7, group_b, 1)           \
    X(8, group_b, 2) X(9, group_b, 3) X(10, group_b, 4) X(11, group_b, 5)
#define DECLARE(r, group, i) __m512 p##r = _mm512_setzero_ps(), q##r = _mm512_setzero_ps();
#define MULTIPLY_ADD(r, group, i)               \
    {                                           \
        __m512 x = _mm512_set1_ps(group[i]);    \
        p##r = _mm512_fmadd_ps(x, c_p, p##r);   \
        q##r = _mm512_fmadd_ps(x, c_q, q##r);   \
    }
#define HAND_OUT(r, group, i) products[2 * r] = p##r, products[2 * r + 1] = q##r;

static inline void tile_12x32(const float *group_a, const float *group_b, const float *panel_p,
                              const float *panel_q, size_t dim, __m512 products[2 * ROWS])
{
    EACH_ROW(DECLARE)
    for (size_t d = 0; d < dim; d++) {
        __m512 c_p = _mm512_loadu_ps(panel_p), c_q = _mm512_loadu_ps(panel_q);

        EACH_ROW(MULTIPLY_ADD)
        group_a += PLM_GROUP;
        group_b += PLM_GROUP;
        panel_p += PLM_PANEL;
        panel_q += PLM_PANEL;
    }
    EACH_ROW(HAND_OUT)
}

/* The tile that begins at `row` and `panel` of a block of n rows and n_panels panels. */
static inline void tile_at(const float *rows_packed, size_t n, size_t row, const float *panels,
                           size_t n_panels, size_t panel, size_t dim, __m512 products[2 * ROWS])
{
    const float *group = rows_packed + row * dim, *first = panels + panel * PLM_PANEL * dim;
    const float *other_group = row + PLM_GROUP < n ? group + PLM_GROUP * dim : group;
    const float *other_panel = panel + 1 < n_panels ? first + PLM_PANEL * dim : first;

    tile_12x32(group, other_group, first, other_panel, dim, products);
}

static inline size_t rows_of_tile(size_t n, size_t row)
{
    return n - row < ROWS ? n - row : ROWS;
}

/* The running result of sixteen lanes of one row: centroid j belongs to lane j % 16. */
struct lanes {
    __m512 best, second;
    __m512i ids;
};

static inline void keep_least(struct lanes *lanes, __m512 value, __m512i ids)
{
    __mmask16 less = _mm512_cmp_ps_mask(value, lanes->best, _CMP_LT_OQ);

    lanes->second = _mm512_min_ps(lanes->second, _mm512_max_ps(lanes->best, value));
    lanes->best = _mm512_min_ps(lanes->best, value);
    lanes->ids = _mm512_mask_mov_epi32(lanes->ids, less, ids);
}

/* One result of sixteen: least value, then lowest id; second among all other ids. */
static void merge_lanes(const struct lanes *lanes, float *best, float *second, uint32_t *id)
{
    float values[16], seconds[16];
    uint32_t ids[16];
    size_t w = 0;

    _mm512_storeu_ps(values, lanes->best);
    _mm512_storeu_ps(seconds, lanes->second);
    _mm512_storeu_si512(ids, lanes->ids);
    for (size_t i = 1; i < 16; i++)
        if (values[i] < values[w] || (values[i] == values[w] && ids[i] < ids[w]))
            w = i;
    *best = values[w];
    *second = seconds[w];
    *id = ids[w];
    for (size_t i = 0; i < 16; i++)
        if (i != w && values[i] < *second)
            *second = values[i];
}

static void avx512_nearest(const float *rows_packed, size_t n, const float *panels,
                           const float *half_norms, size_t n_panels, size_t dim, float *best,
                           float *second, uint32_t *ids)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct lanes lanes[PLM_BLOCK_ROWS];

    for (size_t row = 0; row < n; row++) {
        lanes[row].best = lanes[row].second = _mm512_set1_ps(INFINITY);
        lanes[row].ids = lane;
    }
    for (size_t panel = 0; panel < n_panels; panel += 2) {
        const float *halves = half_norms + panel * PLM_PANEL;
        const bool has_two = panel + 1 < n_panels;
        __m512 h_p = _mm512_loadu_ps(halves);
        __m512 h_q = has_two ? _mm512_loadu_ps(halves + 16) : _mm512_set1_ps(INFINITY);
        __m512i id_p = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(panel * PLM_PANEL)));
        __m512i id_q = _mm512_add_epi32(id_p, _mm512_set1_epi32(PLM_PANEL));

        for (size_t row = 0; row < n; row += ROWS) {
            __m512 products[2 * ROWS];

            tile_at(rows_packed, n, row, panels, n_panels, panel, dim, products);
            for (size_t r = 0; r < rows_of_tile(n, row); r++) {
                struct lanes running = lanes[row + r];

                keep_least(&running, _mm512_sub_ps(h_p, products[2 * r]), id_p);
                keep_least(&running, _mm512_sub_ps(h_q, products[2 * r + 1]), id_q);
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
    for (size_t panel = 0; panel < n_panels; panel += 2) {
        size_t n_wide = n_panels - panel < 2 ? 1 : 2;

        for (size_t row = 0; row < n; row += ROWS) {
            __m512 products[2 * ROWS];

            tile_at(rows_packed, n, row, panels, n_panels, panel, dim, products);
            for (size_t r = 0; r < rows_of_tile(n, row); r++)
                for (size_t wide = 0; wide < n_wide; wide++) {
                    size_t j = (panel + wide) * PLM_PANEL;
                    __m512 v = products[2 * r + wide];

                    if (half_norms)
                        v = _mm512_sub_ps(_mm512_loadu_ps(half_norms + j), v);
                    _mm512_storeu_ps(values + (row + r) * stride + j, v);
                }
        }
    }
}

static void avx512_values(const float *rows_packed, size_t n, const float *panels,
                          const float *half_norms, size_t n_panels, size_t dim, float *values,
                          size_t stride)
{
    all_values(rows_packed, n, panels, half_norms, n_panels, dim, values, stride);
}

static void avx512_project(const float *rows_packed, size_t n, const float *panels,
                           size_t n_panels, size_t dim, float *out, size_t out_stride)
{
    all_values(rows_packed, n, panels, NULL, n_panels, dim, out, out_stride);
}

/* ---- product quantization ---------------------------------------------------------- */

/* Two groups of 24 rows are three vectors: sixteen rows of the one, sixteen of the other, and the
 * last eight of both. With eight codewords: 24 accumulators. */
#define EACH_CODE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define DECLARE_CODE(q)                          \
    const float *word##q = codewords + q * dsub; \
    __m512 a##q = _mm512_set1_ps(half_norms[q]), b##q = a##q, c##q = a##q;
#define MULTIPLY_CODE(q)                        \
    {                                           \
        __m512 w = _mm512_set1_ps(word##q[d]);  \
        a##q = _mm512_fnmadd_ps(x0, w, a##q);   \
        b##q = _mm512_fnmadd_ps(x1, w, b##q);   \
        c##q = _mm512_fnmadd_ps(x2, w, c##q);   \
    }
#define KEEP_CODE(q)                                             \
    {                                                            \
        __m512i id = _mm512_set1_epi32(code + q);                \
        keep_least(&r0, a##q, id);                               \
        keep_least(&r1, b##q, id);                               \
        keep_least(&r2, c##q, id);                               \
    }

static inline void eight_codewords(const float *group_a, const float *group_b,
                                   const float *codewords, const float *half_norms, size_t dsub,
                                   int code, struct lanes lanes[3])
{
    struct lanes r0, r1, r2;

    EACH_CODE(DECLARE_CODE)
    for (size_t d = 0; d < dsub; d++) {
        __m512 x0 = _mm512_loadu_ps(group_a), x1 = _mm512_loadu_ps(group_b);
        __m512 x2 = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(group_a + 16)),
                                       _mm256_loadu_ps(group_b + 16), 1);

        EACH_CODE(MULTIPLY_CODE)
        group_a += PLM_PQ_LANES;
        group_b += PLM_PQ_LANES;
    }
    r0 = lanes[0];
    r1 = lanes[1];
    r2 = lanes[2];
    EACH_CODE(KEEP_CODE)
    lanes[0] = r0;
    lanes[1] = r1;
    lanes[2] = r2;
}

/* The three vectors' floats back to the 24 of either group. */
static inline void store_pair(__m512 v0, __m512 v1, __m512 v2, float *a, float *b)
{
    _mm512_storeu_ps(a, v0);
    _mm256_storeu_ps(a + 16, _mm512_castps512_ps256(v2));
    _mm512_storeu_ps(b, v1);
    _mm256_storeu_ps(b + 16, _mm512_extractf32x8_ps(v2, 1));
}

static inline void store_codes(const struct lanes lanes[3], uint8_t *a, uint8_t *b)
{
    __m128i last = _mm512_cvtepi32_epi8(lanes[2].ids);

    _mm_storeu_si128((__m128i *)a, _mm512_cvtepi32_epi8(lanes[0].ids));
    _mm_storel_epi64((__m128i *)(a + 16), last);
    _mm_storeu_si128((__m128i *)b, _mm512_cvtepi32_epi8(lanes[1].ids));
    _mm_storel_epi64((__m128i *)(b + 16), _mm_unpackhi_epi64(last, last));
}

/* The AVX2 kernel does what does not fill a tile: a last odd group, or codebooks whose size is
 * not a multiple of eight (ours are 16 and 256). */
static void avx512_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                              const float *half_norms, size_t n_codes, size_t dsub,
                              uint8_t *codes, float *best, float *second)
{
    size_t g = 0;

    for (; g + 2 <= n_groups && n_codes % 8 == 0; g += 2) {
        const float *group = groups + g * PLM_PQ_LANES * dsub;
        size_t row = g * PLM_PQ_LANES;
        struct lanes lanes[3];

        for (size_t v = 0; v < 3; v++) {
            lanes[v].best = lanes[v].second = _mm512_set1_ps(INFINITY);
            lanes[v].ids = _mm512_setzero_si512();
        }
        for (size_t code = 0; code < n_codes; code += 8)
            eight_codewords(group, group + PLM_PQ_LANES * dsub, codebook + code * dsub,
                            half_norms + code, dsub, (int)code, lanes);
        store_pair(lanes[0].best, lanes[1].best, lanes[2].best, best + row,
                   best + row + PLM_PQ_LANES);
        store_pair(lanes[0].second, lanes[1].second, lanes[2].second, second + row,
                   second + row + PLM_PQ_LANES);
        store_codes(lanes, codes + row, codes + row + PLM_PQ_LANES);
    }
    if (g < n_groups)
        plm_avx2_pq_nearest(groups + g * PLM_PQ_LANES * dsub, n_groups - g, codebook, half_norms,
                            n_codes, dsub, codes + g * PLM_PQ_LANES, best + g * PLM_PQ_LANES,
                            second + g * PLM_PQ_LANES);
}

PLM_TARGET_END

void plm_simd_avx512(struct plm_kernels *table)
{
    table->name = "avx512";
    table->nearest = avx512_nearest;
    table->values = avx512_values;
    table->project = avx512_project;
    table->pq_nearest = avx512_pq_nearest;
    plm_simd_avx512_sums(table);
    plm_simd_avx512_sq(table);
}

#else
typedef int plm_no_avx512; /* ISO C wants something in every file */
#endif
