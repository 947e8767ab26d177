/* sizes.h - arithmetic on sizes that input decides: checked, and the lesser and greater of two. */
#ifndef PLM_SIZES_H
#define PLM_SIZES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a op b; false on overflow, *out untouched then. */
static inline bool plm_size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}
static inline bool plm_size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}
static inline size_t plm_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t plm_max_size(size_t a, size_t b) { return a > b ? a : b; }
static inline uint64_t plm_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t plm_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

#endif
