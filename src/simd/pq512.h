/* pq512.h - part of the files that look for codewords, 48 rows at a time: included once in each,
 * within its target region.
 *
 * Two groups of 24 rows are three vectors: sixteen rows of the one, sixteen of the other, and the
 * last eight of both. A row stays in its lane. With eight codewords: 24 accumulators, whose names are
 * a, b, c and the codeword's number; see x86_avx2.c for why they are no array.
 */
#include "simd/lanes512.h"

#define EACH_CODE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* To set a vector from memory costs no arithmetic, from a register it does. */
#define NUMBERS_8(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7
#define NUMBERS_64(n)                                                                \
    NUMBERS_8(n), NUMBERS_8(n + 8), NUMBERS_8(n + 16), NUMBERS_8(n + 24),            \
        NUMBERS_8(n + 32), NUMBERS_8(n + 40), NUMBERS_8(n + 48), NUMBERS_8(n + 56)
static const int32_t numbers[256] = {NUMBERS_64(0), NUMBERS_64(64), NUMBERS_64(128),
                                     NUMBERS_64(192)};

#define KEEP_CODE(q)                                       \
    {                                                      \
        __m512i id = _mm512_set1_epi32(numbers[code + q]); \
        keep_least(&r0, AS_VALUE(a##q), id);               \
        keep_least(&r1, AS_VALUE(b##q), id);               \
        keep_least(&r2, AS_VALUE(c##q), id);               \
    }
/* Codewords code .. code + 7, ascending. The running result is copied to locals, else it would go
 * through memory between codewords. */
#define KEEP_EIGHT                                         \
    {                                                      \
        struct lanes r0 = lanes[0], r1 = lanes[1], r2 = lanes[2]; \
                                                           \
        EACH_CODE(KEEP_CODE)                               \
        lanes[0] = r0;                                     \
        lanes[1] = r1;                                     \
        lanes[2] = r2;                                     \
    }

static inline void start_lanes(struct lanes lanes[3], __m512 most)
{
    for (size_t v = 0; v < 3; v++) {
        lanes[v].best = lanes[v].second = most;
        lanes[v].ids = _mm512_setzero_si512();
    }
}

static inline __m512 last_eight(const float *group_a, const float *group_b)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(group_a + 16)),
                              _mm256_loadu_ps(group_b + 16), 1);
}

/* The three vectors' lanes back to the 24 of either group. */
static inline void store_pair(__m512i v0, __m512i v1, __m512i v2, void *a, void *b)
{
    _mm512_storeu_si512(a, v0);
    _mm256_storeu_si256((__m256i *)a + 2, _mm512_castsi512_si256(v2));
    _mm512_storeu_si512(b, v1);
    _mm256_storeu_si256((__m256i *)b + 2, _mm512_extracti32x8_epi32(v2, 1));
}

static inline void store_codes(const struct lanes lanes[3], uint8_t *a, uint8_t *b)
{
    __m128i last = _mm512_cvtepi32_epi8(lanes[2].ids);

    _mm_storeu_si128((__m128i *)a, _mm512_cvtepi32_epi8(lanes[0].ids));
    _mm_storel_epi64((__m128i *)(a + 16), last);
    _mm_storeu_si128((__m128i *)b, _mm512_cvtepi32_epi8(lanes[1].ids));
    _mm_storel_epi64((__m128i *)(b + 16), _mm_unpackhi_epi64(last, last));
}
