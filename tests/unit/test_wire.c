/* test_wire.c - protobuf fields: round trips, and every way a message can be broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lance/wire.h"

static struct plm_ctx *ctx;

static int setup(void **state)
{
    (void)state;
    return plm_ctx_create(NULL, &ctx, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    int leaked = atomic_load(&ctx->memory_used) != 0;
    plm_ctx_destroy(ctx);
    return leaked;
}

static struct plm_view view(const void *bytes, size_t n) { return (struct plm_view){bytes, n}; }

/* Reads all fields; the number of fields, or -1 with the error in *err. */
static int walk(struct plm_view bytes, struct plm_pb_field *last, struct plm_err *err)
{
    struct plm_pb pb = plm_pb_of(bytes);
    bool more = true;

    for (int n = 0;; n++) {
        if (plm_pb_next(&pb, last, &more, err) != PLM_OK)
            return -1;
        if (!more)
            return n;
    }
}

static void expect_corrupt(const void *bytes, size_t n, const char *part)
{
    struct plm_pb_field field = {0};
    struct plm_err err = {0};

    assert_int_equal(walk(view(bytes, n), &field, &err), -1);
    assert_int_equal(err.code, PLM_CORRUPT);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" does not say \"%s\"", err.message, part);
}
#define EXPECT_CORRUPT(bytes, part) expect_corrupt(bytes, sizeof(bytes) - 1, part)

static void reads_each_wire_type(void **state)
{
    (void)state;
    static const char bytes[] = "\x08\x96\x01"
                                "\x11\x01\x02\x03\x04\x05\x06\x07\x88"
                                "\x1a\x03xyz"
                                "\x25\x01\x00\x00\x80";
    struct plm_pb pb = plm_pb_of(view(bytes, sizeof bytes - 1));
    struct plm_pb_field f;
    bool more = false;

    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_true(more && f.number == 1 && f.wire == 0 && f.value == 150 && f.whole.len == 3);
    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_true(more && f.number == 2 && f.wire == 1 && f.value == 0x8807060504030201u);
    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_true(more && f.number == 3 && f.wire == 2 && f.bytes.len == 3);
    assert_memory_equal(f.bytes.data, "xyz", 3);
    assert_memory_equal(f.whole.data, "\x1a\x03xyz", f.whole.len);
    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_true(more && f.number == 4 && f.wire == 5 && f.value == 0x80000001u);
    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_false(more);
    assert_int_equal(f.number, 4); /* untouched at the end */
}

static void reads_the_largest_values(void **state)
{
    (void)state;
    struct plm_pb_field f;

    /* field 2^29-1; -1 as int32 is ten bytes long */
    assert_int_equal(walk(view("\xf8\xff\xff\xff\x0f\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 15), &f,
                          NULL), 1);
    assert_int_equal(f.number, (1u << 29) - 1);
    assert_true(f.value == UINT64_MAX);
    assert_int_equal(walk(view("", 0), &f, NULL), 0);
    assert_int_equal(walk(view(NULL, 0), &f, NULL), 0);
    /* overlong but within ten bytes, as protobuf readers accept */
    assert_int_equal(walk(view("\x08\x81\x80\x00", 4), &f, NULL), 1);
    assert_int_equal(f.value, 1);
}

static void refuses_broken_messages(void **state)
{
    (void)state;
    EXPECT_CORRUPT("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "broken varint at byte 1 of 11");
    EXPECT_CORRUPT("\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", "broken varint");
    EXPECT_CORRUPT("\x08\x01\x80", "broken tag at byte 2 of 3");
    EXPECT_CORRUPT("\x00\x01", "field number out of range");
    EXPECT_CORRUPT("\x80\x80\x80\x80\x10\x01", "field number out of range");
    EXPECT_CORRUPT("\x0b", "unknown wire type"); /* group */
    EXPECT_CORRUPT("\x0c", "unknown wire type");
    EXPECT_CORRUPT("\x0e", "unknown wire type");
    EXPECT_CORRUPT("\x0a\x02x", "longer than its message at byte 2 of 3");
    EXPECT_CORRUPT("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x", "longer than its message");
    EXPECT_CORRUPT("\x0a\xff", "broken length");
    EXPECT_CORRUPT("\x09\x01\x02\x03\x04\x05\x06\x07", "longer than its message");
    EXPECT_CORRUPT("\x0d\x01\x02\x03", "longer than its message");
}

static void leaves_the_reader_alone_after_an_error(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x08, 0x07, 0x0a, 0x05, 'x'};
    struct plm_pb pb = plm_pb_of(view(bytes, sizeof bytes));
    struct plm_pb_field f = {0};
    bool more = false;

    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_OK);
    assert_int_equal(plm_pb_next(&pb, &f, &more, NULL), PLM_CORRUPT);
    assert_ptr_equal(pb.at, bytes + 2);
    assert_true(f.number == 1 && f.value == 7 && more);
}

static void expects_wire_types(void **state)
{
    (void)state;
    struct plm_err err = {0};
    struct plm_pb_field f = {.number = 9, .wire = 2};

    assert_int_equal(plm_pb_expect(&f, 2, &err), PLM_OK);
    assert_int_equal(plm_pb_expect(&f, 0, &err), PLM_CORRUPT);
    assert_non_null(strstr(err.message, "field 9 has wire type 2, expected 0"));
}

static void reads_repeated_numbers(void **state)
{
    (void)state;
    struct plm_u64s list = {0};
    struct plm_pb_field packed = {.number = 2, .wire = 2, .bytes = view("\x01\xac\x02\x00", 4)};
    struct plm_pb_field one = {.number = 2, .wire = 0, .value = 5};

    assert_int_equal(plm_pb_repeated_u64(ctx, &packed, 100, &list, NULL), PLM_OK);
    for (int i = 0; i < 97; i++)
        assert_int_equal(plm_pb_repeated_u64(ctx, &one, 100, &list, NULL), PLM_OK);
    assert_int_equal(list.n, 100);
    assert_true(list.items[0] == 1 && list.items[1] == 300 && list.items[2] == 0);
    assert_true(list.items[3] == 5 && list.items[99] == 5);
    assert_int_equal(plm_pb_repeated_u64(ctx, &one, 100, &list, NULL), PLM_CORRUPT);
    assert_int_equal(plm_pb_repeated_u64(ctx, &packed, 102, &list, NULL), PLM_CORRUPT);
    assert_int_equal(plm_pb_repeated_u64(ctx, &packed, 99, &list, NULL), PLM_CORRUPT);
    assert_int_equal(list.n, 100);
    plm_u64s_reset(ctx, &list);
    plm_u64s_reset(ctx, &list);
}

static void refuses_broken_repeated_numbers(void **state)
{
    (void)state;
    struct plm_u64s list = {0};
    struct plm_pb_field cut = {.number = 2, .wire = 2, .bytes = view("\x01\x80", 2)};
    struct plm_pb_field only = {.number = 2, .wire = 2, .bytes = view("\x80", 1)};
    struct plm_pb_field empty = {.number = 2, .wire = 2, .bytes = view("", 0)};
    struct plm_pb_field fixed = {.number = 2, .wire = 1};

    assert_int_equal(plm_pb_repeated_u64(ctx, &cut, 10, &list, NULL), PLM_CORRUPT);
    assert_int_equal(plm_pb_repeated_u64(ctx, &only, 10, &list, NULL), PLM_CORRUPT);
    assert_int_equal(plm_pb_repeated_u64(ctx, &fixed, 10, &list, NULL), PLM_CORRUPT);
    assert_int_equal(plm_pb_repeated_u64(ctx, &empty, 0, &list, NULL), PLM_OK);
    assert_int_equal(list.n, 0);
    plm_u64s_reset(ctx, &list);
}

static void writes_what_it_reads(void **state)
{
    (void)state;
    struct plm_buf buf, inner;
    static const uint64_t numbers[] = {0, 127, 128, UINT64_MAX};
    static const uint8_t want[] = "\x08\x00"
                                  "\x11\x00\x00\x00\x00\x00\x00\xf8\x3f"
                                  "\x1a\x02hi"
                                  "\x22\x0e\x00\x7f\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
                                  "\x2a\x02\x0a\x00"
                                  "\x32\x07\x0a\x01k\x12\x02vw";

    plm_buf_init(&buf, ctx, 1000);
    plm_buf_init(&inner, ctx, 1000);
    assert_int_equal(plm_pb_put_bytes(&inner, 1, NULL, 0, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_u64(&buf, 1, 0, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_f64(&buf, 2, 1.5, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_str(&buf, 3, "hi", NULL), PLM_OK);
    assert_int_equal(plm_pb_put_packed(&buf, 4, numbers, 4, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_packed(&buf, 4, NULL, 0, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_message(&buf, 5, &inner, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_map(&buf, 6, "k", "vw", 2, NULL), PLM_OK);
    assert_int_equal(buf.len, sizeof want - 1);
    assert_memory_equal(buf.data, want, buf.len);
    plm_buf_reset(&buf);
    plm_buf_reset(&inner);
}

/* A full buffer keeps only whole fields. */
static void writes_nothing_beyond_the_ceiling(void **state)
{
    (void)state;
    struct plm_buf buf;
    static const uint64_t numbers[] = {300, 300};

    plm_buf_init(&buf, ctx, 5);
    assert_int_equal(plm_pb_put_bytes(&buf, 1, "abcd", 4, NULL), PLM_LIMIT);
    assert_int_equal(plm_pb_put_packed(&buf, 1, numbers, 2, NULL), PLM_LIMIT);
    assert_int_equal(plm_pb_put_map(&buf, 1, "k", "v", 1, NULL), PLM_LIMIT);
    assert_int_equal(buf.len, 0);
    assert_int_equal(plm_pb_put_bytes(&buf, 1, "abc", 3, NULL), PLM_OK);
    plm_buf_reset(&buf);
}

/* Random bytes: every field lies inside, walking ends. */
static void survives_noise(void **state)
{
    (void)state;
    uint8_t bytes[64];
    int n_ok = 0;

    for (uint64_t round = 0; round < 20000; round++) {
        size_t n = plm_mix64(1, round) % sizeof bytes;
        struct plm_pb_field f;
        bool more = true;

        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(plm_mix64(round, i) & (round % 2 ? 0xff : 0x2f));
        struct plm_pb pb = plm_pb_of(view(bytes, n));
        while (plm_pb_next(&pb, &f, &more, NULL) == PLM_OK && more) {
            assert_true(f.whole.data >= bytes && f.whole.data + f.whole.len <= bytes + n);
            assert_true(f.bytes.len < f.whole.len);
            n_ok++;
        }
    }
    assert_true(n_ok > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_each_wire_type),
        cmocka_unit_test(reads_the_largest_values),
        cmocka_unit_test(refuses_broken_messages),
        cmocka_unit_test(leaves_the_reader_alone_after_an_error),
        cmocka_unit_test(expects_wire_types),
        cmocka_unit_test(reads_repeated_numbers),
        cmocka_unit_test(refuses_broken_repeated_numbers),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(writes_nothing_beyond_the_ceiling),
        cmocka_unit_test(survives_noise),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
