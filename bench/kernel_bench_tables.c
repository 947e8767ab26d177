/* kernel_bench_tables.c - every kernel of every table this processor has: its results beside those
 * of the scalar table, its speed beside the processor's own for multiply-adds.
 *
 * A JSON line each: "gops" are 1e9 operations per second (two for a multiply-add; values where
 * a kernel does not compute), the best of some runs; "of_peak" is that over the fp32 peak of the
 * widest vectors the table uses, measured here with a loop in registers alone; "gbytes_s" what kernels
 * read and write that do not multiply much, from and to the caches. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "kernel_bench.h"
#include "simd/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MAX_TABLES 8
#define N_ROWS PLM_BLOCK_ROWS

void *bench_bytes(size_t n)
{
    void *bytes = aligned_alloc(64, (n + 127) / 64 * 64);

    if (!bytes)
        abort();
    return bytes;
}

/* Of this thread: what else the machine does must not count. */
static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the peak ------------------------------------------------------------------------------- */

#define N_CHAINS 12 /* two units, four cycles each, and some to spare */
#define ROUNDS 200000

#if defined(__x86_64__)
#define PEAK_LOOP(name, isa, vector, set1, fmadd)                     \
    __attribute__((target(isa))) static float name(float x)           \
    {                                                                 \
        vector sums[N_CHAINS], factor = set1(x), term = set1(1 - x);  \
        float out;                                                    \
        _Pragma("GCC unroll 12") for (int i = 0; i < N_CHAINS; i++)   \
            sums[i] = set1((float)i);                                 \
        for (int round = 0; round < ROUNDS; round++)                  \
            _Pragma("GCC unroll 12") for (int i = 0; i < N_CHAINS; i++) \
                sums[i] = fmadd(sums[i], factor, term);               \
        for (int i = 1; i < N_CHAINS; i++)                            \
            sums[0] += sums[i];                                       \
        memcpy(&out, &sums[0], sizeof out);                           \
        return out;                                                   \
    }
PEAK_LOOP(peak_256, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
PEAK_LOOP(peak_512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
#endif

static float (*peak_loop(const char *table, size_t *lanes))(float)
{
#if defined(__x86_64__)
    *lanes = strcmp(table, "avx512") == 0 ? 16 : 8;
    if (*lanes == 16)
        return peak_512;
    if (strcmp(table, "avx2") == 0)
        return peak_256;
#endif
    *lanes = 0;
    return NULL;
}

/* GFLOP/s of one thread, or 0 where there is no loop for the table. */
static double measure_peak(const char *table)
{
    size_t lanes;
    float (*loop)(float) = peak_loop(table, &lanes);
    volatile float x = 0.999f;
    double best = 0;

    for (int run = 0; loop && run < 20; run++) {
        double began = cpu_seconds();

        x = loop(x) > 1e30f ? 1 : 0.999f; /* the result is used */
        best = fmax(best, 2.0 * ROUNDS * N_CHAINS * (double)lanes /
                              (cpu_seconds() - began) * 1e-9);
    }
    return best;
}

/* ---- one shape ------------------------------------------------------------------------------ */

/* Operands of all kernels, and room for what one call writes. */
struct shape {
    size_t k, dim;
    float *rows, *centroids, *packed, *panels, *halves, *row_terms, *panel_terms;
    uint8_t *byte_rows, *sq_codes;
    uint16_t *halves16;
    int8_t *byte_panels;
    int16_t *words;
    int32_t *offsets;
    uint32_t *ids;
    /* results, all in one piece so that they can be compared */
    size_t result_bytes;
    union {
        uint8_t *bytes;
        float *floats;
        double *doubles;
    } out;
};

static float *random_floats(size_t n, uint64_t seed)
{
    float *values = bench_bytes(n * sizeof *values);

    for (size_t i = 0; i < n; i++)
        values[i] = (float)((double)(int64_t)plm_mix64(seed, i) * 0x1p-63);
    return values;
}

static struct shape shape_new(size_t k, size_t dim)
{
    struct shape s = {.k = k, .dim = dim};
    size_t n_bytes = plm_max_size(N_ROWS, k) * dim;

    s.rows = random_floats(N_ROWS * dim, 1);
    s.centroids = random_floats(k * dim, 2);
    s.packed = random_floats(N_ROWS * dim, 3);
    s.panels = random_floats(k * dim, 4);
    s.halves = random_floats(k, 5);
    s.row_terms = random_floats(N_ROWS * PLM_BYTE_ROW_TERMS, 6);
    s.panel_terms = random_floats(k * PLM_BYTE_PANEL_TERMS, 7);
    s.byte_rows = bench_bytes(n_bytes);
    s.byte_panels = bench_bytes(n_bytes);
    s.sq_codes = bench_bytes(n_bytes);
    s.halves16 = bench_bytes(n_bytes * 2);
    s.words = bench_bytes(n_bytes * 2 + 2 * k);
    s.offsets = bench_bytes(k * sizeof *s.offsets);
    s.ids = bench_bytes(N_ROWS * sizeof *s.ids);
    for (size_t i = 0; i < n_bytes; i++) { /* within seven bits, which every table takes */
        s.byte_rows[i] = (uint8_t)(1 + plm_mix64(8, i) % 127);
        s.byte_panels[i] = (int8_t)((int)(plm_mix64(9, i) % 127) - 63);
        s.sq_codes[i] = (uint8_t)plm_mix64(10, i);
        s.halves16[i] = (uint16_t)(plm_mix64(11, i) % 0x7c00);
        s.words[i] = (int16_t)((int)(plm_mix64(12, i) % 1001) - 500); /* no sum leaves its range */
    }
    for (size_t j = 0; j < k; j++)
        s.offsets[j] = -(int32_t)(j * 10);
    for (size_t i = 0; i < N_ROWS; i++)
        s.ids[i] = (uint32_t)(i * 7 % k);
    s.result_bytes = N_ROWS * plm_max_size(k, dim) * sizeof(double) + 65536;
    s.out.bytes = bench_bytes(s.result_bytes);
    return s;
}

static void shape_free(struct shape *s)
{
    void *all[] = {s->rows,      s->centroids, s->packed,      s->panels,   s->halves,
                   s->row_terms, s->panel_terms, s->byte_rows, s->sq_codes, s->halves16,
                   s->byte_panels, s->words, s->offsets, s->ids, s->out.bytes};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* ---- the kernels ---------------------------------------------------------------------------- */

#define K const struct plm_kernels *t, const struct shape *s

static void run_nearest(K)
{
    t->nearest(s->packed, N_ROWS, s->panels, s->halves, s->k / PLM_PANEL, s->dim, s->out.floats,
               s->out.floats + N_ROWS, (uint32_t *)s->out.floats + 2 * N_ROWS);
}
static void run_values(K)
{
    t->values(s->packed, N_ROWS, s->panels, s->halves, s->k / PLM_PANEL, s->dim, s->out.floats,
              s->k);
}
static void run_project(K)
{
    t->project(s->packed, N_ROWS, s->panels, s->k / PLM_PANEL, s->dim, s->out.floats, s->k);
}
static void run_pack_rows(K)
{
    t->pack_rows(s->rows, s->dim, N_ROWS, s->dim, s->out.floats);
}
static void run_byte_rows(K) /* scales and rests; a table's bytes are its own */
{
    t->byte_rows(s->rows, s->dim, N_ROWS, s->dim, s->sq_codes, s->out.floats,
                 s->out.floats + N_ROWS);
}
static void run_byte_bounds(K)
{
    t->byte_bounds(s->byte_rows, s->row_terms, N_ROWS, s->byte_panels, s->offsets, s->panel_terms,
                   s->k / PLM_PANEL, plm_byte_dims(s->dim), s->out.floats, s->k);
}
static void run_frame_rows(K)
{
    t->frame_rows(s->rows, N_ROWS, s->dim, s->centroids, 0.5f,
                  s->out.floats + 2 * N_ROWS, s->out.doubles);
}
static void run_l2_pairs(K)
{
    t->l2_pairs(s->rows, s->dim, s->centroids, s->ids, N_ROWS, s->dim, s->out.doubles);
}
static void run_l2_near(K)
{
    t->l2_near(s->rows, s->centroids, s->ids, 8, s->dim, s->out.floats);
}
static void run_norm2(K)
{
    for (size_t i = 0; i < N_ROWS; i++)
        s->out.doubles[i] = t->norm2(s->rows + i * s->dim, s->dim);
}
static void run_min_max(K)
{
    t->min_max(s->rows, N_ROWS * s->dim, s->out.floats, s->out.floats + 1);
}
static void run_at_most(K)
{
    s->out.floats[0] = (float)t->at_most(s->rows, N_ROWS * s->dim, -0.99f,
                                         (uint32_t *)s->out.floats + 1);
}
static void run_grid_add(K)
{
    for (size_t i = 0; i < N_ROWS; i++)
        t->grid_add(s->out.doubles, s->rows + i * s->dim, s->dim, 0x1.8p40);
}
static void run_sq_encode(K)
{
    t->sq_encode(s->rows, N_ROWS * s->dim, -0.9, 0.9, s->out.bytes);
}
static void run_sq_l2(K)
{
    for (size_t i = 0; i < N_ROWS; i++)
        ((uint32_t *)s->out.floats)[i] = t->sq_l2(s->sq_codes, s->sq_codes + i * s->dim, s->dim);
}
static void run_f16(K)
{
    t->f16_to_f32(s->halves16, s->out.floats, N_ROWS * s->dim);
}
/* dim is that of a sub-vector, k the number of codes. */
static void run_pq_nearest(K)
{
    t->pq_nearest(s->packed, N_ROWS / PLM_PQ_LANES, s->centroids, s->halves, s->k, s->dim,
                  s->out.bytes, s->out.floats + N_ROWS, s->out.floats + 2 * N_ROWS);
}
static void run_pq_words(K)
{
    t->pq_words(s->packed, N_ROWS / PLM_PQ_LANES, 16383, s->words, s->offsets, s->k, s->dim,
                s->out.bytes, (int32_t *)s->out.floats + N_ROWS,
                (int32_t *)s->out.floats + 2 * N_ROWS);
}
static void run_pq_pack(K)
{
    for (size_t i = 0; i < N_ROWS; i += PLM_PQ_LANES)
        t->pq_pack(s->rows + i * s->dim, s->dim, s->centroids, s->dim, s->ids + i, PLM_PQ_LANES,
                   s->dim, s->out.floats + i * s->dim);
}

enum unit { PRODUCTS, VALUES, FEW }; /* n*k*dim multiply-adds; n*dim values; 8*dim */

static const struct kernel {
    const char *name;
    void (*run)(K);
    enum unit unit;
    double operations; /* of one such unit */
    double bytes;      /* read and written for one such unit; 0: what counts is arithmetic */
    double tolerance;  /* relative to the greatest result; 0: the same bytes */
} dense[] = {
    {"nearest", run_nearest, PRODUCTS, 2, 0, 1e-4},
    {"values", run_values, PRODUCTS, 2, 0, 1e-4},
    {"project", run_project, PRODUCTS, 2, 0, 1e-4},
    {"byte_bounds", run_byte_bounds, PRODUCTS, 2, 0, 1e-5},
    {"byte_rows", run_byte_rows, VALUES, 1, 5, 2.5}, /* seven bits or eight: twice as coarse */
    {"pack_rows", run_pack_rows, VALUES, 1, 8, 0},
    {"frame_rows", run_frame_rows, VALUES, 1, 8, 0},
    {"norm2", run_norm2, VALUES, 2, 4, 0},
    {"l2_pairs", run_l2_pairs, VALUES, 3, 8, 0},
    {"l2_near", run_l2_near, FEW, 3, 4, 1e-5},
    {"min_max", run_min_max, VALUES, 1, 4, 0},
    {"at_most", run_at_most, VALUES, 1, 4, 0},
    {"grid_add", run_grid_add, VALUES, 1, 20, 0},
    {"sq_encode", run_sq_encode, VALUES, 1, 5, 0},
    {"sq_l2", run_sq_l2, VALUES, 1, 1, 0},
    {"f16_to_f32", run_f16, VALUES, 1, 6, 0},
}, pq[] = {
    {"pq_nearest", run_pq_nearest, PRODUCTS, 2, 0, 1e-4},
    {"pq_words", run_pq_words, PRODUCTS, 2, 0, 0},
    {"pq_pack", run_pq_pack, VALUES, 1, 12, 0},
};

/* ---- checking and timing ---------------------------------------------------------------------- */

/* Does the table agree with scalar? Floats are compared by size, codes and ids (which may differ in
 * a near-tie) in no other way than as the bytes of such floats: too small to matter. */
static bool agrees(const struct kernel *kernel, const struct plm_kernels *table,
                   const struct plm_kernels *scalar, const struct shape *s)
{
    uint8_t *want = bench_bytes(s->result_bytes);
    const float *a = (const float *)(const void *)want, *b = s->out.floats;
    double greatest = 0, difference = 0;
    bool same;

    memset(s->out.bytes, 0, s->result_bytes);
    kernel->run(scalar, s);
    memcpy(want, s->out.bytes, s->result_bytes);
    memset(s->out.bytes, 0, s->result_bytes);
    kernel->run(table, s);
    same = memcmp(want, s->out.bytes, s->result_bytes) == 0;
    for (size_t i = 0; !same && i < s->result_bytes / sizeof(float); i++) {
        greatest = fmax(greatest, fabs((double)a[i]));
        difference = fmax(difference, fabs((double)a[i] - (double)b[i]));
    }
    free(want);
    return same || difference <= kernel->tolerance * greatest;
}

static double speed(const struct kernel *kernel, const struct plm_kernels *table,
                    const struct shape *s, bool quick)
{
    double units = kernel->unit == FEW ? 8 : N_ROWS, best = 0;
    double operations = kernel->operations * units * (double)s->dim *
                        (kernel->unit == PRODUCTS ? (double)s->k : 1);

    for (int run = 0; run < (quick ? 2 : 7); run++) {
        double began = cpu_seconds(), seconds;
        size_t calls = 0;

        do { /* looking at the clock takes as long as a small kernel: ever more seldom */
            for (size_t more = calls + 1; more > 0; more--, calls++)
                kernel->run(table, s);
        } while ((seconds = cpu_seconds() - began) < (quick ? 0.002 : 0.02));
        best = fmax(best, operations * (double)calls / seconds * 1e-9);
    }
    return best;
}

static bool bench_shape(const struct kernel *kernels, size_t n_kernels, size_t k, size_t dim,
                        const struct plm_kernels *const *tables, size_t n_tables, bool quick)
{
    struct shape s = shape_new(k, dim);
    bool all_agree = true;

    for (size_t t = 0; t < n_tables; t++) {
        double peak = measure_peak(tables[t]->name);

        for (size_t i = 0; i < n_kernels; i++) {
            bool agree = agrees(&kernels[i], tables[t], tables[0], &s);
            double gops = speed(&kernels[i], tables[t], &s, quick || t == 0);

            printf("{\"table\": \"%s\", \"kernel\": \"%s\", \"n\": %d, \"k\": %zu, \"dim\": %zu, "
                   "\"gops\": %.2f, \"peak_gflops\": %.1f, \"of_peak\": ",
                   tables[t]->name, kernels[i].name, N_ROWS, k, dim, gops, peak);
            if (peak > 0 && kernels[i].unit == PRODUCTS)
                printf("%.3f", gops / peak);
            else
                printf("null");
            if (kernels[i].bytes > 0)
                printf(", \"gbytes_s\": %.1f", gops / kernels[i].operations * kernels[i].bytes);
            printf(", \"agrees\": %s}\n", agree ? "true" : "false");
            fflush(stdout);
            all_agree = all_agree && agree;
        }
    }
    shape_free(&s);
    return all_agree;
}

int bench_kernels(bool quick)
{
    static const size_t shapes[][2] = {{1008, 768}, {1008, 2048}, {1008, 128}, {256, 384}, {1008, 64}};
    static const size_t pq_shapes[][2] = {{256, 16}, {256, 2}, {256, 4}, {256, 8}, {256, 32}, {16, 8}};
    const struct plm_kernels *tables[MAX_TABLES];
    size_t n_tables = plm_kernels_available(tables, MAX_TABLES);
    bool all_agree = true;

    for (size_t i = 0; i < (quick ? 1 : sizeof shapes / sizeof *shapes); i++)
        all_agree &= bench_shape(dense, sizeof dense / sizeof *dense, shapes[i][0], shapes[i][1],
                                 tables, n_tables, quick);
    for (size_t i = 0; i < (quick ? 1 : sizeof pq_shapes / sizeof *pq_shapes); i++)
        all_agree &= bench_shape(pq, sizeof pq / sizeof *pq, pq_shapes[i][0], pq_shapes[i][1],
                                 tables, n_tables, quick);
    return all_agree ? 0 : 1;
}
