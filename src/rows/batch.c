/* batch.c - reading live rows and making them ready for arithmetic.
 *
 * Physical rows are read in windows straight into the batch, then deleted and unusable rows are
 * squeezed out in place, so that no row is copied twice.
 */
#include <math.h>

#include "rows/half.h"
#include "rows/source.h"
#include "rows/source_impl.h"
#include "simd/simd.h"

#define WINDOW_ROWS_MIN 64 /* spare room, so that sparse live rows do not end in tiny reads */

struct batch_scratch {
    struct plm_read_scratch read;
    uint8_t *nulls;  /* [cap] */
    float *own_rows; /* the batch's memory, NULL until it is needed; its `rows` may lie elsewhere */
    void *own_raw;   /* == own_rows for F32 */
};

static size_t bytes_per_row(const struct plm_source *source)
{
    size_t element = plm_element_bytes(source->column.element), dim = source->column.dim;
    size_t values = dim * (sizeof(float) + (source->column.element == PLM_F32 ? 0 : element));
    return values + 2 * sizeof(uint64_t) + 1;
}

size_t plm_batch_rows(const struct plm_source *source, size_t bytes)
{
    size_t rows = (size_t)(bytes / (bytes_per_row(source) + source->needs.row_bytes));
    return plm_max_size(1, rows > 2 * WINDOW_ROWS_MIN ? rows - WINDOW_ROWS_MIN : rows);
}

size_t plm_batch_bytes(const struct plm_source *source, size_t n_rows)
{
    size_t cap = n_rows + WINDOW_ROWS_MIN;

    return cap * bytes_per_row(source) + (size_t)plm_read_scratch_bytes(&source->needs, cap);
}

size_t plm_batch_rows_that_fit(const struct plm_source *source, size_t least, size_t most)
{
    size_t none = plm_batch_bytes(source, 0);
    uint64_t room = plm_memory_left(source->ctx) / (2 * source->ctx->threads);
    size_t rows = room > none ? (size_t)plm_min_u64(SIZE_MAX, (room - none) / bytes_per_row(source)) : 0;

    return plm_max_size(plm_batch_rows(source, least), plm_min_size(plm_batch_rows(source, most), rows));
}

void plm_batch_reset(struct plm_batch *batch)
{
    struct plm_ctx *ctx = batch->ctx;
    if (!ctx)
        return;
    struct batch_scratch *s = batch->scratch;
    if (s) {
        plm_read_scratch_reset(&s->read);
        plm_free(ctx, s->nulls);
        if (s->own_raw != s->own_rows)
            plm_free(ctx, s->own_raw);
        plm_free(ctx, s->own_rows);
        plm_free(ctx, s);
    }
    plm_free(ctx, batch->rowids);
    plm_free(ctx, batch->ordinals);
    *batch = (struct plm_batch){0};
}

/* For all but the rows themselves. */
static enum plm_code make_room(struct plm_source *source, size_t n, struct plm_batch *batch,
                               struct plm_err *err)
{
    struct plm_ctx *ctx = source->ctx;
    struct batch_scratch *s;
    size_t cap;
    enum plm_code rc = PLM_OK;

    if (batch->ctx && batch->cap >= n + WINDOW_ROWS_MIN && batch->dim == source->column.dim &&
        batch->element == source->column.element)
        return PLM_OK;
    plm_batch_reset(batch);
    batch->ctx = ctx;
    batch->dim = source->column.dim;
    batch->element = source->column.element;
    if (!plm_size_add(n, WINDOW_ROWS_MIN, &cap))
        return plm_fail(err, PLM_NOMEM, "batch of %zu rows overflows", n);
    PLM_TRY(plm_alloc(ctx, &batch->rowids, cap, sizeof *batch->rowids, err));
    PLM_TRY(plm_alloc(ctx, &batch->ordinals, cap, sizeof *batch->ordinals, err));
    PLM_TRY(plm_calloc(ctx, &s, 1, sizeof *s, err));
    batch->scratch = s;
    s->read.ctx = ctx;
    PLM_TRY(plm_alloc(ctx, &s->nulls, cap, 1, err));
    batch->cap = cap;
done:
    if (rc != PLM_OK)
        plm_batch_reset(batch);
    return rc;
}

/* The batch's own memory for rows, and its rows there. */
static enum plm_code make_rows(struct plm_batch *batch, struct plm_err *err)
{
    struct batch_scratch *s = batch->scratch;
    size_t values;
    enum plm_code rc = PLM_OK;

    if (!plm_size_mul(batch->cap, batch->dim, &values))
        return plm_fail(err, PLM_NOMEM, "batch of %zu rows of %zu values overflows", batch->cap, batch->dim);
    if (!s->own_rows)
        PLM_TRY(plm_alloc(batch->ctx, &s->own_rows, values, sizeof(float), err));
    if (!s->own_raw && batch->element == PLM_F32)
        s->own_raw = s->own_rows;
    else if (!s->own_raw)
        PLM_TRY(plm_alloc(batch->ctx, &s->own_raw, values, plm_element_bytes(batch->element), err));
    batch->rows = s->own_rows;
    batch->raw = s->own_raw;
done:
    return rc;
}

/* ---- one row ----------------------------------------------------------------------- */

/* The reference order of simd.h's norm2, for float64 rows. */
static double norm2_f64(const double *x, size_t n)
{
    double s[8] = {0};
    for (size_t i = 0; i < n; i++)
        s[i % 8] += x[i] * x[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static bool all_finite_f64(const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static enum plm_drop prepare_f32(const struct plm_kernels *k, enum plm_metric metric, float *row,
                                 size_t dim)
{
    double norm2 = k->norm2(row, dim); /* squares of floats cannot overflow a double */
    if (!isfinite(norm2))
        return PLM_DROP_NONFINITE;
    if (metric != PLM_COSINE)
        return PLM_KEEP;
    if (norm2 == 0)
        return PLM_DROP_ZERO;
    double inverse = 1 / sqrt(norm2);
    for (size_t i = 0; i < dim; i++)
        row[i] = (float)(row[i] * inverse);
    return PLM_KEEP;
}

static enum plm_drop prepare_f16(const struct plm_kernels *k, enum plm_metric metric, uint16_t *raw,
                                 float *row, size_t dim)
{
    k->f16_to_f32(raw, row, dim);
    enum plm_drop drop = prepare_f32(k, metric, row, dim);
    if (drop != PLM_KEEP || metric != PLM_COSINE)
        return drop;
    for (size_t i = 0; i < dim; i++)
        raw[i] = plm_f16_from_f32(row[i]);
    k->f16_to_f32(raw, row, dim);
    return PLM_KEEP;
}

static enum plm_drop prepare_f64(enum plm_metric metric, double *raw, float *row, size_t dim)
{
    double inverse = 1;
    if (!all_finite_f64(raw, dim))
        return PLM_DROP_NONFINITE;
    if (metric == PLM_COSINE) {
        double norm2 = norm2_f64(raw, dim);
        if (norm2 == 0)
            return PLM_DROP_ZERO;
        if (!isfinite(norm2))
            return PLM_DROP_NONFINITE;
        inverse = 1 / sqrt(norm2);
    }
    for (size_t i = 0; i < dim; i++) {
        raw[i] *= inverse;
        row[i] = (float)raw[i];
        if (!isfinite(row[i]))
            return PLM_DROP_NONFINITE; /* beyond float32, in which pilum computes */
    }
    return PLM_KEEP;
}

static enum plm_drop prepare_row(const struct plm_kernels *k, enum plm_metric metric,
                                 struct plm_batch *batch, size_t at)
{
    float *row = batch->rows + at * batch->dim;
    switch (batch->element) {
    case PLM_F16:
        return prepare_f16(k, metric, (uint16_t *)batch->raw + at * batch->dim, row, batch->dim);
    case PLM_F64:
        return prepare_f64(metric, (double *)batch->raw + at * batch->dim, row, batch->dim);
    default:
        return prepare_f32(k, metric, row, batch->dim);
    }
}

/* ---- windows ------------------------------------------------------------------------ */

struct window {
    const struct plm_source_fragment *fragment;
    uint64_t row;     /* first physical row */
    size_t n;         /* physical rows read */
    uint64_t ordinal; /* of the first live row in it */
};

/* Squeezes the usable rows of a window, read at batch->n.., together. Live rows beyond
 * `n_wanted` are ignored. Returns how many live rows were consumed. */
static size_t keep_usable(struct plm_source *source, enum plm_metric metric, const struct window *w,
                          const uint8_t *nulls, size_t n_wanted, struct plm_batch *batch)
{
    const struct plm_kernels *k = source->ctx->kernels;
    const struct plm_row_map *map = &w->fragment->map;
    size_t raw_bytes = batch->dim * plm_element_bytes(batch->element), base = batch->n, live = 0;

    for (size_t i = 0; i < w->n && live < n_wanted; i++) {
        if (plm_row_is_deleted(map, w->row + i))
            continue;
        uint64_t ordinal = w->ordinal + live++;
        if (nulls[i]) {
            batch->dropped[PLM_DROP_NULL]++;
            continue;
        }
        size_t to = batch->n;
        if (to != base + i)
            memcpy((uint8_t *)batch->raw + to * raw_bytes,
                   (uint8_t *)batch->raw + (base + i) * raw_bytes, raw_bytes);
        enum plm_drop drop = prepare_row(k, metric, batch, to);
        if (drop != PLM_KEEP) {
            batch->dropped[drop]++;
            continue;
        }
        batch->rowids[to] = plm_row_id(map, w->row + i);
        batch->ordinals[to] = ordinal;
        batch->n++;
    }
    return live;
}

static enum plm_code read_window(const struct window *w,
                                 struct plm_batch *batch, struct plm_err *err)
{
    struct batch_scratch *s = batch->scratch;
    struct plm_column_shape shape = {batch->dim > UINT32_MAX ? 0 : (uint32_t)batch->dim,
                                     8 * (uint32_t)plm_element_bytes(batch->element), true};
    size_t raw_bytes = batch->dim * plm_element_bytes(batch->element);

    if (!w->fragment->file) {
        memset(s->nulls, 1, w->n);
        return PLM_OK;
    }
    enum plm_code rc = plm_datafile_read(w->fragment->file, w->fragment->column, &shape, w->row, w->n,
                                         (uint8_t *)batch->raw + batch->n * raw_bytes, s->nulls,
                                         &s->read, err);
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "fragment %" PRIu64, w->fragment->id);
}

/* n live rows of one fragment from live row `rank` on. batch->rows has room for `room` in all. */
static enum plm_code read_fragment(struct plm_source *source, enum plm_metric metric,
                                   const struct plm_source_fragment *f, uint64_t rank, size_t n,
                                   size_t room, struct plm_batch *batch, struct plm_err *err)
{
    struct batch_scratch *s = batch->scratch;
    uint64_t row = plm_source_select(f, rank);

    while (n > 0) {
        size_t want = f->map.deleted ? n + n / 8 + WINDOW_ROWS_MIN : n;
        struct window w = {f, row, (size_t)plm_min_u64(plm_min_size(room - batch->n, want), f->n_rows - row),
                           f->first_ordinal + rank};
        if (w.n == 0)
            return plm_fail(err, PLM_BUG, "fragment %" PRIu64 ": ran out of rows", f->id);
        enum plm_code rc = read_window(&w, batch, err);
        if (rc != PLM_OK)
            return rc;
        size_t live = keep_usable(source, metric, &w, s->nulls, n, batch);
        row += w.n;
        rank += live;
        n -= live;
    }
    return PLM_OK;
}

size_t plm_source_fragment_of(const struct plm_source *source, uint64_t ordinal)
{
    size_t low = 0, high = source->n_fragments;
    while (high - low > 1) { /* last fragment that begins at or before the ordinal */
        size_t middle = low + (high - low) / 2;
        if (source->fragments[middle].first_ordinal <= ordinal)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* To batch->rows, where there is room for `room` rows. */
static enum plm_code read_rows(struct plm_source *source, enum plm_metric metric, uint64_t first, size_t n,
                               size_t room, struct plm_batch *batch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    batch->n = 0;
    memset(batch->dropped, 0, sizeof batch->dropped);
    for (size_t i = n ? plm_source_fragment_of(source, first) : 0; n > 0; i++) {
        const struct plm_source_fragment *f = &source->fragments[i];
        uint64_t rank = first - f->first_ordinal;
        size_t here = (size_t)plm_min_u64(n, f->n_live - rank);
        if (here == 0)
            continue; /* no live row in it */
        PLM_TRY(read_fragment(source, metric, f, rank, here, room, batch, err));
        first += here;
        n -= here;
    }
done:
    return rc;
}

static enum plm_code check_rows(const struct plm_source *source, uint64_t first, size_t n, struct plm_err *err)
{
    if (first > source->n_live || n > source->n_live - first)
        return plm_fail(err, PLM_ARG, "rows %" PRIu64 "..+%zu of %" PRIu64, first, n, source->n_live);
    return PLM_OK;
}

/* The first stretch that does not end before the row; NULL: none. */
static const struct plm_kept *next_kept(const struct plm_source *source, uint64_t first)
{
    size_t low = 0, high = source->n_kept;

    while (low < high) { /* least stretch that ends behind `first` */
        size_t middle = low + (high - low) / 2;
        const struct plm_kept *k = &source->kept[middle];

        if (k->first + k->n <= first)
            low = middle + 1;
        else
            high = middle;
    }
    return low < source->n_kept ? &source->kept[low] : NULL;
}

/* The stretch that has all of the rows; NULL: none. */
static const struct plm_kept *kept_of(const struct plm_source *source, uint64_t first, size_t n)
{
    const struct plm_kept *k = next_kept(source, first);

    return k && k->first <= first && n <= k->n - (first - k->first) ? k : NULL;
}

size_t plm_source_at_once(const struct plm_source *source, uint64_t first, size_t n)
{
    const struct plm_kept *k = next_kept(source, first);

    if (!k)
        return n;
    return (size_t)plm_min_u64(n, k->first > first ? k->first - first : k->n - (first - k->first));
}

static void take_kept(const struct plm_kept *k, uint64_t first, size_t n, struct plm_batch *batch)
{
    size_t at = (size_t)(first - k->first);

    batch->rows = (float *)(uintptr_t)(k->rows + at * batch->dim);
    batch->raw = batch->rows;
    batch->n = n;
    memset(batch->dropped, 0, sizeof batch->dropped);
    memcpy(batch->rowids, k->rowids + at, n * sizeof *batch->rowids);
    for (size_t i = 0; i < n; i++)
        batch->ordinals[i] = first + i;
}

void plm_source_keep(struct plm_source *source, const struct plm_kept *kept, size_t n)
{
    PLM_ASSERT(n == 0 || source->column.element == PLM_F32);
    source->kept = kept;
    source->n_kept = n;
}

enum plm_code plm_source_read(struct plm_source *source, enum plm_metric metric, uint64_t first,
                              size_t n, struct plm_batch *batch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_rows(source, first, n, err));
    PLM_TRY(make_room(source, n, batch, err));
    const struct plm_kept *k = n > 0 ? kept_of(source, first, n) : NULL;
    if (k) {
        take_kept(k, first, n, batch);
        return PLM_OK;
    }
    PLM_TRY(make_rows(batch, err));
    PLM_TRY(read_rows(source, metric, first, n, batch->cap, batch, err));
done:
    return rc;
}

/* Deleted rows would be read along, for which there is no room. */
static bool has_deletions(const struct plm_source *source, uint64_t first, size_t n)
{
    for (size_t i = plm_source_fragment_of(source, first);
         i < source->n_fragments && source->fragments[i].first_ordinal < first + n; i++)
        if (source->fragments[i].map.deleted)
            return true;
    return false;
}

bool plm_source_may_be_viewed(const struct plm_source *source)
{
    const struct plm_source_fragment *f = source->n_fragments > 0 ? source->fragments : NULL;
    struct plm_column_shape shape = {source->column.dim, 32, true};

    return f && source->column.element == PLM_F32 && f->file && plm_store_is_local(f->store) && !f->map.deleted &&
           plm_datafile_is_aligned(f->file, f->column, &shape);
}

enum plm_code plm_source_read_there(struct plm_source *source, enum plm_metric metric, uint64_t first,
                                    size_t n, float *rows, struct plm_batch *batch, bool *done,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_rows(source, first, n, err));
    *done = n > 0 && source->column.element == PLM_F32 && !has_deletions(source, first, n);
    if (!*done)
        return PLM_OK;
    PLM_TRY(make_room(source, n, batch, err));
    struct batch_scratch *s = batch->scratch;
    batch->raw = batch->rows = rows;
    s->read.in_region = metric != PLM_COSINE; /* what is written to anyway need not be a view */
    rc = read_rows(source, metric, first, n, n, batch, err);
    s->read.in_region = false;
done:
    return rc;
}
