/* train_bench.c - how long training takes, phase by phase, and how good it is. Prints one JSON line.
 *
 *   train_bench ivf ROWS K [--threads N] [--dim D] [--rows N] [--dot] [--seed S]
 *   train_bench pq  ROWS M [--threads N] [--dim D] [--rows N] [--seed S]
 *
 * ROWS is a .npy file of float32 [n][dim] in C order, or bare float32 with --dim. It is mapped, and
 * read once before any clock starts: what a build needs to read its sample is not in these times.
 * IVF: loss is the mean squared distance over all rows, assigned exactly after the clock stopped;
 * cv is the coefficient of variation of the sizes. PQ: error is the mean squared distance of all
 * rows to what their codes decode to, likewise; reported_error is the trainer's own word. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/assign.h"
#include "cluster/train.h"
#include "quant/quant.h"

#define PHASES_MAX 64

struct phase {
    char what[64];
    double wall, cpu;
};

struct bench {
    struct plm_ctx *ctx;
    const float *rows;
    size_t n, dim, wanted; /* wanted: centroids or sub-vectors */
    uint64_t seed;
    bool dot;
    struct phase phases[PHASES_MAX];
    size_t n_phases;
};

static _Noreturn void die(const char *what, const struct plm_err *err)
{
    fprintf(stderr, "train_bench: %s%s%s\n", what, err ? ": " : "", err ? err->message : "");
    exit(1);
}

static void check(enum plm_code rc, const struct plm_err *err)
{
    if (rc != PLM_OK)
        die("failed", err);
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Adds to the phase of this name. */
static void add_phase(struct bench *b, const char *what, double wall, double cpu)
{
    struct phase *p = b->n_phases ? &b->phases[b->n_phases - 1] : NULL;

    if (!p || (strcmp(p->what, what) != 0 && b->n_phases < PHASES_MAX)) {
        p = &b->phases[b->n_phases++];
        snprintf(p->what, sizeof p->what, "%s", what);
    }
    p->wall += wall;
    p->cpu += cpu;
}

/* ---- rows ------------------------------------------------------------------------------- */

/* Length of the header of a .npy file and the shape it states; 0 for another file. */
static size_t npy_header(const char *bytes, size_t len, size_t *n, size_t *dim)
{
    char text[512] = "";
    const char *shape;
    size_t header;

    if (len < 128 || memcmp(bytes, "\x93NUMPY\x01", 7) != 0)
        return 0;
    header = 10 + (size_t)(uint8_t)bytes[8] + ((size_t)(uint8_t)bytes[9] << 8);
    memcpy(text, bytes + 10, plm_min_size(plm_min_size(header, len) - 10, sizeof text - 1));
    shape = strstr(text, "'shape': (");
    if (!strstr(text, "'<f4'") || !strstr(text, "'fortran_order': False") || !shape ||
        sscanf(shape, "'shape': (%zu, %zu)", n, dim) != 2)
        die("the .npy file is not float32 [n][dim]", NULL);
    return header;
}

static void map_rows(struct bench *b, const char *path)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    size_t header, n = 0, dim = b->dim;

    if (fd < 0 || fstat(fd, &st) != 0)
        die(strerror(errno), NULL);
    const char *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (bytes == MAP_FAILED)
        die(strerror(errno), NULL);
    close(fd);
    header = npy_header(bytes, (size_t)st.st_size, &n, &dim);
    if (dim == 0)
        die("bare floats need --dim", NULL);
    n = ((size_t)st.st_size - header) / dim / sizeof(float);
    b->rows = (const float *)(const void *)(bytes + header);
    b->dim = dim;
    b->n = b->n ? plm_min_size(b->n, n) : n;
}

/* ---- IVF ---------------------------------------------------------------------------------- */

static void drop_number(char *what) /* "tree level 2, round 7" -> "tree level 2, round" */
{
    size_t n = strlen(what);

    while (n > 0 && ((what[n - 1] >= '0' && what[n - 1] <= '9') || what[n - 1] == ' '))
        what[--n] = 0;
}

static unsigned train(struct bench *b, struct plm_trainer *trainer, const struct plm_sample *sample)
{
    struct plm_shard *shard = NULL;
    struct plm_buf partial;
    struct plm_view step;
    struct plm_err err = {0};
    const char *text;
    unsigned n_steps = 0;

    plm_buf_init(&partial, b->ctx, SIZE_MAX);
    check(plm_shard_create(b->ctx, sample, 0, &shard, &err), &err);
    for (; (step = plm_trainer_step(trainer, &text)).len > 0; n_steps++) {
        double wall = plm_now_seconds(), cpu = cpu_seconds();
        char what[64], absorb[64];

        snprintf(what, sizeof what, "%s", text);
        drop_number(what);
        snprintf(absorb, sizeof absorb, "%.48s, absorbed", what);
        partial.len = 0;
        check(plm_shard_run(shard, step, &partial, &err), &err);
        add_phase(b, what, plm_now_seconds() - wall, cpu_seconds() - cpu);
        wall = plm_now_seconds(), cpu = cpu_seconds();
        check(plm_trainer_absorb(trainer, (struct plm_view){partial.data, partial.len}, &err), &err);
        add_phase(b, getenv("TRAIN_BENCH_ABSORB") ? absorb : what, plm_now_seconds() - wall,
                  cpu_seconds() - cpu);
    }
    plm_buf_reset(&partial);
    plm_shard_destroy(shard);
    return n_steps;
}

struct judging {
    const struct bench *b;
    struct plm_assigner *assigner;
    double loss[1024];   /* per task */
    uint32_t *ids;
};

static enum plm_code judge_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct judging *j = arg;
    size_t first = j->b->n * task / 1024, n = j->b->n * (task + 1) / 1024 - first;
    struct plm_assign_scratch scratch = {0};
    double *distances = malloc((n + 1) * sizeof *distances);
    enum plm_code rc;
    (void)worker;

    rc = plm_assign(j->assigner, j->b->rows + first * j->b->dim, n, j->ids + first, distances, &scratch, err);
    for (size_t i = 0; rc == PLM_OK && i < n; i++)
        j->loss[task] += distances[i];
    plm_assign_scratch_reset(&scratch);
    free(distances);
    return rc;
}

static void judge(const struct bench *b, const float *centroids, double *loss, double *cv)
{
    struct judging j = {.b = b, .ids = malloc(b->n * sizeof(uint32_t) + 1)};
    uint32_t *sizes = calloc(b->wanted, sizeof *sizes);
    double mean = (double)b->n / (double)b->wanted, square = 0;
    struct plm_err err = {0};

    if (!j.ids || !sizes)
        die("out of memory", NULL);
    check(plm_assigner_create(b->ctx, centroids, b->wanted, b->dim, b->dot ? PLM_DOT : PLM_L2, &j.assigner,
                              &err), &err);
    check(plm_parallel(b->ctx, 1024, judge_task, &j, &err), &err);
    *loss = 0;
    for (size_t i = 0; i < 1024; i++)
        *loss += j.loss[i] / (double)b->n;
    for (size_t i = 0; i < b->n; i++)
        sizes[j.ids[i]]++;
    for (size_t i = 0; i < b->wanted; i++)
        square += ((double)sizes[i] - mean) * ((double)sizes[i] - mean);
    *cv = sqrt(square / (double)b->wanted) / mean;
    plm_assigner_destroy(j.assigner);
    free(j.ids);
    free(sizes);
}

static void bench_ivf(struct bench *b)
{
    struct plm_train_options options = {.n_sample = b->n, .dim = b->dim, .k = b->wanted, .seed = b->seed,
                                        .metric = b->dot ? PLM_DOT : PLM_L2, .max_iters = 50};
    struct plm_trainer *trainer = NULL;
    struct plm_sample sample;
    struct plm_err err = {0};
    struct rusage u;
    const double *losses;
    double loss, cv, began, cpu;
    unsigned n_steps;

    plm_sample_of(b->ctx, b->rows, b->n, b->dim, &sample);
    began = plm_now_seconds(), cpu = cpu_seconds();
    check(plm_trainer_create(b->ctx, &options, &trainer, &err), &err);
    n_steps = train(b, trainer, &sample);
    began = plm_now_seconds() - began, cpu = cpu_seconds() - cpu;
    getrusage(RUSAGE_SELF, &u);
    judge(b, plm_trainer_centroids(trainer), &loss, &cv);
    size_t n_losses = plm_trainer_losses(trainer, &losses);
    printf("{\"what\": \"ivf\", \"rows\": %zu, \"dim\": %zu, \"k\": %zu, \"seconds\": %.3f, "
           "\"cpu_seconds\": %.3f, \"loss\": %.9g, \"cv\": %.4f, \"steps\": %u, \"charged_mib\": %.1f, "
           "\"losses\": [", b->n, b->dim, b->wanted, began, cpu, loss, cv, n_steps,
           (double)atomic_load(&b->ctx->memory_peak) / (1 << 20));
    for (size_t i = 0; i < n_losses; i++)
        printf("%s%.9g", i ? ", " : "", losses[i]);
    printf("]");
    if (getenv("TRAIN_BENCH_HASH"))
        printf(", \"hash\": \"%016" PRIx64 "\"",
               plm_xxh3(plm_trainer_centroids(trainer), b->wanted * b->dim * sizeof(float)));
    plm_trainer_destroy(trainer);
}

/* ---- PQ ------------------------------------------------------------------------------------- */

struct pq_bench {
    const struct bench *b;
    uint32_t dsub;
    double *errors;
    float *codebook;
};

static enum plm_code pq_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct pq_bench *p = arg;
    const struct bench *b = p->b;
    struct plm_pq_train_options options = {8, 50, b->seed};
    float *columns = malloc(b->n * p->dsub * sizeof *columns);
    (void)worker;

    if (!columns)
        die("out of memory", NULL);
    for (size_t i = 0; i < b->n; i++)
        memcpy(columns + i * p->dsub, b->rows + i * b->dim + task * p->dsub, p->dsub * sizeof(float));
    enum plm_code rc = plm_pq_train_subvector(b->ctx, columns, b->n, p->dsub, (uint32_t)task, &options,
                                              p->codebook + task * 256 * p->dsub, &p->errors[task], err);
    free(columns);
    return rc;
}

/* Sum over sub-vectors of the mean squared error of all rows, coded with this codebook. */
static double judge_pq(const struct bench *b, const float *codebook, uint32_t dsub)
{
    struct plm_pq pq = {0};
    struct plm_err err = {0};
    double error = 0;

    check(plm_pq_init(b->ctx, (uint32_t)b->wanted, dsub, 8, codebook, &pq, &err), &err);
    void *scratch = malloc(plm_pq_encode_bytes(&pq));
    uint8_t *codes = malloc(PLM_BLOCK_ROWS * b->wanted);
    float *decoded = malloc(b->dim * sizeof *decoded);
    if (!scratch || !codes || !decoded)
        die("out of memory", NULL);
    for (size_t i = 0; i < b->n; i += PLM_BLOCK_ROWS) {
        size_t n = plm_min_size(PLM_BLOCK_ROWS, b->n - i);

        plm_pq_encode(b->ctx->kernels, &pq, b->rows + i * b->dim, n, NULL, NULL, codes, scratch);
        for (size_t j = 0; j < n; j++) {
            plm_pq_decode(&pq, codes + j * b->wanted, decoded);
            error += b->ctx->kernels->l2_exact(b->rows + (i + j) * b->dim, decoded, b->dim) / (double)b->n;
        }
    }
    plm_pq_reset(&pq);
    free(scratch);
    free(codes);
    free(decoded);
    return error;
}

static void bench_pq(struct bench *b)
{
    struct pq_bench p = {.b = b, .dsub = (uint32_t)(b->dim / b->wanted)};
    struct plm_err err = {0};
    double began = plm_now_seconds(), cpu = cpu_seconds(), error = 0;

    if (b->dim % b->wanted)
        die("M does not divide the dimension", NULL);
    p.errors = calloc(b->wanted, sizeof *p.errors);
    p.codebook = calloc(b->wanted * 256, p.dsub * sizeof *p.codebook);
    check(plm_parallel(b->ctx, b->wanted, pq_task, &p, &err), &err);
    began = plm_now_seconds() - began, cpu = cpu_seconds() - cpu;
    for (size_t i = 0; i < b->wanted; i++)
        error += p.errors[i];
    printf("{\"what\": \"pq\", \"rows\": %zu, \"dim\": %zu, \"m\": %zu, \"seconds\": %.3f, "
           "\"cpu_seconds\": %.3f, \"error\": %.9g, \"reported_error\": %.9g", b->n, b->dim, b->wanted,
           began, cpu, judge_pq(b, p.codebook, p.dsub), error);
    if (getenv("TRAIN_BENCH_HASH"))
        printf(", \"hash\": \"%016" PRIx64 "\"", plm_xxh3(p.codebook, b->dim * 256 * sizeof(float)));
    free(p.errors);
    free(p.codebook);
}

/* ---- the command ------------------------------------------------------------------------------ */

static size_t number(int argc, char **argv, const char *name, size_t fallback)
{
    for (int i = 4; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return (size_t)strtoull(argv[i + 1], NULL, 10);
    return fallback;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct plm_ctx_options options;
    struct plm_err err = {0};
    struct rusage u;

    if (argc < 4 || (strcmp(argv[1], "ivf") != 0 && strcmp(argv[1], "pq") != 0))
        die("usage: train_bench ivf|pq ROWS K|M [--threads N] [--dim D] [--rows N] [--dot] [--seed S]", NULL);
    plm_ctx_options_default(&options);
    options.threads = (unsigned)number(argc, argv, "--threads", 0);
    options.memory_budget_bytes = (uint64_t)1 << 40;
    check(plm_ctx_create(&options, &b.ctx, &err), &err);
    b.dim = number(argc, argv, "--dim", 0);
    b.n = number(argc, argv, "--rows", 0);
    b.seed = number(argc, argv, "--seed", 0);
    b.dot = strcmp(argv[argc - 1], "--dot") == 0;
    b.wanted = strtoull(argv[3], NULL, 10);
    map_rows(&b, argv[2]);
    if (b.wanted == 0 || b.n == 0 || b.n < b.wanted)
        die("fewer rows than centroids, or none", NULL);
    if (strcmp(argv[1], "ivf") == 0)
        bench_ivf(&b);
    else
        bench_pq(&b);
    getrusage(RUSAGE_SELF, &u);
    printf(", \"threads\": %u, \"simd\": \"%s\", \"peak_mib\": %.1f, \"phases\": {", b.ctx->threads,
           b.ctx->kernels->name, (double)u.ru_maxrss / 1024);
    for (size_t i = 0; i < b.n_phases; i++)
        printf("%s\"%s\": [%.3f, %.3f]", i ? ", " : "", b.phases[i].what, b.phases[i].wall,
               b.phases[i].cpu);
    printf("}}\n");
    plm_ctx_destroy(b.ctx);
    return 0;
}
