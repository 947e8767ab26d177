/* ivf_model.c - the model of an index, rounding to the column's element type, the layout. */
#include "ivf/ivf_format.h"
#include "rows/half.h"
#include "simd/simd.h"

const char *plm_quantizer_type(enum plm_quantizer q)
{
    switch (q) {
    case PLM_FLAT:
        return "IVF_FLAT";
    case PLM_SQ:
        return "IVF_SQ";
    case PLM_PQ:
        return "IVF_PQ";
    }
    return "?";
}

void plm_model_reset(struct plm_model *model)
{
    if (!model)
        return;
    plm_free(model->ctx, model->centroids);
    plm_pq_reset(&model->pq);
    memset(model, 0, sizeof(*model));
}

uint32_t plm_model_code_bytes(const struct plm_model *model)
{
    switch (model->quantizer) {
    case PLM_FLAT:
        return model->dim * (uint32_t)plm_element_bytes(model->element);
    case PLM_SQ:
        return model->dim;
    case PLM_PQ:
        return plm_pq_code_bytes(&model->pq);
    }
    return 0;
}

/* ---- element types ---------------------------------------------------------------- */

void plm_round_to_element(float *values, size_t n, enum plm_element element)
{
    if (element != PLM_F16)
        return; /* float64 holds every float32 */
    for (size_t i = 0; i < n; i++)
        values[i] = plm_f16_to_f32(plm_f16_from_f32(values[i]));
}

void plm_floats_of_element(const struct plm_kernels *kernels, const void *src, size_t n,
                           enum plm_element element, float *dst)
{
    if (element == PLM_F16) {
        kernels->f16_to_f32(src, dst, n);
        return;
    }
    if (element == PLM_F32) {
        memcpy(dst, src, n * 4);
        return;
    }
    const uint8_t *bytes = src;
    for (size_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, bytes + i * 8, 8);
        dst[i] = (float)value;
    }
}

/* ---- layout -------------------------------------------------------------------- */

#define BLOCK_BYTES ((uint64_t)8 << 20)
/* An S3 upload has 10,000 parts at most: one block each, and one for the tail. */
#define BLOCKS_MAX 9999
/* Rows of a full block are a multiple of 64, so that pages follow each other unpadded. */
#define ROWS_STEP 64
/* A page counts its rows in 32 bits. */
#define BLOCK_ROWS_MAX (UINT32_MAX - (UINT32_MAX % ROWS_STEP))

static uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

struct plm_layout plm_layout_of(uint64_t n_rows, uint32_t code_bytes)
{
    uint64_t row_bytes = 8 + (uint64_t)code_bytes;
    uint64_t by_size = (BLOCK_BYTES + row_bytes - 1) / row_bytes;
    uint64_t by_count = n_rows / BLOCKS_MAX + (n_rows % BLOCKS_MAX != 0);
    uint64_t rows = round_up(plm_max_u64(by_size, by_count), ROWS_STEP);
    struct plm_layout layout = {.n_rows = n_rows, .code_bytes = code_bytes};

    layout.rows_per_block = plm_min_u64(rows, BLOCK_ROWS_MAX);
    layout.n_blocks = n_rows / layout.rows_per_block + (n_rows % layout.rows_per_block != 0);
    return layout;
}

uint64_t plm_layout_block_rows(const struct plm_layout *l, uint64_t block)
{
    return plm_min_u64(l->rows_per_block, l->n_rows - block * l->rows_per_block);
}

uint64_t plm_layout_rowid_at(const struct plm_layout *l, uint64_t block)
{
    return block * l->rows_per_block * (8 + (uint64_t)l->code_bytes);
}

uint64_t plm_layout_code_at(const struct plm_layout *l, uint64_t block)
{
    return plm_layout_rowid_at(l, block) + round_up(plm_layout_block_rows(l, block) * 8, 64);
}

uint64_t plm_layout_end(const struct plm_layout *l)
{
    if (l->n_blocks == 0)
        return 0;
    uint64_t last = l->n_blocks - 1;
    return plm_layout_code_at(l, last) + plm_layout_block_rows(l, last) * l->code_bytes;
}
