/* assign_bytes.c - a lower bound of every value from vectors in eight (or seven) bits.
 *
 * Notation of assign_exact.c. Let x and y_j be float vectors, a row's and a centroid's: either
 * a and b_j themselves, or their head coordinates H and F_j (assign_head.c). Each is stored as a scale
 * times whole numbers q, and what that leaves out is measured, not assumed:
 *   x = X + (x - X),  X = s_x q_x,  |x - X| <= rho     y = Y + (y - Y),  Y = s_y q_y,  |y - Y| <= sigma
 *
 * 1. x.y = X.Y + (x - X).y + X.(y - Y), and |X| <= |x| + rho. So (Cauchy-Schwarz)
 *      x.y <= s_x s_y (q_x.q_y) + rho (|y| + sigma) + |x| sigma.
 *    The whole product q_x.q_y is exact, and so are the scales: they are floats, and rho and
 *    sigma are what is left at these very scales. An outlier only widens the bound.
 * 2. Rows with rho > 1.1 |a| are not taken; a centroid with sigma > 1.1 |y| gets q = 0 and
 *    sigma = |y|. With |x| <= 1.06 |a| and |y| <= 1.06 |b| (equal, or heads) |X| <= 2.16 |a| and
 *    |Y| <= 2.23 |b|. So in units of |a||b| the three products are below 4.9, 2.5 and 1.3, that of
 *    the tails below 1.1: in all 10, of which the kernel may be off by 8u (simd.h), 80u |a||b|.
 *    Together with the 2.1u |a||b| between a.b and a*.b* (in a head's own c already)
 *      c = 100u  (plus a head's c)
 *    covers both when c |b| joins sigma: r2 p3 = |a| (1.06 sigma + c |b|), 1.06 for |H| <= 1.06 |a|.
 * 3. The half norm (1 - 16u) |b|^2 / 2 leaves 16u of it for 8u in the kernel, 1u when it was stored
 *    and made smaller, 2.1u between b and b*, and (dim + 8) 2^-52 for l2_exact.
 * 4. Underflow in the kernel, 5 (1 + |a|) 2^-124, and what depends on the row alone, is as in step 5
 *    of assign_head.c: plm_bound_limit() pays for it.
 *
 * All terms but the half norm are rounded up, and enter with a minus: the result is a lower bound.
 */
#include <math.h>

#include "cluster/assign_impl.h"

#define U 0x1p-24

static float round_up(double v)
{
    return nextafterf((float)v, INFINITY);
}

size_t plm_bytes_bytes(size_t k, size_t dim)
{
    size_t n_places = (k + PLM_PANEL - 1) / PLM_PANEL * PLM_PANEL;

    return n_places * (plm_byte_dims(dim) + sizeof(int32_t) + PLM_BYTE_PANEL_TERMS * sizeof(float)) +
           dim * sizeof(float) + PLM_GROUP * plm_byte_dims(dim) + 1024;
}

void plm_bytes_reset(const struct plm_assigner *assigner, struct plm_bytes *bytes)
{
    plm_free(assigner->ctx, bytes->panels);
    plm_free(assigner->ctx, bytes->offsets);
    plm_free(assigner->ctx, bytes->terms);
    *bytes = (struct plm_bytes){0};
}

/* What a vector's place j needs to know besides its values. */
struct place {
    double norm, tail; /* |b_j|, and its tail where heads are stored */
    double c;          /* of step 2 */
    float half_norm;
};

/* The vector of a place: q into its lane of a panel, and its terms. packed: room for a group. */
static void set_place(const struct plm_kernels *kernels, struct plm_bytes *bytes, size_t j,
                      const float *vector, const struct place *place, uint8_t *packed)
{
    int8_t *lane = bytes->panels + j / PLM_PANEL * PLM_PANEL * bytes->len + j % PLM_PANEL * 4;
    float *terms = bytes->terms + j / PLM_PANEL * PLM_PANEL * PLM_BYTE_PANEL_TERMS + j % PLM_PANEL;
    double norm = sqrt(kernels->norm2(vector, bytes->dim)) * (1 + 0x1p-30), sigma;
    int middle = kernels->byte_most + 1, sum = 0;
    float scale, rest;

    kernels->byte_rows(vector, bytes->dim, 1, bytes->dim, packed, &scale, &rest);
    bool is_zero = !((double)rest <= 1.1 * norm);
    for (size_t d = 0; d < bytes->len; d++) {
        int q = is_zero ? 0 : packed[d / 4 * 4 * PLM_GROUP + d % 4] - middle;

        lane[d / 4 * 4 * PLM_PANEL + d % 4] = (int8_t)q;
        sum += q;
    }
    sigma = is_zero ? norm : (double)rest;
    bytes->offsets[j] = -middle * sum;
    terms[0] = place->half_norm * (float)(1 - 16 * U);
    terms[PLM_PANEL] = is_zero ? 0 : scale;
    terms[2 * PLM_PANEL] = round_up((norm + sigma) * (1 + 0x1p-30));
    terms[3 * PLM_PANEL] = round_up((1.06 * sigma + place->c * place->norm) * (1 + 0x1p-30));
    terms[4 * PLM_PANEL] = round_up(place->tail);
}

static enum plm_code make_room(const struct plm_assigner *assigner, size_t dim,
                               struct plm_bytes *bytes, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    size_t n_places = assigner->n_panels * PLM_PANEL;

    bytes->dim = dim;
    bytes->len = plm_byte_dims(dim);
    PLM_TRY(plm_alloc(ctx, &bytes->panels, n_places, bytes->len, err));
    PLM_TRY(plm_alloc(ctx, &bytes->offsets, n_places, sizeof *bytes->offsets, err));
    PLM_TRY(plm_alloc(ctx, &bytes->terms, n_places, PLM_BYTE_PANEL_TERMS * sizeof(float), err));
done:
    return rc;
}

/* Lane j of panels whose places have `dim` values. */
static void read_lane(const float *panels, size_t j, size_t dim, float *out)
{
    const float *lane = panels + j / PLM_PANEL * PLM_PANEL * dim + j % PLM_PANEL;

    for (size_t d = 0; d < dim; d++)
        out[d] = lane[d * PLM_PANEL];
}

enum plm_code plm_bytes_create(const struct plm_assigner *assigner, const struct plm_head *head,
                               struct plm_bytes *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    size_t len = head ? head->rank + 2 : assigner->dim, dim = head ? head->rank : len;
    const float *from = head ? head->panels : assigner->panels;
    struct plm_bytes bytes = {0};
    uint8_t *packed = NULL;
    float *vector = NULL;

    if (dim > PLM_BYTE_DIM_MAX || !(assigner->norm_max <= PLM_NORM_MOST))
        return plm_fail(err, PLM_UNSUPPORTED, "assign: no byte filter for these centroids");
    PLM_TRY(make_room(assigner, dim, &bytes, err));
    PLM_TRY(plm_alloc(ctx, &vector, len, sizeof *vector, err));
    PLM_TRY(plm_alloc(ctx, &packed, PLM_GROUP, bytes.len, err));
    for (size_t j = 0; j < assigner->n_panels * PLM_PANEL; j++) {
        struct place place = {.norm = assigner->norms[j], .half_norm = assigner->half_norms[j],
                              .c = 100 * U + (head ? head->c : 0)};

        read_lane(from, j, len, vector);
        if (head) {
            place.tail = (double)vector[dim];
            /* A tiny centroid has no coordinates, and more than c |b| as its last number. */
            if (place.norm < PLM_NORM_LEAST)
                place.c += 1;
        }
        set_place(ctx->kernels, &bytes, j, vector, &place, packed);
    }
    *out = bytes;
    bytes = (struct plm_bytes){0};
done:
    plm_bytes_reset(assigner, &bytes);
    plm_free(ctx, packed);
    plm_free(ctx, vector);
    return rc;
}

void plm_bytes_rows(const struct plm_assigner *assigner, const struct plm_bytes *bytes,
                    const float *rows, size_t row_stride, size_t n, const double *norms,
                    uint8_t *packed, float *terms, bool *taken)
{
    float scales[PLM_BLOCK_ROWS], rests[PLM_BLOCK_ROWS];

    assigner->ctx->kernels->byte_rows(rows, row_stride, n, bytes->dim, packed, scales, rests);
    for (size_t i = 0; i < n; i++) {
        float *own = terms + i * PLM_BYTE_ROW_TERMS;
        const float *row = rows + i * row_stride;
        bool has_head = bytes->dim < assigner->dim;

        own[0] = scales[i];
        own[1] = rests[i];
        own[2] = round_up(norms[i] * (1 + 0x1p-30));
        own[3] = has_head ? row[bytes->dim] : 0; /* its tail stands behind the coordinates */
        taken[i] = taken[i] && (double)rests[i] <= 1.1 * norms[i];
        for (size_t t = 0; t < PLM_BYTE_ROW_TERMS && !taken[i]; t++)
            own[t] = 0;
    }
}
