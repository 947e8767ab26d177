/* test_sample.c - which rows are sampled, against the definition; spilling; failures. */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cluster/sample_slices.h"
#include "simd/simd.h"
#include "support/mem_store.h"

enum { DIM = 5, SEED = 99 };

/* ---- a table made of a formula --------------------------------------------------------------- */

/* Row `i` is unusable when plm_mix64(1, i) % 100 < dropped. */
struct table {
    struct plm_ctx *ctx;
    struct plm_store *store;
    struct plm_manifest manifest;
    struct plm_source source;
    size_t n;
    unsigned dropped;
    float *rows; /* [n][DIM] */
};

static bool is_dropped(const struct table *t, size_t row) { return plm_mix64(1, row) % 100 < t->dropped; }

static void write_fragment(struct table *t, size_t number, size_t first, size_t n)
{
    struct plm_page_plan page = {0, n * DIM * sizeof(float), n};
    struct plm_column_plan column = {"v", "fixed_size_list:float:5", true, {DIM, 32, true}, &page, 1};
    static const char *const metadata[] = {NULL};
    struct plm_file_plan plan = {2, 2, &column, 1, n, NULL, 0, metadata};
    struct plm_buf bytes;
    char path[32];

    plm_buf_init(&bytes, t->ctx, SIZE_MAX);
    assert_int_equal(plm_buf_add(&bytes, t->rows + first * DIM, page.size_bytes, NULL), PLM_OK);
    assert_int_equal(plm_file_tail(&plan, page.size_bytes, &bytes, NULL), PLM_OK);
    snprintf(path, sizeof path, "data/%zu.lance", number);
    mem_store_set(t->store, path, bytes.data, bytes.len);
    plm_buf_reset(&bytes);

    struct plm_fragment *f = &t->manifest.fragments[number];
    f->id = number;
    f->n_physical_rows = n;
    f->n_files = 1;
    f->files = calloc(1, sizeof *f->files);
    *f->files = (struct plm_data_file){.path = strdup(path + 5), .n_columns = 1, .major = 2, .minor = 2,
                                       .base_id = -1, .field_ids = calloc(1, sizeof(int32_t)),
                                       .column_indices = calloc(1, sizeof(int32_t))};
    f->deletion.base_id = -1;
}

static void table_make(size_t n, unsigned dropped, size_t n_fragments, struct table *t)
{
    struct plm_ctx_options options;
    struct plm_column column = {.field_id = 0, .element = PLM_F32, .dim = DIM};

    *t = (struct table){.n = n, .dropped = dropped};
    plm_ctx_options_default(&options);
    options.threads = 3;
    assert_int_equal(plm_ctx_create(&options, &t->ctx, NULL), PLM_OK);
    t->store = mem_store_open(t->ctx);
    t->rows = malloc(n * DIM * sizeof(float) + 1);
    for (size_t i = 0; i < n * DIM; i++)
        t->rows[i] = (float)(plm_mix64(2, i) % 20001) / 100 - 100 + (float)(i % 7);
    for (size_t i = 0; i < n; i++)
        if (is_dropped(t, i))
            t->rows[i * DIM + i % DIM] = i % 2 ? NAN : INFINITY;
    t->manifest = (struct plm_manifest){.ctx = t->ctx, .store = t->store, .version = 1, .file_major = 2,
                                        .file_minor = 2, .n_fragments = n_fragments,
                                        .fragments = calloc(n_fragments, sizeof(struct plm_fragment))};
    for (size_t i = 0; i < n_fragments; i++)
        write_fragment(t, i, n * i / n_fragments, n * (i + 1) / n_fragments - n * i / n_fragments);
    assert_int_equal(plm_source_open(&t->manifest, &column, NULL, 0, &t->source, NULL), PLM_OK);
    assert_int_equal(t->source.n_live, n);
}

static void table_drop(struct table *t)
{
    plm_source_close(&t->source);
    for (size_t i = 0; i < t->manifest.n_fragments; i++) {
        struct plm_data_file *file = t->manifest.fragments[i].files;

        free(file->path);
        free(file->field_ids);
        free(file->column_indices);
        free(file);
    }
    free(t->manifest.fragments);
    assert_int_equal(atomic_load(&t->ctx->memory_used), 0);
    plm_store_close(t->store);
    plm_ctx_destroy(t->ctx);
    free(t->rows);
}

/* ---- the definition --------------------------------------------------------------------------- */

static int by_priority(const void *a, const void *b)
{
    uint64_t x = plm_slice_priority(SEED, *(const uint64_t *)a), y = plm_slice_priority(SEED, *(const uint64_t *)b);

    return x < y ? -1 : x > y;
}

/* chosen[row] = 1 for the rows of the sample; returns how many. */
static size_t define(const struct table *t, size_t n_wanted, uint8_t *chosen)
{
    size_t n_slices = (t->n + PLM_SLICE_ROWS - 1) / PLM_SLICE_ROWS, n = 0;
    uint64_t *slices = malloc(n_slices * sizeof *slices + 1);

    for (size_t i = 0; i < n_slices; i++)
        slices[i] = i;
    qsort(slices, n_slices, sizeof *slices, by_priority);
    memset(chosen, 0, t->n);
    for (size_t i = 0; i < n_slices; i++)
        for (size_t row = slices[i] * PLM_SLICE_ROWS;
             row < plm_min_size(t->n, (slices[i] + 1) * PLM_SLICE_ROWS); row++)
            if (!is_dropped(t, row) && n < n_wanted) {
                chosen[row] = 1;
                n++;
            }
    free(slices);
    return n;
}

static void expect_sample(const struct table *t, const struct plm_sample *s, size_t n_wanted)
{
    uint8_t *chosen = malloc(t->n + 1);
    float scratch[DIM], lo = INFINITY, hi = -INFINITY;
    const float *row;
    size_t at = 0;

    assert_int_equal(s->n, define(t, n_wanted, chosen));
    for (size_t i = 0; i < t->n; i++) {
        if (!chosen[i])
            continue;
        assert_int_equal(plm_sample_rows(s, at, 1, scratch, &row, NULL), PLM_OK);
        assert_memory_equal(row, t->rows + i * DIM, sizeof scratch);
        uint64_t fragment = s->rowids[at] >> 32;
        assert_int_equal((s->rowids[at] & 0xffffffffu) + t->n * fragment / t->manifest.n_fragments, i);
        for (size_t d = 0; d < DIM; d++) {
            lo = fminf(lo, row[d]);
            hi = fmaxf(hi, row[d]);
        }
        at++;
    }
    if (s->n > 0) {
        assert_true(s->lo == lo && s->hi == hi);
        assert_true(s->max_abs == fmaxf(fabsf(lo), fabsf(hi)));
    }
    free(chosen);
}

static void expect_same_batch(const struct plm_batch *a, const struct plm_batch *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->rows, b->rows, a->n * DIM * sizeof(float));
    assert_memory_equal(a->raw, b->raw, a->n * DIM * sizeof(float));
    assert_memory_equal(a->rowids, b->rowids, a->n * sizeof *a->rowids);
    assert_memory_equal(a->ordinals, b->ordinals, a->n * sizeof *a->ordinals);
    assert_memory_equal(a->dropped, b->dropped, sizeof a->dropped);
}

/* What the sample keeps is read as it would be from the table; returns how many reads were spared. */
static size_t expect_kept(struct table *t, const struct plm_sample *s)
{
    struct plm_batch plain = {0}, kept = {0};
    size_t n_spared = 0;

    for (size_t step = 1; step < 300; step += 41)
        for (size_t first = 0; first < t->n; first += step) {
            size_t n = plm_min_size(step, t->n - first);

            plm_source_keep(&t->source, NULL, 0);
            assert_int_equal(plm_source_read(&t->source, PLM_L2, first, n, &plain, NULL), PLM_OK);
            plm_source_keep(&t->source, s->kept, s->n_kept);
            assert_int_equal(plm_source_read(&t->source, PLM_L2, first, n, &kept, NULL), PLM_OK);
            expect_same_batch(&plain, &kept);
            bool is_spared = kept.rows >= s->rows && kept.rows < s->rows + s->n * DIM;
            size_t at_once = plm_source_at_once(&t->source, first, n);
            assert_in_range(at_once, 1, n);
            assert_true(!is_spared || at_once == n);
            n_spared += is_spared;
        }
    plm_source_keep(&t->source, NULL, 0);
    plm_batch_reset(&plain);
    plm_batch_reset(&kept);
    return n_spared;
}

static void check(struct table *t, size_t n_wanted)
{
    struct plm_sample sample = {0};
    uint64_t size;

    assert_int_equal(plm_sample_take(&t->source, PLM_L2, n_wanted, SEED, SIZE_MAX, NULL, NULL, &sample, NULL),
                     PLM_OK);
    assert_non_null(sample.rows);
    expect_sample(t, &sample, n_wanted);
    assert_true(sample.is_whole || n_wanted < t->n);
    if (n_wanted >= t->n)
        assert_true(sample.is_whole);
    size_t n_spared = expect_kept(t, &sample);
    assert_int_equal(n_spared > 0, sample.n_kept > 0);
    if (n_wanted >= t->n && t->dropped == 0)
        assert_int_equal(sample.n_kept, 1);
    if (n_wanted < t->n / 2)
        assert_null(sample.kept);
    plm_sample_reset(&sample);
    plm_sample_reset(&sample);

    assert_int_equal(plm_sample_take(&t->source, PLM_L2, n_wanted, SEED, 0, t->store, "job/spill", &sample, NULL),
                     PLM_OK);
    assert_null(sample.rows);
    expect_sample(t, &sample, n_wanted);
    assert_int_equal(plm_store_size(t->store, "job/spill", &size, NULL), PLM_OK);
    plm_sample_reset(&sample);
    assert_int_equal(plm_store_size(t->store, "job/spill", &size, NULL), PLM_NOT_FOUND);
}

/* ---- tests ---------------------------------------------------------------------------------------- */

static void test_choice(void **state)
{
    static const size_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 500, 5000, 6332, 6333, 6400, 20000};
    static const unsigned drops[] = {0, 1, 30, 95};
    (void)state;

    for (size_t d = 0; d < 4; d++) {
        struct table t;

        table_make(6333, drops[d], 3, &t);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            t.ctx->threads = 1 + (unsigned)(i % 3);
            check(&t, sizes[i]);
        }
        t.ctx->threads = 3;
        table_drop(&t);
    }
}

/* More slices, each a read of its own, than S3 lets an object have parts. */
static void test_many_slices(void **state)
{
    struct table t;
    (void)state;

    table_make(400000, 0, 3, &t);
    check(&t, 190000);
    table_drop(&t);
}

static void test_tiny_tables(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 130; n += 43) {
        struct table t;

        table_make(n, n % 2 ? 0 : 20, 1, &t);
        check(&t, 1);
        check(&t, n);
        table_drop(&t);
    }
}

static void test_nothing_usable(void **state)
{
    struct table t;
    struct plm_sample sample;
    (void)state;

    table_make(700, 100, 2, &t);
    assert_int_equal(plm_sample_take(&t.source, PLM_L2, 50, SEED, SIZE_MAX, NULL, NULL, &sample, NULL), PLM_OK);
    assert_int_equal(sample.n, 0);
    assert_true(sample.is_whole);
    assert_true(sample.max_abs == 0);
    plm_sample_reset(&sample);
    table_drop(&t);
}

static void test_seed_matters(void **state)
{
    struct table t;
    struct plm_sample a, b;
    (void)state;

    table_make(6400, 0, 1, &t);
    assert_int_equal(plm_sample_take(&t.source, PLM_L2, 640, 1, SIZE_MAX, NULL, NULL, &a, NULL), PLM_OK);
    assert_int_equal(plm_sample_take(&t.source, PLM_L2, 640, 2, SIZE_MAX, NULL, NULL, &b, NULL), PLM_OK);
    assert_memory_not_equal(a.rowids, b.rowids, 640 * sizeof *a.rowids);
    plm_sample_reset(&a);
    plm_sample_reset(&b);
    table_drop(&t);
}

static void test_cosine_is_normalized(void **state)
{
    struct table t;
    struct plm_sample s;
    (void)state;

    table_make(200, 0, 1, &t);
    assert_int_equal(plm_sample_take(&t.source, PLM_COSINE, 200, SEED, SIZE_MAX, NULL, NULL, &s, NULL), PLM_OK);
    assert_int_equal(s.n, 200);
    for (size_t i = 0; i < s.n; i++)
        assert_true(fabs(t.ctx->kernels->norm2(s.rows + i * DIM, DIM) - 1) < 1e-6);
    assert_true(s.max_abs <= 1);
    plm_sample_reset(&s);
    table_drop(&t);
}

/* What a shard of a distributed build does: listed slices only. */
static void test_listed_slices(void **state)
{
    enum { R = PLM_SLICE_ROWS, LAST = R - 12, PART = 10 };
    struct plm_slice slices[] = {{.number = 2, .keep = R}, {.number = 3, .keep = PART}, {.number = 6, .keep = R}};
    struct table t;
    struct plm_sample s = {.n = 77};
    struct plm_err err;
    (void)state;

    table_make(7 * R + LAST, 0, 1, &t);
    assert_int_equal(plm_sample_take_slices(&t.source, PLM_L2, slices, 3, SIZE_MAX, NULL, NULL, &s, NULL), PLM_OK);
    assert_int_equal(s.n, R + PART + R);
    assert_int_equal(s.rowids[0], 2 * R);
    assert_int_equal(s.rowids[R + PART - 1], 3 * R + PART - 1);
    assert_int_equal(s.rowids[R + PART], 6 * R);
    assert_memory_equal(s.rows + (R + PART) * DIM, t.rows + 6 * R * DIM, R * DIM * sizeof(float));
    assert_int_equal(slices[1].usable, R);
    plm_sample_reset(&s);

    s.n = 77;
    slices[1].number = 2; /* twice */
    assert_int_equal(plm_sample_take_slices(&t.source, PLM_L2, slices, 3, SIZE_MAX, NULL, NULL, &s, &err), PLM_CORRUPT);
    slices[1].number = 3;
    slices[2].number = 8; /* beyond the table */
    assert_int_equal(plm_sample_take_slices(&t.source, PLM_L2, slices, 3, SIZE_MAX, NULL, NULL, &s, &err), PLM_CORRUPT);
    slices[2] = (struct plm_slice){.number = 7, .keep = LAST + 1};
    assert_int_equal(plm_sample_take_slices(&t.source, PLM_L2, slices, 3, SIZE_MAX, NULL, NULL, &s, &err), PLM_CORRUPT);
    assert_int_equal(s.n, 77);
    table_drop(&t);
}

static void test_no_place_to_spill(void **state)
{
    struct table t;
    struct plm_sample s = {.n = 77};
    struct plm_err err;
    (void)state;

    table_make(500, 0, 1, &t);
    assert_int_equal(plm_sample_take(&t.source, PLM_L2, 100, SEED, 100 * DIM * sizeof(float) - 1, NULL, NULL, &s, &err),
                     PLM_LIMIT);
    assert_non_null(strstr(err.message, "needs 2000 bytes, 1999 are allowed"));
    assert_int_equal(s.n, 77);
    table_drop(&t);
}

/* Every allocation and every request fails once: nothing leaks, nothing is left behind. */
static void check_faults(atomic_long *countdown, struct table *t, size_t max_bytes, enum plm_code expected)
{
    enum plm_code rc;
    uint64_t size;
    long n = 0;

    uint64_t before = atomic_load(&t->ctx->memory_used);
    do {
        struct plm_sample s = {.n = 77};

        atomic_store(countdown, ++n);
        rc = plm_sample_take(&t->source, PLM_L2, 700, SEED, max_bytes, t->store, "job/spill", &s, NULL);
        atomic_store(countdown, 0);
        if (rc == PLM_OK) {
            expect_sample(t, &s, 700);
            plm_sample_reset(&s);
        } else {
            assert_int_equal(rc, expected);
            assert_int_equal(s.n, 77);
        }
        assert_int_equal(atomic_load(&t->ctx->memory_used), before);
        /* the one request that may fail without a trace is the removal itself */
        if (plm_store_size(t->store, "job/spill", &size, NULL) == PLM_OK) {
            assert_int_equal(expected, PLM_IO);
            assert_int_equal(plm_store_delete(t->store, "job/spill", NULL), PLM_OK);
        }
    } while (rc != PLM_OK);
    assert_true(n > 5);
}

static void test_faults(void **state)
{
    struct table t;
    (void)state;

    table_make(3000, 10, 2, &t);
    t.ctx->threads = 1;
    check_faults(&t.ctx->faults.alloc_countdown, &t, SIZE_MAX, PLM_NOMEM);
    check_faults(&t.ctx->faults.alloc_countdown, &t, 0, PLM_NOMEM);
    check_faults(&t.ctx->faults.io_countdown, &t, SIZE_MAX, PLM_IO);
    check_faults(&t.ctx->faults.io_countdown, &t, 0, PLM_IO);
    table_drop(&t);
}

static void test_sample_of(void **state)
{
    float rows[6] = {1, -7, 3, 0, 2, 5}, scratch[2];
    const float *row;
    struct plm_sample s;
    struct plm_ctx *ctx;
    (void)state;

    assert_int_equal(plm_ctx_create(NULL, &ctx, NULL), PLM_OK);
    plm_sample_of(ctx, rows, 3, 2, &s);
    assert_true(s.lo == -7 && s.hi == 5 && s.max_abs == 7 && s.n == 3);
    assert_int_equal(plm_sample_rows(&s, 1, 2, scratch, &row, NULL), PLM_OK);
    assert_ptr_equal(row, rows + 2);
    plm_sample_reset(&s); /* the rows stay the caller's */
    plm_sample_of(ctx, rows, 0, 2, &s);
    assert_true(s.max_abs == 0);
    plm_sample_reset(&s);
    plm_ctx_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_many_slices),
        cmocka_unit_test(test_tiny_tables),
        cmocka_unit_test(test_nothing_usable),
        cmocka_unit_test(test_seed_matters),
        cmocka_unit_test(test_cosine_is_normalized),
        cmocka_unit_test(test_listed_slices),
        cmocka_unit_test(test_no_place_to_spill),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_sample_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
