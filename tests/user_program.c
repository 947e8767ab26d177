/* user_program.c - what a user of the installed library may write: an index built, asked, checked.
 * Knows nothing of pilum but <pilum/pilum.h>. `user_program TABLE`, a table with a column "vec" of
 * four floats; prints what was not as the header says and ends with 1.
 */
#include <stdio.h>
#include <string.h>

#include <pilum/pilum.h>

static int n_wrong;

static void expect(int is_so, const char *what, const struct plm_err *err)
{
    if (is_so)
        return;
    n_wrong++;
    fprintf(stderr, "not so: %s (%s: %s)\n", what, plm_code_name(err->code), err->message);
}

static void count_calls(void *user, const struct plm_progress *progress)
{
    *(int *)user += progress->phase != NULL;
}

static void build(struct plm_ctx *ctx, const struct plm_table_ref *table)
{
    struct plm_build_options options;
    struct plm_err err = {0};
    char *report = NULL;

    plm_build_options_default(&options);
    options.column = "vec";
    options.type = "ivf_flat";
    options.num_partitions = 2;
    expect(plm_plan_index(ctx, table, &options, &report, &err) == PLM_OK && report, "plan", &err);
    plm_string_free(report);
    report = NULL;
    expect(plm_create_index(ctx, table, &options, &report, &err) == PLM_OK, "create", &err);
    expect(report && strstr(report, "\"vec_idx\""), "a report that names the index", &err);
    plm_string_free(report);

    options.replace = false;
    report = NULL;
    expect(plm_create_index(ctx, table, &options, &report, &err) == PLM_CONFLICT, "a name taken", &err);
    expect(report == NULL, "no report after an error", &err);
    memset(&options, 0, sizeof options);
    expect(plm_create_index(ctx, table, &options, NULL, &err) == PLM_ARG, "options not filled", &err);
    expect(plm_create_index(ctx, table, &options, NULL, NULL) == PLM_ARG, "no place for errors", &err);
}

static void ask(struct plm_ctx *ctx, const struct plm_table_ref *table)
{
    static const float query[4] = {0.5f, -0.25f, 1.0f, 0.0f};
    struct plm_search_options options;
    struct plm_hits found = {0}, exact = {0};
    struct plm_err err = {0};

    plm_search_options_default(&options);
    options.column = "vec";
    options.vector = query;
    options.dim = 4;
    options.k = 5;
    expect(plm_search(ctx, table, &options, &found, &err) == PLM_OK && found.n == 5, "search", &err);
    options.exact = true;
    expect(plm_search(ctx, table, &options, &exact, &err) == PLM_OK && exact.n == 5, "exact", &err);
    expect(found.n == exact.n && memcmp(found.rowids, exact.rowids, 5 * sizeof *found.rowids) == 0,
           "all partitions probed: the exact answer", &err);
    plm_hits_reset(&found);
    plm_hits_reset(&found);
    plm_hits_reset(&exact);
    options.struct_bytes = 0;
    expect(plm_search(ctx, table, &options, &found, &err) == PLM_ARG, "options not filled", &err);
    options.struct_bytes = sizeof options;
    options.dim = 3;
    expect(plm_search(ctx, table, &options, &found, &err) == PLM_DATA && found.n == 0,
           "a query of another dimension", &err);
}

static void check(struct plm_ctx *ctx, const struct plm_table_ref *table)
{
    struct plm_verify_options options;
    struct plm_err err = {0};
    uint64_t n_problems = 77;
    char *json = NULL;

    plm_verify_options_default(&options);
    options.index = "vec_idx";
    options.full = true;
    expect(plm_verify_index(ctx, table, &options, &json, &n_problems, &err) == PLM_OK, "verify", &err);
    expect(n_problems == 0, "an index without problems", &err);
    plm_string_free(json);
    json = NULL;
    expect(plm_inspect(ctx, table, NULL, &json, &err) == PLM_OK && strstr(json, "IVF_FLAT"), "inspect",
           &err);
    plm_string_free(json);
    json = NULL;
    expect(plm_gc(ctx, table, true, &json, &err) == PLM_OK && json, "gc", &err);
    plm_string_free(json);
    json = NULL;
    expect(plm_version_json(ctx, &json, &err) == PLM_OK && strstr(json, PLM_VERSION), "version", &err);
    plm_string_free(json);
    plm_string_free(NULL);
}

int main(int argc, char **argv)
{
    struct plm_table_ref table = {.uri = argc > 1 ? argv[1] : ""};
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;
    struct plm_err err = {0};
    int n_calls = 0;

    plm_ctx_options_default(&options);
    options.threads = 2;
    options.progress = count_calls;
    options.user = &n_calls;
    if (plm_ctx_create(&options, &ctx, &err) != PLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    build(ctx, &table);
    ask(ctx, &table);
    check(ctx, &table);
    expect(n_calls > 0, "progress", &err);
    plm_ctx_cancel(ctx);
    expect(plm_inspect(ctx, &table, NULL, &(char *){NULL}, &err) == PLM_CANCELLED, "cancelled", &err);
    plm_ctx_destroy(ctx);
    plm_ctx_destroy(NULL);
    return n_wrong > 0;
}
