/* check_rows.c - rows of the table looked up in the index.
 *
 * Rows are taken in chunks: encoded again, sorted by the partition they belong in, and looked
 * for there by row id, partitions together in long reads. Codes that lie row by row are then read
 * where rows were found; those of a transposed partition come with its row ids.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "build/check.h"
#include "cluster/assign.h"
#include "ivf/window.h"
#include "rows/half.h"
#include "simd/simd.h"

#define SAMPLE_SLICES 16
#define SAMPLE_ROWS_MIN 32
#define SAMPLE_WORK 2e9      /* multiply-adds of the float64 search for the nearest partition */
#define FULL_CHUNK_ROWS ((size_t)65536)
#define WINDOW_BYTES ((size_t)4 << 20)
#define GAP_BYTES ((size_t)128 << 10) /* read rather than skipped */
#define PART_VALUES 128
#define IDS_OF_WINDOW ((size_t)1 << 18)
#define NEARLY 1e-5          /* relative: float32 rounding of other builders */
#define ROUNDING 1e-3        /* of a unit vector's value in float16 */

/* A row that must be in the index. */
struct expected {
    uint64_t rowid;
    uint32_t partition;
    size_t at; /* in the chunk's vectors and codes */
    bool found;
};

/* Where one was found. */
struct match {
    uint64_t row; /* of the index file */
    const struct expected *expected;
};

struct chunk {
    struct plm_check *check;
    size_t n, cap, dim, code_bytes;
    float *vectors;       /* [n][dim] */
    uint8_t *codes;       /* [n][code_bytes] */
    struct expected *rows; /* [n], sorted by (partition, row id) after encoding */
    uint32_t *ids;
    uint8_t *window;      /* codes of the index */
    uint64_t *window_ids;
    size_t window_rows;   /* with codes */
    uint8_t *code;        /* one of a transposed partition, put together */
    uint8_t *wanted;      /* [k] partitions that rows belong in */
    struct match *matches;
    size_t n_matches;
    struct plm_read_scratch read;
};

/* ---- findings --------------------------------------------------------------------------- */

void plm_problem(struct plm_findings *f, const char *kind, uint64_t rowid, const char *where,
                 const char *seen_fmt, double seen, double expected)
{
    char text[120];
    if (f->n_problems++ >= PLM_PROBLEMS_MAX)
        return;
    if (!f->problems)
        f->problems = json_array();
    snprintf(text, sizeof text, seen_fmt, seen);
    json_t *problem = json_pack("{s:s, s:o, s:s, s:s, s:f}", "kind", kind, "rowid",
                                rowid == UINT64_MAX ? json_null() : json_integer((json_int_t)rowid), "where",
                                where, "seen", text, "expected", expected);
    if (f->problems && problem)
        json_array_append_new(f->problems, problem);
}

void plm_findings_reset(struct plm_findings *f)
{
    json_decref(f->problems);
    *f = (struct plm_findings){0};
}

/* ---- a chunk ------------------------------------------------------------------------------ */

static void free_chunk(struct chunk *c)
{
    struct plm_ctx *ctx = c->check->ctx;
    plm_free(ctx, c->vectors);
    plm_free(ctx, c->codes);
    plm_free(ctx, c->rows);
    plm_free(ctx, c->ids);
    plm_free(ctx, c->window);
    plm_free(ctx, c->window_ids);
    plm_free(ctx, c->code);
    plm_free(ctx, c->wanted);
    plm_free(ctx, c->matches);
    plm_read_scratch_reset(&c->read);
}

static enum plm_code open_chunk(struct plm_check *check, size_t cap, struct chunk *c,
                                struct plm_err *err)
{
    struct plm_ctx *ctx = check->ctx;
    const struct plm_model *m = &check->segment->model;
    enum plm_code rc = PLM_OK;

    *c = (struct chunk){.check = check, .cap = cap, .dim = m->dim, .read.ctx = ctx};
    c->code_bytes = plm_model_code_bytes(m);
    uint64_t n_rows = plm_max_u64(1, check->segment->n_rows);
    size_t room = plm_window_bytes(ctx, WINDOW_BYTES) / (c->code_bytes + 8);
    c->window_rows = (size_t)plm_min_u64(n_rows, plm_max_size(64, room));
    PLM_TRY(plm_alloc(ctx, &c->vectors, cap * c->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &c->codes, cap, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->rows, cap, sizeof *c->rows, err));
    PLM_TRY(plm_alloc(ctx, &c->ids, cap, sizeof *c->ids, err));
    PLM_TRY(plm_alloc(ctx, &c->window, c->window_rows, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->window_ids, c->window_rows, sizeof(uint64_t), err));
    PLM_TRY(plm_alloc(ctx, &c->code, c->code_bytes, 1, err));
    PLM_TRY(plm_alloc(ctx, &c->wanted, m->k, 1, err));
    PLM_TRY(plm_alloc(ctx, &c->matches, cap, sizeof *c->matches, err));
done:
    return rc;
}

/* Live rows [first, first + n) into the chunk. */
static enum plm_code load_rows(struct chunk *c, uint64_t first, size_t n, struct plm_batch *batch,
                               struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    enum plm_code rc = plm_source_read(c->check->source, m->metric, first, n, batch, err);
    if (rc != PLM_OK)
        return rc;
    memcpy(c->vectors + c->n * c->dim, batch->rows, batch->n * c->dim * sizeof(float));
    if (m->quantizer == PLM_FLAT)
        memcpy(c->codes + c->n * c->code_bytes, batch->raw, batch->n * c->code_bytes);
    for (size_t i = 0; i < batch->n; i++)
        c->rows[c->n + i] = (struct expected){.rowid = batch->rowids[i], .at = c->n + i};
    c->n += batch->n;
    return PLM_OK;
}

static double distance_to(const struct chunk *c, size_t at, uint32_t partition)
{
    const struct plm_model *m = &c->check->segment->model;
    const struct plm_kernels *k = c->check->ctx->kernels;
    const float *row = c->vectors + at * c->dim, *centroid = m->centroids + (size_t)partition * c->dim;
    return m->metric == PLM_DOT ? 1 - k->dot_exact(row, centroid, c->dim)
                                : k->l2_exact(row, centroid, c->dim);
}

/* Is the centroid farther than `best` by some of its values alone? A sum of squares only grows. */
static bool is_farther(const struct chunk *c, size_t at, uint32_t partition, double best)
{
    const struct plm_model *m = &c->check->segment->model;
    const float *row = c->vectors + at * c->dim, *centroid = m->centroids + (size_t)partition * c->dim;
    double sum = 0;
    if (m->metric == PLM_DOT)
        return false;
    for (size_t d = 0; d + PART_VALUES < c->dim && sum <= best; d += PART_VALUES)
        sum += c->check->ctx->kernels->l2_exact(row + d, centroid + d, PART_VALUES);
    return sum > best * (1 + 1e-9);
}

/* The nearest partition by looking at all of them in float64: no filter that a build uses. */
static enum plm_code find_nearest(void *arg, size_t at, unsigned worker, struct plm_err *err)
{
    struct chunk *c = arg;
    double best = INFINITY;
    (void)worker, (void)err;
    c->ids[at] = 0;
    for (uint32_t p = 0; p < c->check->segment->model.k; p++) {
        if (is_farther(c, at, p, best))
            continue;
        double d = distance_to(c, at, p);
        if (d < best) {
            best = d;
            c->ids[at] = p;
        }
    }
    return PLM_OK;
}

static enum plm_code assign_fast(struct chunk *c, struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    struct plm_assigner *assigner = NULL;
    struct plm_assign_scratch scratch = {.ctx = c->check->ctx};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_assigner_create(c->check->ctx, m->centroids, m->k, m->dim,
                                m->metric == PLM_DOT ? PLM_DOT : PLM_L2, &assigner, err));
    PLM_TRY(plm_assign(assigner, c->vectors, c->n, c->ids, NULL, &scratch, err));
done:
    plm_assign_scratch_reset(&scratch);
    plm_assigner_destroy(assigner);
    return rc;
}

static int by_partition(const void *a, const void *b)
{
    const struct expected *x = a, *y = b;
    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

static enum plm_code encode_chunk(struct chunk *c, bool all_in_float64, struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    const struct plm_kernels *k = c->check->ctx->kernels;
    void *scratch = NULL;
    enum plm_code rc = PLM_OK;

    if (all_in_float64)
        PLM_TRY(plm_parallel(c->check->ctx, c->n, find_nearest, c, err));
    else
        PLM_TRY(assign_fast(c, err));
    for (size_t i = 0; i < c->n; i++)
        c->rows[i].partition = c->ids[i];
    if (m->quantizer == PLM_SQ)
        k->sq_encode(c->vectors, c->n * c->dim, m->sq.lo, m->sq.hi, c->codes);
    if (m->quantizer == PLM_PQ) {
        PLM_TRY(plm_alloc(c->check->ctx, &scratch, 1, plm_pq_encode_bytes(&m->pq), err));
        plm_pq_encode(k, &m->pq, c->vectors, c->n, m->metric == PLM_DOT ? NULL : m->centroids, c->ids,
                      c->codes, scratch);
    }
    qsort(c->rows, c->n, sizeof *c->rows, by_partition);
done:
    plm_free(c->check->ctx, scratch);
    return rc;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* A stored FLAT value. */
static double value_of(const struct plm_model *m, const uint8_t *code, uint32_t d)
{
    uint16_t half;
    float single;
    double value;
    switch (m->element) {
    case PLM_F16:
        memcpy(&half, code + d * sizeof half, sizeof half);
        return plm_f16_to_f32(half);
    case PLM_F64:
        memcpy(&value, code + d * sizeof value, sizeof value);
        return value;
    default:
        memcpy(&single, code + d * sizeof single, sizeof single);
        return single;
    }
}

static double decoded_error(const struct chunk *c, const struct expected *row, const uint8_t *code,
                            float *decoded)
{
    const struct plm_model *m = &c->check->segment->model;
    const float *vector = c->vectors + row->at * c->dim;
    const float *centroid = m->centroids + (size_t)row->partition * c->dim;
    double error = 0;

    plm_pq_decode(&m->pq, code, decoded);
    for (size_t d = 0; d < c->dim; d++) {
        double from = m->metric == PLM_DOT ? vector[d] : (double)(vector[d] - centroid[d]);
        error += (from - decoded[d]) * (from - decoded[d]);
    }
    return error;
}

/* Other builders normalize in float32: a value may differ by rounding, an SQ code by one. */
static bool is_nearly_equal(const struct plm_model *m, const uint8_t *seen, const uint8_t *expected)
{
    if (m->metric != PLM_COSINE)
        return false;
    for (uint32_t d = 0; d < m->dim; d++) {
        if (m->quantizer == PLM_SQ ? abs(seen[d] - expected[d]) > 1
                                   : fabs(value_of(m, seen, d) - value_of(m, expected, d)) > ROUNDING)
            return false;
    }
    return true;
}

static enum plm_code compare_code(struct chunk *c, const struct expected *row, const uint8_t *seen,
                                  struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    const uint8_t *expected = c->codes + row->at * c->code_bytes;
    char where[64];
    size_t at = 0;

    if (memcmp(seen, expected, c->code_bytes) == 0)
        return PLM_OK;
    if (!c->check->is_ours && m->quantizer != PLM_PQ && is_nearly_equal(m, seen, expected))
        return PLM_OK;
    while (seen[at] == expected[at])
        at++;
    snprintf(where, sizeof where, "partition %u, byte %zu of the code", row->partition, at);
    if (m->quantizer != PLM_PQ) {
        plm_problem(c->check->findings, "code", row->rowid, where, "%.0f", seen[at], expected[at]);
        return PLM_OK;
    }
    float *decoded;
    enum plm_code rc = plm_alloc(c->check->ctx, &decoded, c->dim, sizeof(float), err);
    if (rc != PLM_OK)
        return rc;
    double error = decoded_error(c, row, seen, decoded), least = decoded_error(c, row, expected, decoded);
    if (error > least * (1 + NEARLY) + 1e-30)
        plm_problem(c->check->findings, "code", row->rowid, where, "squared error %.9g", error, least);
    plm_free(c->check->ctx, decoded);
    return PLM_OK;
}

/* Row i of the n that `codes` holds of a transposed partition. */
static const uint8_t *gather_code(struct chunk *c, const uint8_t *codes, size_t n, size_t i)
{
    for (size_t j = 0; j < c->code_bytes; j++)
        c->code[j] = codes[j * n + i];
    return c->code;
}

/* The expected rows [from, to) of partition p against those of the window. */
static enum plm_code look_in_partition(struct chunk *c, const struct plm_window *w, uint32_t p, size_t from,
                                       size_t to, struct plm_err *err)
{
    const struct plm_segment *s = c->check->segment;
    size_t n, at = plm_window_rows(s, w, p, &n);
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < n; i++) {
        struct expected key = {.rowid = c->window_ids[at + i], .partition = p};
        struct expected *row = bsearch(&key, c->rows + from, to - from, sizeof key, by_partition);
        if (!row)
            continue;
        if (row->found)
            plm_problem(c->check->findings, "repeated", row->rowid, "in its partition", "%.0f times", 2, 1);
        else if (s->pq_transposed)
            PLM_TRY(compare_code(c, row, gather_code(c, c->window + at * c->code_bytes, n, i), err));
        else
            c->matches[c->n_matches++] = (struct match){s->offsets[w->first] + w->skipped + at + i, row};
        row->found = true;
    }
done:
    return rc;
}

static int by_row(const void *a, const void *b)
{
    const struct match *x = a, *y = b;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Codes of the matches, those near each other in one read. */
static enum plm_code compare_matches(struct chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    size_t gap = GAP_BYTES / c->code_bytes;
    enum plm_code rc = PLM_OK;

    qsort(c->matches, c->n_matches, sizeof *c->matches, by_row);
    for (size_t from = 0, to; from < c->n_matches; from = to) {
        uint64_t first = c->matches[from].row, last = first;
        for (to = from + 1; to < c->n_matches && c->matches[to].row - last <= gap + 1 &&
                            c->matches[to].row - first < c->window_rows; to++)
            last = c->matches[to].row;
        PLM_TRY(plm_window_codes(s, first, (size_t)(last - first + 1), c->window, &c->read, err));
        for (size_t i = from; i < to; i++)
            PLM_TRY(compare_code(c, c->matches[i].expected,
                                 c->window + (size_t)(c->matches[i].row - first) * c->code_bytes, err));
    }
done:
    return rc;
}

static enum plm_code look_in_partitions(struct chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    struct plm_window *windows = NULL;
    size_t n_windows = 0, from = 0, to = 0, row_bytes = 8 + (s->pq_transposed ? c->code_bytes : 0);
    enum plm_code rc = PLM_OK;

    memset(c->wanted, 0, s->model.k);
    for (size_t i = 0; i < c->n; i++)
        c->wanted[c->rows[i].partition] = 1;
    PLM_TRY(plm_windows_make(s, c->wanted, 0, s->model.k, c->window_rows, GAP_BYTES / row_bytes, &windows,
                             &n_windows, err));
    for (size_t i = 0; i < n_windows; i++) {
        PLM_TRY(plm_check_cancel(c->check->ctx, err));
        PLM_TRY(plm_window_read(s, &windows[i], c->window_ids, s->pq_transposed ? c->window : NULL, &c->read, err));
        for (uint32_t p = windows[i].first; p < windows[i].end; p++) {
            if (!c->wanted[p])
                continue;
            while (c->rows[from].partition < p)
                from++;
            for (to = from; to < c->n && c->rows[to].partition == p;)
                to++;
            PLM_TRY(look_in_partition(c, &windows[i], p, from, to, err));
        }
    }
    PLM_TRY(compare_matches(c, err));
done:
    plm_free(c->check->ctx, windows);
    return rc;
}

/* ---- rows that are not where they belong ---------------------------------------------------------- */

static int by_rowid(const void *a, const void *b)
{
    const struct expected *x = a, *y = b;
    return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

/* A row that was expected elsewhere: fine if partition p is as near. */
static void judge(struct chunk *c, struct expected *row, uint32_t p)
{
    struct plm_findings *f = c->check->findings;
    double seen = distance_to(c, row->at, p), best = distance_to(c, row->at, row->partition);
    char where[32];

    row->found = true;
    if (seen <= best + NEARLY * fabs(best))
        return;
    snprintf(where, sizeof where, "partition %u", p);
    f->misfiled++;
    plm_problem(f, "misfiled", row->rowid, where, "distance %.9g", seen, best);
}

/* Looks for the rows not found yet in every partition. Leaves them first, by row id. */
static enum plm_code look_elsewhere(struct chunk *c, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    struct plm_window *windows = NULL;
    size_t n_windows = 0, n_lost = 0;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < c->n; i++)
        if (!c->rows[i].found)
            c->rows[n_lost++] = c->rows[i];
    qsort(c->rows, n_lost, sizeof *c->rows, by_rowid);
    PLM_TRY(plm_windows_make(s, NULL, 0, s->model.k, c->window_rows, 0, &windows, &n_windows, err));
    for (size_t i = 0; i < n_windows; i++) {
        PLM_TRY(plm_window_read(s, &windows[i], c->window_ids, NULL, &c->read, err));
        for (uint32_t p = windows[i].first; p < windows[i].end; p++) {
            size_t n, at = plm_window_rows(s, &windows[i], p, &n);
            for (size_t r = at; r < at + n; r++) {
                struct expected key = {.rowid = c->window_ids[r]};
                struct expected *row = bsearch(&key, c->rows, n_lost, sizeof key, by_rowid);
                if (row && !row->found)
                    judge(c, row, p);
            }
        }
    }
    for (size_t r = 0; r < n_lost; r++)
        if (!c->rows[r].found)
            plm_problem(c->check->findings, "missing", c->rows[r].rowid, "in no partition", "%.0f times", 0, 1);
done:
    plm_free(c->check->ctx, windows);
    return rc;
}

static enum plm_code check_chunk(struct chunk *c, bool all_in_float64, struct plm_err *err)
{
    bool all_found = true;
    enum plm_code rc = PLM_OK;

    if (c->n == 0)
        return PLM_OK;
    c->n_matches = 0;
    PLM_TRY(encode_chunk(c, all_in_float64, err));
    PLM_TRY(look_in_partitions(c, err));
    for (size_t i = 0; i < c->n; i++)
        all_found = all_found && c->rows[i].found;
    if (!all_found)
        PLM_TRY(look_elsewhere(c, err));
    c->check->findings->checked_rows += c->n;
    c->check->n_usable += c->n;
done:
    return rc;
}

/* ---- which rows -------------------------------------------------------------------------------------- */

static size_t sample_size(const struct plm_check *check)
{
    double each = (double)check->segment->model.k * check->segment->model.dim;
    double rows = SAMPLE_WORK / each;
    size_t n = rows > PLM_CHECK_SAMPLE_MAX ? PLM_CHECK_SAMPLE_MAX : rows < SAMPLE_ROWS_MIN ? SAMPLE_ROWS_MIN : (size_t)rows;
    return (size_t)plm_min_u64(n, check->n);
}

static enum plm_code check_sample(struct plm_check *check, struct plm_err *err)
{
    size_t n = sample_size(check), slice = (n + SAMPLE_SLICES - 1) / SAMPLE_SLICES;
    struct plm_batch batch = {0};
    struct chunk c;
    enum plm_code rc = PLM_OK;

    PLM_TRY(open_chunk(check, SAMPLE_SLICES * slice, &c, err));
    if (n == check->n) {
        PLM_TRY(load_rows(&c, check->first, n, &batch, err));
    } else {
        uint64_t stride = check->n / SAMPLE_SLICES; /* slices never overlap */
        for (uint64_t i = 0; i < SAMPLE_SLICES; i++) {
            size_t length = (size_t)plm_min_u64(slice, stride);
            uint64_t at = i * stride + plm_mix64(check->seed, i) % (stride - length + 1);
            PLM_TRY(load_rows(&c, check->first + at, length, &batch, err));
        }
    }
    PLM_TRY(check_chunk(&c, true, err));
done:
    free_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

static enum plm_code check_all(struct plm_check *check, struct plm_err *err)
{
    size_t step = plm_min_size(FULL_CHUNK_ROWS, plm_max_size(256, plm_batch_rows(check->source, 64u << 20)));
    struct plm_batch batch = {0};
    struct chunk c;
    enum plm_code rc = PLM_OK;

    step = (size_t)plm_min_u64(step, check->n);
    PLM_TRY(open_chunk(check, step, &c, err));
    for (uint64_t at = 0; at < check->n; at += step) {
        size_t n = (size_t)plm_min_u64(step, check->n - at);
        c.n = 0;
        PLM_TRY(plm_check_cancel(check->ctx, err));
        PLM_TRY(load_rows(&c, check->first + at, n, &batch, err));
        PLM_TRY(check_chunk(&c, false, err));
        plm_progress_add(check->ctx, n);
    }
done:
    free_chunk(&c);
    plm_batch_reset(&batch);
    return rc;
}

enum plm_code plm_check_rows(struct plm_check *check, bool full, struct plm_err *err)
{
    if (check->n == 0)
        return PLM_OK;
    return full ? check_all(check, err) : check_sample(check, err);
}

/* ---- row ids --------------------------------------------------------------------------------------------- */

static int by_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

enum plm_code plm_check_rowids_of(struct plm_segment *s, uint32_t first_partition, uint32_t end,
                                  uint64_t *hash_low, uint64_t *hash_high, uint64_t *sorted,
                                  struct plm_err *err)
{
    size_t n_sorted = 0, n_windows = 0;
    struct plm_read_scratch read = {.ctx = s->ctx};
    struct plm_window *windows = NULL;
    uint64_t *ids = NULL, low = 0, high = 0;
    size_t n_ids = plm_window_bytes(s->ctx, IDS_OF_WINDOW * sizeof *ids) / sizeof *ids;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &ids, (size_t)plm_min_u64(n_ids, s->n_rows), sizeof *ids, err));
    PLM_TRY(plm_windows_make(s, NULL, first_partition, end, n_ids, 0, &windows, &n_windows, err));
    for (size_t w = 0; w < n_windows; w++) {
        PLM_TRY(plm_check_cancel(s->ctx, err));
        PLM_TRY(plm_window_read(s, &windows[w], ids, NULL, &read, err));
        for (size_t i = 0; i < windows[w].n; i++) {
            low += plm_mix64(1, ids[i]);
            high += plm_mix64(2, ids[i]);
            if (sorted)
                sorted[n_sorted++] = ids[i];
        }
    }
    if (sorted)
        qsort(sorted, n_sorted, sizeof *sorted, by_u64);
    *hash_low = low;
    *hash_high = high;
done:
    plm_free(s->ctx, ids);
    plm_free(s->ctx, windows);
    plm_read_scratch_reset(&read);
    return rc;
}

enum plm_code plm_check_rowids(struct plm_segment *s, uint64_t *hash_low, uint64_t *hash_high,
                               uint64_t *sorted, struct plm_err *err)
{
    return plm_check_rowids_of(s, 0, s->model.k, hash_low, hash_high, sorted, err);
}
