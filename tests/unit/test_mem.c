/* test_mem.c - the budget, and what it is made from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/core.h"
#include "store/store.h"

#define MIB ((uint64_t)1 << 20)

static struct plm_ctx *make_ctx(uint64_t budget)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;

    plm_ctx_options_default(&options);
    options.threads = 4;
    options.memory_budget_bytes = budget;
    assert_int_equal(plm_ctx_create(&options, &ctx, NULL), PLM_OK);
    return ctx;
}

/* ---- the limit -------------------------------------------------------------------------- */

static char root[] = "/tmp/test_mem.XXXXXX";

static void put_file(const char *path, const char *text)
{
    char full[512];

    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0777);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_limit(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(root));
    uint64_t machine = plm_memory_limit(root); /* no /proc there */
    assert_true(machine > MIB);

    put_file("/proc/self/cgroup", "0::/a.slice/b\n");
    assert_int_equal(plm_memory_limit(root), machine);
    put_file("/sys/fs/cgroup/a.slice/b/memory.max", "max\n");
    assert_int_equal(plm_memory_limit(root), machine);
    put_file("/sys/fs/cgroup/a.slice/memory.max", "7340032\n"); /* of the group above */
    assert_int_equal(plm_memory_limit(root), 7 * MIB);
    put_file("/sys/fs/cgroup/a.slice/b/memory.high", "5242880\n");
    assert_int_equal(plm_memory_limit(root), 5 * MIB);
    put_file("/sys/fs/cgroup/memory.max", "3145728\n"); /* as a container sees its own */
    assert_int_equal(plm_memory_limit(root), 3 * MIB);

    put_file("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/job/1\n0::/\n3:memoryless:/x\n");
    put_file("/sys/fs/cgroup/memory.max", "max\n");
    assert_int_equal(plm_memory_limit(root), machine);
    put_file("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1048576\n"); /* not ours */
    assert_int_equal(plm_memory_limit(root), machine);
    put_file("/sys/fs/cgroup/memory/job/1/memory.limit_in_bytes", "2097152\n");
    assert_int_equal(plm_memory_limit(root), 2 * MIB);
    put_file("/proc/self/cgroup", "no colons\n:\n::\n4:memory\n");
    assert_int_equal(plm_memory_limit(root), machine);

    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

/* ---- the budget ---------------------------------------------------------------------------- */

static void test_budget(void **state)
{
    struct plm_ctx *ctx = make_ctx(8 * MIB);
    uint8_t *a = NULL, *b = NULL;
    struct plm_err err = {0};
    (void)state;

    assert_int_equal(plm_memory_left(ctx), 8 * MIB);
    assert_int_equal(plm_alloc(ctx, &a, 5 * MIB, 1, NULL), PLM_OK);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_true(plm_memory_left(ctx) < 3 * MIB && plm_memory_left(ctx) > 3 * MIB - 8192);
    assert_int_equal(plm_alloc(ctx, &b, 3 * MIB, 1, &err), PLM_LIMIT);
    assert_non_null(strstr(err.message, "8388608"));
    assert_null(b);
    ctx->memory_base_bytes = 2 * MIB; /* taken, but not charged */
    assert_int_equal(plm_alloc(ctx, &b, 1 * MIB, 1, &err), PLM_LIMIT);
    ctx->memory_base_bytes = 0;
    assert_int_equal(plm_alloc(ctx, &b, 2 * MIB, 1, &err), PLM_OK);
    plm_free(ctx, a);
    plm_free(ctx, b);
    assert_int_equal(plm_memory_left(ctx), 8 * MIB);
    plm_ctx_destroy(ctx);
}

/* Memory that comes again is clear when that is asked for, and keeps what it should. */
static void test_blocks_again(void **state)
{
    struct plm_ctx *ctx = make_ctx(64 * MIB);
    (void)state;

    for (size_t n = 64; n < 4 * MIB; n *= 3) {
        uint8_t *p = NULL, *q = NULL;
        assert_int_equal(plm_alloc(ctx, &p, n, 1, NULL), PLM_OK);
        memset(p, 0xAA, n);
        plm_free(ctx, p);
        p = NULL;
        assert_int_equal(plm_calloc(ctx, &p, n, 1, NULL), PLM_OK);
        for (size_t i = 0; i < n; i += 61)
            assert_int_equal(p[i], 0);
        assert_int_equal(plm_calloc(ctx, &q, n, 1, NULL), PLM_OK);
        assert_ptr_not_equal(p, q);
        for (size_t i = 0; i < n; i++)
            p[i] = (uint8_t)i;
        assert_int_equal(plm_realloc(ctx, &p, 3 * n, 1, NULL), PLM_OK);
        assert_int_equal(plm_realloc(ctx, &p, n / 2, 1, NULL), PLM_OK);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n / 2; i++)
            assert_int_equal(p[i], (uint8_t)i);
        plm_free(ctx, p);
        plm_free(ctx, q);
    }
    assert_int_equal(atomic_load(&ctx->memory_used), 0);
    plm_ctx_destroy(ctx);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* What was freed may be kept, but never beyond the budget. */
static void test_residence(void **state)
{
    struct plm_ctx *ctx = make_ctx(48 * MIB);
    uint64_t before = plm_resident_bytes();
    (void)state;

    assert_true(before > 0);
    for (uint64_t n = 4; n <= 44; n += 8)
        for (uint64_t each = 1; each <= n; each *= 2) {
            uint8_t *blocks[64] = {0};
            for (size_t i = 0; i < n / each; i++) {
                assert_int_equal(plm_alloc(ctx, &blocks[i], each * MIB, 1, NULL), PLM_OK);
                memset(blocks[i], 1, each * MIB);
            }
            assert_true(plm_resident_bytes() <= before + 49 * MIB);
            for (size_t i = 0; i < n / each; i++)
                plm_free(ctx, blocks[i]);
        }
    plm_ctx_destroy(ctx);
    assert_true(plm_resident_bytes() <= before + 2 * MIB);
}
#else
static void test_residence(void **state) { (void)state; }
#endif

/* ---- more files than may be open -------------------------------------------------------------- */

#define N_FILES 200

struct reading {
    struct plm_file *files[N_FILES];
};

static enum plm_code read_one(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct reading *r = arg;
    size_t number = task * 7 % N_FILES, seen = 0;
    (void)worker;

    enum plm_code rc = plm_file_read(r->files[number], 0, sizeof seen, &seen, err);
    return rc == PLM_OK && seen != number ? plm_fail(err, PLM_BUG, "%zu, expected %zu", seen, number) : rc;
}

static void test_many_files(void **state)
{
    char dir[] = "/tmp/test_mem.XXXXXX", name[32], command[64];
    struct plm_ctx *ctx = make_ctx(64 * MIB);
    struct rlimit files, few;
    struct plm_store *store = NULL;
    struct reading r = {{0}};
    (void)state;

    assert_non_null(mkdtemp(dir));
    assert_int_equal(plm_store_open(ctx, dir, NULL, &store, NULL), PLM_OK);
    for (size_t i = 0; i < N_FILES; i++) {
        snprintf(name, sizeof name, "%zu", i);
        assert_int_equal(plm_store_put(store, name, &i, sizeof i, NULL), PLM_OK);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    few = files;
    few.rlim_cur = 40;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (size_t i = 0; i < N_FILES; i++) {
        snprintf(name, sizeof name, "%zu", i);
        assert_int_equal(plm_file_open(store, name, 0, &r.files[i], NULL), PLM_OK);
    }
    assert_int_equal(plm_parallel(ctx, 5 * N_FILES, read_one, &r, NULL), PLM_OK);

    size_t one = 1;
    assert_int_equal(plm_store_put(store, "0", &one, sizeof one, NULL), PLM_OK); /* another file now */
    enum plm_code rc = read_one(&r, 0, 0, NULL); /* closed meanwhile, or open still */
    assert_true(rc == PLM_CORRUPT || rc == PLM_OK);
    for (size_t i = 0; i < N_FILES; i++)
        plm_file_close(r.files[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    plm_store_close(store);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    plm_ctx_destroy(ctx);
}

/* An array that could not grow is as large as it was, and says so. */
static void test_grow(void **state)
{
    (void)state;
    struct plm_ctx *ctx = make_ctx(256 << 10);
    uint64_t *items = NULL;
    size_t cap = 0, n = 0;
    enum plm_code rc = PLM_OK;

    for (; n < MIB; n++) {
        rc = plm_grow(ctx, &items, &cap, n, sizeof *items, NULL);
        if (rc != PLM_OK)
            break;
        assert_true(n < cap);
        items[n] = n;
    }
    assert_int_equal(rc, PLM_LIMIT);
    assert_int_equal(n, cap);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(items[i], i);
    plm_free(ctx, items);
    plm_ctx_destroy(ctx);
}

static void test_utf8(void **state)
{
    static const char *const good[] = {"", "a", "\xc3\xbc", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf", "x\xe2\x82\xacy"};
    static const char *const bad[] = {"\xff", "\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "a\xc3 ", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe2\x82",
                                      "\xe2\x82g", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf0\x90\x80"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(plm_is_utf8(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(plm_is_utf8(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_limit),        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_blocks_again), cmocka_unit_test(test_residence),
        cmocka_unit_test(test_many_files),   cmocka_unit_test(test_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
