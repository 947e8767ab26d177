/* human.c - what a finished build looks like to a person. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/human.h"

/* ---- texts ------------------------------------------------------------------------------ */

struct plm_text plm_text_count(double value)
{
    struct plm_text out = {""};
    char digits[32];
    int n = snprintf(digits, sizeof(digits), "%.0f", value < 0 || value > 1e18 ? 0 : value), at = 0;

    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            out.s[at++] = ',';
        out.s[at++] = digits[i];
    }
    out.s[at] = '\0';
    return out;
}

struct plm_text plm_text_of(double value, const char *thing)
{
    struct plm_text count = plm_text_count(value), out;

    snprintf(out.s, sizeof(out.s), "%.30s %.14s%s", count.s, thing, strcmp(count.s, "1") == 0 ? "" : "s");
    return out;
}

struct plm_text plm_text_bytes(double value)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    struct plm_text out;
    size_t unit = 0;

    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    snprintf(out.s, sizeof(out.s), "%.*f %s", unit && value < 100 ? 1 : 0, value, units[unit]);
    return out;
}

struct plm_text plm_text_seconds(double value)
{
    struct plm_text out;

    if (value >= 120)
        snprintf(out.s, sizeof(out.s), "%.0f m %02.0f s", floor(value / 60),
                 floor(fmod(value, 60)));
    else
        snprintf(out.s, sizeof(out.s), "%.*f s", value < 10 ? 2 : 1, value);
    return out;
}

/* ---- documents ---------------------------------------------------------------------------- */

/* C0, delete, and C1, which is two bytes in UTF-8. */
static size_t control_bytes(const char *s)
{
    const unsigned char *c = (const unsigned char *)s;

    if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
        return 2;
    return c[0] < 0x20 || c[0] == 0x7f;
}

static void tame_string(json_t *value)
{
    const char *from = json_string_value(value);
    char *copy = malloc(json_string_length(value) + 1), *to = copy;

    while (copy && *from) {
        size_t n = control_bytes(from);
        *to++ = n ? '?' : *from;
        from += n ? n : 1;
    }
    if (copy)
        json_string_setn(value, copy, (size_t)(to - copy));
    free(copy);
}

static void tame(json_t *value)
{
    json_t *item;
    const char *key;
    size_t i;

    if (json_is_string(value))
        tame_string(value);
    json_array_foreach (value, i, item)
        tame(item);
    json_object_foreach (value, key, item)
        tame(item);
}

json_t *plm_human_load(const char *json)
{
    json_t *root = json_loads(json, 0, NULL);

    tame(root);
    return root;
}

const json_t *plm_at(const json_t *root, const char *path)
{
    char name[64];

    while (root && *path) {
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof(name), "%.*s", (int)n, path);
        root = json_object_get(root, name);
        path += n + (path[n] == '.');
    }
    return root;
}

double plm_number_at(const json_t *root, const char *path)
{
    return json_number_value(plm_at(root, path));
}

bool plm_has_number(const json_t *root, const char *path)
{
    return json_is_number(plm_at(root, path));
}

const char *plm_string_at(const json_t *root, const char *path)
{
    const char *s = json_string_value(plm_at(root, path));
    return s ? s : "-";
}

static bool wants_colour(FILE *to)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fileno(to)) && !(none && *none) && term && strcmp(term, "dumb") != 0;
}

const char *plm_bold(FILE *to) { return wants_colour(to) ? "\033[1m" : ""; }
const char *plm_plain(FILE *to) { return wants_colour(to) ? "\033[0m" : ""; }

/* ---- pictures ------------------------------------------------------------------------------- */

#define BARS_MAX 8
#define BAR_WIDTH 40
#define BAR_LEAST 8
#define BESIDE_BAR 34 /* columns of a line that are no bar */

/* As much of BAR_WIDTH as a terminal has columns for. */
static size_t bar_width(FILE *to)
{
    struct winsize size;

    if (ioctl(fileno(to), TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_col >= BESIDE_BAR + BAR_WIDTH)
        return BAR_WIDTH;
    return size.ws_col > BESIDE_BAR + BAR_LEAST ? (size_t)size.ws_col - BESIDE_BAR : BAR_LEAST;
}

void plm_print_histogram(FILE *to, const json_t *sizes)
{
    size_t n = json_array_size(sizes), counts[BARS_MAX] = {0}, tallest = 1, widest = bar_width(to);
    double least = INFINITY, most = 0;

    for (size_t i = 0; i < n; i++) {
        double size = json_number_value(json_array_get(sizes, i));
        least = fmin(least, size);
        most = fmax(most, size);
    }
    if (n < 2)
        return;
    size_t n_bars = (size_t)fmin(fmin(BARS_MAX, (double)n), most - least + 1);
    double step = ceil((most - least + 1) / (double)n_bars);
    for (size_t i = 0; i < n; i++) {
        size_t bar = (size_t)((json_number_value(json_array_get(sizes, i)) - least) / step);
        counts[bar < n_bars ? bar : n_bars - 1]++;
    }
    for (size_t b = 0; b < n_bars; b++)
        tallest = counts[b] > tallest ? counts[b] : tallest;
    for (size_t b = 0; b < n_bars; b++) {
        double from = least + step * (double)b, last = fmin(from + step - 1, most);
        if (from > most)
            break;
        int width = (int)((counts[b] * widest + tallest - 1) / tallest);
        fprintf(to, "  %10s - %-10s |%.*s%s%zu\n", plm_text_count(from).s, plm_text_count(last).s,
                width, "########################################", width ? " " : "", counts[b]);
    }
}

void plm_print_recall(FILE *to, const json_t *points)
{
    size_t i;
    json_t *point;

    if (json_array_size(points) == 0)
        return;
    double refined = plm_number_at(json_array_get(points, 0), "refine_factor");
    fprintf(to, "%srecall@10%s", plm_bold(to), plm_plain(to));
    if (refined > 1)
        fprintf(to, " with refine factor %.0f", refined);
    fprintf(to, "\n  %8s %14s %8s\n", "nprobes", "rows scanned", "recall");
    json_array_foreach (points, i, point)
        fprintf(to, "  %8.0f %14s %8.3f\n", plm_number_at(point, "nprobes"),
                plm_text_count(plm_number_at(point, "rows_scanned")).s,
                plm_number_at(point, "recall"));
}

/* ---- the report of a build -------------------------------------------------------------------- */

static void print_rows(FILE *to, const json_t *report)
{
    const json_t *dropped = plm_at(report, "rows.dropped");
    const char *key, *separator = "  left out: ";
    json_t *value;

    fprintf(to, "%srows%s       %s of %s indexed", plm_bold(to), plm_plain(to),
            plm_text_count(plm_number_at(report, "rows.indexed")).s,
            plm_text_count(plm_number_at(report, "rows.total")).s);
    json_object_foreach ((json_t *)(uintptr_t)dropped, key, value)
        if (json_number_value(value) > 0) {
            fprintf(to, "%s%s %s", separator, plm_text_count(json_number_value(value)).s, key);
            separator = ", ";
        }
    fputc('\n', to);
}

static void print_partitions(FILE *to, const json_t *report)
{
    fprintf(to, "%spartitions%s %s; mean %s, largest %s, empty %s, spread (cv) %.2f\n",
            plm_bold(to), plm_plain(to),
            plm_text_count(plm_number_at(report, "index.num_partitions")).s,
            plm_text_of(plm_number_at(report, "partitions.mean"), "row").s,
            plm_text_count(plm_number_at(report, "partitions.max")).s,
            plm_text_count(plm_number_at(report, "partitions.empty")).s,
            plm_number_at(report, "partitions.cv"));
    plm_print_histogram(to, plm_at(report, "partitions.sizes"));
}

static void print_phases(FILE *to, const json_t *report)
{
    static const char *const phases[] = {"plan",   "train",  "encode", "merge",
                                         "verify", "commit", "total"};
    char actual[40], planned[40];

    fprintf(to, "%s%-10s %12s %12s%s\n", plm_bold(to), "seconds", "actual", "estimated",
            plm_plain(to));
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        snprintf(actual, sizeof(actual), "seconds.%s", phases[i]);
        snprintf(planned, sizeof(planned), "plan.%s", phases[i]);
        fprintf(to, "  %-8s %12s %12s\n", phases[i],
                plm_text_seconds(plm_number_at(report, actual)).s,
                plm_has_number(report, planned)
                    ? plm_text_seconds(plm_number_at(report, planned)).s
                    : "-");
    }
}

static void print_resource(FILE *to, const json_t *report, const char *what, const char *name)
{
    char actual[64], planned[64];

    snprintf(actual, sizeof(actual), "resources.%s", name);
    snprintf(planned, sizeof(planned), "plan.%s", name);
    fprintf(to, "  %-8s %12s %12s\n", what, plm_text_bytes(plm_number_at(report, actual)).s,
            plm_has_number(report, planned) ? plm_text_bytes(plm_number_at(report, planned)).s
                                            : "-");
}

static void print_resources(FILE *to, const json_t *report)
{
    fprintf(to, "%sresources%s\n", plm_bold(to), plm_plain(to));
    print_resource(to, report, "memory", "peak_rss_bytes");
    print_resource(to, report, "read", "bytes_read");
    print_resource(to, report, "written", "bytes_written");
}

bool plm_human_report(FILE *to, const char *json)
{
    json_t *report = plm_human_load(json);

    if (!report)
        return false;
    fprintf(to, "%s%s%s on %s, %s, committed as version %.0f%s\n", plm_bold(to),
            plm_string_at(report, "index.name"), plm_plain(to), plm_string_at(report, "table"),
            plm_string_at(report, "index.type"), plm_number_at(report, "version_committed"),
            json_is_true(plm_at(report, "resumed")) ? " (carried on from an unfinished job)" : "");
    print_rows(to, report);
    print_partitions(to, report);
    plm_print_recall(to, plm_at(report, "quality.recall_at_10"));
    if (plm_number_at(report, "quality.checked_rows") > 0)
        fprintf(to, "%schecked%s    %s, %s misfiled\n", plm_bold(to), plm_plain(to),
                plm_text_of(plm_number_at(report, "quality.checked_rows"), "row").s,
                plm_text_count(plm_number_at(report, "quality.misfiled")).s);
    print_phases(to, report);
    print_resources(to, report);
    json_decref(report);
    return true;
}
