/* fuzz_datafile.c - any bytes as a Lance file: opened, every column tried in every shape, read. */
#include <stdlib.h>

#include "lance/datafile.h"
#include "support/mem_store.h"

enum { COLUMNS_MAX = 24, VALUE_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_column(struct plm_datafile *file, uint32_t column,
                        const struct plm_column_shape *shape, struct plm_read_scratch *scratch)
{
    static uint8_t values[VALUE_BYTES], nulls[VALUE_BYTES];
    size_t room = VALUE_BYTES / (shape->items * shape->bits / 8);
    uint64_t n_rows, bytes_stored;
    struct plm_err err;

    if (plm_datafile_check_column(file, column, shape, &n_rows, &bytes_stored, &err) || n_rows == 0)
        return;
    size_t n = (size_t)plm_min_u64(n_rows, room), few = plm_min_size(n, 3);
    (void)!plm_datafile_read(file, column, shape, 0, few, values, nulls, scratch, &err);
    (void)!plm_datafile_read(file, column, shape, 0, n, values, nulls, scratch, &err);
    (void)!plm_datafile_read(file, column, shape, n_rows - few, few, values, NULL, scratch, &err);
}

static void ask(struct plm_datafile *file, struct plm_ctx *ctx)
{
    static const struct plm_column_shape shapes[] = {
        {1, 64, false}, {1, 32, false}, {1, 8, false}, {3, 32, true}, {130, 16, true}, {1, 8, true}};
    struct plm_read_scratch scratch = {0};
    struct plm_buf buf = {0};
    struct plm_err err;

    for (uint32_t i = 0; i < plm_datafile_n_columns(file) && i < COLUMNS_MAX; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
            read_column(file, i, &shapes[k], &scratch);
    plm_buf_init(&buf, ctx, 1 << 16);
    for (uint32_t i = 0; i < plm_datafile_n_buffers(file) && i < 4; i++)
        (void)!plm_datafile_buffer(file, i, &buf, &err);
    plm_buf_reset(&buf);
    (void)plm_datafile_find(file, "flat", NULL);
    (void)plm_datafile_metadata(file, "lance:ivf");
    plm_read_scratch_reset(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_datafile *file = NULL;
    struct plm_err err;

    plm_ctx_options_default(&options);
    options.threads = 1;
    options.memory_budget_bytes = ((uint64_t)8 << 20) + 64 * (uint64_t)size;
    if (plm_ctx_create(&options, &ctx, &err) != PLM_OK)
        abort();
    struct plm_store *store = mem_store_open(ctx);
    mem_store_set(store, "f", data, size);
    if (plm_datafile_open(store, "f", 0, &file, &err) == PLM_OK)
        ask(file, ctx);
    else if (err.code == PLM_LIMIT || err.code == PLM_BUG)
        abort(); /* more memory than the file justifies, or our own mistake */
    plm_datafile_close(file);
    plm_store_close(store);
    plm_ctx_destroy(ctx);
    return 0;
}
