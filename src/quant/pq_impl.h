/* pq_impl.h - inside the quant room: the exact nearest codeword, shared by training and encoding. */
#ifndef PLM_PQ_IMPL_H
#define PLM_PQ_IMPL_H

#include "quant/quant.h"

#define PLM_PQ_BLOCK_ROWS (4 * PLM_PQ_LANES) /* rows quantized together: their values stay in L2 */

/* The codewords of one sub-vector as the kernels want them. The first three fields are the caller's,
 * plm_codewords_place() sets the pointers, plm_codewords_prepare() the rest. */
struct plm_codewords {
    const float *values;   /* [n_codes][dsub] */
    uint32_t n_codes, dsub;
    float *half_norms;     /* [n_codes]; +inf for a repetition of a lower codeword */
    float *panels;         /* the values in panels, for rows that are looked at alone */
    int32_t *offsets;      /* [n_codes] and */
    int16_t *words;        /* [n_codes][plm_pq_word_dims(dsub)], as pq_words takes them */
    float max_half_norm;   /* greatest |c|^2 / 2; may be +inf */
    float per_unit;        /* of the words; 0: they would be no gain */
    /* The words decide for a row of norm2 <= norm2_most where second - best > gap + norm2 * gap_more. */
    float gap, gap_more, norm2_most;
};
/* Bytes of room for what the pointers point to, and the same room divided. */
size_t plm_codewords_bytes(uint32_t n_codes, uint32_t dsub);
void plm_codewords_place(struct plm_codewords *codewords, void *room);
/* A codeword equal to a lower one gets a half norm of +inf: it could never win, and without it its
 * twin is no near-tie. */
void plm_codewords_prepare(const struct plm_kernels *kernels, struct plm_codewords *codewords);

/* Room for one block of at most PLM_PQ_BLOCK_ROWS rows. */
struct plm_pq_block {
    float best[PLM_PQ_BLOCK_ROWS], second[PLM_PQ_BLOCK_ROWS];
    int32_t best_word[PLM_PQ_BLOCK_ROWS], second_word[PLM_PQ_BLOCK_ROWS];
    uint8_t codes[PLM_PQ_BLOCK_ROWS];
    float *row;    /* [dsub] */
    float *packed; /* [dsub][PLM_GROUP], zeros at first */
};

/* groups: n rows in packed groups of PLM_PQ_LANES. block->codes[i] = the codeword nearest to row i
 * in float64, the lowest on equality. */
void plm_pq_block_codes(const struct plm_kernels *kernels, const struct plm_codewords *codewords,
                        const float *groups, size_t n, struct plm_pq_block *block);

#endif
