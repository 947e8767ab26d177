/* merge.c - runs to one auxiliary.idx for each segment.
 *
 * The partition lengths of all runs fix where every row goes: partition by partition, inside a
 * partition run by run, inside a run in row order. The file is cut into blocks of equal row
 * counts (plm_layout_of), so a block may begin and end inside a partition. Blocks are
 * independent tasks; each reads one contiguous range of row ids and one of codes from every run.
 * Runs without codes: merge_gather.c.
 */
#include <stdlib.h>

#include "build/merge_parts.h"
#include "build/segment_dir.h"

struct block_scratch {
    uint8_t *out;        /* the block as it lies in the file */
    uint8_t *slice;      /* a range of one run */
    size_t slice_cap;
    uint64_t *prefix;    /* [partitions of the block] rows that earlier runs have */
};

/* The final rows [first, end) of a block and the partitions they lie in. */
struct block {
    uint64_t first, end;
    uint32_t p_first, p_last;
    uint8_t *rowids, *codes; /* their pages in scratch->out */
};

uint32_t plm_merge_partition_of(const struct plm_merge *m, uint64_t row)
{
    uint32_t low = 0, high = m->k;
    while (high - low > 1) { /* last partition that starts at or before the row */
        uint32_t middle = low + (high - low) / 2;
        if (m->starts[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- reading a slice -------------------------------------------------------------------------- */

static enum plm_code read_slice(struct plm_merge *m, struct block_scratch *s, const struct plm_run *run,
                                uint64_t at, uint64_t n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if (n > s->slice_cap) {
        plm_free(m->job->ctx, s->slice);
        s->slice = NULL;
        s->slice_cap = 0;
        PLM_TRY(plm_alloc(m->job->ctx, &s->slice, (size_t)n, 1, err));
        s->slice_cap = (size_t)n;
    }
    if (n)
        PLM_TRY(plm_file_read(run->file, at, (size_t)n, s->slice, err));
done:
    return rc;
}

/* Rows [*from, *to) of the run's partition p that lie in the block; final row of *from in *row. */
static void clip_rows(const struct plm_merge *m, const struct block *b, const struct plm_run *run,
                      uint32_t p, uint64_t before, uint32_t *from, uint32_t *to, uint64_t *row)
{
    uint64_t first = m->starts[p] + before, end = first + (run->starts[p + 1] - run->starts[p]);
    uint64_t low = plm_max_u64(first, b->first), high = plm_min_u64(end, b->end);
    *from = *to = run->starts[p];
    *row = low;
    if (low < high) {
        *from += (uint32_t)(low - first);
        *to += (uint32_t)(high - first);
    }
}

/* ---- row-major columns: row ids, FLAT and SQ codes ------------------------------------------------ */

static enum plm_code place_rows(struct plm_merge *m, struct block_scratch *s, const struct block *b,
                                const struct plm_run *run, uint64_t column_at, size_t row_bytes,
                                uint8_t *page, struct plm_err *err)
{
    uint32_t first = UINT32_MAX, end = 0, from, to;
    uint64_t row;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = b->p_first; p <= b->p_last; p++) {
        clip_rows(m, b, run, p, s->prefix[p - b->p_first], &from, &to, &row);
        if (from < to) {
            first = from < first ? from : first;
            end = to;
        }
    }
    if (end == 0)
        return PLM_OK;
    PLM_TRY(read_slice(m, s, run, column_at + (uint64_t)first * row_bytes,
                       (uint64_t)(end - first) * row_bytes, err));
    for (uint32_t p = b->p_first; p <= b->p_last; p++) {
        clip_rows(m, b, run, p, s->prefix[p - b->p_first], &from, &to, &row);
        if (from < to)
            memcpy(page + (row - b->first) * row_bytes, s->slice + (size_t)(from - first) * row_bytes,
                   (size_t)(to - from) * row_bytes);
    }
done:
    return rc;
}

/* ---- PQ codes: byte planes inside each partition --------------------------------------------------- */

/* The bytes of partition p's matrix [code_bytes][n] that lie in the block, as byte offsets in the
 * whole column, and the planes they touch. */
struct planes {
    uint64_t base, low, high; /* column bytes */
    uint64_t n;               /* rows of the partition */
    uint32_t first, last;
};

static bool find_planes(const struct plm_merge *m, const struct block *b, uint32_t p, struct planes *out)
{
    uint64_t width = m->code_bytes;
    out->n = m->lengths[p];
    out->base = m->starts[p] * width;
    out->low = plm_max_u64(out->base, b->first * width);
    out->high = plm_min_u64(out->base + out->n * width, b->end * width);
    if (out->low >= out->high)
        return false;
    out->first = (uint32_t)((out->low - out->base) / out->n);
    out->last = (uint32_t)((out->high - 1 - out->base) / out->n);
    return true;
}

/* The run's piece of every plane of partition p; slice_at = where the slice begins in the run. */
static void place_planes(const struct plm_merge *m, const struct block_scratch *s, const struct block *b,
                         const struct plm_run *run, uint32_t p, uint64_t slice_at)
{
    struct planes q;
    uint64_t n = run->starts[p + 1] - run->starts[p], before = s->prefix[p - b->p_first];

    if (n == 0 || !find_planes(m, b, p, &q))
        return;
    for (uint32_t j = q.first; j <= q.last; j++) {
        uint64_t to = q.base + j * q.n + before, end = to + n;
        uint64_t low = plm_max_u64(to, q.low), high = plm_min_u64(end, q.high);
        uint64_t from = (uint64_t)run->starts[p] * m->code_bytes + j * n - slice_at;
        if (low < high)
            memcpy(b->codes + (low - b->first * m->code_bytes), s->slice + from + (low - to),
                   (size_t)(high - low));
    }
}

static enum plm_code place_transposed(struct plm_merge *m, struct block_scratch *s,
                                      const struct block *b, const struct plm_run *run,
                                      struct plm_err *err)
{
    uint64_t first = UINT64_MAX, end = 0;
    struct planes q;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = b->p_first; p <= b->p_last; p++) {
        uint64_t n = run->starts[p + 1] - run->starts[p];
        if (n == 0 || !find_planes(m, b, p, &q))
            continue;
        uint64_t at = (uint64_t)run->starts[p] * m->code_bytes;
        first = plm_min_u64(first, at + q.first * n);
        end = at + (q.last + 1) * n;
    }
    if (end == 0)
        return PLM_OK;
    PLM_TRY(read_slice(m, s, run, run->codes_at + first, end - first, err));
    for (uint32_t p = b->p_first; p <= b->p_last; p++)
        place_planes(m, s, b, run, p, first);
done:
    return rc;
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static enum plm_code fill_block(struct plm_merge *m, struct block_scratch *s, const struct block *b,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    memset(s->prefix, 0, (b->p_last - b->p_first + 1) * sizeof *s->prefix);
    for (size_t r = 0; r < m->n_runs; r++) {
        const struct plm_run *run = &m->runs[r];
        PLM_TRY(plm_check_cancel(m->job->ctx, err));
        PLM_TRY(place_rows(m, s, b, run, run->rowids_at, sizeof(uint64_t), b->rowids, err));
        if (m->transposed)
            PLM_TRY(place_transposed(m, s, b, run, err));
        else
            PLM_TRY(place_rows(m, s, b, run, run->codes_at, m->code_bytes, b->codes, err));
        for (uint32_t p = b->p_first; p <= b->p_last; p++)
            s->prefix[p - b->p_first] += run->starts[p + 1] - run->starts[p];
    }
done:
    return rc;
}

struct range {
    struct plm_merge *merge;
    uint64_t first;
};

static enum plm_code merge_block(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct range *range = arg;
    struct plm_merge *m = range->merge;
    uint64_t number = range->first + task;
    struct block_scratch *s = &m->scratch[worker];
    struct plm_ctx *ctx = m->job->ctx;
    const struct plm_layout *l = &m->layout;
    uint64_t at = plm_layout_rowid_at(l, number), codes_at = plm_layout_code_at(l, number);
    uint64_t n_rows = plm_layout_block_rows(l, number);
    uint64_t end = number + 1 < l->n_blocks ? plm_layout_rowid_at(l, number + 1) : plm_layout_end(l);
    size_t bytes = (size_t)(end - at);
    struct block b = {.first = number * l->rows_per_block};
    enum plm_code rc = PLM_OK;

    if (!s->out) {
        uint64_t largest = l->n_blocks > 1 ? plm_layout_rowid_at(l, 1) : plm_layout_end(l);
        PLM_TRY(plm_alloc(ctx, &s->out, (size_t)largest + m->tail.len, 1, err));
        PLM_TRY(plm_alloc(ctx, &s->prefix, m->k, sizeof *s->prefix, err));
    }
    memset(s->out, 0, bytes); /* padding */
    b.end = b.first + n_rows;
    b.p_first = plm_merge_partition_of(m, b.first);
    b.p_last = plm_merge_partition_of(m, b.end - 1);
    b.rowids = s->out;
    b.codes = s->out + (codes_at - at);
    PLM_TRY(fill_block(m, s, &b, err));
    if (number + 1 == l->n_blocks) { /* with the last block: alone, either may be too small a part for S3 */
        memcpy(s->out + bytes, m->tail.data, m->tail.len);
        bytes += m->tail.len;
    }
    PLM_TRY(plm_writer_write(m->writer, (unsigned)number + 1, at, s->out, bytes, err));
    plm_progress_add(ctx, bytes);
done:
    return rc;
}

/* ---- a segment ----------------------------------------------------------------------------------------- */

static enum plm_code open_runs(struct plm_merge *m, struct plm_err *err)
{
    struct plm_job *job = m->job;
    const struct plm_segment_plan *segment = &job->plan.segments[m->segment];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &m->runs, segment->n_tasks, sizeof *m->runs, err));
    for (; m->n_runs < segment->n_tasks; m->n_runs++)
        PLM_TRY(plm_run_open(job, segment->first_task + m->n_runs, false, &m->runs[m->n_runs], NULL, err));
    PLM_TRY(plm_alloc(job->ctx, &m->starts, (size_t)m->k + 1, sizeof *m->starts, err));
    PLM_TRY(plm_calloc(job->ctx, &m->lengths, m->k, sizeof *m->lengths, err));
    m->starts[0] = 0;
    for (uint32_t p = 0; p < m->k; p++) {
        uint64_t n = 0;
        for (size_t r = 0; r < m->n_runs; r++)
            n += m->runs[r].starts[p + 1] - m->runs[r].starts[p];
        if (n > UINT32_MAX)
            return plm_fail(err, PLM_UNSUPPORTED, "partition %u has %" PRIu64 " rows, at most 2^32-1 fit", p, n);
        m->lengths[p] = (uint32_t)n;
        m->starts[p + 1] = m->starts[p] + n;
    }
    m->layout = plm_layout_of(m->starts[m->k], m->code_bytes);
done:
    return rc;
}

enum plm_code plm_merge_open(struct plm_job *job, size_t segment, struct plm_merge **out,
                             struct plm_err *err)
{
    struct plm_merge *m = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &m, 1, sizeof *m, err));
    m->job = job;
    m->segment = segment;
    m->k = job->model.k;
    m->code_bytes = plm_model_code_bytes(&job->model);
    m->transposed = job->model.quantizer == PLM_PQ;
    plm_buf_init(&m->tail, job->ctx, SIZE_MAX);
    PLM_TRY(open_runs(m, err));
    *out = m;
    m = NULL;
done:
    plm_merge_close(m);
    return rc;
}

void plm_merge_close(struct plm_merge *m)
{
    if (!m)
        return;
    struct plm_ctx *ctx = m->job->ctx;
    if (m->writer && m->is_shared)
        plm_writer_detach(m->writer);
    else if (m->writer)
        plm_writer_abort(m->writer);
    for (size_t r = 0; r < m->n_runs; r++)
        plm_run_close(&m->runs[r]);
    for (unsigned i = 0; m->scratch && i < m->n_scratch; i++) {
        plm_free(ctx, m->scratch[i].out);
        plm_free(ctx, m->scratch[i].slice);
        plm_free(ctx, m->scratch[i].prefix);
    }
    plm_free(ctx, m->scratch);
    plm_merge_gather_reset(m);
    plm_free(ctx, m->runs);
    plm_free(ctx, m->starts);
    plm_free(ctx, m->lengths);
    plm_buf_reset(&m->tail);
    plm_free(ctx, m);
}

size_t plm_merge_segment(const struct plm_merge *m)
{
    return m->segment;
}

uint64_t plm_merge_blocks(const struct plm_merge *m)
{
    return m->layout.n_blocks;
}

const uint32_t *plm_merge_lengths(const struct plm_merge *m)
{
    return m->lengths;
}

/* ---- the files ---------------------------------------------------------------------------------------- */

static enum plm_code write_index_file(struct plm_merge *m, struct plm_err *err)
{
    struct plm_job *job = m->job;
    struct plm_buf file;
    char *dir = NULL, *path = NULL;
    __int128 units = 0;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&file, job->ctx, SIZE_MAX);
    for (size_t r = 0; r < m->n_runs; r++)
        units += m->runs[r].stats.loss;
    PLM_TRY(plm_index_main(&job->model, (double)units * job->loss_unit, job->plan.file_major,
                           job->plan.file_minor, &file, err));
    PLM_TRY(plm_segment_made_dir(job, m->segment, &dir, err));
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/" PLM_INDEX_FILE, dir));
    PLM_TRY(plm_store_put(job->root, path, file.data, file.len, err));
    PLM_TRY(plm_segment_note_size(job, m->segment, false, file.len, err));
done:
    plm_free(job->ctx, dir);
    plm_free(job->ctx, path);
    plm_buf_reset(&file);
    return rc;
}

static enum plm_code open_writer(struct plm_merge *m, const char *token, char **token_out,
                                 struct plm_err *err)
{
    struct plm_job *job = m->job;
    char *dir = NULL, *path = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_index_aux_tail(&job->model, &m->layout, m->lengths, job->plan.file_major,
                               job->plan.file_minor, &m->tail, err));
    m->n_scratch = (unsigned)plm_min_u64(job->ctx->threads, job->plan.memory.merge_threads);
    PLM_TRY(plm_calloc(job->ctx, &m->scratch, m->n_scratch, sizeof *m->scratch, err));
    PLM_TRY(plm_segment_made_dir(job, m->segment, &dir, err));
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/" PLM_AUX_FILE, dir));
    PLM_TRY(plm_writer_open(job->root, path, plm_layout_end(&m->layout) + m->tail.len, token, token_out,
                            &m->writer, err));
    m->is_shared = token || token_out;
done:
    plm_free(job->ctx, dir);
    plm_free(job->ctx, path);
    return rc;
}

enum plm_code plm_merge_begin(struct plm_merge *m, char **token, struct plm_err *err)
{
    return open_writer(m, NULL, token, err);
}

enum plm_code plm_merge_join(struct plm_merge *m, const char *token, struct plm_err *err)
{
    return open_writer(m, token, NULL, err);
}

enum plm_code plm_merge_write(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    struct plm_ctx *ctx = m->job->ctx;
    struct range range = {m, first};
    unsigned threads = ctx->threads;

    PLM_ASSERT(first <= end && end <= m->layout.n_blocks);
    if (m->job->plan.memory.gather_bytes)
        return plm_merge_gather(m, first, end, err);
    ctx->threads = m->n_scratch;
    enum plm_code rc = plm_parallel(ctx, (size_t)(end - first), merge_block, &range, err);
    ctx->threads = threads;
    return rc;
}

enum plm_code plm_merge_finish(struct plm_merge *m, struct plm_err *err)
{
    char marker[40];
    enum plm_code rc = PLM_OK;

    if (m->layout.n_blocks == 0)
        PLM_TRY(plm_writer_write(m->writer, 1, 0, m->tail.data, m->tail.len, err));
    PLM_TRY(plm_writer_finish(m->writer, err));
    m->writer = NULL;
    PLM_TRY(plm_segment_note_size(m->job, m->segment, true, plm_layout_end(&m->layout) + m->tail.len, err));
    PLM_TRY(write_index_file(m, err));
    snprintf(marker, sizeof marker, "merged-%zu", m->segment);
    PLM_TRY(plm_store_put(m->job->work, marker, "", 0, err));
done:
    return rc;
}

enum plm_code plm_merge_is_done(struct plm_job *job, size_t segment, bool *yes, struct plm_err *err)
{
    char marker[40], *dir = NULL;
    uint64_t size;
    enum plm_code rc;

    *yes = false;
    snprintf(marker, sizeof marker, "merged-%zu", segment);
    rc = plm_store_size(job->work, marker, &size, err);
    if (rc == PLM_OK)
        rc = plm_segment_current_dir(job, segment, &dir, err);
    if (rc == PLM_OK)
        *yes = true;
    plm_free(job->ctx, dir);
    return rc == PLM_NOT_FOUND ? PLM_OK : rc;
}

/* ---- all of it on this machine --------------------------------------------------------------------------- */

static enum plm_code merge_segment(struct plm_job *job, size_t segment, struct plm_err *err)
{
    struct plm_merge *m = NULL;
    bool is_done = false;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_merge_open(job, segment, &m, err));
    PLM_TRY(plm_merge_is_done(job, segment, &is_done, err));
    if (!is_done) {
        PLM_TRY(plm_merge_begin(m, NULL, err));
        PLM_TRY(plm_merge_write(m, 0, m->layout.n_blocks, err));
        PLM_TRY(plm_merge_finish(m, err));
    }
    job->lengths[segment] = m->lengths;
    m->lengths = NULL;
done:
    plm_merge_close(m);
    return rc;
}

enum plm_code plm_build_merge(struct plm_job *job, struct plm_err *err)
{
    double began = plm_now_seconds();
    uint64_t row_bytes = plm_model_code_bytes(&job->model) + sizeof(uint64_t);
    enum plm_code rc = PLM_OK;

    plm_progress_begin(job->ctx, "merge", job->totals.n * row_bytes, "bytes");
    PLM_TRY(plm_calloc(job->ctx, &job->lengths, job->plan.n_segments, sizeof *job->lengths, err));
    for (size_t s = 0; s < job->plan.n_segments; s++)
        PLM_TRY(merge_segment(job, s, err));
    plm_progress_end(job->ctx);
done:
    job->seconds.merge = plm_now_seconds() - began;
    return rc;
}
