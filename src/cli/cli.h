/* cli.h - the `pilum` command: parse, call the library, print.
 *
 * The command uses include/pilum/pilum.h only. A command's function returns a code and one
 * error message; main.c prints it and makes it an exit status. Nothing is written to stdout
 * before everything else has succeeded.
 */
#ifndef PLM_CLI_H
#define PLM_CLI_H

#include <stdio.h>

#include "pilum/pilum.h"

struct plm_cli_list {
    const char **items;
    size_t n;
};

/* Every option of every command; a command's tables say which it takes. */
struct plm_cli_settings {
    const char *table, *branch, *tag, *progress;
    struct plm_cli_list storage;
    bool help, json, verbose;
    uint64_t at_version, threads, memory_budget;
    /* create-index, plan */
    const char *column, *type, *name, *metric, *centroids, *codebook, *fragments, *work_dir;
    const char *verify, *report, *num_bits;
    uint64_t num_partitions, num_sub_vectors, sample_rate, max_iters, seed, num_segments;
    bool replace, restart;
    /* search, inspect, verify, optimize, gc */
    const char *index, *vector;
    uint64_t row, k, nprobes, refine_factor, queries;
    bool has_row, exact, full, yes;
};

/* ---- options (args.c) -------------------------------------------------------------- */

enum plm_option_kind {
    PLM_OPTION_END,
    PLM_OPTION_FLAG,   /* bool, true when given */
    PLM_OPTION_CLEAR,  /* bool, false when given */
    PLM_OPTION_TEXT,   /* const char * */
    PLM_OPTION_CHOICE, /* const char *, one of `choices`, any case */
    PLM_OPTION_COUNT,  /* uint64_t, min..max */
    PLM_OPTION_SIZE,   /* uint64_t bytes: 4GiB */
    PLM_OPTION_LIST,   /* struct plm_cli_list, may be repeated */
};
struct plm_option {
    const char *name; /* without the dashes */
    char letter;      /* 0 = none */
    enum plm_option_kind kind;
    size_t at;        /* offset in struct plm_cli_settings */
    size_t given_at;  /* offset of a bool set when given, 0 = none */
    const char *value, *choices; /* "N", "8|4" */
    uint64_t min, max;
    bool is_required;
    const char *help;
};

struct plm_cli;
struct plm_command {
    const char *name, *summary;
    bool takes_table;
    const struct plm_option *tables[3]; /* each ends with PLM_OPTION_END; NULL = none */
    enum plm_code (*run)(struct plm_cli *cli, struct plm_err *err);
    const char *notes; /* more help text, may be NULL */
};

/* argv: what follows the command. Strings are borrowed. PLM_ARG with a hint. */
enum plm_code plm_args_parse(const struct plm_command *command, int argc, char **argv,
                             struct plm_cli_settings *out, struct plm_err *err);
void plm_args_help(const struct plm_command *command, FILE *to);
/* "4GiB", "1.5MB", "4096" -> bytes. */
bool plm_size_parse(const char *text, uint64_t *bytes);
/* "0,3,7-9" -> ascending distinct numbers (free()). */
enum plm_code plm_ranges_parse(const char *text, uint64_t **out, size_t *n, struct plm_err *err);
/* Fills *err; returns `code`. */
enum plm_code plm_cli_fail(struct plm_err *err, enum plm_code code, const char *fmt, ...)
    PLM_PRINTF(3, 4);

/* ---- one run ------------------------------------------------------------------------- */

enum plm_progress_style { PLM_SHOW_NONE, PLM_SHOW_BAR, PLM_SHOW_PLAIN, PLM_SHOW_JSON };
struct plm_display {
    enum plm_progress_style style;
    char phase[32];
    double last_line; /* seconds of this phase at the last plain line */
    int bar_columns;  /* what is on the terminal now */
    bool is_done;     /* the phase's last report said so; it may come again */
    char record[240]; /* the line that stays of it */
};

struct plm_cli {
    const struct plm_command *command;
    struct plm_cli_settings settings;
    struct plm_ctx *ctx;
    struct plm_table_ref table;
    char **storage, *branch; /* key, value, ..., NULL; of the tag: owned */
    struct plm_display display;
};

extern const struct plm_command plm_cmd_create_index, plm_cmd_plan, plm_cmd_inspect, plm_cmd_search,
    plm_cmd_verify, plm_cmd_optimize, plm_cmd_gc, plm_cmd_version;
extern const struct plm_option plm_table_options[], plm_common_options[];

/* Makes the context and the table reference of the settings. */
enum plm_code plm_cli_open(struct plm_cli *cli, struct plm_err *err);

/* storage.c: "KEY=VALUE" and "KEY=@FILE" -> key, value, ..., NULL (wiped and freed by reset). */
enum plm_code plm_storage_parse(const struct plm_cli_list *given, char ***out, struct plm_err *err);
void plm_storage_reset(char **storage);

/* progress.c */
enum plm_code plm_display_begin(struct plm_display *display, const char *style, struct plm_err *err);
void plm_display_progress(void *cli, const struct plm_progress *progress);
void plm_display_warn(void *cli, const char *message);
void plm_display_end(struct plm_display *display);

/* report_file.c: a JSON file that appears whole or not at all; a pipe or device is written to instead. Opened before
 * the work, so that a path that cannot be written is known at once. path NULL = none. */
struct plm_report_file {
    char *path, *temporary; /* temporary NULL: into what is there */
    FILE *file;
};
enum plm_code plm_report_open(const char *path, struct plm_report_file *out, struct plm_err *err);
enum plm_code plm_report_finish(struct plm_report_file *report, const char *json, struct plm_err *err);
void plm_report_abandon(struct plm_report_file *report);

/* npy.c */
struct plm_npy {
    int element; /* 2, 4, 8 bytes */
    size_t n_dims, shape[3];
    size_t data_at, data_bytes;
    void *file; /* the whole file, free() */
};
/* The header of a file of n bytes; everything but `file` is set. */
enum plm_code plm_npy_parse(const uint8_t *bytes, size_t n, struct plm_npy *out,
                            struct plm_err *err);
enum plm_code plm_npy_read(const char *path, struct plm_npy *out, struct plm_err *err);

/* human.c, human_table.c: a library document for people; false if it is not what was expected. */
bool plm_human_report(FILE *to, const char *json);
bool plm_human_plan(FILE *to, const char *json);
bool plm_human_inspect(FILE *to, const char *json);
bool plm_human_verify(FILE *to, const char *json);
bool plm_human_gc(FILE *to, const char *json);
bool plm_human_version(FILE *to, const char *json, bool verbose);

#endif
