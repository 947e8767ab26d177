/* test_build_faults.c - a whole build with the n-th allocation, then the n-th I/O call, failing.
 *
 * For n = 1, 2, 3, ... until a build passes without meeting its fault. A build that fails must say
 * so with the fault's own code, commit nothing, and leave a job that the same call, without a
 * fault, brings to its end. Leaks are the sanitizer builds' to find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/core.h"
#include "lance/manifest.h"
#include "support/table_copy.h"

#define FAULTS_MAX 100000

enum kind { ALLOCATION, IO_CALL };

static struct plm_ctx *new_ctx(void)
{
    struct plm_ctx_options o;
    struct plm_ctx *ctx;
    plm_ctx_options_default(&o);
    o.threads = 1; /* the n-th call is the same one every time */
    o.memory_budget_bytes = (uint64_t)1 << 30;
    assert_int_equal(plm_ctx_create(&o, &ctx, NULL), PLM_OK);
    return ctx;
}

static struct plm_build_options options(const char *type)
{
    struct plm_build_options o;
    plm_build_options_default(&o);
    o.column = "vec";
    o.type = type;
    o.num_partitions = 3;
    o.max_iters = 3;
    if (strcmp(type, "IVF_PQ") == 0) {
        o.num_sub_vectors = 2;
        o.num_bits = 4;
    }
    return o;
}

static uint64_t latest_version(struct plm_ctx *ctx, const char *path)
{
    struct plm_store *store = NULL;
    struct plm_manifest m = {0};
    assert_int_equal(plm_store_open(ctx, path, NULL, &store, NULL), PLM_OK);
    assert_int_equal(plm_manifest_open(store, NULL, 0, &m, NULL), PLM_OK);
    uint64_t version = m.version;
    plm_manifest_reset(&m);
    plm_store_close(store);
    return version;
}

static enum plm_code build(struct plm_ctx *ctx, const char *path, const char *type, struct plm_err *err)
{
    struct plm_table_ref table = {.uri = path};
    struct plm_build_options o = options(type);
    char *report = NULL;
    enum plm_code rc = plm_create_index(ctx, &table, &o, &report, err);
    assert_true((rc == PLM_OK) == (report != NULL));
    plm_string_free(report);
    return rc;
}

/* One build with fault n on a fresh copy. True when the fault was met. */
static bool meets_fault(enum kind kind, long n, const char *type, bool carry_on)
{
    struct plm_ctx *ctx = new_ctx();
    struct plm_err err = {0};
    char *path = table_copy("plain");
    uint64_t before = latest_version(ctx, path);
    atomic_long *countdown = kind == ALLOCATION ? &ctx->faults.alloc_countdown : &ctx->faults.io_countdown;

    atomic_store(countdown, n);
    enum plm_code rc = build(ctx, path, type, &err);
    bool met = atomic_load(countdown) <= 0;
    atomic_store(countdown, 0);
    assert_int_equal(atomic_load(&ctx->memory_used), 0);

    uint64_t after = latest_version(ctx, path);
    if (rc == PLM_OK) {
        assert_int_equal(after, before + 1);
    } else {
        assert_true(met);
        assert_true(err.message[0] != 0);
        /* After the manifest is in, a fault in counting or cleaning up may still be reported. */
        assert_in_range(after, before, before + 1);
        if (carry_on) {
            if (build(ctx, path, type, &err) != PLM_OK)
                fail_msg("fault %ld: cannot be carried on: %s", n, err.message);
            assert_in_range(latest_version(ctx, path), before + 1, before + 2);
        }
    }
    table_remove(path);
    plm_ctx_destroy(ctx);
    return met;
}

static void fail_each(enum kind kind, const char *type, long step)
{
    long n = 1;
    while (n < FAULTS_MAX && meets_fault(kind, n, type, true))
        n += step;
    assert_true(n > 50); /* there were faults to meet */
    assert_true(n < FAULTS_MAX);
}

static void test_flat_allocations(void **state)
{
    (void)state;
    fail_each(ALLOCATION, "IVF_FLAT", 3);
}

static void test_pq_allocations(void **state)
{
    (void)state;
    fail_each(ALLOCATION, "IVF_PQ", 7);
}

static void test_sq_io(void **state)
{
    (void)state;
    fail_each(IO_CALL, "IVF_SQ", 1);
}

static void test_pq_io(void **state)
{
    (void)state;
    fail_each(IO_CALL, "IVF_PQ", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat_allocations),
        cmocka_unit_test(test_pq_allocations),
        cmocka_unit_test(test_sq_io),
        cmocka_unit_test(test_pq_io),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
