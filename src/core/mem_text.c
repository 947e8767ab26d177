/* mem_text.c - strings, and buffers that grow up to a ceiling. */
#include "core/mem.h"

#include <stdarg.h>

/* ---- strings --------------------------------------------------------------------------- */

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
    if (n > 0) /* nothing of nowhere is an empty string, too */
        memcpy(copy, s, n);
    copy[n] = 0;
    *out = copy;
    return PLM_OK;
}

enum plm_code plm_strdup(struct plm_ctx *ctx, const char *s, char **out, struct plm_err *err)
{
    return plm_strndup(ctx, s, strlen(s), out, err);
}

/* Bytes of the character that begins at c; 0: none does. The second byte's range keeps out what is too long, surrogates and
 * what is beyond U+10FFFF; a string's end is no continuation. */
static size_t character_bytes(const unsigned char *c)
{
    unsigned char least = c[0] == 0xe0 ? 0xa0 : c[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char most = c[0] == 0xed ? 0x9f : c[0] == 0xf4 ? 0x8f : 0xbf;
    size_t n = c[0] < 0x80 ? 1 : c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;

    if (n > 1 && (c[1] < least || c[1] > most))
        return 0;
    for (size_t i = 2; i < n; i++)
        if (c[i] < 0x80 || c[i] > 0xbf)
            return 0;
    return n;
}

bool plm_is_utf8(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    size_t n;

    while (*c && (n = character_bytes(c)) > 0)
        c += n;
    return *c == 0;
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

/* ---- buffers --------------------------------------------------------------------------- */

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
