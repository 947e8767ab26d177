/* scan_many.c - several queries against the codes of one partition, eight at a time.
 *
 * PQ: a line of a table holds one code's terms of eight queries, so that a code is looked up once
 * for all of them. The terms are exact to float64, and so nothing cancels that matters.
 */
#include "ivf/window.h"
#include "simd/simd.h"

#define LANES PLM_MANY_LANES
#define BLOCK_ROWS 256

struct plm_many {
    struct plm_ctx *ctx;
    const struct plm_segment *segment; /* borrowed */
    const float *queries;              /* [n][dim], borrowed */
    size_t n, n_groups;
    double *tables; /* PQ: [group][code byte][256][LANES] */
};

static size_t table_doubles(const struct plm_model *m)
{
    return m->quantizer == PLM_PQ ? (size_t)plm_pq_code_bytes(&m->pq) * 256 * LANES : 0;
}

size_t plm_many_bytes(const struct plm_model *m, size_t n)
{
    return (n + LANES - 1) / LANES * table_doubles(m) * sizeof(double);
}

/* |w|^2 - 2 q.w (dot: -q.w) of every codeword of sub-vector j. */
static void fill_terms(const struct plm_many *many, const float *query, size_t j, double *terms)
{
    const struct plm_model *m = &many->segment->model;
    const struct plm_kernels *k = many->ctx->kernels;
    size_t n_codes = plm_pq_n_codes(&m->pq), dsub = m->pq.dsub;

    for (size_t c = 0; c < n_codes; c++) {
        const float *word = m->pq.codebook + (j * n_codes + c) * dsub;
        double dot = k->dot_exact(query + j * dsub, word, dsub);
        terms[c] = m->metric == PLM_DOT ? -dot : k->norm2(word, dsub) - 2 * dot;
    }
}

/* The lane of one query in its group's table. A byte of 4-bit codes is two codewords. */
static void fill_lane(const struct plm_many *many, size_t q)
{
    const struct plm_model *m = &many->segment->model;
    const float *query = many->queries + q * m->dim;
    double terms[256], odd[256], *lane = many->tables + q / LANES * table_doubles(m) + q % LANES;

    for (size_t b = 0; b < plm_pq_code_bytes(&m->pq); b++) {
        bool halves = m->pq.n_bits == 4;
        fill_terms(many, query, halves ? 2 * b : b, terms);
        if (halves)
            fill_terms(many, query, 2 * b + 1, odd);
        for (size_t c = 0; c < 256; c++)
            lane[(b * 256 + c) * LANES] = halves ? terms[c & 15] + odd[c >> 4] : terms[c];
    }
}

static enum plm_code fill_query(void *arg, size_t q, unsigned worker, struct plm_err *err)
{
    (void)worker, (void)err;
    fill_lane(arg, q);
    return PLM_OK;
}

enum plm_code plm_many_open(const struct plm_segment *segment, const float *queries, size_t n,
                            struct plm_many **out, struct plm_err *err)
{
    const struct plm_model *m = &segment->model;
    struct plm_ctx *ctx = segment->ctx;
    struct plm_many *many = NULL;
    enum plm_code rc = PLM_OK;

    PLM_ASSERT(m->quantizer != PLM_FLAT);
    PLM_TRY(plm_calloc(ctx, &many, 1, sizeof *many, err));
    *many = (struct plm_many){ctx, segment, queries, n, (n + LANES - 1) / LANES, NULL};
    if (m->quantizer == PLM_PQ) {
        PLM_TRY(plm_calloc(ctx, &many->tables, many->n_groups * table_doubles(m), sizeof(double), err));
        PLM_TRY(plm_parallel(ctx, n, fill_query, many, err));
    }
    *out = many;
    many = NULL;
done:
    plm_many_close(many);
    return rc;
}

void plm_many_close(struct plm_many *many)
{
    if (!many)
        return;
    plm_free(many->ctx, many->tables);
    plm_free(many->ctx, many);
}

enum plm_code plm_many_scratch_init(const struct plm_many *many, struct plm_many_scratch *out,
                                    struct plm_err *err)
{
    const struct plm_model *m = &many->segment->model;
    size_t width = plm_model_code_bytes(m);
    struct plm_many_scratch s = {.ctx = many->ctx};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s.ctx, &s.sums, BLOCK_ROWS * LANES, sizeof(double), err));
    PLM_TRY(plm_alloc(s.ctx, &s.decoded, m->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(s.ctx, &s.distances, BLOCK_ROWS, sizeof(float), err));
    PLM_TRY(plm_alloc(s.ctx, &s.code, width, 1, err));
    *out = s;
    s = (struct plm_many_scratch){0};
done:
    plm_many_scratch_reset(&s);
    return rc;
}

void plm_many_scratch_reset(struct plm_many_scratch *s)
{
    if (!s->ctx)
        return;
    plm_free(s->ctx, s->sums);
    plm_free(s->ctx, s->decoded);
    plm_free(s->ctx, s->distances);
    plm_free(s->ctx, s->code);
    *s = (struct plm_many_scratch){0};
}

/* ---- PQ ---------------------------------------------------------------------------------- */

/* Codes of some rows: byte j of row i is at[j * plane + i * stride]. */
struct codes {
    const uint8_t *at;
    size_t n, plane, stride;
};

/* 2 c.w of each row: what depends on the partition, but on no query. */
static void find_bases(const struct plm_many *many, const float *centroid, const struct codes *c,
                       struct plm_many_scratch *s, double *bases)
{
    const struct plm_model *m = &many->segment->model;
    size_t width = plm_pq_code_bytes(&m->pq);

    for (size_t i = 0; i < c->n; i++) {
        for (size_t j = 0; j < width; j++)
            s->code[j] = c->at[j * c->plane + i * c->stride];
        plm_pq_decode(&m->pq, s->code, s->decoded);
        bases[i] = 2 * many->ctx->kernels->dot_exact(s->decoded, centroid, m->dim);
    }
}

static void add_terms(const double *table, size_t width, const struct codes *c, double *restrict sums)
{
    memset(sums, 0, c->n * LANES * sizeof *sums);
    for (size_t j = 0; j < width; j++) {
        const double *lines = table + j * 256 * LANES;
        const uint8_t *codes = c->at + j * c->plane;
        for (size_t i = 0; i < c->n; i++) {
            const double *line = lines + (size_t)codes[i * c->stride] * LANES;
            for (size_t l = 0; l < LANES; l++)
                sums[i * LANES + l] += line[l];
        }
    }
}

struct taking {
    const double *bases;
    const uint32_t *which;
    size_t n_which, first; /* of the rows */
    plm_many_fn *take;
    void *arg;
};

static void scan_pq(const struct plm_many *many, const float *centroid, const struct codes *c,
                    const struct taking *t, struct plm_many_scratch *s)
{
    const struct plm_model *m = &many->segment->model;
    bool is_dot = m->metric == PLM_DOT;

    for (size_t w = 0; w < t->n_which;) {
        size_t group = t->which[w] / LANES;
        add_terms(many->tables + group * table_doubles(m), plm_pq_code_bytes(&m->pq), c, s->sums);
        for (; w < t->n_which && t->which[w] / LANES == group; w++) {
            const float *query = many->queries + (size_t)t->which[w] * m->dim;
            const double *sums = s->sums + t->which[w] % LANES;
            double away = is_dot ? 1 : many->ctx->kernels->l2_exact(query, centroid, m->dim);
            for (size_t i = 0; i < c->n; i++)
                s->distances[i] = (float)(away + t->bases[i] + sums[i * LANES]);
            t->take(t->arg, w, t->first, c->n, s->distances);
        }
    }
}

/* ---- SQ ---------------------------------------------------------------------------------- */

static void scan_sq(const struct plm_many *many, const struct codes *c, const struct taking *t,
                    struct plm_many_scratch *s)
{
    const struct plm_model *m = &many->segment->model;
    enum plm_metric metric = m->metric == PLM_COSINE ? PLM_L2 : m->metric; /* see scan.c */

    for (size_t w = 0; w < t->n_which; w++) {
        plm_sq_scan(many->ctx->kernels, &m->sq, many->queries + (size_t)t->which[w] * m->dim, m->dim, metric,
                    c->at, c->n, s->code, s->distances);
        t->take(t->arg, w, t->first, c->n, s->distances);
    }
}

/* ---- the calls --------------------------------------------------------------------------- */

static struct codes codes_of(const struct plm_many *many, const uint8_t *codes, size_t n, size_t first, size_t most)
{
    bool planes = many->segment->pq_transposed;
    size_t width = plm_model_code_bytes(&many->segment->model);
    return (struct codes){codes + first * (planes ? 1 : width), plm_min_size(most, n - first), planes ? n : 1,
                          planes ? 1 : width};
}

void plm_many_bases(const struct plm_many *many, uint32_t partition, const uint8_t *codes, size_t n,
                    struct plm_many_scratch *scratch, double *bases)
{
    const struct plm_model *m = &many->segment->model;
    struct codes c = codes_of(many, codes, n, 0, n);

    if (m->quantizer == PLM_PQ && m->metric != PLM_DOT)
        find_bases(many, m->centroids + (size_t)partition * m->dim, &c, scratch, bases);
    else
        memset(bases, 0, n * sizeof *bases);
}

void plm_many_scan(const struct plm_many *many, uint32_t partition, const uint8_t *codes, size_t n,
                   const double *bases, const uint32_t *which, size_t n_which, plm_many_fn *take,
                   void *arg, struct plm_many_scratch *scratch)
{
    const struct plm_model *m = &many->segment->model;

    for (size_t first = 0; first < n; first += BLOCK_ROWS) {
        struct codes c = codes_of(many, codes, n, first, BLOCK_ROWS);
        struct taking t = {bases + first, which, n_which, first, take, arg};
        if (m->quantizer == PLM_PQ)
            scan_pq(many, m->centroids + (size_t)partition * m->dim, &c, &t, scratch);
        else
            scan_sq(many, &c, &t, scratch);
    }
}
