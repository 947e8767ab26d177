/* sample.c - reading the training rows.
 *
 * Adjacent slices are read together, several reads in flight. In memory each read puts its rows
 * where they belong if all before them are usable, and the gaps close afterwards; a spilled sample
 * is written in order, a window of reads at a time. So neither threads nor the cut of the reads
 * decide where a row lands. If rows turn out to be unusable, further slices are counted first and one more pass over the final choice places
 * the rows: a table without such rows, and a sample of the whole table, is read once. */
#include "cluster/sample.h"

#include <math.h>
#include <stdlib.h>

#include "cluster/sample_slices.h"
#include "simd/simd.h"
#include "store/writer.h"

#define READ_BYTES ((size_t)4 << 20) /* of one read, at most, roughly */
#define VIEWS_MAX 16384 /* of files in place of memory: a process may have four times as many mappings */

/* One read: neighbouring slices. */
struct run {
    size_t first, n;   /* of the slices in `by_number` */
    size_t at, n_kept; /* rows of the sample: the first, how many */
    float lo, hi;      /* of these */
};

struct taking {
    struct plm_ctx *ctx;
    struct plm_source *source;
    enum plm_metric metric;
    struct plm_slices slices;
    struct plm_slice **by_number; /* those of this pass, ascending */
    struct run *runs;
    size_t n_runs, first_run;     /* of the window being read */
    struct plm_batch *batches;    /* one per read of a window */
    size_t window, window_max;    /* of reads that are written in order, or on their way */
    size_t run_slices;            /* slices of a read, at most */
    bool store_rows;
    struct plm_writer *writer;    /* spilling */
    unsigned part;
    size_t n_max;                 /* rows there is room for */
    struct plm_sample sample;     /* being filled */
};

/* ---- one pass ----------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const struct plm_slice *const *x = a, *const *y = b;

    return (*x)->number < (*y)->number ? -1 : (*x)->number > (*y)->number;
}

/* Is only a part of its usable rows wanted? It is read by itself, so that the others are kept whole. */
static bool is_cut(const struct taking *t, const struct plm_slice *s)
{
    uint32_t rows = plm_slice_rows(&t->slices, s->number);

    return t->store_rows && s->keep < (s->usable == PLM_USABLE_UNKNOWN ? rows : s->usable);
}

/* Slices [first, n) of the list, by number, cut into runs. */
static enum plm_code cut_runs(struct taking *t, size_t first, size_t n, struct plm_err *err)
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
        struct run *last = t->n_runs ? &t->runs[t->n_runs - 1] : NULL;

        if (last && last->n < run_slices && t->by_number[i - 1]->number + 1 == t->by_number[i]->number &&
            !is_cut(t, t->by_number[i - 1]) && !is_cut(t, t->by_number[i]))
            last->n++;
        else
            t->runs[t->n_runs++] = (struct run){.first = i, .n = 1};
    }
done:
    return rc;
}

static enum plm_code read_slices_of(struct taking *t, const struct run *run, struct plm_batch *batch,
                                    struct plm_err *err)
{
    uint64_t first = t->by_number[run->first]->number, last = first + run->n - 1;
    uint64_t n = (run->n - 1) * PLM_SLICE_ROWS + plm_slice_rows(&t->slices, last);

    return plm_source_read(t->source, t->metric, first * PLM_SLICE_ROWS, (size_t)n, batch, err);
}

static enum plm_code read_run(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct taking *t = arg;
    (void)worker;

    return read_slices_of(t, &t->runs[t->first_run + task], &t->batches[task], err);
}

static void widen_bounds(struct plm_sample *s, float lo, float hi)
{
    s->lo = s->n == 0 || lo < s->lo ? lo : s->lo;
    s->hi = s->n == 0 || hi > s->hi ? hi : s->hi;
    s->max_abs = fmaxf(fabsf(s->lo), fabsf(s->hi));
}

/* Rows [from, from + n) of a batch, behind those of the run that are kept already. */
static enum plm_code put_rows(struct taking *t, struct run *run, const struct plm_batch *batch, size_t from,
                              size_t n, struct plm_err *err)
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
static enum plm_code put_run(struct taking *t, struct run *run, const struct plm_batch *batch,
                             struct plm_err *err)
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
static void count_run(struct plm_sample *s, const struct run *run)
{
    if (run->n_kept > 0)
        widen_bounds(s, run->lo, run->hi);
    s->n += run->n_kept;
}

static enum plm_code read_in_order(struct taking *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (t->first_run = 0; t->first_run < t->n_runs; t->first_run += t->window) {
        size_t n_reads = plm_min_size(t->window, t->n_runs - t->first_run);

        PLM_TRY(plm_parallel(t->ctx, n_reads, read_run, t, err));
        for (size_t i = 0; i < n_reads; i++) {
            struct run *run = &t->runs[t->first_run + i];

            run->at = t->sample.n;
            PLM_TRY(put_run(t, run, &t->batches[i], err));
            count_run(&t->sample, run);
        }
    }
done:
    return rc;
}

/* All rows of the run straight to where they belong, if all of them are kept. */
static enum plm_code read_in_place(struct taking *t, const struct run *run, struct plm_batch *batch, bool *done,
                                   struct plm_err *err)
{
    uint64_t first = t->by_number[run->first]->number * PLM_SLICE_ROWS, n = 0, kept = 0;

    *done = false;
    for (size_t i = run->first; i < run->first + run->n; i++) {
        n += plm_slice_rows(&t->slices, t->by_number[i]->number);
        kept += t->by_number[i]->keep;
    }
    if (!t->store_rows || !t->sample.rows || n != kept || n > t->n_max - run->at || t->n_runs > VIEWS_MAX)
        return PLM_OK;
    return plm_source_read_there(t->source, t->metric, first, (size_t)n, t->sample.rows + run->at * t->sample.dim,
                                 batch, done, err);
}

/* One read, and its rows into their place. Its batch is the worker's. */
static enum plm_code take_run(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct taking *t = arg;
    struct run *run = &t->runs[task];
    struct plm_batch *batch = &t->batches[worker];
    bool done = false;
    enum plm_code rc = PLM_OK;

    PLM_TRY(read_in_place(t, run, batch, &done, err));
    if (!done)
        PLM_TRY(read_slices_of(t, run, batch, err));
    PLM_TRY(put_run(t, run, batch, err));
done:
    return rc;
}

static enum plm_code read_at_once(struct taking *t, struct plm_err *err)
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
        const struct run *run = &t->runs[i];

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

/* Lets a remote store fetch what this pass reads in long requests. */
static enum plm_code expect_runs(struct taking *t, struct plm_err *err)
{
    struct plm_ordinals *ranges = NULL;
    enum plm_code rc = plm_alloc(t->ctx, &ranges, t->n_runs, sizeof *ranges, err);

    for (size_t i = 0; rc == PLM_OK && i < t->n_runs; i++) {
        const struct run *run = &t->runs[i];
        uint64_t first = t->by_number[run->first]->number, last = first + run->n - 1;

        ranges[i] = (struct plm_ordinals){first * PLM_SLICE_ROWS,
                                          (run->n - 1) * PLM_SLICE_ROWS + plm_slice_rows(&t->slices, last)};
    }
    if (rc == PLM_OK)
        plm_source_expect(t->source, ranges, t->n_runs);
    plm_free(t->ctx, ranges);
    return rc;
}

/* Reads slices [first, n) of the list once. */
static enum plm_code read_slices(struct taking *t, size_t first, size_t n, bool store_rows,
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

/* Reads as large and as many as half of what the budget leaves: called when the sample has its place,
 * and before the first read. */
static void size_window(struct taking *t)
{
    size_t slice = plm_batch_bytes(t->source, PLM_SLICE_ROWS);
    uint64_t room = plm_memory_left(t->ctx) / 2;

    t->window = (size_t)plm_max_u64(1, plm_min_u64(t->window_max, room / slice));
    size_t bytes = (size_t)plm_min_u64(READ_BYTES, room / t->window);
    t->run_slices = plm_max_size(1, plm_batch_rows(t->source, bytes) / PLM_SLICE_ROWS);
}

/* ---- where the rows go ------------------------------------------------------------------ */

static enum plm_code make_rows(struct taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = plm_region_alloc(t->ctx, &s->rows, t->n_max * s->dim, sizeof *s->rows, err);

    s->n_room = t->n_max;
    return rc;
}

static enum plm_code make_room(struct taking *t, uint64_t n_rows, size_t max_bytes,
                               struct plm_store *spill_store, const char *spill_path,
                               struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = PLM_OK;
    size_t bytes;

    if (n_rows > SIZE_MAX || !plm_size_mul((size_t)n_rows, s->dim, &bytes) ||
        !plm_size_mul(bytes, sizeof(float), &bytes))
        return plm_fail(err, PLM_LIMIT, "sample of %" PRIu64 " rows of %zu values is too large", n_rows,
                        s->dim);
    t->n_max = (size_t)n_rows;
    PLM_TRY(plm_alloc(t->ctx, &s->rowids, t->n_max, sizeof *s->rowids, err));
    if (bytes <= max_bytes)
        return make_rows(t, err);
    if (!spill_store)
        return plm_fail(err, PLM_LIMIT,
                        "sample of %" PRIu64 " rows needs %zu bytes, %zu are allowed and there is no "
                        "place to spill it", n_rows, bytes, max_bytes);
    PLM_TRY(plm_strdup(t->ctx, spill_path, &s->spill_path, err));
    PLM_TRY(plm_writer_open(spill_store, spill_path, bytes, NULL, NULL, &t->writer, err));
    s->spill_store = spill_store;
done:
    return rc;
}

static enum plm_code finish_spill(struct taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    enum plm_code rc = PLM_OK;

    if (!t->writer)
        return PLM_OK;
    PLM_TRY(plm_writer_finish(t->writer, err));
    t->writer = NULL;
    PLM_TRY(plm_file_open(s->spill_store, s->spill_path, 0, &s->spill, err));
done:
    return rc;
}

/* ---- rows that need not be read again ----------------------------------------------------- */

/* Do the rows of a run, all of them, follow those of the stretch? */
static bool follows(const struct plm_kept *k, uint64_t first, const float *rows, size_t dim)
{
    return k && k->first + k->n == first && k->rows + k->n * dim == rows;
}

/* Runs that were kept whole, as stretches; counts them only when there is no room. Returns their rows. */
static uint64_t list_kept(const struct taking *t, struct plm_kept *kept, size_t *n_kept)
{
    const struct plm_sample *s = &t->sample;
    struct plm_kept last = {0};
    uint64_t n_rows = 0;
    size_t at = 0, n = 0;

    for (size_t i = 0; i < t->n_runs; at += t->runs[i++].n_kept) {
        const struct run *run = &t->runs[i];
        uint64_t first = t->by_number[run->first]->number, end = first + run->n;
        uint64_t rows = plm_min_u64(end * PLM_SLICE_ROWS, t->slices.n_live) - first * PLM_SLICE_ROWS;

        first *= PLM_SLICE_ROWS;
        if (run->n_kept != rows)
            continue;
        n_rows += rows;
        if (n > 0 && follows(&last, first, s->rows + at * s->dim, s->dim)) {
            last.n += (size_t)rows;
        } else {
            last = (struct plm_kept){first, (size_t)rows, s->rows + at * s->dim, s->rowids + at};
            n++;
        }
        if (kept)
            kept[n - 1] = last;
    }
    *n_kept = n;
    return n_rows;
}

/* Worth it when little else is left to be read. */
static enum plm_code note_kept(struct taking *t, struct plm_err *err)
{
    struct plm_sample *s = &t->sample;
    size_t n = 0;
    enum plm_code rc = PLM_OK;

    if (!s->rows || t->source->column.element != PLM_F32 ||
        list_kept(t, NULL, &n) < t->slices.n_live / PLM_KEPT_PARTS * (PLM_KEPT_PARTS - 1) || n == 0)
        return PLM_OK;
    PLM_TRY(plm_alloc(t->ctx, &s->kept, n, sizeof *s->kept, err));
    (void)list_kept(t, s->kept, &s->n_kept);
done:
    return rc;
}

/* ---- the choice ------------------------------------------------------------------------- */

/* Lists and counts slices until the first n_used of them give n_wanted usable rows, or none is
 * left. */
static enum plm_code count_enough(struct taking *t, uint64_t n_wanted, size_t n_counted,
                                  size_t *n_used, uint64_t *n_rows, struct plm_err *err)
{
    size_t n;
    enum plm_code rc = PLM_OK;

    for (;; n_counted = n) {
        PLM_TRY(plm_slices_next(&t->slices, n_wanted, n_counted, n_used, n_rows, &n, err));
        if (n == n_counted)
            break;
        PLM_TRY(read_slices(t, n_counted, n, false, err));
    }
done:
    return rc;
}

static enum plm_code take(struct taking *t, uint64_t n_wanted, size_t max_bytes,
                          struct plm_store *spill_store, const char *spill_path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t n_slices = n_wanted / PLM_SLICE_ROWS + 2, n_rows; /* + 1: the last slice may be short */
    size_t n_used;
    bool known;

    PLM_TRY(plm_slices_extend(&t->slices, n_slices, err));
    plm_slices_choose(&t->slices, n_wanted, &n_used, &n_rows, &known);
    PLM_TRY(make_room(t, n_rows, max_bytes, spill_store, spill_path, err));
    size_window(t);
    PLM_TRY(read_slices(t, 0, n_used, true, err));
    t->sample.is_whole = n_used == t->slices.n_all;
    if (t->sample.n < n_rows && !t->sample.is_whole) {
        uint64_t n_first = n_rows;

        PLM_TRY(count_enough(t, n_wanted, n_used, &n_used, &n_rows, err));
        PLM_ASSERT(n_rows <= n_first); /* so the room is enough */
        PLM_TRY(read_slices(t, 0, n_used, true, err));
        if (t->sample.n != n_rows)
            PLM_TRY(plm_fail(err, PLM_CORRUPT,
                             "sample: %zu usable rows, %" PRIu64 " when they were read before",
                             t->sample.n, n_rows));
        t->sample.is_whole = n_used == t->slices.n_all;
    }
    PLM_TRY(finish_spill(t, err));
done:
    return rc;
}

enum plm_code plm_sample_take(struct plm_source *source, enum plm_metric metric, uint64_t n_wanted,
                              uint64_t seed, size_t max_bytes, struct plm_store *spill_store,
                              const char *spill_path, struct plm_sample *out, struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct taking t = {.ctx = ctx, .source = source, .metric = metric,
                       .window_max = 2 * (size_t)ctx->threads,
                       .sample = {.ctx = ctx, .dim = source->column.dim}};
    enum plm_code rc = PLM_OK;

    n_wanted = plm_min_u64(n_wanted, source->n_live);
    plm_slices_init(&t.slices, ctx, source->n_live, seed);
    PLM_TRY(plm_calloc(ctx, &t.batches, t.window_max, sizeof *t.batches, err));
    PLM_TRY(take(&t, n_wanted, max_bytes, spill_store, spill_path, err));
    PLM_TRY(note_kept(&t, err));
    *out = t.sample;
    t.sample = (struct plm_sample){0};
done:
    plm_writer_abort(t.writer);
    plm_sample_reset(&t.sample);
    for (size_t i = 0; t.batches && i < t.window_max; i++)
        plm_batch_reset(&t.batches[i]);
    plm_free(ctx, t.batches);
    plm_free(ctx, t.by_number);
    plm_free(ctx, t.runs);
    plm_slices_reset(&t.slices);
    return rc;
}

/* The slices are lent to `t` while they are read: they must be put back. */
static enum plm_code take_listed(struct taking *t, size_t max_bytes, struct plm_store *spill_store,
                                 const char *spill_path, struct plm_err *err)
{
    uint64_t n_rows = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < t->slices.n; i++) {
        const struct plm_slice *s = &t->slices.items[i];

        if (s->number >= t->slices.n_all || (i > 0 && s->number <= s[-1].number) ||
            s->keep > plm_slice_rows(&t->slices, s->number))
            return plm_fail(err, PLM_CORRUPT, "sample: slice %" PRIu64 " of %" PRIu64 " with %u rows",
                            s->number, t->slices.n_all, s->keep);
        n_rows += s->keep;
    }
    PLM_TRY(make_room(t, n_rows, max_bytes, spill_store, spill_path, err));
    size_window(t);
    PLM_TRY(read_slices(t, 0, t->slices.n, true, err));
    PLM_TRY(finish_spill(t, err));
done:
    return rc;
}

enum plm_code plm_sample_take_slices(struct plm_source *source, enum plm_metric metric,
                                     struct plm_slice *slices, size_t n, size_t max_bytes,
                                     struct plm_store *spill_store, const char *spill_path,
                                     struct plm_sample *out, struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct taking t = {.ctx = ctx, .source = source, .metric = metric,
                       .window_max = 2 * (size_t)ctx->threads,
                       .sample = {.ctx = ctx, .dim = source->column.dim}};
    enum plm_code rc = PLM_OK;

    plm_slices_init(&t.slices, ctx, source->n_live, 0);
    t.slices.items = slices;
    t.slices.n = n;
    PLM_TRY(plm_calloc(ctx, &t.batches, t.window_max, sizeof *t.batches, err));
    PLM_TRY(take_listed(&t, max_bytes, spill_store, spill_path, err));
    *out = t.sample;
    t.sample = (struct plm_sample){0};
done:
    plm_writer_abort(t.writer);
    plm_sample_reset(&t.sample);
    for (size_t i = 0; t.batches && i < t.window_max; i++)
        plm_batch_reset(&t.batches[i]);
    plm_free(ctx, t.batches);
    plm_free(ctx, t.by_number);
    plm_free(ctx, t.runs);
    return rc;
}

/* ---- using it ------------------------------------------------------------------------------ */

void plm_sample_of(struct plm_ctx *ctx, const float *rows, size_t n, size_t dim,
                   struct plm_sample *out)
{
    struct plm_sample s = {.ctx = ctx, .dim = dim, .is_borrowed = true, .rows = (float *)(uintptr_t)rows};

    float lo, hi;

    if (n > 0) {
        ctx->kernels->min_max(rows, n * dim, &lo, &hi);
        widen_bounds(&s, lo, hi);
    }
    s.n = n;
    *out = s;
}

enum plm_code plm_sample_rows(const struct plm_sample *sample, size_t first, size_t n,
                              float *scratch, const float **rows, struct plm_err *err)
{
    PLM_ASSERT(first <= sample->n && n <= sample->n - first);
    if (sample->rows) {
        *rows = sample->rows + first * sample->dim;
        return PLM_OK;
    }
    size_t row_bytes = sample->dim * sizeof(float);
    if (n > 0) {
        enum plm_code rc = plm_file_read(sample->spill, (uint64_t)first * row_bytes, n * row_bytes,
                                         scratch, err);
        if (rc != PLM_OK)
            return rc;
    }
    *rows = scratch;
    return PLM_OK;
}

void plm_sample_reset(struct plm_sample *sample)
{
    if (sample->ctx && !sample->is_borrowed)
        plm_region_free(sample->ctx, sample->rows, sample->n_room * sample->dim, sizeof *sample->rows);
    if (sample->ctx)
        plm_free(sample->ctx, sample->kept);
    if (sample->ctx)
        plm_free(sample->ctx, sample->rowids);
    plm_file_close(sample->spill);
    /* A spill file that cannot be removed is found by gc: it lies in the job's directory. */
    if (sample->spill_store && sample->spill_path &&
        plm_store_delete(sample->spill_store, sample->spill_path, NULL) != PLM_OK)
        plm_warn(sample->ctx, "cannot remove the spilled sample %s", sample->spill_path);
    if (sample->ctx)
        plm_free(sample->ctx, sample->spill_path);
    *sample = (struct plm_sample){0};
}
