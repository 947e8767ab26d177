/* fuzz_manifest.c - any bytes as a manifest file: parse, look columns up, name fields, read
 * the inline transaction. */
#include "lance/column.h"
#include "lance/commit_impl.h"

#include <stdlib.h>

enum { BUDGET_BYTES = 256 << 20, PATHS_MAX = 8 };

static struct plm_ctx *ctx;

static void look_around(struct plm_manifest *m)
{
    static const char *const paths[] = {"vec", "s.vec", "`odd.name`", "deep.in.vec", "rows.item.vec"};
    struct plm_column column;
    struct plm_txn txn = {0};
    struct plm_view section;

    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct plm_err err = {0};

        if (plm_manifest_find_column(m, paths[i], &column, &err) == PLM_BUG)
            abort();
    }
    for (size_t i = 0; i < m->n_fields && i < PATHS_MAX; i++) {
        char *path;

        if (plm_manifest_field_path(m, m->fields[i].id, &path, NULL) == PLM_OK)
            plm_free(ctx, path);
    }
    if (m->inline_txn_at >= 0 &&
        plm_manifest_section((struct plm_view){m->raw.data, m->raw.len},
                             (uint64_t)m->inline_txn_at, "transaction", &section, NULL) == PLM_OK &&
        plm_txn_parse(section, &txn, NULL) == PLM_OK)
        plm_txn_reset(&txn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_ctx_options options;
    struct plm_manifest m = {0};
    struct plm_buf raw;
    struct plm_err err = {0};

    if (!ctx) {
        plm_ctx_options_default(&options);
        options.threads = 1;
        options.memory_budget_bytes = BUDGET_BYTES;
        if (plm_ctx_create(&options, &ctx, NULL) != PLM_OK)
            abort();
    }
    plm_buf_init(&raw, ctx, PLM_MANIFEST_BYTES_MAX);
    if (plm_buf_add(&raw, data, size, &err) == PLM_OK &&
        plm_manifest_parse(ctx, NULL, &raw, &m, &err) == PLM_OK)
        look_around(&m);
    plm_manifest_reset(&m);
    plm_buf_reset(&raw);
    if (atomic_load(&ctx->memory_used) != 0)
        abort(); /* a leak */
    return 0;
}
