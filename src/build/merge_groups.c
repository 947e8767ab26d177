/* merge_groups.c - as many blocks as memory holds are put together at once: every run is read in one
 * stretch for all of them, or the table in one pass. On a local disk that is half of them at a time, while
 * the other half is written.
 */
#include "build/merge_parts.h"

void plm_merge_group_reset(struct plm_merge *m)
{
    struct plm_ctx *ctx = m->job->ctx;
    struct plm_merge_group *g = m->group;
    if (!g)
        return;
    for (unsigned i = 0; g->threads && i < g->n_threads; i++) {
        plm_free(ctx, g->threads[i].room);
        plm_free(ctx, g->threads[i].places);
        plm_free(ctx, g->threads[i].to);
        plm_batch_reset(&g->threads[i].batch);
    }
    plm_free(ctx, g->threads);
    plm_free(ctx, g->before);
    plm_free(ctx, g->hashes);
    plm_free(ctx, g->blocks.room);
    plm_free(ctx, g->full.room);
    plm_free(ctx, g);
    m->group = NULL;
}

static enum plm_code open_thread(struct plm_merge *m, struct plm_merge_thread *t, struct plm_err *err)
{
    const struct plm_memory_plan *p = &m->job->plan.memory;
    struct plm_ctx *ctx = m->job->ctx;
    enum plm_code rc = PLM_OK;

    if (!p->gather_bytes) {
        PLM_TRY(plm_alloc(ctx, &t->room, m->group->slice_bytes + PLM_DIRECT_ALIGN - 1, 1, err));
        t->slice = t->room + -(uintptr_t)t->room % PLM_DIRECT_ALIGN;
        return PLM_OK;
    }
    PLM_TRY(plm_alloc(ctx, &t->places, p->task_rows, sizeof *t->places, err));
    PLM_TRY(plm_alloc(ctx, &t->to, p->task_rows, sizeof *t->to, err));
done:
    return rc;
}

static enum plm_code open_group(struct plm_merge *m, struct plm_err *err)
{
    const struct plm_memory_plan *p = &m->job->plan.memory;
    struct plm_ctx *ctx = m->job->ctx;
    struct plm_merge_group *g;
    unsigned threads = p->gather_bytes ? p->encode_threads : p->merge_threads;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &m->group, 1, sizeof *m->group, err));
    g = m->group;
    g->n_threads = (unsigned)plm_max_u64(1, plm_min_u64(ctx->threads, threads));
    g->slice_bytes = p->slice_bytes;
    PLM_TRY(plm_calloc(ctx, &g->threads, g->n_threads, sizeof *g->threads, err));
    for (unsigned i = 0; i < g->n_threads; i++)
        PLM_TRY(open_thread(m, &g->threads[i], err));
    PLM_TRY(plm_alloc(ctx, &g->hashes, (size_t)m->layout.n_blocks, sizeof *g->hashes, err));
    PLM_TRY(plm_calloc(ctx, &g->before, plm_max_size(1, m->n_runs) * m->k, sizeof(uint32_t), err));
    for (size_t r = 1; r < m->n_runs; r++)
        for (uint32_t p_at = 0; p_at < m->k; p_at++)
            g->before[r * m->k + p_at] = g->before[(r - 1) * m->k + p_at] + m->runs[r - 1].starts[p_at + 1] -
                                         m->runs[r - 1].starts[p_at];
done:
    if (rc != PLM_OK)
        plm_merge_group_reset(m);
    return rc;
}

/* ---- for those who fill it -------------------------------------------------------------------- */

void plm_merge_clip(const struct plm_merge *m, size_t r, uint32_t p, uint32_t *from, uint32_t *to,
                    uint64_t *row)
{
    const struct plm_merge_group *g = m->group;
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

void plm_merge_put(const struct plm_merge *m, bool is_code, uint64_t column_byte, const uint8_t *from,
                   size_t n)
{
    const struct plm_layout *l = &m->layout;
    uint64_t block_bytes = l->rows_per_block * (is_code ? m->code_bytes : sizeof(uint64_t));

    while (n > 0) {
        uint64_t block = column_byte / block_bytes, in_block = column_byte % block_bytes;
        uint64_t at = is_code ? plm_layout_code_at(l, block) : plm_layout_rowid_at(l, block);
        size_t now = (size_t)plm_min_u64(n, block_bytes - in_block);
        memcpy(m->group->blocks.out + (at + in_block - m->group->blocks.at), from, now);
        column_byte += now;
        from += now;
        n -= now;
    }
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static enum plm_code write_block(struct plm_merge *m, uint64_t number, struct plm_err *err)
{
    const struct plm_merge_blocks *full = &m->group->full;
    const struct plm_layout *l = &m->layout;
    uint64_t at = plm_layout_rowid_at(l, number);
    bool is_last = number + 1 == l->n_blocks;
    uint64_t end = is_last ? plm_layout_end(l) : plm_layout_rowid_at(l, number + 1);
    uint64_t ids_end = at + plm_layout_block_rows(l, number) * sizeof(uint64_t);
    uint64_t codes_at = plm_layout_code_at(l, number);
    uint64_t codes_end = codes_at + plm_layout_block_rows(l, number) * m->code_bytes;
    uint8_t *out = full->out + (at - full->at);
    size_t bytes = (size_t)(end - at);

    memset(full->out + (ids_end - full->at), 0, (size_t)(codes_at - ids_end)); /* padding */
    memset(full->out + (codes_end - full->at), 0, (size_t)(end - codes_end));
    if (is_last) { /* with the last block: alone, either may be too small a part for S3 */
        memcpy(out + bytes, m->tail.data, m->tail.len);
        bytes += m->tail.len;
    }
    enum plm_code rc = plm_writer_write(m->writer, (unsigned)number + 1, at, out, bytes, err);
    if (rc == PLM_OK)
        plm_progress_add(m->job->ctx, end - at);
    if (m->is_shared)
        m->group->hashes[number] = plm_xxh3(out, bytes);
    return rc;
}

/* Room for the group's bytes, at an address that suits the writer. */
static enum plm_code make_room(struct plm_merge *m, size_t bytes, struct plm_err *err)
{
    struct plm_merge_blocks *b = &m->group->blocks;
    size_t cap = bytes + PLM_DIRECT_ALIGN - 1;
    enum plm_code rc = PLM_OK;

    if (cap > b->room_cap) {
        plm_free(m->job->ctx, b->room);
        b->room = NULL;
        b->room_cap = 0;
        PLM_TRY(plm_alloc(m->job->ctx, &b->room, cap, 1, err));
        b->room_cap = cap;
    }
    b->out = b->room + (b->at - (uintptr_t)b->room) % PLM_DIRECT_ALIGN;
done:
    return rc;
}

/* ---- groups ------------------------------------------------------------------------------------------ */

static uint64_t n_full(const struct plm_merge *m)
{
    return m->group->full.end_block - m->group->full.block;
}

/* In turn a block of the full ones, and a run of the group that is filled: who waits for the device lets the others copy. */
static enum plm_code write_or_fill(void *arg, size_t i, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    size_t n_writes = (size_t)n_full(m), pairs = plm_min_size(n_writes, m->n_runs);
    bool writes = i < 2 * pairs ? i % 2 == 0 : n_writes > pairs;
    size_t item = i < 2 * pairs ? i / 2 : i - pairs;

    if (writes)
        return write_block(m, m->group->full.block + item, err);
    return m->job->plan.memory.gather_bytes ? plm_merge_gather_run(m, item, worker, err)
                                            : plm_merge_take_run(m, item, worker, err);
}

/* The full blocks are written by now. */
static enum plm_code mark_full(struct plm_merge *m, struct plm_err *err)
{
    struct plm_merge_blocks *full = &m->group->full;
    enum plm_code rc = PLM_OK;

    if (m->is_shared && n_full(m) > 0)
        rc = plm_merge_mark(m, full->block, n_full(m), m->group->hashes + full->block, err);
    full->end_block = full->block;
    return rc;
}

static enum plm_code write_block_of(void *arg, size_t i, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    (void)worker;
    return write_block(m, m->group->full.block + i, err);
}

static enum plm_code write_full(struct plm_merge *m, struct plm_err *err)
{
    enum plm_code rc = plm_parallel(m->job->ctx, (size_t)n_full(m), write_block_of, m, err);

    return rc ? rc : mark_full(m, err);
}

static uint32_t partition_of(const struct plm_merge *m, uint64_t row)
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

static void exchange(struct plm_merge_group *g)
{
    struct plm_merge_blocks filled = g->blocks;
    g->blocks = g->full;
    g->full = filled;
}

/* Fills blocks [first, end), and writes those that were full. */
static enum plm_code merge_group(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    struct plm_merge_group *g = m->group;
    const struct plm_layout *l = &m->layout;
    uint64_t end_at = end == l->n_blocks ? plm_layout_end(l) + m->tail.len : plm_layout_rowid_at(l, end);
    enum plm_code rc = PLM_OK;

    if (n_full(m) == 0) /* its room will do */
        exchange(g);
    g->blocks.block = first;
    g->blocks.end_block = end;
    g->blocks.at = plm_layout_rowid_at(l, first);
    g->first = first * l->rows_per_block;
    g->end = plm_min_u64(l->n_rows, end * l->rows_per_block);
    g->p_first = partition_of(m, g->first);
    g->p_last = partition_of(m, g->end - 1);
    PLM_TRY(make_room(m, (size_t)(end_at - g->blocks.at), err));
    PLM_TRY(plm_parallel(m->job->ctx, (size_t)n_full(m) + m->n_runs, write_or_fill, m, err));
    PLM_TRY(mark_full(m, err));

    exchange(g);
done:
    return rc;
}

/* Blocks of a group. All groups alike: a short one reads as many runs. */
static uint64_t group_blocks(const struct plm_merge *m, uint64_t n, bool in_turn)
{
    const struct plm_memory_plan *p = &m->job->plan.memory;
    uint64_t block = m->layout.rows_per_block * (8 + (uint64_t)m->code_bytes);
    uint64_t most = plm_max_u64(1, (p->gather_bytes ? p->gather_bytes : p->merge_bytes) / block / (1 + in_turn));
    uint64_t groups = (n + most - 1) / most;

    return groups ? (n + groups - 1) / groups : 1;
}

enum plm_code plm_merge_groups(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    struct plm_ctx *ctx = m->job->ctx;
    unsigned threads = ctx->threads;
    uint64_t whole = group_blocks(m, end - first, false);
    bool in_turn = whole > 1 && plm_store_is_local(m->job->root); /* each group is a request for every run elsewhere */
    uint64_t step = in_turn ? group_blocks(m, end - first, true) : whole;
    enum plm_code rc = PLM_OK;

    if (!m->group)
        PLM_TRY(open_group(m, err));
    ctx->threads = m->group->n_threads;
    for (uint64_t at = first, to; at < end; at = to) {
        bool is_written = false;
        PLM_TRY(plm_merge_is_written(m, at, &is_written, err));
        for (to = at + 1; !is_written && to < end && to - at < step && !(m->done && m->done[to]);)
            to++;
        if (!is_written)
            PLM_TRY(merge_group(m, at, to, err));
        if (!in_turn)
            PLM_TRY(write_full(m, err));
    }
    PLM_TRY(write_full(m, err));
done:
    ctx->threads = threads;
    return rc;
}
