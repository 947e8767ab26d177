/* x86_avx2_pq.c - sub-vectors in groups, and their nearest codewords, for AVX2 + FMA. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "simd/simd_tables.h"

/* Without FMA: what is "same on every table" must not be contracted. */
PLM_TARGET_BEGIN("avx2")

static inline void transpose_8x8(__m256 r[8])
{
    __m256 t0 = _mm256_unpacklo_ps(r[0], r[1]), t1 = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 t2 = _mm256_unpacklo_ps(r[2], r[3]), t3 = _mm256_unpackhi_ps(r[2], r[3]);
    __m256 t4 = _mm256_unpacklo_ps(r[4], r[5]), t5 = _mm256_unpackhi_ps(r[4], r[5]);
    __m256 t6 = _mm256_unpacklo_ps(r[6], r[7]), t7 = _mm256_unpackhi_ps(r[6], r[7]);
    __m256 s0 = _mm256_shuffle_ps(t0, t2, 0x44), s1 = _mm256_shuffle_ps(t0, t2, 0xee);
    __m256 s2 = _mm256_shuffle_ps(t1, t3, 0x44), s3 = _mm256_shuffle_ps(t1, t3, 0xee);
    __m256 s4 = _mm256_shuffle_ps(t4, t6, 0x44), s5 = _mm256_shuffle_ps(t4, t6, 0xee);
    __m256 s6 = _mm256_shuffle_ps(t5, t7, 0x44), s7 = _mm256_shuffle_ps(t5, t7, 0xee);

    r[0] = _mm256_permute2f128_ps(s0, s4, 0x20);
    r[1] = _mm256_permute2f128_ps(s1, s5, 0x20);
    r[2] = _mm256_permute2f128_ps(s2, s6, 0x20);
    r[3] = _mm256_permute2f128_ps(s3, s7, 0x20);
    r[4] = _mm256_permute2f128_ps(s0, s4, 0x31);
    r[5] = _mm256_permute2f128_ps(s1, s5, 0x31);
    r[6] = _mm256_permute2f128_ps(s2, s6, 0x31);
    r[7] = _mm256_permute2f128_ps(s3, s7, 0x31);
}

/* Masked loads read exactly the dimensions there are, so a row may end at the end of a page. */
static void avx2_pq_pack(const float *rows, size_t stride, const float *centroids,
                         size_t stride_c, const uint32_t *ids, size_t n, size_t dsub, float *group)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    for (size_t d = 0; d < dsub; d += 8) {
        size_t n_dims = dsub - d < 8 ? dsub - d : 8;
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n_dims), lane);

        for (size_t first = 0; first < PLM_PQ_LANES; first += 8) {
            __m256 r[8];

            for (size_t i = 0; i < 8; i++) {
                size_t row = first + i;

                r[i] = _mm256_setzero_ps();
                if (row < n)
                    r[i] = _mm256_maskload_ps(rows + row * stride + d, mask);
                if (row < n && centroids)
                    r[i] = _mm256_sub_ps(
                        r[i], _mm256_maskload_ps(centroids + ids[row] * stride_c + d, mask));
            }
            transpose_8x8(r);
            for (size_t i = 0; i < n_dims; i++)
                _mm256_storeu_ps(group + (d + i) * PLM_PQ_LANES + first, r[i]);
        }
    }
}

PLM_TARGET_END

PLM_TARGET_BEGIN("avx2,fma")

#include "simd/lanes256.h"

/* Values of 24 rows and four codewords: values[3 q + v] is codeword q, rows 8 v .. 8 v + 7. A
 * row stays in its lane, so the running least needs no reduction and codes leave as vectors. */
#define EACH_CODE(X) X(0) X(1) X(2) X(3)
#define DECLARE_CODE(q)                          \
    const float *word##q = codewords + q * dsub; \
    __m256 a##q = _mm256_broadcast_ss(half_norms + q), b##q = a##q, c##q = a##q;
#define MULTIPLY_CODE(q)                             \
    {                                                \
        __m256 w = _mm256_broadcast_ss(word##q + d); \
        a##q = _mm256_fnmadd_ps(x0, w, a##q);        \
        b##q = _mm256_fnmadd_ps(x1, w, b##q);        \
        c##q = _mm256_fnmadd_ps(x2, w, c##q);        \
    }
#define HAND_OUT_CODE(q) values[3 * q] = a##q, values[3 * q + 1] = b##q, values[3 * q + 2] = c##q;

static inline void four_codewords(const float *group, const float *codewords,
                                  const float *half_norms, size_t dsub, __m256 values[12])
{
    EACH_CODE(DECLARE_CODE)
    for (size_t d = 0; d < dsub; d++) {
        __m256 x0 = _mm256_loadu_ps(group), x1 = _mm256_loadu_ps(group + 8);
        __m256 x2 = _mm256_loadu_ps(group + 16);

        EACH_CODE(MULTIPLY_CODE)
        group += PLM_PQ_LANES;
    }
    EACH_CODE(HAND_OUT_CODE)
}

static inline void one_codeword(const float *group, const float *codeword, float half_norm,
                                size_t dsub, __m256 values[3])
{
    for (size_t v = 0; v < 3; v++) {
        values[v] = _mm256_set1_ps(half_norm);
        for (size_t d = 0; d < dsub; d++)
            values[v] = _mm256_fnmadd_ps(_mm256_loadu_ps(group + d * PLM_PQ_LANES + 8 * v),
                                         _mm256_broadcast_ss(codeword + d), values[v]);
    }
}

/* Codewords code .. code + 3, ascending. The running result is copied to locals, else it would go
 * through memory between codewords. */
static inline void keep_least_of_four(struct lanes lanes[3], const __m256 values[12], int code)
{
    for (size_t v = 0; v < 3; v++) {
        struct lanes running = lanes[v];

        keep_least(&running, values[v], _mm256_set1_epi32(code));
        keep_least(&running, values[3 + v], _mm256_set1_epi32(code + 1));
        keep_least(&running, values[6 + v], _mm256_set1_epi32(code + 2));
        keep_least(&running, values[9 + v], _mm256_set1_epi32(code + 3));
        lanes[v] = running;
    }
}

/* 24 ids below 256, eight to a vector -> 24 bytes. */
static inline void store_codes(const struct lanes lanes[3], uint8_t *codes)
{
    for (size_t v = 0; v < 3; v++) {
        __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(lanes[v].ids),
                                         _mm256_extracti128_si256(lanes[v].ids, 1));

        _mm_storel_epi64((__m128i *)(codes + 8 * v), _mm_packus_epi16(words, words));
    }
}

void plm_avx2_pq_nearest(const float *groups, size_t n_groups, const float *codebook,
                         const float *half_norms, size_t n_codes, size_t dsub, uint8_t *codes,
                         float *best, float *second)
{
    for (size_t g = 0; g < n_groups; g++) {
        const float *group = groups + g * PLM_PQ_LANES * dsub;
        struct lanes lanes[3];
        __m256 values[12];
        size_t code = 0;

        for (size_t v = 0; v < 3; v++) {
            lanes[v].best = lanes[v].second = _mm256_set1_ps(INFINITY);
            lanes[v].ids = _mm256_setzero_si256();
        }
        for (; code + 4 <= n_codes; code += 4) {
            four_codewords(group, codebook + code * dsub, half_norms + code, dsub, values);
            keep_least_of_four(lanes, values, (int)code);
        }
        for (; code < n_codes; code++) {
            one_codeword(group, codebook + code * dsub, half_norms[code], dsub, values);
            for (size_t v = 0; v < 3; v++)
                keep_least(&lanes[v], values[v], _mm256_set1_epi32((int)code));
        }
        for (size_t v = 0; v < 3; v++) {
            _mm256_storeu_ps(best + g * PLM_PQ_LANES + 8 * v, lanes[v].best);
            _mm256_storeu_ps(second + g * PLM_PQ_LANES + 8 * v, lanes[v].second);
        }
        store_codes(lanes, codes + g * PLM_PQ_LANES);
    }
}

PLM_TARGET_END

void plm_simd_avx2_pq(struct plm_kernels *table)
{
    table->pq_nearest = plm_avx2_pq_nearest;
    table->pq_pack = avx2_pq_pack;
}

#else
typedef int plm_no_avx2_pq; /* ISO C wants something in every file */
#endif
