/* quant.h - product and scalar quantization: train, encode, distances.
 *
 * Same     codes are the float64 nearest codeword, lowest code on equality, on every
 * codes    kernel table; SQ codes are defined by one formula in double.
 * Owns     nothing beyond the structs below.
 * Source   Jegou, Douze, Schmid: Product quantization for nearest neighbor search (2011).
 */
#ifndef PLM_QUANT_H
#define PLM_QUANT_H

#include "cluster/sample.h"
#include "core/core.h"
#include "simd/simd.h"

struct plm_codewords; /* pq_impl.h */

/* Codewords of all sub-vectors: values [m][n_codes][dsub]. */
struct plm_pq {
    struct plm_ctx *ctx;
    uint32_t m, dsub, n_bits; /* n_bits 8 or 4 */
    float *codebook;
    struct plm_codewords *parts; /* [m]: the codebook in the kernels' layouts, in `room` */
    uint8_t *room;
};
static inline uint32_t plm_pq_n_codes(const struct plm_pq *pq) { return 1u << pq->n_bits; }
static inline uint32_t plm_pq_code_bytes(const struct plm_pq *pq)
{
    return pq->n_bits == 4 ? pq->m / 2 : pq->m;
}
/* codebook [m][2^n_bits][dsub] is copied. 4 bits need an even m: PLM_ARG. */
PLM_MUST_CHECK enum plm_code
plm_pq_init(struct plm_ctx *ctx, uint32_t m, uint32_t dsub, uint32_t n_bits, const float *codebook,
            struct plm_pq *out, struct plm_err *err);
void plm_pq_reset(struct plm_pq *pq);
/* Are sub-vectors of this size looked up in 16-bit whole numbers (simd.h pq_words), where the codewords
 * allow it? For calibration: codes are the same either way. */
bool plm_pq_has_words(const struct plm_kernels *kernels, uint32_t dsub);

#define PLM_PQ_SAMPLE_PER_CODE 256 /* training rows per codeword */

struct plm_pq_train_options {
    uint32_t n_bits, max_iters;
    uint64_t seed;
};
/* One sub-vector: rows [n][dsub] -> codewords [n_codes][dsub]; *error = mean squared distance of the
 * rows to the codewords they were last given to: 0.05 % or so above that to the nearest. Rows come in
 * eight blocks that take turns (pq_train.c), until a pass over all of them gains less than 0.12 %, at
 * most 15 times (max_iters caps that, too). Starts from distinct rows in an order made from
 * (seed, subvector); an empty codeword becomes a copy of the one with the most rows (lowest id),
 * moved by a seeded 1/16 of the error per value. Rows with no more distinct values than codewords
 * get exactly those, repeated. The same codewords on every kernel table. PLM_ARG, PLM_DATA (a
 * value that is not finite), PLM_LIMIT.
 * A pure function on the calling thread; n may be below n_codes. */
PLM_MUST_CHECK enum plm_code
plm_pq_train_subvector(struct plm_ctx *ctx, const float *rows, size_t n, uint32_t dsub,
                       uint32_t subvector, const struct plm_pq_train_options *options,
                       float *codewords, double *error, struct plm_err *err);
/* Scratch bytes of one such call. */
size_t plm_pq_train_bytes(size_t n, uint32_t dsub, uint32_t n_bits);

/* rows [n][m*dsub], minus centroids[ids[i]] when centroids is not NULL -> codes [n][code_bytes],
 * row-major as lance-format.md 4.3 describes. scratch: plm_pq_encode_bytes(). */
void plm_pq_encode(const struct plm_kernels *kernels, const struct plm_pq *pq, const float *rows,
                   size_t n, const float *centroids, const uint32_t *ids, uint8_t *codes,
                   void *scratch);
size_t plm_pq_encode_bytes(const struct plm_pq *pq);
/* table [m][n_codes] for one (residual) query: squared L2, or the dot product -q.w when
 * `dot`. distance = sum over sub-vectors of table[code]. */
void plm_pq_table(const struct plm_pq *pq, const float *query, bool dot, float *table);
/* Distances of n codes stored transposed ([code_bytes][n]) or row-major. */
void plm_pq_scan(const struct plm_pq *pq, const float *table, const uint8_t *codes, size_t n,
                 bool transposed, float *distances);
/* Decode one row-major code. */
void plm_pq_decode(const struct plm_pq *pq, const uint8_t *code, float *out);

struct plm_sq {
    double lo, hi;
};
/* As stock Lance reports distances (lance-format.md section 5). For L2 the query is coded like the
 * data; for dot it is not. codes: [n][dim]. */
void plm_sq_scan(const struct plm_kernels *kernels, const struct plm_sq *sq, const float *query,
                 size_t dim, enum plm_metric metric, const uint8_t *codes, size_t n,
                 uint8_t *query_codes, float *distances);

#endif
