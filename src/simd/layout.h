/* layout.h - how the kernels want their operands laid out, and how far their sums may be off. */
#ifndef PLM_LAYOUT_H
#define PLM_LAYOUT_H

#include <stddef.h>

/* Geometry of the packed operands of `nearest`. */
#define PLM_PANEL 16      /* centroids in a panel, dimension-major inside it */
#define PLM_GROUP 6       /* rows in a group, dimension-major inside it */
#define PLM_BLOCK_ROWS 96 /* rows packed and assigned together */

#define PLM_PQ_LANES 24   /* rows in a PQ group, dimension-major inside it */

/* Geometry of the byte kernels: rows in groups of PLM_GROUP and centroids in panels of PLM_PANEL,
 * four dimensions of one next to each other, then the next row's or centroid's four. Dimensions
 * are filled up with zeros to a multiple of PLM_BYTE_DIMS. */
#define PLM_BYTE_DIMS 8
#define PLM_BYTE_DIM_MAX 65536 /* sums of products stay below 2^31 */
#define PLM_BYTE_ROW_TERMS 4
#define PLM_BYTE_PANEL_TERMS 5
static inline size_t plm_byte_dims(size_t dim)
{
    return (dim + PLM_BYTE_DIMS - 1) / PLM_BYTE_DIMS * PLM_BYTE_DIMS;
}

/* Geometry of the words of product quantization: 16-bit numbers, dimensions filled up with a zero
 * to an even number. */
#define PLM_PQ_WORD_MOST 32767    /* greatest magnitude of a number */
#define PLM_PQ_WORDS_DIM_MAX 64   /* of a sub-vector */
#define PLM_PQ_WORDS_VALUE_MOST 0x3f000000 /* of a value: below 2^30 */
static inline size_t plm_pq_word_dims(size_t dsub)
{
    return dsub + dsub % 2;
}

/* Bound on the relative error of an fp32 dot product of n terms in any order, with or
 * without FMA: n * 2^-24 / (1 - n * 2^-24). (Higham, Accuracy and Stability, section 3.1.) */
static inline float plm_dot_error(size_t n)
{
    double u = (double)n * 0x1p-24;
    return (float)(u / (1 - u) * (1 + 0x1p-20));
}

/* Bound on the relative error of l2_near and dot_near, whose sums have at least 8 parts:
 * ceil(n / 8) additions in a part, at most 8 to join parts, 3 for a difference and its square. */
static inline double plm_near_error(size_t n)
{
    double u = (double)(n / 8 + 16) * 0x1p-24;
    return u / (1 - u) * (1 + 0x1p-20);
}

#endif
