/* arena.c - many small pieces in few blocks, freed at once; what a manifest keeps in them. */
#include "lance/manifest_impl.h"

#define BLOCK_BYTES_MIN ((size_t)4 << 10)
#define BLOCK_BYTES_MAX ((size_t)1 << 20)
#define ALIGNMENT ((size_t)16)

struct plm_arena_block {
    struct plm_arena_block *next;
    size_t used, cap; /* of `bytes` */
    _Alignas(16) uint8_t bytes[];
};

/* Blocks double up to BLOCK_BYTES_MAX; a larger request gets a block of its own size. */
static enum plm_code add_block(struct plm_ctx *ctx, struct plm_arena_block **arena, size_t bytes,
                               struct plm_err *err)
{
    struct plm_arena_block *block;
    size_t cap = *arena ? plm_min_size((*arena)->cap * 2, BLOCK_BYTES_MAX) : BLOCK_BYTES_MIN;
    size_t total;

    cap = plm_max_size(cap, bytes);
    if (!plm_size_add(cap, sizeof *block, &total))
        return plm_fail(err, PLM_NOMEM, "%zu bytes overflow", bytes);
    enum plm_code rc = plm_alloc(ctx, &block, total, 1, err);
    if (rc != PLM_OK)
        return rc;
    *block = (struct plm_arena_block){.next = *arena, .cap = cap};
    *arena = block;
    return PLM_OK;
}

enum plm_code plm_arena_alloc(struct plm_ctx *ctx, struct plm_arena_block **arena, void *out,
                              size_t n, size_t each, struct plm_err *err)
{
    size_t bytes;
    void *memory;

    if (!plm_size_mul(n, each, &bytes) || !plm_size_add(bytes, ALIGNMENT - 1, &bytes))
        return plm_fail(err, PLM_NOMEM, "%zu items of %zu bytes overflow", n, each);
    bytes &= ~(ALIGNMENT - 1);
    if (!*arena || (*arena)->cap - (*arena)->used < bytes) {
        enum plm_code rc = add_block(ctx, arena, bytes, err);
        if (rc != PLM_OK)
            return rc;
    }
    memory = (*arena)->bytes + (*arena)->used;
    (*arena)->used += bytes;
    memset(memory, 0, bytes);
    memcpy(out, &memory, sizeof memory); /* out is a T ** of any T */
    return PLM_OK;
}

void plm_arena_reset(struct plm_ctx *ctx, struct plm_arena_block **arena)
{
    while (*arena) {
        struct plm_arena_block *next = (*arena)->next;

        plm_free(ctx, *arena);
        *arena = next;
    }
}

/* ---- values of a manifest ------------------------------------------------------------- */

enum plm_code plm_pb_get_text(struct plm_manifest *manifest, const struct plm_pb_field *field,
                              char **out, struct plm_err *err)
{
    char *text = NULL;
    struct plm_view view;
    enum plm_code rc = plm_pb_get_view(field, &view, err);

    if (rc != PLM_OK)
        return rc;
    if (view.len && memchr(view.data, 0, view.len))
        return plm_fail(err, PLM_CORRUPT, "field %" PRIu32 " is text with a NUL in it",
                        field->number);
    rc = plm_arena_alloc(manifest->ctx, &manifest->arena, &text, view.len + 1, 1, err);
    if (rc != PLM_OK)
        return rc;
    if (view.len)
        memcpy(text, view.data, view.len);
    *out = text;
    return PLM_OK;
}

enum plm_code plm_pb_get_i32s(struct plm_manifest *manifest, const struct plm_u64s *values,
                              int32_t **out, struct plm_err *err)
{
    int32_t *items;
    enum plm_code rc =
        plm_arena_alloc(manifest->ctx, &manifest->arena, &items, values->n, sizeof *items, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < values->n; i++) {
        if (!plm_pb_to_i32(values->items[i], &items[i]))
            return plm_fail(err, PLM_CORRUPT, "%" PRIu64 " in a list of 32-bit integers",
                            values->items[i]);
    }
    *out = items;
    return PLM_OK;
}
