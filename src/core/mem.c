/* mem.c - allocation under the budget.
 *
 * Each block is preceded by one 64-byte line that remembers its size, so that a free can give
 * the charge back and user data stays 64-byte aligned.
 */
#include "core/mem.h"

#include <stdarg.h>
#include <stdlib.h>

#define LINE 64u

struct header {
    size_t charged_bytes;
};

static struct header *header_of(void *memory)
{
    return (struct header *)(void *)((uint8_t *)memory - LINE);
}

static void raise_peak(struct plm_ctx *ctx, uint64_t used)
{
    uint64_t peak = atomic_load(&ctx->memory_peak);
    while (peak < used && !atomic_compare_exchange_weak(&ctx->memory_peak, &peak, used))
        ;
}

static enum plm_code alloc_bytes(struct plm_ctx *ctx, size_t bytes, void **out, struct plm_err *err)
{
    size_t total;
    if (!plm_size_add(bytes, 2 * LINE - 1, &total))
        return plm_fail(err, PLM_NOMEM, "allocation of %zu bytes overflows", bytes);
    total &= ~(size_t)(LINE - 1);

    uint64_t used = atomic_fetch_add(&ctx->memory_used, total) + total;
    if (used > ctx->memory_budget_bytes) {
        atomic_fetch_sub(&ctx->memory_used, total);
        return plm_fail(err, PLM_LIMIT,
                        "memory budget of %" PRIu64 " bytes is too small: %" PRIu64
                        " in use and %zu more needed",
                        ctx->memory_budget_bytes, used - total, total);
    }
    raise_peak(ctx, used);

    uint8_t *block = plm_alloc_fault(ctx) ? NULL : aligned_alloc(LINE, total);
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

enum plm_code plm_realloc(struct plm_ctx *ctx, void *inout, size_t n, size_t each,
                          struct plm_err *err)
{
    void *old, *fresh = NULL;
    memcpy(&old, inout, sizeof old);
    enum plm_code rc = plm_alloc(ctx, &fresh, n, each, err);
    if (rc != PLM_OK)
        return rc;
    if (old) {
        memcpy(fresh, old, plm_min_size(header_of(old)->charged_bytes - LINE, n * each));
        plm_free(ctx, old);
    }
    memcpy(inout, &fresh, sizeof fresh);
    return PLM_OK;
}

void plm_free(struct plm_ctx *ctx, void *memory)
{
    if (!memory)
        return;
    struct header *h = header_of(memory);
    atomic_fetch_sub(&ctx->memory_used, h->charged_bytes);
    free(h);
}

enum plm_code plm_strndup(struct plm_ctx *ctx, const char *s, size_t n, char **out,
                          struct plm_err *err)
{
    char *copy;
    size_t room;
    if (!plm_size_add(n, 1, &room))
        return plm_fail(err, PLM_NOMEM, "string of %zu bytes", n);
    enum plm_code rc = plm_alloc(ctx, &copy, room, 1, err);
    if (rc != PLM_OK)
        return rc;
    memcpy(copy, s, n);
    copy[n] = 0;
    *out = copy;
    return PLM_OK;
}

enum plm_code plm_strdup(struct plm_ctx *ctx, const char *s, char **out, struct plm_err *err)
{
    return plm_strndup(ctx, s, strlen(s), out, err);
}

enum plm_code plm_format(struct plm_ctx *ctx, char **out, struct plm_err *err, const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return plm_fail(err, PLM_BUG, "format \"%.40s\" failed", fmt);
    enum plm_code rc = plm_alloc(ctx, &text, (size_t)n + 1, 1, err);
    if (rc != PLM_OK)
        return rc;
    va_start(ap, fmt);
    vsnprintf(text, (size_t)n + 1, fmt, ap);
    va_end(ap);
    *out = text;
    return PLM_OK;
}

void plm_buf_init(struct plm_buf *buf, struct plm_ctx *ctx, size_t max_bytes)
{
    *buf = (struct plm_buf){.ctx = ctx, .max_bytes = max_bytes};
}

void plm_buf_reset(struct plm_buf *buf)
{
    if (buf->ctx)
        plm_free(buf->ctx, buf->data);
    buf->data = NULL;
    buf->len = buf->cap = 0;
}

enum plm_code plm_buf_reserve(struct plm_buf *buf, size_t n, struct plm_err *err)
{
    size_t need;
    if (!plm_size_add(buf->len, n, &need) || need > buf->max_bytes)
        return plm_fail(err, PLM_LIMIT, "buffer of %zu + %zu bytes, at most %zu allowed", buf->len, n,
                        buf->max_bytes);
    if (need <= buf->cap)
        return PLM_OK;
    size_t cap = plm_max_size(plm_max_size(need, 256), plm_min_size(buf->cap * 2, buf->max_bytes));
    enum plm_code rc = plm_realloc(buf->ctx, &buf->data, cap, 1, err);
    if (rc == PLM_OK)
        buf->cap = cap;
    return rc;
}

enum plm_code plm_buf_add(struct plm_buf *buf, const void *bytes, size_t n, struct plm_err *err)
{
    enum plm_code rc = plm_buf_reserve(buf, n, err);
    if (rc == PLM_OK && n) {
        memcpy(buf->data + buf->len, bytes, n);
        buf->len += n;
    }
    return rc;
}
