/* pq.c - product quantization: codebooks, encoding, tables, scanning. */
#include "quant/pq_impl.h"

enum plm_code plm_pq_init(struct plm_ctx *ctx, uint32_t m, uint32_t dsub, uint32_t n_bits,
                          const float *codebook, struct plm_pq *out, struct plm_err *err)
{
    struct plm_pq pq = {.ctx = ctx, .m = m, .dsub = dsub, .n_bits = n_bits};
    enum plm_code rc = PLM_OK;
    size_t n_values;

    if (n_bits != 4 && n_bits != 8)
        return plm_fail(err, PLM_ARG, "pq: num_bits is %u, expected 4 or 8", n_bits);
    if (m == 0 || dsub == 0)
        return plm_fail(err, PLM_ARG, "pq: %u sub-vectors of %u values, expected at least one of each",
                        m, dsub);
    if (n_bits == 4 && m % 2 != 0)
        return plm_fail(err, PLM_ARG, "pq: %u sub-vectors, expected an even number for 4-bit codes", m);
    size_t n_codes = plm_pq_n_codes(&pq);
    if (!plm_size_mul((size_t)m * n_codes, dsub, &n_values))
        return plm_fail(err, PLM_LIMIT, "pq: a codebook of %u x %u values is too large", m, dsub);

    PLM_TRY(plm_alloc(ctx, &pq.codebook, n_values, sizeof *pq.codebook, err));
    PLM_TRY(plm_alloc(ctx, &pq.parts, m, sizeof *pq.parts, err));
    PLM_TRY(plm_alloc(ctx, &pq.room, m, plm_codewords_bytes((uint32_t)n_codes, dsub), err));
    memcpy(pq.codebook, codebook, n_values * sizeof *codebook);
    for (size_t j = 0; j < m; j++) {
        pq.parts[j] = (struct plm_codewords){.values = pq.codebook + j * n_codes * dsub,
                                             .n_codes = (uint32_t)n_codes, .dsub = dsub};
        plm_codewords_place(&pq.parts[j],
                            pq.room + j * plm_codewords_bytes((uint32_t)n_codes, dsub));
        plm_codewords_prepare(ctx->kernels, &pq.parts[j]);
    }
    *out = pq;
    pq = (struct plm_pq){0};
done:
    plm_pq_reset(&pq);
    return rc;
}

void plm_pq_reset(struct plm_pq *pq)
{
    if (pq->ctx) {
        plm_free(pq->ctx, pq->codebook);
        plm_free(pq->ctx, pq->parts);
        plm_free(pq->ctx, pq->room);
    }
    *pq = (struct plm_pq){0};
}

/* ---- encoding --------------------------------------------------------------------- */

static size_t group_floats(const struct plm_pq *pq) { return (size_t)PLM_PQ_LANES * pq->dsub; }

size_t plm_pq_encode_bytes(const struct plm_pq *pq)
{
    size_t groups = PLM_PQ_BLOCK_ROWS / PLM_PQ_LANES * group_floats(pq);

    return (groups + pq->dsub * (1 + PLM_GROUP)) * sizeof(float) + 64;
}

/* Sub-vector j of at most PLM_PQ_BLOCK_ROWS rows, less their centroids, into packed groups. */
static void pack_block(const struct plm_kernels *kernels, const struct plm_pq *pq, size_t j,
                       const float *rows, size_t n, const float *centroids, const uint32_t *ids,
                       float *groups)
{
    size_t dim = (size_t)pq->m * pq->dsub, at = j * pq->dsub;

    for (size_t i = 0; i < n; i += PLM_PQ_LANES) {
        kernels->pq_pack(rows + i * dim + at, dim, centroids ? centroids + at : NULL, dim,
                         ids ? ids + i : NULL, plm_min_size(PLM_PQ_LANES, n - i), pq->dsub, groups);
        groups += group_floats(pq);
    }
}

static void put_codes(const struct plm_pq *pq, size_t j, const uint8_t *block_codes, size_t n,
                      uint8_t *codes)
{
    size_t code_bytes = plm_pq_code_bytes(pq);

    if (pq->n_bits == 8) {
        for (size_t i = 0; i < n; i++)
            codes[i * code_bytes + j] = block_codes[i];
    } else if (j % 2 == 0) { /* sets the byte, so it comes before its odd neighbour */
        for (size_t i = 0; i < n; i++)
            codes[i * code_bytes + j / 2] = block_codes[i];
    } else {
        for (size_t i = 0; i < n; i++)
            codes[i * code_bytes + j / 2] |= (uint8_t)(block_codes[i] << 4);
    }
}

void plm_pq_encode(const struct plm_kernels *kernels, const struct plm_pq *pq, const float *rows,
                   size_t n, const float *centroids, const uint32_t *ids, uint8_t *codes,
                   void *scratch)
{
    size_t dim = (size_t)pq->m * pq->dsub;
    float *groups = scratch;
    struct plm_pq_block block;

    block.row = groups + PLM_PQ_BLOCK_ROWS / PLM_PQ_LANES * group_floats(pq);
    block.packed = block.row + pq->dsub;
    memset(block.packed, 0, pq->dsub * PLM_GROUP * sizeof(float));
    for (size_t first = 0; first < n; first += PLM_PQ_BLOCK_ROWS) {
        size_t n_block = plm_min_size(PLM_PQ_BLOCK_ROWS, n - first);

        for (size_t j = 0; j < pq->m; j++) {
            pack_block(kernels, pq, j, rows + first * dim, n_block, centroids,
                       centroids ? ids + first : NULL, groups);
            plm_pq_block_codes(kernels, &pq->parts[j], groups, n_block, &block);
            put_codes(pq, j, block.codes, n_block, codes + first * plm_pq_code_bytes(pq));
        }
    }
}

/* ---- searching -------------------------------------------------------------------- */

void plm_pq_table(const struct plm_pq *pq, const float *query, bool dot, float *table)
{
    const struct plm_kernels *kernels = pq->ctx->kernels;
    size_t n_codes = plm_pq_n_codes(pq), dsub = pq->dsub;

    for (size_t j = 0; j < pq->m; j++)
        for (size_t code = 0; code < n_codes; code++) {
            const float *codeword = pq->codebook + (j * n_codes + code) * dsub;
            const float *part = query + j * dsub;

            table[j * n_codes + code] = (float)(dot ? -kernels->dot_exact(part, codeword, dsub)
                                                    : kernels->l2_exact(part, codeword, dsub));
        }
}

/* Adds the table entries of code byte j of n rows, `stride` bytes apart. */
static void scan_byte(const struct plm_pq *pq, const float *table, size_t j, const uint8_t *codes,
                      size_t n, size_t stride, float *distances)
{
    if (pq->n_bits == 8) {
        const float *entries = table + j * 256;

        for (size_t i = 0; i < n; i++)
            distances[i] += entries[codes[i * stride]];
    } else {
        const float *even = table + j * 32, *odd = even + 16;

        for (size_t i = 0; i < n; i++) {
            uint8_t code = codes[i * stride];

            distances[i] = distances[i] + even[code & 15] + odd[code >> 4];
        }
    }
}

void plm_pq_scan(const struct plm_pq *pq, const float *table, const uint8_t *codes, size_t n,
                 bool transposed, float *distances)
{
    size_t code_bytes = plm_pq_code_bytes(pq);

    memset(distances, 0, n * sizeof *distances);
    for (size_t j = 0; j < code_bytes; j++)
        if (transposed)
            scan_byte(pq, table, j, codes + j * n, n, 1, distances);
        else
            scan_byte(pq, table, j, codes + j, n, code_bytes, distances);
}

void plm_pq_decode(const struct plm_pq *pq, const uint8_t *code, float *out)
{
    size_t n_codes = plm_pq_n_codes(pq), dsub = pq->dsub;

    for (size_t j = 0; j < pq->m; j++) {
        size_t c = pq->n_bits == 8 ? code[j] : (code[j / 2] >> (4 * (j % 2))) & 15u;

        memcpy(out + j * dsub, pq->codebook + (j * n_codes + c) * dsub, dsub * sizeof *out);
    }
}
