/* memory.c - divides the budget between what each phase keeps. */
#include "build/plan_parts.h"
#include "cluster/assign.h"
#include "cluster/train.h"
#include "rows/source_impl.h"

/* The process itself: code, libraries, stacks, allocator. Measured 9-14 MiB on Debian 12. */
#define BASE_BYTES ((uint64_t)16 << 20)
#define BATCH_BYTES ((size_t)4 << 20)
#define BATCH_BYTES_MIN ((size_t)128 << 10)
#define TASK_BYTES ((uint64_t)64 << 20)
#define TASK_BYTES_MIN ((uint64_t)1 << 20)
#define TASK_BYTES_SHARED ((uint64_t)256 << 10)
#define MERGE_BYTES ((uint64_t)64 << 20)
#define MERGE_BYTES_FAR ((uint64_t)1 << 30)
#define SLICE_BYTES ((size_t)8 << 20)
#define SLICE_BYTES_MIN ((size_t)256 << 10)
#define GATHER_BYTES ((uint64_t)256 << 20)
#define GATHER_PASSES_MAX 8 /* over the table; more would cost more than spilling it */
#define WRITE_BYTES ((uint64_t)1 << 20) /* buffer of a run being written */

struct shape {
    const struct plm_source *source;
    const struct plm_plan *plan;
    uint64_t fixed; /* process, metadata, model */
    uint32_t code_bytes;
};

static uint64_t model_bytes(const struct plm_plan *p)
{
    uint64_t floats = (uint64_t)p->num_partitions * p->column.dim;
    if (p->quantizer == PLM_PQ)
        floats += (uint64_t)p->column.dim << p->num_bits;
    return floats * sizeof(float) + plm_assigner_bytes(p->num_partitions, p->column.dim);
}

static uint64_t encode_bytes(const struct shape *s, unsigned threads, size_t batch_rows,
                             uint64_t task_rows)
{
    const struct plm_plan *p = s->plan;
    uint64_t per_row = s->code_bytes + sizeof(uint64_t) + 2 * sizeof(uint32_t);
    uint64_t each = plm_batch_bytes(s->source, batch_rows) + task_rows * per_row + WRITE_BYTES;
    each += plm_assign_scratch_bytes(p->num_partitions, p->column.dim);
    each += 3 * (uint64_t)p->num_partitions * sizeof(uint32_t);
    return s->fixed + threads * each;
}

/* Merging beside the blocks that are put together at once. */
static uint64_t beside_blocks(const struct shape *s, unsigned threads, uint64_t task_rows, size_t slice)
{
    const struct plm_plan *p = s->plan;
    uint64_t runs = p->n_live / task_rows + 1 + p->n_segments;
    uint64_t tail = 8 * (uint64_t)p->num_partitions * p->column.dim;
    return s->fixed + tail + 2 * runs * (p->num_partitions + 64) * sizeof(uint32_t) + threads * slice;
}

static struct plm_layout layout_of(const struct shape *s)
{
    return plm_layout_of(s->plan->n_live, s->code_bytes);
}

static uint64_t block_bytes(const struct shape *s)
{
    struct plm_layout l = layout_of(s);
    return plm_min_u64(l.rows_per_block, l.n_rows) * (8 + (uint64_t)s->code_bytes) + 128;
}

/* Training rows that this process keeps: with several workers its share, and as much again for
 * the shards of a worker that was lost. */
static uint64_t kept_rows(const struct plm_plan *p)
{
    return p->n_workers < 2 ? p->sample_rows
                            : plm_min_u64(p->sample_rows, 2 * (p->sample_rows / p->n_workers + 1));
}

static uint64_t sample_bytes(const struct plm_plan *p)
{
    return kept_rows(p) * p->column.dim * sizeof(float);
}

static uint64_t pq_rows(const struct plm_plan *p)
{
    return plm_min_u64(p->sample_rows, (uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits);
}

/* Training beside the sample. */
static uint64_t train_bytes(const struct shape *s, unsigned threads, size_t pq_group)
{
    const struct plm_plan *p = s->plan;
    uint64_t ivf = plm_train_bytes(kept_rows(p), p->column.dim, p->num_partitions, threads), pq = 0;
    if (p->quantizer == PLM_PQ) {
        uint32_t dsub = p->column.dim / p->num_sub_vectors;
        pq = pq_rows(p) * (pq_group * dsub * sizeof(float) + sizeof(uint32_t)) +
             threads * plm_pq_train_bytes((size_t)pq_rows(p), dsub, p->num_bits);
    }
    return s->fixed + plm_max_u64(ivf, pq);
}

static uint64_t rows_of(uint64_t bytes, uint32_t code_bytes, uint64_t n_live)
{
    return plm_max_u64(1, plm_min_u64(n_live, bytes / (code_bytes + sizeof(uint64_t))));
}

/* Shrinks runs, then batches, then threads, until encoding and merging fit. */
static bool fit_encode(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    for (unsigned threads = s->plan->ctx->threads; threads >= 1; threads = threads / 2)
        for (size_t batch = BATCH_BYTES; batch >= BATCH_BYTES_MIN; batch /= 4)
            for (uint64_t task = TASK_BYTES; task >= TASK_BYTES_MIN; task /= 2) {
                m->encode_threads = threads;
                m->batch_rows = plm_batch_rows(s->source, batch);
                m->task_rows = rows_of(task, s->code_bytes, s->plan->n_live);
                if (encode_bytes(s, threads, m->batch_rows, m->task_rows) <= budget)
                    return true;
            }
    return false; /* m holds the smallest settings */
}

static bool is_on_local_disk(const struct plm_source *source)
{
    for (size_t i = 0; i < source->n_fragments; i++)
        if (source->fragments[i].store && !plm_store_is_local(source->fragments[i].store))
            return false;
    return true;
}

/* Every group of blocks reads a slice of every run: few groups where a read is a request. */
static bool fit_merge(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    struct plm_layout l = layout_of(s);
    bool is_far = s->plan->n_workers > 0 || !is_on_local_disk(s->source);
    uint64_t block = block_bytes(s), want = plm_max_u64(block, is_far ? MERGE_BYTES_FAR : MERGE_BYTES), beside;

    m->merge_threads = s->plan->ctx->threads;
    m->slice_bytes = SLICE_BYTES;
    while ((beside = beside_blocks(s, m->merge_threads, m->task_rows, m->slice_bytes)) + block > budget) {
        if (m->slice_bytes > SLICE_BYTES_MIN)
            m->slice_bytes /= 2;
        else if (m->merge_threads > 1)
            m->merge_threads--;
        else
            break;
    }
    bool fits = beside + block <= budget;
    want = plm_min_u64(want, plm_max_u64(block, plm_layout_end(&l) + block));
    m->merge_bytes = fits ? plm_min_u64(want, budget - beside) : block;
    return fits;
}

/* FLAT on a local disk: rather than spilling a copy of the column, merging reads it again and puts
 * as much of the index together as there is room for. Otherwise 0. */
static uint64_t gather_bytes(const struct shape *s, uint64_t budget, const struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    if (p->quantizer != PLM_FLAT || p->n_workers > 0 || !is_on_local_disk(s->source))
        return 0;
    struct plm_layout l = layout_of(s);
    uint64_t whole = plm_layout_end(&l), block = block_bytes(s);
    uint64_t beside = beside_blocks(s, 0, m->task_rows, 0);
    beside += m->encode_threads * (plm_batch_bytes(s->source, m->batch_rows) + 2 * m->task_rows * sizeof(uint32_t));
    uint64_t room = plm_min_u64(plm_max_u64(GATHER_BYTES, whole / 4), whole); /* more would not be faster */
    room = budget > beside ? plm_min_u64(budget - beside, room) : 0;
    if (room < block || whole / room >= GATHER_PASSES_MAX)
        return 0;
    return room == whole ? whole + block : room; /* the last block is a part of one */
}

static bool fit_train(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    size_t whole = p->num_sub_vectors ? p->num_sub_vectors : 1;
    m->pq_group = plm_min_size(whole, 16);
    while (m->pq_group > 1 && train_bytes(s, p->ctx->threads, m->pq_group) > budget)
        m->pq_group /= 2;
    uint64_t beside = train_bytes(s, p->ctx->threads, m->pq_group);
    if (beside > budget)
        return false;
    m->sample_bytes = (size_t)plm_min_u64(budget - beside, SIZE_MAX / 2);
    return true;
}

/* Enough tasks that several workers end at about the same time. Runs are no shorter than
 * TASK_BYTES_SHARED, so that merging reads long slices. */
static uint64_t share_tasks(const struct shape *s, uint64_t task_rows)
{
    const struct plm_plan *p = s->plan;
    uint64_t lanes = (uint64_t)p->n_workers * p->ctx->threads;
    if (p->n_workers < 1)
        return task_rows;
    uint64_t least = plm_min_u64(task_rows, rows_of(TASK_BYTES_SHARED, s->code_bytes, p->n_live));
    return plm_max_u64(least, plm_min_u64(task_rows, p->n_live / (4 * lanes) + 1));
}

enum plm_code plm_plan_memory(const struct plm_source *source, struct plm_plan *p,
                              struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct shape s = {source, p, BASE_BYTES + atomic_load(&ctx->memory_used) + model_bytes(p),
                      plm_plan_code_bytes(p)};
    struct plm_memory_plan m = {0};
    uint64_t budget = p->budget_bytes;

    bool fits = fit_encode(&s, budget, &m);
    m.task_rows = share_tasks(&s, m.task_rows);
    fits = fit_merge(&s, budget, &m) && fits;
    fits = fit_train(&s, budget, &m) && fits;
    uint64_t encode = encode_bytes(&s, m.encode_threads, m.batch_rows, m.task_rows);
    uint64_t merge = beside_blocks(&s, m.merge_threads, m.task_rows, m.slice_bytes) + m.merge_bytes;
    uint64_t train = train_bytes(&s, ctx->threads, m.pq_group);
    uint64_t kept = plm_min_u64(sample_bytes(p), m.sample_bytes);

    m.gather_bytes = gather_bytes(&s, budget, &m);
    if (m.gather_bytes)
        merge = s.fixed + m.gather_bytes;
    m.expected_bytes = plm_max_u64(plm_max_u64(encode, merge), train + kept);
    struct plm_memory_plan least = {0};
    (void)fit_encode(&s, 0, &least);
    m.smallest_bytes = plm_max_u64(encode_bytes(&s, least.encode_threads, least.batch_rows, least.task_rows),
                                   beside_blocks(&s, 1, least.task_rows, SLICE_BYTES_MIN) + block_bytes(&s));
    m.smallest_bytes = plm_max_u64(m.smallest_bytes, train_bytes(&s, ctx->threads, 1));
    p->memory = m;
    if (!fits) {
        uint64_t mib = (m.smallest_bytes >> 20) + 1;
        return plm_fail(err, PLM_LIMIT,
                        "memory budget of %" PRIu64 " bytes is too small: %" PRIu64
                        " MiB is the smallest that would do for %u partitions of dimension %u",
                        budget, mib, p->num_partitions, p->column.dim);
    }
    return PLM_OK;
}
