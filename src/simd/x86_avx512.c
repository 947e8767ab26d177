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
#define EACH_OF_EIGHT(i) _Pragma("GCC unroll 8") for (size_t i = 0; i < 8; i++)
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

#include "simd/lanes512.h"

static void merge_lanes(const struct lanes *lanes, float *best, float *second, uint32_t *id)
{
    float values[16], seconds[16];
    uint32_t ids[16];

    _mm512_storeu_ps(values, lanes->best);
    _mm512_storeu_ps(seconds, lanes->second);
    _mm512_storeu_si512(ids, lanes->ids);
    plm_merge_lanes(values, seconds, ids, 16, best, second, id);
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

static inline void put_values(float *values, const float *half_norms, size_t j, __m512 products)
{
    if (half_norms)
        products = _mm512_sub_ps(_mm512_loadu_ps(half_norms + j), products);
    _mm512_storeu_ps(values + j, products);
}

/* One row, of which a tile would make twelve: by eight panels at a time, as far as they go; returns how
 * far that is. */
static inline size_t lone_row(const float *group, const float *panels, const float *half_norms,
                              size_t n_panels, size_t dim, float *values)
{
    size_t panel = 0;

    for (; panel + 8 <= n_panels; panel += 8) {
        __m512 sums[8];

        EACH_OF_EIGHT(i) sums[i] = _mm512_setzero_ps();
        for (size_t d = 0; d < dim; d++) {
            const float *first = panels + (panel * dim + d) * PLM_PANEL;
            __m512 x = _mm512_set1_ps(group[d * PLM_GROUP]);

            EACH_OF_EIGHT(i)
            sums[i] = _mm512_fmadd_ps(x, _mm512_loadu_ps(first + i * PLM_PANEL * dim), sums[i]);
        }
        EACH_OF_EIGHT(i) put_values(values, half_norms, (panel + i) * PLM_PANEL, sums[i]);
    }
    return panel;
}

/* values[row * stride + j] = half_norms[j] - x.c_j; or x.c_j where half_norms is NULL. */
static inline void all_values(const float *rows_packed, size_t n, const float *panels,
                              const float *half_norms, size_t n_panels, size_t dim, float *values,
                              size_t stride)
{
    size_t panel = n == 1 ? lone_row(rows_packed, panels, half_norms, n_panels, dim, values) : 0;

    for (; panel < n_panels; panel += 2) {
        size_t n_wide = n_panels - panel < 2 ? 1 : 2;

        for (size_t row = 0; row < n; row += ROWS) {
            __m512 products[2 * ROWS];

            tile_at(rows_packed, n, row, panels, n_panels, panel, dim, products);
            for (size_t r = 0; r < rows_of_tile(n, row); r++)
                for (size_t wide = 0; wide < n_wide; wide++)
                    put_values(values + (row + r) * stride, half_norms,
                               (panel + wide) * PLM_PANEL, products[2 * r + wide]);
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

PLM_TARGET_END

void plm_simd_avx512(struct plm_kernels *table)
{
    table->name = "avx512";
    table->nearest = avx512_nearest;
    table->values = avx512_values;
    table->project = avx512_project;
    plm_simd_avx512_pq(table);
    plm_simd_avx512_sums(table);
    plm_simd_avx512_sq(table);
}

#else
typedef int plm_no_avx512; /* ISO C wants something in every file */
#endif
