/* simd.c - which kernels this processor and its operating system can run. */
#include "simd/simd.h"

#include <pthread.h>
#include <string.h>

#include "simd/simd_tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* Lowest first; each begins as a copy of the one before it. */
#define MAX_TABLES 3
static struct plm_kernels tables[MAX_TABLES];
static size_t n_tables;
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

/* Every name a cap may have, lowest first, whether or not this processor has the table. */
static const char *const known_names[] = {"scalar", "neon", "avx2", "avx512"};

#if defined(__x86_64__)
enum { HAS_AVX2 = 1, HAS_AVX512 = 2, HAS_VNNI = 4 };

/* Register state that the operating system saves: bits of XCR0. The instruction is spelled in
 * assembler because its intrinsic needs a target of its own. */
static uint64_t saved_state(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static unsigned x86_features(void)
{
    const uint64_t ymm_state = 0x06, zmm_state = 0xe6; /* SSE+AVX; and opmask, two halves of ZMM */
    const unsigned avx512_bits =
        bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    unsigned a, b, c, d, b7, c7, d7, features = 0;
    uint64_t state;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    state = saved_state();
    if ((state & ymm_state) != ymm_state || !(c & bit_AVX) || !(c & bit_FMA) || !(c & bit_F16C))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 & bit_AVX2))
        return 0;
    features = HAS_AVX2;
    if ((state & zmm_state) == zmm_state && (b7 & avx512_bits) == avx512_bits)
        features |= HAS_AVX512 | (c7 & bit_AVX512VNNI ? HAS_VNNI : 0);
    return features;
}
#endif

#if defined(__aarch64__)
static bool has_dotprod(void)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & 1ul << 20) != 0; /* HWCAP_ASIMDDP */
#else
    return false;
#endif
}
#endif

static void fill_tables(void)
{
    plm_simd_scalar(&tables[n_tables++]);
#if defined(__x86_64__)
    unsigned features = x86_features();

    if (features & HAS_AVX2) {
        tables[n_tables] = tables[n_tables - 1];
        plm_simd_avx2(&tables[n_tables++]);
    }
    if (features & HAS_AVX512) {
        tables[n_tables] = tables[n_tables - 1];
        plm_simd_avx512(&tables[n_tables]);
        if (features & HAS_VNNI) /* bounds that only exclude: no result depends on it */
            plm_simd_avx512_vnni(&tables[n_tables]);
        n_tables++;
    }
#elif defined(__aarch64__)
    tables[n_tables] = tables[n_tables - 1];
    plm_simd_neon(&tables[n_tables]);
    if (has_dotprod())
        plm_simd_dotprod(&tables[n_tables]);
    n_tables++;
#endif
}

static size_t rank_of(const char *name)
{
    const size_t n_known = sizeof known_names / sizeof *known_names;

    for (size_t i = 0; i < n_known; i++)
        if (strcmp(name, known_names[i]) == 0)
            return i;
    return n_known;
}

const struct plm_kernels *plm_kernels_for(const char *cap)
{
    const size_t n_known = sizeof known_names / sizeof *known_names;
    size_t rank_max = cap ? rank_of(cap) : n_known - 1;

    if (rank_max == n_known)
        return NULL;
    pthread_once(&tables_once, fill_tables);
    for (size_t i = n_tables; i-- > 0;)
        if (rank_of(tables[i].name) <= rank_max)
            return &tables[i];
    return NULL; /* not reached: the scalar table is always there */
}

size_t plm_kernels_available(const struct plm_kernels **out, size_t n_max)
{
    size_t n = 0;

    pthread_once(&tables_once, fill_tables);
    for (; n < n_tables && n < n_max; n++)
        out[n] = &tables[n];
    return n;
}
