/* plan.c - settles every option against the table. */
#include <ctype.h>
#include <math.h>
#include <strings.h>

#include "build/plan_parts.h"
#include "simd/simd.h"

void plm_build_options_default(struct plm_build_options *options)
{
    *options = (struct plm_build_options){
        .struct_bytes = sizeof *options,
        .metric = "l2",
        .num_bits = 8,
        .sample_rate = 256,
        .max_iters = 50,
        .seed = 42,
        .num_segments = 1,
        .replace = true,
        .verify = "sample",
    };
}

void plm_plan_reset(struct plm_plan *plan)
{
    struct plm_ctx *ctx = plan->ctx;
    if (!ctx)
        return;
    for (size_t i = 0; i < plan->n_segments; i++)
        plm_free(ctx, plan->segments[i].fragments);
    plm_free(ctx, plan->segments);
    plm_free(ctx, plan->tasks);
    plm_free(ctx, plan->fragments);
    plm_free(ctx, plan->column_path);
    plm_free(ctx, plan->index_name);
    *plan = (struct plm_plan){0};
}

/* ---- options that no table can make right: PLM_ARG --------------------------------- */

static enum plm_code read_type(const char *type, enum plm_quantizer *out, struct plm_err *err)
{
    if (!type)
        return plm_fail(err, PLM_ARG, "no index type given; expected IVF_FLAT, IVF_SQ or IVF_PQ");
    for (int q = PLM_FLAT; q <= PLM_PQ; q++)
        if (strcasecmp(type, plm_quantizer_type((enum plm_quantizer)q)) == 0) {
            *out = (enum plm_quantizer)q;
            return PLM_OK;
        }
    if (strcasecmp(type, "IVF_RQ") == 0 || strncasecmp(type, "IVF_HNSW", 8) == 0)
        return plm_fail(err, PLM_ARG, "index type %s is not built yet; expected IVF_FLAT, IVF_SQ or IVF_PQ", type);
    return plm_fail(err, PLM_ARG, "unknown index type \"%.40s\"; expected IVF_FLAT, IVF_SQ or IVF_PQ", type);
}

static enum plm_code read_metric(const char *metric, enum plm_metric *out, struct plm_err *err)
{
    if (!metric || strcasecmp(metric, "euclidean") == 0)
        metric = "l2";
    for (int m = PLM_L2; m <= PLM_DOT; m++)
        if (strcasecmp(metric, plm_metric_name((enum plm_metric)m)) == 0) {
            *out = (enum plm_metric)m;
            return PLM_OK;
        }
    return plm_fail(err, PLM_ARG, "unknown metric \"%.40s\"; expected l2, cosine or dot", metric);
}

static enum plm_code check_matrix(const char *what, const struct plm_matrix_view *m, size_t n_dims,
                                  struct plm_err *err)
{
    if (m->n_dims != n_dims)
        return plm_fail(err, PLM_ARG, "%s: %zu dimensions, expected %zu", what, m->n_dims, n_dims);
    if (m->element != 2 && m->element != 4 && m->element != 8)
        return plm_fail(err, PLM_ARG, "%s: elements of %d bytes, expected float16, 32 or 64", what,
                        m->element);
    for (size_t i = 0; i < n_dims; i++)
        if (m->shape[i] == 0)
            return plm_fail(err, PLM_ARG, "%s: dimension %zu is empty", what, i);
    return PLM_OK;
}

static enum plm_code read_numbers(const struct plm_build_options *o, struct plm_plan *p,
                                  struct plm_err *err)
{
    if (o->num_partitions > PLM_PARTITIONS_MAX)
        return plm_fail(err, PLM_ARG, "num_partitions is %" PRIu64 ", expected 1..%u",
                        o->num_partitions, PLM_PARTITIONS_MAX);
    if (o->num_bits != 8 && o->num_bits != 4)
        return plm_fail(err, PLM_ARG, "num_bits is %u, expected 8 or 4", o->num_bits);
    if (o->num_sub_vectors > UINT32_MAX)
        return plm_fail(err, PLM_ARG, "num_sub_vectors is %" PRIu64, o->num_sub_vectors);
    if (p->quantizer == PLM_PQ && o->num_bits == 4 && o->num_sub_vectors % 2)
        return plm_fail(err, PLM_ARG, "num_sub_vectors is %" PRIu64 "; 4-bit codes need an even number",
                        o->num_sub_vectors);
    if (o->sample_rate == 0 || o->max_iters == 0 || o->num_segments == 0)
        return plm_fail(err, PLM_ARG, "%s is 0, expected at least 1",
                        o->sample_rate == 0 ? "sample_rate" : o->max_iters == 0 ? "max_iters" : "num_segments");
    p->asked_partitions = o->ivf_centroids.data ? o->ivf_centroids.shape[0] : o->num_partitions;
    p->asked_sub_vectors = o->pq_codebook.data ? o->pq_codebook.shape[0] : o->num_sub_vectors;
    p->num_bits = o->num_bits;
    p->sample_rate = o->sample_rate;
    p->max_iters = o->max_iters;
    p->seed = o->seed;
    p->replace = o->replace;
    return PLM_OK;
}

static enum plm_code check_models(const struct plm_build_options *o, const struct plm_plan *p,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if (o->ivf_centroids.data) {
        PLM_TRY(check_matrix("ivf_centroids", &o->ivf_centroids, 2, err));
        if (o->num_partitions && o->num_partitions != o->ivf_centroids.shape[0])
            return plm_fail(err, PLM_ARG, "ivf_centroids has %zu rows, num_partitions is %" PRIu64,
                            o->ivf_centroids.shape[0], o->num_partitions);
        if (o->ivf_centroids.shape[0] > PLM_PARTITIONS_MAX)
            return plm_fail(err, PLM_ARG, "ivf_centroids has %zu rows, expected 1..%u",
                            o->ivf_centroids.shape[0], PLM_PARTITIONS_MAX);
    }
    if (o->pq_codebook.data) {
        if (p->quantizer != PLM_PQ)
            return plm_fail(err, PLM_ARG, "pq_codebook is for IVF_PQ, not for %s",
                            plm_quantizer_type(p->quantizer));
        PLM_TRY(check_matrix("pq_codebook", &o->pq_codebook, 3, err));
        if (o->pq_codebook.shape[1] != (size_t)1 << o->num_bits)
            return plm_fail(err, PLM_ARG, "pq_codebook has %zu codewords, expected %u for %u bits",
                            o->pq_codebook.shape[1], 1u << o->num_bits, o->num_bits);
        if (o->num_sub_vectors && o->num_sub_vectors != o->pq_codebook.shape[0])
            return plm_fail(err, PLM_ARG, "pq_codebook is for %zu sub-vectors, num_sub_vectors is %" PRIu64,
                            o->pq_codebook.shape[0], o->num_sub_vectors);
    }
done:
    return rc;
}

enum plm_code plm_options_check(const struct plm_build_options *o, struct plm_plan *p,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if (o->struct_bytes != sizeof *o)
        return plm_fail(err, PLM_ARG, "build options: struct_bytes is %zu; fill them with "
                        "plm_build_options_default() first", o->struct_bytes);
    if (!o->column || !*o->column)
        return plm_fail(err, PLM_ARG, "no column given");
    if (o->name && !*o->name)
        return plm_fail(err, PLM_ARG, "the index name is empty");
    if (o->name && !plm_is_utf8(o->name))
        return plm_fail(err, PLM_ARG, "the index name is not UTF-8: \"%.80s\"", o->name);
    if (o->verify && strcmp(o->verify, "none") && strcmp(o->verify, "sample") && strcmp(o->verify, "full"))
        return plm_fail(err, PLM_ARG, "verify is \"%.20s\"; expected none, sample or full", o->verify);
    PLM_TRY(read_type(o->type, &p->quantizer, err));
    PLM_TRY(read_metric(o->metric, &p->metric, err));
    PLM_TRY(read_numbers(o, p, err));
    PLM_TRY(check_models(o, p, err));
done:
    return rc;
}

/* ---- the job's name ------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static enum plm_code copy_fragments(const struct plm_build_options *o, struct plm_plan *p,
                                    struct plm_err *err)
{
    p->has_fragments = o->fragments != NULL;
    if (!o->fragments)
        return PLM_OK;
    if (o->n_fragments == 0)
        return plm_fail(err, PLM_ARG, "the list of fragments is empty");
    enum plm_code rc = plm_alloc(p->ctx, &p->fragments, o->n_fragments, sizeof *p->fragments, err);
    if (rc != PLM_OK)
        return rc;
    memcpy(p->fragments, o->fragments, o->n_fragments * sizeof *p->fragments);
    qsort(p->fragments, o->n_fragments, sizeof *p->fragments, by_value);
    for (size_t i = 0; i < o->n_fragments; i++)
        if (i == 0 || p->fragments[i] != p->fragments[i - 1])
            p->fragments[p->n_fragments++] = p->fragments[i];
    return PLM_OK;
}

static uint64_t hash_matrix(const struct plm_matrix_view *m)
{
    size_t n = m->data ? (size_t)m->element : 0;
    for (size_t i = 0; m->data && i < m->n_dims; i++)
        n *= m->shape[i];
    return m->data ? plm_xxh3(m->data, n) | 1 : 0;
}

enum plm_code plm_plan_identify(struct plm_ctx *ctx, const struct plm_build_options *o,
                                const char *salt, struct plm_plan *p, struct plm_err *err)
{
    struct plm_buf key;
    char *numbers = NULL;
    enum plm_code rc = PLM_OK;

    p->ctx = ctx;
    plm_buf_init(&key, ctx, (size_t)16 << 20);
    PLM_TRY(plm_options_check(o, p, err));
    PLM_TRY(copy_fragments(o, p, err));
    p->centroids_xxh3 = hash_matrix(&o->ivf_centroids);
    p->codebook_xxh3 = hash_matrix(&o->pq_codebook);
    PLM_TRY(plm_strdup(ctx, o->column, &p->column_path, err));
    if (o->name)
        PLM_TRY(plm_strdup(ctx, o->name, &p->index_name, err));
    else
        PLM_TRY(plm_format(ctx, &p->index_name, err, "%s_idx", o->column));
    PLM_TRY(plm_format(ctx, &numbers, err,
                       "%d|%d|%" PRIu64 "|%" PRIu64 "|%u|%" PRIu64 "|%u|%" PRIu64 "|%" PRIx64 "|%" PRIx64
                       "|%" PRIu64 "|",
                       p->quantizer, p->metric, o->num_partitions, o->num_sub_vectors, o->num_bits,
                       o->sample_rate, o->max_iters, o->seed, p->centroids_xxh3, p->codebook_xxh3,
                       o->num_segments));
    PLM_TRY(plm_buf_add(&key, numbers, strlen(numbers), err));
    PLM_TRY(plm_buf_add(&key, p->column_path, strlen(p->column_path) + 1, err));
    PLM_TRY(plm_buf_add(&key, p->index_name, strlen(p->index_name) + 1, err));
    PLM_TRY(plm_buf_add(&key, salt, strlen(salt) + 1, err));
    PLM_TRY(plm_buf_add(&key, p->fragments, p->n_fragments * sizeof *p->fragments, err));
    uint64_t h = plm_xxh3(key.data, key.len);
    snprintf(p->id, sizeof p->id, "%016" PRIx64 "%016" PRIx64, h, plm_mix64(h, key.len));
done:
    plm_free(ctx, numbers);
    plm_buf_reset(&key);
    return rc;
}

/* ---- options against the table -------------------------------------------------------- */

static uint32_t default_partitions(enum plm_quantizer q, uint64_t n_rows)
{
    double k = round((double)n_rows / (q == PLM_FLAT ? 4096 : 8192));
    return k < 1 ? 1 : k > 4096 ? 4096 : (uint32_t)k;
}

static enum plm_code settle_partitions(const struct plm_build_options *o, struct plm_plan *p,
                                       struct plm_err *err)
{
    const struct plm_matrix_view *given = &o->ivf_centroids;
    if (given->data) {
        if (given->shape[1] != p->column.dim)
            return plm_fail(err, PLM_DATA, "ivf_centroids is for dimension %zu, column \"%s\" has %u",
                            given->shape[1], p->column_path, p->column.dim);
        p->num_partitions = (uint32_t)given->shape[0]; /* used as they are, however few the rows */
        return PLM_OK;
    }
    uint64_t k = p->asked_partitions ? p->asked_partitions : default_partitions(p->quantizer, p->n_live);
    p->num_partitions = (uint32_t)plm_min_u64(k, p->n_live);
    return PLM_OK;
}

static enum plm_code settle_sub_vectors(const struct plm_build_options *o, struct plm_plan *p,
                                        struct plm_err *err)
{
    uint32_t dim = p->column.dim;
    p->num_sub_vectors = (uint32_t)plm_min_u64(p->asked_sub_vectors, UINT32_MAX);
    if (p->quantizer != PLM_PQ) {
        p->num_sub_vectors = 0;
        return PLM_OK;
    }
    if (p->num_sub_vectors == 0)
        p->num_sub_vectors = dim % 16 == 0 ? dim / 16 : dim % 8 == 0 ? dim / 8 : 0;
    if (p->num_sub_vectors == 0)
        return plm_fail(err, PLM_DATA, "dimension %u is not divisible by 8: choose num_sub_vectors", dim);
    if (dim % p->num_sub_vectors)
        return plm_fail(err, PLM_DATA, "dimension %u of column \"%s\" is not divisible by %u sub-vectors",
                        dim, p->column_path, p->num_sub_vectors);
    if (p->num_bits == 4 && p->num_sub_vectors % 2)
        return plm_fail(err, PLM_DATA, "4-bit codes need an even num_sub_vectors, not %u",
                        p->num_sub_vectors);
    if (o->pq_codebook.data && o->pq_codebook.shape[2] != dim / p->num_sub_vectors)
        return plm_fail(err, PLM_DATA, "pq_codebook has sub-vectors of %zu values, expected %u",
                        o->pq_codebook.shape[2], dim / p->num_sub_vectors);
    return PLM_OK;
}

/* Training rows: sample_rate for each partition, or of 256 partitions where there are fewer (rows come in
 * slices, and a few slices say little of a sorted table); and enough for the quantizer, whose own need
 * (256 rows a codeword; as many for SQ's bounds) does not shrink with the partitions. */
static uint64_t settle_sample(const struct plm_build_options *o, const struct plm_plan *p)
{
    uint64_t ivf = 4 * PLM_PROBE_QUERIES, quantizer = 0;
    if (!o->ivf_centroids.data && __builtin_mul_overflow(p->sample_rate, plm_max_u64(p->num_partitions, 256), &ivf))
        ivf = UINT64_MAX;
    if (p->quantizer == PLM_SQ)
        quantizer = 256 * 256;
    if (p->quantizer == PLM_PQ && !o->pq_codebook.data)
        quantizer = (uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits;
    return plm_min_u64(p->n_live, plm_max_u64(ivf, quantizer));
}

/* An index of this name must be ours to replace. */
static enum plm_code check_name(const struct plm_manifest *m, const struct plm_plan *p,
                                struct plm_err *err)
{
    for (size_t i = 0; i < m->n_indices; i++) {
        const struct plm_index_meta *meta = &m->indices[i];
        if (strcmp(meta->name, p->index_name) != 0)
            continue;
        if (!p->replace)
            return plm_fail(err, PLM_CONFLICT, "index \"%s\" already exists (and replacing is off)",
                            p->index_name);
        if (meta->n_fields != 1 || meta->field_ids[0] != p->column.field_id)
            return plm_fail(err, PLM_DATA, "index \"%s\" already exists on another column; choose a name",
                            p->index_name);
    }
    return PLM_OK;
}

enum plm_code plm_plan_make(struct plm_source *source, const struct plm_build_options *o,
                            struct plm_plan *p, struct plm_err *err)
{
    const struct plm_manifest *m = source->manifest;
    enum plm_code rc = PLM_OK;

    p->version = m->version;
    p->manifest_xxh3 = m->xxh3;
    p->column = source->column;
    p->file_major = 2; /* of the index: the table's, or the nearest that is written here */
    p->file_minor = m->file_major < 2 ? 0 : m->file_major > 2 ? 2 : (uint32_t)plm_min_u64(m->file_minor, 2);
    p->n_live = source->n_live;
    p->n_deleted = source->n_deleted;
    p->column_bytes = source->column_bytes;
    p->created_at_ms = plm_unix_millis();
    p->checks_all = o->verify && strcmp(o->verify, "full") == 0;
    snprintf(p->kernels, sizeof p->kernels, "%s", source->ctx->kernels->name);
    if (p->n_live == 0)
        return plm_fail(err, PLM_DATA, "nothing to index: the table has no rows (in the fragments chosen)");
    PLM_TRY(check_name(m, p, err));
    PLM_TRY(settle_partitions(o, p, err));
    PLM_TRY(settle_sub_vectors(o, p, err));
    p->sample_rows = settle_sample(o, p);
    PLM_TRY(plm_uuid_random(p->transaction_uuid, err));
    PLM_TRY(plm_plan_segments(source, o->num_segments, p, err));
    PLM_TRY(plm_plan_memory(source, p, err));
    PLM_TRY(plm_plan_tasks(p, err));
done:
    return rc;
}
