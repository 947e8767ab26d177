/* merge_gather.c - a group's rows from the table itself: FLAT.
 *
 * Runs say where each row is. The table is read task by task, in its order, and every row that
 * belongs in the group goes to its place. Rows between those that are wanted are read along when
 * that is cheaper than another read.
 */
#include "build/merge_parts.h"

#define GAP_BYTES ((size_t)8 << 10)   /* cost as much to read as another call */
#define SPAN_BYTES ((size_t)1 << 20)  /* read at once: stays in a core's cache */
#define NOWHERE UINT32_MAX

/* Fills to[] for the task of run r; *n_rows: how many belong in the blocks. */
static enum plm_code find_places(const struct plm_merge *m, size_t r, struct plm_merge_thread *t, uint64_t task_n,
                                 size_t *n_rows, struct plm_err *err)
{
    const struct plm_merge_group *g = m->group;
    uint32_t low = UINT32_MAX, high = 0, from, to;
    uint64_t row;
    enum plm_code rc = PLM_OK;

    *n_rows = 0;
    for (uint32_t p = g->p_first; p <= g->p_last; p++) {
        plm_merge_clip(m, r, p, &from, &to, &row);
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
        plm_merge_clip(m, r, p, &from, &to, &row);
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
static size_t place_batch(const struct plm_merge *m, const struct plm_merge_thread *t, uint64_t task_first)
{
    const struct plm_merge_group *g = m->group;
    const struct plm_batch *b = &t->batch;
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++) {
        uint32_t to = t->to[b->ordinals[i] - task_first];
        if (to == NOWHERE)
            continue;
        uint64_t row = g->first + to;
        const uint8_t *code = (const uint8_t *)b->raw + i * m->code_bytes;
        plm_merge_put(m, false, row * sizeof(uint64_t), (const uint8_t *)&b->rowids[i], sizeof(uint64_t));
        plm_merge_put(m, true, row * m->code_bytes, code, m->code_bytes);
        n++;
    }
    return n;
}

/* The next stretch of rows worth one read, from *at on: its length, 0 at the end. */
static size_t next_span(const uint32_t *to, uint64_t n, size_t most, size_t gap, uint64_t *at)
{
    uint64_t first = *at, last;

    while (first < n && to[first] == NOWHERE)
        first++;
    if (first == n)
        return 0;
    last = first;
    for (uint64_t i = first + 1; i < n && i - first < most && i - last <= gap + 1; i++)
        if (to[i] != NOWHERE)
            last = i;
    *at = first;
    return (size_t)(last - first + 1);
}

enum plm_code plm_merge_gather_run(void *arg, size_t r, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    struct plm_job *job = m->job;
    struct plm_merge_thread *t = &m->group->threads[worker];
    const struct plm_task *task = &job->plan.tasks[job->plan.segments[m->segment].first_task + r];
    size_t n_rows = 0, n_found = 0, gap = GAP_BYTES / m->code_bytes;
    size_t most = plm_min_size(job->plan.memory.batch_rows, plm_max_size(1, SPAN_BYTES / m->code_bytes));
    uint64_t at = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(find_places(m, r, t, task->n, &n_rows, err));
    for (size_t n; n_found < n_rows && (n = next_span(t->to, task->n, most, gap, &at)) > 0; at += n) {
        PLM_TRY(plm_check_cancel(job->ctx, err));
        n = plm_source_at_once(&job->source, task->first + at, n);
        PLM_TRY(plm_source_read(&job->source, job->plan.metric, task->first + at, n, &t->batch, err));
        n_found += place_batch(m, t, task->first);
    }
    if (n_found != n_rows)
        rc = plm_fail(err, PLM_CORRUPT, "run %zu: %zu rows are usable now, %zu were when it was made", r, n_found,
                      n_rows);
done:
    return rc;
}
