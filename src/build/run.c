#include "build/run.h"

#include "build/piece.h"

#define MAGIC "PLMRUN01"
#define READ_BYTES ((size_t)1 << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "runs are written as they lie in memory");

struct footer {
    struct plm_run_stats stats;
    char job[40];
    uint64_t task, n, n_probes;
    uint32_t k, code_bytes;
    uint64_t xxh3; /* of everything before the footer */
    char magic[8];
};

static uint64_t run_bytes(uint64_t n, uint32_t k, uint32_t code_bytes, uint64_t n_probes)
{
    return (uint64_t)k * sizeof(uint32_t) + n * (sizeof(uint64_t) + code_bytes) +
           n_probes * PLM_PROBE_K * sizeof(struct plm_neighbour) + sizeof(struct footer);
}

uint32_t plm_run_code_bytes(const struct plm_job *job)
{
    return job->plan.memory.gather_bytes ? (uint32_t)sizeof(uint32_t) : plm_model_code_bytes(&job->model);
}

/* ---- writing ----------------------------------------------------------------------------- */

/* Rows of one partition, in row order: order[0..n). */
static enum plm_code put_codes(struct plm_piece *o, const uint8_t *codes, const uint32_t *order, size_t n,
                               size_t code_bytes, bool transpose, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if (!transpose) {
        for (size_t i = 0; i < n; i++)
            PLM_TRY(plm_piece_put(o, codes + order[i] * code_bytes, code_bytes, err));
        return PLM_OK;
    }
    for (size_t j = 0; j < code_bytes; j++)
        for (size_t i = 0; i < n; i++) {
            o->buffer[o->used++] = codes[order[i] * code_bytes + j];
            if (o->used == o->cap)
                PLM_TRY(plm_piece_flush(o, err));
        }
done:
    return rc;
}

/* Counting sort: order = rows by partition, starts[p] .. starts[p + 1) those of p. */
static void sort_rows(const struct plm_run_rows *rows, uint32_t k, uint32_t *starts, uint32_t *order)
{
    memset(starts, 0, ((size_t)k + 1) * sizeof *starts);
    for (size_t i = 0; i < rows->n; i++)
        starts[rows->ids[i] + 1]++;
    for (uint32_t p = 0; p < k; p++)
        starts[p + 1] += starts[p];
    for (size_t i = 0; i < rows->n; i++)
        order[starts[rows->ids[i]]++] = (uint32_t)i;
    for (uint32_t p = k; p > 0; p--) /* the fill moved each start to the next one */
        starts[p] = starts[p - 1];
    starts[0] = 0;
}

static enum plm_code put_run(struct plm_job *job, struct plm_piece *o, const struct plm_run_rows *rows,
                             const uint32_t *starts, const uint32_t *order,
                             const struct plm_neighbour *neighbours, struct plm_err *err)
{
    uint32_t k = job->model.k, code_bytes = plm_run_code_bytes(job);
    bool transpose = job->model.quantizer == PLM_PQ;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = 0; p < k; p++) {
        uint32_t length = starts[p + 1] - starts[p];
        PLM_TRY(plm_piece_put(o, &length, sizeof length, err));
    }
    for (size_t i = 0; i < rows->n; i++)
        PLM_TRY(plm_piece_put(o, &rows->rowids[order[i]], sizeof(uint64_t), err));
    for (uint32_t p = 0; p < k; p++)
        PLM_TRY(put_codes(o, rows->codes, order + starts[p], starts[p + 1] - starts[p], code_bytes,
                          transpose, err));
    PLM_TRY(plm_piece_put(o, neighbours, job->probes.n * PLM_PROBE_K * sizeof *neighbours, err));
done:
    return rc;
}

static enum plm_code put_footer(struct plm_job *job, struct plm_piece *o, size_t task, size_t n,
                                const struct plm_run_stats *stats, struct plm_err *err)
{
    struct footer f;
    memset(&f, 0, sizeof f); /* padding too: runs are deterministic */
    f.stats = *stats;
    memcpy(f.job, job->plan.id, sizeof job->plan.id);
    f.task = task;
    f.n = n;
    f.n_probes = job->probes.n;
    f.k = job->model.k;
    f.code_bytes = plm_run_code_bytes(job);
    f.xxh3 = plm_piece_digest(o);
    memcpy(f.magic, MAGIC, 8);
    return plm_piece_put(o, &f, sizeof f, err);
}

enum plm_code plm_run_write(struct plm_job *job, size_t task, const struct plm_run_rows *rows,
                            const struct plm_run_stats *stats,
                            const struct plm_neighbour *neighbours, struct plm_err *err)
{
    struct plm_ctx *ctx = job->ctx;
    struct plm_piece o = {0};
    uint32_t k = job->model.k, *starts = NULL, *order = NULL;
    uint64_t size = run_bytes(rows->n, k, plm_run_code_bytes(job), job->probes.n);
    char name[32];
    enum plm_code rc = PLM_OK;

    snprintf(name, sizeof name, "run-%zu", task);
    PLM_TRY(plm_alloc(ctx, &starts, (size_t)k + 1, sizeof *starts, err));
    PLM_TRY(plm_alloc(ctx, &order, rows->n, sizeof *order, err));
    sort_rows(rows, k, starts, order);
    PLM_TRY(plm_piece_open(job, name, size, &o, err));
    if (plm_plan_is_large(&job->plan))
        plm_piece_set_direct(&o);
    PLM_TRY(put_run(job, &o, rows, starts, order, neighbours, err));
    PLM_TRY(put_footer(job, &o, task, rows->n, stats, err));
    PLM_TRY(plm_piece_finish(&o, false, err));
done:
    plm_piece_reset(&o);
    plm_free(ctx, order);
    plm_free(ctx, starts);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------- */

static enum plm_code check_footer(const struct plm_job *job, size_t task, const struct footer *f,
                                  uint64_t size, struct plm_err *err)
{
    uint32_t code_bytes = plm_run_code_bytes(job);
    if (memcmp(f->magic, MAGIC, 8) != 0 || memcmp(f->job, job->plan.id, sizeof job->plan.id) != 0 ||
        f->task != task || f->k != job->model.k || f->code_bytes != code_bytes ||
        f->n_probes != job->probes.n || f->n > job->plan.tasks[task].n)
        return plm_fail(err, PLM_CORRUPT, "run %zu: of another job", task);
    if (size != run_bytes(f->n, f->k, code_bytes, f->n_probes))
        return plm_fail(err, PLM_CORRUPT, "run %zu: %" PRIu64 " bytes, expected %" PRIu64, task, size,
                        run_bytes(f->n, f->k, code_bytes, f->n_probes));
    return PLM_OK;
}

static enum plm_code check_content(struct plm_ctx *ctx, struct plm_file *file, size_t task,
                                   uint64_t n_bytes, uint64_t expected, struct plm_err *err)
{
    XXH3_state_t *hash = XXH3_createState();
    uint8_t *buffer = NULL;
    enum plm_code rc = PLM_OK;

    if (!hash) {
        rc = plm_fail(err, PLM_NOMEM, "run %zu: out of memory", task);
        goto done;
    }
    XXH3_64bits_reset(hash);
    PLM_TRY(plm_alloc(ctx, &buffer, READ_BYTES, 1, err));
    for (uint64_t at = 0; at < n_bytes; at += READ_BYTES) {
        size_t n = (size_t)plm_min_u64(READ_BYTES, n_bytes - at);
        PLM_TRY(plm_file_read(file, at, n, buffer, err));
        XXH3_64bits_update(hash, buffer, n);
    }
    if (XXH3_64bits_digest(hash) != expected)
        rc = plm_fail(err, PLM_CORRUPT, "run %zu: checksum differs", task);
done:
    plm_free(ctx, buffer);
    XXH3_freeState(hash);
    return rc;
}

static enum plm_code read_starts(struct plm_job *job, struct plm_run *run, uint64_t n, size_t task,
                                 struct plm_err *err)
{
    uint32_t k = job->model.k;
    uint64_t sum = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(job->ctx, &run->starts, (size_t)k + 1, sizeof *run->starts, err));
    PLM_TRY(plm_file_read(run->file, 0, k * sizeof(uint32_t), run->starts + 1, err));
    run->starts[0] = 0;
    for (uint32_t p = 0; p < k; p++) {
        sum += run->starts[p + 1];
        if (sum > n)
            return plm_fail(err, PLM_CORRUPT, "run %zu: partition lengths exceed its %" PRIu64 " rows", task, n);
        run->starts[p + 1] = (uint32_t)sum;
    }
    if (sum != n)
        rc = plm_fail(err, PLM_CORRUPT, "run %zu: partition lengths sum to %" PRIu64 ", expected %" PRIu64,
                      task, sum, n);
done:
    return rc;
}

enum plm_code plm_run_open(struct plm_job *job, size_t task, bool check_hash, struct plm_run *out,
                           struct plm_neighbour *neighbours, struct plm_err *err)
{
    struct plm_run run = {.ctx = job->ctx};
    struct footer f;
    char name[32];
    enum plm_code rc = PLM_OK;

    snprintf(name, sizeof name, "run-%zu", task);
    PLM_TRY(plm_file_open(job->work, name, 0, &run.file, err));
    uint64_t size = plm_file_size(run.file);
    if (size < sizeof f) {
        rc = plm_fail(err, PLM_CORRUPT, "run %zu: only %" PRIu64 " bytes", task, size);
        goto done;
    }
    uint64_t content = size - sizeof f;
    PLM_TRY(plm_file_read(run.file, content, sizeof f, &f, err));
    PLM_TRY(check_footer(job, task, &f, size, err));
    if (check_hash)
        PLM_TRY(check_content(job->ctx, run.file, task, content, f.xxh3, err));
    PLM_TRY(read_starts(job, &run, f.n, task, err));
    run.rowids_at = (uint64_t)f.k * sizeof(uint32_t);
    run.codes_at = run.rowids_at + f.n * sizeof(uint64_t);
    run.stats = f.stats;
    if (neighbours)
        PLM_TRY(plm_file_read(run.file, run.codes_at + f.n * f.code_bytes,
                              f.n_probes * PLM_PROBE_K * sizeof *neighbours, neighbours, err));
    *out = run;
    run = (struct plm_run){0};
done:
    plm_run_close(&run);
    return rc;
}

void plm_run_close(struct plm_run *run)
{
    if (!run->ctx)
        return;
    plm_free(run->ctx, run->starts);
    plm_file_close(run->file);
    *run = (struct plm_run){0};
}

/* ---- neighbours ------------------------------------------------------------------------------ */

static bool is_nearer(const struct plm_neighbour *a, const struct plm_neighbour *b)
{
    return a->distance < b->distance || (a->distance == b->distance && a->rowid < b->rowid);
}

void plm_neighbours_merge(struct plm_neighbour *into, const struct plm_neighbour *more, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = PLM_PROBE_K;
        while (at > 0 && is_nearer(&more[i], &into[at - 1]))
            at--;
        if (at == PLM_PROBE_K)
            continue;
        memmove(into + at + 1, into + at, (PLM_PROBE_K - 1 - at) * sizeof *into);
        into[at] = more[i];
    }
}
