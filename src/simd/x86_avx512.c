/* x86_avx512.c - kernels for AVX-512 F, BW, VL, DQ where they beat AVX2. The others, above all
 * those that must be "same on every table", stay as they are. */
#if defined(__x86_64__)

#include "simd/simd_tables.h"

void plm_simd_avx512(struct plm_kernels *table)
{
    table->name = "avx512";
}

#else
typedef int plm_no_avx512; /* ISO C wants something in every file */
#endif
