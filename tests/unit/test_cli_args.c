/* test_cli_args.c - options, sizes, ranges, storage options and .npy files of the command. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* The command is no library: its files are compiled in. */
#include "cli/args.c"
#include "cli/npy.c"
#include "cli/storage.c"

#define AT(field) offsetof(struct plm_cli_settings, field)

static const struct plm_option options[] = {
    {.name = "column", .kind = PLM_OPTION_TEXT, .at = AT(column), .value = "C", .is_required = true,
     .help = "a column"},
    {.name = "num-partitions", .kind = PLM_OPTION_COUNT, .at = AT(num_partitions), .value = "N",
     .min = 1, .max = 1000, .help = "how many"},
    {.name = "metric", .kind = PLM_OPTION_CHOICE, .at = AT(metric), .choices = "l2|cosine|dot",
     .help = "which"},
    {.name = "k", .letter = 'k', .kind = PLM_OPTION_COUNT, .at = AT(k), .value = "N", .min = 1,
     .max = 100, .help = "how many"},
    {.name = "row", .kind = PLM_OPTION_COUNT, .at = AT(row), .given_at = AT(has_row), .value = "N",
     .max = UINT64_MAX, .help = "which"},
    {.kind = PLM_OPTION_END}};
static const struct plm_option more_options[] = {
    {.name = "memory-budget", .kind = PLM_OPTION_SIZE, .at = AT(memory_budget), .value = "SIZE",
     .help = "bytes"},
    {.name = "replace", .kind = PLM_OPTION_FLAG, .at = AT(replace), .help = "do"},
    {.name = "no-replace", .kind = PLM_OPTION_CLEAR, .at = AT(replace), .help = "do not"},
    {.name = "storage-option", .kind = PLM_OPTION_LIST, .at = AT(storage), .value = "KEY=VALUE",
     .help = "more"},
    {.name = "help", .letter = 'h', .kind = PLM_OPTION_FLAG, .at = AT(help), .help = "help"},
    {.kind = PLM_OPTION_END}};
static const struct plm_command command = {
    .name = "try", .summary = "for tests", .takes_table = true, .tables = {options, more_options}};

static enum plm_code parse(struct plm_cli_settings *s, struct plm_err *err, char **argv)
{
    int argc = 0;

    memset(s, 0, sizeof *s);
    while (argv[argc])
        argc++;
    enum plm_code rc = plm_args_parse(&command, argc, argv, s, err);
    return rc;
}
#define PARSE(...) parse(&s, &err, (char *[]){__VA_ARGS__, NULL})

static void options_are_taken(void **state)
{
    (void)state;
    struct plm_cli_settings s;
    struct plm_err err;

    assert_int_equal(PARSE("t", "--column", "c", "--num-partitions=7", "-k", "3", "--metric", "Cosine",
                           "--memory-budget", "4GiB", "--replace", "--no-replace"), PLM_OK);
    assert_string_equal(s.table, "t");
    assert_string_equal(s.column, "c");
    assert_int_equal(s.num_partitions, 7);
    assert_int_equal(s.k, 3);
    assert_string_equal(s.metric, "Cosine");
    assert_int_equal(s.memory_budget, (uint64_t)4 << 30);
    assert_false(s.replace);
    assert_false(s.has_row);

    assert_int_equal(PARSE("--column", "--x", "-k5", "--row=0", "--", "-t"), PLM_OK);
    assert_string_equal(s.column, "--x");
    assert_int_equal(s.k, 5);
    assert_true(s.has_row);
    assert_string_equal(s.table, "-t");

    assert_int_equal(PARSE("t", "--column=a=b", "--storage-option", "x=1", "--storage-option=y=2"),
                     PLM_OK);
    assert_string_equal(s.column, "a=b");
    assert_int_equal(s.storage.n, 2);
    assert_string_equal(s.storage.items[1], "y=2");
    free(s.storage.items);

    assert_int_equal(PARSE("--help"), PLM_OK); /* nothing else is required then */
    assert_true(s.help);
}

static void wrong_options_are_told(void **state)
{
    (void)state;
    struct plm_cli_settings s;
    struct plm_err err;

    assert_int_equal(PARSE("t", "--num-partition", "3"), PLM_ARG);
    assert_non_null(strstr(err.message, "did you mean --num-partitions?"));
    assert_int_equal(PARSE("t", "--partitions=3"), PLM_ARG);
    assert_non_null(strstr(err.message, "--num-partitions"));
    assert_int_equal(PARSE("t", "--qqqqqqqq"), PLM_ARG);
    assert_non_null(strstr(err.message, "see pilum try --help"));
    assert_int_equal(PARSE("t", "-z"), PLM_ARG);
    assert_int_equal(PARSE("t", "--column"), PLM_ARG);
    assert_non_null(strstr(err.message, "needs a value"));
    assert_int_equal(PARSE("t", "--column="), PLM_ARG);
    assert_int_equal(PARSE("t", "--column", "c", "--metric", "manhattan"), PLM_ARG);
    assert_non_null(strstr(err.message, "l2|cosine|dot"));
    assert_int_equal(PARSE("t", "--column", "c", "--metric", "l"), PLM_ARG);
    assert_int_equal(PARSE("t", "--column", "c", "--replace=yes"), PLM_ARG);
    assert_int_equal(PARSE("--column", "c"), PLM_ARG);
    assert_non_null(strstr(err.message, "no table"));
    assert_int_equal(PARSE("t", "u", "--column", "c"), PLM_ARG);
    assert_int_equal(PARSE("", "--column", "c"), PLM_ARG);
    assert_int_equal(PARSE("t"), PLM_ARG);
    assert_string_equal(err.message, "--column C is required");
}

static void wrong_numbers_are_told(void **state)
{
    (void)state;
    static char *const bad[] = {"0", "1001", "", "-1", "+1", "1.5", "1e3", "0x10", "7 ", "seven",
                                "18446744073709551616"};
    struct plm_cli_settings s;
    struct plm_err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(PARSE("t", "--column", "c", "--num-partitions", bad[i]), PLM_ARG);
        assert_non_null(strstr(err.message, "--num-partitions"));
    }
    assert_int_equal(PARSE("t", "--column", "c", "--row", "18446744073709551615"), PLM_OK);
    assert_true(s.row == UINT64_MAX);
    assert_int_equal(PARSE("t", "--column", "c", "--memory-budget", "0"), PLM_ARG);
    assert_int_equal(PARSE("t", "--column", "a\nb", "--metric", "x\ny"), PLM_ARG);
    assert_null(strchr(err.message, '\n'));
}

static void sizes_have_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"1", 1},           {"4096", 4096},       {"1KiB", 1024},     {"512MiB", 536870912},
                {"4GiB", 4294967296}, {"1.5 GiB", 1610612736}, {"2tib", 2199023255552},
                {"1kB", 1000},      {"3G", 3221225472},   {"7b", 7}};
    static const char *const bad[] = {"", "GiB", "-1", "1XB", "1GiBs", "1..5", ".", "1e9",
                                      "99999999999999999999", "9999999TiB", "0x10"};
    uint64_t bytes = 0;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(plm_size_parse(good[i].text, &bytes));
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(plm_size_parse(bad[i], &bytes));
}

static void ranges_are_sorted_and_distinct(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "1,", ",1", "1-", "-1", "3-1", "1,,2", "a", "1 2",
                                      "0-99999999999", "18446744073709551616", "1-2-3"};
    struct plm_err err;
    uint64_t *items = NULL;
    size_t n = 0;

    assert_int_equal(plm_ranges_parse("7-9,0,3,8,3", &items, &n, &err), PLM_OK);
    assert_int_equal(n, 5);
    static const uint64_t expected[] = {0, 3, 7, 8, 9};
    assert_memory_equal(items, expected, sizeof expected);
    free(items);
    items = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(plm_ranges_parse(bad[i], &items, &n, &err), PLM_ARG);
        assert_null(items);
    }
}

static void help_names_every_option(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);

    plm_args_help(&command, to);
    fclose(to);
    for (size_t i = 0; options[i].name; i++)
        assert_non_null(strstr(text, options[i].name));
    for (size_t i = 0; more_options[i].name; i++)
        assert_non_null(strstr(text, more_options[i].name));
    assert_non_null(strstr(text, "l2|cosine|dot"));
    free(text);
}

/* ---- storage options ------------------------------------------------------------------------ */

static void storage_options_are_pairs(void **state)
{
    (void)state;
    char path[] = "/tmp/pilum-test-XXXXXX", text[80];
    int file = mkstemp(path);
    const char *items[] = {"a=b=c", text, "empty="};
    struct plm_cli_list list = {items, 3};
    char **pairs = NULL;
    struct plm_err err;

    assert_true(file >= 0);
    assert_int_equal(write(file, "secret\r\n", 8), 8);
    close(file);
    snprintf(text, sizeof text, "key=@%s", path);
    assert_int_equal(plm_storage_parse(&list, &pairs, &err), PLM_OK);
    assert_string_equal(pairs[0], "a");
    assert_string_equal(pairs[1], "b=c");
    assert_string_equal(pairs[2], "key");
    assert_string_equal(pairs[3], "secret");
    assert_string_equal(pairs[4], "empty");
    assert_string_equal(pairs[5], "");
    assert_null(pairs[6]);
    plm_storage_reset(pairs);
    pairs = NULL;
    unlink(path);
    assert_int_equal(plm_storage_parse(&list, &pairs, &err), PLM_NOT_FOUND); /* the file is gone */
    assert_null(pairs);
    items[1] = "hunter2"; /* no key: the text is not shown */
    assert_int_equal(plm_storage_parse(&list, &pairs, &err), PLM_ARG);
    assert_null(strstr(err.message, "hunter2"));
    items[1] = "=x";
    assert_int_equal(plm_storage_parse(&list, &pairs, &err), PLM_ARG);
}

/* ---- .npy ------------------------------------------------------------------------------------- */

static enum plm_code parse_npy(const char *dict, unsigned version, size_t data_bytes,
                               struct plm_npy *out, struct plm_err *err)
{
    uint8_t bytes[512] = "\x93NUMPY";
    size_t n = strlen(dict), at = version == 1 ? 10 : 12;

    bytes[6] = (uint8_t)version;
    bytes[8] = (uint8_t)n;
    memcpy(bytes + at, dict, n);
    return plm_npy_parse(bytes, at + n + data_bytes, out, err);
}

static void npy_headers_are_read(void **state)
{
    (void)state;
    struct plm_npy npy = {0};
    struct plm_err err;

    assert_int_equal(parse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n", 1, 24,
                               &npy, &err), PLM_OK);
    assert_int_equal(npy.element, 4);
    assert_int_equal(npy.n_dims, 2);
    assert_int_equal(npy.shape[0], 2);
    assert_int_equal(npy.shape[1], 3);
    assert_int_equal(npy.data_bytes, 24);
    assert_int_equal(parse_npy("{\"shape\": (5,), \"descr\": \"<f2\", \"fortran_order\": True}", 2, 10,
                               &npy, &err), PLM_OK);
    assert_int_equal(npy.element, 2);
    assert_int_equal(npy.n_dims, 1);
    assert_int_equal(parse_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,0,9)}", 3, 0,
                               &npy, &err), PLM_OK);
    assert_int_equal(npy.n_dims, 3);
}

static void wrong_npy_files_are_told(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{'descr': '<i4', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2,3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,2,3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (7,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296,4294967302)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6",
        "{'descr': '<f4",
        "",
    };
    struct plm_npy npy = {.element = 77};
    struct plm_err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse_npy(bad[i], 1, 24, &npy, &err), PLM_ARG);
    assert_int_equal(parse_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", 4, 24, &npy,
                               &err), PLM_ARG);
    assert_int_equal(plm_npy_parse((const uint8_t *)"\x93NUMPY", 6, &npy, &err), PLM_ARG);
    assert_int_equal(plm_npy_parse((const uint8_t *)"\x93NUMPY\1\0\377\377{}", 12, &npy, &err), PLM_ARG);
    assert_int_equal(npy.element, 77);
    assert_int_equal(plm_npy_read("no/such/file.npy", &npy, &err), PLM_NOT_FOUND);
    assert_int_equal(plm_npy_read("/", &npy, &err), PLM_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_taken),        cmocka_unit_test(wrong_options_are_told),
        cmocka_unit_test(wrong_numbers_are_told),   cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(ranges_are_sorted_and_distinct), cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(storage_options_are_pairs), cmocka_unit_test(npy_headers_are_read),
        cmocka_unit_test(wrong_npy_files_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
