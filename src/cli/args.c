/* args.c - options from tables: parsing, and the help that cannot disagree with it. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

enum plm_code plm_cli_fail(struct plm_err *err, enum plm_code code, const char *fmt, ...)
{
    va_list args;

    if (!err)
        return code;
    memset(err, 0, sizeof(*err));
    err->code = code;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof(err->message), fmt, args);
    va_end(args);
    for (char *p = err->message; *p; p++)
        if (iscntrl((unsigned char)*p))
            *p = '?';
    return code;
}

/* ---- values -------------------------------------------------------------------------- */

bool plm_size_parse(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},          {"b", 1},          {"k", 0x1p10},   {"kib", 0x1p10},
                 {"kb", 1e3},      {"m", 0x1p20},     {"mib", 0x1p20}, {"mb", 1e6},
                 {"g", 0x1p30},    {"gib", 0x1p30},   {"gb", 1e9},     {"t", 0x1p40},
                 {"tib", 0x1p40},  {"tb", 1e12}};
    char *end;

    if (!isdigit((unsigned char)*text))
        return false;
    size_t digits = strspn(text, "0123456789.");
    double number = strtod(text, &end);
    if (end != text + digits || digits > 20)
        return false;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcasecmp(end, units[i].unit) == 0) {
            double value = number * units[i].factor;
            if (!(value < 0x1p63))
                return false;
            *bytes = (uint64_t)value;
            return true;
        }
    return false;
}

/* Digits only; *end is what follows them. */
static bool parse_digits(const char *text, uint64_t *out, const char **end)
{
    uint64_t value = 0;
    const char *p = text;

    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    *out = value;
    *end = p;
    return p != text;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

#define RANGE_NUMBERS_MAX ((size_t)16 << 20)

static enum plm_code add_range(uint64_t first, uint64_t last, uint64_t **items, size_t *n,
                               struct plm_err *err)
{
    if (last < first)
        return plm_cli_fail(err, PLM_ARG, "range %" PRIu64 "-%" PRIu64 " runs backwards", first,
                            last);
    if (last - first >= RANGE_NUMBERS_MAX || *n + (last - first) >= RANGE_NUMBERS_MAX)
        return plm_cli_fail(err, PLM_ARG, "more than %zu numbers in ranges", RANGE_NUMBERS_MAX);
    size_t more = (size_t)(last - first) + 1;
    uint64_t *grown = realloc(*items, (*n + more) * sizeof(**items));
    if (!grown)
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    *items = grown;
    for (size_t i = 0; i < more; i++)
        grown[*n + i] = first + i;
    *n += more;
    return PLM_OK;
}

enum plm_code plm_ranges_parse(const char *text, uint64_t **out, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t *items = NULL, first, last;
    size_t count = 0, distinct = 0;
    const char *p = text;

    do {
        if (p != text)
            p++; /* the comma */
        bool is_fine = parse_digits(p, &first, &p);
        last = first;
        if (is_fine && *p == '-')
            is_fine = parse_digits(p + 1, &last, &p);
        if (!is_fine || (*p && *p != ','))
            rc = plm_cli_fail(err, PLM_ARG, "\"%.80s\" is not a list of numbers and ranges such as "
                              "0,3,7-9", text);
        else
            rc = add_range(first, last, &items, &count, err);
    } while (rc == PLM_OK && *p == ',');
    if (rc != PLM_OK) {
        free(items);
        return rc;
    }
    qsort(items, count, sizeof(*items), by_value);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || items[i] != items[distinct - 1])
            items[distinct++] = items[i];
    *out = items;
    *n = distinct;
    return PLM_OK;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);

    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && strncasecmp(p, value, n) == 0)
            return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static enum plm_code add_to_list(struct plm_cli_list *list, const char *value, struct plm_err *err)
{
    const char **grown = realloc(list->items, (list->n + 1) * sizeof(*grown));

    if (!grown)
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    list->items = grown;
    grown[list->n++] = value;
    return PLM_OK;
}

static enum plm_code set_count(const struct plm_option *o, const char *value, uint64_t *to,
                               struct plm_err *err)
{
    const char *end;
    uint64_t number;

    if (!parse_digits(value, &number, &end) || *end || number < o->min || number > o->max)
        return plm_cli_fail(err, PLM_ARG, "--%s: \"%.40s\" is not a whole number from %" PRIu64
                            " to %" PRIu64, o->name, value, o->min, o->max);
    *to = number;
    return PLM_OK;
}

static enum plm_code set_value(const struct plm_option *o, const char *value,
                               struct plm_cli_settings *s, struct plm_err *err)
{
    void *to = (char *)s + o->at;

    switch (o->kind) {
    case PLM_OPTION_TEXT:
        if (!*value)
            return plm_cli_fail(err, PLM_ARG, "--%s: the value is empty", o->name);
        *(const char **)to = value;
        return PLM_OK;
    case PLM_OPTION_CHOICE:
        if (!is_choice(o->choices, value))
            return plm_cli_fail(err, PLM_ARG, "--%s: \"%.40s\" is not one of %s", o->name, value,
                                o->choices);
        *(const char **)to = value;
        return PLM_OK;
    case PLM_OPTION_COUNT:
        return set_count(o, value, to, err);
    case PLM_OPTION_SIZE:
        if (!plm_size_parse(value, to) || *(uint64_t *)to == 0)
            return plm_cli_fail(err, PLM_ARG, "--%s: \"%.40s\" is not a size such as 4GiB or 512MiB",
                                o->name, value);
        return PLM_OK;
    case PLM_OPTION_LIST:
        return add_to_list(to, value, err);
    default:
        return plm_cli_fail(err, PLM_BUG, "--%s takes no value", o->name);
    }
}

/* ---- finding an option ------------------------------------------------------------------ */

typedef bool plm_option_fn(void *arg, const struct plm_option *option);

/* Calls fn for each option until it returns true; that option, or NULL. */
static const struct plm_option *each_option(const struct plm_command *c, plm_option_fn *fn,
                                            void *arg)
{
    for (size_t i = 0; i < sizeof(c->tables) / sizeof(c->tables[0]); i++)
        for (const struct plm_option *o = c->tables[i]; o && o->kind != PLM_OPTION_END; o++)
            if (fn(arg, o))
                return o;
    return NULL;
}

struct wanted {
    const char *name; /* n characters, or */
    size_t n;
    char letter;
};

static bool is_wanted(void *arg, const struct plm_option *o)
{
    const struct wanted *w = arg;
    if (w->letter)
        return o->letter == w->letter;
    return strlen(o->name) == w->n && memcmp(o->name, w->name, w->n) == 0;
}

/* Edits (insert, remove, replace) between a[0..n) and b. */
static size_t edit_distance(const char *a, size_t n, const char *b)
{
    size_t row[64], m = strlen(b);

    if (n >= 64 || m >= 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

struct nearest {
    const char *name;
    size_t n, distance;
    const char *found;
};

static bool offer_name(void *arg, const struct plm_option *o)
{
    struct nearest *near = arg;
    size_t distance = edit_distance(near->name, near->n, o->name);

    /* "--partitions" for "--num-partitions": a part of the name counts as near. */
    char part[64];
    snprintf(part, sizeof(part), "%.*s", (int)(near->n < 63 ? near->n : 63), near->name);
    if (near->n > 3 && strstr(o->name, part) && distance > 3)
        distance = 3;
    if (distance < near->distance) {
        near->distance = distance;
        near->found = o->name;
    }
    return false;
}

static enum plm_code unknown_option(const struct plm_command *c, const char *arg,
                                    struct plm_err *err)
{
    const char *name = arg[1] == '-' ? arg + 2 : arg + 1;
    size_t n = strcspn(name, "=");
    struct nearest near = {name, n, n < 4 ? n : 4, NULL}; /* sharing no letter is not near */
    int shown = (int)(strcspn(arg, "=") < 60 ? strcspn(arg, "=") : 60);

    each_option(c, offer_name, &near);
    if (near.found)
        return plm_cli_fail(err, PLM_ARG, "unknown option %.*s; did you mean --%s?", shown, arg,
                            near.found);
    return plm_cli_fail(err, PLM_ARG, "unknown option %.*s; see pilum %s --help", shown, arg,
                        c->name);
}

static const char *value_name(const struct plm_option *o)
{
    return o->kind == PLM_OPTION_CHOICE ? o->choices : o->value;
}

/* ---- parsing ------------------------------------------------------------------------------ */

struct parsing {
    const struct plm_command *command;
    int argc, at;
    char **argv;
    struct plm_cli_settings *settings;
};

/* argv[at] begins with a dash; moves past it and its value. */
static enum plm_code parse_option(struct parsing *p, struct plm_err *err)
{
    const char *arg = p->argv[p->at++], *value = NULL;
    struct wanted wanted = {0};

    if (arg[1] == '-') {
        wanted.name = arg + 2;
        wanted.n = strcspn(wanted.name, "=");
        if (wanted.name[wanted.n] == '=')
            value = wanted.name + wanted.n + 1;
    } else {
        wanted.letter = arg[1];
        if (arg[2])
            value = arg + 2; /* -k5 */
    }
    const struct plm_option *o = each_option(p->command, is_wanted, &wanted);
    if (!o)
        return unknown_option(p->command, arg, err);
    if (o->given_at)
        *(bool *)((char *)p->settings + o->given_at) = true;
    if (o->kind == PLM_OPTION_FLAG || o->kind == PLM_OPTION_CLEAR) {
        if (value)
            return plm_cli_fail(err, PLM_ARG, "--%s takes no value", o->name);
        *(bool *)((char *)p->settings + o->at) = o->kind == PLM_OPTION_FLAG;
        return PLM_OK;
    }
    if (!value && p->at >= p->argc)
        return plm_cli_fail(err, PLM_ARG, "--%s needs a value: %s", o->name, value_name(o));
    return set_value(o, value ? value : p->argv[p->at++], p->settings, err);
}

static enum plm_code take_table(struct parsing *p, const char *arg, struct plm_err *err)
{
    if (!p->command->takes_table || p->settings->table)
        return plm_cli_fail(err, PLM_ARG, "unexpected argument \"%.200s\"; see pilum %s --help", arg,
                            p->command->name);
    if (!*arg)
        return plm_cli_fail(err, PLM_ARG, "the table's name is empty");
    p->settings->table = arg;
    return PLM_OK;
}

static bool is_missing(void *arg, const struct plm_option *o)
{
    const char *base = arg;
    return o->is_required && !*(const char *const *)(base + o->at);
}

enum plm_code plm_args_parse(const struct plm_command *command, int argc, char **argv,
                             struct plm_cli_settings *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct parsing p = {.command = command, .argc = argc, .argv = argv, .settings = out};
    bool only_arguments = false;

    while (rc == PLM_OK && p.at < argc) {
        const char *arg = argv[p.at];
        if (!only_arguments && strcmp(arg, "--") == 0) {
            only_arguments = true;
            p.at++;
        } else if (!only_arguments && arg[0] == '-' && arg[1]) {
            rc = parse_option(&p, err);
        } else {
            rc = take_table(&p, arg, err);
            p.at++;
        }
    }
    if (rc != PLM_OK || out->help)
        return rc;
    if (command->takes_table && !out->table)
        return plm_cli_fail(err, PLM_ARG, "no table given; usage: pilum %s TABLE ...", command->name);
    const struct plm_option *missing = each_option(command, is_missing, out);
    if (missing)
        return plm_cli_fail(err, PLM_ARG, "--%s %s is required", missing->name,
                            value_name(missing));
    return PLM_OK;
}

/* ---- help ------------------------------------------------------------------------------------ */

#define HELP_COLUMN 34

static bool print_option(void *arg, const struct plm_option *o)
{
    FILE *to = arg;
    char left[120];
    const char *value = value_name(o);
    int n = 0;

    if (o->letter)
        n = snprintf(left, sizeof(left), "  -%c, --%s", o->letter, o->name);
    else
        n = snprintf(left, sizeof(left), "      --%s", o->name);
    if (value)
        snprintf(left + n, sizeof(left) - (size_t)n, " %s", value);
    if (strlen(left) >= HELP_COLUMN)
        fprintf(to, "%s\n%*s%s\n", left, HELP_COLUMN, "", o->help);
    else
        fprintf(to, "%-*s%s\n", HELP_COLUMN, left, o->help);
    return false;
}

static bool print_required(void *arg, const struct plm_option *o)
{
    if (o->is_required)
        fprintf(arg, " --%s %s", o->name, value_name(o));
    return false;
}

void plm_args_help(const struct plm_command *c, FILE *to)
{
    fprintf(to, "pilum %s - %s\n\nUsage: pilum %s%s", c->name, c->summary, c->name, c->takes_table ? " TABLE" : "");
    each_option(c, print_required, to);
    fprintf(to, " [options]\n");
    if (c->takes_table)
        fprintf(to, "\nTABLE is a path, file://... or s3://bucket/key.\n");
    fprintf(to, "\nOptions:\n");
    each_option(c, print_option, to);
    if (c->notes)
        fprintf(to, "\n%s\n", c->notes);
}
