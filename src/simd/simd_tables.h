/* simd_tables.h - inside the simd room: how a table is filled. Each function overrides entries of
 * a table that already holds the next lower one. */
#ifndef PLM_SIMD_TABLES_H
#define PLM_SIMD_TABLES_H

#include "simd/simd.h"

void plm_simd_scalar(struct plm_kernels *table);
#if defined(__x86_64__)
void plm_simd_avx2(struct plm_kernels *table);   /* needs AVX2, FMA, F16C */
void plm_simd_avx512(struct plm_kernels *table); /* needs AVX-512 F, BW, VL, DQ */

/* For tables above AVX2 that leave it the odd ends. */
void plm_avx2_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                         const float *half_norms, size_t n_codes, size_t dsub, uint8_t *codes,
                         float *best, float *second);
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

#endif
