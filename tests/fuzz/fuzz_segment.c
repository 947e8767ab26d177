/* fuzz_segment.c - any bytes as the two files of an index segment: opened, read, scanned.
 *
 * Input: u32 length of index.idx, index.idx, auxiliary.idx. Each is also given to the parsers
 * of the messages and documents inside, which a mutation seldom reaches through the file. */
#include <stdlib.h>

#include "ivf/ivf_format.h"
#include "support/mem_store.h"

enum { ROWS_MAX = 64, BYTES_MAX = 1 << 16, PARTITIONS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_partition(struct plm_segment *s, uint32_t p)
{
    static uint64_t rowids[ROWS_MAX];
    static uint8_t codes[BYTES_MAX], spare[ROWS_MAX + 2 * BYTES_MAX];
    struct plm_read_scratch scratch = {.ctx = s->ctx};
    size_t width = plm_model_code_bytes(&s->model), n = s->lengths[p];
    struct plm_err err;

    n = plm_min_size(n, plm_min_size(ROWS_MAX, BYTES_MAX / width));
    (void)!plm_segment_read_stored(s, p, 0, n, rowids, codes, spare, &scratch, &err);
    if (n > 1)
        (void)!plm_segment_read_stored(s, p, s->lengths[p] - 1, 1, rowids, codes, spare, &scratch, &err);
    plm_read_scratch_reset(&scratch);
}

static void use(struct plm_segment *s)
{
    float *query = NULL, distances[ROWS_MAX];
    uint64_t rowids[ROWS_MAX];
    uint32_t ids[PARTITIONS_MAX];
    struct plm_top top = {.k = ROWS_MAX, .distances = distances, .rowids = rowids};
    struct plm_scan_scratch scratch = {0};
    struct plm_err err;
    size_t n = 0;

    for (uint32_t p = 0; p < s->model.k && p < PARTITIONS_MAX; p++)
        read_partition(s, p);
    if (plm_calloc(s->ctx, &query, s->model.dim, sizeof(float), &err) != PLM_OK)
        return;
    if (plm_probe(s->ctx, &s->model, query, PARTITIONS_MAX, ids, &n, &err) == PLM_OK)
        for (size_t i = 0; i < n; i++)
            if (s->lengths[ids[i]] <= 1 << 16)
                (void)!plm_scan_partition(s, ids[i], query, NULL, NULL, &top, &scratch, &err);
    plm_top_sort(&top);
    plm_scan_scratch_reset(&scratch);
    plm_free(s->ctx, query);
}

static void parse_pieces(struct plm_ctx *ctx, struct plm_view bytes)
{
    struct plm_ivf_message message = {.ctx = ctx};
    struct plm_storage_info info;
    struct plm_tensor tensor;
    enum plm_quantizer quantizer;
    enum plm_metric metric;
    struct plm_err err;
    uint32_t number;
    size_t n;

    if (plm_ivf_message_parse(ctx, bytes, &message, &err) == PLM_OK)
        plm_ivf_message_reset(&message);
    (void)!plm_tensor_parse(ctx, bytes, &tensor, &err);
    (void)!plm_index_kind_parse(bytes, &quantizer, &metric, &err);
    for (int q = PLM_FLAT; q <= PLM_PQ; q++)
        (void)!plm_storage_info_parse(bytes, (enum plm_quantizer)q, &info, &err);
    (void)!plm_sub_index_count(bytes, &n, &err);
    (void)!plm_buffer_number_parse(bytes, &number, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_segment segment;
    struct plm_err err;

    if (size < 4)
        return 0;
    size_t n = plm_min_size(plm_le32(data), size - 4);
    plm_ctx_options_default(&options);
    options.threads = 1;
    options.memory_budget_bytes = ((uint64_t)64 << 20) + 64 * (uint64_t)size;
    if (plm_ctx_create(&options, &ctx, &err) != PLM_OK)
        abort();
    struct plm_store *store = mem_store_open(ctx);
    mem_store_set(store, "index.idx", data + 4, n);
    mem_store_set(store, "auxiliary.idx", data + 4 + n, size - 4 - n);
    if (plm_segment_open_dir(store, "", &segment, &err) == PLM_OK) {
        use(&segment);
        plm_segment_close(&segment);
    }
    parse_pieces(ctx, (struct plm_view){data, size});
    plm_store_close(store);
    if (atomic_load(&ctx->memory_used) != 0)
        abort();
    plm_ctx_destroy(ctx);
    return 0;
}
