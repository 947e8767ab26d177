/* sample.c - taking the training rows: how many slices it needs.
 *
 * If rows turn out to be unusable, further slices are counted first and one more pass over the final
 * choice places the rows: a table without such rows, and a sample of the whole table, is read once.
 */
#include "cluster/sample.h"

#include <stdlib.h>

#include "cluster/sample_impl.h"

/* Lists and counts slices until the first n_used of them give n_wanted usable rows, or none is
 * left. */
static enum plm_code count_enough(struct plm_sample_taking *t, uint64_t n_wanted, size_t n_counted,
                                  size_t *n_used, uint64_t *n_rows, struct plm_err *err)
{
    size_t n;
    enum plm_code rc = PLM_OK;

    for (;; n_counted = n) {
        PLM_TRY(plm_slices_next(&t->slices, n_wanted, n_counted, n_used, n_rows, &n, err));
        if (n == n_counted)
            break;
        PLM_TRY(plm_sample_read_slices(t, n_counted, n, false, err));
    }
done:
    return rc;
}

/* Only the last of the slices taken may have been cut. */
static bool is_last_in_full(const struct plm_sample_taking *t, size_t n_used)
{
    return n_used == 0 || t->slices.items[n_used - 1].keep >= t->slices.items[n_used - 1].usable;
}

static enum plm_code take(struct plm_sample_taking *t, uint64_t n_wanted, size_t max_bytes,
                          struct plm_store *spill_store, const char *spill_path, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t n_slices = n_wanted / PLM_SLICE_ROWS + 2, n_rows; /* + 1: the last slice may be short */
    size_t n_used;
    bool known;

    PLM_TRY(plm_slices_extend(&t->slices, n_slices, err));
    plm_slices_choose(&t->slices, n_wanted, &n_used, &n_rows, &known);
    PLM_TRY(plm_sample_make_room(t, n_rows, max_bytes, spill_store, spill_path, err));
    plm_sample_size_window(t);
    PLM_TRY(plm_sample_read_slices(t, 0, n_used, true, err));
    t->sample.is_whole = n_used == t->slices.n_all;
    if (t->sample.n < n_rows && !(t->sample.is_whole && is_last_in_full(t, n_used))) {
        uint64_t n_first = n_rows;

        PLM_TRY(count_enough(t, n_wanted, n_used, &n_used, &n_rows, err));
        PLM_ASSERT(n_rows <= n_first); /* so the room is enough */
        PLM_TRY(plm_sample_read_slices(t, 0, n_used, true, err));
        if (t->sample.n != n_rows)
            PLM_TRY(plm_fail(err, PLM_CORRUPT,
                             "sample: %zu usable rows, %" PRIu64 " when they were read before",
                             t->sample.n, n_rows));
        t->sample.is_whole = n_used == t->slices.n_all;
    }
    PLM_TRY(plm_sample_finish_spill(t, err));
done:
    return rc;
}

enum plm_code plm_sample_take(struct plm_source *source, enum plm_metric metric, uint64_t n_wanted,
                              uint64_t seed, size_t max_bytes, struct plm_store *spill_store,
                              const char *spill_path, struct plm_sample *out, struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct plm_sample_taking t = {.ctx = ctx, .source = source, .metric = metric,
                       .window_max = 2 * (size_t)ctx->threads,
                       .sample = {.ctx = ctx, .dim = source->column.dim}};
    enum plm_code rc = PLM_OK;

    n_wanted = plm_min_u64(n_wanted, source->n_live);
    plm_slices_init(&t.slices, ctx, source->n_live, seed);
    PLM_TRY(plm_calloc(ctx, &t.batches, t.window_max, sizeof *t.batches, err));
    PLM_TRY(take(&t, n_wanted, max_bytes, spill_store, spill_path, err));
    PLM_TRY(plm_sample_note_kept(&t, err));
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
static enum plm_code take_listed(struct plm_sample_taking *t, size_t max_bytes,
                                 struct plm_store *spill_store, const char *spill_path,
                                 struct plm_err *err)
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
    PLM_TRY(plm_sample_make_room(t, n_rows, max_bytes, spill_store, spill_path, err));
    plm_sample_size_window(t);
    PLM_TRY(plm_sample_read_slices(t, 0, t->slices.n, true, err));
    PLM_TRY(plm_sample_finish_spill(t, err));
done:
    return rc;
}

enum plm_code plm_sample_take_slices(struct plm_source *source, enum plm_metric metric,
                                     struct plm_slice *slices, size_t n, size_t max_bytes,
                                     struct plm_store *spill_store, const char *spill_path,
                                     struct plm_sample *out, struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct plm_sample_taking t = {.ctx = ctx, .source = source, .metric = metric,
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
