/* human_table.c - plan, inspect, verify, gc and version for a person. */
#include <math.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/human.h"

/* ---- plan ---------------------------------------------------------------------------------- */

static void print_estimate(FILE *to, const json_t *root)
{
    static const char *const phases[] = {"plan",   "train",  "encode", "merge",
                                         "verify", "commit", "total"};
    static const struct {
        const char *key, *text;
    } sizes[] = {{"peak_rss_bytes", "memory"}, {"bytes_read", "read"}, {"bytes_written", "written"}};
    char path[64];

    fprintf(to, "%sestimate%s\n", plm_bold(to), plm_plain(to));
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        snprintf(path, sizeof(path), "plan.%s", phases[i]);
        if (plm_has_number(root, path))
            fprintf(to, "  %-8s %12s\n", phases[i], plm_text_seconds(plm_number_at(root, path)).s);
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        snprintf(path, sizeof(path), "plan.%s", sizes[i].key);
        if (plm_has_number(root, path))
            fprintf(to, "  %-8s %12s\n", sizes[i].text,
                    plm_text_bytes(plm_number_at(root, path)).s);
    }
}

bool plm_human_plan(FILE *to, const char *json)
{
    json_t *root = plm_human_load(json), *note;
    size_t i;

    if (!root)
        return false;
    fprintf(to, "%s%s%s, %s, %s\n", plm_bold(to), plm_string_at(root, "index.name"), plm_plain(to),
            plm_string_at(root, "index.type"), plm_string_at(root, "index.metric"));
    fprintf(to, "  %-14s %s\n", "rows", plm_text_count(plm_number_at(root, "rows.total")).s);
    fprintf(to, "  %-14s %s\n", "partitions",
            plm_text_count(plm_number_at(root, "index.num_partitions")).s);
    if (plm_has_number(root, "index.num_sub_vectors"))
        fprintf(to, "  %-14s %s of %.0f bits\n", "sub-vectors",
                plm_text_count(plm_number_at(root, "index.num_sub_vectors")).s,
                plm_number_at(root, "index.num_bits"));
    fprintf(to, "  %-14s %s\n", "tasks", plm_text_count(plm_number_at(root, "tasks")).s);
    print_estimate(to, root);
    json_array_foreach (plm_at(root, "notes"), i, note)
        if (json_is_string(note))
            fprintf(to, "note: %s\n", json_string_value(note));
    json_decref(root);
    return true;
}

/* ---- inspect --------------------------------------------------------------------------------- */

static void print_segment(FILE *to, const json_t *segment)
{
    const json_t *partitions = plm_at(segment, "partitions");

    fprintf(to, "  segment %s, %s", plm_string_at(segment, "uuid"),
            plm_text_of((double)json_array_size(plm_at(segment, "fragments")), "fragment").s);
    if (!json_is_object(partitions)) {
        fputc('\n', to);
        return;
    }
    fprintf(to, ", %s in %s (mean %s, largest %s, empty %s, cv %.2f)\n",
            plm_text_of(plm_number_at(segment, "rows"), "row").s,
            plm_text_of(plm_number_at(partitions, "count"), "partition").s,
            plm_text_count(plm_number_at(partitions, "mean")).s,
            plm_text_count(plm_number_at(partitions, "max")).s,
            plm_text_count(plm_number_at(partitions, "empty")).s, plm_number_at(partitions, "cv"));
    plm_print_histogram(to, plm_at(partitions, "sizes"));
}

static void print_index(FILE *to, const json_t *index)
{
    size_t i;
    json_t *segment;

    fprintf(to, "\n%s%s%s  %s on %s", plm_bold(to), plm_string_at(index, "name"), plm_plain(to),
            plm_string_at(index, "type"), plm_string_at(index, "column"));
    if (json_is_string(plm_at(index, "metric")))
        fprintf(to, ", %s", plm_string_at(index, "metric"));
    if (plm_has_number(index, "num_sub_vectors"))
        fprintf(to, ", %.0f sub-vectors of %.0f bits", plm_number_at(index, "num_sub_vectors"),
                plm_number_at(index, "num_bits"));
    if (plm_number_at(index, "fragments_unindexed") > 0)
        fprintf(to, ", %s not covered", plm_text_of(plm_number_at(index, "fragments_unindexed"), "fragment").s);
    fputc('\n', to);
    json_array_foreach (plm_at(index, "segments"), i, segment)
        print_segment(to, segment);
}

bool plm_human_inspect(FILE *to, const char *json)
{
    json_t *root = plm_human_load(json), *item;
    size_t i;

    if (!root)
        return false;
    bool is_main = !json_is_string(plm_at(root, "branch"));
    fprintf(to, "%s%s%s%s%s, version %.0f: %s in %s\n", plm_bold(to), plm_string_at(root, "table"), plm_plain(to),
            is_main ? "" : ", branch ", is_main ? "" : plm_string_at(root, "branch"), plm_number_at(root, "version"),
            plm_text_of(plm_number_at(root, "rows"), "row").s,
            plm_text_of(plm_number_at(root, "fragments"), "fragment").s);
    json_array_foreach (plm_at(root, "columns"), i, item)
        fprintf(to, "  %-24s %s\n", plm_string_at(item, "name"), plm_string_at(item, "type"));
    json_array_foreach (plm_at(root, "indexes"), i, item)
        print_index(to, item);
    if (json_array_size(plm_at(root, "indexes")) == 0)
        fprintf(to, "no index\n");
    json_decref(root);
    return true;
}

/* ---- verify, gc, version ----------------------------------------------------------------------- */

/* Values of an object on one line: kind=..., rowid=..., ... */
static void print_object(FILE *to, const json_t *object)
{
    const char *key;
    json_t *value;

    fprintf(to, " ");
    json_object_foreach ((json_t *)(uintptr_t)object, key, value) {
        if (json_is_string(value))
            fprintf(to, " %s=%s", key, json_string_value(value));
        else if (json_is_integer(value))
            fprintf(to, " %s=%lld", key, (long long)json_integer_value(value));
        else if (json_is_number(value))
            fprintf(to, " %s=%g", key, json_number_value(value));
        else if (json_is_boolean(value))
            fprintf(to, " %s=%s", key, json_is_true(value) ? "yes" : "no");
    }
    fputc('\n', to);
}

bool plm_human_verify(FILE *to, const char *json)
{
    json_t *root = plm_human_load(json), *problem;
    const json_t *index;
    size_t i;

    if (!root)
        return false;
    index = plm_at(root, "index");
    fprintf(to, "%s%s%s: %s checked, %s misfiled, %s\n", plm_bold(to),
            json_is_string(index) ? json_string_value(index) : plm_string_at(index, "name"),
            plm_plain(to), plm_text_of(plm_number_at(root, "checked_rows"), "row").s,
            plm_text_count(plm_number_at(root, "misfiled")).s,
            plm_text_of(plm_number_at(root, "n_problems"), "problem").s);
    json_array_foreach (plm_at(root, "problems"), i, problem)
        print_object(to, problem);
    plm_print_recall(to, plm_at(root, "recall_at_10"));
    json_decref(root);
    return true;
}

/* 40 s, 12 minutes, 3 days; a clock that is behind makes nothing negative. */
static struct plm_text age_text(double seconds)
{
    static const struct {
        double seconds;
        const char *unit;
    } units[] = {{86400, "days"}, {3600, "hours"}, {60, "minutes"}, {0, "s"}};
    struct plm_text out;
    size_t i = 0;

    while (seconds < 2 * units[i].seconds)
        i++;
    snprintf(out.s, sizeof out.s, "%.0f %s", floor(fmax(seconds, 0) / fmax(units[i].seconds, 1)), units[i].unit);
    return out;
}

/* One thing that gc found: its name, what it holds, its age. */
static void print_found(FILE *to, const json_t *item)
{
    double age = (double)time(NULL) - plm_number_at(item, "modified_ms") / 1000;
    const char *name = json_string_value(plm_at(item, "job"));

    fprintf(to, "  %s", name ? name : plm_string_at(item, "path"));
    if (plm_has_number(item, "bytes"))
        fprintf(to, ", %s", plm_text_bytes(plm_number_at(item, "bytes")).s);
    fprintf(to, ", %s old%s\n", age_text(age).s, json_is_true(plm_at(item, "removed")) ? ": removed" : "");
}

bool plm_human_gc(FILE *to, const char *json)
{
    static const struct {
        const char *key, *text;
    } kinds[] = {{"jobs", "unfinished builds"}, {"uploads", "unfinished uploads"}, {"files", "temporary files"}};
    json_t *root = plm_human_load(json), *item;
    const json_t *jobs = plm_at(root, "jobs"), *busy = plm_at(root, "at_work");
    size_t i, n_found = 0;

    if (!json_is_array(jobs)) {
        json_decref(root);
        return false;
    }
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const json_t *found = plm_at(root, kinds[k].key);

        n_found += json_array_size(found);
        if (json_array_size(found) > 0)
            fprintf(to, "%s\n", kinds[k].text);
        json_array_foreach (found, i, item)
            print_found(to, item);
    }
    if (n_found == 0)
        fprintf(to, "nothing was left behind\n");
    if (json_array_size(busy) > 0)
        fprintf(to, "%zu at work, left alone\n", json_array_size(busy));
    json_decref(root);
    return true;
}

bool plm_human_version(FILE *to, const char *json, bool verbose)
{
    json_t *root = plm_human_load(json);

    if (!json_is_object(root)) {
        json_decref(root);
        return false;
    }
    fprintf(to, "pilum %s\n", plm_string_at(root, "pilum"));
    if (verbose) {
        fprintf(to, "  %-14s %s\n", "kernels", plm_string_at(root, "kernels"));
        fprintf(to, "  %-14s %.0f\n", "threads", plm_number_at(root, "threads"));
        fprintf(to, "  %-14s %s\n", "memory budget", plm_text_bytes(plm_number_at(root, "memory_budget_bytes")).s);
    }
    json_decref(root);
    return true;
}
