/* check_rows.c - rows of the table looked up in the index.
 *
 * Rows are taken in chunks: encoded again, sorted by the partition they belong in, and looked
 * for there, so that each partition is read once a chunk.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "build/check.h"
#include "cluster/assign.h"
#include "rows/half.h"
#include "simd/simd.h"

#define SAMPLE_SLICES 16
#define SAMPLE_ROWS_MIN 32
#define SAMPLE_ROWS_MAX 1024
#define SAMPLE_WORK 2e9      /* multiply-adds of the float64 search for the nearest partition */
#define FULL_CHUNK_ROWS ((size_t)65536)
#define WINDOW_BYTES ((size_t)8 << 20)
#define NEARLY 1e-5          /* relative: float32 rounding of other builders */
#define ROUNDING 1e-3        /* of a unit vector's value in float16 */

/* A row that must be in the index. */
struct expected {
    uint64_t rowid;
    uint32_t partition;
    size_t at; /* in the chunk's vectors and codes */
    bool found;
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
    size_t window_rows;
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
    uint32_t longest = 1;
    for (uint32_t p = 0; p < m->k; p++)
        longest = check->segment->lengths[p] > longest ? check->segment->lengths[p] : longest;
    c->window_rows = plm_min_size(longest, plm_max_size(64, WINDOW_BYTES / (c->code_bytes + 8)));
    if (m->quantizer == PLM_PQ)
        c->window_rows = plm_min_size(longest, c->window_rows * 8); /* a transposed partition is read whole */
    PLM_TRY(plm_alloc(ctx, &c->vectors, cap * c->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &c->codes, cap, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->rows, cap, sizeof *c->rows, err));
    PLM_TRY(plm_alloc(ctx, &c->ids, cap, sizeof *c->ids, err));
    PLM_TRY(plm_alloc(ctx, &c->window, c->window_rows, c->code_bytes, err));
    PLM_TRY(plm_alloc(ctx, &c->window_ids, c->window_rows, sizeof(uint64_t), err));
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

/* The nearest partition by looking at all of them in float64: no filter that a build uses. */
static enum plm_code find_nearest(void *arg, size_t at, unsigned worker, struct plm_err *err)
{
    struct chunk *c = arg;
    double best = INFINITY;
    (void)worker, (void)err;
    c->ids[at] = 0;
    for (uint32_t p = 0; p < c->check->segment->model.k; p++) {
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

/* The expected rows [from, to) of one partition against what the index has there. */
static enum plm_code look_in_partition(struct chunk *c, size_t from, size_t to, uint32_t partition,
                                       struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    enum plm_code rc = PLM_OK;

    for (uint64_t first = 0; first < s->lengths[partition]; first += c->window_rows) {
        size_t n = (size_t)plm_min_u64(c->window_rows, s->lengths[partition] - first);
        PLM_TRY(plm_check_cancel(c->check->ctx, err));
        PLM_TRY(plm_segment_read(s, partition, first, n, c->window_ids, c->window, &c->read, err));
        for (size_t i = 0; i < n; i++) {
            struct expected key = {.rowid = c->window_ids[i], .partition = partition};
            struct expected *row = bsearch(&key, c->rows + from, to - from, sizeof key, by_partition);
            if (!row)
                continue;
            if (row->found)
                plm_problem(c->check->findings, "repeated", row->rowid, "in its partition", "%.0f times", 2, 1);
            row->found = true;
            PLM_TRY(compare_code(c, row, c->window + i * c->code_bytes, err));
        }
    }
done:
    return rc;
}

/* ---- rows that are not where they belong ---------------------------------------------------------- */

/* Looks for the rows not found yet in every other partition. */
static enum plm_code look_elsewhere(struct chunk *c, size_t n_lost, struct plm_err *err)
{
    struct plm_segment *s = c->check->segment;
    struct plm_findings *f = c->check->findings;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = 0; p < s->model.k && n_lost > 0; p++)
        for (uint64_t first = 0; first < s->lengths[p]; first += c->window_rows) {
            size_t n = (size_t)plm_min_u64(c->window_rows, s->lengths[p] - first);
            PLM_TRY(plm_segment_read(s, p, first, n, c->window_ids, NULL, &c->read, err));
            for (size_t i = 0; i < n; i++)
                for (size_t r = 0; r < c->n; r++) {
                    struct expected *row = &c->rows[r];
                    if (row->found || row->rowid != c->window_ids[i])
                        continue;
                    double seen = distance_to(c, row->at, p), best = distance_to(c, row->at, row->partition);
                    row->found = true;
                    n_lost--;
                    if (seen <= best + NEARLY * fabs(best))
                        continue;
                    char where[32];
                    snprintf(where, sizeof where, "partition %u", p);
                    f->misfiled++;
                    plm_problem(f, "misfiled", row->rowid, where, "distance %.9g", seen, best);
                }
        }
    for (size_t r = 0; r < c->n; r++)
        if (!c->rows[r].found)
            plm_problem(f, "missing", c->rows[r].rowid, "in no partition", "%.0f times", 0, 1);
done:
    return rc;
}

static enum plm_code check_chunk(struct chunk *c, bool all_in_float64, struct plm_err *err)
{
    size_t n_lost = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(encode_chunk(c, all_in_float64, err));
    for (size_t from = 0, to; from < c->n; from = to) {
        for (to = from + 1; to < c->n && c->rows[to].partition == c->rows[from].partition; to++)
            ;
        PLM_TRY(look_in_partition(c, from, to, c->rows[from].partition, err));
    }
    for (size_t i = 0; i < c->n; i++)
        n_lost += !c->rows[i].found;
    if (n_lost)
        PLM_TRY(look_elsewhere(c, n_lost, err));
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
    size_t n = rows > SAMPLE_ROWS_MAX ? SAMPLE_ROWS_MAX : rows < SAMPLE_ROWS_MIN ? SAMPLE_ROWS_MIN : (size_t)rows;
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
    size_t window = 65536, n_sorted = 0;
    struct plm_read_scratch read = {.ctx = s->ctx};
    uint64_t *ids = NULL, low = 0, high = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &ids, window, sizeof *ids, err));
    for (uint32_t p = first_partition; p < end; p++)
        for (uint64_t first = 0; first < s->lengths[p]; first += window) {
            size_t n = (size_t)plm_min_u64(window, s->lengths[p] - first);
            PLM_TRY(plm_segment_read(s, p, first, n, ids, NULL, &read, err));
            for (size_t i = 0; i < n; i++) {
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
    plm_read_scratch_reset(&read);
    return rc;
}

enum plm_code plm_check_rowids(struct plm_segment *s, uint64_t *hash_low, uint64_t *hash_high,
                               uint64_t *sorted, struct plm_err *err)
{
    return plm_check_rowids_of(s, 0, s->model.k, hash_low, hash_high, sorted, err);
}
