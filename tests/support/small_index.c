/* small_index.c - see small_index.h. */
#include "support/small_index.h"

#include <stdlib.h>

#include "ivf/ivf_format.h"
#include "rows/half.h"
#include "support/mem_store.h"

static void must(enum plm_code code)
{
    if (code != PLM_OK)
        abort();
}

float small_number(uint64_t seed, uint64_t i)
{
    return (float)(plm_mix64(seed, i) >> 40) * 0x1p-23f - 1;
}

static void make_model(struct plm_model *m, uint32_t n_bits)
{
    float codebook[4 * 256 * 4];
    size_t n = (size_t)m->k * m->dim;

    must(plm_alloc(m->ctx, &m->centroids, n, sizeof(float), NULL));
    for (size_t i = 0; i < n; i++)
        m->centroids[i] = small_number(1, i);
    plm_round_to_element(m->centroids, n, m->element);
    m->sq = (struct plm_sq){-1.25, 1.5};
    if (m->quantizer != PLM_PQ)
        return;
    size_t n_values = 4 * ((size_t)1 << n_bits) * 4;
    for (size_t i = 0; i < n_values; i++)
        codebook[i] = small_number(2, i) / 2;
    plm_round_to_element(codebook, n_values, m->element);
    must(plm_pq_init(m->ctx, 4, 4, n_bits, codebook, &m->pq, NULL));
}

static void fill_codes(struct small_index *x)
{
    const struct plm_model *m = &x->model;
    uint64_t n = x->starts[SMALL_K];
    size_t width = plm_model_code_bytes(m), i;

    must(plm_alloc(x->ctx, &x->rowids, n, 8, NULL));
    must(plm_alloc(x->ctx, &x->codes, n, width, NULL));
    for (i = 0; i < n; i++)
        x->rowids[i] = (i % 3) << 32 | i / 3; /* three fragments */
    for (i = 0; m->quantizer != PLM_FLAT && i < n * width; i++)
        x->codes[i] = (uint8_t)plm_mix64(3, i);
    for (i = 0; m->quantizer == PLM_FLAT && i < n * m->dim; i++) {
        float value = small_number(4, i);
        uint16_t half = plm_f16_from_f32(value);
        double wide = value;
        if (m->element == PLM_F16)
            memcpy(x->codes + 2 * i, &half, 2);
        else if (m->element == PLM_F32)
            memcpy(x->codes + 4 * i, &value, 4);
        else
            memcpy(x->codes + 8 * i, &wide, 8);
    }
}

void small_index_make(struct plm_ctx *ctx, enum plm_quantizer quantizer, enum plm_metric metric,
                      enum plm_element element, uint32_t n_bits, uint32_t scale,
                      struct small_index *out)
{
    static const uint32_t sizes[SMALL_K] = {3, 0, 70, 1, 26};

    memset(out, 0, sizeof(*out));
    out->ctx = ctx;
    out->model = (struct plm_model){.ctx = ctx, .quantizer = quantizer, .metric = metric,
                                    .element = element, .dim = SMALL_DIM, .k = SMALL_K};
    make_model(&out->model, n_bits);
    for (int i = 0; i < SMALL_K; i++) {
        out->lengths[i] = sizes[i] * scale;
        out->starts[i + 1] = out->starts[i] + out->lengths[i];
    }
    out->layout = plm_layout_of(out->starts[SMALL_K], plm_model_code_bytes(&out->model));
    fill_codes(out);
}

void small_index_reset(struct small_index *index)
{
    plm_model_reset(&index->model);
    plm_free(index->ctx, index->rowids);
    plm_free(index->ctx, index->codes);
    memset(index, 0, sizeof(*index));
}

/* The code column as stored: PQ is transposed inside each partition. */
static uint8_t *stored_codes(const struct small_index *x)
{
    size_t width = plm_model_code_bytes(&x->model), n = (size_t)x->starts[SMALL_K];
    uint8_t *out = malloc(n * width);

    if (!out)
        abort();
    memcpy(out, x->codes, n * width);
    for (int p = 0; x->model.quantizer == PLM_PQ && p < SMALL_K; p++)
        for (size_t i = 0; i < x->lengths[p]; i++)
            for (size_t j = 0; j < width; j++)
                out[x->starts[p] * width + j * x->lengths[p] + i] =
                    x->codes[(x->starts[p] + i) * width + j];
    return out;
}

void small_index_write(const struct small_index *x, struct plm_store *store, const char *dir,
                       uint32_t minor)
{
    size_t width = plm_model_code_bytes(&x->model), end = (size_t)plm_layout_end(&x->layout);
    uint8_t *codes = stored_codes(x);
    struct plm_buf tail, head;
    char path[64];

    plm_buf_init(&tail, x->ctx, SIZE_MAX);
    plm_buf_init(&head, x->ctx, SIZE_MAX);
    must(plm_index_aux_tail(&x->model, &x->layout, x->lengths, 2, minor, &tail, NULL));
    must(plm_index_main(&x->model, 12.5, 2, minor, &head, NULL));
    uint8_t *file = calloc(1, end + tail.len);
    if (!file)
        abort();
    for (uint64_t b = 0; b < x->layout.n_blocks; b++) {
        size_t first = (size_t)(b * x->layout.rows_per_block);
        size_t n = (size_t)plm_layout_block_rows(&x->layout, b);
        memcpy(file + plm_layout_rowid_at(&x->layout, b), x->rowids + first, n * 8);
        memcpy(file + plm_layout_code_at(&x->layout, b), codes + first * width, n * width);
    }
    memcpy(file + end, tail.data, tail.len);
    snprintf(path, sizeof(path), "%s/auxiliary.idx", dir);
    mem_store_set(store, path, file, end + tail.len);
    snprintf(path, sizeof(path), "%s/index.idx", dir);
    mem_store_set(store, path, head.data, head.len);
    free(file);
    free(codes);
    plm_buf_reset(&tail);
    plm_buf_reset(&head);
}

enum plm_code small_index_read(struct plm_segment *segment, uint32_t partition, uint64_t first, size_t n,
                               uint64_t *rowids, uint8_t *codes, struct plm_err *err)
{
    size_t width = plm_model_code_bytes(&segment->model);
    struct plm_read_scratch scratch = {.ctx = segment->ctx};
    uint8_t *stored = malloc(n * width + 1), *spare = malloc(n + 2 * width);

    if (!stored || !spare)
        abort();
    enum plm_code rc = plm_segment_read_stored(segment, partition, first, n, rowids, stored, spare, &scratch, err);
    for (size_t i = 0; rc == PLM_OK && i < n; i++)
        for (size_t j = 0; j < width; j++)
            codes[i * width + j] = stored[segment->pq_transposed ? j * n + i : i * width + j];
    plm_read_scratch_reset(&scratch);
    free(spare);
    free(stored);
    return rc;
}
