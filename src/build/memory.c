/* memory.c - divides the budget between what each phase keeps.
 *
 * Every formula counts the blocks that are alive at the phase's highest moment; docs/memory.md says
 * the same in words, and tests/python/test_memory.py builds with exactly what comes out. Windows
 * whose size shapes nothing (sampling, reading a spilled sample back, verifying) are made from what
 * is left when they are opened: only their least counts here.
 */
#include "build/check.h"
#include "build/plan_parts.h"
#include "build/train_parts.h"
#include "cluster/assign.h"
#include "cluster/train.h"
#include "rows/source_impl.h"
#include "store/writer.h"

/* What grows uncharged after the context was made: code and libraries that come into use, what malloc
 * keeps, stacks. Measured 0.4-3 MiB with 2 to 8 threads on Debian 12; HTTP and TLS on top of that. */
#define GROWTH_BYTES ((uint64_t)3 << 20)
#define GROWTH_BYTES_REMOTE ((uint64_t)12 << 20)
#define STACK_BYTES ((uint64_t)96 << 10)
#define MERGE_BYTES ((uint64_t)64 << 20)
#define MERGE_BYTES_FAR ((uint64_t)1 << 30)
#define SLICE_BYTES ((size_t)8 << 20)
#define SLICE_BYTES_MIN ((size_t)256 << 10)
#define GATHER_BYTES ((uint64_t)256 << 20)
#define GATHER_PASSES_MAX 8 /* over the table; more would cost more than spilling it */
#define GATHER_PASSES_KEPT 16 /* over a table that is in memory */
#define WRITE_BYTES (((uint64_t)1 << 20) + PLM_DIRECT_ALIGN) /* buffer of a run being written */
#define PART_BYTES (((uint64_t)8 << 20) + PLM_DIRECT_ALIGN) /* the same on S3 */
#define TASK_BYTES_SHARED ((uint64_t)256 << 10)
#define TASK_COLUMN_BYTES ((uint64_t)8 << 20)
#define SEGMENT_BYTES ((uint64_t)16 << 10) /* of a segment that is open: its files, their lists of pages */
#define VERIFY_BYTES ((uint64_t)3 << 20) /* the least windows of verify */
#define MARGIN_BYTES ((uint64_t)1 << 20) /* blocks too small to be listed, and their rounding */

/* Batches and runs: as large as the budget allows. */
static const struct {
    size_t batch_bytes;
    uint64_t task_bytes;
} sizes[] = {
    {4 << 20, 64 << 20}, {4 << 20, 32 << 20}, {1 << 20, 32 << 20},  {1 << 20, 16 << 20},
    {1 << 20, 8 << 20},  {512 << 10, 4 << 20}, {256 << 10, 2 << 20}, {128 << 10, 1 << 20},
    {128 << 10, 512 << 10}, {128 << 10, 256 << 10},
};
#define N_SIZES (sizeof sizes / sizeof *sizes)

struct shape {
    const struct plm_source *source;
    const struct plm_plan *plan;
    uint64_t fixed;     /* process and metadata */
    uint64_t centroids; /* one copy */
    uint64_t codebook;
    uint32_t code_bytes;
    bool is_remote;
};

/* ---- encode ------------------------------------------------------------------------- */

static uint64_t batch_bytes(const struct shape *s, size_t rows)
{
    /* and 4 MiB of chunks where a page is not a plain array */
    return plm_batch_bytes(s->source, rows) + rows * sizeof(double);
}

static uint64_t encode_bytes(const struct shape *s, unsigned threads, size_t batch_rows,
                             uint64_t task_rows)
{
    const struct plm_plan *p = s->plan;
    uint64_t k = p->num_partitions, dim = p->column.dim;
    uint64_t per_row = s->code_bytes + sizeof(uint64_t) + 2 * sizeof(uint32_t);
    uint64_t each = batch_bytes(s, batch_rows) + task_rows * per_row + (k + 1) * sizeof(uint32_t);
    each += s->is_remote ? PART_BYTES : WRITE_BYTES;
    each += plm_assign_scratch_bytes(k, dim);
    each += PLM_BLOCK_ROWS * (dim + PLM_PROBE_QUERIES) * sizeof(float);
    each += PLM_PROBE_QUERIES * PLM_PROBE_K * sizeof(struct plm_neighbour);
    if (p->quantizer == PLM_PQ)
        each += 8 * PLM_BLOCK_ROWS * dim + 65536;
    uint64_t probes = 2 * PLM_PROBE_QUERIES * dim * sizeof(float);
    return s->fixed + s->centroids + s->codebook + plm_assigner_bytes(k, dim) + probes + threads * each;
}

/* ---- merge and verify ------------------------------------------------------------------ */

/* index.idx is made in memory: the message, and the file that holds it; the tail of auxiliary.idx. */
static uint64_t tail_bytes(const struct shape *s)
{
    return 2 * s->centroids + 4 * s->codebook + (uint64_t)s->plan->num_partitions * 128;
}

/* Runs that are open at once: those of one segment. */
static uint64_t runs_of_segment(const struct plm_plan *p, uint64_t task_rows)
{
    uint64_t most = 0;

    for (size_t i = 0; i < p->n_segments; i++)
        most = plm_max_u64(most, p->segments[i].n_rows);
    return most / task_rows + 1;
}

/* Merging beside the blocks that are put together at once, with the lengths of all segments. */
static uint64_t beside_blocks(const struct shape *s, unsigned threads, uint64_t task_rows, size_t slice)
{
    const struct plm_plan *p = s->plan;
    uint64_t k = p->num_partitions, runs = runs_of_segment(p, task_rows);
    return s->fixed + s->centroids + s->codebook + tail_bytes(s) + k * (12 + 4 * p->n_segments) +
           2 * runs * ((k + 1) * sizeof(uint32_t) + 512) + threads * (slice + 65536);
}

static uint64_t block_bytes(const struct shape *s)
{
    struct plm_layout l = plm_layout_of(s->plan->n_live, s->code_bytes);
    return plm_min_u64(l.rows_per_block, l.n_rows) * (8 + (uint64_t)s->code_bytes) + 128 + 2 * PLM_DIRECT_ALIGN;
}

static uint64_t least_merge_bytes(const struct shape *s, uint64_t task_rows)
{
    return beside_blocks(s, 1, task_rows, SLICE_BYTES_MIN) + block_bytes(s);
}

/* The least that looking for rows takes, of a sample or of all. */
static uint64_t look_bytes(const struct shape *s)
{
    const struct plm_plan *p = s->plan;
    uint64_t rows = plm_min_u64(p->n_live, PLM_CHECK_SAMPLE_MAX), all = 0, dim = p->column.dim;
    uint64_t each = plm_check_row_bytes(dim, s->code_bytes);

    if (p->checks_all)
        all = plm_assigner_bytes(p->num_partitions, dim) + plm_assign_scratch_bytes(p->num_partitions, dim) +
              (p->quantizer == PLM_PQ ? 8 * PLM_BLOCK_ROWS * dim + 65536 : 0) + PLM_CHECK_ROWS_MIN * each +
              batch_bytes(s, PLM_CHECK_ROWS_MIN);
    return plm_max_u64(all, rows * each + batch_bytes(s, 64));
}

/* The model as it is read back from each segment, beside the one built; rows with their codes; windows. */
static uint64_t verify_bytes(const struct shape *s)
{
    const struct plm_plan *p = s->plan;
    uint64_t k = p->num_partitions;
    uint64_t model = s->centroids + s->codebook + k * 12 + SEGMENT_BYTES, stored = s->centroids + s->codebook;
    uint64_t report = k * 128;
    return s->fixed + s->centroids + s->codebook + k * 4 * p->n_segments + p->n_segments * model +
           plm_max_u64(stored, look_bytes(s) + k * 8 + VERIFY_BYTES) + report;
}

/* ---- train -------------------------------------------------------------------------------- */

/* Training rows that this process keeps: with several workers its share, and as much again for
 * the shards of a worker that was lost. */
static uint64_t kept_rows(const struct plm_plan *p)
{
    return p->n_workers < 2 ? p->sample_rows
                            : plm_min_u64(p->sample_rows, 2 * (p->sample_rows / p->n_workers + 1));
}

/* With row ids. */
static uint64_t sample_bytes(const struct plm_plan *p)
{
    return kept_rows(p) * p->column.dim * sizeof(float);
}

static uint64_t pq_rows(const struct plm_plan *p)
{
    return plm_min_u64(p->sample_rows, (uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits);
}

/* Everything but centroids: partitions of the rows first, then columns and codewords. */
static uint64_t codebook_bytes(const struct shape *s, unsigned threads, size_t group, bool spilled)
{
    const struct plm_plan *p = s->plan;
    if (p->quantizer != PLM_PQ)
        return 0;
    uint32_t dim = p->column.dim, dsub = dim / p->num_sub_vectors;
    uint64_t chunk = PLM_PQ_CHUNK_ROWS * (uint64_t)dim * sizeof(float), ids = pq_rows(p) * sizeof(uint32_t);
    uint64_t place = plm_assigner_bytes(p->num_partitions, dim) +
                     threads * (chunk + plm_assign_scratch_bytes(p->num_partitions, dim));
    uint64_t columns = pq_rows(p) * group * dsub * sizeof(float);
    uint64_t learn = threads * plm_pq_train_bytes((size_t)pq_rows(p), dsub, p->num_bits);
    uint64_t gather = spilled ? threads * chunk : 0;
    return ids + 3 * s->codebook + plm_max_u64(place, columns + plm_max_u64(learn, gather));
}

/* What training keeps on disk. */
enum spill { NOTHING, SAMPLE, SAMPLE_AND_PROJECTED, N_SPILLS };

/* Training beside the rows of the sample. */
static uint64_t train_bytes(const struct shape *s, unsigned threads, size_t pq_group, enum spill spill, bool has_axes)
{
    const struct plm_plan *p = s->plan;
    struct plm_train_shape shape = {kept_rows(p), p->column.dim, p->num_partitions, threads,
                                    spill == SAMPLE_AND_PROJECTED, has_axes};
    bool spilled = spill != NOTHING;
    uint32_t dim = p->column.dim;
    uint64_t slices = kept_rows(p) / PLM_SLICE_ROWS + 66, rowids = kept_rows(p) * sizeof(uint64_t);
    uint64_t sampling = slices * 160 + batch_bytes(s, PLM_SLICE_ROWS);
    uint64_t ivf = plm_train_bytes(&shape);
    if (spilled)
        ivf += plm_train_spill_bytes(dim, threads);
    uint64_t codebook = s->centroids + codebook_bytes(s, threads, pq_group, spilled); /* centroids: the model's */
    uint64_t handed_over = s->centroids + p->num_partitions * (uint64_t)dim * sizeof(float);
    uint64_t most = plm_max_u64(plm_max_u64(sampling, ivf), plm_max_u64(codebook, handed_over));
    return s->fixed + rowids + most + PLM_PROBE_QUERIES * dim * sizeof(float);
}

/* ---- what fits ------------------------------------------------------------------------------ */

static uint64_t rows_of(uint64_t bytes, uint32_t code_bytes, uint64_t n_live)
{
    return plm_max_u64(1, plm_min_u64(n_live, bytes / (code_bytes + sizeof(uint64_t))));
}

static void use_size(const struct shape *s, size_t i, unsigned threads, struct plm_memory_plan *m)
{
    m->encode_threads = threads;
    m->batch_rows = plm_batch_rows(s->source, sizes[i].batch_bytes);
    m->task_rows = rows_of(sizes[i].task_bytes, s->code_bytes, s->plan->n_live);
}

/* Encoding, and merging its runs with one thread at least. */
static uint64_t runs_bytes(const struct shape *s, const struct plm_memory_plan *m)
{
    return plm_max_u64(encode_bytes(s, m->encode_threads, m->batch_rows, m->task_rows),
                       least_merge_bytes(s, m->task_rows));
}

/* Shrinks batches and runs, then threads, until encoding and merging fit; else what takes least. */
static uint64_t fit_encode(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    uint64_t least = UINT64_MAX;
    for (unsigned threads = s->plan->ctx->threads; threads >= 1; threads = threads / 2)
        for (size_t i = 0; i < N_SIZES; i++) {
            struct plm_memory_plan tried = *m;
            use_size(s, i, threads, &tried);
            uint64_t bytes = runs_bytes(s, &tried);
            if (bytes < least) {
                *m = tried;
                least = bytes;
            }
            if (bytes <= budget) {
                *m = tried;
                return bytes;
            }
        }
    return least;
}

static bool is_on_local_disk(const struct plm_source *source)
{
    for (size_t i = 0; i < source->n_fragments; i++)
        if (source->fragments[i].store && !plm_store_is_local(source->fragments[i].store))
            return false;
    return true;
}

/* Every group of blocks reads a slice of every run: few groups where a read is a request. Returns
 * what merging takes. */
static uint64_t fit_merge(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    struct plm_layout l = plm_layout_of(s->plan->n_live, s->code_bytes);
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
    want = plm_min_u64(want, plm_max_u64(block, plm_layout_end(&l) + block));
    m->merge_bytes = beside + block <= budget ? plm_min_u64(want, budget - beside) : block;
    return beside + m->merge_bytes;
}

/* Would the page cache still have the column when it is read again? It has what the process does not take, and an
 * eighth of that is for others. */
static bool is_cached(const struct shape *s, uint64_t taken)
{
    const struct plm_plan *p = s->plan;
    uint64_t left = s->source->ctx->memory_limit_bytes;

    left = left > taken ? (left - taken) / 8 * 7 : 0;
    return p->n_live <= left / (p->column.dim * plm_element_bytes(p->column.element));
}

/* FLAT on a local disk: rather than spilling a copy of the column, merging reads it again and puts
 * as much of the index together as there is room for. Otherwise, and where each pass would read the table from
 * its device, gather_bytes is 0. Returns what merging takes then, or `merge`. */
static uint64_t fit_gather(const struct shape *s, uint64_t budget, uint64_t merge, struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    struct plm_layout l = plm_layout_of(p->n_live, s->code_bytes);
    uint64_t whole = plm_layout_end(&l), block = block_bytes(s);
    uint64_t beside = beside_blocks(s, 0, m->task_rows, 0) + block + /* the last one is a part of one */
                      m->encode_threads * (batch_bytes(s, m->batch_rows) + 2 * m->task_rows * sizeof(uint32_t));
    uint64_t room = plm_min_u64(plm_max_u64(GATHER_BYTES, whole / 4), whole); /* more would not be faster */

    if (m->keeps_sample) /* nothing is read twice */
        room = plm_min_u64(plm_max_u64(MERGE_BYTES, whole / GATHER_PASSES_KEPT), whole);

    m->gather_bytes = 0;
    if (p->quantizer != PLM_FLAT || p->n_workers > 0 || !is_on_local_disk(s->source))
        return merge;
    room = budget > beside ? plm_min_u64(budget - beside, room) : 0;
    if (room < block || (whole / room >= GATHER_PASSES_MAX && !m->keeps_sample))
        return merge;
    if (room < whole && !m->keeps_sample && !is_cached(s, beside + room))
        return merge;
    m->gather_bytes = room == whole ? whole + block : room;
    return beside + room;
}

/* Keeps the sample while rows are encoded, and while FLAT gathers them, where it holds most of the
 * table and there is room for both. Returns what it takes, else 0. */
static uint64_t fit_kept(const struct shape *s, uint64_t budget, uint64_t encode, struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    uint64_t stretches = p->n_live / (PLM_SLICE_ROWS * PLM_KEPT_PARTS) + s->source->n_fragments;
    uint64_t bytes = sample_bytes(p) + kept_rows(p) * sizeof(uint64_t) + stretches * sizeof(struct plm_kept) +
                     MARGIN_BYTES;
    struct plm_memory_plan tried = *m;

    m->keeps_sample = false;
    if (m->sample_bytes == 0 || p->n_workers > 0 || p->column.element != PLM_F32 || bytes > budget ||
        encode > budget - bytes || p->sample_rows < p->n_live / PLM_KEPT_PARTS * (PLM_KEPT_PARTS - 1))
        return 0;
    tried.keeps_sample = true;
    (void)fit_gather(s, budget - bytes, 0, &tried);
    m->keeps_sample = p->quantizer != PLM_FLAT || tried.gather_bytes > 0;
    return m->keeps_sample ? bytes : 0;
}

/* The sample in memory or, failing that, spilled, then projected rows, too; then fewer sub-vectors at a time, then fewer
 * threads; else what takes least. Returns the bytes that training takes. */
static uint64_t fit_train(const struct shape *s, uint64_t budget, struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    size_t whole = p->num_sub_vectors ? p->num_sub_vectors : 1;
    uint64_t kept = sample_bytes(p), least = UINT64_MAX;
    unsigned fewest = p->n_workers > 0 ? p->ctx->threads : 1; /* workers train with all they have */

    for (unsigned threads = p->ctx->threads; threads >= fewest; threads /= 2)
        for (int spill = NOTHING; spill < N_SPILLS; spill++)
            for (size_t group = plm_min_size(whole, 16); group >= 1; group /= 2) {
                uint64_t bytes = train_bytes(s, threads, group, (enum spill)spill, false) + (spill ? 0 : kept);
                if (bytes >= least)
                    continue;
                least = bytes;
                m->train_threads = threads;
                m->pq_group = group;
                m->sample_bytes = spill ? 0 : (size_t)plm_min_u64(kept, SIZE_MAX / 2);
                m->spills_projected = spill == SAMPLE_AND_PROJECTED;
                if (bytes <= budget)
                    return bytes;
            }
    return least;
}

/* What training takes as it was fitted, with the axes it begins with. */
static uint64_t train_with_axes(const struct shape *s, const struct plm_memory_plan *m)
{
    enum spill spill = m->spills_projected ? SAMPLE_AND_PROJECTED : m->sample_bytes > 0 ? NOTHING : SAMPLE;

    return train_bytes(s, m->train_threads, m->pq_group, spill, true) + m->sample_bytes;
}

/* Enough tasks that all threads and workers end at about the same time. Runs are no shorter than
 * TASK_BYTES_SHARED, so that merging reads long slices; without workers, nor is a task's part of
 * the column shorter than TASK_COLUMN_BYTES, so that it is read in long ranges. */
static uint64_t share_tasks(const struct shape *s, const struct plm_memory_plan *m)
{
    const struct plm_plan *p = s->plan;
    uint64_t lanes = p->n_workers ? (uint64_t)p->n_workers * p->ctx->threads : m->encode_threads;
    if (lanes <= 1 && !p->n_workers)
        return m->task_rows;
    uint64_t least = rows_of(TASK_BYTES_SHARED, s->code_bytes, p->n_live);
    if (!p->n_workers)
        least = plm_max_u64(least, TASK_COLUMN_BYTES / (p->column.dim * plm_element_bytes(p->column.element)));
    least = plm_min_u64(m->task_rows, least);
    return plm_max_u64(least, plm_min_u64(m->task_rows, p->n_live / (4 * lanes) + 1));
}

uint64_t plm_fixed_bytes(const struct plm_ctx *ctx, bool is_remote)
{
    return ctx->memory_base_bytes + atomic_load(&ctx->memory_used) + ctx->threads * STACK_BYTES +
           (is_remote ? GROWTH_BYTES_REMOTE : GROWTH_BYTES) + MARGIN_BYTES;
}

uint64_t plm_named_mib(uint64_t bytes)
{
    return (bytes + ((uint64_t)2 << 20)) >> 20;
}

static struct shape shape_of(const struct plm_source *source, const struct plm_plan *p)
{
    struct plm_ctx *ctx = source->ctx;
    struct shape s = {.source = source, .plan = p, .code_bytes = plm_plan_code_bytes(p)};
    uint64_t dim = p->column.dim;

    s.is_remote = !plm_store_is_local(source->manifest->store);
    s.fixed = plm_fixed_bytes(ctx, s.is_remote);
    s.centroids = p->num_partitions * dim * plm_max_size(sizeof(float), (size_t)plm_element_bytes(p->column.element));
    s.codebook = p->quantizer == PLM_PQ ? (dim << p->num_bits) * 3 * sizeof(float) : 0; /* plm_codewords_bytes, too */
    return s;
}

/* Reading the table's metadata took this much already. */
static uint64_t opening_bytes(const struct shape *s)
{
    const struct plm_ctx *ctx = s->source->ctx;
    return s->fixed - atomic_load(&ctx->memory_used) + atomic_load(&ctx->memory_peak);
}

static uint64_t smallest_bytes(const struct shape *s)
{
    struct plm_memory_plan least = {0};
    uint64_t bytes = plm_max_u64(fit_encode(s, 0, &least), fit_train(s, 0, &least));
    return plm_max_u64(plm_max_u64(bytes, verify_bytes(s)), opening_bytes(s));
}

enum plm_code plm_plan_memory(const struct plm_source *source, struct plm_plan *p,
                              struct plm_err *err)
{
    struct shape s = shape_of(source, p);
    struct plm_memory_plan m = {.smallest_bytes = smallest_bytes(&s)};
    uint64_t budget = p->budget_bytes;

    if (m.smallest_bytes > budget) {
        uint64_t mib = plm_named_mib(m.smallest_bytes);
        p->memory = m;
        return plm_fail(err, PLM_LIMIT,
                        "memory budget of %" PRIu64 " bytes is too small: %" PRIu64
                        " MiB is the smallest that would do for %u partition%s of dimension %u",
                        budget, mib, p->num_partitions, p->num_partitions == 1 ? "" : "s", p->column.dim);
    }
    (void)fit_encode(&s, budget, &m);
    m.task_rows = share_tasks(&s, &m);
    uint64_t merge = fit_merge(&s, budget, &m);
    uint64_t train = fit_train(&s, budget, &m);
    uint64_t encode = encode_bytes(&s, m.encode_threads, m.batch_rows, m.task_rows);
    uint64_t kept = fit_kept(&s, budget, encode, &m), beside = p->quantizer == PLM_FLAT ? kept : 0;
    m.views_sample = source->ctx->map_files && m.sample_bytes > 0 && p->metric != PLM_COSINE &&
                     plm_source_may_be_viewed(source);
    merge = beside + fit_gather(&s, budget - beside, merge, &m);
    encode += kept;
    uint64_t others = plm_max_u64(plm_max_u64(encode, merge), verify_bytes(&s));
    m.expected_bytes = plm_max_u64(others, train);
    m.expected_with_axes_bytes = plm_max_u64(others, train_with_axes(&s, &m));
    p->memory = m;
    return PLM_OK;
}
