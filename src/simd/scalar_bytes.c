/* scalar_bytes.c - the reference for rows and centroids in eight bits, codewords in sixteen. */
#include <string.h>

#include "simd/simd_tables.h"

PLM_SCALAR_FILE

#define BYTE_MOST 127
#define GROUP_BYTES (4 * PLM_GROUP)

static float greatest_magnitude(const float *row, size_t dim)
{
    float greatest = 0;

    PLM_LOOP
    for (size_t d = 0; d < dim; d++)
        greatest = fabsf(row[d]) > greatest ? fabsf(row[d]) : greatest;
    return greatest;
}

static void quantize_row(const float *row, size_t dim, uint8_t *out, float *scale, float *rest)
{
    float greatest = greatest_magnitude(row, dim);
    bool is_zero = !(greatest >= PLM_BYTE_LEAST && greatest <= PLM_BYTE_GREATEST);
    double sum = 0;

    *scale = is_zero ? 0 : greatest / BYTE_MOST;
    for (size_t d = 0; d < plm_byte_dims(dim); d++) {
        float value = d < dim ? row[d] : 0;
        float q = is_zero ? 0 : rintf(value * (BYTE_MOST / greatest));
        double left = (double)value - (double)*scale * (double)q;

        sum += left * left;
        out[d / 4 * GROUP_BYTES + d % 4] = (uint8_t)((int)q + BYTE_MOST + 1);
    }
    *rest = plm_rest_norm(sum, dim);
}

void plm_byte_rows_by(plm_quantize_row quantize, int middle, const float *rows, size_t row_stride,
                      size_t n, size_t dim, uint8_t *packed, float *scales, float *rests)
{
    size_t dims = plm_byte_dims(dim), i = 0;

    for (; i < n; i++)
        quantize(rows + i * row_stride, dim,
                 packed + i / PLM_GROUP * PLM_GROUP * dims + i % PLM_GROUP * 4, &scales[i], &rests[i]);
    for (; i % PLM_GROUP != 0; i++) /* the end of the last group */
        for (size_t d = 0; d < dims; d += 4)
            memset(packed + i / PLM_GROUP * PLM_GROUP * dims + i % PLM_GROUP * 4 + d * PLM_GROUP,
                   middle, 4);
}

static void scalar_byte_rows(const float *rows, size_t row_stride, size_t n, size_t dim,
                             uint8_t *packed, float *scales, float *rests)
{
    plm_byte_rows_by(quantize_row, BYTE_MOST + 1, rows, row_stride, n, dim, packed, scales, rests);
}

static void scalar_byte_bounds(const uint8_t *rows, const float *row_terms, size_t n,
                               const int8_t *panels, const int32_t *offsets,
                               const float *panel_terms, size_t n_panels, size_t dim,
                               float *bounds, size_t stride)
{
    for (size_t row = 0; row < n; row++)
        for (size_t j = 0; j < n_panels * PLM_PANEL; j++) {
            const uint8_t *x = rows + row / PLM_GROUP * PLM_GROUP * dim + row % PLM_GROUP * 4;
            const int8_t *c = panels + j / PLM_PANEL * PLM_PANEL * dim + j % PLM_PANEL * 4;
            const float *r = row_terms + row * PLM_BYTE_ROW_TERMS;
            const float *p = panel_terms + j / PLM_PANEL * PLM_PANEL * PLM_BYTE_PANEL_TERMS +
                             j % PLM_PANEL;
            uint32_t product = (uint32_t)offsets[j]; /* partial sums may wrap around */
            float bound;

            PLM_LOOP
            for (size_t d = 0; d < dim; d++)
                product += (uint32_t)(x[d / 4 * GROUP_BYTES + d % 4] *
                                      c[d / 4 * 4 * PLM_PANEL + d % 4]);
            bound = p[0] - r[0] * (p[PLM_PANEL] * (float)(int32_t)product);
            for (size_t t = 1; t < PLM_BYTE_ROW_TERMS; t++)
                bound -= r[t] * p[(t + 1) * PLM_PANEL];
            bounds[row * stride + j] = bound;
        }
}

/* The low half of the whole number; 0 of one beyond 32 bits, as the vector units have it. */
static int16_t word_of(float value)
{
    float whole = rintf(value);

    if (!(whole >= -0x1p31f && whole < 0x1p31f))
        return 0;
    return (int16_t)(uint16_t)(uint32_t)(int32_t)whole;
}

static void scalar_pq_words(const float *groups, size_t n_groups, float per_unit,
                            const int16_t *words, const int32_t *offsets, size_t n_codes,
                            size_t dsub, uint8_t *codes, int32_t *best, int32_t *second)
{
    for (size_t row = 0; row < n_groups * PLM_PQ_LANES; row++) {
        const float *x = groups + row / PLM_PQ_LANES * PLM_PQ_LANES * dsub + row % PLM_PQ_LANES;

        best[row] = second[row] = PLM_PQ_WORDS_VALUE_MOST;
        codes[row] = 0;
        for (size_t code = 0; code < n_codes; code++) {
            const int16_t *word = words + code * plm_pq_word_dims(dsub);
            uint32_t sum = (uint32_t)offsets[code]; /* partial sums may wrap around */
            int32_t value;

            PLM_LOOP
            for (size_t d = 0; d < dsub; d++)
                sum += (uint32_t)(word_of(x[d * PLM_PQ_LANES] * per_unit) * word[d]);
            value = (int32_t)sum;
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

void plm_simd_scalar_bytes(struct plm_kernels *table)
{
    table->pq_words = scalar_pq_words;
    table->pq_words_pay = false;
    table->byte_most = BYTE_MOST;
    table->byte_rows = scalar_byte_rows;
    table->byte_bounds = scalar_byte_bounds;
}
