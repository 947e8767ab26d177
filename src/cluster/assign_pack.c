/* assign_pack.c - the frame of an assigner, and its centroids in panels. */
#include <math.h>
#include <stdlib.h>

#include "cluster/assign_impl.h"

/* ---- distinct centroids ------------------------------------------------------------ */

struct hashed {
    uint64_t hash;
    uint32_t id;
};

static int by_hash_then_id(const void *a, const void *b)
{
    const struct hashed *x = a, *y = b;

    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Of centroids that are equal byte for byte only the lowest id can ever win, so the others are
 * left out. Without this, K copies of one centroid would make every row a K-fold tie. Within a
 * run of one hash only neighbours are compared: a collision keeps a copy, which is harmless. */
static void find_distinct(struct plm_assigner *assigner, struct hashed *hashed)
{
    size_t row_bytes = assigner->dim * sizeof(float), n = 0;
    const float *centroids = assigner->centroids;

    for (size_t j = 0; j < assigner->k; j++)
        hashed[j] = (struct hashed){plm_xxh3(centroids + j * assigner->dim, row_bytes),
                                    (uint32_t)j};
    qsort(hashed, assigner->k, sizeof *hashed, by_hash_then_id);
    memset(assigner->norms, 0, assigner->k * sizeof *assigner->norms);
    for (size_t i = 1; i < assigner->k; i++)
        if (hashed[i].hash == hashed[i - 1].hash &&
            memcmp(centroids + hashed[i].id * assigner->dim,
                   centroids + hashed[i - 1].id * assigner->dim, row_bytes) == 0)
            assigner->norms[hashed[i].id] = 1; /* a mark; the norms come later */
    for (size_t j = 0; j < assigner->k; j++)
        if (assigner->norms[j] == 0)
            assigner->ids[n++] = (uint32_t)j;
    assigner->n_packed = n;
    assigner->n_panels = (n + PLM_PANEL - 1) / PLM_PANEL;
}

/* ---- the frame ----------------------------------------------------------------------- */

static const float *centroid_at(const struct plm_assigner *assigner, size_t j)
{
    return assigner->centroids + (size_t)assigner->ids[j] * assigner->dim;
}

/* Mean of the distinct centroids into origin; true if distances from it are worth the move. The
 * bounds grow with norms, so a quarter less energy is about an eighth less error. */
static bool choose_origin(struct plm_assigner *assigner, double *sums)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    double around_zero = 0, around_mean = 0;

    memset(sums, 0, assigner->dim * sizeof *sums);
    for (size_t j = 0; j < assigner->n_packed; j++) {
        const float *c = centroid_at(assigner, j);

        around_zero += kernels->norm2(c, assigner->dim);
        for (size_t d = 0; d < assigner->dim; d++)
            sums[d] += (double)c[d];
    }
    for (size_t d = 0; d < assigner->dim; d++)
        assigner->origin[d] = (float)(sums[d] / (double)assigner->n_packed);
    for (size_t j = 0; j < assigner->n_packed; j++)
        around_mean += kernels->l2_exact(centroid_at(assigner, j), assigner->origin, assigner->dim);
    /* 2^100: differences must not overflow. Then no move; the scale still helps. */
    return around_mean < 0.75 * around_zero && around_zero < 0x1p200;
}

/* A power of two that brings norm_max near 1, unless it is in comfortable range already. */
static float choose_scale(double norm_max)
{
    int exponent = norm_max > 0 ? ilogb(norm_max) : 0;

    if (exponent >= -40 && exponent <= 40)
        return 1;
    return ldexpf(1, exponent < -126 ? 126 : exponent > 100 ? -100 : -exponent);
}

/* The rows in the assigner's frame: `rows` themselves when the frame is the identity. */
static const float *in_frame(const struct plm_assigner *assigner, const float *rows, size_t n, float *scratch)
{
    const float *origin = assigner->origin;
    const float scale = assigner->scale;

    if (!origin && scale == 1)
        return rows;
    for (size_t i = 0; i < n; i++) {
        const float *row = rows + i * assigner->dim;
        float *out = scratch + i * assigner->dim;

        for (size_t d = 0; d < assigner->dim; d++)
            out[d] = (origin ? row[d] - origin[d] : row[d]) * scale;
    }
    return scratch;
}

/* ---- panels -------------------------------------------------------------------------- */

static void pack_centroid(struct plm_assigner *assigner, size_t j, const float *b)
{
    float *lane = assigner->panels + j / PLM_PANEL * PLM_PANEL * assigner->dim + j % PLM_PANEL;
    double norm2 = assigner->ctx->kernels->norm2(b, assigner->dim);

    for (size_t d = 0; d < assigner->dim; d++)
        lane[d * PLM_PANEL] = b[d];
    assigner->norms[j] = sqrt(norm2);
    assigner->half_norms[j] = assigner->metric == PLM_DOT ? 0 : (float)(norm2 / 2);
}

/* Greatest |b_j| at the scale of 1. */
static double greatest_norm(const struct plm_assigner *assigner)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    double greatest = 0;

    for (size_t j = 0; j < assigner->n_packed; j++) {
        const float *c = centroid_at(assigner, j);
        double norm2 = assigner->origin ? kernels->l2_exact(c, assigner->origin, assigner->dim)
                                        : kernels->norm2(c, assigner->dim);

        greatest = norm2 > greatest ? norm2 : greatest;
    }
    return sqrt(greatest);
}

static void pack_panels(struct plm_assigner *assigner, float *scratch)
{
    size_t n_places = assigner->n_panels * PLM_PANEL;

    for (size_t j = 0; j < assigner->n_packed; j++) {
        const float *b = in_frame(assigner, centroid_at(assigner, j), 1, scratch);

        pack_centroid(assigner, j, b);
        assigner->norm_max = fmax(assigner->norm_max, assigner->norms[j]);
    }
    memset(scratch, 0, assigner->dim * sizeof *scratch);
    for (size_t j = assigner->n_packed; j < n_places; j++) { /* padding never wins */
        pack_centroid(assigner, j, scratch);
        assigner->half_norms[j] = INFINITY;
        assigner->ids[j] = assigner->ids[assigner->n_packed - 1];
    }
}

enum plm_code plm_assigner_pack(struct plm_assigner *assigner, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = assigner->ctx;
    struct hashed *hashed = NULL;
    float *scratch = NULL;
    double *sums = NULL;
    size_t n_places = (assigner->k + PLM_PANEL - 1) / PLM_PANEL * PLM_PANEL;

    PLM_TRY(plm_alloc(ctx, &assigner->ids, n_places, sizeof *assigner->ids, err));
    PLM_TRY(plm_alloc(ctx, &assigner->norms, n_places, sizeof *assigner->norms, err));
    PLM_TRY(plm_alloc(ctx, &assigner->half_norms, n_places, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &assigner->origin, assigner->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &hashed, assigner->k, sizeof *hashed, err));
    PLM_TRY(plm_alloc(ctx, &scratch, assigner->dim, sizeof *scratch, err));
    PLM_TRY(plm_alloc(ctx, &sums, assigner->dim, sizeof *sums, err));

    find_distinct(assigner, hashed);
    if (assigner->metric == PLM_DOT || !choose_origin(assigner, sums)) {
        plm_free(ctx, assigner->origin);
        assigner->origin = NULL;
    }
    assigner->scale = choose_scale(greatest_norm(assigner));
    /* n_panels * 16 <= n_places, so only the product with dim can overflow: plm_alloc checks. */
    PLM_TRY(plm_alloc(ctx, &assigner->panels, assigner->n_panels * PLM_PANEL,
                      assigner->dim * sizeof(float), err));
    pack_panels(assigner, scratch);
done:
    plm_free(ctx, hashed);
    plm_free(ctx, scratch);
    plm_free(ctx, sums);
    return rc;
}
