/* fuzz_train.c - any bytes as a training step, a partial and a checkpoint. */
#include <stdlib.h>

#include "cluster/train.h"

enum { ROWS = 40, DIM = 6 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_step(struct plm_ctx *ctx, struct plm_view bytes)
{
    static float rows[ROWS * DIM];
    struct plm_sample sample;
    struct plm_shard *shard = NULL;
    struct plm_buf partial;
    struct plm_err err;

    for (size_t i = 0; i < ROWS * DIM; i++)
        rows[i] = (float)(plm_mix64(1, i) % 1000) / 100;
    plm_sample_of(ctx, rows, ROWS, DIM, &sample);
    plm_buf_init(&partial, ctx, SIZE_MAX);
    if (plm_shard_create(ctx, &sample, 0, &shard, &err) == PLM_OK &&
        plm_shard_run(shard, bytes, &partial, &err) == PLM_OK &&
        plm_partial_merge(&partial, (struct plm_view){partial.data, partial.len}, &err) == PLM_BUG)
        abort();
    plm_buf_reset(&partial);
    plm_shard_destroy(shard);
}

static void as_partial(struct plm_ctx *ctx, struct plm_view bytes)
{
    struct plm_buf merged;
    struct plm_err err;

    plm_buf_init(&merged, ctx, SIZE_MAX);
    if (plm_partial_merge(&merged, bytes, &err) == PLM_OK)
        (void)!plm_partial_merge(&merged, bytes, &err);
    plm_buf_reset(&merged);
}

static void as_checkpoint(struct plm_ctx *ctx, struct plm_view bytes)
{
    struct plm_trainer *trainer = NULL;
    struct plm_err err;

    if (plm_trainer_load(ctx, bytes, &trainer, &err) == PLM_OK)
        (void)!plm_trainer_absorb(trainer, bytes, &err);
    plm_trainer_destroy(trainer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_err err;

    plm_ctx_options_default(&options);
    options.threads = 1;
    options.memory_budget_bytes = ((uint64_t)16 << 20) + 64 * (uint64_t)size;
    if (plm_ctx_create(&options, &ctx, &err) != PLM_OK)
        abort();
    as_step(ctx, (struct plm_view){data, size});
    as_partial(ctx, (struct plm_view){data, size});
    as_checkpoint(ctx, (struct plm_view){data, size});
    if (atomic_load(&ctx->memory_used) != 0)
        abort();
    plm_ctx_destroy(ctx);
    return 0;
}
