/* cmd_verify.c - pilum verify, and pilum optimize, which is not built yet. */
#include <inttypes.h>
#include <stddef.h>

#include "cli/cli.h"

#define AT(field) offsetof(struct plm_cli_settings, field)

static const struct plm_option verify_options[] = {
    {.name = "index", .kind = PLM_OPTION_TEXT, .at = AT(index), .value = "NAME",
     .is_required = true, .help = "which index"},
    {.name = "full", .kind = PLM_OPTION_FLAG, .at = AT(full),
     .help = "check every row, not a sample"},
    {.name = "queries", .kind = PLM_OPTION_COUNT, .at = AT(queries), .value = "N", .min = 0,
     .max = 1000000, .help = "queries for the recall estimate (default 200), 0 = none"},
    {.kind = PLM_OPTION_END}};

/* Problems found are a result, so they are printed; the status is 1 all the same. */
static enum plm_code run_verify(struct plm_cli *cli, struct plm_err *err)
{
    const struct plm_cli_settings *s = &cli->settings;
    struct plm_verify_options options;
    uint64_t n_problems = 0;
    char *json = NULL;
    enum plm_code rc;

    plm_verify_options_default(&options);
    options.index = s->index;
    options.full = s->full;
    options.queries = (uint32_t)s->queries;
    if ((rc = plm_cli_open(cli, err)) ||
        (rc = plm_verify_index(cli->ctx, &cli->table, &options, &json, &n_problems, err)))
        return rc;
    plm_display_end(&cli->display);
    if (s->json || !plm_human_verify(stdout, json))
        puts(json);
    plm_string_free(json);
    if (n_problems)
        return plm_cli_fail(err, PLM_CORRUPT, "verify: %" PRIu64 " problem%s in index \"%s\"; build "
                            "it anew with pilum create-index", n_problems,
                            n_problems == 1 ? "" : "s", s->index);
    return PLM_OK;
}

const struct plm_command plm_cmd_verify = {
    .name = "verify",
    .summary = "check an index against its table",
    .takes_table = true,
    .tables = {verify_options, plm_table_options, plm_common_options},
    .run = run_verify,
    .notes = "Exit status 1 when a problem is found; the report is printed then too."};

static const struct plm_option optimize_options[] = {
    {.name = "index", .kind = PLM_OPTION_TEXT, .at = AT(index), .value = "NAME",
     .is_required = true, .help = "which index"},
    {.kind = PLM_OPTION_END}};

static enum plm_code run_optimize(struct plm_cli *cli, struct plm_err *err)
{
    (void)cli;
    return plm_cli_fail(err, PLM_UNSUPPORTED, "optimize is not built yet; pilum create-index builds "
                        "the whole index anew, and pylance's optimize_indices() extends it");
}

const struct plm_command plm_cmd_optimize = {
    .name = "optimize",
    .summary = "index the fragments that are not covered (not built yet)",
    .takes_table = true,
    .tables = {optimize_options, plm_table_options, plm_common_options},
    .run = run_optimize};
