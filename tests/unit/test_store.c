/* test_store.c - locations and paths, and the local store: whole objects, ranges, big files,
 * listings, locks, and what is left after each I/O call failed once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/store.h"
#include "store/writer.h"

static struct plm_ctx *ctx;
static struct plm_store *store; /* on a fresh directory */
static char root[64];

static int setup(void **state)
{
    (void)state;
    struct plm_ctx_options options;

    plm_ctx_options_default(&options);
    options.threads = 4;
    options.map_files = true;
    strcpy(root, "store-XXXXXX");
    if (plm_ctx_create(&options, &ctx, NULL) != PLM_OK || !mkdtemp(root))
        return 1;
    return plm_store_open(ctx, root, NULL, &store, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    struct plm_store *above = NULL;
    int failed = plm_store_open(ctx, ".", NULL, &above, NULL) != PLM_OK ||
                 plm_store_delete_tree(above, root, NULL) != PLM_OK;

    plm_store_close(above);
    plm_store_close(store);
    failed |= atomic_load(&ctx->memory_used) != 0; /* nothing leaked */
    plm_ctx_destroy(ctx);
    return failed;
}

/* ---- helpers -------------------------------------------------------------------- */

/* Path of a name below the root, relative to the working directory. */
static const char *at(const char *name)
{
    static char path[400];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void put_text(const char *path, const char *text)
{
    struct plm_err err = {0};

    if (plm_store_put(store, path, text, strlen(text), &err) != PLM_OK)
        fail_msg("put %s: %s", path, err.message);
}

static void expect_text(const char *path, const char *text)
{
    struct plm_buf buf;
    struct plm_err err = {0};

    plm_buf_init(&buf, ctx, 1 << 20);
    if (plm_store_get(store, path, &buf, &err) != PLM_OK)
        fail_msg("get %s: %s", path, err.message);
    assert_int_equal(buf.len, strlen(text));
    if (buf.len)
        assert_memory_equal(buf.data, text, buf.len);
    plm_buf_reset(&buf);
}

/* The names in a directory, joined by spaces. */
static const char *names(const char *dir, size_t limit)
{
    static char text[1000];
    struct plm_entries list = {0};

    text[0] = '\0';
    assert_int_equal(plm_store_list(store, dir, limit, &list, NULL), PLM_OK);
    for (size_t i = 0; i < list.n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "",
                 list.items[i].name);
    plm_entries_reset(&list);
    return text;
}

static void expect_message(const struct plm_err *err, enum plm_code code, const char *part)
{
    assert_int_equal(err->code, code);
    if (!strstr(err->message, part))
        fail_msg("\"%s\" does not say \"%s\"", err->message, part);
}

/* ---- locations and paths ---------------------------------------------------------- */

static void opens_each_kind_of_local_location(void **state)
{
    (void)state;
    struct plm_store *s = NULL;
    char here[300];

    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(plm_store_open(ctx, "./some/table.lance//", NULL, &s, NULL), PLM_OK);
    assert_memory_equal(plm_store_uri(s), here, strlen(here));
    assert_string_equal(plm_store_uri(s) + strlen(here), "/some/table.lance");
    assert_true(plm_store_is_local(s));
    assert_ptr_equal(plm_store_ctx(s), ctx);
    plm_store_close(s);
    assert_int_equal(plm_store_open(ctx, "file:///no/where%20at%2fall", NULL, &s, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(s), "/no/where at/all");
    plm_store_close(s);
    assert_int_equal(plm_store_open(ctx, "file://localhost/x", NULL, &s, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(s), "/x");
    plm_store_close(s);
    assert_int_equal(plm_store_open(ctx, "/", NULL, &s, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(s), "/");
    plm_store_close(s);
    assert_int_equal(plm_store_open(ctx, ".", NULL, &s, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(s), here);
    plm_store_close(s);
    plm_store_close(NULL);
}

static void refuses_other_locations_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *uri;
        enum plm_code code;
        const char *part;
    } cases[] = {
        {"", PLM_ARG, "empty location"},
        {"gs://bucket/x", PLM_UNSUPPORTED, "\"gs://\""},
        {"az://me:secret@container/x", PLM_UNSUPPORTED, "\"az://\""},
        {"s3+ddb://bucket/x", PLM_UNSUPPORTED, "\"s3+ddb://\""},
        {"https://host/x", PLM_UNSUPPORTED, "\"https://\""},
        {"hdfs://host/x", PLM_UNSUPPORTED, "\"hdfs://\""},
        {"file://host/x", PLM_ARG, "file:///absolute/path"},
        {"file://", PLM_ARG, "file:///absolute/path"},
        {"file:///a%2", PLM_ARG, "broken escape \"%2\""},
        {"file:///a%zz", PLM_ARG, "broken escape"},
        {"file:///a%00b", PLM_ARG, "broken escape \"%00\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plm_store *s = NULL;
        struct plm_err err = {0};

        assert_int_equal(plm_store_open(ctx, cases[i].uri, NULL, &s, &err), cases[i].code);
        expect_message(&err, cases[i].code, cases[i].part);
        assert_null(strstr(err.message, "secret"));
        assert_null(s);
    }
}

static void opens_roots_from_roots(void **state)
{
    (void)state;
    static const char *const options[] = {"aws_region", "x", "key", "y", NULL};
    static const char *const odd[] = {"aws_region", NULL};
    struct plm_store *a = NULL, *b = NULL;
    struct plm_err err = {0};

    assert_int_equal(plm_store_open(ctx, "/a", odd, &a, &err), PLM_ARG);
    expect_message(&err, PLM_ARG, "\"aws_region\" has no value");
    assert_int_equal(plm_store_open(ctx, "/a", options, &a, NULL), PLM_OK);
    assert_int_equal(plm_store_open_at(a, "tree/dev/", &b, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(b), "/a/tree/dev");
    plm_store_close(b);
    assert_int_equal(plm_store_open_at(a, "/else/where", &b, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(b), "/else/where");
    plm_store_close(b);
    assert_int_equal(plm_store_open_at(a, "file:///c", &b, NULL), PLM_OK);
    assert_string_equal(plm_store_uri(b), "/c");
    plm_store_close(b);
    b = NULL;
    assert_int_equal(plm_store_open_at(a, "tree/../../b", &b, NULL), PLM_ARG);
    assert_int_equal(plm_store_open_at(a, "", &b, NULL), PLM_ARG);
    assert_int_equal(plm_store_open_at(a, NULL, &b, NULL), PLM_ARG);
    assert_int_equal(plm_store_open_at(a, "gs://b", &b, NULL), PLM_UNSUPPORTED);
    assert_null(b);
    plm_store_close(a);
}

static void refuses_paths_that_leave_the_root(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    "/etc/passwd", "..", "../x",  "a/../../x", "a/..",
                                      "a//b", ".",           "./a", "a/./b", "//",        NULL};
    char *endless = malloc(5000);
    struct plm_err err = {0};

    for (size_t i = 0; bad[i]; i++) {
        struct plm_file *f = NULL;
        struct plm_writer *w = NULL;
        struct plm_lock *l = NULL;
        struct plm_buf buf = {0};
        uint64_t size;

        assert_int_equal(plm_file_open(store, bad[i], 0, &f, NULL), PLM_ARG);
        assert_int_equal(plm_store_get(store, bad[i], &buf, NULL), PLM_ARG);
        assert_int_equal(plm_store_size(store, bad[i], &size, NULL), PLM_ARG);
        assert_int_equal(plm_store_put(store, bad[i], "x", 1, NULL), PLM_ARG);
        assert_int_equal(plm_store_put_if_absent(store, bad[i], "x", 1, NULL), PLM_ARG);
        assert_int_equal(plm_store_delete(store, bad[i], NULL), PLM_ARG);
        assert_int_equal(plm_store_delete_tree(store, bad[i], NULL), PLM_ARG);
        assert_int_equal(plm_store_rename(store, bad[i], "b", NULL), PLM_ARG);
        assert_int_equal(plm_store_rename(store, "b", bad[i], NULL), PLM_ARG);
        assert_int_equal(plm_writer_open(store, bad[i], 1, NULL, NULL, &w, NULL), PLM_ARG);
        assert_int_equal(plm_store_lock(store, bad[i], &l, NULL), PLM_ARG);
        assert_true(!f && !w && !l);
    }
    memset(endless, 'a', 4999);
    endless[4999] = '\0';
    assert_int_equal(plm_store_put(store, endless, "x", 1, &err), PLM_ARG);
    free(endless);
    put_text("..a/b..c", "dots inside names are fine");
    expect_text("..a/b..c", "dots inside names are fine");
}

/* ---- whole objects ------------------------------------------------------------------ */

static void puts_and_gets(void **state)
{
    (void)state;
    uint64_t size = 0;
    uint64_t written = atomic_load(&ctx->bytes_written), n_put = atomic_load(&ctx->n_put);

    put_text("a/b/c.txt", "one");
    put_text("a/b/c.txt", "second");
    put_text("a/empty", "");
    expect_text("a/b/c.txt", "second");
    expect_text("a/empty", "");
    assert_int_equal(plm_store_size(store, "a/b/c.txt", &size, NULL), PLM_OK);
    assert_int_equal(size, 6);
    assert_string_equal(names("a/b", 0), "c.txt"); /* no temporary left */
    assert_int_equal(atomic_load(&ctx->bytes_written) - written, 9);
    assert_int_equal(atomic_load(&ctx->n_put) - n_put, 3);
}

static void get_appends_and_keeps_to_the_ceiling(void **state)
{
    (void)state;
    struct plm_buf buf;
    struct plm_err err = {0};

    put_text("x", "12345");
    plm_buf_init(&buf, ctx, 8);
    assert_int_equal(plm_store_get(store, "x", &buf, NULL), PLM_OK);
    assert_int_equal(plm_store_get(store, "x", &buf, &err), PLM_LIMIT);
    expect_message(&err, PLM_LIMIT, "/x: 5 bytes");
    assert_int_equal(buf.len, 5);
    plm_buf_reset(&buf);
}

static void says_what_is_missing_or_no_file(void **state)
{
    (void)state;
    struct plm_file *f = NULL;
    struct plm_buf buf;
    struct plm_err err = {0};
    uint64_t size;

    plm_buf_init(&buf, ctx, 100);
    put_text("dir/x", "12345");
    assert_int_equal(plm_file_open(store, "nope", 0, &f, &err), PLM_NOT_FOUND);
    expect_message(&err, PLM_NOT_FOUND, "/nope: cannot open: No such file");
    assert_int_equal(plm_file_open(store, "dir/x/y", 0, &f, &err), PLM_NOT_FOUND);
    assert_int_equal(plm_store_size(store, "nope", &size, &err), PLM_NOT_FOUND);
    assert_int_equal(plm_store_get(store, "dir", &buf, &err), PLM_IO);
    expect_message(&err, PLM_IO, "is a directory");
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    assert_int_equal(plm_store_get(store, "pipe", &buf, &err), PLM_IO);
    expect_message(&err, PLM_IO, "is a special file");
    assert_int_equal(plm_store_put(store, "dir/x/y", "z", 1, &err), PLM_NOT_FOUND);
    assert_null(f);
}

static void put_if_absent_lets_one_win(void **state)
{
    (void)state;
    struct plm_err err = {0};

    assert_int_equal(plm_store_put_if_absent(store, "v/1", "first", 5, NULL), PLM_OK);
    assert_int_equal(plm_store_put_if_absent(store, "v/1", "other", 5, &err), PLM_CONFLICT);
    expect_message(&err, PLM_CONFLICT, "/v/1: exists already");
    expect_text("v/1", "first");
    assert_string_equal(names("v", 0), "1");
    assert_int_equal(mkdir(at("v/2"), 0700), 0);
    assert_int_equal(plm_store_put_if_absent(store, "v/2", "x", 1, NULL), PLM_CONFLICT);
}

/* What stock Lance and a killed pilum leave behind. */
static void leftovers_block_nobody(void **state)
{
    (void)state;

    put_text("v/1#1", "half");
    put_text("v/1#77-0123456789ab", "half");
    assert_int_equal(plm_store_put_if_absent(store, "v/1", "whole", 5, NULL), PLM_OK);
    expect_text("v/1", "whole");
    expect_text("v/1#1", "half");
}

static enum plm_code race_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    (void)worker;
    atomic_int *wins = arg;
    char path[32], text[32];

    snprintf(path, sizeof path, "race/%zu", task / 8);
    snprintf(text, sizeof text, "%zu", task);
    enum plm_code rc = plm_store_put_if_absent(store, path, text, strlen(text), err);
    if (rc == PLM_OK)
        atomic_fetch_add(&wins[task / 8], 1);
    return rc == PLM_CONFLICT ? PLM_OK : rc;
}

static void racing_writers_have_one_winner(void **state)
{
    (void)state;
    atomic_int wins[20] = {0};

    assert_int_equal(plm_parallel(ctx, 160, race_task, wins, NULL), PLM_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(wins[i], 1);
    assert_int_equal(strlen(names("race", 0)), 10 + 20 + 19); /* 20 names, no temporaries */
}

static void renames_files_and_directories(void **state)
{
    (void)state;
    struct plm_err err = {0};

    put_text("job/1/aux", "a");
    put_text("file", "f");
    assert_int_equal(plm_store_rename(store, "job/1/", "_indices/u/", NULL), PLM_OK);
    expect_text("_indices/u/aux", "a");
    assert_string_equal(names("job", 0), "");
    assert_int_equal(plm_store_rename(store, "file", "deep/er/file2", NULL), PLM_OK);
    expect_text("deep/er/file2", "f");
    assert_int_equal(plm_store_rename(store, "file", "x", &err), PLM_NOT_FOUND);
    expect_message(&err, PLM_NOT_FOUND, "cannot rename to");
}

static void lists_in_order(void **state)
{
    (void)state;
    struct plm_entries list = {0};

    put_text("d/b", "12");
    put_text("d/a", "1");
    put_text("d/\xc3\xa4", "");
    put_text("d/Z/x", "");
    assert_int_equal(symlink("nowhere", at("d/dangling")), 0);
    assert_string_equal(names("d", 0), "Z a b \xc3\xa4");
    assert_string_equal(names("d/", 0), "Z a b \xc3\xa4");
    assert_string_equal(names("d", 2), "Z a");
    assert_string_equal(names("none/such", 0), "");
    assert_string_equal(names("", 0), "d");
    assert_int_equal(plm_store_list(store, "d/b", 0, &list, NULL), PLM_NOT_FOUND);
    assert_int_equal(plm_store_list(store, "d", 0, &list, NULL), PLM_OK);
    assert_true(list.items[0].is_dir && !list.items[2].is_dir);
    assert_int_equal(list.items[2].size_bytes, 2);
    int64_t age_ms = (int64_t)plm_unix_millis() - list.items[2].modified_ms;
    assert_true(age_ms > -5000 && age_ms < 600000);
    plm_entries_reset(&list);
    plm_entries_reset(&list);
}

static void deletes(void **state)
{
    (void)state;

    put_text("x/y", "1");
    assert_int_equal(plm_store_delete(store, "x/y", NULL), PLM_OK);
    assert_int_equal(plm_store_delete(store, "x/y", NULL), PLM_OK);
    assert_int_equal(plm_store_delete(store, "x/y/z", NULL), PLM_OK);
    assert_int_equal(plm_store_delete(store, "x", NULL), PLM_IO); /* a directory */
    assert_int_equal(plm_store_delete_tree(store, "not/there", NULL), PLM_OK);
}

static void delete_tree_stays_in_the_tree(void **state)
{
    (void)state;
    char link_to[300];

    put_text("keep/file", "kept");
    put_text("tree/a/b/c", "1");
    put_text("tree/d", "2");
    assert_non_null(getcwd(link_to, sizeof link_to));
    snprintf(link_to + strlen(link_to), sizeof link_to - strlen(link_to), "/%s", at("keep"));
    assert_int_equal(symlink(link_to, at("tree/a/link")), 0);
    assert_int_equal(symlink(link_to, at("alias")), 0);
    assert_int_equal(plm_store_delete_tree(store, "tree/", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_tree(store, "alias", NULL), PLM_OK);
    expect_text("keep/file", "kept");
    assert_string_equal(names("", 0), "keep");
    assert_int_equal(plm_store_delete_tree(store, "keep/file", NULL), PLM_OK);
    assert_string_equal(names("keep", 0), "");
}

static void delete_empty_takes_nothing_with_it(void **state)
{
    (void)state;
    put_text("hull/inner/file", "x");
    assert_int_equal(plm_store_delete_empty(store, "hull", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_empty(store, "hull/inner", NULL), PLM_OK);
    expect_text("hull/inner/file", "x");
    assert_int_equal(plm_store_delete(store, "hull/inner/file", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_empty(store, "hull/inner", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_empty(store, "hull", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_empty(store, "hull", NULL), PLM_OK);
    assert_int_equal(plm_store_delete_empty(store, "", NULL), PLM_ARG);
}

static void delete_tree_is_bounded_in_depth(void **state)
{
    (void)state;
    char path[300] = "deep";
    struct plm_err err = {0};

    for (int i = 0; i < 70; i++)
        strcat(path, "/d");
    put_text(path, "bottom");
    assert_int_equal(plm_store_delete_tree(store, "deep", &err), PLM_IO);
    expect_message(&err, PLM_IO, "nested deeper");
    path[4 + 2 * 60] = '\0'; /* from there it is shallow */
    assert_int_equal(plm_store_delete_tree(store, path, NULL), PLM_OK);
    assert_int_equal(plm_store_delete_tree(store, "deep", NULL), PLM_OK);
}

/* ---- ranges ------------------------------------------------------------------------- */

static void reads_ranges(void **state)
{
    (void)state;
    enum { N = 100000 };
    uint8_t *bytes = malloc(N), *seen = calloc(1, N);
    struct plm_file *f = NULL;
    struct plm_err err = {0};

    for (size_t i = 0; i < N; i++)
        bytes[i] = (uint8_t)plm_mix64(7, i);
    assert_int_equal(plm_store_put(store, "data", bytes, N, NULL), PLM_OK);
    assert_int_equal(plm_file_open(store, "data", 0, &f, NULL), PLM_OK);
    assert_int_equal(plm_file_size(f), N);
    assert_non_null(strstr(plm_file_name(f), "/data"));

    struct plm_range ranges[] = {{N - 1, 1, seen}, {0, 5000, seen + 1}, {N, 0, seen}, {777, 3, seen + 5001}};
    uint64_t got = atomic_load(&ctx->bytes_read);

    assert_int_equal(plm_file_read_ranges(f, ranges, 4, NULL), PLM_OK);
    assert_true(seen[0] == bytes[N - 1]);
    assert_memory_equal(seen + 1, bytes, 5000);
    assert_memory_equal(seen + 5001, bytes + 777, 3);
    assert_int_equal(atomic_load(&ctx->bytes_read) - got, 5004);
    assert_int_equal(plm_file_read_ranges(f, NULL, 0, NULL), PLM_OK);
    assert_int_equal(plm_file_read(f, N - 1, 2, seen, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "needs 2 bytes at offset 99999, but the file ends at 100000");
    assert_int_equal(plm_file_read(f, UINT64_MAX, 1, seen, NULL), PLM_CORRUPT);
    assert_int_equal(plm_file_read(f, 1, SIZE_MAX, seen, NULL), PLM_CORRUPT);
    plm_file_close(f);
    plm_file_close(NULL);
    free(bytes);
    free(seen);
}

static void notices_files_that_are_too_short(void **state)
{
    (void)state;
    struct plm_file *f = NULL;
    struct plm_err err = {0};
    uint8_t seen[10];

    put_text("data", "0123456789");
    assert_int_equal(plm_file_open(store, "data", 11, &f, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "is 10 bytes long, expected 11");
    assert_null(f);
    assert_int_equal(plm_file_open(store, "data", 10, &f, NULL), PLM_OK);
    assert_int_equal(truncate(at("data"), 4), 0);
    assert_int_equal(plm_file_read(f, 0, 10, seen, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "ends at offset 4, expected 6 more bytes");
    plm_file_close(f);
}

/* Views are reads: the same bytes at any offset, in any place; writing to them stays in the region. */
static void views_are_like_reads(void **state)
{
    (void)state;
    enum { N = 1 << 20, LEN = 300000 };
    static const size_t froms[] = {0, 4096, 8192 + 100, 777}, places[] = {0, 100, 4096, 4096 + 777};
    uint8_t *bytes = malloc(N), *region = NULL, *seen = malloc(N);
    uint64_t used = atomic_load(&ctx->memory_used);
    struct plm_file *f = NULL;

    for (size_t i = 0; i < N; i++)
        bytes[i] = (uint8_t)plm_mix64(8, i);
    assert_int_equal(plm_store_put(store, "data", bytes, N, NULL), PLM_OK);
    assert_int_equal(plm_file_open(store, "data", 0, &f, NULL), PLM_OK);
    for (size_t i = 0; i < 16; i++) {
        size_t from = froms[i / 4], place = places[i % 4];
        uint64_t got = atomic_load(&ctx->bytes_read);

        assert_int_equal(plm_region_alloc(ctx, &region, N, 1, NULL), PLM_OK);
        assert_int_equal((uintptr_t)region % 4096, 0);
        assert_true(atomic_load(&ctx->memory_used) - used >= N);
        assert_int_equal(plm_file_view(f, from, LEN, region + place, NULL), PLM_OK);
        assert_int_equal(atomic_load(&ctx->bytes_read) - got, LEN);
        assert_memory_equal(region + place, bytes + from, LEN);
        for (size_t at = 0; at < N; at += at == place ? LEN : 1)
            assert_true(at == place || region[at] == 0);
        memset(region, 1, N);
        plm_region_free(ctx, region, N, 1);
    }
    assert_int_equal(plm_file_read(f, 0, N, seen, NULL), PLM_OK);
    assert_memory_equal(seen, bytes, N);
    plm_file_close(f);
    free(bytes);
    free(seen);
}

static void a_view_of_what_is_gone_is_an_error(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    uint8_t *bytes = calloc(1, N), *region = NULL;
    struct plm_file *f = NULL;
    struct plm_err err = {0};

    assert_int_equal(plm_store_put(store, "data", bytes, N, NULL), PLM_OK);
    assert_int_equal(plm_file_open(store, "data", 0, &f, NULL), PLM_OK);
    assert_int_equal(plm_region_alloc(ctx, &region, N, 1, NULL), PLM_OK);
    assert_int_equal(plm_file_view(f, 1, N, region, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "needs 1048576 bytes at offset 1, but the file ends at 1048576");
    assert_int_equal(truncate(at("data"), 500000), 0);
    assert_int_equal(plm_file_view(f, 0, N, region, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "ends at offset 500000, expected 548576 more bytes");
    memset(region, 1, N); /* all of it is there still */
    plm_region_free(ctx, region, N, 1);
    plm_file_close(f);
    free(bytes);
}

static void a_cancelled_context_stops_long_reads(void **state)
{
    (void)state;
    enum { N = 40 << 20 };
    uint8_t *bytes = malloc(N);
    struct plm_file *f = NULL;
    struct plm_writer *w = NULL;

    assert_int_equal(plm_writer_open(store, "big", N, NULL, NULL, &w, NULL), PLM_OK);
    assert_int_equal(plm_writer_finish(w, NULL), PLM_OK);
    assert_int_equal(plm_file_open(store, "big", 0, &f, NULL), PLM_OK);
    assert_int_equal(plm_file_read(f, 0, N, bytes, NULL), PLM_OK);
    plm_ctx_cancel(ctx);
    assert_int_equal(plm_file_read(f, 0, N, bytes, NULL), PLM_CANCELLED);
    plm_file_close(f);
    free(bytes);
}

/* ---- big objects ---------------------------------------------------------------------- */

struct pieces {
    struct plm_writer *writer;
    uint8_t *bytes;
    size_t piece, n;
};

static enum plm_code write_piece(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    (void)worker;
    struct pieces *p = arg;
    size_t offset = task * p->piece, n = plm_min_size(p->piece, p->n - offset);

    return plm_writer_write(p->writer, (unsigned)task + 1, offset, p->bytes + offset, n, err);
}

static void writes_pieces_from_threads(void **state)
{
    (void)state;
    enum { N = 300001 };
    struct pieces p = {.bytes = malloc(N), .piece = 20000, .n = N};
    uint8_t *seen = malloc(N);
    struct plm_file *f = NULL;

    for (size_t i = 0; i < N; i++)
        p.bytes[i] = (uint8_t)plm_mix64(3, i);
    assert_int_equal(plm_writer_open(store, "j/aux", N, NULL, NULL, &p.writer, NULL), PLM_OK);
    assert_int_equal(plm_parallel(ctx, 16, write_piece, &p, NULL), PLM_OK);
    assert_int_equal(plm_writer_finish(p.writer, NULL), PLM_OK);
    assert_int_equal(plm_file_open(store, "j/aux", N, &f, NULL), PLM_OK);
    assert_int_equal(plm_file_size(f), N);
    assert_int_equal(plm_file_read(f, 0, N, seen, NULL), PLM_OK);
    assert_memory_equal(seen, p.bytes, N);
    plm_file_close(f);
    free(p.bytes);
    free(seen);
}

/* Pages of the file that the cache holds. */
static size_t cached_pages(const char *path, size_t n)
{
    unsigned char resident[4096];
    int fd = open(path, O_RDONLY);
    void *pages = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    size_t count = 0;

    assert_true(pages != MAP_FAILED && n / 4096 < sizeof resident);
    assert_int_equal(mincore(pages, n, resident), 0);
    for (size_t i = 0; i < (n + 4095) / 4096; i++)
        count += resident[i] & 1;
    munmap(pages, n);
    close(fd);
    return count;
}

static bool has_direct_writes(const char *path)
{
    int fd = open(path, O_WRONLY | O_DIRECT);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Pieces that begin and end anywhere, with address and offset in agreement (shift 0) and not. */
static void writes_and_reads_past_the_cache(void **state)
{
    (void)state;
    enum { N = (7 << 20) + 777, PIECE = (1 << 20) + 1234 };

    for (size_t shift = 0; shift < 2; shift++) {
        size_t room_bytes = N + 4096 - N % 4096 + 4096;
        uint8_t *room = aligned_alloc(4096, room_bytes), *seen_room = aligned_alloc(4096, room_bytes);
        uint8_t *seen = seen_room + shift;
        struct pieces p = {.bytes = room + shift, .piece = PIECE, .n = N};
        struct plm_file *f = NULL;
        char path[512];

        for (size_t i = 0; i < N; i++)
            p.bytes[i] = (uint8_t)plm_mix64(5 + shift, i);
        snprintf(path, sizeof path, "%s/direct", root);
        assert_int_equal(plm_writer_open(store, "direct", N, NULL, NULL, &p.writer, NULL), PLM_OK);
        plm_writer_set_direct(p.writer);
        assert_int_equal(plm_parallel(ctx, N / PIECE + 1, write_piece, &p, NULL), PLM_OK);
        assert_int_equal(plm_writer_finish(p.writer, NULL), PLM_OK);
        size_t edges = 2 * (N / PIECE + 1);
        if (has_direct_writes(path))
            assert_true(shift ? cached_pages(path, N) > N / 4096 / 2 : cached_pages(path, N) <= edges);
        assert_int_equal(plm_file_open(store, "direct", N, &f, NULL), PLM_OK);
        plm_file_set_direct(f);
        for (size_t at = 0, n; at < N; at += n) {
            n = plm_min_size(PIECE, N - at);
            assert_int_equal(plm_file_read(f, at, n, seen + at, NULL), PLM_OK);
        }
        assert_memory_equal(seen, p.bytes, N);
        if (has_direct_writes(path) && shift == 0)
            assert_true(cached_pages(path, N) < N / 4096 / 2);
        assert_int_equal(plm_file_read(f, N - 1000, 1001, seen, NULL), PLM_CORRUPT);
        plm_file_close(f);
        free(room);
        free(seen_room);
    }
}

/* Only what is asked for, and only when reads have been slow. */
static void reads_ahead_from_a_slow_disk(void **state)
{
    (void)state;
    enum { N = 2 << 20, FIRST = 512 << 10, LEN = 256 << 10, PAGE = 4096 };
    uint8_t *bytes = calloc(N, 1);
    struct plm_range range = {FIRST, LEN, NULL};
    struct plm_file *f = NULL;
    size_t before, seen = 0;
    char path[512];

    snprintf(path, sizeof path, "%s/ahead", root);
    assert_int_equal(plm_store_put(store, "ahead", bytes, N, NULL), PLM_OK);
    int fd = open(path, O_RDONLY);
    assert_int_equal(fsync(fd), 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    before = cached_pages(path, N);
    assert_int_equal(plm_file_open(store, "ahead", N, &f, NULL), PLM_OK);
    atomic_store(&ctx->reads_wait, 0);
    plm_file_ahead(f, &range, 1);
    usleep(20000);
    assert_int_equal(cached_pages(path, N), before);
    atomic_store(&ctx->reads_wait, 1);
    plm_file_ahead(f, &range, 1);
    for (int i = 0; i < 500 && seen < LEN / PAGE; i++) {
        usleep(10000);
        seen = cached_pages(path, N);
    }
    if (before == 0) /* a file system in memory has them all, always */
        assert_int_equal(seen, LEN / PAGE);
    plm_file_close(f);
    free(bytes);
}

static void joins_a_big_object_by_token(void **state)
{
    (void)state;
    struct plm_writer *a = NULL, *b = NULL;
    char *token = NULL;
    struct plm_err err = {0};

    assert_int_equal(plm_writer_open(store, "big", 6, "local", NULL, &b, NULL), PLM_NOT_FOUND);
    assert_int_equal(plm_writer_open(store, "big", 6, NULL, &token, &a, NULL), PLM_OK);
    assert_int_equal(plm_writer_write(a, 1, 0, "abc", 3, NULL), PLM_OK);
    plm_writer_detach(a);
    assert_int_equal(plm_writer_open(store, "big", 7, token, NULL, &b, &err), PLM_CORRUPT);
    expect_message(&err, PLM_CORRUPT, "is 6 bytes long, expected 7");
    assert_int_equal(plm_writer_open(store, "big", 6, "s3-token", NULL, &b, NULL), PLM_ARG);
    assert_null(b);
    assert_int_equal(plm_writer_open(store, "big", 6, token, NULL, &b, NULL), PLM_OK);
    assert_int_equal(plm_writer_write(b, 2, 3, "def", 3, NULL), PLM_OK);
    assert_int_equal(plm_writer_finish(b, NULL), PLM_OK);
    expect_text("big", "abcdef");
    plm_free(ctx, token);
}

static void a_writer_keeps_to_its_promise(void **state)
{
    (void)state;
    struct plm_writer *w = NULL;

    assert_int_equal(plm_writer_open(store, "big", 4, NULL, NULL, &w, NULL), PLM_OK);
    assert_int_equal(plm_writer_write(w, 1, 2, "abc", 3, NULL), PLM_ARG);
    assert_int_equal(plm_writer_write(w, 1, 5, "", 0, NULL), PLM_ARG);
    assert_int_equal(plm_writer_write(w, 1, UINT64_MAX, "a", 1, NULL), PLM_ARG);
    assert_int_equal(plm_writer_write(w, 0, 0, "a", 1, NULL), PLM_ARG);
    assert_int_equal(plm_writer_write(w, 10001, 0, "a", 1, NULL), PLM_OK); /* only S3 counts */
    plm_writer_abort(w);
    plm_writer_abort(NULL);
    plm_writer_detach(NULL);
    assert_string_equal(names("", 0), "");
    assert_int_equal(plm_writer_open(store, "none", 0, NULL, NULL, &w, NULL), PLM_OK);
    assert_int_equal(plm_writer_finish(w, NULL), PLM_OK);
    expect_text("none", "");
}

/* A new writer takes the place of an old file; who reads the old one goes on reading it. */
static void a_writer_replaces(void **state)
{
    (void)state;
    struct plm_writer *w = NULL;
    struct plm_file *old = NULL;
    char seen[3];

    put_text("f", "old");
    assert_int_equal(plm_file_open(store, "f", 0, &old, NULL), PLM_OK);
    assert_int_equal(plm_writer_open(store, "f", 3, NULL, NULL, &w, NULL), PLM_OK);
    assert_int_equal(plm_writer_write(w, 1, 0, "new", 3, NULL), PLM_OK);
    assert_int_equal(plm_writer_finish(w, NULL), PLM_OK);
    expect_text("f", "new");
    assert_int_equal(plm_file_read(old, 0, 3, seen, NULL), PLM_OK);
    assert_memory_equal(seen, "old", 3);
    plm_file_close(old);
}

static void a_full_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    struct plm_writer *w = NULL;
    struct plm_err err = {0};
    struct rlimit limit, small;

    /* More than any disk has, then more than a file may have. */
    assert_int_equal(plm_writer_open(store, "huge", (uint64_t)1 << 62, NULL, NULL, &w, &err), PLM_IO);
    expect_message(&err, PLM_IO, "/huge: ");
    assert_true(err.sys_errno == ENOSPC || err.sys_errno == EFBIG);
    assert_int_equal(plm_writer_open(store, "huge", UINT64_MAX, NULL, NULL, &w, &err), PLM_ARG);
    /* A put that runs into a limit half-way. */
    put_text("f", "old");
    char *bytes = calloc(1, 100000);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 50000;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum plm_code rc = plm_store_put(store, "f", bytes, 100000, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    free(bytes);
    assert_int_equal(rc, PLM_IO);
    expect_message(&err, PLM_IO, "at offset 50000");
    assert_null(w);
    assert_string_equal(names("", 0), "f");
    expect_text("f", "old");
}

/* ---- locks ------------------------------------------------------------------------------ */

static void a_lock_names_its_holder(void **state)
{
    (void)state;
    struct plm_lock *a = NULL, *b = NULL;
    struct plm_err err = {0};
    char text[40];

    assert_int_equal(plm_store_lock(store, "job/lock", &a, NULL), PLM_OK);
    assert_int_equal(plm_store_lock(store, "job/lock", &b, &err), PLM_CONFLICT);
    snprintf(text, sizeof text, "held by process %ld", (long)getpid());
    expect_message(&err, PLM_CONFLICT, text);
    assert_null(b);
    plm_store_unlock(a);
    assert_int_equal(plm_store_lock(store, "job/lock", &b, NULL), PLM_OK);
    plm_store_unlock(b);
    plm_store_unlock(NULL);
}

static void a_lock_ends_with_its_process(void **state)
{
    (void)state;
    struct plm_lock *lock = NULL;
    struct plm_err err = {0};
    char text[40], byte = 0;
    int ready[2];

    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        byte = plm_store_lock(store, "lock", &lock, NULL) == PLM_OK;
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    enum plm_code rc = plm_store_lock(store, "lock", &lock, &err);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(byte, 1);
    assert_int_equal(rc, PLM_CONFLICT);
    snprintf(text, sizeof text, "held by process %ld", (long)child);
    expect_message(&err, PLM_CONFLICT, text);
    assert_int_equal(plm_store_lock(store, "lock", &lock, NULL), PLM_OK);
    plm_store_unlock(lock);
}

/* ---- each I/O call and each allocation fails once ----------------------------------------- */

/* One life: true when it went through. Whatever fails, no reader may see half an object. */
static enum plm_code one_life(void)
{
    enum plm_code rc = PLM_OK;
    struct plm_writer *w = NULL;
    struct plm_file *f = NULL;
    struct plm_lock *lock = NULL;
    struct plm_entries list = {0};
    struct plm_buf buf;
    char *token = NULL;
    uint64_t size;

    plm_buf_init(&buf, ctx, 100);
    PLM_TRY(plm_store_lock(store, "t/lock", &lock, NULL));
    PLM_TRY(plm_store_put(store, "t/p", "new", 3, NULL));
    PLM_TRY(plm_store_put_if_absent(store, "t/v/1", "whole", 5, NULL));
    PLM_TRY(plm_writer_open(store, "t/j/big", 4, NULL, &token, &w, NULL));
    PLM_TRY(plm_writer_write(w, 1, 0, "abcd", 4, NULL));
    PLM_TRY(plm_writer_finish(w, NULL));
    w = NULL;
    PLM_TRY(plm_store_rename(store, "t/j", "t/i/u", NULL));
    PLM_TRY(plm_store_get(store, "t/i/u/big", &buf, NULL));
    PLM_TRY(plm_file_open(store, "t/p", 3, &f, NULL));
    PLM_TRY(plm_store_size(store, "t/p", &size, NULL));
    PLM_TRY(plm_store_list(store, "t", 0, &list, NULL));
    PLM_TRY(plm_store_delete(store, "t/p", NULL));
    PLM_TRY(plm_store_delete_tree(store, "t", NULL));
done:
    plm_writer_abort(w);
    plm_file_close(f);
    plm_entries_reset(&list);
    plm_buf_reset(&buf);
    plm_store_unlock(lock);
    plm_free(ctx, token);
    return rc;
}

static void expect_no_halves(void)
{
    struct stat st;

    if (stat(at("t/p"), &st) == 0)
        assert_int_equal(st.st_size, 3);
    if (stat(at("t/v/1"), &st) == 0)
        assert_int_equal(st.st_size, 5);
    assert_null(strchr(names("t", 0), '#'));
    assert_null(strchr(names("t/v", 0), '#'));
}

static int fail_each(atomic_long *countdown)
{
    for (int n = 1; n < 1000; n++) {
        uint64_t used = atomic_load(&ctx->memory_used);

        atomic_store(countdown, n);
        enum plm_code rc = one_life();
        bool fired = atomic_load(countdown) <= 0;
        atomic_store(countdown, 0);
        assert_int_equal(atomic_load(&ctx->memory_used), used);
        expect_no_halves();
        assert_int_equal(plm_store_delete_tree(store, "t", NULL), PLM_OK);
        if (!fired) {
            assert_int_equal(rc, PLM_OK);
            return n - 1;
        }
        assert_true(rc == PLM_IO || rc == PLM_NOMEM || rc == PLM_RETRY);
    }
    return -1;
}

static void survives_each_failing_io_call(void **state)
{
    (void)state;
    int n = fail_each(&ctx->faults.io_countdown);

    assert_true(n > 25);
}

static void survives_each_failing_allocation(void **state)
{
    (void)state;
    int n = fail_each(&ctx->faults.alloc_countdown);

    assert_true(n > 25);
}

/* Once linked, a manifest is there for everybody: then no error may say that it is not. */
static void a_late_failure_is_an_open_outcome(void **state)
{
    (void)state;
    int n_open = 0;

    put_text("v/0", ""); /* the directory */
    for (int n = 1; n < 20; n++) {
        struct stat st;
        struct plm_err err = {0};

        atomic_store(&ctx->faults.io_countdown, n);
        enum plm_code rc = plm_store_put_if_absent(store, "v/1", "x", 1, &err);
        atomic_store(&ctx->faults.io_countdown, 0);
        bool there = stat(at("v/1"), &st) == 0;
        assert_int_equal(there, rc == PLM_OK || rc == PLM_RETRY);
        assert_int_equal(rc, err.code);
        n_open += rc == PLM_RETRY;
        assert_int_equal(plm_store_delete(store, "v/1", NULL), PLM_OK);
    }
    assert_int_equal(n_open, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(opens_each_kind_of_local_location),
        TEST(refuses_other_locations_by_name),
        TEST(opens_roots_from_roots),
        TEST(refuses_paths_that_leave_the_root),
        TEST(puts_and_gets),
        TEST(get_appends_and_keeps_to_the_ceiling),
        TEST(says_what_is_missing_or_no_file),
        TEST(put_if_absent_lets_one_win),
        TEST(leftovers_block_nobody),
        TEST(racing_writers_have_one_winner),
        TEST(renames_files_and_directories),
        TEST(lists_in_order),
        TEST(deletes),
        TEST(delete_tree_stays_in_the_tree),
        TEST(delete_empty_takes_nothing_with_it),
        TEST(delete_tree_is_bounded_in_depth),
        TEST(reads_ranges),
        TEST(notices_files_that_are_too_short),
        TEST(views_are_like_reads),
        TEST(a_view_of_what_is_gone_is_an_error),
        TEST(a_cancelled_context_stops_long_reads),
        TEST(writes_pieces_from_threads),
        TEST(writes_and_reads_past_the_cache),
        TEST(reads_ahead_from_a_slow_disk),
        TEST(joins_a_big_object_by_token),
        TEST(a_writer_keeps_to_its_promise),
        TEST(a_writer_replaces),
        TEST(a_full_disk_leaves_nothing_behind),
        TEST(a_lock_names_its_holder),
        TEST(a_lock_ends_with_its_process),
        TEST(survives_each_failing_io_call),
        TEST(survives_each_failing_allocation),
        TEST(a_late_failure_is_an_open_outcome),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
