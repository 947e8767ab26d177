/* check_rows_impl.h - the files of plm_check_rows() to one another.
 *
 * check_rows.c   which rows are checked     check_look.c   looking for them in the index
 * check_chunk.c  a chunk of them, encoded   check_codes.c  the codes of those found
 */
#ifndef PLM_CHECK_ROWS_IMPL_H
#define PLM_CHECK_ROWS_IMPL_H

#include "build/check.h"
#include "ivf/window.h"

#define PLM_CHECK_NEARLY 1e-5 /* relative: float32 rounding of other builders */

/* A row that must be in the index. */
struct plm_check_row {
    uint64_t rowid;
    uint32_t partition;
    size_t at; /* in the chunk's vectors and codes */
    bool found;
};

/* Where one was found. */
struct plm_check_match {
    uint64_t row; /* of the index file */
    const struct plm_check_row *expected;
};

struct plm_check_chunk {
    struct plm_check *check;
    size_t n, cap, dim, code_bytes;
    float *vectors;             /* [n][dim] */
    uint8_t *codes;             /* [n][code_bytes] */
    struct plm_check_row *rows; /* [n], sorted by (partition, row id) after encoding */
    uint32_t *ids;
    uint8_t *window;            /* codes of the index */
    uint64_t *window_ids;
    size_t window_rows;         /* with codes */
    uint8_t *code;              /* one of a transposed partition, put together */
    uint8_t *wanted;            /* [k] partitions that rows belong in */
    struct plm_check_match *matches;
    size_t n_matches;
    struct plm_read_scratch read;
    const struct plm_assigner *assigner; /* borrowed; NULL: partitions are found in float64 */
};

/* ---- check_chunk.c ---------------------------------------------------------------------- */

/* Room for `cap` rows. The chunk is to be closed, also after a failure. */
PLM_MUST_CHECK enum plm_code
plm_check_open_chunk(struct plm_check *check, size_t cap, struct plm_check_chunk *c, struct plm_err *err);
void plm_check_close_chunk(struct plm_check_chunk *c);
/* Live rows [first, first + n) into the chunk, behind those it has. */
PLM_MUST_CHECK enum plm_code
plm_check_load(struct plm_check_chunk *c, uint64_t first, size_t n, struct plm_batch *batch,
               struct plm_err *err);
/* Assigns the rows, encodes them and sorts them by (partition, row id). */
PLM_MUST_CHECK enum plm_code plm_check_encode(struct plm_check_chunk *c, struct plm_err *err);
/* Of the vector `at` to a partition's centroid, in float64. */
double plm_check_distance(const struct plm_check_chunk *c, size_t at, uint32_t partition);
/* Orders struct plm_check_row by (partition, row id). */
int plm_check_by_partition(const void *a, const void *b);

/* ---- check_codes.c ---------------------------------------------------------------------- */

/* A problem if the code `seen` is not the one expected of the row. */
PLM_MUST_CHECK enum plm_code
plm_check_compare(struct plm_check_chunk *c, const struct plm_check_row *row, const uint8_t *seen,
                  struct plm_err *err);

/* ---- check_look.c ----------------------------------------------------------------------- */

/* Looks for each row in its partition and compares the codes of those found. */
PLM_MUST_CHECK enum plm_code plm_check_look(struct plm_check_chunk *c, struct plm_err *err);
/* Looks for the rows not found yet in every partition. Leaves them first, by row id. */
PLM_MUST_CHECK enum plm_code plm_check_look_elsewhere(struct plm_check_chunk *c, struct plm_err *err);

#endif
