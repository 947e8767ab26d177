/* pq_impl.h - inside the quant room: the exact nearest codeword, shared by training and encoding. */
#ifndef PLM_PQ_IMPL_H
#define PLM_PQ_IMPL_H

#include "quant/quant.h"

#define PLM_PQ_BLOCK_ROWS (4 * PLM_PQ_LANES) /* rows quantized together: their values stay in L2 */

/* The codewords of one sub-vector as the kernel wants them. */
struct plm_codewords {
    const float *values;     /* [n_codes][dsub] */
    const float *half_norms; /* [n_codes]; +inf for a repetition of a lower codeword */
    float max_half_norm;     /* greatest |c|^2 / 2; may be +inf */
    uint32_t n_codes, dsub;
};

/* Fills half_norms and *max_half_norm. A codeword equal to a lower one gets +inf: it could never
 * win, and without it its twin is no near-tie. */
void plm_codewords_prepare(const struct plm_kernels *kernels, const float *values, uint32_t n_codes,
                           uint32_t dsub, float *half_norms, float *max_half_norm);

/* Room for one block of at most PLM_PQ_BLOCK_ROWS rows. */
struct plm_pq_block {
    float best[PLM_PQ_BLOCK_ROWS], second[PLM_PQ_BLOCK_ROWS];
    uint8_t codes[PLM_PQ_BLOCK_ROWS];
    float *row; /* [dsub] */
};

/* groups: n rows in packed groups of PLM_PQ_LANES. block->codes[i] = the codeword nearest to row i
 * in float64, the lowest on equality. */
void plm_pq_block_codes(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                        const float *groups, size_t n, struct plm_pq_block *block);

#endif
