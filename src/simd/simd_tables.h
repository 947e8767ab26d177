/* simd_tables.h - inside the simd room: how a table is filled. Each function overrides entries of
 * a table that already holds the next lower one. */
#ifndef PLM_SIMD_TABLES_H
#define PLM_SIMD_TABLES_H

#include <math.h>
#include <stdbool.h>

#include "simd/simd.h"

void plm_simd_scalar(struct plm_kernels *table);
void plm_simd_scalar_bytes(struct plm_kernels *table);

/* For byte_rows: a bound of a norm whose square was summed over n fp32 squares, of terms rounded
 * once, in any order: (n + 3) 2^-24 relatively, n 2^-126 where squares underflow; and a little
 * more for this formula. */
static inline float plm_rest_norm(double sum, size_t n)
{
    double above = sum * (1 + (double)(n + 16) * 0x1p-22) + (double)n * 0x1p-125;

    return (float)(sqrt(above) * (1 + 0x1p-20));
}
/* Rows whose greatest magnitude is outside of this become q = 0: no reciprocal may overflow. */
#define PLM_BYTE_LEAST 0x1p-100f
#define PLM_BYTE_GREATEST 0x1p100f

/* byte_rows for every table, in scalar_bytes.c: each row by `quantize`, which is given its place in a
 * group, and `middle`, which stands for 0, in the rows that the last group lacks. */
typedef void (*plm_quantize_row)(const float *row, size_t dim, uint8_t *out, float *scale, float *rest);
void plm_byte_rows_by(plm_quantize_row quantize, int middle, const float *rows, size_t row_stride,
                      size_t n, size_t dim, uint8_t *packed, float *scales, float *rests);

/* One result of n lanes, each with its least value, whose id it is, and its second: least value, then
 * lowest id; second among all other ids. */
static inline void plm_merge_lanes(const float *values, const float *seconds, const uint32_t *ids,
                                   size_t n, float *best, float *second, uint32_t *id)
{
    size_t w = 0;

    for (size_t i = 1; i < n; i++)
        if (values[i] < values[w] || (values[i] == values[w] && ids[i] < ids[w]))
            w = i;
    *best = values[w];
    *second = seconds[w];
    *id = ids[w];
    for (size_t i = 0; i < n; i++)
        if (i != w && values[i] < *second)
            *second = values[i];
}

#if defined(__x86_64__)
void plm_simd_avx2(struct plm_kernels *table);   /* needs AVX2, FMA, F16C */
void plm_simd_avx512(struct plm_kernels *table); /* needs AVX-512 F, BW, VL, DQ */
void plm_simd_avx512_sums(struct plm_kernels *table); /* the same */
void plm_simd_avx512_pq(struct plm_kernels *table);   /* the same */
void plm_simd_avx512_vnni(struct plm_kernels *table); /* and AVX512_VNNI */
void plm_simd_avx512_words(struct plm_kernels *table); /* the same */
void plm_simd_avx2_pq(struct plm_kernels *table);
void plm_simd_avx2_bytes(struct plm_kernels *table);
void plm_simd_avx2_near(struct plm_kernels *table);
void plm_simd_avx2_sq(struct plm_kernels *table);
void plm_simd_avx512_sq(struct plm_kernels *table);

/* For tables above AVX2 that leave it the odd ends. */
void plm_avx2_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                         const float *half_norms, size_t n_codes, size_t dsub, uint8_t *codes,
                         float *best, float *second);
#endif

#if defined(__aarch64__)
void plm_simd_neon(struct plm_kernels *table);
void plm_simd_dotprod(struct plm_kernels *table); /* needs the dot product instructions */
#endif

/* PLM_TARGET_BEGIN("avx2,fma") ... PLM_TARGET_END: functions between them may use these
 * instructions, whatever the compiler's flags. Include intrinsics headers before the region. */
#define PLM_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define PLM_TARGET_BEGIN(t) \
    PLM_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
#define PLM_TARGET_END _Pragma("clang attribute pop")
#else
#define PLM_TARGET_BEGIN(t) _Pragma("GCC push_options") PLM_PRAGMA(GCC target(t))
#define PLM_TARGET_END _Pragma("GCC pop_options")
#endif

/* Where vector tables are tested against the scalar files, the optimizer must not vectorize these
 * too: they would then check themselves. Elsewhere scalar is the only table, and may be made
 * fast. PLM_SCALAR_FILE stands once in a file, before its functions; PLM_LOOP before a loop. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PLM_SCALAR_FILE _Pragma("GCC optimize(\"no-tree-vectorize\", \"no-tree-slp-vectorize\")")
#else
#define PLM_SCALAR_FILE
#endif
#if defined(__x86_64__) && defined(__clang__)
#define PLM_LOOP _Pragma("clang loop vectorize(disable) interleave(disable)")
#else
#define PLM_LOOP
#endif

#endif
