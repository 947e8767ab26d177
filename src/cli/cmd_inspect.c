/* cmd_inspect.c - pilum inspect. */
#include <stddef.h>

#include "cli/cli.h"

static const struct plm_option inspect_options[] = {
    {.name = "index", .kind = PLM_OPTION_TEXT, .at = offsetof(struct plm_cli_settings, index),
     .value = "NAME", .help = "only this index"},
    {.kind = PLM_OPTION_END}};

static enum plm_code run_inspect(struct plm_cli *cli, struct plm_err *err)
{
    char *json = NULL;
    enum plm_code rc;

    if ((rc = plm_cli_open(cli, err)) ||
        (rc = plm_inspect(cli->ctx, &cli->table, cli->settings.index, &json, err)))
        return rc;
    if (cli->settings.json || !plm_human_inspect(stdout, json))
        puts(json);
    plm_string_free(json);
    return PLM_OK;
}

const struct plm_command plm_cmd_inspect = {
    .name = "inspect",
    .summary = "table, indexes, segments, partition sizes",
    .takes_table = true,
    .tables = {inspect_options, plm_table_options, plm_common_options},
    .run = run_inspect};
