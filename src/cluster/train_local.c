/* train_local.c - training on one machine, and the memory it takes. */
#include "cluster/assign.h"
#include "cluster/shard_impl.h"
#include "cluster/train_math.h"

enum plm_code plm_train_local(struct plm_ctx *ctx, const struct plm_sample *sample,
                              struct plm_trainer *trainer, plm_checkpoint_fn *checkpoint, void *arg,
                              struct plm_err *err)
{
    struct plm_shard *shard = NULL;
    struct plm_buf partial;
    struct plm_view step;
    const char *what;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&partial, ctx, SIZE_MAX);
    PLM_TRY(plm_shard_create(ctx, sample, 0, &shard, err));
    while ((step = plm_trainer_step(trainer, &what)).len > 0) {
        PLM_TRY(plm_check_cancel(ctx, err));
        plm_progress_detail(ctx, "%s", what);
        partial.len = 0;
        PLM_TRY(plm_shard_run(shard, step, &partial, err));
        PLM_TRY(plm_trainer_absorb(trainer, (struct plm_view){partial.data, partial.len}, err));
        plm_progress_add(ctx, 1);
        if (checkpoint)
            PLM_TRY(checkpoint(arg, trainer, err));
    }
done:
    plm_buf_reset(&partial);
    plm_shard_destroy(shard);
    return rc;
}

/* The largest of three moments: the basis, the tree, a Lloyd step (projected rows stay until there
 * is one without axes). Steps and partials are held once, and twice while one is made from the other. */
size_t plm_train_bytes(size_t n_sample, size_t dim, size_t k, unsigned threads)
{
    size_t r = dim < 96 ? dim : dim <= 256 ? 64 : 128;
    size_t fetched = plm_min_size(n_sample, PLM_FETCH_ROWS);
    r = fetched < 4 * r ? dim : r; /* as the trainer decides */
    size_t chunk = ((size_t)1 << 20) + k * 16; /* ids and distances of one */
    size_t basis = fetched * dim * 4 * sizeof(float) + dim * r * 4 * sizeof(float);
    size_t projected = n_sample * (r * sizeof(float) + 28) + dim * r * 2 * sizeof(float);
    size_t tree = k * (4 * r * sizeof(float) + r * sizeof(double) + 96) +
                  threads * plm_split_fan((uint32_t)k, (uint32_t)k, 0) * 4 * (r * sizeof(double) + 16);
    size_t sums = k * (dim * sizeof(double) + 16), centroids = k * dim * sizeof(float);
    size_t scratch = threads * (4 * plm_packed_floats(dim) * sizeof(float) + k * r / 8 + 65536);
    size_t grow = projected + plm_max_size(tree, sums + centroids + k * r * 2 * sizeof(float));
    size_t head = k * (4 * (r + 1) * sizeof(float) + 8) + threads * k * 25 * sizeof(float);
    size_t lloyd = sums + centroids + plm_assigner_bytes(k, dim) +
                   threads * plm_assign_scratch_bytes(k, dim) + k * 16 +
                   (dim < 96 ? 0 : projected + head);

    lloyd += centroids; /* or a checkpoint */
    return plm_max_size(basis, plm_max_size(grow, lloyd)) + scratch + chunk;
}

/* Rows read back: of a projection's tasks, or a chunk (shard_full.c, whose chunks grow with what the
 * budget leaves). */
size_t plm_train_spill_bytes(size_t dim, unsigned threads)
{
    size_t row_bytes = dim * sizeof(float);

    return plm_max_size(threads * PLM_PROJECT_ROWS, PLM_PASS_ROWS) * row_bytes + 65536;
}
