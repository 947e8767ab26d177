/* sample_read.c - one pass over slices of the table, and their usable rows into the sample.
 *
 * Adjacent slices are read together, several reads in flight. In memory each read puts its rows
 * where they belong if all before them are usable, and the gaps close afterwards; a spilled sample
 * is written in order, a window of reads at a time. So neither threads nor the cut of the reads
 * decide where a row lands.
 */
#include <stdlib.h>

#include "cluster/sample_impl.h"
#include "simd/simd.h"

#define READ_BYTES ((size_t)4 << 20) /* of one read, at most, roughly */
#define AHEAD_RUNS 8 /* on their way from a disk while one is looked at */
#define VIEWS_MAX 16384 /* of files in place of memory: a process may have four times as many mappings */

/* ---- cutting a pass into reads --------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const struct plm_slice *const *x = a, *const *y = b;

    return (*x)->number < (*y)->number ? -1 : (*x)->number > (*y)->number;
}

/* Is only a part of its usable rows wanted? It is read by itself, so that the others are kept whole. */
static bool is_cut(const struct plm_sample_taking *t, const struct plm_slice *s)
{
    uint32_t rows = plm_slice_rows(&t->slices, s->number);

    return t->store_rows && s->keep < (s->usable == PLM_USABLE_UNKNOWN ? rows : s->usable);
}

/* Slices [first, n) of the list, by number, cut into runs. */
static enum plm_code cut_runs(struct plm_sample_taking *t, size_t first, size_t n, struct plm_err *err)
{
    size_t run_slices = t->run_slices;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_realloc(t->ctx, &t->by_number, n - first, sizeof *t->by_number, err));
    PLM_TRY(plm_realloc(t->ctx, &t->runs, n - first, sizeof *t->runs, err));
    for (size_t i = first; i < n; i++)
        t->by_number[i - first] = &t->slices.items[i];
    qsort(t->by_number, n - first, sizeof(struct plm_slice *), by_number);
    t->n_runs = 0;
    for (size_t i = 0; i < n - first; i++) {
        struct plm_sample_run *last = t->n_runs ? &t->runs[t->n_runs - 1] : NULL;

        if (last && last->n < run_slices && t->by_number[i - 1]->number + 1 == t->by_number[i]->number &&
            !is_cut(t, t->by_number[i - 1]) && !is_cut(t, t->by_number[i]))
            last->n++;
        else
            t->runs[t->n_runs++] = (struct plm_sample_run){.first = i, .n = 1};
    }
done:
    return rc;
}

/* Lets a remote store fetch what this pass reads in long requests. */
static enum plm_code expect_runs(struct plm_sample_taking *t, struct plm_err *err)
{
    struct plm_ordinals *ranges = NULL;
    enum plm_code rc = plm_alloc(t->ctx, &ranges, t->n_runs, sizeof *ranges, err);

    for (size_t i = 0; rc == PLM_OK && i < t->n_runs; i++) {
        const struct plm_sample_run *run = &t->runs[i];
        uint64_t first = t->by_number[run->first]->number, last = first + run->n - 1;

        ranges[i] = (struct plm_ordinals){first * PLM_SLICE_ROWS,
                                          (run->n - 1) * PLM_SLICE_ROWS + plm_slice_rows(&t->slices, last)};
    }
    if (rc == PLM_OK)
        plm_source_expect(t->source, ranges, t->n_runs);
    plm_free(t->ctx, ranges);
    return rc;
}

void plm_sample_size_window(struct plm_sample_taking *t)
{
    size_t slice = plm_batch_bytes(t->source, PLM_SLICE_ROWS);
    uint64_t room = plm_memory_left(t->ctx) / 2;

    t->window = (size_t)plm_max_u64(1, plm_min_u64(t->window_max, room / slice));
    size_t bytes = (size_t)plm_min_u64(READ_BYTES, room / t->window);
    t->run_slices = plm_max_size(1, plm_batch_rows(t->source, bytes) / PLM_SLICE_ROWS);
}

/* ---- the rows of a read ---------------------------------------------------------------- */

static enum plm_code read_slices_of(struct plm_sample_taking *t, const struct plm_sample_run *run,
                                    struct plm_batch *batch, struct plm_err *err)
{
    uint64_t first = t->by_number[run->first]->number, last = first + run->n - 1;
    uint64_t n = (run->n - 1) * PLM_SLICE_ROWS + plm_slice_rows(&t->slices, last);

    return plm_source_read(t->source, t->metric, first * PLM_SLICE_ROWS, (size_t)n, batch, err);
}

/* Run `at`, if there is one, is read soon. */
static void expect_soon(struct plm_sample_taking *t, size_t at)
{
    if (at >= t->n_runs)
        return;
    uint64_t first = t->by_number[t->runs[at].first]->number, last = first + t->runs[at].n - 1;

    plm_source_ahead(t->source, first * PLM_SLICE_ROWS, (t->runs[at].n - 1) * PLM_SLICE_ROWS + plm_slice_rows(&t->slices, last));
}

/* Rows [from, from + n) of a batch, behind those of the run that are kept already. */
static enum plm_code put_rows(struct plm_sample_taking *t, struct plm_sample_run *run,
                              const struct plm_batch *batch, size_t from, size_t n,
                              struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    const float *rows = batch->rows + from * batch->dim;
    size_t at = run->at + run->n_kept;
    enum plm_code rc = PLM_OK;
    float lo, hi;

    if (n == 0)
        return PLM_OK;
    if (at > t->n_max || n > t->n_max - at)
        return plm_fail(err, PLM_CORRUPT, "sample: a slice gave more rows than when it was read before");
    t->ctx->kernels->min_max(rows, n * s->dim, &lo, &hi);
    run->lo = run->n_kept == 0 || lo < run->lo ? lo : run->lo;
    run->hi = run->n_kept == 0 || hi > run->hi ? hi : run->hi;
    if (s->rows && rows != s->rows + at * s->dim) /* else they were read there */
        memcpy(s->rows + at * s->dim, rows, n * s->dim * sizeof *rows);
    else if (!s->rows)
        PLM_TRY(plm_writer_write(t->writer, ++t->part, (uint64_t)at * s->dim * sizeof *rows, rows,
                                 n * s->dim * sizeof *rows, err));
    memcpy(s->rowids + at, batch->rowids + from, n * sizeof *s->rowids);
    run->n_kept += n;
done:
    return rc;
}

/* Counts the usable rows of each slice of a run, and stores those that are kept. Rows that are
 * kept of neighbouring slices go out together. */
static enum plm_code put_run(struct plm_sample_taking *t, struct plm_sample_run *run,
                             const struct plm_batch *batch, struct plm_err *err)
{
    size_t at = 0, pending = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < run->n; i++) {
        struct plm_slice *slice = t->by_number[run->first + i];
        uint64_t end = (slice->number + 1) * PLM_SLICE_ROWS;
        size_t from = at;

        while (at < batch->n && batch->ordinals[at] < end)
            at++;
        slice->usable = (uint32_t)(at - from);
        if (!t->store_rows || slice->usable <= slice->keep)
            continue;
        PLM_TRY(put_rows(t, run, batch, pending, from + slice->keep - pending, err));
        pending = at;
    }
    if (t->store_rows)
        PLM_TRY(put_rows(t, run, batch, pending, at - pending, err));
done:
    return rc;
}

/* The run's rows are the next of the sample. */
static void count_run(struct plm_sample *s, const struct plm_sample_run *run)
{
    if (run->n_kept > 0)
        plm_sample_widen(s, run->lo, run->hi);
    s->n += run->n_kept;
}

/* ---- a window after the other ---------------------------------------------------------- */

static enum plm_code read_run(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct plm_sample_taking *t = arg;
    (void)worker;

    return read_slices_of(t, &t->runs[t->first_run + task], &t->batches[task], err);
}

static enum plm_code read_in_order(struct plm_sample_taking *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (t->first_run = 0; t->first_run < t->n_runs; t->first_run += t->window) {
        size_t n_reads = plm_min_size(t->window, t->n_runs - t->first_run);

        PLM_TRY(plm_parallel(t->ctx, n_reads, read_run, t, err));
        for (size_t i = 0; i < t->window; i++)
            expect_soon(t, t->first_run + t->window + i);
        for (size_t i = 0; i < n_reads; i++) {
            struct plm_sample_run *run = &t->runs[t->first_run + i];

            run->at = t->sample.n;
            PLM_TRY(put_run(t, run, &t->batches[i], err));
            count_run(&t->sample, run);
        }
    }
done:
    return rc;
}

/* ---- all at once ----------------------------------------------------------------------- */

/* All rows of the run straight to where they belong, if all of them are kept. */
static enum plm_code read_in_place(struct plm_sample_taking *t, const struct plm_sample_run *run,
                                   struct plm_batch *batch, bool *done, struct plm_err *err)
{
    uint64_t first = t->by_number[run->first]->number * PLM_SLICE_ROWS, n = 0, kept = 0;

    *done = false;
    for (size_t i = run->first; i < run->first + run->n; i++) {
        n += plm_slice_rows(&t->slices, t->by_number[i]->number);
        kept += t->by_number[i]->keep;
    }
    if (!t->store_rows || !t->sample.rows || n != kept || n > t->n_max - run->at || t->n_runs > VIEWS_MAX)
        return PLM_OK;
    return plm_source_read_there(t->source, t->metric, first, (size_t)n,
                                 t->sample.rows + run->at * t->sample.dim, batch, done, err);
}

/* One read, and its rows into their place. Its batch is the worker's. */
static enum plm_code take_run(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct plm_sample_taking *t = arg;
    struct plm_sample_run *run = &t->runs[task];
    struct plm_batch *batch = &t->batches[worker];
    bool done = false;
    enum plm_code rc = PLM_OK;

    expect_soon(t, task + AHEAD_RUNS);
    PLM_TRY(read_in_place(t, run, batch, &done, err));
    if (!done)
        PLM_TRY(read_slices_of(t, run, batch, err));
    PLM_TRY(put_run(t, run, batch, err));
done:
    return rc;
}

static enum plm_code read_at_once(struct plm_sample_taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    unsigned threads = t->ctx->threads;
    enum plm_code rc = PLM_OK;
    size_t at = 0;

    for (size_t i = 0; i < t->n_runs; i++) {
        t->runs[i].at = at;
        for (size_t j = 0; j < t->runs[i].n; j++)
            at += t->by_number[t->runs[i].first + j]->keep;
    }
    t->ctx->threads = (unsigned)plm_min_size(threads, t->window); /* as many as there is memory for */
    rc = plm_parallel(t->ctx, t->n_runs, take_run, t, err);
    t->ctx->threads = threads;
    PLM_TRY(rc);
    for (size_t i = 0; i < t->n_runs; i++) {
        const struct plm_sample_run *run = &t->runs[i];

        if (run->at != s->n && run->n_kept > 0) {
            memmove(s->rows + s->n * s->dim, s->rows + run->at * s->dim,
                    run->n_kept * s->dim * sizeof *s->rows);
            memmove(s->rowids + s->n, s->rowids + run->at, run->n_kept * sizeof *s->rowids);
        }
        count_run(s, run);
    }
done:
    return rc;
}

/* ---- a pass ---------------------------------------------------------------------------- */

/* Reads slices [first, n) of the list once. */
enum plm_code plm_sample_read_slices(struct plm_sample_taking *t, size_t first, size_t n, bool store_rows,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (first >= n)
        return PLM_OK;
    t->store_rows = store_rows;
    t->sample.n = 0;
    t->part = 0;
    PLM_TRY(cut_runs(t, first, n, err));
    PLM_TRY(expect_runs(t, err));
    PLM_TRY(store_rows && t->writer ? read_in_order(t, err) : read_at_once(t, err));
done:
    return rc;
}
