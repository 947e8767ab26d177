/* assign_exact.c - error bounds, and near-ties decided in float64.
 *
 * Notation. u = 2^-24. x a row, c_j a centroid. a and b_j are what the kernels see: rounded
 * images of a* = s(x - o) and b*_j = s(c_j - o) with origin o and scale s. g(n) = n u / (1 - n u).
 *
 *   D_j = s^2 |x - c_j|^2 / 2 = |a* - b*_j|^2 / 2        the truth, over the reals
 *   V_j = |b*_j|^2 / 2 - a*.b*_j = D_j - |a*|^2 / 2      what a value stands for
 *   W_j = s^2 l2_exact(x, c_j) / 2 - |a*|^2 / 2          what the contract asks to minimize
 *   v_j = the fp32 value of the kernels
 *
 * Claim: |v_j - W_j| <= plm_assign_error(dim, |a|, |b_j|).
 *
 * 1. Frame. fl(x_i - o_i) = (x_i - o_i)(1 + t), |t| <= u; the scale is a power of two. So
 *    |a* - a| <= u |a*|, |b*_j - b_j| <= u |b*_j|, hence |a*| <= |a| / (1 - u), and
 *      | |b*|^2/2 - |b|^2/2 | <= 2.1 u |b|^2 / 2,    |a*.b* - a.b| <= 2.1 u |a||b|.
 * 2. Half norm. h_j is |b_j|^2 / 2 summed in double, then rounded: off by <= 1.01 u |b|^2 / 2.
 * 3. Kernel (simd.h): off by <= g(dim+1) |a||b| + u h_j.
 *    1 to 3 add up to at most (g(dim+1) + 2.1 u) |a||b| + 4.2 u |b|^2 / 2
 *                          <= g(dim+4) |a||b| + 2.1 u |b|^2.
 * 4. l2_exact. With w = 2^-53 a difference has relative error w, its square 3w, and the eight
 *    sums of ceil(dim/8) terms and their three additions at most dim/8 + 4 more: relative error
 *    <= (dim + 8) w of s^2 |x - c|^2 / 2 = |a* - b*|^2 / 2 <= |a*|^2 + |b*|^2.
 *    (No underflow: squares of float denormals are normal doubles. No overflow: 2^258 dim.)
 * 5. Underflow in 1 to 3: a product loses at most 2^-149, and a scaled component likewise; in
 *    all <= dim 2^-149 (1 + |a| + |b|). Counted with 2^-124 in place of 2^-149, which also
 *    covers a process that flushes denormals to zero.
 *
 * Dot product: o = 0, V_j = -a*.b*_j, W_j = -s^2 dot_exact(x, c_j), no half norms: every step has
 * a smaller bound. The norms passed in are computed in double (relative error < dim 2^-52), which
 * with the rounding of this very formula is paid by the factor 1 + 2^-10.
 *
 * Decision. Let J be the set of j with v_j - e_j <= min_i (v_i + e_i), where e_j is the bound.
 * If W_w is least, then v_w - e_w <= W_w <= W_i <= v_i + e_i for every i, so w is in J: the
 * answer of the contract, and every centroid exactly tied with it, is among the candidates. They
 * are compared by l2_exact or dot_exact themselves, ascending, strictly less wins: the result is
 * the lowest id among the least, as over all K. With one bound E >= e_j for all j, J lies within
 * v_j <= best + 2E; when second > best + 2E it holds one centroid, and nothing is left to decide.
 */
#include <math.h>

#include "cluster/assign_impl.h"

/* No partial sum of a dot product exceeds 1.01 |a||b|, so below this no fp32 sum overflows. */
#define TAME_MAX 0x1p120

double plm_assign_error(size_t dim, double a, double b)
{
    double n = (double)(dim + 4);
    double dot = n * 0x1p-24 / (1 - n * 0x1p-24) * a * b;
    double half_norm = 2.1 * 0x1p-24 * b * b;
    double in_double = (n + 4) * 0x1p-53 * (a * a + b * b);
    double underflow = n * 0x1p-124 * (1 + a + b);

    return (dot + half_norm + in_double + underflow) * (1 + 0x1p-10);
}

bool plm_assign_is_tame(const struct plm_assigner *assigner, double row_norm)
{
    /* Not tame when anything is NaN. Above 2^20 dimensions the bound above means nothing. */
    return row_norm <= TAME_MAX && row_norm * assigner->norm_max <= TAME_MAX &&
           assigner->norm_max * assigner->norm_max <= TAME_MAX && assigner->dim <= 1u << 20;
}

double plm_assign_exact(const struct plm_assigner *assigner, const float *row, size_t j)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    const float *centroid = assigner->centroids + (size_t)assigner->ids[j] * assigner->dim;

    if (assigner->metric == PLM_DOT)
        return -kernels->dot_exact(row, centroid, assigner->dim);
    return kernels->l2_exact(row, centroid, assigner->dim);
}

/* How far an estimate may be from plm_assign_exact(): of l2_near relative to it, of dot_near
 * absolute; twice the bound of simd.h, which pays for float64's own rounding and this formula's. */
static void near_margins(const struct plm_assigner *assigner, double row_norm, double norm,
                         double *relative, double *absolute)
{
    double e = 2 * plm_near_error(assigner->dim);

    *absolute = (double)assigner->dim * 0x1p-124;
    *relative = e;
    if (assigner->metric == PLM_DOT) {
        *relative = 0;
        *absolute += e * row_norm * norm;
    }
}

/* NEAR_MOST places at a time. */
#define NEAR_MOST 16

static void near_some(const struct plm_assigner *assigner, const float *row, double row_norm,
                      const uint32_t *places, size_t n, double *least, double *most)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    uint32_t ids[NEAR_MOST];
    float values[NEAR_MOST];

    for (size_t i = 0; i < n; i++)
        ids[i] = assigner->ids[places[i]];
    (assigner->metric == PLM_DOT ? kernels->dot_near
                                 : kernels->l2_near)(row, assigner->centroids, ids, n,
                                                     assigner->dim, values);
    for (size_t i = 0; i < n; i++) {
        double value = assigner->metric == PLM_DOT ? -(double)values[i] : (double)values[i];
        double relative, absolute;

        near_margins(assigner, row_norm, assigner->norms[places[i]], &relative, &absolute);
        least[i] = value - absolute - relative * fabs(value);
        most[i] = value + absolute + relative * fabs(value);
    }
}

void plm_assign_near(const struct plm_assigner *assigner, const float *row, double row_norm,
                     const uint32_t *places, size_t n, double *least, double *most)
{
    /* Another scale means values that fp32 may not square. */
    if (assigner->scale != 1) {
        for (size_t i = 0; i < n; i++)
            least[i] = most[i] = plm_assign_exact(assigner, row, places[i]);
        return;
    }
    for (size_t i = 0; i < n; i += NEAR_MOST)
        near_some(assigner, row, row_norm, places + i, plm_min_size(NEAR_MOST, n - i), least + i,
                  most + i);
}

uint32_t plm_assign_brute(const struct plm_assigner *assigner, const float *row)
{
    double least = plm_assign_exact(assigner, row, 0);
    size_t winner = 0;

    for (size_t j = 1; j < assigner->n_packed; j++) {
        double value = plm_assign_exact(assigner, row, j);

        if (value < least) {
            least = value;
            winner = j;
        }
    }
    return assigner->ids[winner];
}

uint32_t plm_assign_refine(const struct plm_assigner *assigner, const float *row, double row_norm,
                           const float *values)
{
    double ceiling = INFINITY, least = INFINITY;
    size_t winner = assigner->n_packed;

    for (size_t j = 0; j < assigner->n_packed; j++) {
        double above = values[j] + plm_assign_error(assigner->dim, row_norm, assigner->norms[j]);

        if (above < ceiling)
            ceiling = above;
    }
    for (size_t j = 0; j < assigner->n_packed; j++) {
        double value;

        if (values[j] > ceiling &&
            values[j] - plm_assign_error(assigner->dim, row_norm, assigner->norms[j]) > ceiling)
            continue;
        value = plm_assign_exact(assigner, row, j);
        if (winner == assigner->n_packed || value < least) {
            least = value;
            winner = j;
        }
    }
    return assigner->ids[winner];
}
