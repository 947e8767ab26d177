/* assign_head.c - a lower bound of every value from a few coordinates and one tail norm.
 *
 * Notation of assign_exact.c, whose a, b_j, W_j, u and g(n) are used here. Q is the float matrix
 * of the basis, r columns, G = Q'Q, and |G - I| <= delta over the columns that are not zero (a zero
 * column adds nothing anywhere below, and is left out). P = Q G^-1 Q' projects onto the columns.
 * h = Q'a and f = Q'b are the coordinates, t = |a - Pa| and s = |b - Pb| the tails, over the reals.
 * H and F are the computed coordinates.
 *
 * 1. Projection. A coordinate is a kernel product: off by g(dim) |a||q_i|. So |H - h| <= eta |a|
 *    with eta = g(dim) sqrt(r (1 + delta)), likewise |F - f| <= eta |b|. Underflow adds
 *    less than 2^-60 |a| for rows that plm_bound_takes() and is counted in eta; centroids may be
 *    smaller, see 5.
 * 2. Tail. |a|^2 - t^2 = h'G^-1 h >= |h|^2 / (1 + delta), and |h| >= |H| - eta |a|. So
 *      t^2 <= |a|^2 - max(0, |H| - eta |a|)^2 / (1 + delta),
 *    computed in double with |a|^2 enlarged by 2^-30, rounded up: no cancellation can hurt. The
 *    same for s.
 * 3. a.b = Pa.Pb + (a - Pa).(b - Pb) <= h'G^-1 f + t s, and, with delta <= 0.001, eta <= 0.05,
 *      |h'(G^-1 - I) f| <= delta / (1 - delta) |h||f| <= 1.01 delta |a||b|,
 *      |h.f - H.F| <= |H - h||f| + |H||F - f| <= eta |a||b| (2 sqrt(1 + delta) + eta)
 *                  <= 2.1 eta |a||b|.
 *    So a.b <= H.F + t s + (1.01 delta + 2.1 eta) |a||b|.
 * 4. The product in r + 2 dimensions is (H, t, |a|).(F, s, c |b|). Its vectors are shorter than
 *    1.8 |a| and 1.5 |b|, so the kernel is off by at most g(r+3) 2.7 |a||b| + u * half norm. With
 *      c = 1.01 delta + 2.1 eta + 3 g(r+4) + 4u
 *    the last product covers 3, the kernel, and 2.1u |a||b| that separate a.b from a*.b*. The half
 *    norm (1 - 8u) |b|^2 / 2 leaves 4u |b|^2 for what rounding does to |b|^2 terms: 0.5u each when
 *    it is stored, when it is made smaller and in the kernel, 1.05u between b and b*, and
 *    (dim+8) 2^-53 for l2_exact.
 * 5. What remains depends on the row alone: 1.05u |a|^2 between a and a*, (dim+8) 2^-53 |a|^2 for
 *    l2_exact, and underflow, at most 2^-124 (r+2) (1 + |a| + max |b|) in the kernel plus
 *    2^-120 (dim+8) (1 + |a| + max |b|) in coordinates. With A = |a|^2 as computed
 *      W_j >= L_j - slack,   W_i <= s^2 l2_exact(x, c_i) / 2 - A / 2 + slack,
 *      2 slack = 4u |a|^2 + 2^-110 (dim+8) (1 + |a| + max |b|),
 *    to which plm_bound_limit() adds 2^-50 s^2 l2_exact for its own arithmetic in double.
 *
 * So L_j > s^2 l2_exact(x, c_i) / 2 - A / 2 + 2 slack means W_j > W_i, and j cannot be the answer
 * nor tie with it. Rows are settled by evaluating, in float64, every centroid that no evaluated one
 * excludes in this way; least value, then lowest id. For dot products the half norms and A are
 * 0, the origin does not move, and each step above has no larger error.
 *
 * Tiny centroids, |b| < 2^-60, may have coordinates off by more than eta |b|, through underflow.
 * They get coordinates and tail 0 and (1 + c) |b| as last number: a.b <= |a||b|, no projection
 * needed.
 */
#include <math.h>

#include "cluster/assign_impl.h"

#define U 0x1p-24

static double rounding(size_t n)
{
    return (double)n * U / (1 - (double)n * U);
}

static float round_up(double v)
{
    return nextafterf((float)v, INFINITY);
}

static double eta_of(const struct plm_assigner *assigner, const struct plm_head *head)
{
    return rounding(assigner->dim) * sqrt((double)head->rank * (1 + head->delta)) * (1 + 0x1p-20) +
           PLM_NORM_LEAST;
}

bool plm_bound_takes(const struct plm_assigner *assigner, double row_norm)
{
    return row_norm >= PLM_NORM_LEAST && row_norm <= PLM_NORM_MOST && assigner->norm_max <= PLM_NORM_MOST;
}

/* Bound on the norm of what r coordinates leave of a vector: step 2. */
static double tail_norm(const struct plm_assigner *assigner, const struct plm_head *head,
                        double norm, const float *coordinates)
{
    double eta = eta_of(assigner, head);
    double seen = sqrt(assigner->ctx->kernels->norm2(coordinates, head->rank)) * (1 - 0x1p-40) -
                  eta * norm;
    double norm2 = norm * norm * (1 + 0x1p-30);

    if (seen <= 0)
        return sqrt(norm2);
    return sqrt(fmax(0, norm2 - seen * seen / (1 + head->delta)));
}

void plm_head_finish_row(const struct plm_assigner *assigner, const struct plm_head *head,
                         double row_norm, float *head_row)
{
    head_row[head->rank] = round_up(tail_norm(assigner, head, row_norm, head_row));
    head_row[head->rank + 1] = round_up(row_norm * (1 + 0x1p-30));
}

float plm_bound_limit(const struct plm_assigner *assigner, double row_norm, double exact)
{
    double scale2 = (double)assigner->scale * (double)assigner->scale;
    double slack = 4 * U * row_norm * row_norm + 0x1p-50 * scale2 * fabs(exact) +
                   0x1p-110 * (double)(assigner->dim + 8) * (1 + row_norm + assigner->norm_max);

    if (assigner->metric == PLM_DOT)
        return round_up(scale2 * exact + slack);
    return round_up(scale2 * exact / 2 - row_norm * row_norm / 2 + slack);
}

/* ---- preparation -------------------------------------------------------------------------- */

/* The Frobenius norm of Q'Q - I over the columns that are not zero, in double. */
static double measure_delta(const struct plm_assigner *assigner, const float *basis)
{
    size_t dim = assigner->dim;
    uint32_t axes[PLM_HEAD_MAX];
    double dots[PLM_HEAD_MAX], sum = 0;

    for (uint32_t p = 0; p < PLM_HEAD_MAX; p++) {
        axes[p] = p;
        assigner->ctx->kernels->dot_pairs(basis + p * dim, 0, basis, axes, p + 1, dim, dots);
        for (size_t q = 0; q < p; q++)
            sum += 2 * dots[q] * dots[q];
        sum += dots[p] == 0 ? 0 : (dots[p] - 1) * (dots[p] - 1);
    }
    return sqrt(sum) * (1 + 0x1p-20) + (double)dim * PLM_HEAD_MAX * 0x1p-50;
}

static void pack_basis(const struct plm_assigner *assigner, const float *basis, float *panels)
{
    size_t dim = assigner->dim;

    for (size_t a = 0; a < PLM_HEAD_MAX; a++)
        for (size_t d = 0; d < dim; d++)
            panels[(a / PLM_PANEL * dim + d) * PLM_PANEL + a % PLM_PANEL] = basis[a * dim + d];
}

#define AT_ONCE (2 * PLM_GROUP)

/* All coordinates of all centroids, AT_ONCE of them together: rows [12][dim], packed likewise. */
static void project_centroids(const struct plm_assigner *assigner, struct plm_head *head,
                              float *rows, float *packed)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    size_t dim = assigner->dim;

    for (size_t first = 0; first < assigner->n_packed; first += AT_ONCE) {
        size_t n = plm_min_size(AT_ONCE, assigner->n_packed - first);

        for (size_t i = 0; i < n; i++) {
            const float *lane = assigner->panels + (first + i) / PLM_PANEL * PLM_PANEL * dim +
                                (first + i) % PLM_PANEL;

            for (size_t d = 0; d < dim; d++)
                rows[i * dim + d] = lane[d * PLM_PANEL];
        }
        kernels->pack_rows(rows, dim, n, dim, packed);
        kernels->project(packed, n, head->basis_panels, PLM_HEAD_MAX / PLM_PANEL, dim,
                         head->projections + first * PLM_HEAD_MAX, PLM_HEAD_MAX);
    }
}

enum plm_code plm_head_create(const struct plm_assigner *assigner, struct plm_head *head,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    size_t n_places = assigner->n_panels * PLM_PANEL;
    struct plm_head made = {0};
    float *basis = NULL, *rows = NULL, *packed = NULL;

    PLM_TRY(plm_alloc(ctx, &basis, assigner->dim, PLM_HEAD_MAX * sizeof(float), err));
    PLM_TRY(plm_assign_basis(assigner, basis, err));
    PLM_TRY(plm_alloc(ctx, &made.basis_panels, assigner->dim, PLM_HEAD_MAX * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &made.projections, n_places, PLM_HEAD_MAX * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &made.panels, n_places, (PLM_HEAD_MAX + 2) * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &made.half_norms, n_places, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &rows, assigner->dim, AT_ONCE * sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &packed, assigner->dim, AT_ONCE * sizeof(float), err));
    made.delta = measure_delta(assigner, basis);
    pack_basis(assigner, basis, made.basis_panels);
    project_centroids(assigner, &made, rows, packed);
    *head = made;
    made = (struct plm_head){0};
done:
    plm_head_reset(assigner, &made);
    plm_free(ctx, basis);
    plm_free(ctx, rows);
    plm_free(ctx, packed);
    return rc;
}

void plm_head_reset(const struct plm_assigner *assigner, struct plm_head *head)
{
    plm_free(assigner->ctx, head->basis_panels);
    plm_free(assigner->ctx, head->projections);
    plm_free(assigner->ctx, head->panels);
    plm_free(assigner->ctx, head->half_norms);
    *head = (struct plm_head){0};
}

/* One centroid's r + 2 numbers into its lane. */
static void set_centroid(const struct plm_assigner *assigner, struct plm_head *head, size_t j,
                         double c)
{
    const float *from = head->projections + j * PLM_HEAD_MAX;
    size_t len = head->rank + 2;
    float *lane = head->panels + j / PLM_PANEL * PLM_PANEL * len + j % PLM_PANEL;
    double norm = j < assigner->n_packed ? assigner->norms[j] : 0;
    bool is_tiny = norm < PLM_NORM_LEAST;

    for (size_t i = 0; i < head->rank; i++)
        lane[i * PLM_PANEL] = is_tiny ? 0 : from[i];
    lane[head->rank * PLM_PANEL] =
        is_tiny ? 0 : round_up(tail_norm(assigner, head, norm, from));
    lane[(head->rank + 1) * PLM_PANEL] = round_up((is_tiny ? 1 + c : c) * norm);
    head->half_norms[j] = assigner->half_norms[j] * (float)(1 - 8 * U);
}

bool plm_head_set_rank(const struct plm_assigner *assigner, struct plm_head *head, size_t rank)
{
    double eta;

    head->rank = rank;
    eta = eta_of(assigner, head);
    if (head->delta > 0.001 || eta > 0.05 || !(assigner->norm_max <= PLM_NORM_MOST))
        return false;
    head->c =
        (1.01 * head->delta + 2.1 * eta + 3 * rounding(rank + 4) + 4 * U) * (1 + 0x1p-10);
    for (size_t j = 0; j < assigner->n_panels * PLM_PANEL; j++)
        set_centroid(assigner, head, j, head->c);
    return true;
}

size_t plm_head_bytes(size_t k, size_t dim)
{
    size_t n_places = (k + PLM_PANEL - 1) / PLM_PANEL * PLM_PANEL;

    return dim * sizeof(float) * (2 * PLM_HEAD_MAX + 2 * AT_ONCE) +
           n_places * sizeof(float) * (2 * PLM_HEAD_MAX + 3) + plm_basis_bytes(k, dim) + 4096;
}
