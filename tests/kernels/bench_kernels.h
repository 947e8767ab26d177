/* bench_kernels.h - the timing half of test_kernels.c: how fast is each kernel of each table?
 * Prints the best of a few runs, as JSON lines. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

struct bench_data {
    size_t n, k, dim;
    float *rows, *packed, *panels, *halves, *values, *best, *second;
    uint32_t *ids;
    uint8_t *codes;
};

typedef void bench_fn(const struct plm_kernels *table, struct bench_data *data);

static void bench_nearest(const struct plm_kernels *table, struct bench_data *b)
{
    table->nearest(b->packed, b->n, b->panels, b->halves, b->k / 16, b->dim, b->best, b->second,
                   b->ids);
}
static void bench_values(const struct plm_kernels *table, struct bench_data *b)
{
    table->values(b->packed, b->n, b->panels, b->halves, b->k / 16, b->dim, b->values, b->k);
}
static void bench_pack_rows(const struct plm_kernels *table, struct bench_data *b)
{
    table->pack_rows(b->rows, b->dim, b->n, b->dim, b->packed);
}
static void bench_l2_exact(const struct plm_kernels *table, struct bench_data *b)
{
    for (size_t i = 0; i < b->n; i++)
        b->best[0] += (float)table->l2_exact(b->rows + i * b->dim, b->rows, b->dim);
}
static void bench_norm2(const struct plm_kernels *table, struct bench_data *b)
{
    for (size_t i = 0; i < b->n; i++)
        b->best[0] += (float)table->norm2(b->rows + i * b->dim, b->dim);
}
/* n groups of 24 rows; k codewords of dim values. */
static void bench_pq_nearest(const struct plm_kernels *table, struct bench_data *b)
{
    table->pq_nearest(b->rows, b->n / 24, b->panels, b->halves, b->k, b->dim, b->codes, b->best,
                      b->second);
}
static void bench_pq_pack(const struct plm_kernels *table, struct bench_data *b)
{
    for (size_t i = 0; i + 24 <= b->n; i += 24)
        table->pq_pack(b->rows + i * b->dim, b->dim, b->panels, b->dim, b->ids + i, 24, b->dim,
                       b->packed);
}
static void bench_sq_encode(const struct plm_kernels *table, struct bench_data *b)
{
    table->sq_encode(b->rows, b->n * b->dim, -0.9, 0.9, (uint8_t *)b->values);
}

static float *bench_floats(size_t n)
{
    float *values = aligned_alloc(64, (n * sizeof *values + 63) / 64 * 64);

    if (!values)
        abort();
    fill(values, n, ORDINARY);
    return values;
}

static struct bench_data bench_new(size_t n, size_t k, size_t dim)
{
    struct bench_data b = {.n = n, .k = k, .dim = dim};

    b.rows = bench_floats(n * dim);
    b.packed = bench_floats(groups_floats(n, dim) + 24 * dim);
    b.panels = bench_floats(k * dim);
    b.halves = bench_floats(k);
    b.values = bench_floats(n * plm_max_size(k, dim));
    b.best = bench_floats(n);
    b.second = bench_floats(n);
    b.ids = calloc(n, sizeof *b.ids);
    b.codes = calloc(n, 1);
    if (!b.ids || !b.codes)
        abort();
    for (size_t i = 0; i < n; i++)
        b.ids[i] = (uint32_t)(i * 7 % k);
    return b;
}

static void bench_free(struct bench_data *b)
{
    free(b->rows);
    free(b->packed);
    free(b->panels);
    free(b->halves);
    free(b->values);
    free(b->best);
    free(b->second);
    free(b->ids);
    free(b->codes);
}

/* Best of five stretches of at least 20 ms; `operations` are floating-point operations per call,
 * or values where a kernel does not compute. */
static void bench_one(const char *name, bench_fn *fn, const struct plm_kernels *table,
                      struct bench_data *data, double operations)
{
    double best = 0;

    for (int run = 0; run < 5; run++) {
        double began = plm_now_seconds(), seconds;
        size_t calls = 0;

        do {
            fn(table, data);
            calls++;
        } while ((seconds = plm_now_seconds() - began) < 0.02);
        best = fmax(best, operations * (double)calls / seconds * 1e-9);
    }
    printf("{\"table\": \"%s\", \"kernel\": \"%s\", \"n\": %zu, \"k\": %zu, \"dim\": %zu, "
           "\"gops\": %.2f}\n",
           table->name, name, data->n, data->k, data->dim, best);
    fflush(stdout);
}

static void bench_dense(const struct plm_kernels *table, size_t k, size_t dim)
{
    struct bench_data b = bench_new(PLM_BLOCK_ROWS, k, dim);
    double macs = (double)b.n * (double)k * (double)dim, values = (double)b.n * (double)dim;

    bench_one("nearest", bench_nearest, table, &b, 2 * macs);
    bench_one("values", bench_values, table, &b, 2 * macs);
    bench_one("pack_rows", bench_pack_rows, table, &b, values);
    bench_one("norm2", bench_norm2, table, &b, 2 * values);
    bench_one("l2_exact", bench_l2_exact, table, &b, 3 * values);
    bench_one("sq_encode", bench_sq_encode, table, &b, values);
    bench_free(&b);
}

static void bench_pq(const struct plm_kernels *table, size_t n_codes, size_t dsub)
{
    struct bench_data b = bench_new(960, n_codes, dsub);
    double values = (double)b.n * (double)dsub;

    bench_one("pq_nearest", bench_pq_nearest, table, &b, 2 * values * (double)n_codes);
    bench_one("pq_pack", bench_pq_pack, table, &b, values);
    bench_free(&b);
}

static int bench(void)
{
    static const size_t dense_k[] = {1008, 256, 1008, 1008, 1008},
                        dense_dim[] = {2048, 384, 128, 64, 80};
    static const size_t dsubs[] = {2, 4, 8, 16, 32};

    for (size_t t = 0; t < n_tables; t++) {
        if (tables[t] == scalar && n_tables > 1)
            continue; /* minutes, to learn nothing */
        for (size_t s = 0; s < sizeof dense_k / sizeof *dense_k; s++)
            bench_dense(tables[t], dense_k[s], dense_dim[s]);
        for (size_t s = 0; s < sizeof dsubs / sizeof *dsubs; s++)
            bench_pq(tables[t], 256, dsubs[s]);
        bench_pq(tables[t], 16, 8);
    }
    return 0;
}

#endif
