/* kernel_bench.c - how fast are the kernels, and what is built of them?
 *
 *   kernel_bench kernels [--quick]    every kernel of every table: checked against scalar, timed
 *   kernel_bench assign ROWS CENTROIDS DIM l2|dot THREADS [IDS [RANK float|bytes]]
 *   kernel_bench encode ROWS CODEBOOK DIM M THREADS [CODES]
 *
 * The files hold plain float32 values. Each run prints one JSON line; ids (uint32) and codes (uint8)
 * go to the file named last, so that another program can compare them. RANK forces the filter:
 * a head of so many axes (0: none), in fp32 or in bytes.
 */
#include <stdlib.h>
#include <time.h>

#include "cluster/assign_impl.h"
#include "kernel_bench.h"
#include "quant/quant.h"

#define TASK_ROWS 3072

/* ---- files --------------------------------------------------------------------------------- */

struct floats {
    float *values;
    size_t n; /* rows */
};

static void die(const char *what, const char *which)
{
    fprintf(stderr, "kernel_bench: %s %s\n", what, which);
    exit(2);
}

static struct floats read_floats(const char *path, size_t dim)
{
    FILE *file = fopen(path, "rb");
    struct floats out = {0};
    long bytes;

    if (!file || fseek(file, 0, SEEK_END) != 0 || (bytes = ftell(file)) < 0)
        die("cannot read", path);
    rewind(file);
    out.n = (size_t)bytes / (dim * sizeof(float));
    out.values = bench_bytes((size_t)bytes);
    if (out.n == 0 || fread(out.values, dim * sizeof(float), out.n, file) != out.n)
        die("no rows in", path);
    fclose(file);
    return out;
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        die("cannot write", path);
}

/* ---- a run over all rows on several threads ------------------------------------------------- */

struct run {
    struct plm_ctx *ctx;
    struct floats rows;
    size_t dim, result_bytes; /* of one row */
    uint8_t *results;
    const struct plm_assigner *assigner;
    struct plm_assign_scratch *scratch;
    struct plm_pq pq;
    uint8_t *pq_scratch;
};

static enum plm_code run_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct run *run = arg;
    size_t first = task * TASK_ROWS, n = plm_min_size(TASK_ROWS, run->rows.n - first);
    const float *rows = run->rows.values + first * run->dim;
    uint8_t *results = run->results + first * run->result_bytes;

    if (run->assigner)
        return plm_assign(run->assigner, rows, n, (uint32_t *)(void *)results, NULL,
                          &run->scratch[worker], err);
    plm_pq_encode(run->ctx->kernels, &run->pq, rows, n, NULL, NULL, results,
                  run->pq_scratch + worker * plm_pq_encode_bytes(&run->pq));
    return PLM_OK;
}

static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct times {
    double wall, cpu;
};

static struct times now_times(void)
{
    return (struct times){plm_now_seconds(), cpu_seconds()};
}

static void finish(struct run *run, const char *what, size_t k, struct times began,
                   const char *path, struct plm_err *err)
{
    size_t n_tasks = (run->rows.n + TASK_ROWS - 1) / TASK_ROWS;

    run->results = bench_bytes(run->rows.n * run->result_bytes);
    if (plm_parallel(run->ctx, n_tasks, run_task, run, err) != PLM_OK)
        die("failed:", err->message);
    struct times ended = now_times();
    printf("{\"what\": \"%s\", \"table\": \"%s\", \"n\": %zu, \"dim\": %zu, \"k\": %zu, "
           "\"threads\": %u, \"seconds\": %.4f, \"cpu_seconds\": %.4f}\n",
           what, run->ctx->kernels->name, run->rows.n, run->dim, k, run->ctx->threads,
           ended.wall - began.wall, ended.cpu - began.cpu);
    if (path)
        write_bytes(path, run->results, run->rows.n * run->result_bytes);
}

static struct plm_ctx *make_ctx(const char *threads)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_err err = {0};

    plm_ctx_options_default(&options);
    options.threads = (unsigned)strtoul(threads, NULL, 10);
    if (plm_ctx_create(&options, &ctx, &err) != PLM_OK)
        die("failed:", err.message);
    return ctx;
}

/* ROWS CENTROIDS DIM METRIC THREADS [IDS [RANK KIND]]: preparing the assigner counts. */
static int bench_assign(char **arg)
{
    size_t dim = strtoul(arg[2], NULL, 10);
    struct floats centroids = read_floats(arg[1], dim);
    struct plm_assigner *assigner = NULL;
    struct plm_err err = {0};
    struct run run = {.ctx = make_ctx(arg[4]), .rows = read_floats(arg[0], dim), .dim = dim,
                      .result_bytes = sizeof(uint32_t)};
    enum plm_metric metric = strcmp(arg[3], "dot") == 0 ? PLM_DOT : PLM_L2;
    struct times began = now_times();

    run.scratch = calloc(run.ctx->threads, sizeof *run.scratch);
    if (!run.scratch || plm_assigner_create(run.ctx, centroids.values, centroids.n, dim, metric,
                                            &assigner, &err) != PLM_OK)
        die("failed:", err.message);
    if (arg[5] && arg[6] && arg[7] &&
        plm_filter_force(assigner, strtoul(arg[6], NULL, 10), strcmp(arg[7], "bytes") == 0, &err) !=
            PLM_OK)
        die("failed:", err.message);
    run.assigner = assigner;
    finish(&run, "assign", centroids.n, began, arg[5], &err);
    return 0;
}

/* ROWS CODEBOOK DIM M THREADS [CODES]: 8-bit codes. */
static int bench_encode(char **arg)
{
    size_t dim = strtoul(arg[2], NULL, 10), m = strtoul(arg[3], NULL, 10), dsub = dim / m;
    struct floats codebook = read_floats(arg[1], dsub);
    struct plm_err err = {0};
    struct run run = {.ctx = make_ctx(arg[4]), .rows = read_floats(arg[0], dim), .dim = dim,
                      .result_bytes = m};
    struct times began = now_times();

    if (codebook.n != m * 256)
        die("expected 256 codewords for each sub-vector in", arg[1]);
    if (plm_pq_init(run.ctx, (uint32_t)m, (uint32_t)dsub, 8, codebook.values, &run.pq, &err) !=
        PLM_OK)
        die("failed:", err.message);
    run.pq_scratch = bench_bytes(run.ctx->threads * plm_pq_encode_bytes(&run.pq));
    finish(&run, "encode", 256, began, arg[5], &err);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        return bench_kernels(argc > 2 && strcmp(argv[2], "--quick") == 0);
    if (argc >= 7 && strcmp(argv[1], "assign") == 0)
        return bench_assign(argv + 2);
    if (argc >= 7 && strcmp(argv[1], "encode") == 0)
        return bench_encode(argv + 2);
    die("usage: kernels [--quick] | assign ROWS CENTROIDS DIM METRIC THREADS [IDS] |",
        "encode ROWS CODEBOOK DIM M THREADS [CODES]");
}
