/* merge_runs.c - a group's rows from a run that carries codes: one stretch of its row ids and one of
 * its codes, read in slices.
 */
#include "build/merge_parts.h"

/* Bytes [first, end) of a run are in the slice. */
struct slice {
    const struct plm_merge *merge;
    struct plm_file *file;
    struct plm_merge_thread *thread;
    uint64_t first, end, limit; /* limit: the run's bytes from there on are not wanted */
};

/* The byte at `at`, and how many of the n from it on are there. */
static enum plm_code have(struct slice *s, uint64_t at, uint64_t n, const uint8_t **bytes, size_t *there,
                          struct plm_err *err)
{
    if (at < s->first || at >= s->end) {
        uint64_t first = at / PLM_DIRECT_ALIGN * PLM_DIRECT_ALIGN; /* whole pages */
        uint64_t limit = plm_min_u64(plm_file_size(s->file), s->limit + -s->limit % PLM_DIRECT_ALIGN);
        size_t most = (size_t)plm_min_u64(s->merge->group->slice_bytes, limit - first);
        enum plm_code rc = plm_check_cancel(s->merge->job->ctx, err);
        if (rc == PLM_OK)
            rc = plm_file_read(s->file, first, most, s->thread->slice, err);
        if (rc != PLM_OK)
            return rc;
        s->first = first;
        s->end = first + most;
    }
    *bytes = s->thread->slice + (at - s->first);
    *there = (size_t)plm_min_u64(n, s->end - at);
    return PLM_OK;
}

/* n bytes of the run at `at` to byte `to` of the column. */
static enum plm_code move(struct slice *s, bool is_code, uint64_t at, uint64_t n, uint64_t to, struct plm_err *err)
{
    while (n > 0) {
        const uint8_t *bytes = NULL;
        size_t there = 0;
        enum plm_code rc = have(s, at, n, &bytes, &there, err);
        if (rc != PLM_OK)
            return rc;
        plm_merge_put(s->merge, is_code, to, bytes, there);
        at += there;
        to += there;
        n -= there;
    }
    return PLM_OK;
}

/* ---- row-major columns: row ids, FLAT and SQ codes ------------------------------------------------ */

static enum plm_code take_rows(const struct plm_merge *m, size_t r, struct plm_merge_thread *t, bool is_code,
                               struct plm_err *err)
{
    const struct plm_run *run = &m->runs[r];
    uint64_t at = is_code ? run->codes_at : run->rowids_at, width = is_code ? m->code_bytes : sizeof(uint64_t), row;
    struct slice s = {.merge = m, .file = run->file, .thread = t};
    uint32_t from, to;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = m->group->p_first; p <= m->group->p_last; p++) {
        plm_merge_clip(m, r, p, &from, &to, &row);
        if (from < to)
            s.limit = at + to * width;
    }
    for (uint32_t p = m->group->p_first; p <= m->group->p_last; p++) {
        plm_merge_clip(m, r, p, &from, &to, &row);
        if (from < to)
            PLM_TRY(move(&s, is_code, at + from * width, (to - from) * width, row * width, err));
    }
done:
    return rc;
}

/* ---- PQ codes: byte planes inside each partition --------------------------------------------------- */

/* The bytes of partition p's matrix [code_bytes][n] that lie in the group, as byte offsets in the
 * whole column, and the planes they touch. */
struct planes {
    uint64_t base, low, high; /* column bytes */
    uint64_t n;               /* rows of the partition */
    uint32_t first, last;
};

static bool find_planes(const struct plm_merge *m, uint32_t p, struct planes *out)
{
    uint64_t width = m->code_bytes;
    out->n = m->lengths[p];
    out->base = m->starts[p] * width;
    out->low = plm_max_u64(out->base, m->group->first * width);
    out->high = plm_min_u64(out->base + out->n * width, m->group->end * width);
    if (out->low >= out->high)
        return false;
    out->first = (uint32_t)((out->low - out->base) / out->n);
    out->last = (uint32_t)((out->high - 1 - out->base) / out->n);
    return true;
}

/* The run's piece of every plane of partition p. */
static enum plm_code take_planes(struct slice *s, size_t r, uint32_t p, const struct planes *q, struct plm_err *err)
{
    const struct plm_merge *m = s->merge;
    const struct plm_run *run = &m->runs[r];
    uint64_t n = run->starts[p + 1] - run->starts[p], before = m->group->before[r * m->k + p];
    uint64_t at = run->codes_at + (uint64_t)run->starts[p] * m->code_bytes;
    enum plm_code rc = PLM_OK;

    for (uint32_t j = q->first; j <= q->last; j++) {
        uint64_t to = q->base + j * q->n + before, end = to + n;
        uint64_t low = plm_max_u64(to, q->low), high = plm_min_u64(end, q->high);
        if (low < high)
            PLM_TRY(move(s, true, at + j * n + (low - to), high - low, low, err));
    }
done:
    return rc;
}

static enum plm_code take_transposed(const struct plm_merge *m, size_t r, struct plm_merge_thread *t,
                                     struct plm_err *err)
{
    const struct plm_run *run = &m->runs[r];
    struct slice s = {.merge = m, .file = run->file, .thread = t};
    struct planes q;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = m->group->p_first; p <= m->group->p_last; p++) {
        uint64_t n = run->starts[p + 1] - run->starts[p];
        if (n > 0 && find_planes(m, p, &q))
            s.limit = run->codes_at + (uint64_t)run->starts[p] * m->code_bytes + (q.last + 1) * n;
    }
    for (uint32_t p = m->group->p_first; p <= m->group->p_last; p++)
        if (run->starts[p + 1] > run->starts[p] && find_planes(m, p, &q))
            PLM_TRY(take_planes(&s, r, p, &q, err));
done:
    return rc;
}

enum plm_code plm_merge_take_run(void *arg, size_t r, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    struct plm_merge_thread *t = &m->group->threads[worker];
    enum plm_code rc = PLM_OK;

    PLM_TRY(take_rows(m, r, t, false, err));
    if (m->transposed)
        PLM_TRY(take_transposed(m, r, t, err));
    else
        PLM_TRY(take_rows(m, r, t, true, err));
done:
    return rc;
}
