/* assign_impl.h - inside the cluster room: what the parts of exact assignment share. The filters that
 * run in front of fp32 are in assign_bounds.h.
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
#include "cluster/assign_bounds.h"
#include "simd/simd.h"

/* Rows whose values are recomputed together to decide near-ties; the values take
 * this many times K floats per thread. */
#define PLM_TIE_ROWS 24

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
