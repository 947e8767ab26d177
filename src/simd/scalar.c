/* scalar.c - the reference for every kernel: written to be read, never hand-tuned. */
#include <math.h>
#include <string.h>

#include "simd/simd_tables.h"

PLM_SCALAR_FILE

/* ---- conversions and sums in double -------------------------------------------- */

/* Sign, five bits of exponent (bias 15), ten of mantissa. A NaN comes out quiet, as from the
 * processor's own conversion. */
static float widen_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
    uint32_t bits;
    float f;

    if (exponent == 0) { /* zero, or a denormal: mantissa * 2^-24, exact in float */
        f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 31)
        bits = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0);
    else
        bits = sign | (exponent + 127 - 15) << 23 | mantissa << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void scalar_f16_to_f32(const uint16_t *src, float *dst, size_t n)
{
    PLM_LOOP
    for (size_t i = 0; i < n; i++)
        dst[i] = widen_half(src[i]);
}

static double add_eight(const double s[8])
{
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static double scalar_norm2(const float *x, size_t n)
{
    double sums[8] = {0};

    PLM_LOOP
    for (size_t i = 0; i < n; i++)
        sums[i % 8] += (double)x[i] * (double)x[i];
    return add_eight(sums);
}

static double scalar_l2_exact(const float *x, const float *c, size_t n)
{
    double sums[8] = {0};

    PLM_LOOP
    for (size_t i = 0; i < n; i++) {
        double difference = (double)x[i] - (double)c[i];

        sums[i % 8] += difference * difference;
    }
    return add_eight(sums);
}

static double scalar_dot_exact(const float *x, const float *c, size_t n)
{
    double sums[8] = {0};

    PLM_LOOP
    for (size_t i = 0; i < n; i++)
        sums[i % 8] += (double)x[i] * (double)c[i];
    return add_eight(sums);
}

static void scalar_l2_pairs(const float *rows, size_t row_stride, const float *centroids,
                            const uint32_t *ids, size_t n, size_t dim, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = scalar_l2_exact(rows + i * row_stride, centroids + ids[i] * dim, dim);
}

static void scalar_dot_pairs(const float *rows, size_t row_stride, const float *centroids,
                             const uint32_t *ids, size_t n, size_t dim, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = scalar_dot_exact(rows + i * row_stride, centroids + ids[i] * dim, dim);
}

static void scalar_frame_rows(const float *rows, size_t n, size_t dim, const float *origin,
                              float scale, float *out, double *norms2)
{
    for (size_t i = 0; i < n; i++) {
        const float *row = rows + i * dim;

        PLM_LOOP
        for (size_t d = 0; out && d < dim; d++)
            out[i * dim + d] = (origin ? row[d] - origin[d] : row[d]) * scale;
        norms2[i] = scalar_norm2(out ? out + i * dim : row, dim);
    }
}

/* ---- estimates ----------------------------------------------------------------------- */

static float add_eight_floats(const float s[8])
{
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static void scalar_l2_near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                           size_t dim, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const float *c = centroids + ids[i] * dim;
        float sums[8] = {0};

        PLM_LOOP
        for (size_t d = 0; d < dim; d++)
            sums[d % 8] += (row[d] - c[d]) * (row[d] - c[d]);
        out[i] = add_eight_floats(sums);
    }
}

static void scalar_dot_near(const float *row, const float *centroids, const uint32_t *ids,
                            size_t n, size_t dim, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const float *c = centroids + ids[i] * dim;
        float sums[8] = {0};

        PLM_LOOP
        for (size_t d = 0; d < dim; d++)
            sums[d % 8] += row[d] * c[d];
        out[i] = add_eight_floats(sums);
    }
}

/* ---- packed rows against packed centroids ---------------------------------------- */

/* x.c of row `row` of a packed block and lane `lane` of a panel. */
static float packed_dot(const float *rows_packed, size_t row, const float *panel, size_t lane,
                        size_t dim)
{
    const float *group = rows_packed + row / PLM_GROUP * PLM_GROUP * dim + row % PLM_GROUP;
    float sum = 0;

    PLM_LOOP
    for (size_t d = 0; d < dim; d++)
        sum += group[d * PLM_GROUP] * panel[d * PLM_PANEL + lane];
    return sum;
}

static void scalar_nearest(const float *rows_packed, size_t n, const float *panels,
                           const float *half_norms, size_t n_panels, size_t dim, float *best,
                           float *second, uint32_t *ids)
{
    for (size_t row = 0; row < n; row++) {
        best[row] = second[row] = INFINITY;
        ids[row] = 0;
        for (size_t j = 0; j < n_panels * PLM_PANEL; j++) {
            const float *panel = panels + j / PLM_PANEL * PLM_PANEL * dim;
            float value = half_norms[j] -
                          packed_dot(rows_packed, row, panel, j % PLM_PANEL, dim);

            if (value < best[row]) {
                second[row] = best[row];
                best[row] = value;
                ids[row] = (uint32_t)j;
            } else if (value < second[row]) {
                second[row] = value;
            }
        }
    }
}

static void scalar_values(const float *rows_packed, size_t n, const float *panels,
                          const float *half_norms, size_t n_panels, size_t dim, float *values,
                          size_t stride)
{
    for (size_t row = 0; row < n; row++)
        for (size_t j = 0; j < n_panels * PLM_PANEL; j++)
            values[row * stride + j] =
                half_norms[j] - packed_dot(rows_packed, row,
                                           panels + j / PLM_PANEL * PLM_PANEL * dim,
                                           j % PLM_PANEL, dim);
}

static void scalar_project(const float *rows_packed, size_t n, const float *panels,
                           size_t n_panels, size_t dim, float *out, size_t out_stride)
{
    for (size_t row = 0; row < n; row++)
        for (size_t j = 0; j < n_panels * PLM_PANEL; j++)
            out[row * out_stride + j] = packed_dot(rows_packed, row,
                                                   panels + j / PLM_PANEL * PLM_PANEL * dim,
                                                   j % PLM_PANEL, dim);
}

static void scalar_pack_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                             float *packed)
{
    for (size_t first = 0; first < n; first += PLM_GROUP) {
        for (size_t d = 0; d < dim; d++)
            for (size_t i = 0; i < PLM_GROUP; i++)
                packed[d * PLM_GROUP + i] =
                    first + i < n ? rows[(first + i) * row_stride + d] : 0;
        packed += PLM_GROUP * dim;
    }
}

/* ---- product quantization ---------------------------------------------------------- */

static void scalar_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                              const float *half_norms, size_t n_codes, size_t dsub,
                              uint8_t *codes, float *best, float *second)
{
    for (size_t row = 0; row < n_groups * PLM_PQ_LANES; row++) {
        const float *x = groups + row / PLM_PQ_LANES * PLM_PQ_LANES * dsub + row % PLM_PQ_LANES;

        best[row] = second[row] = INFINITY;
        codes[row] = 0;
        for (size_t code = 0; code < n_codes; code++) {
            float value = half_norms[code];

            PLM_LOOP
            for (size_t d = 0; d < dsub; d++)
                value -= x[d * PLM_PQ_LANES] * codebook[code * dsub + d];
            if (value < best[row]) {
                second[row] = best[row];
                best[row] = value;
                codes[row] = (uint8_t)code;
            } else if (value < second[row]) {
                second[row] = value;
            }
        }
    }
}

static void scalar_pq_pack(const float *rows, size_t stride, const float *centroids,
                           size_t stride_c, const uint32_t *ids, size_t n, size_t dsub,
                           float *group)
{
    for (size_t i = 0; i < n; i++) {
        const float *row = rows + i * stride;

        if (centroids) {
            const float *centroid = centroids + ids[i] * stride_c;

            for (size_t d = 0; d < dsub; d++)
                group[d * PLM_PQ_LANES + i] = row[d] - centroid[d];
        } else {
            for (size_t d = 0; d < dsub; d++)
                group[d * PLM_PQ_LANES + i] = row[d];
        }
    }
    for (size_t d = 0; d < dsub; d++)
        for (size_t i = n; i < PLM_PQ_LANES; i++)
            group[d * PLM_PQ_LANES + i] = 0;
}

/* ---- scalar quantization and sums --------------------------------------------------- */

static void scalar_sq_encode(const float *v, size_t n, double lo, double hi, uint8_t *codes)
{
    double range = hi - lo;

    PLM_LOOP
    for (size_t i = 0; i < n; i++) {
        double scaled = ((double)v[i] - lo) * 255 / range;

        if (!(range > 0) || !(scaled > 0)) /* 0 / 0 is a NaN: a code of 0 */
            codes[i] = 0;
        else
            codes[i] = scaled >= 255 ? 255 : (uint8_t)scaled;
    }
}

static void scalar_min_max(const float *v, size_t n, float *lo, float *hi)
{
    float least = INFINITY, greatest = -INFINITY;

    PLM_LOOP
    for (size_t i = 0; i < n; i++) {
        least = v[i] < least ? v[i] : least;
        greatest = v[i] > greatest ? v[i] : greatest;
    }
    *lo = least + 0.0f; /* -0 becomes +0, so the order in which zeros came does not show */
    *hi = greatest + 0.0f;
}

static size_t scalar_at_most(const float *v, size_t n, float limit, uint32_t *places)
{
    size_t found = 0;

    PLM_LOOP
    for (size_t i = 0; i < n; i++)
        if (v[i] <= limit)
            places[found++] = (uint32_t)i;
    return found;
}

static uint32_t scalar_sq_l2(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint32_t sum = 0;

    PLM_LOOP
    for (size_t i = 0; i < n; i++) {
        int difference = a[i] - b[i];

        sum += (uint32_t)(difference * difference);
    }
    return sum;
}

static void scalar_grid_add(double *sums, const float *x, size_t n, double magic)
{
    PLM_LOOP
    for (size_t i = 0; i < n; i++)
        sums[i] += ((double)x[i] + magic) - magic;
}

void plm_simd_scalar(struct plm_kernels *table)
{
    *table = (struct plm_kernels){
        .name = "scalar",
        .f16_to_f32 = scalar_f16_to_f32,
        .norm2 = scalar_norm2,
        .l2_exact = scalar_l2_exact,
        .dot_exact = scalar_dot_exact,
        .l2_pairs = scalar_l2_pairs,
        .dot_pairs = scalar_dot_pairs,
        .l2_near = scalar_l2_near,
        .dot_near = scalar_dot_near,
        .frame_rows = scalar_frame_rows,
        .nearest = scalar_nearest,
        .values = scalar_values,
        .pack_rows = scalar_pack_rows,
        .pq_nearest = scalar_pq_nearest,
        .pq_pack = scalar_pq_pack,
        .sq_encode = scalar_sq_encode,
        .min_max = scalar_min_max,
        .at_most = scalar_at_most,
        .sq_l2 = scalar_sq_l2,
        .grid_add = scalar_grid_add,
        .project = scalar_project,
    };
    plm_simd_scalar_bytes(table);
}
