/* cmd_build.c - pilum create-index, pilum plan. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define AT(field) offsetof(struct plm_cli_settings, field)
#define U32_MAX 4294967295u
#define I63_MAX 9223372036854775807u

static const struct plm_option build_options[] = {
    {.name = "column", .kind = PLM_OPTION_TEXT, .at = AT(column), .value = "C", .is_required = true,
     .help = "column of vectors; s.vec for a nested one, `a.b` for a dot in a name"},
    {.name = "type", .kind = PLM_OPTION_CHOICE, .at = AT(type), .value = "T", .is_required = true,
     .choices = "IVF_FLAT|IVF_SQ|IVF_PQ", .help = "kind of index"},
    {.name = "name", .kind = PLM_OPTION_TEXT, .at = AT(name), .value = "NAME",
     .help = "name of the index (default: <column>_idx)"},
    {.name = "metric", .kind = PLM_OPTION_CHOICE, .at = AT(metric),
     .choices = "l2|euclidean|cosine|dot", .help = "default: l2"},
    {.name = "num-partitions", .kind = PLM_OPTION_COUNT, .at = AT(num_partitions), .value = "N",
     .min = 1, .max = U32_MAX, .help = "default: rows / 4096 (FLAT) or / 8192 (SQ, PQ)"},
    {.name = "num-sub-vectors", .kind = PLM_OPTION_COUNT, .at = AT(num_sub_vectors), .value = "N",
     .min = 1, .max = U32_MAX, .help = "PQ; default: dimension / 16, else / 8"},
    {.name = "num-bits", .kind = PLM_OPTION_CHOICE, .at = AT(num_bits), .choices = "8|4",
     .help = "PQ bits of a code (default 8)"},
    {.name = "sample-rate", .kind = PLM_OPTION_COUNT, .at = AT(sample_rate), .value = "N", .min = 1,
     .max = U32_MAX, .help = "training rows for each partition (default 256)"},
    {.name = "max-iters", .kind = PLM_OPTION_COUNT, .at = AT(max_iters), .value = "N", .min = 1,
     .max = U32_MAX, .help = "most passes of each k-means (default 50)"},
    {.name = "seed", .kind = PLM_OPTION_COUNT, .at = AT(seed), .value = "N", .min = 0,
     .max = UINT64_MAX, .help = "default 42"},
    {.name = "ivf-centroids", .kind = PLM_OPTION_TEXT, .at = AT(centroids), .value = "FILE.npy",
     .help = "[K, D]: use these partitions instead of training them"},
    {.name = "pq-codebook", .kind = PLM_OPTION_TEXT, .at = AT(codebook), .value = "FILE.npy",
     .help = "[M, 2^bits, D/M]: use this codebook instead of training it"},
    {.name = "fragments", .kind = PLM_OPTION_TEXT, .at = AT(fragments), .value = "0,3,7-9",
     .help = "index only these fragments (default: all)"},
    {.name = "num-segments", .kind = PLM_OPTION_COUNT, .at = AT(num_segments), .value = "N",
     .min = 1, .max = U32_MAX, .help = "default 1"},
    {.name = "replace", .kind = PLM_OPTION_FLAG, .at = AT(replace),
     .help = "replace an index of the same name (default)"},
    {.name = "no-replace", .kind = PLM_OPTION_CLEAR, .at = AT(replace),
     .help = "fail when there is one"},
    {.name = "work-dir", .kind = PLM_OPTION_TEXT, .at = AT(work_dir), .value = "DIR",
     .help = "unfinished work (default: _pilum in a local table, else the temporary directory)"},
    {.name = "verify", .kind = PLM_OPTION_CHOICE, .at = AT(verify), .choices = "none|sample|full",
     .help = "check before committing (default sample)"},
    {.name = "report", .kind = PLM_OPTION_TEXT, .at = AT(report), .value = "FILE.json",
     .help = "write the report there too"},
    {.name = "restart", .kind = PLM_OPTION_FLAG, .at = AT(restart),
     .help = "throw an unfinished job away instead of carrying on"},
    {.kind = PLM_OPTION_END}};

/* ---- from settings to options ----------------------------------------------------------- */

/* The matrices and lists that the options borrow. */
struct inputs {
    struct plm_npy centroids, codebook;
    uint64_t *fragments;
};

static void free_inputs(struct inputs *in)
{
    free(in->centroids.file);
    free(in->codebook.file);
    free(in->fragments);
}

static enum plm_code read_matrix(const char *option, const char *path, size_t n_dims,
                                 struct plm_npy *npy, struct plm_matrix_view *view,
                                 struct plm_err *err)
{
    if (!path)
        return PLM_OK;
    enum plm_code rc = plm_npy_read(path, npy, err);
    if (rc != PLM_OK)
        return rc;
    if (npy->n_dims != n_dims)
        return plm_cli_fail(err, PLM_ARG, "--%s: %s has %zu dimensions, expected %zu", option, path,
                            npy->n_dims, n_dims);
    *view = (struct plm_matrix_view){
        .data = npy->file, .element = npy->element, .n_dims = npy->n_dims};
    memcpy(view->shape, npy->shape, sizeof(view->shape));
    return PLM_OK;
}

static enum plm_code take_fragments(const char *text, struct inputs *in, size_t *n,
                                    struct plm_err *err)
{
    struct plm_err inner;
    enum plm_code rc = plm_ranges_parse(text, &in->fragments, n, &inner);

    return rc ? plm_cli_fail(err, rc, "--fragments: %.900s", inner.message) : PLM_OK;
}

static enum plm_code make_options(const struct plm_cli_settings *s, struct inputs *in,
                                  struct plm_build_options *o, struct plm_err *err)
{
    enum plm_code rc;

    plm_build_options_default(o);
    o->column = s->column;
    o->type = s->type;
    o->name = s->name;
    o->metric = s->metric ? s->metric : o->metric;
    o->num_partitions = s->num_partitions;
    o->num_sub_vectors = s->num_sub_vectors;
    o->num_bits = s->num_bits ? (uint32_t)(*s->num_bits - '0') : o->num_bits;
    o->sample_rate = s->sample_rate;
    o->max_iters = (uint32_t)s->max_iters;
    o->seed = s->seed;
    o->num_segments = s->num_segments;
    o->replace = s->replace;
    o->work_dir = s->work_dir;
    o->verify = s->verify ? s->verify : o->verify;
    o->restart = s->restart;
    if (s->fragments && (rc = take_fragments(s->fragments, in, &o->n_fragments, err)))
        return rc;
    o->fragments = in->fragments;
    if ((rc = read_matrix("ivf-centroids", s->centroids, 2, &in->centroids, &o->ivf_centroids, err)))
        return rc;
    return read_matrix("pq-codebook", s->codebook, 3, &in->codebook, &o->pq_codebook, err);
}

/* ---- the commands ------------------------------------------------------------------------- */

typedef enum plm_code build_fn(struct plm_ctx *ctx, const struct plm_table_ref *table,
                               const struct plm_build_options *options, char **json, struct plm_err *err);
typedef bool print_fn(FILE *to, const char *json);

/* Plans or builds, as `call` does, and prints what it came to. */
static enum plm_code run_build(struct plm_cli *cli, build_fn *call, print_fn *print, struct plm_err *err)
{
    struct inputs in = {0};
    struct plm_build_options options;
    struct plm_report_file report = {0};
    char *json = NULL;
    enum plm_code rc;

    if ((rc = make_options(&cli->settings, &in, &options, err)) || (rc = plm_cli_open(cli, err)) ||
        (rc = plm_report_open(cli->settings.report, &report, err)) ||
        (rc = call(cli->ctx, &cli->table, &options, &json, err)) || (rc = plm_report_finish(&report, json, err)))
        goto done;
    plm_display_end(&cli->display);
    if (cli->settings.json || !print(stdout, json))
        puts(json);
done:
    plm_report_abandon(&report);
    plm_string_free(json);
    free_inputs(&in);
    return rc;
}

static enum plm_code run_create_index(struct plm_cli *cli, struct plm_err *err)
{
    enum plm_code rc = run_build(cli, plm_create_index, plm_human_report, err);

    return rc == PLM_CANCELLED ? plm_cli_fail(err, rc, "interrupted; the same command carries on") : rc;
}

static enum plm_code run_plan(struct plm_cli *cli, struct plm_err *err)
{
    return run_build(cli, plm_plan_index, plm_human_plan, err);
}

const struct plm_command plm_cmd_create_index = {
    .name = "create-index",
    .summary = "build an index and commit it to the table",
    .takes_table = true,
    .tables = {build_options, plm_table_options, plm_common_options},
    .run = run_create_index,
    .notes = "A build that was interrupted is carried on by the same command."};

const struct plm_command plm_cmd_plan = {
    .name = "plan",
    .summary = "what create-index would do; touches nothing",
    .takes_table = true,
    .tables = {build_options, plm_table_options, plm_common_options},
    .run = run_plan};
