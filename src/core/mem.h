/* mem.h - memory under the context's budget. Included by core.h.
 *
 * Owns     what plm_alloc() gives is the caller's until plm_free().
 * Memory   every block is 64-byte aligned and charged to ctx->memory_used, before it is there and
 *          until it is gone. Blocks of 128 KiB and more are mappings of their own.
 */
#ifndef PLM_MEM_H
#define PLM_MEM_H

#include "core/core.h"

/* *out = room for n items of `each` bytes, 64-byte aligned, not cleared; n == 0 gives
 * a valid pointer too. PLM_LIMIT beyond the budget, PLM_NOMEM. */
PLM_MUST_CHECK enum plm_code
plm_alloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_calloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err);
/* Keeps the first min(old, new) bytes; *inout may be NULL. */
PLM_MUST_CHECK enum plm_code
plm_realloc(struct plm_ctx *ctx, void *inout, size_t n, size_t each, struct plm_err *err);
/* Room for one item behind n of them: a full array of *cap items doubles. */
PLM_MUST_CHECK enum plm_code
plm_grow(struct plm_ctx *ctx, void *inout, size_t *cap, size_t n, size_t each, struct plm_err *err);
void plm_free(struct plm_ctx *ctx, void *memory);
PLM_MUST_CHECK enum plm_code
plm_strdup(struct plm_ctx *ctx, const char *s, char **out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_strndup(struct plm_ctx *ctx, const char *s, size_t n, char **out, struct plm_err *err);
/* Whole, shortest characters of Unicode, no surrogates: what JSON and Lance take as text. */
bool plm_is_utf8(const char *text);
/* printf into a fresh string. */
PLM_MUST_CHECK enum plm_code
plm_format(struct plm_ctx *ctx, char **out, struct plm_err *err, const char *fmt, ...)
    PLM_PRINTF(4, 5);

/* A stretch of whole pages, charged like a block and zeroed: parts of it may become views of files
 * (plm_file_view()). Freed with the bytes it was asked for. */
PLM_MUST_CHECK enum plm_code
plm_region_alloc(struct plm_ctx *ctx, void *out, size_t n, size_t each, struct plm_err *err);
void plm_region_free(struct plm_ctx *ctx, void *region, size_t n, size_t each);

/* What the budget has left. Sizes that do not shape the result may be made to fit it. */
uint64_t plm_memory_left(const struct plm_ctx *ctx);

/* What this process may have: the least of its cgroups' limits (v1, v2; its own and those
 * above) and the machine's memory. root: where /proc and /sys are, "" for the real ones. */
uint64_t plm_memory_limit(const char *root);
/* Resident bytes now, and the most there ever were; 0 where the system does not tell. */
uint64_t plm_resident_bytes(void);
uint64_t plm_resident_peak_bytes(void);

/* For core.c: a context keeps a few mappings that were freed, within its budget. */
PLM_MUST_CHECK enum plm_code plm_spares_create(struct plm_ctx *ctx, struct plm_err *err);
void plm_spares_destroy(struct plm_ctx *ctx);

/* A growable buffer with a ceiling. {0} is empty; set ctx and max_bytes before use
 * with plm_buf_init(). */
struct plm_buf {
    struct plm_ctx *ctx;
    uint8_t *data;
    size_t len, cap, max_bytes;
};
void plm_buf_init(struct plm_buf *buf, struct plm_ctx *ctx, size_t max_bytes);
void plm_buf_reset(struct plm_buf *buf);
/* Makes room for n more bytes behind len. PLM_LIMIT above max_bytes or the budget. */
PLM_MUST_CHECK enum plm_code plm_buf_reserve(struct plm_buf *buf, size_t n, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_buf_add(struct plm_buf *buf, const void *bytes, size_t n, struct plm_err *err);

/* Borrowed bytes. */
struct plm_view {
    const uint8_t *data;
    size_t len;
};

#endif
