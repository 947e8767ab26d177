/* main.c - picks the command, runs it, prints its error, makes the exit status. */
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cli.h"

static const struct plm_command *const commands[] = {
    &plm_cmd_create_index, &plm_cmd_plan,     &plm_cmd_inspect, &plm_cmd_search,
    &plm_cmd_verify,       &plm_cmd_optimize, &plm_cmd_gc,      &plm_cmd_version};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* ---- signals ------------------------------------------------------------------------ */

static struct plm_ctx *volatile running;
static volatile sig_atomic_t n_signals;

/* The first asks the library to stop, the second stops. */
static void on_signal(int number)
{
    (void)number;
    if (n_signals++ || !running)
        _exit(130);
    plm_ctx_cancel(running);
}

/* A page of a mapped file that is gone: what a read would have told as an error. */
static void on_lost_page(int number)
{
    static const char text[] = "pilum: a file of the table was shortened, or its disk failed, while it was read\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);

    (void)number;
    (void)n;
    _exit(1);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_lost_page;
    sigaction(SIGBUS, &action, NULL);
    action.sa_handler = SIG_IGN; /* a closed pipe is an error of write(), and of sockets */
    sigaction(SIGPIPE, &action, NULL);
}

/* ---- limits of the process -------------------------------------------------------------- */

/* Where standard input, output or error is closed, the next file to be opened would take its number, and messages would be
 * written into the table. Now something else has it, of the wrong direction, so that use fails as it would have. */
static void hold_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            _exit(1); /* not even that: there is nobody to tell */
}

/* As many files as the system allows: a table may have thousands. */
static void allow_files(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= files.rlim_max)
        return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files); /* refused: the library keeps fewer open */
}

/* What is freed goes back to the system, so that the memory budget holds: few arenas, no
 * threshold that grows. */
static void tune_malloc(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
    mallopt(M_TOP_PAD, 64 << 10);
#endif
}

/* ---- secrets in the process list ------------------------------------------------------- */

static const char storage_option[] = "--storage-option";

static void hide_value(char *pair)
{
    char *equals = strchr(pair, '=');

    if (equals && equals[1] != '@')
        memset(equals + 1, 0, strlen(equals + 1));
    else if (!equals)
        memset(pair, 0, strlen(pair)); /* a value whose key was forgotten */
}

/* Keys come by options, environment, files and answers of servers, and pass through buffers of libraries: a
 * core dump of a command on remote storage would hold some. So it leaves none. */
static void leave_no_core(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "s3://", 5) == 0 || strncmp(argv[i], storage_option, sizeof storage_option - 1) == 0) {
#ifdef __linux__
            prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
            setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
            return;
        }
}

/* A copy of argv; the originals' storage option values are overwritten. NULL = out of memory. */
static char **take_arguments(int argc, char **argv)
{
    size_t n = sizeof(storage_option) - 1;
    char **copy = calloc((size_t)argc + 1, sizeof(*copy));

    for (int i = 0; copy && i < argc; i++)
        if (!(copy[i] = strdup(argv[i])))
            return NULL;
    for (int i = 1; copy && i < argc; i++) {
        if (strncmp(copy[i], storage_option, n) == 0 && copy[i][n] == '=')
            hide_value(argv[i] + n + 1);
        else if (strcmp(copy[i], storage_option) == 0 && i + 1 < argc)
            hide_value(argv[i + 1]);
    }
    return copy;
}

static void free_arguments(char **copy)
{
    for (char **p = copy; p && *p; p++) {
        explicit_bzero(*p, strlen(*p));
        free(*p);
    }
    free(copy);
}

/* ---- options of every command ------------------------------------------------------------ */

#define AT(field) offsetof(struct plm_cli_settings, field)

const struct plm_option plm_common_options[] = {
    {.name = "json", .kind = PLM_OPTION_FLAG, .at = AT(json),
     .help = "one JSON document on standard output"},
    {.name = "help", .letter = 'h', .kind = PLM_OPTION_FLAG, .at = AT(help), .help = "this text"},
    {.kind = PLM_OPTION_END}};

const struct plm_option plm_table_options[] = {
    {.name = "branch", .kind = PLM_OPTION_TEXT, .at = AT(branch), .value = "NAME",
     .help = "branch of the table (default: main)"},
    {.name = "at-version", .kind = PLM_OPTION_COUNT, .at = AT(at_version), .value = "N", .min = 1,
     .max = UINT64_MAX, .help = "version of the table (default: latest)"},
    {.name = "tag", .kind = PLM_OPTION_TEXT, .at = AT(tag), .value = "NAME",
     .help = "the version that this tag of the table names"},
    {.name = "storage-option", .kind = PLM_OPTION_LIST, .at = AT(storage), .value = "KEY=VALUE",
     .help = "as Lance takes them; KEY=@FILE reads the value from a file; repeatable"},
    {.name = "threads", .kind = PLM_OPTION_COUNT, .at = AT(threads), .value = "N", .min = 1,
     .max = 1024, .help = "default: all processors"},
    {.name = "memory-budget", .kind = PLM_OPTION_SIZE, .at = AT(memory_budget), .value = "SIZE",
     .help = "such as 4GiB (default: half of what the machine or cgroup allows)"},
    {.name = "progress", .kind = PLM_OPTION_CHOICE, .at = AT(progress),
     .choices = "auto|bar|plain|json|none",
     .help = "on stderr (default auto: a bar on a terminal, plain lines elsewhere)"},
    {.kind = PLM_OPTION_END}};

static struct plm_cli_settings default_settings(void)
{
    struct plm_build_options build;
    struct plm_search_options search;
    struct plm_verify_options verify;

    plm_build_options_default(&build);
    plm_search_options_default(&search);
    plm_verify_options_default(&verify);
    return (struct plm_cli_settings){
        .progress = "auto",
        .sample_rate = build.sample_rate,
        .max_iters = build.max_iters,
        .seed = build.seed,
        .num_segments = build.num_segments,
        .replace = build.replace,
        .k = search.k,
        .nprobes = search.nprobes,
        .refine_factor = search.refine_factor,
        .queries = verify.queries,
    };
}

/* The version and branch that --tag names. */
static enum plm_code follow_tag(struct plm_cli *cli, struct plm_err *err)
{
    const struct plm_cli_settings *s = &cli->settings;

    if (!s->tag)
        return PLM_OK;
    if (s->branch || s->at_version)
        return plm_cli_fail(err, PLM_ARG, "--tag says which version, so --branch and --at-version cannot");
    enum plm_code rc = plm_find_tag(cli->ctx, &cli->table, s->tag, &cli->table.version, &cli->branch, err);
    cli->table.branch = cli->branch;
    return rc;
}

enum plm_code plm_cli_open(struct plm_cli *cli, struct plm_err *err)
{
    const struct plm_cli_settings *s = &cli->settings;
    struct plm_ctx_options options;
    enum plm_code rc;

    if ((rc = plm_storage_parse(&s->storage, &cli->storage, err)) ||
        (rc = plm_display_begin(&cli->display, s->progress, err)))
        return rc;
    cli->table = (struct plm_table_ref){.uri = s->table,
                                        .version = s->at_version,
                                        .branch = s->branch,
                                        .storage_options = (const char *const *)cli->storage};
    plm_ctx_options_default(&options);
    options.threads = (unsigned)s->threads;
    options.memory_budget_bytes = s->memory_budget;
    options.progress = plm_display_progress;
    options.warn = plm_display_warn;
    options.user = cli;
    options.budget_is_of_process = true;
    options.map_files = true; /* see on_lost_page() */
    rc = plm_ctx_create(&options, &cli->ctx, err);
    if (rc != PLM_OK)
        return rc;
    running = cli->ctx;
    return follow_tag(cli, err);
}

/* ---- the walk -------------------------------------------------------------------------------- */

static int exit_status(enum plm_code code)
{
    switch (code) {
    case PLM_OK:
        return 0;
    case PLM_ARG:
        return 2;
    case PLM_CANCELLED:
        return 130;
    default:
        return 1;
    }
}

static int complain(const struct plm_err *err, enum plm_code code)
{
    const char *text = err->message[0] ? err->message : plm_code_text(code);

    fprintf(stderr, "pilum: %s\n", text);
    return exit_status(code);
}

static int print_help(void)
{
    printf("pilum %s - vector indexes for Lance tables\n\nUsage: pilum COMMAND [options]\n\n"
           "Commands:\n", PLM_VERSION);
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-14s%s\n", commands[i]->name, commands[i]->summary);
    printf("\npilum COMMAND --help shows a command's options.\n"
           "Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.\n");
    return 0;
}

static const struct plm_command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int run(const struct plm_command *command, int argc, char **argv)
{
    struct plm_cli cli = {.command = command, .settings = default_settings()};
    struct plm_err err = {0};
    enum plm_code rc = plm_args_parse(command, argc, argv, &cli.settings, &err);

    if (rc == PLM_OK && cli.settings.help) {
        plm_args_help(command, stdout);
    } else if (rc == PLM_OK) {
        rc = command->run(&cli, &err);
    }
    plm_display_end(&cli.display);
    running = NULL;
    plm_ctx_destroy(cli.ctx);
    plm_storage_reset(cli.storage);
    plm_string_free(cli.branch);
    free(cli.settings.storage.items);
    return rc == PLM_OK ? 0 : complain(&err, rc);
}

static int dispatch(int argc, char **argv)
{
    struct plm_err err = {0};
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name)
        return complain(&err, plm_cli_fail(&err, PLM_ARG, "no command given; see pilum --help"));
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
        (strcmp(name, "help") == 0 && argc < 3))
        return print_help();
    if (strcmp(name, "--version") == 0)
        name = "version";
    const struct plm_command *command = find_command(strcmp(name, "help") == 0 ? argv[2] : name);
    if (!command)
        return complain(&err, plm_cli_fail(&err, PLM_ARG, "unknown command \"%.60s\"; see pilum "
                                           "--help", strcmp(name, "help") == 0 ? argv[2] : name));
    if (strcmp(name, "help") == 0) {
        plm_args_help(command, stdout);
        return 0;
    }
    return run(command, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
    int status;

    hold_standard_files();
    leave_no_core(argc, argv);
    char **arguments = take_arguments(argc, argv);
    if (!arguments) {
        fprintf(stderr, "pilum: out of memory\n");
        return 1;
    }
    catch_signals();
    allow_files();
    tune_malloc();
    status = dispatch(argc, arguments);
    free_arguments(arguments);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "pilum: cannot write to standard output: %s\n", strerror(errno));
        return status ? status : 1;
    }
    return status;
}
