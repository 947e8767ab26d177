/* mem_spares.c - mappings that were freed and are kept.
 *
 * Fresh pages are slow: a few mappings are kept for who wants as much again. They are not charged;
 * they and what is charged stay within the budget together, and they go when it has other use for them.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/mem_impl.h"

#define SPARE_BLOCKS 16 /* mappings kept for the next one that wants as much */
#define SPARE_BYTES_MAX ((uint64_t)64 << 20) /* and an eighth of the budget */

struct plm_spares {
    pthread_mutex_t lock;
    uint64_t bytes, bytes_max;
    size_t n;
    void *blocks[SPARE_BLOCKS]; /* oldest first */
    size_t sizes[SPARE_BLOCKS];
};

enum plm_code plm_spares_create(struct plm_ctx *ctx, struct plm_err *err)
{
    struct plm_spares *spares = calloc(1, sizeof *spares);

    if (!spares || pthread_mutex_init(&spares->lock, NULL) != 0) {
        free(spares);
        return plm_fail(err, PLM_NOMEM, "context: out of memory");
    }
    spares->bytes_max = plm_min_u64(SPARE_BYTES_MAX, ctx->memory_budget_bytes / 8);
    ctx->spares = spares;
    return PLM_OK;
}

/* The caller holds the lock. */
static void forget_spare(struct plm_spares *s, size_t at)
{
    s->bytes -= s->sizes[at];
    s->n--;
    memmove(s->blocks + at, s->blocks + at + 1, (s->n - at) * sizeof *s->blocks);
    memmove(s->sizes + at, s->sizes + at + 1, (s->n - at) * sizeof *s->sizes);
}

static void drop_oldest(struct plm_spares *s)
{
    munmap(s->blocks[0], s->sizes[0]);
    forget_spare(s, 0);
}

void *plm_spares_take(struct plm_ctx *ctx, size_t total)
{
    struct plm_spares *s = ctx->spares;
    void *block = NULL;

    if (!s)
        return NULL;
    pthread_mutex_lock(&s->lock);
    for (size_t i = s->n; i-- > 0 && !block;)
        if (s->sizes[i] == total) {
            block = s->blocks[i];
            forget_spare(s, i);
        }
    pthread_mutex_unlock(&s->lock);
    return block;
}

void plm_spares_put(struct plm_ctx *ctx, void *block, size_t total)
{
    struct plm_spares *s = ctx->spares;
    bool is_kept = false;

    if (s && total <= s->bytes_max) {
        uint64_t taken = atomic_load(&ctx->memory_used) + ctx->memory_base_bytes;

        pthread_mutex_lock(&s->lock);
        while (s->n > 0 && (s->n == SPARE_BLOCKS || s->bytes + total > s->bytes_max))
            drop_oldest(s);
        /* What is charged and this block are within the budget, as it is charged still. */
        is_kept = taken <= ctx->memory_budget_bytes && s->bytes <= ctx->memory_budget_bytes - taken;
        if (is_kept) {
            s->blocks[s->n] = block;
            s->sizes[s->n++] = total;
            s->bytes += total;
        }
        pthread_mutex_unlock(&s->lock);
    }
    if (!is_kept)
        munmap(block, total);
}

void plm_spares_trim(struct plm_ctx *ctx)
{
    struct plm_spares *s = ctx->spares;
    uint64_t left = plm_memory_left(ctx);

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    while (s->n > 0 && s->bytes > left)
        drop_oldest(s);
    pthread_mutex_unlock(&s->lock);
}

void plm_spares_destroy(struct plm_ctx *ctx)
{
    struct plm_spares *s = ctx->spares;

    if (!s)
        return;
    while (s->n > 0)
        drop_oldest(s);
    pthread_mutex_destroy(&s->lock);
    free(s);
    ctx->spares = NULL;
}
