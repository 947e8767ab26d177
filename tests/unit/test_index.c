/* test_index.c - index files: the layout, writing and reading back, hostile bytes, faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ivf/ivf_format.h"
#include "support/mem_store.h"
#include "support/small_index.h"

struct bench {
    struct plm_ctx *ctx;
    struct plm_store *store;
    struct plm_err err;
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct plm_ctx_options options;

    plm_ctx_options_default(&options);
    options.threads = 2;
    options.memory_budget_bytes = (uint64_t)1 << 30;
    assert_int_equal(plm_ctx_create(&options, &b->ctx, NULL), PLM_OK);
    b->store = mem_store_open(b->ctx);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    plm_store_close(b->store);
    assert_int_equal(atomic_load(&b->ctx->memory_used), 0);
    plm_ctx_destroy(b->ctx);
    free(b);
    return 0;
}

/* ---- layout --------------------------------------------------------------------------- */

static void check_layout(uint64_t n_rows, uint32_t code_bytes)
{
    struct plm_layout l = plm_layout_of(n_rows, code_bytes);
    uint64_t rows = 0, at = 0;

    assert_true(l.n_blocks <= 9999);
    assert_true(l.rows_per_block <= UINT32_MAX);
    for (uint64_t b = 0; b < l.n_blocks; b++) {
        uint64_t n = plm_layout_block_rows(&l, b);
        assert_true(n > 0 && (n == l.rows_per_block || b + 1 == l.n_blocks));
        if (b + 1 < l.n_blocks)
            assert_true(n * (8 + (uint64_t)code_bytes) >= (uint64_t)8 << 20);
        assert_int_equal(plm_layout_rowid_at(&l, b) % 64, 0);
        assert_int_equal(plm_layout_code_at(&l, b) % 64, 0);
        assert_true(plm_layout_rowid_at(&l, b) == at);
        assert_true(plm_layout_code_at(&l, b) >= at + n * 8);
        at = plm_layout_code_at(&l, b) + n * code_bytes;
        rows += n;
    }
    assert_true(rows == n_rows);
    assert_true(plm_layout_end(&l) == at);
}

static void layout_covers_all_rows(void **state)
{
    (void)state;
    static const uint64_t rows[] = {0, 1, 63, 64, 65, 1000, 116509, 5000000, 300000000};
    static const uint32_t widths[] = {1, 3, 64, 1536, 8192, 65536};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t j = 0; j < sizeof widths / sizeof widths[0]; j++)
            check_layout(rows[i], widths[j]);
}

/* ---- writing and reading back ------------------------------------------------------------ */

static void assert_same_model(const struct plm_model *a, const struct plm_model *b)
{
    assert_int_equal(a->quantizer, b->quantizer);
    assert_int_equal(a->metric, b->metric);
    assert_int_equal(a->element, b->element);
    assert_int_equal(a->dim, b->dim);
    assert_int_equal(a->k, b->k);
    assert_memory_equal(a->centroids, b->centroids, (size_t)a->k * a->dim * 4);
    if (a->quantizer == PLM_SQ)
        assert_true(a->sq.lo == b->sq.lo && a->sq.hi == b->sq.hi);
    if (a->quantizer == PLM_PQ) {
        assert_int_equal(a->pq.m, b->pq.m);
        assert_int_equal(a->pq.n_bits, b->pq.n_bits);
        assert_memory_equal(a->pq.codebook, b->pq.codebook,
                            (size_t)a->pq.m * plm_pq_n_codes(&a->pq) * a->pq.dsub * 4);
    }
}

static void read_and_compare(struct bench *b, const struct small_index *x, struct plm_segment *s,
                             uint32_t p, uint64_t first, size_t n)
{
    size_t width = plm_model_code_bytes(&x->model);
    uint64_t *rowids = malloc(n * 8 + 8);
    uint8_t *codes = malloc(n * width + 1);

    assert_int_equal(small_index_read(s, p, first, n, rowids, codes, &b->err), PLM_OK);
    assert_memory_equal(rowids, x->rowids + x->starts[p] + first, n * 8);
    assert_memory_equal(codes, x->codes + (x->starts[p] + first) * width, n * width);
    free(codes);
    free(rowids);
}

/* Lines cut out of a transposed matrix: what is done for partitions too large to read whole. */
static void read_lines_and_compare(struct bench *b, const struct small_index *x,
                                   struct plm_segment *s, uint32_t p, uint64_t first, size_t n)
{
    size_t width = plm_model_code_bytes(&x->model);
    struct plm_read_scratch scratch = {.ctx = b->ctx};
    uint8_t *lines = malloc(n * width), *spare = malloc(n + 2 * width);

    assert_int_equal(plm_segment_read_stored(s, p, first, n, NULL, lines, spare, &scratch, &b->err),
                     PLM_OK);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < width; j++)
            assert_int_equal(lines[j * n + i],
                             x->codes[(x->starts[p] + first + i) * width + j]);
    plm_read_scratch_reset(&scratch);
    free(spare);
    free(lines);
}

static void round_trip(struct bench *b, enum plm_quantizer quantizer, enum plm_metric metric,
                       enum plm_element element, uint32_t n_bits, uint32_t minor)
{
    struct small_index x;
    struct plm_segment s;

    small_index_make(b->ctx, quantizer, metric, element, n_bits, 1, &x);
    small_index_write(&x, b->store, "d", minor);
    assert_int_equal(plm_segment_open_dir(b->store, "d", &s, &b->err), PLM_OK);
    assert_same_model(&s.model, &x.model);
    assert_true(s.has_loss && s.loss == 12.5);
    assert_int_equal(s.n_rows, 100);
    assert_int_equal(s.pq_transposed, quantizer == PLM_PQ);
    assert_memory_equal(s.lengths, x.lengths, sizeof x.lengths);
    for (uint32_t p = 0; p < SMALL_K; p++)
        read_and_compare(b, &x, &s, p, 0, x.lengths[p]);
    read_and_compare(b, &x, &s, 2, 13, 31);
    read_and_compare(b, &x, &s, 4, 25, 1);
    if (quantizer == PLM_PQ) {
        read_lines_and_compare(b, &x, &s, 2, 0, 1);
        read_lines_and_compare(b, &x, &s, 2, 17, 50);
        read_lines_and_compare(b, &x, &s, 4, 25, 1);
    }
    plm_segment_close(&s);
    small_index_reset(&x);
}

static void every_kind_round_trips(void **state)
{
    struct bench *b = *state;
    static const enum plm_metric metrics[] = {PLM_L2, PLM_COSINE, PLM_DOT};
    static const enum plm_element elements[] = {PLM_F16, PLM_F32, PLM_F64};

    for (uint32_t minor = 0; minor <= 2; minor++)
        for (int e = 0; e < 3; e++) {
            enum plm_metric metric = metrics[(e + minor) % 3];
            round_trip(b, PLM_FLAT, metric, elements[e], 8, minor);
            round_trip(b, PLM_SQ, metric, elements[e], 8, minor);
            round_trip(b, PLM_PQ, metric, elements[e], 8, minor);
            round_trip(b, PLM_PQ, metric, elements[e], 4, minor);
        }
}

/* Partitions that run over the end of a block. */
static void several_blocks_round_trip(void **state)
{
    struct bench *b = *state;
    struct small_index x;
    struct plm_segment s;

    small_index_make(b->ctx, PLM_PQ, PLM_L2, PLM_F32, 8, 15000, &x);
    assert_true(x.layout.n_blocks > 2);
    small_index_write(&x, b->store, "d", 2);
    assert_int_equal(plm_segment_open_dir(b->store, "d", &s, &b->err), PLM_OK);
    read_and_compare(b, &x, &s, 2, 0, x.lengths[2]);
    read_and_compare(b, &x, &s, 2, 1000000, 4711);
    read_lines_and_compare(b, &x, &s, 2, 654321, 99999);
    plm_segment_close(&s);
    small_index_reset(&x);
}

static void wrong_lengths_are_a_bug(void **state)
{
    struct bench *b = *state;
    struct small_index x;
    struct plm_buf tail;

    small_index_make(b->ctx, PLM_SQ, PLM_L2, PLM_F32, 8, 1, &x);
    x.lengths[0]++;
    plm_buf_init(&tail, b->ctx, SIZE_MAX);
    assert_int_equal(plm_index_aux_tail(&x.model, &x.layout, x.lengths, 2, 2, &tail, &b->err), PLM_BUG);
    plm_buf_reset(&tail);
    small_index_reset(&x);
}

/* ---- documents ------------------------------------------------------------------------------ */

static struct plm_view view_of(const char *text)
{
    return (struct plm_view){(const uint8_t *)text, strlen(text)};
}

static void kinds_are_told_apart(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *json;
        enum plm_code code;
    } cases[] = {
        {"{\"type\":\"IVF_PQ\",\"distance_type\":\"dot\"}", PLM_OK},
        {"{\"distance_type\":\"l2\",\"type\":\"IVF_FLAT\",\"more\":[1]}", PLM_OK},
        {"{\"type\":\"IVF_RQ\",\"distance_type\":\"l2\"}", PLM_UNSUPPORTED},
        {"{\"type\":\"IVF_HNSW_SQ\",\"distance_type\":\"l2\"}", PLM_UNSUPPORTED},
        {"{\"type\":\"IVF_PQ\",\"distance_type\":\"hamming\"}", PLM_UNSUPPORTED},
        {"{\"type\":\"IVF_PQ\"}", PLM_CORRUPT},
        {"{\"type\":7,\"distance_type\":\"l2\"}", PLM_CORRUPT},
        {"[]", PLM_CORRUPT},
        {"{", PLM_CORRUPT},
        {"", PLM_CORRUPT},
    };
    enum plm_quantizer quantizer = PLM_SQ;
    enum plm_metric metric = PLM_COSINE;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(plm_index_kind_parse(view_of(cases[i].json), &quantizer, &metric, &b->err),
                         cases[i].code);
    assert_int_equal(quantizer, PLM_FLAT); /* of the last good one */
    assert_int_equal(metric, PLM_L2);
}

static void storage_metadata_is_checked(void **state)
{
    struct bench *b = *state;
    static const struct {
        enum plm_quantizer quantizer;
        const char *json;
        enum plm_code code;
    } cases[] = {
        {PLM_FLAT, "[\"{\\\"dim\\\":32}\"]", PLM_OK},
        {PLM_FLAT, "[\"{\\\"dim\\\":-1}\"]", PLM_CORRUPT},
        {PLM_FLAT, "[\"{\\\"dim\\\":4294967296}\"]", PLM_CORRUPT},
        {PLM_FLAT, "{\"dim\":32}", PLM_CORRUPT},
        {PLM_FLAT, "[32]", PLM_CORRUPT},
        {PLM_FLAT, "[\"\"]", PLM_CORRUPT},
        {PLM_SQ, "[\"{\\\"dim\\\":8,\\\"num_bits\\\":8,\\\"bounds\\\":{\\\"start\\\":0,\\\"end\\\":1.5}}\"]", PLM_OK},
        {PLM_SQ, "[\"{\\\"dim\\\":8,\\\"num_bits\\\":4,\\\"bounds\\\":{\\\"start\\\":0,\\\"end\\\":1.5}}\"]", PLM_UNSUPPORTED},
        {PLM_SQ, "[\"{\\\"dim\\\":8,\\\"num_bits\\\":8,\\\"bounds\\\":{\\\"start\\\":2,\\\"end\\\":1.5}}\"]", PLM_CORRUPT},
        {PLM_SQ, "[\"{\\\"dim\\\":8,\\\"num_bits\\\":8}\"]", PLM_CORRUPT},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":4,\\\"num_sub_vectors\\\":2,\\\"dimension\\\":8,\\\"codebook_tensor\\\":[]}\"]", PLM_OK},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":4,\\\"num_sub_vectors\\\":2,\\\"dimension\\\":8}\"]", PLM_CORRUPT},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":4,\\\"num_sub_vectors\\\":1,\\\"dimension\\\":8,\\\"codebook_tensor\\\":[]}\"]", PLM_CORRUPT},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":8,\\\"num_sub_vectors\\\":3,\\\"dimension\\\":8,\\\"codebook_tensor\\\":[]}\"]", PLM_CORRUPT},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":8,\\\"num_sub_vectors\\\":0,\\\"dimension\\\":8,\\\"codebook_tensor\\\":[]}\"]", PLM_CORRUPT},
        {PLM_PQ, "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":5,\\\"num_sub_vectors\\\":2,\\\"dimension\\\":8,\\\"codebook_tensor\\\":[]}\"]", PLM_UNSUPPORTED},
        {PLM_PQ, "[\"{\\\"nbits\\\":8,\\\"num_sub_vectors\\\":2,\\\"dimension\\\":8}\"]", PLM_CORRUPT},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct plm_storage_info info;
        assert_int_equal(plm_storage_info_parse(view_of(cases[i].json), cases[i].quantizer, &info,
                                                &b->err), cases[i].code);
    }
}

static void buffer_numbers_are_decimal(void **state)
{
    struct bench *b = *state;
    uint32_t number = 77;

    assert_int_equal(plm_buffer_number_parse(view_of("12"), &number, &b->err), PLM_OK);
    assert_int_equal(number, 12);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(plm_buffer_number_parse(view_of((const char *[]){"", "x", "-1", "9999999999"}[i]),
                                                 &number, &b->err), PLM_CORRUPT);
    assert_int_equal(number, 12);
}

/* ---- hostile files --------------------------------------------------------------------------- */

/* Replaces `from` by `to` (as long) in a file of the store. */
static void patch(struct bench *b, const char *path, const char *from, const char *to)
{
    size_t n, len = strlen(from);
    uint8_t *bytes = mem_store_bytes(b->store, path, &n);

    assert_non_null(bytes);
    assert_int_equal(len, strlen(to));
    uint8_t *at = memmem(bytes, n, from, len);
    assert_non_null(at);
    memcpy(at, to, len);
}

static void refuse(struct bench *b, const char *path, const char *from, const char *to,
                   enum plm_code code, const char *said)
{
    struct small_index x;
    struct plm_segment s;

    memset(&s, 0x5a, sizeof s);
    small_index_make(b->ctx, PLM_PQ, PLM_L2, PLM_F32, 8, 1, &x);
    small_index_write(&x, b->store, "d", 2);
    patch(b, path, from, to);
    assert_int_equal(plm_segment_open_dir(b->store, "d", &s, &b->err), code);
    assert_non_null(strstr(b->err.message, said));
    assert_non_null(strstr(b->err.message, ".idx: ")); /* which of the two */
    for (size_t i = 0; i < sizeof s; i++) /* untouched */
        assert_int_equal(((uint8_t *)&s)[i], 0x5a);
    small_index_reset(&x);
}

static void altered_files_are_refused(void **state)
{
    struct bench *b = *state;

    refuse(b, "d/index.idx", "IVF_PQ", "IVF_RQ", PLM_UNSUPPORTED, "IVF_RQ");
    refuse(b, "d/index.idx", "IVF_PQ", "IVF_SQ", PLM_CORRUPT, "");
    refuse(b, "d/index.idx", "[\"\",\"\",", "[\"\",   ", PLM_CORRUPT, "lance:flat");
    refuse(b, "d/auxiliary.idx", "\\\"dimension\\\":16", "\\\"dimension\\\":32", PLM_CORRUPT, "32");
    refuse(b, "d/auxiliary.idx", "\\\"codebook_tensor", "\\\"codebook_Tensor", PLM_CORRUPT,
           "codebook_tensor");
    refuse(b, "d/index.idx", "uint64", "uind64", PLM_CORRUPT, "uind64");
    refuse(b, "d/auxiliary.idx", "\\\"codebook_position\\\":2", "\\\"codebook_position\\\":9",
           PLM_CORRUPT, "global buffer 9");
    refuse(b, "d/auxiliary.idx", "\\\"codebook_position\\\":2", "\\\"codebook_position\\\":0",
           PLM_CORRUPT, "global buffer 0");
    refuse(b, "d/auxiliary.idx", "\\\"num_sub_vectors\\\":4", "\\\"num_sub_vectors\\\":8",
           PLM_CORRUPT, "");
    refuse(b, "d/auxiliary.idx", "fixed_size_list:uint8:4", "fixed_size_list:uint8:5", PLM_CORRUPT,
           "fixed_size_list");
    refuse(b, "d/auxiliary.idx", "_rowid", "_rowix", PLM_CORRUPT, "_rowid");
}

/* The packed lengths {3,0,70,1,26} behind the tag of field 3. */
static void lengths_that_do_not_add_up_are_refused(void **state)
{
    struct bench *b = *state;

    refuse(b, "d/auxiliary.idx", "\x1a\x05\x03", "\x1a\x05\x04", PLM_CORRUPT, "starts at row 3");
    refuse(b, "d/auxiliary.idx", "\x1a\x05\x03", "\x2a\x05\x03", PLM_CORRUPT, "");
    struct small_index x;
    struct plm_segment s;
    size_t n;
    small_index_make(b->ctx, PLM_PQ, PLM_L2, PLM_F32, 8, 1, &x);
    small_index_write(&x, b->store, "d", 2);
    uint8_t *bytes = mem_store_bytes(b->store, "d/auxiliary.idx", &n);
    uint8_t *at = memmem(bytes, n, "\x1a\x05\x03\x00\x46\x01\x1a", 7);
    assert_non_null(at);
    at[6] = 0x1b; /* one row too many in the last partition */
    assert_int_equal(plm_segment_open_dir(b->store, "d", &s, &b->err), PLM_CORRUPT);
    assert_non_null(strstr(b->err.message, "101"));
    small_index_reset(&x);
}

static void any_cut_is_an_error(void **state)
{
    struct bench *b = *state;
    static const char *const names[] = {"d/index.idx", "d/auxiliary.idx"};
    struct small_index x;
    struct plm_segment s;

    small_index_make(b->ctx, PLM_PQ, PLM_L2, PLM_F32, 4, 1, &x);
    for (int f = 0; f < 2; f++)
        for (size_t cut = 0;; cut += 37) {
            size_t n;
            small_index_write(&x, b->store, "d", 2);
            uint8_t *bytes = mem_store_bytes(b->store, names[f], &n);
            if (cut >= n)
                break;
            uint8_t *copy = malloc(n);
            memcpy(copy, bytes, n);
            mem_store_set(b->store, names[f], copy, cut);
            free(copy);
            assert_int_not_equal(plm_segment_open_dir(b->store, "d", &s, &b->err), PLM_OK);
        }
    small_index_reset(&x);
}

static void missing_files_are_not_found(void **state)
{
    struct bench *b = *state;
    struct plm_segment s;

    assert_int_equal(plm_segment_open_dir(b->store, "nothing", &s, &b->err), PLM_NOT_FOUND);
    assert_non_null(strstr(b->err.message, "nothing/index.idx"));
}

/* Every allocation and every call of the store fails once: an error, nothing leaked. */
static void faults_are_survived(void **state)
{
    struct bench *b = *state;
    struct small_index x;
    enum plm_code rc = PLM_NOMEM;

    small_index_make(b->ctx, PLM_PQ, PLM_L2, PLM_F16, 8, 1, &x);
    small_index_write(&x, b->store, "d", 2);
    uint64_t used = atomic_load(&b->ctx->memory_used);
    for (int kind = 0; kind < 2; kind++) {
        atomic_long *countdown =
            kind ? &b->ctx->faults.io_countdown : &b->ctx->faults.alloc_countdown;
        long n = 1;
        for (;; n++) {
            struct plm_segment s;
            atomic_store(countdown, n);
            rc = plm_segment_open_dir(b->store, "d", &s, &b->err);
            atomic_store(countdown, 0);
            if (rc == PLM_OK) {
                plm_segment_close(&s);
                break;
            }
            assert_true(rc == PLM_NOMEM || rc == PLM_IO || rc == PLM_LIMIT);
            assert_int_equal(atomic_load(&b->ctx->memory_used), used);
        }
        assert_true(n > 3); /* it did fail on the way */
    }
    small_index_reset(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_covers_all_rows),
        cmocka_unit_test_setup_teardown(every_kind_round_trips, set_up, tear_down),
        cmocka_unit_test_setup_teardown(several_blocks_round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_lengths_are_a_bug, set_up, tear_down),
        cmocka_unit_test_setup_teardown(kinds_are_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(storage_metadata_is_checked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(buffer_numbers_are_decimal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(altered_files_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lengths_that_do_not_add_up_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(any_cut_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing_files_are_not_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(faults_are_survived, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
