/* progress.c - progress and warnings on stderr. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

#define PLAIN_SECONDS 10 /* between two plain lines of a phase */
#define BAR_MAX 24       /* characters */

enum plm_code plm_display_begin(struct plm_display *display, const char *style,
                                struct plm_err *err)
{
    static const struct {
        const char *name;
        enum plm_progress_style style;
    } styles[] = {{"none", PLM_SHOW_NONE},
                  {"bar", PLM_SHOW_BAR},
                  {"plain", PLM_SHOW_PLAIN},
                  {"json", PLM_SHOW_JSON}};

    memset(display, 0, sizeof(*display));
    if (strcasecmp(style, "auto") == 0) {
        const char *term = getenv("TERM");
        bool is_terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
        display->style = is_terminal ? PLM_SHOW_BAR : PLM_SHOW_PLAIN;
        return PLM_OK;
    }
    for (size_t i = 0; i < sizeof(styles) / sizeof(styles[0]); i++)
        if (strcasecmp(style, styles[i].name) == 0) {
            display->style = styles[i].style;
            return PLM_OK;
        }
    return plm_cli_fail(err, PLM_ARG, "--progress: \"%.40s\" is unknown", style);
}

/* Makes room for other lines: an unfinished bar goes, what a phase came to stays. */
static void settle(struct plm_display *d, bool keeps_bar)
{
    if (d->bar_columns && keeps_bar && !d->is_done)
        fputc('\n', stderr);
    else if (d->bar_columns)
        fprintf(stderr, "\r%*s\r", d->bar_columns, "");
    fputs(d->record, stderr);
    d->bar_columns = 0;
    d->record[0] = '\0';
}

/* 1234567 -> "1.2M". */
static const char *short_count(double value, char out[16])
{
    static const char units[] = " kMGTP";
    size_t unit = 0;

    while (value >= 9999.5 && unit + 2 < sizeof(units)) {
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(out, 16, "%.0f", value);
    else
        snprintf(out, 16, "%.*f%c", value < 99.95 ? 1 : 0, value, units[unit]);
    return out;
}

static const char *duration(double seconds, char out[24])
{
    unsigned long s = seconds < 0 ? 0 : seconds > 1e8 ? 100000000ul : (unsigned long)(seconds + 0.5);

    if (s >= 3600)
        snprintf(out, 24, "%luh%02lum", s / 3600, s / 60 % 60);
    else
        snprintf(out, 24, "%lu:%02lu", s / 60, s % 60);
    return out;
}

/* "1.2M/2.7M rows  310k/s  0:12 left" */
static void describe(const struct plm_progress *p, char *out, size_t size)
{
    char done[16], total[16], rate[16], left[24];
    double per_second = p->seconds > 0 ? (double)p->done / p->seconds : 0;
    bool is_known = p->total > 0;
    size_t n = (size_t)snprintf(out, size, "%s%s%s %s", short_count((double)p->done, done),
                                is_known ? "/" : "",
                                is_known ? short_count((double)p->total, total) : "", p->unit);

    if (per_second >= 1 && strcmp(p->unit, "steps") != 0 && n < size)
        n += (size_t)snprintf(out + n, size - n, "  %s/s", short_count(per_second, rate));
    if (is_known && per_second > 0 && p->done < p->total && p->seconds > 1 && n < size)
        snprintf(out + n, size - n, "  %s left",
                 duration((double)(p->total - p->done) / per_second, left));
}

static int terminal_columns(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

/* "[####....] " of a width that leaves room for the numbers: these say more. */
static void draw_bar(const struct plm_progress *p, int columns, char out[BAR_MAX + 4])
{
    int width = columns >= 60 ? BAR_MAX : columns >= 40 ? 8 : 0, filled = 0;

    if (p->total)
        filled = (int)((double)(p->done < p->total ? p->done : p->total) / (double)p->total * width);
    *out = '\0';
    if (width == 0)
        return;
    *out++ = '[';
    memset(out, '#', (size_t)filled);
    memset(out + filled, '.', (size_t)(width - filled));
    strcpy(out + width, "] ");
}

/* A line of the bar, cut to the terminal's width; `more` comes last. */
static void make_line(const struct plm_progress *p, const char *more, char *out, size_t size)
{
    char facts[160], bar[BAR_MAX + 4];
    int columns = terminal_columns() - 1;

    draw_bar(p, columns, bar);
    describe(p, facts, sizeof(facts));
    snprintf(out, size, "%-7s %s%3.0f%%  %s%s%s", p->phase, bar,
             p->total ? 100.0 * (double)p->done / (double)p->total : 0.0, facts, *more ? "  " : "", more);
    if ((size_t)columns < size)
        out[columns] = '\0';
}

static void show_bar(struct plm_display *d, const struct plm_progress *p)
{
    char line[sizeof(d->record) - 1], took[24], more[32];

    make_line(p, p->detail, line, sizeof(line));
    int n = (int)strlen(line);
    fprintf(stderr, "\r%s%*s", line, d->bar_columns > n ? d->bar_columns - n : 0, "");
    d->bar_columns = n;
    fflush(stderr);
    d->record[0] = '\0';
    if (!d->is_done)
        return;
    snprintf(more, sizeof(more), "in %s", duration(p->seconds, took));
    make_line(p, more, line, sizeof(line));
    snprintf(d->record, sizeof(d->record), "%s\n", line);
}

static void show_plain(struct plm_display *d, const struct plm_progress *p)
{
    char facts[160], took[24];

    if (!d->is_done && p->seconds - d->last_line < PLAIN_SECONDS)
        return;
    d->last_line = p->seconds;
    describe(p, facts, sizeof(facts));
    if (d->is_done)
        snprintf(d->record, sizeof(d->record), "%s: done in %s, %s\n", p->phase, duration(p->seconds, took), facts);
    else
        fprintf(stderr, "%s: %s%s%s\n", p->phase, facts, p->detail[0] ? ", " : "", p->detail);
}

static void show_json(const struct plm_progress *p)
{
    json_t *line = json_pack("{s:s,s:s,s:I,s:I,s:s,s:I,s:I,s:f}", "phase", p->phase, "detail",
                             p->detail, "done", (json_int_t)p->done, "total",
                             (json_int_t)p->total, "unit", p->unit, "bytes_read",
                             (json_int_t)p->bytes_read, "bytes_written",
                             (json_int_t)p->bytes_written, "seconds", p->seconds);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
    json_decref(line);
}

void plm_display_progress(void *arg, const struct plm_progress *progress)
{
    struct plm_cli *cli = arg;
    struct plm_display *d = &cli->display;
    struct plm_progress p = *progress;

    p.phase = p.phase ? p.phase : "";
    p.detail = p.detail ? p.detail : "";
    p.unit = p.unit ? p.unit : "";
    if (strncmp(d->phase, p.phase, sizeof(d->phase) - 1) != 0) {
        settle(d, true);
        d->last_line = 0;
        snprintf(d->phase, sizeof(d->phase), "%s", p.phase);
    }
    d->is_done = p.total && p.done >= p.total;
    switch (d->style) {
    case PLM_SHOW_NONE:
        return;
    case PLM_SHOW_BAR:
        show_bar(d, &p);
        return;
    case PLM_SHOW_PLAIN:
        show_plain(d, &p);
        return;
    case PLM_SHOW_JSON:
        show_json(&p);
        return;
    }
}

void plm_display_warn(void *arg, const char *message)
{
    struct plm_cli *cli = arg;

    settle(&cli->display, false);
    fprintf(stderr, "pilum: warning: %s\n", message);
}

void plm_display_end(struct plm_display *display)
{
    settle(display, true);
}
