/* assign_impl.h - inside the cluster room: what the parts of exact assignment share.
 *
 * Frame    rows and centroids enter the kernels as a = (x - origin) * scale, b_j likewise.
 *          Moving the origin to the mean of the centroids shrinks norms and with them every
 *          error bound; a scale, a power of two, keeps products far from overflow and underflow.
 *          Both leave the order of distances alone. For dot products the origin stays 0.
 * Exact    float64 decisions are taken on the rows and centroids as they came.
 */
#ifndef PLM_ASSIGN_IMPL_H
#define PLM_ASSIGN_IMPL_H

#include "cluster/assign.h"
#include "simd/simd.h"

/* Rows whose values are recomputed together to decide near-ties; the values take
 * this many times K floats per thread. */
#define PLM_TIE_ROWS 24

/* Rows and centroids that filters take: norms in the frame between these. */
#define PLM_NORM_LEAST 0x1p-60
#define PLM_NORM_MOST 0x1p60

#define PLM_HEAD_MAX 128     /* most axes of a head */
#define PLM_HEAD_SAMPLE 1024 /* centroids the axes are found from: eight for each */

struct plm_filter;

struct plm_assigner {
    struct plm_ctx *ctx;
    const float *centroids; /* [k][dim], borrowed */
    size_t k, dim;
    enum plm_metric metric;
    size_t n_packed, n_panels; /* distinct centroids, and panels of 16 they fill */
    uint32_t *ids;             /* [16 * n_panels] packed place -> id, ascending */
    float *panels;             /* the b_j */
    float *half_norms;         /* [16 * n_panels] |b_j|^2 / 2; 0 for dot; +inf for padding */
    double *norms;             /* [16 * n_panels] |b_j| */
    double norm_max;
    float *origin; /* [dim], or NULL for 0 */
    float scale;
    struct plm_filter *filter; /* NULL where a filter cannot pay */
};

/* ---- assign_pack.c: centroids into panels ------------------------------------------ */

PLM_MUST_CHECK enum plm_code plm_assigner_pack(struct plm_assigner *assigner, struct plm_err *err);
/* The rows in the assigner's frame: `rows` themselves when the frame is the identity. */
const float *plm_assigner_frame(const struct plm_assigner *assigner, const float *rows, size_t n,
                                float *scratch);

/* ---- assign_exact.c: error bounds and float64 decisions ------------------------------ */

/* Bound on |v_j - W_j| of a row of norm `a` and a centroid of norm `b`, both in the frame. */
double plm_assign_error(size_t dim, double a, double b);
/* Rows of this norm can neither overflow nor be NaN in the kernels. */
bool plm_assign_is_tame(const struct plm_assigner *assigner, double row_norm);
/* The float64 answer over all centroids. */
uint32_t plm_assign_brute(const struct plm_assigner *assigner, const float *row);
/* The float64 answer, given every centroid's value from the kernels. */
uint32_t plm_assign_refine(const struct plm_assigner *assigner, const float *row, double row_norm,
                           const float *values);
/* Squared L2 or -x.c in float64, over the centroid in packed place j. */
double plm_assign_exact(const struct plm_assigner *assigner, const float *row, size_t j);
/* Estimates of that, for n places: least[i] <= plm_assign_exact() <= most[i]. They cost a fraction. */
void plm_assign_near(const struct plm_assigner *assigner, const float *row, double row_norm,
                     const uint32_t *places, size_t n, double *least, double *most);

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

/* ---- assign_block.c: one block of rows ------------------------------------------------ */

/* What a block needs beyond the fields of the scratch. */
struct plm_assign_block {
    size_t dim, n_places;           /* the shape the scratch was made for */
    float *framed;                  /* [96][dim] */
    float *head_rows, *head_packed; /* [96][PLM_HEAD_MAX + 2] */
    uint32_t *places;               /* [n_places] */
    double *least;                  /* [n_places]: of the centroid in the same place */
    double norms[PLM_BLOCK_ROWS];   /* of the rows in the frame */
    float byte_terms[PLM_BLOCK_ROWS * PLM_BYTE_ROW_TERMS];
    bool taken[PLM_BLOCK_ROWS];     /* by the filter, by place in todo */
    size_t todo[PLM_BLOCK_ROWS], n_todo; /* rows no filter has settled, ascending */
    size_t open[PLM_BLOCK_ROWS], n_open; /* those fp32 did not settle, as places in todo */
    size_t follows[PLM_BLOCK_ROWS]; /* the row this one equals byte for byte, or itself */
    uint32_t found[PLM_BLOCK_ROWS]; /* the kernel's ids, by place in todo */
};

/* n <= PLM_BLOCK_ROWS rows -> ids. */
void plm_assign_block(const struct plm_assigner *assigner, struct plm_way way, const float *rows,
                      size_t n, uint32_t *ids, struct plm_assign_scratch *scratch);

#endif
