/* cmd_version.c - pilum version. */
#include <stddef.h>

#include "cli/cli.h"

static const struct plm_option version_options[] = {
    {.name = "verbose", .letter = 'v', .kind = PLM_OPTION_FLAG,
     .at = offsetof(struct plm_cli_settings, verbose), .help = "the kernels and features in use too"},
    {.kind = PLM_OPTION_END}};

static enum plm_code run_version(struct plm_cli *cli, struct plm_err *err)
{
    char *json = NULL;
    enum plm_code rc;

    if (!cli->settings.json && !cli->settings.verbose) {
        puts("pilum " PLM_VERSION);
        return PLM_OK;
    }
    if ((rc = plm_cli_open(cli, err)) || (rc = plm_version_json(cli->ctx, &json, err)))
        return rc;
    if (cli->settings.json || !plm_human_version(stdout, json, cli->settings.verbose))
        puts(json);
    plm_string_free(json);
    return PLM_OK;
}

const struct plm_command plm_cmd_version = {
    .name = "version",
    .summary = "version; with -v the kernels and features in use",
    .tables = {version_options, plm_common_options},
    .run = run_version};
