/* arm_dotprod.c - rows and centroids in eight bits, for AArch64 with the dot product instructions:
 * sixteen products a time, added to four sums of 32 bits. */
#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#include "simd/simd_tables.h"

#define BYTE_MOST 127
#define GROUP_BYTES (4 * PLM_GROUP)

#if defined(__clang__)
PLM_TARGET_BEGIN("dotprod")
#else
PLM_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif

/* ---- rows -------------------------------------------------------------------------------- */

/* Four dimensions of a row from d on, zeros behind its end. */
static inline float32x4_t four_values(const float *row, size_t d, size_t dim)
{
    float some[4] = {0};

    if (d + 4 <= dim)
        return vld1q_f32(row + d);
    if (d < dim)
        memcpy(some, row + d, (dim - d) * sizeof *row);
    return vld1q_f32(some);
}

static float greatest_magnitude(const float *row, size_t dim)
{
    float32x4_t greatest = vdupq_n_f32(0);

    for (size_t d = 0; d < dim; d += 4)
        greatest = vmaxq_f32(greatest, vabsq_f32(four_values(row, d, dim)));
    return vmaxvq_f32(greatest);
}

/* out: this row's place in a group. */
static void quantize_row(const float *row, size_t dim, uint8_t *out, float *scale, float *rest)
{
    float greatest = greatest_magnitude(row, dim);
    bool is_zero = !(greatest >= PLM_BYTE_LEAST && greatest <= PLM_BYTE_GREATEST);
    float inverse = is_zero ? 0 : BYTE_MOST / greatest, step = is_zero ? 0 : greatest / BYTE_MOST;
    float32x4_t sum = vdupq_n_f32(0);

    for (size_t d = 0; d < plm_byte_dims(dim); d += 4) {
        float32x4_t value = four_values(row, d, dim);
        int32x4_t q = vcvtnq_s32_f32(vmulq_n_f32(value, inverse));
        float32x4_t left = vfmsq_n_f32(value, vcvtq_f32_s32(q), step);
        int16x4_t words = vmovn_s32(vaddq_s32(q, vdupq_n_s32(BYTE_MOST + 1)));
        uint8x8_t bytes = vmovn_u16(vreinterpretq_u16_s16(vcombine_s16(words, words)));

        sum = vfmaq_f32(sum, left, left);
        vst1_lane_u32((uint32_t *)(void *)out, vreinterpret_u32_u8(bytes), 0);
        out += GROUP_BYTES;
    }
    *scale = step;
    *rest = plm_rest_norm((double)vaddvq_f32(sum), dim);
}

static void dotprod_byte_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                              uint8_t *packed, float *scales, float *rests)
{
    plm_byte_rows_by(quantize_row, BYTE_MOST + 1, rows, row_stride, n, dim, packed, scales, rests);
}

/* ---- bounds ------------------------------------------------------------------------------- */

/* Six rows by sixteen centroids; both signed here, so that offsets are not needed. */
#define EACH_ROW(X)                                                                        \
    X(0, vdotq_laneq_s32, x, 0) X(1, vdotq_laneq_s32, x, 1) X(2, vdotq_laneq_s32, x, 2)    \
    X(3, vdotq_laneq_s32, x, 3) X(4, vdotq_lane_s32, y, 0) X(5, vdotq_lane_s32, y, 1)
#define DECLARE(r, dot, rows, lane) \
    int32x4_t a##r = vdupq_n_s32(0), b##r = a##r, c##r = a##r, d##r = a##r;
#define MULTIPLY_ADD(r, dot, rows, lane) \
    a##r = dot(a##r, v0, rows, lane);    \
    b##r = dot(b##r, v1, rows, lane);    \
    c##r = dot(c##r, v2, rows, lane);    \
    d##r = dot(d##r, v3, rows, lane);
#define HAND_OUT(r, dot, rows, lane)                                      \
    products[4 * r] = a##r, products[4 * r + 1] = b##r,                   \
    products[4 * r + 2] = c##r, products[4 * r + 3] = d##r;

static inline void tile_6x16(const uint8_t *group, const int8_t *panel, size_t dim,
                             int32x4_t products[4 * PLM_GROUP])
{
    const uint8_t middle = BYTE_MOST + 1;

    EACH_ROW(DECLARE)
    for (size_t i = 0; i < dim; i += 4) {
        int8x16_t v0 = vld1q_s8(panel), v1 = vld1q_s8(panel + 16);
        int8x16_t v2 = vld1q_s8(panel + 32), v3 = vld1q_s8(panel + 48);
        int8x16_t x = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(group), vdupq_n_u8(middle)));
        int8x8_t y = vreinterpret_s8_u8(veor_u8(vld1_u8(group + 16), vdup_n_u8(middle)));

        EACH_ROW(MULTIPLY_ADD)
        group += GROUP_BYTES;
        panel += 4 * PLM_PANEL;
    }
    EACH_ROW(HAND_OUT)
}

static void dotprod_byte_bounds(const uint8_t *rows, const float *row_terms, size_t n,
                                const int8_t *panels, const int32_t *offsets,
                                const float *panel_terms, size_t n_panels, size_t dim,
                                float *bounds, size_t stride)
{
    (void)offsets;
    for (size_t panel = 0; panel < n_panels; panel++)
        for (size_t row = 0; row < n; row += PLM_GROUP) {
            size_t n_group = n - row < PLM_GROUP ? n - row : PLM_GROUP;
            int32x4_t products[4 * PLM_GROUP];

            tile_6x16(rows + row * dim, panels + panel * PLM_PANEL * dim, dim, products);
            for (size_t i = 0; i < 4 * n_group; i++) {
                const float *r = row_terms + (row + i / 4) * PLM_BYTE_ROW_TERMS;
                const float *p = panel_terms + panel * PLM_PANEL * PLM_BYTE_PANEL_TERMS + i % 4 * 4;
                float32x4_t bound = vmulq_f32(vcvtq_f32_s32(products[i]), vld1q_f32(p + PLM_PANEL));

                bound = vfmsq_n_f32(vld1q_f32(p), bound, r[0]);
                for (size_t t = 1; t < PLM_BYTE_ROW_TERMS; t++)
                    bound = vfmsq_n_f32(bound, vld1q_f32(p + (t + 1) * PLM_PANEL), r[t]);
                vst1q_f32(bounds + (row + i / 4) * stride + panel * PLM_PANEL + i % 4 * 4, bound);
            }
        }
}

PLM_TARGET_END

void plm_simd_dotprod(struct plm_kernels *table)
{
    table->byte_most = BYTE_MOST;
    table->byte_rows = dotprod_byte_rows;
    table->byte_bounds = dotprod_byte_bounds;
}

#else
typedef int plm_no_dotprod; /* ISO C wants something in every file */
#endif
