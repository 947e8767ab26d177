/* merge_gather.c - blocks of a FLAT index from the table itself.
 *
 * Runs say where each row is. As many blocks as memory holds are put together at once: the table is
 * read task by task, in its order, and every row that belongs in these blocks goes to its place;
 * then they are written. Rows between those that are wanted are read along when that is cheaper
 * than a read of its own.
 */
#include "build/merge_parts.h"

#define GAP_BYTES ((size_t)16 << 10)  /* costs as much to read as another call */
#define SPAN_BYTES ((size_t)1 << 20)  /* read at once: stays in a core's cache */
#define NOWHERE UINT32_MAX

struct gather_thread {
    uint32_t *places; /* of a run's rows that belong in the blocks at hand */
    uint32_t *to;     /* [place] row of the blocks, or NOWHERE */
    struct plm_batch batch;
};

struct plm_gather {
    uint32_t *before; /* [run][k] rows of the partition that earlier runs have */
    uint8_t *out;     /* the blocks at hand, as they lie in the file */
    size_t out_cap;
    struct gather_thread *threads;
    unsigned n_threads;
    size_t span_rows, gap_rows;
    /* blocks [block, end_block), rows [first, end) in partitions [p_first, p_last], at offset `at` */
    uint64_t block, end_block, first, end, at;
    uint32_t p_first, p_last;
};

void plm_merge_gather_reset(struct plm_merge *m)
{
    struct plm_ctx *ctx = m->job->ctx;
    struct plm_gather *g = m->gather;
    if (!g)
        return;
    for (unsigned i = 0; g->threads && i < g->n_threads; i++) {
        plm_free(ctx, g->threads[i].places);
        plm_free(ctx, g->threads[i].to);
        plm_batch_reset(&g->threads[i].batch);
    }
    plm_free(ctx, g->threads);
    plm_free(ctx, g->before);
    plm_free(ctx, g->out);
    plm_free(ctx, g);
    m->gather = NULL;
}

static enum plm_code open_gather(struct plm_merge *m, struct plm_err *err)
{
    struct plm_job *job = m->job;
    struct plm_ctx *ctx = job->ctx;
    size_t row_bytes = plm_max_size(1, m->code_bytes);
    struct plm_gather *g;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &m->gather, 1, sizeof *m->gather, err));
    g = m->gather;
    g->n_threads = (unsigned)plm_min_u64(ctx->threads, job->plan.memory.encode_threads);
    g->span_rows = plm_min_size(job->plan.memory.batch_rows, plm_max_size(1, SPAN_BYTES / row_bytes));
    g->gap_rows = GAP_BYTES / row_bytes;
    PLM_TRY(plm_calloc(ctx, &g->threads, g->n_threads, sizeof *g->threads, err));
    for (unsigned i = 0; i < g->n_threads; i++) {
        PLM_TRY(plm_alloc(ctx, &g->threads[i].places, job->plan.memory.task_rows, sizeof(uint32_t), err));
        PLM_TRY(plm_alloc(ctx, &g->threads[i].to, job->plan.memory.task_rows, sizeof(uint32_t), err));
    }
    PLM_TRY(plm_calloc(ctx, &g->before, plm_max_size(1, m->n_runs) * m->k, sizeof(uint32_t), err));
    for (size_t r = 1; r < m->n_runs; r++)
        for (uint32_t p = 0; p < m->k; p++)
            g->before[r * m->k + p] = g->before[(r - 1) * m->k + p] + m->runs[r - 1].starts[p + 1] -
                                      m->runs[r - 1].starts[p];
done:
    return rc;
}

/* ---- rows to their places ------------------------------------------------------------------------ */

/* Rows [*from, *to) of run r in partition p that belong in the blocks, and the final row of *from. */
static void clip(const struct plm_merge *m, size_t r, uint32_t p, uint32_t *from, uint32_t *to, uint64_t *row)
{
    const struct plm_gather *g = m->gather;
    const struct plm_run *run = &m->runs[r];
    uint64_t first = m->starts[p] + g->before[r * m->k + p];
    uint64_t end = first + (run->starts[p + 1] - run->starts[p]);
    uint64_t low = plm_max_u64(first, g->first), high = plm_min_u64(end, g->end);

    *from = *to = run->starts[p];
    *row = low;
    if (low < high) {
        *from += (uint32_t)(low - first);
        *to += (uint32_t)(high - first);
    }
}

/* Fills to[] for the task of run r; *n_rows: how many belong in the blocks. */
static enum plm_code find_places(const struct plm_merge *m, size_t r, struct gather_thread *t, uint64_t task_n,
                                 size_t *n_rows, struct plm_err *err)
{
    const struct plm_gather *g = m->gather;
    uint32_t low = UINT32_MAX, high = 0, from, to;
    uint64_t row;
    enum plm_code rc = PLM_OK;

    *n_rows = 0;
    for (uint32_t p = g->p_first; p <= g->p_last; p++) {
        clip(m, r, p, &from, &to, &row);
        if (from < to) {
            low = from < low ? from : low;
            high = to;
        }
    }
    if (high == 0)
        return PLM_OK;
    PLM_TRY(plm_file_read(m->runs[r].file, m->runs[r].codes_at + (uint64_t)low * sizeof(uint32_t),
                          (high - low) * sizeof(uint32_t), t->places, err));
    memset(t->to, 0xFF, task_n * sizeof *t->to);
    for (uint32_t p = g->p_first; p <= g->p_last; p++) {
        clip(m, r, p, &from, &to, &row);
        for (uint32_t i = from; i < to; i++) {
            uint32_t place = t->places[i - low];
            if (place >= task_n || t->to[place] != NOWHERE)
                return plm_fail(err, PLM_CORRUPT, "run of %" PRIu64 " rows: row %u is at %u", task_n, i, place);
            t->to[place] = (uint32_t)(row + (i - from) - g->first);
        }
        *n_rows += to - from;
    }
done:
    return rc;
}

/* Copies the wanted rows of the batch; returns how many. */
static size_t place_batch(const struct plm_merge *m, const struct gather_thread *t, uint64_t task_first)
{
    const struct plm_gather *g = m->gather;
    const struct plm_layout *l = &m->layout;
    const struct plm_batch *b = &t->batch;
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++) {
        uint32_t to = t->to[b->ordinals[i] - task_first];
        if (to == NOWHERE)
            continue;
        uint64_t block = (g->first + to) / l->rows_per_block, in_block = (g->first + to) % l->rows_per_block;
        uint8_t *ids = g->out + (plm_layout_rowid_at(l, block) - g->at);
        uint8_t *codes = g->out + (plm_layout_code_at(l, block) - g->at);
        memcpy(ids + in_block * sizeof(uint64_t), &b->rowids[i], sizeof(uint64_t));
        memcpy(codes + in_block * m->code_bytes, (const uint8_t *)b->raw + i * m->code_bytes, m->code_bytes);
        n++;
    }
    return n;
}

/* The next stretch of rows worth one read, from *at on: its length, 0 at the end. */
static size_t next_span(const struct plm_gather *g, const uint32_t *to, uint64_t n, uint64_t *at)
{
    uint64_t first = *at, last;

    while (first < n && to[first] == NOWHERE)
        first++;
    if (first == n)
        return 0;
    last = first;
    for (uint64_t i = first + 1; i < n && i - first < g->span_rows && i - last <= g->gap_rows + 1; i++)
        if (to[i] != NOWHERE)
            last = i;
    *at = first;
    return (size_t)(last - first + 1);
}

static enum plm_code gather_run(void *arg, size_t r, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    struct plm_job *job = m->job;
    struct plm_gather *g = m->gather;
    struct gather_thread *t = &g->threads[worker];
    const struct plm_task *task = &job->plan.tasks[job->plan.segments[m->segment].first_task + r];
    size_t n_rows = 0, n_found = 0;
    uint64_t at = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(find_places(m, r, t, task->n, &n_rows, err));
    for (size_t n; n_found < n_rows && (n = next_span(g, t->to, task->n, &at)) > 0; at += n) {
        PLM_TRY(plm_check_cancel(job->ctx, err));
        PLM_TRY(plm_source_read(&job->source, job->plan.metric, task->first + at, n, &t->batch, err));
        n_found += place_batch(m, t, task->first);
    }
    if (n_found != n_rows)
        rc = plm_fail(err, PLM_CORRUPT, "run %zu: %zu rows are usable now, %zu were when it was made", r, n_found,
                      n_rows);
done:
    return rc;
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static enum plm_code write_block(void *arg, size_t i, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    const struct plm_gather *g = m->gather;
    const struct plm_layout *l = &m->layout;
    uint64_t number = g->block + i, at = plm_layout_rowid_at(l, number);
    bool is_last = number + 1 == l->n_blocks;
    uint64_t end = is_last ? plm_layout_end(l) : plm_layout_rowid_at(l, number + 1);
    uint64_t ids_end = at + plm_layout_block_rows(l, number) * sizeof(uint64_t);
    uint64_t codes_at = plm_layout_code_at(l, number);
    uint64_t codes_end = codes_at + plm_layout_block_rows(l, number) * m->code_bytes;
    uint8_t *out = g->out + (at - g->at);
    size_t bytes = (size_t)(end - at);
    (void)worker;

    memset(g->out + (ids_end - g->at), 0, (size_t)(codes_at - ids_end)); /* padding */
    memset(g->out + (codes_end - g->at), 0, (size_t)(end - codes_end));
    if (is_last) { /* see merge.c */
        memcpy(out + bytes, m->tail.data, m->tail.len);
        bytes += m->tail.len;
    }
    enum plm_code rc = plm_writer_write(m->writer, (unsigned)number + 1, at, out, bytes, err);
    if (rc == PLM_OK)
        plm_progress_add(m->job->ctx, end - at);
    return rc;
}

static enum plm_code make_room(struct plm_merge *m, size_t bytes, struct plm_err *err)
{
    struct plm_gather *g = m->gather;
    if (bytes <= g->out_cap)
        return PLM_OK;
    plm_free(m->job->ctx, g->out);
    g->out = NULL;
    g->out_cap = 0;
    enum plm_code rc = plm_alloc(m->job->ctx, &g->out, bytes, 1, err);
    if (rc == PLM_OK)
        g->out_cap = bytes;
    return rc;
}

/* Blocks [first, end) at once. */
static enum plm_code gather_blocks(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    struct plm_gather *g = m->gather;
    const struct plm_layout *l = &m->layout;
    bool is_last = end == l->n_blocks;
    uint64_t end_at = is_last ? plm_layout_end(l) + m->tail.len : plm_layout_rowid_at(l, end);
    enum plm_code rc = PLM_OK;

    g->block = first;
    g->end_block = end;
    g->at = plm_layout_rowid_at(l, first);
    g->first = first * l->rows_per_block;
    g->end = plm_min_u64(l->n_rows, end * l->rows_per_block);
    g->p_first = plm_merge_partition_of(m, g->first);
    g->p_last = plm_merge_partition_of(m, g->end - 1);
    PLM_TRY(make_room(m, (size_t)(end_at - g->at), err));
    PLM_TRY(plm_parallel(m->job->ctx, m->n_runs, gather_run, m, err));
    PLM_TRY(plm_parallel(m->job->ctx, (size_t)(end - first), write_block, m, err));
done:
    return rc;
}

enum plm_code plm_merge_gather(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    struct plm_ctx *ctx = m->job->ctx;
    const struct plm_layout *l = &m->layout;
    unsigned threads = ctx->threads;
    uint64_t block = l->rows_per_block * (8 + (uint64_t)m->code_bytes);
    uint64_t most = plm_max_u64(1, m->job->plan.memory.gather_bytes / block);
    /* all passes alike: the last one reads the table, too */
    uint64_t passes = (end - first + most - 1) / most, step = passes ? (end - first + passes - 1) / passes : 1;
    enum plm_code rc = PLM_OK;

    if (!m->gather)
        PLM_TRY(open_gather(m, err));
    ctx->threads = m->gather->n_threads;
    for (uint64_t at = first; at < end; at += step)
        PLM_TRY(gather_blocks(m, at, plm_min_u64(end, at + step), err));
done:
    ctx->threads = threads;
    return rc;
}
