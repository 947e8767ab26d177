/* x86_avx512_pq.c - the nearest codewords in fp32, for AVX-512. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "simd/simd_tables.h"

PLM_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")

#define AS_VALUE(v) (v)
#include "simd/pq512.h"

#define DECLARE_CODE(q)                          \
    const float *word##q = codewords + q * dsub; \
    __m512 a##q = _mm512_set1_ps(half_norms[q]), b##q = a##q, c##q = a##q;
#define MULTIPLY_CODE(q)                        \
    {                                           \
        __m512 w = _mm512_set1_ps(word##q[d]);  \
        a##q = _mm512_fnmadd_ps(x0, w, a##q);   \
        b##q = _mm512_fnmadd_ps(x1, w, b##q);   \
        c##q = _mm512_fnmadd_ps(x2, w, c##q);   \
    }

static inline void eight_codewords(const float *group_a, const float *group_b,
                                   const float *codewords, const float *half_norms, size_t dsub,
                                   size_t code, struct lanes lanes[3])
{
    EACH_CODE(DECLARE_CODE)
    for (size_t d = 0; d < dsub; d++) {
        __m512 x0 = _mm512_loadu_ps(group_a), x1 = _mm512_loadu_ps(group_b);
        __m512 x2 = last_eight(group_a, group_b);

        EACH_CODE(MULTIPLY_CODE)
        group_a += PLM_PQ_LANES;
        group_b += PLM_PQ_LANES;
    }
    KEEP_EIGHT
}

static inline void store_values(const struct lanes lanes[3], bool best, float *a, float *b)
{
    __m512i v[3];

    for (size_t i = 0; i < 3; i++)
        v[i] = _mm512_castps_si512(best ? lanes[i].best : lanes[i].second);
    store_pair(v[0], v[1], v[2], a, b);
}

/* The AVX2 kernel does what does not fill a tile: a last odd group, or codebooks whose size is
 * not a multiple of eight (ours are 16 and 256). */
static void avx512_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                              const float *half_norms, size_t n_codes, size_t dsub,
                              uint8_t *codes, float *best, float *second)
{
    size_t g = 0;

    for (; g + 2 <= n_groups && n_codes % 8 == 0; g += 2) {
        const float *group = groups + g * PLM_PQ_LANES * dsub;
        size_t row = g * PLM_PQ_LANES, other = row + PLM_PQ_LANES;
        struct lanes lanes[3];

        start_lanes(lanes, _mm512_set1_ps(INFINITY));
        for (size_t code = 0; code < n_codes; code += 8)
            eight_codewords(group, group + PLM_PQ_LANES * dsub, codebook + code * dsub,
                            half_norms + code, dsub, code, lanes);
        store_values(lanes, true, best + row, best + other);
        store_values(lanes, false, second + row, second + other);
        store_codes(lanes, codes + row, codes + other);
    }
    if (g < n_groups)
        plm_avx2_pq_nearest(groups + g * PLM_PQ_LANES * dsub, n_groups - g, codebook, half_norms,
                            n_codes, dsub, codes + g * PLM_PQ_LANES, best + g * PLM_PQ_LANES,
                            second + g * PLM_PQ_LANES);
}

PLM_TARGET_END

void plm_simd_avx512_pq(struct plm_kernels *table)
{
    table->pq_nearest = avx512_pq_nearest;
}

#else
typedef int plm_no_avx512_pq; /* ISO C wants something in every file */
#endif
