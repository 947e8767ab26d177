/* cmd_gc.c - pilum gc: lists what killed builds left, asks, removes it. */
#include <ctype.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>

#include "cli/cli.h"

static const struct plm_option gc_options[] = {
    {.name = "yes", .letter = 'y', .kind = PLM_OPTION_FLAG,
     .at = offsetof(struct plm_cli_settings, yes), .help = "remove without asking"},
    {.kind = PLM_OPTION_END}};

/* Whether there is anything to remove. */
static bool has_any(const char *text)
{
    json_t *root = json_loads(text, 0, NULL);
    bool found = json_array_size(json_object_get(root, "jobs")) +
                     json_array_size(json_object_get(root, "uploads")) +
                     json_array_size(json_object_get(root, "files")) > 0;

    json_decref(root);
    return found;
}

/* One line from standard input; its end, and anything but y or yes, means no. */
static bool is_confirmed(void)
{
    char answer[16] = "";

    fflush(stdout);
    fprintf(stderr, "Remove them? [y/N] ");
    if (!fgets(answer, sizeof(answer), stdin)) {
        fputc('\n', stderr);
        return false;
    }
    for (char *p = answer; *p; p++)
        *p = *p == '\n' ? '\0' : (char)tolower((unsigned char)*p);
    return (answer[0] == 'y' && answer[1] == '\0') ||
           (answer[0] == 'y' && answer[1] == 'e' && answer[2] == 's' && answer[3] == '\0');
}

static void print(const struct plm_cli *cli, const char *json)
{
    if (cli->settings.json || !plm_human_gc(stdout, json))
        puts(json);
}

/* With --json nobody is asked: without --yes it only lists. */
static enum plm_code run_gc(struct plm_cli *cli, struct plm_err *err)
{
    const struct plm_cli_settings *s = &cli->settings;
    char *json = NULL;
    enum plm_code rc;

    if ((rc = plm_cli_open(cli, err)) ||
        (rc = plm_gc(cli->ctx, &cli->table, s->yes, &json, err)))
        return rc;
    print(cli, json);
    bool ask = !s->yes && !s->json && has_any(json);
    plm_string_free(json);
    if (!ask || !is_confirmed())
        return PLM_OK;
    json = NULL;
    rc = plm_gc(cli->ctx, &cli->table, true, &json, err);
    if (rc == PLM_OK)
        print(cli, json);
    plm_string_free(json);
    return rc;
}

const struct plm_command plm_cmd_gc = {
    .name = "gc",
    .summary = "remove what killed builds left; asks first",
    .takes_table = true,
    .tables = {gc_options, plm_table_options, plm_common_options},
    .run = run_gc,
    .notes = "With --json nothing is asked: without --yes it only lists."};
