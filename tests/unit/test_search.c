/* test_search.c - the heap, probing, and scanning partitions against plain arithmetic. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "build/live.h"
#include "ivf/ivf_format.h"
#include "ivf/window.h"
#include "simd/simd.h"
#include "support/mem_store.h"
#include "support/small_index.h"
#include "support/table_copy.h"

static struct plm_ctx *new_ctx(unsigned threads)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;

    plm_ctx_options_default(&options);
    options.threads = threads;
    options.memory_budget_bytes = (uint64_t)1 << 30;
    assert_int_equal(plm_ctx_create(&options, &ctx, NULL), PLM_OK);
    return ctx;
}

/* ---- the heap --------------------------------------------------------------------------- */

struct pair {
    float distance;
    uint64_t rowid;
};

static int by_distance(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->rowid > y->rowid) - (x->rowid < y->rowid);
}

static void check_top(size_t n, size_t k, unsigned n_values)
{
    struct pair all[300];
    float distances[310];
    uint64_t rowids[310];
    struct plm_top top = {.k = k, .distances = distances, .rowids = rowids};

    for (size_t i = 0; i < n; i++) {
        all[i] = (struct pair){(float)(plm_mix64(n + k, i) % n_values) - 3, plm_mix64(7, i) % 1000 * 1000 + i};
        plm_top_offer(&top, all[i].distance, all[i].rowid);
    }
    qsort(all, n, sizeof all[0], by_distance);
    plm_top_sort(&top);
    assert_int_equal(top.n, n < k ? n : k);
    for (size_t i = 0; i < top.n; i++) {
        assert_true(distances[i] == all[i].distance);
        assert_true(rowids[i] == all[i].rowid);
    }
}

static void top_keeps_the_nearest_lowest_row_first(void **state)
{
    (void)state;
    static const size_t ks[] = {0, 1, 2, 3, 10, 64, 299, 300, 310};

    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (size_t n = 0; n <= 300; n += 50) {
            check_top(n, ks[i], 1u << 20);
            check_top(n, ks[i], 5); /* mostly ties */
        }
}

static void top_ignores_what_is_no_number(void **state)
{
    (void)state;
    float distances[2];
    uint64_t rowids[2];
    struct plm_top top = {.k = 2, .distances = distances, .rowids = rowids};

    plm_top_offer(&top, NAN, 1);
    plm_top_offer(&top, INFINITY, 2);
    plm_top_offer(&top, NAN, 3);
    plm_top_offer(&top, -INFINITY, 4);
    plm_top_sort(&top);
    assert_int_equal(top.n, 2);
    assert_int_equal(rowids[0], 4);
    assert_int_equal(rowids[1], 2);
}

/* ---- plain arithmetic ------------------------------------------------------------------------ */

static double l2(const double *a, const double *b)
{
    double sum = 0;
    for (int d = 0; d < SMALL_DIM; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

static double dot(const double *a, const double *b)
{
    double sum = 0;
    for (int d = 0; d < SMALL_DIM; d++)
        sum += a[d] * b[d];
    return sum;
}

static double sq_code(const struct plm_sq *sq, double v)
{
    double code = trunc((v - sq->lo) * 255 / (sq->hi - sq->lo));
    return code < 0 ? 0 : code > 255 ? 255 : code;
}

/* What a stored row stands for; SQ codes as they are. */
static void decode(const struct small_index *x, uint64_t row, double out[SMALL_DIM])
{
    const struct plm_model *m = &x->model;
    const uint8_t *code = x->codes + row * plm_model_code_bytes(m);
    float values[SMALL_DIM];

    if (m->quantizer == PLM_FLAT)
        plm_floats_of_element(x->ctx->kernels, code, SMALL_DIM, m->element, values);
    for (uint32_t d = 0; m->quantizer == PLM_PQ && d < SMALL_DIM; d++) {
        uint32_t j = d / 4;
        uint32_t c = m->pq.n_bits == 8 ? code[j] : (uint32_t)(code[j / 2] >> (j % 2 ? 4 : 0) & 15);
        values[d] = m->pq.codebook[(j * plm_pq_n_codes(&m->pq) + c) * 4 + d % 4];
    }
    for (int d = 0; d < SMALL_DIM; d++)
        out[d] = m->quantizer == PLM_SQ ? code[d] : values[d];
}

/* The distance as lance-format.md section 5 words it. */
static double expected_distance(const struct small_index *x, uint32_t p, uint64_t row,
                                const float *query)
{
    const struct plm_model *m = &x->model;
    double q[SMALL_DIM], v[SMALL_DIM], step = (double)(float)((m->sq.hi - m->sq.lo)) / 255;

    decode(x, row, v);
    for (int d = 0; d < SMALL_DIM; d++) {
        q[d] = query[d];
        if (m->quantizer == PLM_SQ && m->metric == PLM_DOT)
            v[d] = m->sq.lo + step * v[d];
        else if (m->quantizer == PLM_SQ)
            q[d] = sq_code(&m->sq, q[d]);
        else if (m->quantizer == PLM_PQ && m->metric != PLM_DOT)
            q[d] -= m->centroids[p * SMALL_DIM + (uint32_t)d];
    }
    if (m->metric == PLM_DOT)
        return 1 - dot(q, v);
    if (m->quantizer == PLM_FLAT && m->metric == PLM_COSINE)
        return 1 - dot(q, v) / sqrt(dot(q, q) * dot(v, v));
    return l2(q, v) * (m->quantizer == PLM_SQ ? step * step : 1);
}

static bool is_even(void *arg, uint64_t rowid)
{
    (void)arg;
    return rowid % 2 == 0;
}

static void check_partition(const struct small_index *x, struct plm_segment *s, uint32_t p,
                            const float *query, plm_allow_fn *allow)
{
    float distances[80], tolerance = x->model.element == PLM_F16 ? 2e-2f : 1e-4f;
    uint64_t rowids[80];
    struct plm_top top = {.k = 80, .distances = distances, .rowids = rowids};
    struct plm_scan_scratch scratch = {0};
    struct plm_err err;
    size_t n = 0;

    assert_int_equal(plm_scan_partition(s, p, query, allow, NULL, &top, &scratch, &err), PLM_OK);
    for (uint64_t row = x->starts[p]; row < x->starts[p + 1]; row++) {
        size_t i = 0;
        if (allow && !allow(NULL, x->rowids[row]))
            continue;
        n++;
        while (i < top.n && rowids[i] != x->rowids[row])
            i++;
        assert_true(i < top.n);
        double expected = expected_distance(x, p, row, query);
        assert_true(fabs(distances[i] - expected) <= tolerance * fmax(1, fabs(expected)));
    }
    assert_int_equal(top.n, n);
    plm_scan_scratch_reset(&scratch);
}

/* ---- windows ------------------------------------------------------------------------------ */

#define QUERIES 11

struct seen {
    const struct small_index *x;
    uint32_t partition;
    uint64_t row;         /* of the file: the first at hand */
    const float *queries; /* [QUERIES][SMALL_DIM] */
    const uint32_t *which;
    size_t n;
};

static void check_distances(void *arg, size_t i, size_t first, size_t n, const float *distances)
{
    struct seen *seen = arg;
    float tolerance = seen->x->model.element == PLM_F16 ? 2e-2f : 1e-4f;

    for (size_t r = 0; r < n; r++) {
        double expected = expected_distance(seen->x, seen->partition, seen->row + first + r,
                                            seen->queries + seen->which[i] * SMALL_DIM);
        assert_true(fabs(distances[r] - expected) <= tolerance * fmax(1, fabs(expected)));
        seen->n++;
    }
}

/* Every row once, its id as written, and its distance from several queries as that of one. */
static void check_windows(const struct small_index *x, struct plm_segment *s, const float *queries,
                          size_t rows_max)
{
    static const uint32_t which[] = {0, 3, 7, 8, 10};
    struct plm_window *windows = NULL;
    struct plm_many *many = NULL;
    struct plm_many_scratch scratch = {0};
    struct plm_read_scratch read = {0};
    struct seen seen = {.x = x, .queries = queries, .which = which};
    uint64_t rowids[1000];
    uint8_t codes[1000 * 2 * SMALL_DIM];
    double bases[1000];
    size_t n_windows = 0, n_rows = 0, n;
    struct plm_err err;

    assert_int_equal(plm_windows_make(s, NULL, 0, SMALL_K, rows_max, 0, &windows, &n_windows, &err), PLM_OK);
    assert_int_equal(plm_many_open(s, queries, QUERIES, &many, &err), PLM_OK);
    assert_int_equal(plm_many_scratch_init(many, &scratch, &err), PLM_OK);
    for (size_t w = 0; w < n_windows; w++) {
        assert_true(windows[w].n <= rows_max);
        assert_int_equal(plm_window_read(s, &windows[w], rowids, codes, &read, &err), PLM_OK);
        for (uint32_t p = windows[w].first; p < windows[w].end; p++) {
            size_t at = plm_window_rows(s, &windows[w], p, &n);
            const uint8_t *mine = codes + at * plm_model_code_bytes(&x->model);
            seen.partition = p;
            seen.row = n_rows;
            for (size_t i = 0; i < n; i++)
                assert_true(rowids[at + i] == x->rowids[n_rows + i]);
            plm_many_bases(many, p, mine, n, &scratch, bases);
            plm_many_scan(many, p, mine, n, bases, which, 5, check_distances, &seen, &scratch);
            n_rows += n;
        }
    }
    assert_int_equal(n_rows, x->starts[SMALL_K]);
    assert_int_equal(seen.n, 5 * n_rows);
    plm_read_scratch_reset(&read);
    plm_many_scratch_reset(&scratch);
    plm_many_close(many);
    plm_free(s->ctx, windows);
}

static void check_all_windows(const struct small_index *x, struct plm_segment *s)
{
    float queries[QUERIES * SMALL_DIM];

    for (size_t i = 0; i < QUERIES * SMALL_DIM; i++)
        queries[i] = small_number(11, i);
    plm_round_to_element(queries, QUERIES * SMALL_DIM, x->model.element);
    check_windows(x, s, queries, 1);
    check_windows(x, s, queries, 9);
    check_windows(x, s, queries, 1000);
}

static void windows_leave_out_what_is_not_wanted(void **state)
{
    (void)state;
    struct plm_ctx *ctx = new_ctx(1);
    uint64_t offsets[] = {0, 10, 0, 15, 65, 66};
    uint32_t lengths[] = {10, 5, 0, 50, 1, 4};
    uint8_t wanted[] = {1, 0, 1, 1, 0, 1};
    struct plm_segment s = {.ctx = ctx, .offsets = offsets, .lengths = lengths, .n_rows = 70};
    struct plm_window *w = NULL;
    size_t n = 0;

    assert_int_equal(plm_windows_make(&s, wanted, 0, 6, 30, 0, &w, &n, NULL), PLM_OK);
    assert_int_equal(n, 4); /* 0; 30 and 20 rows of 3; 5 */
    assert_true(w[0].first == 0 && w[0].end == 1 && w[0].n == 10);
    assert_true(w[1].first == 3 && w[1].skipped == 0 && w[1].n == 30);
    assert_true(w[2].first == 3 && w[2].skipped == 30 && w[2].n == 20);
    assert_true(w[3].first == 5 && w[3].end == 6 && w[3].n == 4);
    plm_free(ctx, w);
    assert_int_equal(plm_windows_make(&s, wanted, 0, 6, 100, 5, &w, &n, NULL), PLM_OK);
    assert_int_equal(n, 1);
    assert_true(w[0].first == 0 && w[0].end == 6 && w[0].n == 70);
    plm_free(ctx, w);
    plm_ctx_destroy(ctx);
}

static void check_scan(enum plm_quantizer quantizer, enum plm_metric metric,
                       enum plm_element element, uint32_t n_bits)
{
    struct plm_ctx *ctx = new_ctx(1);
    struct plm_store *store = mem_store_open(ctx);
    struct small_index x;
    struct plm_segment s;
    struct plm_err err;
    float query[SMALL_DIM];

    for (int d = 0; d < SMALL_DIM; d++)
        query[d] = small_number(9, (uint64_t)d);
    plm_round_to_element(query, SMALL_DIM, element);
    small_index_make(ctx, quantizer, metric, element, n_bits, 1, &x);
    small_index_write(&x, store, "d", 2);
    assert_int_equal(plm_segment_open_dir(store, "d", &s, &err), PLM_OK);
    for (uint32_t p = 0; p < SMALL_K; p++) {
        check_partition(&x, &s, p, query, NULL);
        check_partition(&x, &s, p, query, is_even);
    }
    if (quantizer != PLM_FLAT)
        check_all_windows(&x, &s);
    plm_segment_close(&s);
    small_index_reset(&x);
    plm_store_close(store);
    plm_ctx_destroy(ctx);
}

static void scans_equal_plain_arithmetic(void **state)
{
    (void)state;
    static const enum plm_metric metrics[] = {PLM_L2, PLM_COSINE, PLM_DOT};
    static const enum plm_element elements[] = {PLM_F16, PLM_F32, PLM_F64};

    for (int i = 0; i < 3; i++)
        for (int e = 0; e < 3; e++) {
            check_scan(PLM_FLAT, metrics[i], elements[e], 8);
            check_scan(PLM_SQ, metrics[i], elements[e], 8);
            check_scan(PLM_PQ, metrics[i], elements[e], 8);
            check_scan(PLM_PQ, metrics[i], elements[e], 4);
        }
}

/* ---- probing --------------------------------------------------------------------------------- */

static void probes_are_the_nearest_centroids(void **state)
{
    (void)state;
    enum { K = 97, DIM = 24 };
    struct plm_ctx *ctx = new_ctx(1);
    static float centroids[K * DIM];
    float query[DIM];
    uint32_t ids[K + 10];
    size_t n = 0;
    struct plm_err err;

    for (size_t i = 0; i < K * DIM; i++)
        centroids[i] = small_number(11, i / DIM == 50 ? i - DIM : i); /* 50 equals 49 */
    for (size_t d = 0; d < DIM; d++)
        query[d] = centroids[49 * DIM + d];
    for (int is_dot = 0; is_dot < 2; is_dot++) {
        struct plm_model m = {.ctx = ctx, .metric = is_dot ? PLM_DOT : PLM_COSINE, .dim = DIM,
                              .k = K, .centroids = centroids};
        double last = -INFINITY;
        assert_int_equal(plm_probe(ctx, &m, query, K + 10, ids, &n, &err), PLM_OK);
        assert_int_equal(n, K);
        for (size_t i = 0; i < n; i++) {
            const float *c = centroids + (size_t)ids[i] * DIM;
            double distance = is_dot ? 1 - ctx->kernels->dot_exact(query, c, DIM)
                                     : ctx->kernels->l2_exact(query, c, DIM);
            assert_true((float)distance >= (float)last);
            last = distance;
        }
        if (!is_dot) {
            assert_int_equal(ids[0], 49);
            assert_int_equal(ids[1], 50);
        }
        assert_int_equal(plm_probe(ctx, &m, query, 3, ids, &n, &err), PLM_OK);
        assert_int_equal(n, 3);
    }
    plm_ctx_destroy(ctx);
}

/* ---- rows that may be returned ------------------------------------------------------------------ */

static void live_rows_pass_by_address(void **state)
{
    (void)state;
    struct plm_ctx *ctx = new_ctx(1);
    uint8_t deleted[2] = {0x12, 0x00}; /* rows 1 and 4 */
    struct plm_live_fragment fragments[] = {
        {.id = 2, .n_rows = 10, .map = {.n_rows = 10, .deleted = deleted}},
        {.id = 7, .n_rows = 3, .map = {.n_rows = 3}}};
    struct plm_live live = {.ctx = ctx, .fragments = fragments, .n_fragments = 2};
    struct plm_live_cursor cursor = {.live = &live};
    uint64_t two = (uint64_t)2 << 32, seven = (uint64_t)7 << 32;

    assert_true(plm_live_allow(&cursor, two));
    assert_false(plm_live_allow(&cursor, two + 1));
    assert_true(plm_live_allow(&cursor, seven + 2));
    assert_false(plm_live_allow(&cursor, seven + 3));
    assert_false(plm_live_allow(&cursor, 0));
    assert_false(plm_live_allow(&cursor, ((uint64_t)8 << 32)));
    assert_false(plm_live_allow(&cursor, two + 4));
    assert_true(plm_live_allow(&cursor, two + 9));
    assert_false(plm_live_allow(&cursor, UINT64_MAX));
    plm_ctx_destroy(ctx);
}

/* ---- the whole walk ------------------------------------------------------------------------------- */

static enum plm_code search(struct plm_ctx *ctx, const char *uri, struct plm_search_options *o,
                            struct plm_hits *hits, struct plm_err *err)
{
    struct plm_table_ref ref = {.uri = uri};
    return plm_search(ctx, &ref, o, hits, err);
}

static void wrong_searches_say_so(void **state)
{
    (void)state;
    struct plm_ctx *ctx = new_ctx(2);
    char *table = table_copy("plain");
    static const float nan_query[] = {1, NAN};
    struct plm_search_options o;
    struct plm_hits hits = {0};
    struct plm_err err;

    plm_search_options_default(&o);
    assert_int_equal(o.k, 10);
    assert_int_equal(o.nprobes, 20);
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_ARG); /* no column */
    o.column = "no such";
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_NOT_FOUND);
    o.k = 0;
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_ARG);
    o.k = 1, o.nprobes = 0;
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_ARG);
    o.nprobes = 1, o.vector = nan_query, o.dim = 2;
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_ARG);
    o.vector = NULL;
    assert_int_equal(search(ctx, "", &o, &hits, &err), PLM_ARG);
    assert_int_equal(hits.n, 0);
    assert_null(hits.rowids);
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
    table_remove(table);
    plm_ctx_destroy(ctx);
}

static void a_cancelled_context_searches_no_more(void **state)
{
    (void)state;
    struct plm_ctx *ctx = new_ctx(1);
    char *table = table_copy("plain");
    struct plm_search_options o;
    struct plm_hits hits = {0};
    struct plm_table_ref ref = {.uri = table};
    struct plm_err err;
    char *json = NULL;

    plm_search_options_default(&o);
    o.column = "vec";
    plm_ctx_cancel(ctx);
    assert_int_equal(search(ctx, table, &o, &hits, &err), PLM_CANCELLED);
    assert_int_equal(plm_inspect(ctx, &ref, NULL, &json, &err), PLM_CANCELLED);
    assert_null(json);
    table_remove(table);
    plm_ctx_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_keeps_the_nearest_lowest_row_first),
        cmocka_unit_test(top_ignores_what_is_no_number),
        cmocka_unit_test(scans_equal_plain_arithmetic),
        cmocka_unit_test(windows_leave_out_what_is_not_wanted),
        cmocka_unit_test(probes_are_the_nearest_centroids),
        cmocka_unit_test(live_rows_pass_by_address),
        cmocka_unit_test(wrong_searches_say_so),
        cmocka_unit_test(a_cancelled_context_searches_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
