/* fuzz_transaction.c - any bytes as a transaction that came before our commit. */
#include "lance/commit_impl.h"

#include <stdlib.h>

static struct plm_ctx *ctx;

static void check(const struct plm_txn *txn)
{
    static const uint32_t fragments[] = {0, 1, 5};
    static const struct plm_new_segment segment = {.fragments = fragments, .n_fragments = 3};
    static const struct plm_commit_request request = {
        .index_name = "vec_idx", .field_id = 1, .read_version = 1,
        .segments = &segment, .n_segments = 1};
    struct plm_cover cover = {0};
    struct plm_err err = {0};

    if (plm_cover_init(ctx, &request, &cover, NULL) != PLM_OK)
        abort();
    if (plm_conflict_check(&request, &cover, txn, 2, false, &err) == PLM_BUG)
        abort();
    plm_cover_reset(&cover);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_txn txn = {0};
    struct plm_err err = {0};

    if (!ctx && plm_ctx_create(NULL, &ctx, NULL) != PLM_OK)
        abort();
    if (plm_txn_parse((struct plm_view){data, size}, &txn, &err) == PLM_OK)
        check(&txn);
    plm_txn_reset(&txn);
    if (atomic_load(&ctx->memory_used) != 0)
        abort(); /* a leak */
    return 0;
}
