/* mem.c - allocation under the budget.
 *
 * Each block is preceded by one 64-byte line that remembers its size, so that a free can give
 * the charge back and user data stays 64-byte aligned. Large blocks are mappings of their own:
 * what is freed leaves the process at once, whatever the host's malloc is tuned to, so that charged
 * bytes bound resident ones. Small ones come from malloc.
 */
#include "core/mem.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/mem_impl.h"

#define LINE 64u
#define MAP_BYTES ((size_t)128 << 10) /* blocks from this size on are mapped */
#define HUGE_BYTES ((size_t)4 << 20) /* and may have large pages */

struct header {
    size_t charged_bytes;
};

/* The sanitizers watch malloc only. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAY_MAP 0
#elif defined(__has_feature)
#define MAY_MAP (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define MAY_MAP 1
#endif

static bool is_mapped(size_t charged_bytes) { return MAY_MAP && charged_bytes >= MAP_BYTES; }

static struct header *header_of(void *memory)
{
    return (struct header *)(void *)((uint8_t *)memory - LINE);
}

/* ---- sizes and the charge -------------------------------------------------------------- */

/* The bytes of as many pages as hold n; false on overflow. */
static bool page_bytes(size_t n, size_t *out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), total;

    if (!plm_size_add(n, page - 1, &total))
        return false;
    *out = total & ~(page - 1);
    return true;
}

/* Bytes a block takes with its header; false on overflow. */
static bool block_bytes(size_t bytes, size_t *out)
{
    size_t total;

    if (!plm_size_add(bytes, 2 * LINE - 1, &total))
        return false;
    total &= ~(size_t)(LINE - 1);
    if (is_mapped(total) && !page_bytes(total, &total))
        return false;
    *out = total;
    return true;
}

uint64_t plm_memory_left(const struct plm_ctx *ctx)
{
    uint64_t taken = atomic_load(&ctx->memory_used) + ctx->memory_base_bytes;

    return taken < ctx->memory_budget_bytes ? ctx->memory_budget_bytes - taken : 0;
}

static void raise_peak(struct plm_ctx *ctx, uint64_t used)
{
    uint64_t peak = atomic_load(&ctx->memory_peak);
    while (peak < used && !atomic_compare_exchange_weak(&ctx->memory_peak, &peak, used))
        ;
}

static enum plm_code charge(struct plm_ctx *ctx, size_t total, struct plm_err *err)
{
    uint64_t used = atomic_fetch_add(&ctx->memory_used, total) + total;

    if (used > ctx->memory_budget_bytes || ctx->memory_budget_bytes - used < ctx->memory_base_bytes) {
        atomic_fetch_sub(&ctx->memory_used, total);
        return plm_fail(err, PLM_LIMIT,
                        "memory budget of %" PRIu64 " bytes is too small: %" PRIu64
                        " in use and %zu more needed",
                        ctx->memory_budget_bytes, ctx->memory_base_bytes + used - total, total);
    }
    raise_peak(ctx, used);
    return PLM_OK;
}

/* ---- blocks ---------------------------------------------------------------------------- */

static void *map_block(size_t total)
{
    void *block = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (block == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (total >= HUGE_BYTES) /* fewer faults; what is charged may as well be resident */
        (void)madvise(block, total, MADV_HUGEPAGE);
#endif
    return block;
}

static void *get_block(struct plm_ctx *ctx, size_t total)
{
    void *block;

    if (plm_alloc_fault(ctx))
        return NULL;
    if (!is_mapped(total))
        return aligned_alloc(LINE, total);
    block = plm_spares_take(ctx, total);
    plm_spares_trim(ctx);
    return block ? block : map_block(total);
}

static enum plm_code alloc_bytes(struct plm_ctx *ctx, size_t bytes, void **out, struct plm_err *err)
{
    size_t total;
    if (!block_bytes(bytes, &total))
        return plm_fail(err, PLM_NOMEM, "allocation of %zu bytes overflows", bytes);
    enum plm_code rc = charge(ctx, total, err);
    if (rc != PLM_OK)
        return rc;
    uint8_t *block = get_block(ctx, total);
    if (!block) {
        atomic_fetch_sub(&ctx->memory_used, total);
        return plm_fail(err, PLM_NOMEM, "out of memory: %zu bytes could not be allocated", bytes);
    }
    *out = block + LINE;
    header_of(*out)->charged_bytes = total;
    return PLM_OK;
}

enum plm_code plm_alloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err)
{
    size_t bytes;
    void *memory = NULL;
    if (!plm_size_mul(n, each, &bytes))
        return plm_fail(err, PLM_NOMEM, "%zu items of %zu bytes overflow", n, each);
    enum plm_code rc = alloc_bytes(ctx, bytes, &memory, err);
    if (rc == PLM_OK)
        memcpy(out, &memory, sizeof memory); /* out is a T ** of any T */
    return rc;
}

enum plm_code plm_calloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err)
{
    void *memory = NULL;
    enum plm_code rc = plm_alloc(ctx, &memory, n, each, err);
    if (rc != PLM_OK)
        return rc;
    memset(memory, 0, n * each);
    memcpy(out, &memory, sizeof memory);
    return PLM_OK;
}

/* A mapping may change its size without a second copy; false when that is not the case here. */
static bool remap(struct plm_ctx *ctx, void **memory, size_t bytes, enum plm_code *rc,
                  struct plm_err *err)
{
    size_t before = *memory ? header_of(*memory)->charged_bytes : 0, total;

    if (!is_mapped(before) || !block_bytes(bytes, &total) || !is_mapped(total))
        return false;
    if (total > before && (*rc = charge(ctx, total - before, err)) != PLM_OK)
        return true;
    void *moved = plm_alloc_fault(ctx) ? MAP_FAILED
                                       : mremap(header_of(*memory), before, total, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) {
        if (total > before)
            atomic_fetch_sub(&ctx->memory_used, total - before);
        *rc = plm_fail(err, PLM_NOMEM, "out of memory: %zu bytes could not be allocated", bytes);
        return true;
    }
    if (total < before)
        atomic_fetch_sub(&ctx->memory_used, before - total);
    *memory = (uint8_t *)moved + LINE;
    header_of(*memory)->charged_bytes = total;
    *rc = PLM_OK;
    return true;
}

enum plm_code plm_realloc(struct plm_ctx *ctx, void *inout, size_t n, size_t each,
                          struct plm_err *err)
{
    void *old, *fresh = NULL;
    size_t bytes;
    enum plm_code rc;

    memcpy(&old, inout, sizeof old);
    if (plm_size_mul(n, each, &bytes) && remap(ctx, &old, bytes, &rc, err)) {
        memcpy(inout, &old, sizeof old);
        return rc;
    }
    rc = plm_alloc(ctx, &fresh, n, each, err);
    if (rc != PLM_OK)
        return rc;
    if (old) {
        memcpy(fresh, old, plm_min_size(header_of(old)->charged_bytes - LINE, n * each));
        plm_free(ctx, old);
    }
    memcpy(inout, &fresh, sizeof fresh);
    return PLM_OK;
}

enum plm_code plm_grow(struct plm_ctx *ctx, void *inout, size_t *cap, size_t n, size_t each,
                       struct plm_err *err)
{
    size_t wanted = plm_max_size(16, n); /* doubled below, but for the first */
    enum plm_code rc;

    if (n < *cap)
        return PLM_OK;
    if (n > 0 && !plm_size_add(wanted, n, &wanted))
        return plm_fail(err, PLM_NOMEM, "%zu items overflow", n);
    rc = plm_realloc(ctx, inout, wanted, each, err);
    if (rc == PLM_OK)
        *cap = wanted;
    return rc;
}

void plm_free(struct plm_ctx *ctx, void *memory)
{
    if (!memory)
        return;
    struct header *h = header_of(memory);
    size_t total = h->charged_bytes;
    if (is_mapped(total))
        plm_spares_put(ctx, h, total);
    else
        free(h);
    atomic_fetch_sub(&ctx->memory_used, total);
}

/* ---- regions --------------------------------------------------------------------------- */

/* Never kept as a spare: parts of it may be files. */
enum plm_code plm_region_alloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err)
{
    size_t bytes, total;

    if (!plm_size_mul(n, each, &bytes) || !page_bytes(plm_max_size(bytes, 1), &total))
        return plm_fail(err, PLM_NOMEM, "%zu items of %zu bytes overflow", n, each);
    enum plm_code rc = charge(ctx, total, err);
    if (rc != PLM_OK)
        return rc;
    plm_spares_trim(ctx);
    void *region = plm_alloc_fault(ctx) ? NULL : map_block(total);
    if (!region) {
        atomic_fetch_sub(&ctx->memory_used, total);
        return plm_fail(err, PLM_NOMEM, "out of memory: %zu bytes could not be allocated", bytes);
    }
    memcpy(out, &region, sizeof region);
    return PLM_OK;
}

void plm_region_free(struct plm_ctx *ctx, void *region, size_t n, size_t each)
{
    size_t total;

    if (!region || !page_bytes(plm_max_size(n * each, 1), &total))
        return;
    munmap(region, total);
    atomic_fetch_sub(&ctx->memory_used, total);
}
