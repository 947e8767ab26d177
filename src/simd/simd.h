/* simd.h - the kernels and their choice at run time.
 *
 * A table starts as a copy of the next lower one and overrides entries, so no entry is empty.
 * Callers take the table from the context: there is no global pointer.
 * Results  integer kernels and those marked "same on every table" are bit-exact everywhere;
 *          the others state an error bound, and callers decide near-ties in float64.
 * Memory   kernels allocate nothing. Pointers need no alignment unless said.
 */
#ifndef PLM_SIMD_H
#define PLM_SIMD_H

#include <stdbool.h>
#include <stdint.h>

#include "simd/layout.h"

struct plm_kernels {
    const char *name; /* "scalar", "avx2", "avx512", ... */

    /* Widening, n values. Same on every table. */
    void (*f16_to_f32)(const uint16_t *src, float *dst, size_t n);

    /* Sum of squares of n floats in double: eight running sums (value i goes to sum i % 8), added
     * as ((s0+s1)+(s2+s3))+((s4+s5)+(s6+s7)), no FMA. Same on every table. */
    double (*norm2)(const float *x, size_t n);
    /* Sum of (x-c)^2 and of x*c, the differences and products taken in double; same order,
     * same on every table. */
    double (*l2_exact)(const float *x, const float *c, size_t n);
    double (*dot_exact)(const float *x, const float *c, size_t n);
    /* The same for n pairs at a time: row i (rows + i * row_stride; a stride of 0 is one row n
     * times) and centroid ids[i] of centroids [][dim]. Bit for bit what the single calls give. */
    void (*l2_pairs)(const float *rows, size_t row_stride, const float *centroids,
                     const uint32_t *ids, size_t n, size_t dim, double *out);
    void (*dot_pairs)(const float *rows, size_t row_stride, const float *centroids,
                      const uint32_t *ids, size_t n, size_t dim, double *out);
    /* Estimates in fp32 of the same for one row and n centroids. With e = plm_near_error(dim):
     * l2_near is within e |x-c|^2 + dim * 2^-125 of the truth, dot_near within
     * e |x||c| + dim * 2^-125; not for values that overflow. */
    void (*l2_near)(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                    size_t dim, float *out);
    void (*dot_near)(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                     size_t dim, float *out);
    /* out = (rows - origin) * scale, each step rounded, and norms2[i] = norm2 of row i of the
     * result. origin NULL is 0; with it and a scale of 1, out may be NULL: norms only. rows [n][dim].
     * Same on every table. */
    void (*frame_rows)(const float *rows, size_t n, size_t dim, const float *origin, float scale,
                       float *out, double *norms2);

    /* Nearest of K centroids for a block of n <= PLM_BLOCK_ROWS packed rows:
     * value_j = half_norm[j] - x.c_j (the half norms are all 0 for dot); padding centroids have
     * half_norm +inf. Per row: the least value, its lowest id, and the least value among all
     * OTHER ids (+inf when there is none). |error of a value| <=
     *     plm_dot_error(dim + 1) * |x||c| + 2^-24 * |half_norm| + dim * 2^-149,
     * the last term for products that underflow. Not for values that overflow or are NaN. */
    void (*nearest)(const float *rows_packed, size_t n, const float *panels,
                    const float *half_norms, size_t n_panels, size_t dim, float *best,
                    float *second, uint32_t *ids);
    /* All values of a block: values[row * stride + centroid]; stride >= 16 * n_panels; padding
     * centroids are written too. Error as for `nearest`. */
    void (*values)(const float *rows_packed, size_t n, const float *panels,
                   const float *half_norms, size_t n_panels, size_t dim, float *values,
                   size_t stride);
    /* rows [n][row_stride floats] -> groups of PLM_GROUP, zero padded. Same on every table. */
    void (*pack_rows)(const float *rows, size_t row_stride, size_t n, size_t dim, float *packed);

    /* Bytes. A row x becomes scale * q + rest with q whole, |q| <= byte_most (127 or 63), stored
     * as q + byte_most + 1 (unsigned) for rows [n][row_stride floats], n <= PLM_BLOCK_ROWS:
     * packed groups, scales[n], rests[n]. rests[i] >= |rest|, in spite of all rounding. */
    int byte_most;
    void (*byte_rows)(const float *rows, size_t row_stride, size_t n, size_t dim, uint8_t *packed,
                      float *scales, float *rests);
    /* Panels hold q of the centroids (signed), dim a multiple of PLM_BYTE_DIMS and at most
     * PLM_BYTE_DIM_MAX; offsets [n_panels][16] are -(byte_most + 1) * sum of q. With P the
     * whole product of a row and a centroid, row_terms r [n][4], panel_terms p [n_panels][5][16]:
     *     bounds[row * stride + centroid] = p0 - r0 * (p1 * P) - r1 * p2 - r2 * p3 - r3 * p4,
     * each term off by at most 8 * 2^-24 of its magnitude, or 2^-124 (1 + |r0|). */
    void (*byte_bounds)(const uint8_t *rows, const float *row_terms, size_t n,
                        const int8_t *panels, const int32_t *offsets, const float *panel_terms,
                        size_t n_panels, size_t dim, float *bounds, size_t stride);

    /* PQ: n_groups groups of 24 rows, each dsub x 24 floats; codebook [n_codes][dsub] natural
     * order; half_norms [n_codes], n_codes 1..256. Per row: lowest code of the least value
     * half_norm - x.c, that value, and the least value of all OTHER codes. |error of a value| <=
     *     plm_dot_error(dsub + 1) * (|x||c| + |half_norm|) + dsub * 2^-149. */
    void (*pq_nearest)(const float *groups, size_t n_groups, const float *codebook,
                       const float *half_norms, size_t n_codes, size_t dsub, uint8_t *codes,
                       float *best, float *second);
    /* The same in whole numbers of 16 bits, where `pq_words_pay`: groups as above, x becomes
     * q = rint(x * per_unit); words [n_codes][plm_pq_word_dims(dsub)] are codewords times -1;
     * value = offsets[code] + q.word; n_codes a multiple of 8, dsub at most PLM_PQ_WORDS_DIM_MAX.
     * For rows with |q| <= PLM_PQ_WORD_MOST in every dimension and all values within
     * PLM_PQ_WORDS_VALUE_MOST; what other rows get means nothing. Same on every table. */
    void (*pq_words)(const float *groups, size_t n_groups, float per_unit, const int16_t *words,
                     const int32_t *offsets, size_t n_codes, size_t dsub, uint8_t *codes,
                     int32_t *best, int32_t *second);
    bool pq_words_pay;
    /* Rows of a sub-vector gathered and transposed into one group: row i < n at rows + i*stride,
     * minus centroid ids[i] at centroids + ids[i]*stride_c when centroids is not NULL. Lanes n..23
     * are zero; n <= 24. Same on every table. */
    void (*pq_pack)(const float *rows, size_t stride, const float *centroids, size_t stride_c,
                    const uint32_t *ids, size_t n, size_t dsub, float *group);

    /* trunc((double(v) - lo) * 255 / (hi - lo)) saturated to 0..255; hi == lo gives 0. Same on
     * every table. */
    void (*sq_encode)(const float *v, size_t n, double lo, double hi, uint8_t *codes);
    /* Least and greatest of n floats (+inf and -inf when n == 0); a zero is +0. Same on every
     * table. */
    void (*min_max)(const float *v, size_t n, float *lo, float *hi);
    /* The places i with v[i] <= limit, ascending, into places (room for n); returns how many. Same
     * on every table. */
    size_t (*at_most)(const float *v, size_t n, float limit, uint32_t *places);
    /* Integer sum of (a-b)^2 over n codes (n < 2^16). Same on every table. */
    uint32_t (*sq_l2)(const uint8_t *a, const uint8_t *b, size_t n);

    /* Values rounded to multiples of a power of two and added: sums[i] += round(x[i]); magic =
     * 1.5 * 2^52 * grid. Exact, hence independent of order, while |sum| < 2^52 * grid. */
    void (*grid_add)(double *sums, const float *x, size_t n, double magic);

    /* y[n_rows][n_cols] = rows[n_rows][dim] * basis, basis column-packed in panels as centroids
     * are: plain products for projections; out_stride >= 16 * n_panels, padding columns are
     * written too. |error| <= plm_dot_error(dim) * |x||b| + dim * 2^-149. */
    void (*project)(const float *rows_packed, size_t n, const float *panels, size_t n_panels,
                    size_t dim, float *out, size_t out_stride);
};

/* The best table this processor has, no higher than `cap` (NULL = no cap). NULL for a cap
 * that is not a table name. */
const struct plm_kernels *plm_kernels_for(const char *cap);
/* All tables this processor can run, scalar first; for tests. */
size_t plm_kernels_available(const struct plm_kernels **tables, size_t n_max);

#endif
