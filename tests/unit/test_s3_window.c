/* test_s3_window.c - windows over announced stretches: how they are cut, who fetches, what stays.
 * No wire: a byte of the object is a function of its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "core/mem.h"

#ifndef PLM_WITH_S3

static void test_nothing_to_keep(void **state) { (void)state; }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_to_keep)};

    return cmocka_run_group_tests_name("s3_window", tests, NULL, NULL);
}

#else

#include "store/s3_window.h"

#define MIB ((uint64_t)1 << 20)
/* Small stretches as far apart as this each get a window. */
#define APART (20 * MIB)

static struct plm_ctx *ctx;
static struct plm_err err;
static struct plm_s3_shelf shelf;
static struct plm_s3_windows windows;

static int setup(void **state)
{
    (void)state;
    struct plm_ctx_options options;

    plm_ctx_options_default(&options);
    options.threads = 1;
    options.memory_budget_bytes = 256 * MIB;
    if (plm_ctx_create(&options, &ctx, NULL) != PLM_OK)
        return 1;
    plm_s3_shelf_init(&shelf, ctx);
    return 0;
}

/* Nothing may be pinned, being fetched, miscounted or leaked after a test. */
static int teardown(void **state)
{
    (void)state;
    uint64_t kept = 0;
    bool is_bad = false;

    for (size_t i = 0; i < windows.n; i++) {
        kept += windows.items[i].bytes ? windows.items[i].to - windows.items[i].from : 0;
        is_bad = is_bad || windows.items[i].pins > 0 || windows.items[i].state == PLM_S3_LOADING;
    }
    is_bad = is_bad || kept != shelf.kept_bytes || kept > shelf.keep_bytes;
    plm_s3_windows_forget(&shelf, &windows);
    is_bad = is_bad || shelf.kept_bytes != 0;
    plm_s3_shelf_reset(&shelf);
    is_bad = is_bad || atomic_load(&ctx->memory_used) != 0;
    plm_ctx_destroy(ctx);
    return is_bad;
}

/* ---- the object ------------------------------------------------------------------ */

static uint8_t byte_at(uint64_t offset) { return (uint8_t)(offset * 131 + (offset >> 8) * 7 + 1); }

static void fill(void *to, uint64_t offset, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        ((uint8_t *)to)[i] = byte_at(offset + i);
}

static bool is_right(const struct plm_range *r)
{
    for (size_t i = 0; i < r->len; i++)
        if (((const uint8_t *)r->dst)[i] != byte_at(r->offset + i))
            return false;
    return true;
}

struct fetched {
    size_t n_windows, n_rest, n_again;
};

/* What a file does; with `fate` other than PLM_OK only the first `n_come` windows come. */
static enum plm_code read_with(const struct plm_range *ranges, size_t n, enum plm_code fate,
                               size_t n_come, struct fetched *out)
{
    struct plm_s3_served served = {0};
    struct fetched got = {0};
    struct plm_err at = {0};
    size_t n_again = 0;
    enum plm_code rc = plm_s3_windows_begin(&shelf, &windows, ranges, n, &served, &at);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < served.n_mine && (fate == PLM_OK || i < n_come); i++) {
        fill(served.mine[i]->bytes, served.mine[i]->from, served.mine[i]->to - served.mine[i]->from);
        plm_s3_window_came(&shelf, served.mine[i]);
    }
    for (size_t i = 0; i < served.n_rest && fate == PLM_OK; i++)
        fill(served.rest[i].dst, served.rest[i].offset, served.rest[i].len);
    got = (struct fetched){served.n_mine, served.n_rest, 0};
    rc = plm_s3_windows_finish(&shelf, &windows, fate, &served, &n_again, &at);
    for (size_t i = 0; i < n_again && rc == PLM_OK; i++)
        fill(served.served[i].dst, served.served[i].offset, served.served[i].len);
    got.n_again = n_again;
    plm_s3_served_reset(&shelf, &served);
    if (out)
        *out = got;
    return rc;
}

/* Reads one range, checks its bytes and how many windows were fetched for it and how many ranges
 * as they are. */
static void read_one(uint64_t offset, size_t len, size_t n_windows, size_t n_rest)
{
    struct plm_range r = {offset, len, malloc(len)};
    struct fetched got;

    assert_int_equal(read_with(&r, 1, PLM_OK, 0, &got), PLM_OK);
    assert_true(is_right(&r));
    assert_int_equal(got.n_windows, n_windows);
    assert_int_equal(got.n_rest, n_rest);
    free(r.dst);
}

/* n stretches of len bytes, APART from each other. */
static void expect_stretches(size_t n, size_t len)
{
    struct plm_range ranges[64];

    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        ranges[n - 1 - i] = (struct plm_range){i * APART, len, NULL}; /* in any order */
    plm_s3_windows_expect(&shelf, &windows, ranges, n);
    assert_int_equal(windows.n, n);
}

/* ---- cutting --------------------------------------------------------------------- */

static void check_window(size_t i, uint64_t from, uint64_t to, int64_t left)
{
    assert_true(i < windows.n);
    assert_int_equal(windows.items[i].from, from);
    assert_int_equal(windows.items[i].to, to);
    assert_int_equal(windows.items[i].left, left);
}

static void test_near_ranges_are_one_window(void **state)
{
    (void)state;
    const struct plm_range ranges[] = {
        {64 * MIB, 10, NULL},                              /* alone */
        {100, 50, NULL},       {120, 50, NULL},            /* overlap: counted as often as asked for */
        {7 * MIB, 1, NULL},                                /* begins in the same 8 MiB */
        {40 * MIB - 100, 100, NULL},                       /* ends where the next piece begins */
        {40 * MIB + PLM_S3_GAP_BYTES, 5, NULL},            /* in the next piece, but near */
        {50 * MIB, 0, NULL},                               /* nothing */
    };

    plm_s3_windows_expect(&shelf, &windows, ranges, 7);
    assert_int_equal(windows.n, 3);
    check_window(0, 100, 7 * MIB + 1, 101);
    check_window(1, 40 * MIB - 100, 40 * MIB + PLM_S3_GAP_BYTES + 5, 105);
    check_window(2, 64 * MIB, 64 * MIB + 10, 10);
    plm_s3_windows_expect(&shelf, &windows, NULL, 0);
    assert_int_equal(windows.n, 0);
}

static void test_long_ranges_are_cut(void **state)
{
    (void)state;
    for (uint64_t len = 1; len < 70 * MIB; len = len * 3 + 12345) {
        const struct plm_range r = {777, (size_t)len, NULL};
        uint64_t at = 777;

        plm_s3_windows_expect(&shelf, &windows, &r, 1);
        for (size_t i = 0; i < windows.n; i++) {
            const struct plm_s3_window *w = &windows.items[i];

            check_window(i, at, w->to, (int64_t)(w->to - at));
            assert_true(w->to - at <= 2 * PLM_S3_PIECE_BYTES);
            assert_true(w->to - at >= plm_min_u64(len, PLM_S3_PIECE_BYTES) - windows.n);
            at = w->to;
        }
        assert_int_equal(at, 777 + len);
    }
}

static void test_no_memory_for_the_list(void **state)
{
    (void)state;
    const struct plm_range r = {0, 1000, NULL};

    for (long n = 1; n <= 2; n++) {
        expect_stretches(2, 100);
        atomic_store(&ctx->faults.alloc_countdown, n);
        plm_s3_windows_expect(&shelf, &windows, &r, 1); /* as if it had not been said */
        assert_int_equal(windows.n, 2);
        check_window(0, 0, 100, 100);
    }
    atomic_store(&ctx->faults.alloc_countdown, 0);
}

/* ---- reading --------------------------------------------------------------------- */

static void test_a_window_is_fetched_once(void **state)
{
    (void)state;
    expect_stretches(2, 1000);
    read_one(10, 20, 1, 0);
    read_one(500, 500, 0, 0);
    read_one(0, 1000, 0, 0); /* once more: still there */
    read_one(APART - 10, 5, 0, 1);
    read_one(900, 200, 0, 1); /* reaches out of it */
    read_one(APART + 1, 1, 1, 0);
    assert_int_equal(shelf.kept_bytes, 2000);
}

static void test_ranges_over_several_windows(void **state)
{
    (void)state;
    const struct plm_range all = {100, 16 * MIB, NULL};
    struct fetched got;
    uint8_t a[64], b[64], c[64];
    const uint64_t border = 100 + 8 * MIB;
    const struct plm_range ranges[] = {
        {border - 32, 64, a}, {border, 0, NULL}, {99, 64, b}, {border + 5, 64, c}};

    shelf.keep_bytes = 16 * MIB;
    plm_s3_windows_expect(&shelf, &windows, &all, 1);
    assert_int_equal(windows.n, 2);
    assert_int_equal(read_with(ranges, 4, PLM_OK, 0, &got), PLM_OK);
    assert_int_equal(got.n_windows, 2);
    assert_int_equal(got.n_rest, 1);
    assert_true(is_right(&ranges[0]) && is_right(&ranges[2]) && is_right(&ranges[3]));
}

static void test_looking_ahead(void **state)
{
    (void)state;
    const struct plm_range all = {0, 80 * MIB, NULL};

    shelf.keep_bytes = 128 * MIB; /* of which a quarter may be ahead, three windows at most */
    plm_s3_windows_expect(&shelf, &windows, &all, 1);
    assert_int_equal(windows.n, 10);
    read_one(0, 100, 4, 0);
    read_one(31 * MIB, 100, 0, 0);
    read_one(64 * MIB, 100, 2, 0); /* no more than there are */
    plm_s3_windows_forget(&shelf, &windows);
    shelf.keep_bytes = 16 * MIB; /* too little for that */
    plm_s3_windows_expect(&shelf, &windows, &all, 1);
    read_one(0, 100, 1, 0);
}

/* ---- room ------------------------------------------------------------------------ */

static void test_what_has_given_all_makes_room(void **state)
{
    (void)state;
    shelf.keep_bytes = 2500;
    expect_stretches(4, 1000);
    read_one(0, 10, 1, 0);         /* still wanted */
    read_one(APART, 1000, 1, 0);   /* given whole */
    read_one(2 * APART, 10, 1, 0); /* takes the room of the second */
    assert_int_equal(windows.items[1].state, PLM_S3_ABSENT);
    read_one(3 * APART, 10, 0, 1); /* both are wanted: no room */
    read_one(APART, 10, 0, 1);     /* gone, and given once: just this */
    read_one(0, 10, 0, 0);
    shelf.keep_bytes = 500;
    read_one(3 * APART, 10, 0, 1); /* larger than all the room */
    shelf.keep_bytes = 2500;
}

static void test_forgotten_windows_go(void **state)
{
    (void)state;
    shelf.keep_bytes = 1000;
    expect_stretches(2, 1000);
    read_one(0, 10, 1, 0);
    read_one(APART, 10, 0, 1);
    shelf.n_reads += 2000; /* of other files */
    read_one(APART, 10, 1, 0);
    assert_int_equal(windows.items[0].state, PLM_S3_ABSENT);
    read_one(0, 10, 0, 1);
}

static void test_pinned_windows_stay(void **state)
{
    (void)state;
    struct plm_s3_served served = {0};
    uint8_t a[1000];
    const struct plm_range r = {0, 1000, a};
    size_t n_again;

    shelf.keep_bytes = 1000;
    expect_stretches(2, 1000);
    assert_int_equal(plm_s3_windows_begin(&shelf, &windows, &r, 1, &served, &err), PLM_OK);
    assert_int_equal(served.n_mine, 1);
    read_one(APART, 10, 0, 1); /* while it is being fetched */
    fill(served.mine[0]->bytes, 0, 1000);
    plm_s3_window_came(&shelf, served.mine[0]);
    read_one(APART, 10, 0, 1); /* and before it is copied */
    assert_int_equal(plm_s3_windows_finish(&shelf, &windows, PLM_OK, &served, &n_again, &err), PLM_OK);
    assert_int_equal(n_again, 0);
    assert_true(is_right(&r));
    plm_s3_served_reset(&shelf, &served);
    read_one(APART, 10, 1, 0);
}

static void test_the_budget_has_no_room(void **state)
{
    (void)state;
    void *hog = NULL;

    shelf.keep_bytes = 64 * MIB;
    expect_stretches(2, 8 * MIB);
    assert_int_equal(plm_alloc(ctx, &hog, 250 * MIB, 1, &err), PLM_OK);
    read_one(0, 100, 0, 1);
    plm_free(ctx, hog);
    read_one(0, 100, 1, 0);
}

static void test_expected_again(void **state)
{
    (void)state;
    expect_stretches(3, 1000);
    read_one(APART, 1000, 1, 0);
    read_one(2 * APART, 10, 1, 0);
    expect_stretches(2, 1000); /* the third is not wanted any more */
    assert_int_equal(shelf.kept_bytes, 1000);
    read_one(APART, 1000, 0, 0);
    read_one(0, 1000, 1, 0);
    expect_stretches(2, 999); /* other windows: the bytes go */
    assert_int_equal(shelf.kept_bytes, 0);
}

/* ---- failures -------------------------------------------------------------------- */

static void test_a_failed_fetch_leaves_nothing(void **state)
{
    (void)state;
    uint8_t a[100], b[100];
    const struct plm_range ranges[] = {{0, 100, a}, {APART, 100, b}};

    expect_stretches(2, 1000);
    assert_int_equal(read_with(ranges, 2, PLM_IO, 1, NULL), PLM_IO);
    assert_int_equal(windows.items[0].state, PLM_S3_HELD); /* this one came */
    assert_int_equal(windows.items[1].state, PLM_S3_ABSENT);
    read_one(0, 100, 0, 0);
    read_one(APART, 100, 1, 0);
}

static void test_others_fetch_what_did_not_come(void **state)
{
    (void)state;
    struct plm_s3_served first = {0}, second = {0};
    uint8_t a[100], b[100];
    const struct plm_range one = {0, 100, a}, two = {50, 100, b};
    size_t n_again;

    expect_stretches(1, 1000);
    assert_int_equal(plm_s3_windows_begin(&shelf, &windows, &one, 1, &first, &err), PLM_OK);
    assert_int_equal(plm_s3_windows_begin(&shelf, &windows, &two, 1, &second, &err), PLM_OK);
    assert_int_equal(first.n_mine, 1);
    assert_int_equal(second.n_mine + second.n_rest, 0); /* it waits for the first */
    assert_int_equal(plm_s3_windows_finish(&shelf, &windows, PLM_IO, &first, &n_again, &err), PLM_IO);
    assert_int_equal(n_again, 0);
    assert_int_equal(plm_s3_windows_finish(&shelf, &windows, PLM_OK, &second, &n_again, &err), PLM_OK);
    assert_int_equal(n_again, 1);
    assert_int_equal(second.served[0].offset, 50);
    assert_ptr_equal(second.served[0].dst, b);
    plm_s3_served_reset(&shelf, &first);
    plm_s3_served_reset(&shelf, &second);
}

static void test_cancelled_while_another_fetches(void **state)
{
    (void)state;
    struct plm_s3_served first = {0};
    uint8_t a[100], b[100];
    const struct plm_range one = {0, 100, a}, two = {50, 50, b};
    size_t n_again;

    expect_stretches(1, 1000);
    assert_int_equal(plm_s3_windows_begin(&shelf, &windows, &one, 1, &first, &err), PLM_OK);
    plm_ctx_cancel(ctx);
    assert_int_equal(read_with(&two, 1, PLM_OK, 0, NULL), PLM_CANCELLED);
    assert_int_equal(plm_s3_windows_finish(&shelf, &windows, PLM_CANCELLED, &first, &n_again, &err),
                     PLM_CANCELLED);
    plm_s3_served_reset(&shelf, &first);
}

static void test_every_allocation_fails_once(void **state)
{
    (void)state;
    uint8_t a[100];
    const struct plm_range r = {0, 100, a};

    expect_stretches(1, 1000);
    for (long n = 1; n <= 4; n++) { /* the fourth is the window's: then without */
        atomic_store(&ctx->faults.alloc_countdown, n);
        assert_int_equal(read_with(&r, 1, PLM_OK, 0, NULL), n < 4 ? PLM_NOMEM : PLM_OK);
        assert_int_equal(windows.items[0].state, PLM_S3_ABSENT);
        assert_int_equal(windows.items[0].pins, 0);
    }
    atomic_store(&ctx->faults.alloc_countdown, 0);
    assert_true(is_right(&r));
    read_one(0, 100, 1, 0);
}

/* ---- many readers ---------------------------------------------------------------- */

#define N_READERS 6
#define N_STRETCHES 16
#define STRETCH 3000

/* Random reads of one to three ranges; one fetch of ten fails. Counts what is wrong. */
static void *reader(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg * 0x9e3779b97f4a7c15u + 1;
    uintptr_t n_wrong = 0;

    for (int round = 0; round < 400; round++) {
        struct plm_range ranges[3];
        uint8_t bytes[3][STRETCH + 100];
        size_t n = 1 + (size_t)(round % 3);

        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            uint64_t from = (seed >> 20) % STRETCH;
            size_t len = (size_t)((seed >> 40) % (STRETCH - from + 10)); /* at times out of it */

            ranges[i] = (struct plm_range){(seed >> 60) * APART + from, len, bytes[i]};
        }
        enum plm_code fate = round % 10 == 9 ? PLM_IO : PLM_OK;
        enum plm_code rc = read_with(ranges, n, fate, (size_t)(seed >> 8) % 2, NULL);

        n_wrong += rc != fate;
        for (size_t i = 0; i < n && rc == PLM_OK; i++)
            n_wrong += !is_right(&ranges[i]);
    }
    return (void *)n_wrong;
}

static void test_many_readers(void **state)
{
    (void)state;
    for (uint64_t room = 0; room <= N_STRETCHES; room += 4) {
        pthread_t threads[N_READERS];

        shelf.keep_bytes = room * STRETCH;
        expect_stretches(N_STRETCHES, STRETCH);
        for (uintptr_t i = 0; i < N_READERS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)(i + 1)), 0);
        for (size_t i = 0; i < N_READERS; i++) {
            void *n_wrong;

            pthread_join(threads[i], &n_wrong);
            assert_int_equal((uintptr_t)n_wrong, 0);
        }
        for (size_t i = 0; i < windows.n; i++)
            assert_true(windows.items[i].pins == 0 && windows.items[i].state != PLM_S3_LOADING);
        assert_true(shelf.kept_bytes <= shelf.keep_bytes);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_near_ranges_are_one_window),
        TEST(test_long_ranges_are_cut),
        TEST(test_no_memory_for_the_list),
        TEST(test_a_window_is_fetched_once),
        TEST(test_ranges_over_several_windows),
        TEST(test_looking_ahead),
        TEST(test_what_has_given_all_makes_room),
        TEST(test_forgotten_windows_go),
        TEST(test_pinned_windows_stay),
        TEST(test_the_budget_has_no_room),
        TEST(test_expected_again),
        TEST(test_a_failed_fetch_leaves_nothing),
        TEST(test_others_fetch_what_did_not_come),
        TEST(test_cancelled_while_another_fetches),
        TEST(test_every_allocation_fails_once),
        TEST(test_many_readers),
    };

    return cmocka_run_group_tests_name("s3_window", tests, NULL, NULL);
}

#endif
