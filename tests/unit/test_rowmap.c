/* test_rowmap.c - Roaring bitmaps, deletion files and row ids: what stock Lance wrote, what
 * libroaring writes, and what nobody should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <roaring/roaring.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "lance/arrow_ipc.h"
#include "lance/rowmap.h"
#include "lance/wire.h"

#define GOOD PLM_TEST_SOURCE_DIR "/tests/format/good"

static struct plm_ctx *ctx;
static struct plm_store *good; /* tests/format/good */

static int setup(void **state)
{
    (void)state;
    return plm_ctx_create(NULL, &ctx, NULL) != PLM_OK ||
           plm_store_open(ctx, GOOD, NULL, &good, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    plm_store_close(good);
    int leaked = atomic_load(&ctx->memory_used) != 0;
    plm_ctx_destroy(ctx);
    return leaked;
}

static struct plm_view view(const void *bytes, size_t n) { return (struct plm_view){bytes, n}; }

static void expect_message(const struct plm_err *err, enum plm_code code, const char *part)
{
    assert_int_equal(err->code, code);
    if (!strstr(err->message, part))
        fail_msg("\"%s\" does not say \"%s\"", err->message, part);
}

typedef enum plm_code decode_fn(struct plm_ctx *, struct plm_view, size_t, uint32_t **, size_t *,
                                struct plm_err *);

/* Every prefix is refused; every flipped bit gives an error or at most n_max values. Works on
 * an exact heap copy, so that the sanitizers see a read beyond it. */
static void torture(decode_fn *decode, struct plm_view bytes, size_t n_max, size_t flip_every)
{
    size_t n_refused = 0, n_tried = 0;

    for (size_t len = 0; len < bytes.len; len++) {
        uint8_t *copy = malloc(len ? len : 1);
        uint32_t *values = NULL;
        size_t n = 0;

        memcpy(copy, bytes.data, len);
        enum plm_code rc = decode(ctx, view(copy, len), n_max, &values, &n, NULL);
        assert_int_equal(rc, PLM_CORRUPT);
        assert_null(values);
        free(copy);
    }
    uint8_t *copy = malloc(bytes.len);
    memcpy(copy, bytes.data, bytes.len);
    for (size_t bit = 0; bit < 8 * bytes.len; bit += flip_every, n_tried++) {
        uint32_t *values = NULL;
        size_t n = 0;

        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        enum plm_code rc = decode(ctx, view(copy, bytes.len), n_max, &values, &n, NULL);
        assert_true(rc == PLM_OK || rc == PLM_CORRUPT || rc == PLM_UNSUPPORTED);
        assert_true(rc == PLM_OK ? n <= n_max : values == NULL);
        n_refused += rc != PLM_OK;
        plm_free(ctx, values);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(n_refused > n_tried / 50);
    free(copy);
}

/* Several bytes changed at once, many times over: small files only. */
static void noise(decode_fn *decode, struct plm_view bytes, size_t n_max, uint64_t rounds)
{
    uint8_t *copy = malloc(bytes.len);

    for (uint64_t round = 0; round < rounds; round++) {
        uint32_t *values = NULL;
        size_t n = 0;

        memcpy(copy, bytes.data, bytes.len);
        for (uint64_t k = 0; k <= round % 4; k++) {
            uint64_t r = plm_mix64(round, k);

            copy[r % bytes.len] = (uint8_t)(r >> 32 & 1 ? r >> 40 : r >> 33 & 1 ? 0xff : r >> 40 & 7);
        }
        enum plm_code rc = decode(ctx, view(copy, bytes.len), n_max, &values, &n, NULL);
        assert_true(rc == PLM_OK || rc == PLM_CORRUPT || rc == PLM_UNSUPPORTED);
        assert_true(rc == PLM_OK ? n <= n_max : values == NULL);
        plm_free(ctx, values);
    }
    free(copy);
}

/* ---- Roaring -------------------------------------------------------------------------- */

/* A set with arrays, bits and (for libroaring) runs. */
static roaring_bitmap_t *mixed_set(uint64_t seed)
{
    roaring_bitmap_t *r = roaring_bitmap_create();

    for (uint32_t i = 0; i < 300; i++)
        roaring_bitmap_add(r, (uint32_t)plm_mix64(seed, i) & 0xfffff);
    for (uint32_t i = 0; i < 9000; i++)
        roaring_bitmap_add(r, 0x300000 + ((uint32_t)plm_mix64(seed, 1000 + i) & 0xffff));
    roaring_bitmap_add_range(r, 0xfffe0000u + (uint32_t)(seed & 0xff), 0xffffffffu);
    roaring_bitmap_add(r, 0xffffffffu);
    return r;
}

static void reads_what_libroaring_writes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        roaring_bitmap_t *r = mixed_set(seed);

        if (seed % 2)
            roaring_bitmap_run_optimize(r);
        else
            roaring_bitmap_remove_run_compression(r);
        size_t bytes = roaring_bitmap_portable_size_in_bytes(r), n = 0;
        size_t want_n = roaring_bitmap_get_cardinality(r);
        char *stored = malloc(bytes);
        uint32_t *want = malloc(want_n * sizeof *want), *got = NULL;

        roaring_bitmap_portable_serialize(r, stored);
        roaring_bitmap_to_uint32_array(r, want);
        assert_int_equal(plm_bitmap_decode(ctx, view(stored, bytes), want_n, &got, &n, NULL), PLM_OK);
        assert_int_equal(n, want_n);
        assert_memory_equal(got, want, n * sizeof *got);
        plm_free(ctx, got);
        assert_int_equal(plm_bitmap_decode(ctx, view(stored, bytes), want_n - 1, &got, &n, NULL),
                         PLM_CORRUPT);
        roaring_bitmap_free(r);
        free(stored);
        free(want);
    }
}

static void libroaring_reads_what_we_write(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++) {
        roaring_bitmap_t *r = mixed_set(seed), *back;

        roaring_bitmap_remove_run_compression(r); /* neither do we write runs */
        size_t n = roaring_bitmap_get_cardinality(r), n2 = 0;
        uint32_t *values = malloc(n * sizeof *values), *again = NULL;
        struct plm_buf buf;

        plm_buf_init(&buf, ctx, 1 << 20);
        roaring_bitmap_to_uint32_array(r, values);
        assert_int_equal(plm_buf_add(&buf, "head", 4, NULL), PLM_OK); /* it appends */
        assert_int_equal(plm_bitmap_encode(values, n, &buf, NULL), PLM_OK);
        assert_int_equal(buf.len - 4, roaring_bitmap_portable_size_in_bytes(r));
        back = roaring_bitmap_portable_deserialize_safe((char *)buf.data + 4, buf.len - 4);
        assert_non_null(back);
        assert_true(roaring_bitmap_equals(r, back));
        assert_int_equal(plm_bitmap_decode(ctx, view(buf.data + 4, buf.len - 4), n, &again, &n2, NULL),
                         PLM_OK);
        assert_int_equal(n2, n);
        assert_memory_equal(again, values, n * sizeof *values);
        plm_free(ctx, again);
        plm_buf_reset(&buf);
        roaring_bitmap_free(back);
        roaring_bitmap_free(r);
        free(values);
    }
}

static void writes_the_known_bytes(void **state)
{
    (void)state;
    static const uint32_t values[] = {0, 2, 65536};
    static const uint8_t want[] = {0x3a, 0x30, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 1,  0, 0, 0, 24,
                                   0,    0,    0, 28, 0, 0, 0, 0, 0, 2, 0, 0,  0};
    static const uint32_t wrong[] = {1, 1};
    struct plm_buf buf;
    uint32_t *got = NULL;
    size_t n = 9;

    plm_buf_init(&buf, ctx, 1000);
    assert_int_equal(plm_bitmap_encode(values, 3, &buf, NULL), PLM_OK);
    assert_int_equal(buf.len, sizeof want);
    assert_memory_equal(buf.data, want, sizeof want);
    assert_int_equal(plm_bitmap_encode(wrong, 2, &buf, NULL), PLM_BUG);
    assert_int_equal(buf.len, sizeof want);
    buf.len = 0;
    assert_int_equal(plm_bitmap_encode(NULL, 0, &buf, NULL), PLM_OK);
    assert_int_equal(plm_bitmap_decode(ctx, view(buf.data, buf.len), 0, &got, &n, NULL), PLM_OK);
    assert_int_equal(n, 0);
    plm_free(ctx, got);
    plm_buf_reset(&buf);
}

static void refuses_bad_bitmaps(void **state)
{
    (void)state;
#define PLAIN "\x3a\x30\0\0"
    static const struct {
        const char *bytes;
        size_t n;
        const char *part;
    } cases[] = {
#define CASE(bytes, part) {bytes, sizeof(bytes) - 1, part}
        CASE("", "no cookie and count at byte 0"),
        CASE("\x39\x30\0\0\0\0\0\0", "no cookie"),
        CASE("\x3a\x30\1\0\0\0\0\0", "no cookie"),
        CASE(PLAIN "\1\0\1\0", "more than 65536 containers at byte 4"),
        CASE(PLAIN "\1\0\0\0\0\0", "cut short in the container heads at byte 8"),
        CASE(PLAIN "\1\0\0\0\0\0\0\0", "cut short in the offsets at byte 12"),
        CASE(PLAIN "\2\0\0\0\5\0\0\0\5\0\0\0", "keys do not ascend at byte 12"),
        CASE(PLAIN "\1\0\0\0\0\0\0\0\x11\0\0\0\0\0", "offset is not where the container is at byte 12"),
        CASE(PLAIN "\1\0\0\0\0\0\0\0\x10\0\0\0", "array cut short at byte 16"),
        CASE(PLAIN "\1\0\0\0\0\0\1\0\x10\0\0\0\7\0\7\0", "array does not ascend at byte 18"),
        CASE(PLAIN "\1\0\0\0\0\0\0\0\x10\0\0\0\7\0\7", "bytes left over at byte 18"),
        CASE(PLAIN "\1\0\0\0\0\0\0\x10\x10\0\0\0\7\0", "bits cut short"),
        CASE("\x3b\x30\0\0", "cut short in the run flags"),
        CASE("\x3b\x30\0\0\1\0\0\2\0", "runs cut short at byte 9"),
        CASE("\x3b\x30\0\0\1\0\0\2\0\1\0\0\0", "runs cut short at byte 9"),
        CASE("\x3b\x30\0\0\1\0\0\2\0\1\0\0\0\1\0", "do not add up"),
        CASE("\x3b\x30\0\0\1\0\0\2\0\1\0\0\0\3\0", "do not add up"),
        CASE("\x3b\x30\0\0\1\0\0\2\0\2\0\0\0\1\0\1\0\0\0", "runs overlap"),
        CASE("\x3b\x30\0\0\1\0\0\1\0\1\0\xff\xff\1\0", "overflow"),
#undef CASE
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t *got = NULL;
        size_t n = 77;
        struct plm_err err = {0};

        assert_int_equal(plm_bitmap_decode(ctx, view(cases[i].bytes, cases[i].n), 1 << 20, &got, &n, &err),
                         PLM_CORRUPT);
        expect_message(&err, PLM_CORRUPT, cases[i].part);
        assert_true(got == NULL && n == 77);
    }
}

static void refuses_wrong_bit_counts(void **state)
{
    (void)state;
    struct plm_buf buf;
    uint32_t values[5000], *got = NULL;
    size_t n;
    struct plm_err err = {0};

    for (uint32_t i = 0; i < 5000; i++)
        values[i] = 3 * i;
    plm_buf_init(&buf, ctx, 10000);
    assert_int_equal(plm_bitmap_encode(values, 5000, &buf, NULL), PLM_OK);
    assert_int_equal(buf.len, 16 + 8192);
    buf.data[5000] ^= 1;
    assert_int_equal(plm_bitmap_decode(ctx, view(buf.data, buf.len), 6000, &got, &n, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "bits do not add up to their count at byte 16");
    plm_buf_reset(&buf);
}

/* Six bytes of runs may stand for 65536 values: n_max comes before the memory. */
static void bounds_the_memory_of_small_bitmaps(void **state)
{
    (void)state;
    uint32_t *got = NULL;
    size_t n;
    struct plm_err err = {0};
    uint64_t peak = atomic_load(&ctx->memory_peak);

    assert_int_equal(plm_bitmap_decode(ctx, view("\x3b\x30\0\0\1\0\0\xff\xff\1\0\0\0\xff\xff", 15), 65536,
                                       &got, &n, NULL), PLM_OK);
    assert_int_equal(n, 65536);
    assert_int_equal(got[65535], 65535);
    plm_free(ctx, got);
    peak = atomic_load(&ctx->memory_peak);
    assert_int_equal(plm_bitmap_decode(ctx, view("\x3b\x30\0\0\1\0\0\xff\xff\1\0\0\0\xff\xff", 15), 65535,
                                       &got, &n, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "65536 values, expected at most 65535");
    assert_int_equal(atomic_load(&ctx->memory_peak), peak);
}

static void survives_broken_bitmaps(void **state)
{
    (void)state;
    for (int runs = 0; runs < 2; runs++) {
        roaring_bitmap_t *r = roaring_bitmap_create();

        for (uint32_t c = 0; c < 5; c++)
            for (uint32_t i = 0; i < 30; i++)
                roaring_bitmap_add(r, c * 70000 + i * (c % 2 ? 1 : 7));
        if (runs)
            roaring_bitmap_run_optimize(r);
        size_t n = roaring_bitmap_portable_size_in_bytes(r);
        char *bytes = malloc(n);

        roaring_bitmap_portable_serialize(r, bytes);
        torture(plm_bitmap_decode, view(bytes, n), 1000, 1);
        noise(plm_bitmap_decode, view(bytes, n), 100000, 20000);
        free(bytes);
        roaring_bitmap_free(r);
    }
}

/* ---- deletion files --------------------------------------------------------------------- */

static void read_good(const char *name, struct plm_buf *buf)
{
    struct plm_err err = {0};

    plm_buf_init(buf, ctx, 1 << 20);
    if (plm_store_get(good, name, buf, &err) != PLM_OK)
        fail_msg("%s", err.message);
}

/* Count, sum and xor of what a file of stock Lance deletes. The good files are what pylance
 * 14.0.2 wrote for random rows of a table: raw Arrow, ZSTD Arrow and a bitmap. */
static void expect_deleted(decode_fn *decode, const char *name, size_t n_max, size_t count,
                           uint64_t sum, uint32_t xor)
{
    struct plm_buf buf;
    struct plm_err err = {0};
    uint32_t *values = NULL;
    size_t n = 0;

    read_good(name, &buf);
    if (decode(ctx, view(buf.data, buf.len), n_max, &values, &n, &err) != PLM_OK)
        fail_msg("%s: %s", name, err.message);
    assert_int_equal(n, count);
    for (size_t i = 0; i < n; i++)
        sum -= values[i], xor ^= values[i];
    assert_int_equal(sum, 0);
    assert_int_equal(xor, 0);
    plm_free(ctx, values);
    assert_int_equal(decode(ctx, view(buf.data, buf.len), count - 1, &values, &n, &err), PLM_CORRUPT);
    plm_buf_reset(&buf);
}

static void reads_deletion_files_of_stock_lance(void **state)
{
    (void)state;
    expect_deleted(plm_arrow_read_u32, "deleted-7-of-100.arrow", 100, 7, 355, 87);
    expect_deleted(plm_arrow_read_u32, "deleted-3000-of-9000.arrow", 9000, 3000, 13643082, 14918);
    expect_deleted(plm_bitmap_decode, "deleted-14000-of-20000.bin", 20000, 14000, 140464173, 22025);
}

static void survives_broken_deletion_files(void **state)
{
    (void)state;
    struct plm_buf buf;

    read_good("deleted-7-of-100.arrow", &buf);
    torture(plm_arrow_read_u32, view(buf.data, buf.len), 100, 1);
    noise(plm_arrow_read_u32, view(buf.data, buf.len), 100, 100000);
    plm_buf_reset(&buf);
    read_good("deleted-3000-of-9000.arrow", &buf);
    torture(plm_arrow_read_u32, view(buf.data, buf.len), 9000, 7);
    plm_buf_reset(&buf);
    read_good("deleted-14000-of-20000.bin", &buf);
    torture(plm_bitmap_decode, view(buf.data, buf.len), 20000, 7);
    plm_buf_reset(&buf);
}

/* Where `what` first occurs in the file. */
static uint8_t *find(struct plm_buf *buf, const void *what, size_t n)
{
    uint8_t *p = memmem(buf->data, buf->len, what, n);

    assert_non_null(p);
    return p;
}

static void names_what_an_arrow_file_may_not_be(void **state)
{
    (void)state;
    struct plm_buf buf;
    struct plm_err err = {0};
    uint32_t *values = NULL;
    size_t n = 0;

    read_good("deleted-3000-of-9000.arrow", &buf);
    struct plm_view file = view(buf.data, buf.len);

    /* the values' frame: the prefix promises 12000 bytes */
    uint8_t *frame = find(&buf, "\xe0\x2e\0\0\0\0\0\0\x28\xb5\x2f\xfd", 12);
    static const struct {
        uint64_t promise;
        const char *part;
    } promises[] = {{11999, "does not fit the rows"},
                    {12100, "does not fit the rows"},
                    {12004, "ZSTD gave fewer bytes than promised"},
                    {(uint64_t)1 << 62, "does not fit the rows"}};
    for (size_t i = 0; i < sizeof promises / sizeof *promises; i++) {
        plm_put_le64(frame, promises[i].promise);
        assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_CORRUPT);
        expect_message(&err, PLM_CORRUPT, promises[i].part);
    }
    plm_put_le64(frame, UINT64_MAX); /* "stored": then there are too few bytes */
    assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "buffer shorter than its rows");
    plm_put_le64(frame, 12000);
    frame[8 + 20] ^= 0x55;
    frame[8 + 300] ^= 0x55;
    assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_CORRUPT);
    frame[8 + 20] ^= 0x55;
    frame[8 + 300] ^= 0x55;
    assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_OK);
    plm_free(ctx, values);
    values = NULL;

    buf.data[buf.len - 1] = '2';
    assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "no closing \"ARROW1\"");
    buf.data[buf.len - 1] = '1';
    plm_put_le32(buf.data + buf.len - 10, (uint32_t)buf.len - 17);
    assert_int_equal(plm_arrow_read_u32(ctx, file, 9000, &values, &n, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "footer longer than the file");
    assert_null(values);
    plm_buf_reset(&buf);
}

/* Files that Arrow's own writer made: stock Lance writes none of them, other tools may. */
static void reads_other_shapes_of_arrow_files(void **state)
{
    (void)state;
    expect_deleted(plm_arrow_read_u32, "deletion-two-batches.arrow", 4, 4, 12, 0);
    expect_deleted(plm_arrow_read_u32, "deletion-plain.arrow", 67, 67, 3 * 67 * 33, 5);

    struct plm_buf buf;
    uint32_t *values = NULL;
    size_t n = 9;

    read_good("deletion-empty.arrow", &buf);
    assert_int_equal(plm_arrow_read_u32(ctx, view(buf.data, buf.len), 0, &values, &n, NULL), PLM_OK);
    assert_int_equal(n, 0);
    plm_free(ctx, values);
    plm_buf_reset(&buf);
}

static void refuses_other_columns_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum plm_code code;
        const char *part;
    } cases[] = {
        {"deletion-int32.arrow", PLM_UNSUPPORTED, "column of int32, expected uint32"},
        {"deletion-uint64.arrow", PLM_UNSUPPORTED, "column of uint64, expected uint32"},
        {"deletion-float.arrow", PLM_UNSUPPORTED, "type 3, expected plain uint32"},
        {"deletion-two-columns.arrow", PLM_UNSUPPORTED, "2 columns, expected 1"},
        {"deletion-lz4.arrow", PLM_UNSUPPORTED, "LZ4 compression, expected ZSTD"},
        {"deletion-nulls.arrow", PLM_CORRUPT, "nulls in the column"},
        {"deletion-dictionary.arrow", PLM_UNSUPPORTED, "dictionary"},
        {"deletion-legacy.arrow", PLM_UNSUPPORTED, "without continuation mark"},
    };
    struct plm_store *bad = NULL;

    assert_int_equal(plm_store_open(ctx, PLM_TEST_SOURCE_DIR "/tests/format/bad", NULL, &bad, NULL), PLM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plm_err err = {0};
        struct plm_buf buf;
        uint32_t *values = NULL;
        size_t n = 0;

        plm_buf_init(&buf, ctx, 10000);
        assert_int_equal(plm_store_get(bad, cases[i].name, &buf, NULL), PLM_OK);
        assert_int_equal(plm_arrow_read_u32(ctx, view(buf.data, buf.len), 1000, &values, &n, &err),
                         cases[i].code);
        expect_message(&err, cases[i].code, cases[i].part);
        assert_null(values);
        plm_buf_reset(&buf);
    }
    plm_store_close(bad);
}

/* The Buffer of the values: they must lie within their record batch, whatever follows it. */
static void a_buffer_stays_in_its_record_batch(void **state)
{
    (void)state;
    struct plm_buf buf;
    struct plm_err err = {0};
    uint32_t *values = NULL;
    size_t n = 0;

    read_good("deletion-plain.arrow", &buf);
    /* (offset 0, length 268) of the values; the body is 320 bytes in 64-byte steps */
    uint8_t *at = find(&buf, "\0\0\0\0\0\0\0\0\x0c\x01\0\0\0\0\0\0", 16);
    static const struct {
        uint64_t offset, length;
    } bad[] = {{100, 268}, {0, 1000}, {0, 267}, {UINT64_MAX, 268}, {321, 0}, {0, UINT64_MAX}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        plm_put_le64(at, bad[i].offset);
        plm_put_le64(at + 8, bad[i].length);
        assert_int_equal(plm_arrow_read_u32(ctx, view(buf.data, buf.len), 1000, &values, &n, &err),
                         PLM_CORRUPT);
        expect_message(&err, PLM_CORRUPT, bad[i].length == 267 ? "buffer shorter than its rows"
                                                              : "buffer outside its record batch");
    }
    plm_buf_reset(&buf);
}

/* ---- row maps ----------------------------------------------------------------------------- */

/* A table of one fragment with number 3. */
struct one {
    struct plm_manifest manifest;
    struct plm_fragment fragment;
};

static void make_one(struct one *t, struct plm_store *store, uint64_t n_rows)
{
    *t = (struct one){.manifest = {.ctx = ctx, .store = store, .n_fragments = 1},
                      .fragment = {.id = 3, .n_physical_rows = n_rows}};
    t->manifest.fragments = &t->fragment;
    t->fragment.deletion.base_id = -1;
}

static enum plm_code load(struct one *t, struct plm_row_map *map, struct plm_err *err)
{
    return plm_row_map_load(&t->manifest, 0, map, err);
}

static void addresses_need_no_memory(void **state)
{
    (void)state;
    struct one t;
    struct plm_row_map map = {0};

    make_one(&t, good, (uint64_t)1 << 32);
    assert_int_equal(load(&t, &map, NULL), PLM_OK);
    assert_true(!map.deleted && !map.ids && map.n_deleted == 0);
    assert_int_equal(plm_row_id(&map, 5), (uint64_t)3 << 32 | 5);
    assert_false(plm_row_is_deleted(&map, 5));
    plm_row_map_reset(&map);
    plm_row_map_reset(&map);
}

static void refuses_fragments_beyond_32_bits(void **state)
{
    (void)state;
    struct one t;
    struct plm_row_map map = {0};

    make_one(&t, good, ((uint64_t)1 << 32) + 1);
    assert_int_equal(load(&t, &map, NULL), PLM_CORRUPT);
    make_one(&t, good, 1);
    t.fragment.id = (uint64_t)1 << 32;
    assert_int_equal(load(&t, &map, NULL), PLM_CORRUPT);
    assert_int_equal(map.n_rows, 0);
}

/* A table directory of its own, with a deletion file copied from the good ones. */
static struct plm_store *table_with(const char *name, const char *as)
{
    char root[] = "rowmap-XXXXXX";
    struct plm_store *store = NULL;
    struct plm_buf buf;

    assert_non_null(mkdtemp(root));
    assert_int_equal(plm_store_open(ctx, root, NULL, &store, NULL), PLM_OK);
    read_good(name, &buf);
    assert_int_equal(plm_store_put(store, as, buf.data, buf.len, NULL), PLM_OK);
    plm_buf_reset(&buf);
    return store;
}

static void remove_table(struct plm_store *store)
{
    struct plm_store *above = NULL;
    const char *name = strrchr(plm_store_uri(store), '/') + 1;

    assert_int_equal(plm_store_open(ctx, ".", NULL, &above, NULL), PLM_OK);
    assert_int_equal(plm_store_delete_tree(above, name, NULL), PLM_OK);
    plm_store_close(above);
    plm_store_close(store);
}

static void loads_deletions(void **state)
{
    (void)state;
    static const uint64_t rows[] = {3, 14, 44, 48, 72, 82, 92};
    struct plm_store *store = table_with("deleted-7-of-100.arrow", "_deletions/3-1-18446744073709551615.arrow");
    struct one t;
    struct plm_row_map map = {0};
    struct plm_err err = {0};

    make_one(&t, store, 100);
    t.fragment.deletion = (struct plm_deletion_file){true, false, 1, UINT64_MAX, 7, -1};
    assert_int_equal(load(&t, &map, &err), PLM_OK);
    assert_int_equal(map.n_deleted, 7);
    for (uint64_t row = 0, i = 0; row < 100; row++) {
        bool want = i < 7 && rows[i] == row;

        assert_int_equal(plm_row_is_deleted(&map, row), want);
        i += want;
    }
    plm_row_map_reset(&map);
    t.fragment.deletion.n_deleted = 0; /* unknown */
    assert_int_equal(load(&t, &map, &err), PLM_OK);
    assert_int_equal(map.n_deleted, 7);
    plm_row_map_reset(&map);
    remove_table(store);
}

static void deletions_must_agree_with_the_manifest(void **state)
{
    (void)state;
    struct plm_store *store = table_with("deleted-14000-of-20000.bin", "_deletions/3-1-5.bin");
    struct one t;
    struct plm_row_map map = {0};
    struct plm_err err = {0};

    make_one(&t, store, 20000);
    t.fragment.deletion = (struct plm_deletion_file){true, true, 1, 5, 14000, -1};
    assert_int_equal(load(&t, &map, &err), PLM_OK);
    assert_int_equal(map.n_deleted, 14000);
    plm_row_map_reset(&map);

    t.fragment.deletion.n_deleted = 13999;
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "fragment 3: deletion file \"_deletions/3-1-5.bin\": 14000 rows "
                                      "deleted, the manifest says 13999");
    t.fragment.deletion.n_deleted = 20001;
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "20001 of 20000 rows deleted");
    t.fragment.deletion.n_deleted = 14000;
    t.fragment.n_physical_rows = 19999; /* row 19999 is in the file */
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "deletes row 19999 of 19999");
    t.fragment.deletion.read_version = 2;
    assert_int_equal(load(&t, &map, &err), PLM_NOT_FOUND);
    expect_message(&err, PLM_NOT_FOUND, "_deletions/3-2-5.bin");
    assert_true(!map.deleted && map.n_rows == 0);
    remove_table(store);
}

static void a_row_is_deleted_once(void **state)
{
    (void)state;
    struct plm_store *store = table_with("deleted-7-of-100.arrow", "_deletions/3-1-5.arrow");
    struct one t;
    struct plm_row_map map = {0};
    struct plm_err err = {0};
    struct plm_buf buf;

    plm_buf_init(&buf, ctx, 100000);
    assert_int_equal(plm_store_get(store, "_deletions/3-1-5.arrow", &buf, NULL), PLM_OK);
    /* the values are stored as they are in so small a file, in any order */
    uint8_t *row = find(&buf, "\x52\0\0\0", 4);
    *row = 3;
    assert_int_equal(plm_store_put(store, "_deletions/3-1-5.arrow", buf.data, buf.len, NULL), PLM_OK);
    make_one(&t, store, 100);
    t.fragment.deletion = (struct plm_deletion_file){true, false, 1, 5, 7, -1};
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "deletes row 3 twice");
    plm_buf_reset(&buf);
    remove_table(store);
}

static void a_deletion_file_too_long_is_corrupt(void **state)
{
    (void)state;
    struct plm_store *store = table_with("deleted-7-of-100.arrow", "_deletions/3-1-5.arrow");
    struct one t;
    struct plm_row_map map = {0};
    struct plm_err err = {0};
    char *zeros = calloc(1, 70000);

    assert_int_equal(plm_store_put(store, "_deletions/3-1-5.arrow", zeros, 70000, NULL), PLM_OK);
    make_one(&t, store, 100);
    t.fragment.deletion = (struct plm_deletion_file){true, false, 1, 5, 7, -1};
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "is 70000 bytes long, expected at most 66036");
    free(zeros);
    remove_table(store);
}

/* ---- row ids ---------------------------------------------------------------------------- */

static size_t from_hex(const char *hex, uint8_t *to)
{
    size_t n = strlen(hex) / 2;

    for (size_t i = 0; i < n; i++) {
        unsigned byte;

        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        to[i] = (uint8_t)byte;
    }
    return n;
}

static enum plm_code load_ids(const char *hex, uint64_t n_rows, struct plm_row_map *map,
                              struct plm_err *err)
{
    struct one t;
    uint8_t bytes[300], *exact;
    size_t n = from_hex(hex, bytes);

    exact = malloc(n ? n : 1);
    memcpy(exact, bytes, n);
    make_one(&t, good, n_rows);
    t.manifest.reader_flags = PLM_FLAG_STABLE_ROW_IDS;
    t.fragment.row_ids_inline = view(exact, n);
    enum plm_code rc = load(&t, map, err);
    free(exact);
    return rc;
}

/* Sequences that stock Lance wrote after deletes, updates and compactions. */
static const struct {
    const char *hex;
    uint64_t n_rows, sum, first[8];
} sequences[] = {
    /* range */
    {"0a040a021028", 40, 780, {0, 1, 2, 3, 4, 5, 6, 7}},
    /* range with holes, u16 */
    {"0a15121310a01f1a0e0a0c0803120800000e002400cd07", 3996, 7995941, {0, 1, 2, 4, 5, 6, 7, 8}},
    /* range with bitmap */
    {"0a0e1a0c103b1a08d9f1bffffffcff07", 50, 1570, {0, 3, 4, 6, 7, 8, 12, 13}},
    /* sorted array, u16 and u32 */
    {"0a30222e0a2c080712280000c800900158022003e803b004780540060807d00798086009280af00ab80b800c480d100ed80e",
     20, 38140, {7, 207, 407, 607, 807, 1007, 1207, 1407}},
    {"0a30222e122c0807122800000000409c000080380100c0d4010000710200400d030080a90300c045040000e20400407e0500",
     10, 1800070, {7, 40007, 80007, 120007, 160007, 200007, 240007, 280007}},
    /* two segments: bitmap, then the updated rows as a bitmap */
    {"0a0e1a0c103c1a08fbfdffbffffeff0f0a0d1a0b080210291a058100000040", 59, 1740,
     {0, 1, 3, 4, 5, 6, 7, 8}},
};
enum { N_SEQUENCES = sizeof sequences / sizeof *sequences };

static void expands_row_ids_of_stock_lance(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        struct plm_row_map map = {0};
        struct plm_err err = {0};
        uint64_t sum = 0;

        if (load_ids(sequences[i].hex, sequences[i].n_rows, &map, &err) != PLM_OK)
            fail_msg("sequence %zu: %s", i, err.message);
        for (uint64_t row = 0; row < map.n_rows; row++)
            sum += plm_row_id(&map, row);
        assert_int_equal(sum, sequences[i].sum);
        assert_memory_equal(map.ids, sequences[i].first, sizeof sequences[i].first);
        plm_row_map_reset(&map);
    }
}

static void expands_arrays_of_each_width(void **state)
{
    (void)state;
    static const char *const hex[] = {
        "0a0a2a080a0608051202" "0300",                 /* array, u16: 5 + 3 */
        "0a0c2a0a12080805" "1204" "03000000",          /* u32 */
        "0a0e2a0c1a0a1208" "0800000000000000",         /* u64 */
    };

    for (size_t i = 0; i < 3; i++) {
        struct plm_row_map map = {0};
        struct plm_err err = {0};

        if (load_ids(hex[i], 1, &map, &err) != PLM_OK)
            fail_msg("array %zu: %s", i, err.message);
        assert_int_equal(plm_row_id(&map, 0), 8);
        plm_row_map_reset(&map);
    }
}

static void refuses_bad_row_ids(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        uint64_t n_rows;
        enum plm_code code;
        const char *part;
    } cases[] = {
        {"", 1, PLM_CORRUPT, "0 for 1 rows"},
        {"0a040a021028", 41, PLM_CORRUPT, "40 for 41 rows"},
        {"0a040a021028", 39, PLM_CORRUPT, "more than the fragment's 39 rows"},
        {"0a040a0210280a040a021028", 79, PLM_CORRUPT, "more than the fragment's 79 rows"},
        {"0a060a0408051004", 1, PLM_CORRUPT, "range from 5 to 4"},
        {"0a0c0a0a10ffffffffffffffffff01", 5, PLM_CORRUPT, "protobuf"},
        {"0a0d0a0b10ffffffffffffffffff01", 5, PLM_CORRUPT, "more than the fragment's 5 rows"},
        {"0a00", 0, PLM_CORRUPT, "segment without content"},
        {"0a023200", 0, PLM_UNSUPPORTED, "segment kind 6"},
        {"0a042a022200", 0, PLM_UNSUPPORTED, "array encoding 4"},
        {"0a020801", 0, PLM_CORRUPT, "wire type 0, expected 2"},
        {"0801", 0, PLM_CORRUPT, "wire type 0, expected 2"},
        /* 3 bytes of u16 */
        {"0a092a070a05120301000" "2", 1, PLM_CORRUPT, "3 bytes, expected a multiple of 2"},
        /* base 2^64-1 + 1 */
        {"0a132a110a0f08ffffffffffffffffff0112020100", 1, PLM_CORRUPT, "overflows its base"},
        /* sorted array 2, 2 */
        {"0a0a22080a06120402000200", 2, PLM_CORRUPT, "item 1 of a sorted array does not ascend"},
        /* holes 4, 4 in 0..10; then hole 10 in 0..10 */
        {"0a0c120a100a1a060a041204" , 9, PLM_CORRUPT, "protobuf"},
        {"0a0e120c100a1a080a06120404000400", 8, PLM_CORRUPT, "does not ascend"},
        {"0a0c120a100a1a060a0412020a00", 9, PLM_CORRUPT, "hole outside its range 0..10"},
        {"0a0e120c0805100a1a060a0412020400", 4, PLM_CORRUPT, "hole outside its range 5..10"},
        /* bitmap of 1 byte for 9 ids; of 2 bytes for 8; of no bytes for 1 */
        {"0a071a0510091a01ff", 8, PLM_CORRUPT, "bitmap of 1 bytes for a range of 9"},
        {"0a081a0610081a02ffff", 8, PLM_CORRUPT, "bitmap of 2 bytes for a range of 8"},
        {"0a041a021001", 1, PLM_CORRUPT, "bitmap of 0 bytes for a range of 1"},
        {"0a0d1a0b10ffffffffffffffffff01", 1, PLM_CORRUPT, "bitmap of 0 bytes"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plm_row_map map = {0};
        struct plm_err err = {0};
        enum plm_code rc = load_ids(cases[i].hex, cases[i].n_rows, &map, &err);

        if (rc != cases[i].code)
            fail_msg("case %zu gives %d: %s", i, (int)rc, err.message);
        expect_message(&err, cases[i].code, cases[i].part);
        assert_null(map.ids);
    }
}

static void survives_broken_row_ids(void **state)
{
    (void)state;
    size_t n_ok = 0, n_refused = 0;

    for (size_t i = 0; i < N_SEQUENCES; i++) {
        uint8_t bytes[300];
        size_t n = from_hex(sequences[i].hex, bytes);

        for (size_t at = 0; at < 9 * n; at++) {
            struct one t;
            struct plm_row_map map = {0};
            bool cut = at >= 8 * n; /* all bits, then all prefixes */
            size_t len = cut ? at - 8 * n : n;
            uint8_t *copy = malloc(len ? len : 1);

            memcpy(copy, bytes, len);
            if (!cut)
                copy[at / 8] ^= (uint8_t)(1u << at % 8);
            make_one(&t, good, sequences[i].n_rows);
            t.manifest.reader_flags = PLM_FLAG_STABLE_ROW_IDS;
            t.fragment.row_ids_inline = view(copy, len);
            enum plm_code rc = load(&t, &map, NULL);
            assert_true(rc == PLM_OK || rc == PLM_CORRUPT || rc == PLM_UNSUPPORTED);
            assert_true(!cut || rc != PLM_OK);
            n_ok += rc == PLM_OK;
            n_refused += rc != PLM_OK;
            plm_row_map_reset(&map);
            free(copy);
        }
    }
    assert_true(n_ok > 0 && n_refused > 500);
}

static void reads_row_ids_of_external_files(void **state)
{
    (void)state;
    struct plm_store *store = table_with("deleted-7-of-100.arrow", "_deletions/3-1-5.arrow");
    struct one t;
    struct plm_row_map map = {0};
    struct plm_err err = {0};
    char path[] = "_rowids/x";

    assert_int_equal(plm_store_put(store, path, "junk\x0a\x04\x0a\x02\x10\x28tail", 14, NULL), PLM_OK);
    make_one(&t, store, 40);
    t.manifest.reader_flags = PLM_FLAG_STABLE_ROW_IDS;
    t.fragment.row_ids_path = path;
    t.fragment.row_ids_offset = 4;
    t.fragment.row_ids_size = 6;
    assert_int_equal(load(&t, &map, &err), PLM_OK);
    assert_int_equal(plm_row_id(&map, 39), 39);
    plm_row_map_reset(&map);
    t.fragment.row_ids_size = 11;
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "row ids need 11 bytes at offset 4, but the file ends at 14");
    t.fragment.row_ids_offset = UINT64_MAX;
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    t.fragment.row_ids_offset = 4;
    t.fragment.row_ids_size = 0;
    assert_int_equal(load(&t, &map, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "0 for 40 rows");
    remove_table(store);
}

/* Deleted rows and stable ids at once, and a failing allocation at every step. */
static void survives_each_failing_allocation(void **state)
{
    (void)state;
    struct plm_store *store = table_with("deleted-3000-of-9000.arrow", "_deletions/3-1-5.arrow");
    struct one t;
    struct plm_row_map map = {0};
    int n_failed = 0;

    make_one(&t, store, 9000);
    t.manifest.reader_flags = PLM_FLAG_STABLE_ROW_IDS;
    t.fragment.deletion = (struct plm_deletion_file){true, false, 1, 5, 3000, -1};
    /* one range, 10000..19000 */
    t.fragment.row_ids_inline = view("\x0a\x09\x0a\x07\x08\x90\x4e\x10\xb8\x94\x01", 11);
    for (int n = 1; n < 50; n++) {
        atomic_store(&ctx->faults.alloc_countdown, n);
        enum plm_code rc = load(&t, &map, NULL);
        atomic_store(&ctx->faults.alloc_countdown, 0);
        if (rc == PLM_OK)
            break;
        assert_int_equal(rc, PLM_NOMEM);
        n_failed++;
    }
    assert_true(n_failed > 5 && n_failed < 49);
    assert_int_equal(map.n_deleted, 3000);
    assert_int_equal(plm_row_id(&map, 0), 10000);
    plm_row_map_reset(&map);
    remove_table(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_libroaring_writes),
        cmocka_unit_test(libroaring_reads_what_we_write),
        cmocka_unit_test(writes_the_known_bytes),
        cmocka_unit_test(refuses_bad_bitmaps),
        cmocka_unit_test(refuses_wrong_bit_counts),
        cmocka_unit_test(bounds_the_memory_of_small_bitmaps),
        cmocka_unit_test(survives_broken_bitmaps),
        cmocka_unit_test(reads_deletion_files_of_stock_lance),
        cmocka_unit_test(survives_broken_deletion_files),
        cmocka_unit_test(names_what_an_arrow_file_may_not_be),
        cmocka_unit_test(reads_other_shapes_of_arrow_files),
        cmocka_unit_test(refuses_other_columns_by_name),
        cmocka_unit_test(a_buffer_stays_in_its_record_batch),
        cmocka_unit_test(addresses_need_no_memory),
        cmocka_unit_test(refuses_fragments_beyond_32_bits),
        cmocka_unit_test(loads_deletions),
        cmocka_unit_test(deletions_must_agree_with_the_manifest),
        cmocka_unit_test(a_row_is_deleted_once),
        cmocka_unit_test(a_deletion_file_too_long_is_corrupt),
        cmocka_unit_test(expands_row_ids_of_stock_lance),
        cmocka_unit_test(expands_arrays_of_each_width),
        cmocka_unit_test(refuses_bad_row_ids),
        cmocka_unit_test(survives_broken_row_ids),
        cmocka_unit_test(reads_row_ids_of_external_files),
        cmocka_unit_test(survives_each_failing_allocation),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
