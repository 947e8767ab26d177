/* small_index.h - a small index made of formulas, written into a memory store as a build
 * would write it: for tests of reading, searching and hostile bytes.
 *
 * Owns     the index owns its model and arrays; reset it.
 */
#ifndef PLM_TEST_SMALL_INDEX_H
#define PLM_TEST_SMALL_INDEX_H

#include "ivf/index.h"

#define SMALL_K 5
#define SMALL_DIM 16

struct small_index {
    struct plm_ctx *ctx;
    struct plm_model model;
    struct plm_layout layout;
    uint32_t lengths[SMALL_K];
    uint64_t starts[SMALL_K + 1];
    uint64_t *rowids; /* [n_rows] */
    uint8_t *codes;   /* [n_rows][code_bytes], row-major */
};

/* Any failure aborts. scale multiplies the partition sizes {3, 0, 70, 1, 26}. m, n_bits: PQ. */
void small_index_make(struct plm_ctx *ctx, enum plm_quantizer quantizer, enum plm_metric metric,
                      enum plm_element element, uint32_t n_bits, uint32_t scale,
                      struct small_index *out);
void small_index_reset(struct small_index *index);
/* Writes dir/index.idx and dir/auxiliary.idx. */
void small_index_write(const struct small_index *index, struct plm_store *store, const char *dir,
                       uint32_t minor);
/* Rows [first, first + n) of a partition of an open segment, codes row by row however the file has them. */
enum plm_code small_index_read(struct plm_segment *segment, uint32_t partition, uint64_t first, size_t n,
                               uint64_t *rowids, uint8_t *codes, struct plm_err *err);
/* A repeatable number in [-1, 1). */
float small_number(uint64_t seed, uint64_t i);

#endif
