/* assign_basis.c - leading axes of the centroids, for the head of assign_head.c. */
#include "cluster/assign_impl.h"
#include "cluster/train_math.h"

size_t plm_basis_bytes(size_t k, size_t dim)
{
    size_t n = plm_min_size(k, PLM_HEAD_SAMPLE);

    /* the sample, and as much for the blocks of all threads; scores, twice; axes; panels of either
     * product, or the axes in the two layouts of Gram-Schmidt and blocks of those */
    return sizeof(float) * (2 * n * dim + 2 * n * PLM_HEAD_MAX + dim * PLM_HEAD_MAX +
                            plm_max_size(n, dim + PLM_PANEL) * (2 * PLM_HEAD_MAX + PLM_BLOCK_ROWS)) +
           8192;
}

enum plm_code plm_assign_basis(const struct plm_assigner *assigner, float *basis,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t dim = assigner->dim, n = plm_min_size(assigner->n_packed, PLM_HEAD_SAMPLE);
    float *sample = NULL;

    PLM_TRY(plm_alloc(assigner->ctx, &sample, n, dim * sizeof *sample, err));
    for (size_t i = 0; i < n; i++) { /* evenly over the ids, in the frame, out of the panels */
        size_t j = i * assigner->n_packed / n;
        const float *lane = assigner->panels + j / PLM_PANEL * PLM_PANEL * dim + j % PLM_PANEL;

        for (size_t d = 0; d < dim; d++)
            sample[i * dim + d] = lane[d * PLM_PANEL];
    }
    struct plm_basis_rows rows = {(const uint8_t *)sample, dim * sizeof *sample, n, dim, INFINITY, NULL};
    PLM_TRY(plm_basis_make(assigner->ctx, &rows, PLM_HEAD_MAX, 1, basis, err));
done:
    plm_free(assigner->ctx, sample);
    return rc;
}
