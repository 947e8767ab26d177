/* assign_bounds.h - inside the cluster room: filters, which give a lower bound of every centroid's
 * value, and the choice among them. Proofs stand in assign_head.c and assign_bytes.c.
 */
#ifndef PLM_ASSIGN_BOUNDS_H
#define PLM_ASSIGN_BOUNDS_H

#include "cluster/assign.h"

struct plm_assigner; /* assign_impl.h */

/* Rows and centroids that filters take: norms in the frame between these. */
#define PLM_NORM_LEAST 0x1p-60
#define PLM_NORM_MOST 0x1p60

#define PLM_HEAD_MAX 128     /* most axes of a head */
#define PLM_HEAD_SAMPLE 1024 /* centroids the axes are found from: eight for each */

/* ---- assign_basis.c, assign_head.c: the head and tail filter ------------------------- */

/* PLM_HEAD_MAX nearly orthonormal axes (or zeros), leading ones first: basis [128][dim]. */
PLM_MUST_CHECK enum plm_code plm_assign_basis(const struct plm_assigner *assigner, float *basis,
                                              struct plm_err *err);
size_t plm_basis_bytes(size_t k, size_t dim); /* what that call takes for itself */

/* Every row and centroid as r coordinates, the norm of what these leave out, and one number more
 * for rounding: dot products of these r + 2 are upper bounds of dot products in full. */
struct plm_head {
    size_t rank;         /* r, a multiple of PLM_PANEL */
    float *basis_panels; /* PLM_HEAD_MAX axes as panels */
    float *projections;  /* [16 * n_panels][PLM_HEAD_MAX], until the rank is settled */
    float *panels;       /* [n_panels][r + 2][16] */
    float *half_norms;   /* [16 * n_panels], rounded down */
    double delta;        /* bound on |Q'Q - I| */
    double c;            /* the last number over the norm, for rounding */
};
PLM_MUST_CHECK enum plm_code plm_head_create(const struct plm_assigner *assigner,
                                             struct plm_head *head, struct plm_err *err);
void plm_head_reset(const struct plm_assigner *assigner, struct plm_head *head);
/* Fills panels for this rank; false if its error bounds are too wide to be of use. */
bool plm_head_set_rank(const struct plm_assigner *assigner, struct plm_head *head, size_t rank);
/* May a row of this norm go through a filter? */
bool plm_bound_takes(const struct plm_assigner *assigner, double row_norm);
/* head_row holds r coordinates: the two numbers behind them are filled in. */
void plm_head_finish_row(const struct plm_assigner *assigner, const struct plm_head *head,
                         double row_norm, float *head_row);
/* A centroid whose bound, from a head or from bytes, is greater than this is further away than one
 * whose plm_assign_exact() is at most `exact`. */
float plm_bound_limit(const struct plm_assigner *assigner, double row_norm, double exact);
size_t plm_head_bytes(size_t k, size_t dim);

/* ---- assign_bytes.c: the byte filter ---------------------------------------------------- */

/* Centroids, or their coordinates in a head, in eight bits, with what that leaves out. */
struct plm_bytes {
    size_t dim, len; /* of a vector; the same filled up */
    int8_t *panels;
    int32_t *offsets;
    float *terms;
};
/* head NULL: in all dimensions. PLM_UNSUPPORTED where the bounds would be of no use. */
PLM_MUST_CHECK enum plm_code plm_bytes_create(const struct plm_assigner *assigner,
                                              const struct plm_head *head, struct plm_bytes *out,
                                              struct plm_err *err);
void plm_bytes_reset(const struct plm_assigner *assigner, struct plm_bytes *bytes);
/* n <= PLM_BLOCK_ROWS rows in the frame, or finished head rows -> operands of byte_bounds.
 * taken[i] becomes false where it will not do. */
void plm_bytes_rows(const struct plm_assigner *assigner, const struct plm_bytes *bytes,
                    const float *rows, size_t row_stride, size_t n, const double *norms,
                    uint8_t *packed, float *terms, bool *taken);
size_t plm_bytes_bytes(size_t k, size_t dim);

/* ---- assign_settle.c: from bounds to an answer --------------------------------------------- */

/* Lower bounds of all centroids' values (plm_bound_limit) -> the id; false when more than `most` of
 * them survive a first guess. places, least: room for one number per centroid. */
bool plm_settle_by_bounds(const struct plm_assigner *assigner, const float *row, double norm,
                          const float *bounds, size_t most, uint32_t *places, double *least,
                          uint32_t *id);

/* ---- assign_filter.c: whether and when to use which --------------------------------------- */

/* What runs in front of fp32: a head, bytes, a head in bytes, or (all NULL) nothing. */
struct plm_way {
    const struct plm_head *head;
    const struct plm_bytes *bytes;
    const struct plm_bytes *next; /* for the rows a head leaves; or NULL */
};

PLM_MUST_CHECK enum plm_code plm_filter_create(struct plm_assigner *assigner, struct plm_err *err);
void plm_filter_destroy(struct plm_assigner *assigner);
/* The way for the block at hand. Now and then a call, once enough rows have been seen, prepares a
 * filter and tries it on these rows; their ids are overwritten with right answers. */
struct plm_way plm_filter_way(const struct plm_assigner *assigner, const float *rows, size_t n,
                              uint32_t *ids, struct plm_assign_scratch *scratch);
/* For tests: whether all have been tried. */
bool plm_filter_has_chosen(const struct plm_assigner *assigner);
/* For tests: from now on always a head of this rank (0: none) and bytes or not. PLM_UNSUPPORTED
 * where it cannot be. */
PLM_MUST_CHECK enum plm_code plm_filter_force(struct plm_assigner *assigner, size_t rank,
                                              bool in_bytes, struct plm_err *err);
size_t plm_filter_bytes(size_t k, size_t dim);

#endif
