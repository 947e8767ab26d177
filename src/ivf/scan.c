/* scan.c - distances of one query to the rows of one partition, as stock Lance reports them. */
#include <math.h>

#include "ivf/ivf_format.h"
#include "simd/simd.h"

/* Codes read and scored at a time. A smaller partition is one piece. */
#define PIECE_BYTES ((size_t)16 << 20)
#define PIECE_ROWS_MIN 256

void plm_scan_scratch_reset(struct plm_scan_scratch *s)
{
    if (!s)
        return;
    void *const all[] = {s->rowids, s->codes, s->query_codes, s->spare,
                         s->distances, s->table, s->query, s->rows};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        plm_free(s->ctx, all[i]);
    plm_read_scratch_reset(&s->read);
    memset(s, 0, sizeof(*s));
}

/* Room for n items in *array; the old content need not survive. */
static enum plm_code fit(struct plm_scan_scratch *s, void *array, size_t *cap, size_t n,
                         size_t each, struct plm_err *err)
{
    void *old, *fresh = NULL;
    size_t bytes;

    if (!plm_size_mul(n, each, &bytes))
        return plm_fail(err, PLM_LIMIT, "scan: %zu x %zu bytes", n, each);
    if (bytes <= *cap)
        return PLM_OK;
    memcpy(&old, array, sizeof(old));
    enum plm_code rc = plm_alloc(s->ctx, &fresh, bytes, 1, err);
    if (rc != PLM_OK)
        return rc;
    plm_free(s->ctx, old);
    memcpy(array, &fresh, sizeof(fresh));
    *cap = bytes;
    return PLM_OK;
}

static enum plm_code fit_all(struct plm_scan_scratch *s, const struct plm_segment *segment,
                             size_t rows, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_model *m = &segment->model;
    size_t width = plm_model_code_bytes(m);

    s->ctx = segment->ctx;
    PLM_TRY(fit(s, &s->rowids, &s->cap.rowids, rows, sizeof(*s->rowids), err));
    PLM_TRY(fit(s, &s->codes, &s->cap.codes, rows, width, err));
    PLM_TRY(fit(s, &s->distances, &s->cap.distances, rows, sizeof(*s->distances), err));
    PLM_TRY(fit(s, &s->query, &s->cap.query, m->dim, sizeof(*s->query), err));
    if (m->quantizer == PLM_FLAT && m->element != PLM_F32)
        PLM_TRY(fit(s, &s->rows, &s->cap.rows, m->dim, sizeof(*s->rows), err));
    if (m->quantizer == PLM_SQ)
        PLM_TRY(fit(s, &s->query_codes, &s->cap.query_codes, m->dim, 1, err));
    if (m->quantizer == PLM_PQ)
        PLM_TRY(fit(s, &s->table, &s->cap.table, (size_t)m->pq.m * plm_pq_n_codes(&m->pq),
                    sizeof(*s->table), err));
    if (segment->pq_transposed)
        PLM_TRY(fit(s, &s->spare, &s->cap.spare, rows + 2 * width, 1, err));
done:
    return rc;
}

float plm_exact_distance(const struct plm_kernels *kernels, enum plm_metric metric,
                         const float *query, const float *row, size_t dim)
{
    if (metric == PLM_L2)
        return (float)kernels->l2_exact(row, query, dim);
    double dot = kernels->dot_exact(row, query, dim);
    if (metric == PLM_DOT)
        return (float)(1 - dot);
    return (float)(1 - dot / sqrt(kernels->norm2(row, dim) * kernels->norm2(query, dim)));
}

static void scan_flat(const struct plm_model *m, const float *query, size_t n,
                      struct plm_scan_scratch *s)
{
    const struct plm_kernels *kernels = s->ctx->kernels;
    size_t width = plm_model_code_bytes(m);

    for (size_t i = 0; i < n; i++) {
        const void *code = s->codes + i * width;
        const float *row = code; /* blocks are aligned, and so is every row of floats in them */
        if (m->element != PLM_F32) {
            plm_floats_of_element(kernels, code, m->dim, m->element, s->rows);
            row = s->rows;
        }
        s->distances[i] = plm_exact_distance(kernels, m->metric, query, row, m->dim);
    }
}

/* Residual (or plain, for dot) query against the codebook: once for a partition. */
static void prepare_pq(const struct plm_model *m, uint32_t partition, const float *query,
                       struct plm_scan_scratch *s)
{
    const float *centroid = m->centroids + (size_t)partition * m->dim;

    if (m->metric == PLM_DOT) {
        plm_pq_table(&m->pq, query, true, s->table);
        return;
    }
    for (uint32_t d = 0; d < m->dim; d++)
        s->query[d] = query[d] - centroid[d];
    plm_round_to_element(s->query, m->dim, m->element); /* stock Lance subtracts in it */
    plm_pq_table(&m->pq, s->query, false, s->table);
}

static void scan_piece(const struct plm_segment *segment, const float *query, size_t n,
                       struct plm_scan_scratch *s)
{
    const struct plm_model *m = &segment->model;

    switch (m->quantizer) {
    case PLM_FLAT:
        scan_flat(m, query, n, s);
        return;
    case PLM_SQ: /* normalized vectors are coded: cosine is squared L2 here */
        plm_sq_scan(s->ctx->kernels, &m->sq, query, m->dim,
                    m->metric == PLM_COSINE ? PLM_L2 : m->metric, s->codes, n, s->query_codes,
                    s->distances);
        return;
    case PLM_PQ:
        plm_pq_scan(&m->pq, s->table, s->codes, n, segment->pq_transposed, s->distances);
        for (size_t i = 0; m->metric == PLM_DOT && i < n; i++)
            s->distances[i] += 1; /* 1 - q.w of the whole vector */
        return;
    }
}

enum plm_code plm_scan_partition(struct plm_segment *segment, uint32_t partition,
                                 const float *query, plm_allow_fn *allow, void *arg,
                                 struct plm_top *top, struct plm_scan_scratch *scratch,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_model *m = &segment->model;
    size_t length = segment->lengths[partition];
    size_t piece = plm_max_size(PIECE_BYTES / plm_model_code_bytes(m), PIECE_ROWS_MIN);

    if (length == 0)
        return PLM_OK;
    piece = plm_min_size(piece, length);
    PLM_TRY(fit_all(scratch, segment, piece, err));
    if (m->quantizer == PLM_PQ)
        prepare_pq(m, partition, query, scratch);
    for (size_t first = 0; first < length; first += piece) {
        size_t n = plm_min_size(piece, length - first);
        PLM_TRY(plm_check_cancel(segment->ctx, err));
        PLM_TRY(plm_segment_read_stored(segment, partition, first, n, scratch->rowids,
                                        scratch->codes, scratch->spare, &scratch->read, err));
        scan_piece(segment, query, n, scratch);
        for (size_t i = 0; i < n; i++)
            if (!allow || allow(arg, scratch->rowids[i]))
                plm_top_offer(top, scratch->distances[i], scratch->rowids[i]);
    }
done:
    return rc;
}
