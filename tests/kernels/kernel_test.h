/* kernel_test.h - what the programs here share: the tables, guarded memory, values of every kind. */
#ifndef KERNEL_TEST_H
#define KERNEL_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/core.h"
#include "simd/simd.h"

#define MAX_TABLES 8
#define DIM_MAX 257

static const struct plm_kernels *tables[MAX_TABLES], *scalar;
static size_t n_tables;

/* ---- memory with a guard page at both ends --------------------------------------------- */

struct guarded {
    uint8_t *map;
    size_t map_bytes, page;
    size_t room; /* bytes between the guards */
};

static inline struct guarded guarded_new(size_t bytes)
{
    struct guarded g = {.page = (size_t)sysconf(_SC_PAGESIZE)};

    g.room = (bytes + g.page - 1) / g.page * g.page;
    g.map_bytes = g.room + 2 * g.page;
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map, g.page, PROT_NONE), 0);
    assert_int_equal(mprotect(g.map + g.page + g.room, g.page, PROT_NONE), 0);
    return g;
}

static inline void guarded_free(struct guarded *g)
{
    munmap(g->map, g->map_bytes);
}

/* `bytes` that end where the guard begins, or begin where the guard ends. */
static inline void *guarded_at(const struct guarded *g, size_t bytes, bool at_end)
{
    assert_true(bytes <= g->room);
    return g->map + g->page + (at_end ? g->room - bytes : 0);
}

/* ---- values ------------------------------------------------------------------------------ */

static uint64_t rng_state;

static inline uint64_t rng_next(void)
{
    return plm_mix64(7, rng_state++);
}

enum kind { ORDINARY, WHOLE, HUGE_VALUES, DENORMAL, N_KINDS };

static inline float value_of(enum kind kind)
{
    float f = (float)((double)(int64_t)rng_next() * 0x1p-63); /* -1 .. 1 */

    switch (kind) {
    case WHOLE: /* few whole numbers: exact sums, many ties */
        return (float)((int)(rng_next() % 5) - 2);
    case HUGE_VALUES: /* products and sums of them stay finite */
        return f * 0x1p50f;
    case DENORMAL:
        return f * 0x1p-126f;
    default:
        return f;
    }
}

static inline void fill(float *values, size_t n, enum kind kind)
{
    for (size_t i = 0; i < n; i++)
        values[i] = value_of(kind);
}

static inline float *floats_new(size_t n)
{
    float *values = malloc(n * sizeof *values + 1);

    assert_non_null(values);
    return values;
}

/* Tables but the scalar one. */
#define EACH_TABLE(t) for (size_t t = 1; t < n_tables; t++)

static inline size_t groups_floats(size_t n, size_t dim)
{
    return (n + PLM_GROUP - 1) / PLM_GROUP * PLM_GROUP * dim;
}

#endif
