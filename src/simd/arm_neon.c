/* arm_neon.c - kernels for AArch64, whose every processor has these vectors of four floats. What
 * is not here stays scalar: compilers vectorize most of it well.
 *
 * AArch64 always has fused multiply-add, so -ffp-contract=off (set by the build, and the default of
 * ISO C modes) keeps products and sums apart where results must be the same on every table.
 */
#if defined(__aarch64__)

#include <arm_neon.h>
#include <math.h>

#include "simd/simd_tables.h"

/* ---- sums in double ---------------------------------------------------------------------- */

/* The eight running sums, two to a vector. */
struct sums {
    float64x2_t s[4];
};

static inline void add_terms(struct sums *sums, float32x4_t x, float32x4_t c, size_t half, bool l2)
{
    float64x2_t x_low = vcvt_f64_f32(vget_low_f32(x)), x_high = vcvt_high_f64_f32(x);
    float64x2_t c_low = vcvt_f64_f32(vget_low_f32(c)), c_high = vcvt_high_f64_f32(c);

    if (l2) {
        c_low = x_low = vsubq_f64(x_low, c_low);
        c_high = x_high = vsubq_f64(x_high, c_high);
    }
    sums->s[half] = vaddq_f64(sums->s[half], vmulq_f64(x_low, c_low));
    sums->s[half + 1] = vaddq_f64(sums->s[half + 1], vmulq_f64(x_high, c_high));
}

static inline double pair(const float *x, const float *c, size_t n, bool l2)
{
    struct sums sums = {{vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0)}};
    double s[8];
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        add_terms(&sums, vld1q_f32(x + i), vld1q_f32(c + i), 0, l2);
        add_terms(&sums, vld1q_f32(x + i + 4), vld1q_f32(c + i + 4), 2, l2);
    }
    for (size_t v = 0; v < 4; v++)
        vst1q_f64(s + 2 * v, sums.s[v]);
    for (size_t t = 0; i < n; i++, t++) {
        double difference = (double)x[i] - (double)c[i];

        s[t] += l2 ? difference * difference : (double)x[i] * (double)c[i];
    }
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static double neon_norm2(const float *x, size_t n)
{
    return pair(x, x, n, false);
}
static double neon_l2_exact(const float *x, const float *c, size_t n)
{
    return pair(x, c, n, true);
}
static double neon_dot_exact(const float *x, const float *c, size_t n)
{
    return pair(x, c, n, false);
}
static void neon_l2_pairs(const float *rows, size_t row_stride, const float *centroids,
                          const uint32_t *ids, size_t n, size_t dim, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = pair(rows + i * row_stride, centroids + ids[i] * dim, dim, true);
}
static void neon_dot_pairs(const float *rows, size_t row_stride, const float *centroids,
                           const uint32_t *ids, size_t n, size_t dim, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = pair(rows + i * row_stride, centroids + ids[i] * dim, dim, false);
}

static void neon_frame_rows(const float *rows, size_t n, size_t dim, const float *origin,
                            float scale, float *out, double *norms2)
{
    for (size_t i = 0; i < n; i++) {
        const float *row = rows + i * dim;
        float *to = out ? out + i * dim : NULL;

        for (size_t d = 0; to && d < dim; d++)
            to[d] = (origin ? row[d] - origin[d] : row[d]) * scale;
        norms2[i] = to ? pair(to, to, dim, false) : pair(row, row, dim, false);
    }
}

/* ---- estimates --------------------------------------------------------------------------- */

static inline float32x4_t add_near(float32x4_t sum, const float *x, const float *c, bool l2)
{
    float32x4_t a = vld1q_f32(x), b = vld1q_f32(c);

    if (l2)
        a = b = vsubq_f32(a, b);
    return vfmaq_f32(sum, a, b);
}

static inline float near(const float *x, const float *c, size_t dim, bool l2)
{
    float32x4_t sums[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    float x_end[4] = {0}, c_end[4] = {0};
    size_t d = 0;

    for (; d + 16 <= dim; d += 16)
        for (size_t v = 0; v < 4; v++)
            sums[v] = add_near(sums[v], x + d + 4 * v, c + d + 4 * v, l2);
    for (; d + 4 <= dim; d += 4)
        sums[d / 4 % 4] = add_near(sums[d / 4 % 4], x + d, c + d, l2);
    for (size_t i = 0; d + i < dim; i++) {
        x_end[i] = x[d + i];
        c_end[i] = c[d + i];
    }
    sums[3] = add_near(sums[3], x_end, c_end, l2);
    return vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
}

static void neon_l2_near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                         size_t dim, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = near(row, centroids + ids[i] * dim, dim, true);
}
static void neon_dot_near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                          size_t dim, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = near(row, centroids + ids[i] * dim, dim, false);
}

/* ---- packed rows against packed centroids -------------------------------------------------- */

/* Six rows by sixteen centroids: 24 accumulators, four loads and six values for 24 multiply-adds.
 * products[4 r + v] is row r, centroids 4 v .. 4 v + 3. Names, not arrays: see x86_avx2.c. */
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define DECLARE(r) \
    float32x4_t a##r = vdupq_n_f32(0), b##r = a##r, c##r = a##r, d##r = a##r;
#define MULTIPLY_ADD(r)                      \
    a##r = vfmaq_n_f32(a##r, v0, group[r]);  \
    b##r = vfmaq_n_f32(b##r, v1, group[r]);  \
    c##r = vfmaq_n_f32(c##r, v2, group[r]);  \
    d##r = vfmaq_n_f32(d##r, v3, group[r]);
#define HAND_OUT(r)                                                       \
    products[4 * r] = a##r, products[4 * r + 1] = b##r,                   \
    products[4 * r + 2] = c##r, products[4 * r + 3] = d##r;

static inline void tile_6x16(const float *group, const float *panel, size_t dim,
                             float32x4_t products[4 * PLM_GROUP])
{
    EACH_ROW(DECLARE)
    for (size_t i = 0; i < dim; i++) {
        float32x4_t v0 = vld1q_f32(panel), v1 = vld1q_f32(panel + 4);
        float32x4_t v2 = vld1q_f32(panel + 8), v3 = vld1q_f32(panel + 12);

        EACH_ROW(MULTIPLY_ADD)
        group += PLM_GROUP;
        panel += PLM_PANEL;
    }
    EACH_ROW(HAND_OUT)
}

/* Running results of four lanes. */
struct lanes {
    float32x4_t best, second;
    uint32x4_t ids;
};

static inline void keep_least(struct lanes *lanes, float32x4_t value, uint32x4_t ids)
{
    uint32x4_t less = vcltq_f32(value, lanes->best);

    lanes->second = vminq_f32(lanes->second, vmaxq_f32(lanes->best, value));
    lanes->best = vminq_f32(lanes->best, value);
    lanes->ids = vbslq_u32(less, ids, lanes->ids);
}

static void merge_lanes(const struct lanes lanes[4], float *best, float *second, uint32_t *id)
{
    float values[16], seconds[16];
    uint32_t ids[16];

    for (size_t v = 0; v < 4; v++) {
        vst1q_f32(values + 4 * v, lanes[v].best);
        vst1q_f32(seconds + 4 * v, lanes[v].second);
        vst1q_u32(ids + 4 * v, lanes[v].ids);
    }
    plm_merge_lanes(values, seconds, ids, 16, best, second, id);
}

static void neon_nearest(const float *rows_packed, size_t n, const float *panels,
                         const float *half_norms, size_t n_panels, size_t dim, float *best,
                         float *second, uint32_t *ids)
{
    static const uint32_t first_ids[4] = {0, 1, 2, 3};
    struct lanes lanes[PLM_BLOCK_ROWS][4];

    for (size_t row = 0; row < PLM_BLOCK_ROWS; row++)
        for (size_t v = 0; v < 4; v++) {
            lanes[row][v].best = lanes[row][v].second = vdupq_n_f32(INFINITY);
            lanes[row][v].ids = vaddq_u32(vld1q_u32(first_ids), vdupq_n_u32((uint32_t)(4 * v)));
        }
    for (size_t panel = 0; panel < n_panels; panel++)
        for (size_t row = 0; row < n; row += PLM_GROUP) {
            float32x4_t products[4 * PLM_GROUP];

            tile_6x16(rows_packed + row * dim, panels + panel * PLM_PANEL * dim, dim, products);
            for (size_t v = 0; v < 4; v++) {
                size_t first = panel * PLM_PANEL + 4 * v;
                float32x4_t half = vld1q_f32(half_norms + first);
                uint32x4_t id = vaddq_u32(vld1q_u32(first_ids), vdupq_n_u32((uint32_t)first));

                for (size_t r = 0; r < PLM_GROUP; r++)
                    keep_least(&lanes[row + r][v], vsubq_f32(half, products[4 * r + v]), id);
            }
        }
    for (size_t row = 0; row < n; row++)
        merge_lanes(lanes[row], &best[row], &second[row], &ids[row]);
}

/* values[row * stride + j] = half_norms[j] - x.c_j; or x.c_j where half_norms is NULL. */
static inline void all_values(const float *rows_packed, size_t n, const float *panels,
                              const float *half_norms, size_t n_panels, size_t dim, float *values,
                              size_t stride)
{
    for (size_t panel = 0; panel < n_panels; panel++)
        for (size_t row = 0; row < n; row += PLM_GROUP) {
            size_t n_group = n - row < PLM_GROUP ? n - row : PLM_GROUP;
            float32x4_t products[4 * PLM_GROUP];

            tile_6x16(rows_packed + row * dim, panels + panel * PLM_PANEL * dim, dim, products);
            for (size_t r = 0; r < n_group; r++)
                for (size_t v = 0; v < 4; v++) {
                    size_t j = panel * PLM_PANEL + 4 * v;
                    float32x4_t value = products[4 * r + v];

                    if (half_norms)
                        value = vsubq_f32(vld1q_f32(half_norms + j), value);
                    vst1q_f32(values + (row + r) * stride + j, value);
                }
        }
}

static void neon_values(const float *rows_packed, size_t n, const float *panels,
                        const float *half_norms, size_t n_panels, size_t dim, float *values,
                        size_t stride)
{
    all_values(rows_packed, n, panels, half_norms, n_panels, dim, values, stride);
}

static void neon_project(const float *rows_packed, size_t n, const float *panels, size_t n_panels,
                         size_t dim, float *out, size_t out_stride)
{
    all_values(rows_packed, n, panels, NULL, n_panels, dim, out, out_stride);
}

/* ---- product quantization ------------------------------------------------------------------- */

#define PQ_VECTORS (PLM_PQ_LANES / 4)

/* Values of 24 rows for one codeword. */
static inline void one_codeword(const float *group, const float *codeword, float half_norm,
                                size_t dsub, float32x4_t values[PQ_VECTORS])
{
    for (size_t v = 0; v < PQ_VECTORS; v++)
        values[v] = vdupq_n_f32(half_norm);
    for (size_t d = 0; d < dsub; d++)
        for (size_t v = 0; v < PQ_VECTORS; v++)
            values[v] = vfmsq_n_f32(values[v], vld1q_f32(group + d * PLM_PQ_LANES + 4 * v),
                                    codeword[d]);
}

static void neon_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                            const float *half_norms, size_t n_codes, size_t dsub, uint8_t *codes,
                            float *best, float *second)
{
    for (size_t g = 0; g < n_groups; g++) {
        struct lanes lanes[PQ_VECTORS];
        uint32_t ids[PLM_PQ_LANES];

        for (size_t v = 0; v < PQ_VECTORS; v++) {
            lanes[v].best = lanes[v].second = vdupq_n_f32(INFINITY);
            lanes[v].ids = vdupq_n_u32(0);
        }
        for (size_t code = 0; code < n_codes; code++) {
            float32x4_t values[PQ_VECTORS];

            one_codeword(groups + g * PLM_PQ_LANES * dsub, codebook + code * dsub,
                         half_norms[code], dsub, values);
            for (size_t v = 0; v < PQ_VECTORS; v++)
                keep_least(&lanes[v], values[v], vdupq_n_u32((uint32_t)code));
        }
        for (size_t v = 0; v < PQ_VECTORS; v++) {
            vst1q_f32(best + g * PLM_PQ_LANES + 4 * v, lanes[v].best);
            vst1q_f32(second + g * PLM_PQ_LANES + 4 * v, lanes[v].second);
            vst1q_u32(ids + 4 * v, lanes[v].ids);
        }
        for (size_t i = 0; i < PLM_PQ_LANES; i++)
            codes[g * PLM_PQ_LANES + i] = (uint8_t)ids[i];
    }
}

void plm_simd_neon(struct plm_kernels *table)
{
    table->name = "neon";
    table->norm2 = neon_norm2;
    table->l2_exact = neon_l2_exact;
    table->dot_exact = neon_dot_exact;
    table->l2_pairs = neon_l2_pairs;
    table->dot_pairs = neon_dot_pairs;
    table->frame_rows = neon_frame_rows;
    table->l2_near = neon_l2_near;
    table->dot_near = neon_dot_near;
    table->nearest = neon_nearest;
    table->values = neon_values;
    table->project = neon_project;
    table->pq_nearest = neon_pq_nearest;
}

#else
typedef int plm_no_neon; /* ISO C wants something in every file */
#endif
