/* cmd_search.c - pilum search. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define AT(field) offsetof(struct plm_cli_settings, field)
#define U32_MAX 4294967295u

static const struct plm_option search_options[] = {
    {.name = "column", .kind = PLM_OPTION_TEXT, .at = AT(column), .value = "C", .is_required = true,
     .help = "column of vectors"},
    {.name = "row", .kind = PLM_OPTION_COUNT, .at = AT(row), .given_at = AT(has_row),
     .value = "ROWID", .min = 0, .max = UINT64_MAX, .help = "search with the vector of this row"},
    {.name = "vector", .kind = PLM_OPTION_TEXT, .at = AT(vector), .value = "FILE.npy",
     .help = "search with this vector: shape [D] or [1, D]"},
    {.name = "k", .letter = 'k', .kind = PLM_OPTION_COUNT, .at = AT(k), .value = "N", .min = 1,
     .max = U32_MAX, .help = "how many neighbours (default 10)"},
    {.name = "nprobes", .kind = PLM_OPTION_COUNT, .at = AT(nprobes), .value = "N", .min = 1,
     .max = U32_MAX, .help = "partitions to look into (default 20)"},
    {.name = "refine-factor", .kind = PLM_OPTION_COUNT, .at = AT(refine_factor), .value = "F",
     .min = 0, .max = U32_MAX, .help = "score k * F candidates exactly (default 0: none)"},
    {.name = "exact", .kind = PLM_OPTION_FLAG, .at = AT(exact),
     .help = "compare with every row, use no index"},
    {.name = "index", .kind = PLM_OPTION_TEXT, .at = AT(index), .value = "NAME",
     .help = "which index (default: the column's first)"},
    {.kind = PLM_OPTION_END}};

/* ---- the query -------------------------------------------------------------------------- */

/* IEEE 754 half precision. */
static float float_of_half(uint16_t half)
{
    int exponent = half >> 10 & 31;
    float fraction = (float)(half & 1023), value;

    if (exponent == 31)
        value = fraction > 0 ? __builtin_nanf("") : __builtin_inff();
    else if (exponent == 0)
        value = fraction * 0x1p-24f;
    else
        value = (1024 + fraction) * (exponent >= 25 ? (float)(1u << (exponent - 25))
                                                    : 1 / (float)(1u << (25 - exponent)));
    return half & 0x8000 ? -value : value;
}

static float value_at(const struct plm_npy *npy, size_t i)
{
    const char *at = (const char *)npy->file + i * (size_t)npy->element;
    uint16_t half;
    float single;
    double wide;

    switch (npy->element) {
    case 2:
        memcpy(&half, at, 2);
        return float_of_half(half);
    case 4:
        memcpy(&single, at, 4);
        return single;
    default:
        memcpy(&wide, at, 8);
        return (float)wide;
    }
}

static enum plm_code read_vector(const char *path, float **out, size_t *dim, struct plm_err *err)
{
    struct plm_npy npy = {0};
    enum plm_code rc = plm_npy_read(path, &npy, err);

    if (rc != PLM_OK)
        return rc;
    size_t n = npy.n_dims == 1 ? npy.shape[0] : npy.shape[1];
    float *values = NULL;
    if (npy.n_dims > 2 || (npy.n_dims == 2 && npy.shape[0] != 1) || n == 0)
        rc = plm_cli_fail(err, PLM_ARG, "--vector: %s is not one vector, of shape [D] or [1, D]",
                          path);
    else if (!(values = malloc(n * sizeof(*values))))
        rc = plm_cli_fail(err, PLM_NOMEM, "out of memory");
    for (size_t i = 0; rc == PLM_OK && i < n; i++) {
        values[i] = value_at(&npy, i);
        if (!isfinite(values[i]))
            rc = plm_cli_fail(err, PLM_ARG, "--vector: value %zu of %s is not finite, or beyond the range of float32",
                              i, path);
    }
    free(npy.file);
    if (rc != PLM_OK) {
        free(values);
        return rc;
    }
    *out = values;
    *dim = n;
    return PLM_OK;
}

/* ---- printing ----------------------------------------------------------------------------- */

/* null for what JSON has no number for, as everywhere. */
static json_t *distance_json(float distance)
{
    return isfinite(distance) ? json_real((double)distance) : json_null();
}

static json_t *hits_json(const struct plm_hits *hits)
{
    json_t *rows = json_array();

    for (size_t i = 0; rows && i < hits->n; i++) {
        /* JSON integers are signed here; row ids above 2^63 do not occur in Lance. */
        json_t *row = json_pack("{s:I,s:o}", "rowid", (json_int_t)hits->rowids[i], "distance",
                                distance_json(hits->distances[i]));
        if (!row || json_array_append_new(rows, row) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return json_pack("{s:o,s:I,s:I,s:f}", "rows", rows, "nprobes", (json_int_t)hits->nprobes,
                     "rows_scanned", (json_int_t)hits->rows_scanned, "seconds", hits->seconds);
}

static enum plm_code print_json(const struct plm_hits *hits, struct plm_err *err)
{
    json_t *root = hits_json(hits);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;

    json_decref(root);
    if (!text)
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    puts(text);
    free(text);
    return PLM_OK;
}

static void print_table(const struct plm_hits *hits)
{
    printf("%20s  %s\n", "row id", "distance");
    for (size_t i = 0; i < hits->n; i++)
        printf("%20" PRIu64 "  %.7g\n", hits->rowids[i], (double)hits->distances[i]);
    if (hits->nprobes)
        printf("%zu row%s from %" PRIu32 " partition%s, %" PRIu64 " compared, %.1f ms\n", hits->n,
               hits->n == 1 ? "" : "s", hits->nprobes, hits->nprobes == 1 ? "" : "s", hits->rows_scanned,
               hits->seconds * 1e3);
    else
        printf("%zu row%s by an exact scan, %" PRIu64 " compared, %.1f ms\n", hits->n, hits->n == 1 ? "" : "s",
               hits->rows_scanned, hits->seconds * 1e3);
}

static enum plm_code run_search(struct plm_cli *cli, struct plm_err *err)
{
    const struct plm_cli_settings *s = &cli->settings;
    struct plm_search_options options;
    struct plm_hits hits = {0};
    float *vector = NULL;
    enum plm_code rc = PLM_OK;

    if (s->has_row == (s->vector != NULL))
        return plm_cli_fail(err, PLM_ARG, "search needs either --row ROWID or --vector FILE.npy");
    plm_search_options_default(&options);
    options.column = s->column;
    options.index = s->index;
    options.rowid = s->row;
    options.k = (uint32_t)s->k;
    options.nprobes = (uint32_t)s->nprobes;
    options.refine_factor = (uint32_t)s->refine_factor;
    options.exact = s->exact;
    if (s->vector && (rc = read_vector(s->vector, &vector, &options.dim, err)))
        return rc;
    options.vector = vector;
    if ((rc = plm_cli_open(cli, err)) ||
        (rc = plm_search(cli->ctx, &cli->table, &options, &hits, err)))
        goto done;
    if (s->json)
        rc = print_json(&hits, err);
    else
        print_table(&hits);
done:
    plm_hits_reset(&hits);
    free(vector);
    return rc;
}

const struct plm_command plm_cmd_search = {
    .name = "search",
    .summary = "nearest neighbours of a vector or a row",
    .takes_table = true,
    .tables = {search_options, plm_table_options, plm_common_options},
    .run = run_search,
    .notes = "Without an index on the column "
             "every row is compared; nprobes is then reported as 0.\n"
             "--exact uses the metric of the index."};
