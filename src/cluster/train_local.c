/* train_local.c - training on one machine, and the memory it takes. */
#include "cluster/assign.h"
#include "cluster/shard_groups.h"
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
        PLM_TRY(plm_shard_run(shard, step, &partial, err));
        PLM_TRY(plm_trainer_absorb(trainer, (struct plm_view){partial.data, partial.len}, err));
        plm_buf_reset(&partial); /* the largest block there is: a checkpoint takes its room */
        plm_buf_init(&partial, ctx, SIZE_MAX);
        plm_progress_add(ctx, 1);
        if (checkpoint)
            PLM_TRY(checkpoint(arg, trainer, err));
    }
done:
    plm_buf_reset(&partial);
    plm_shard_destroy(shard);
    return rc;
}

/* ---- memory --------------------------------------------------------------------------------------- */

struct shape {
    size_t n, dim, k, r, threads;
    bool has_basis, aside;
};

/* With the axes that rows of this dimension get, or as it is when these go. */
static struct shape shape_of(const struct plm_train_shape *given, bool axes)
{
    struct shape s = {given->n_sample, given->dim, given->k, given->dim, given->threads, false, given->aside};

    s.r = axes ? plm_projected_dim(s.dim, plm_min_size(s.n, PLM_FETCH_ROWS)) : 0;
    s.has_basis = s.r > 0;
    s.r = s.has_basis ? s.r : s.dim;
    return s;
}

/* The rows fetched and their axes: products by blocks, and the axes some times over. */
static size_t axes_bytes(const struct shape *s)
{
    size_t n = plm_min_size(s->n, PLM_FETCH_ROWS), wide = plm_max_size(n, s->dim);
    size_t blocks = s->threads * 2 * plm_packed_floats(wide) + wide * (2 * s->r + PLM_PANEL);

    return n * (plm_pick_bytes(s->dim) + 2 * s->r * sizeof(float)) + (s->dim * s->r * 3 + blocks) * sizeof(float) +
           s->dim * 16;
}

/* Projected rows, and what is known of them. */
static size_t projected_bytes(const struct shape *s)
{
    return s->n * (8 + (s->aside ? 0 : s->r * sizeof(float))) + s->n / PLM_BLOCK_ROWS * 8;
}

static size_t tree_bytes(const struct shape *s)
{
    size_t fan = plm_split_fan((uint32_t)s->k, (uint32_t)s->k, 0), units = s->n / PLM_UNIT_ROWS * 32;
    size_t chunk = s->aside ? plm_chunk_rows(s->n, s->k, (unsigned)s->threads) * (s->r + 1) * sizeof(float)
                            : s->n * sizeof(uint32_t);

    return s->k * (4 * s->r * sizeof(float) + s->r * sizeof(double) + 112) +
           s->threads * fan * 4 * (s->r * sizeof(double) + 16) + s->n * 2 * sizeof(uint32_t) + chunk + units;
}

/* What finds the centroids of rows in a LLOYD step, and of those that the axes leave open. */
static size_t place_bytes(const struct shape *s)
{
    size_t k = s->k, r = s->r, exact = plm_assigner_bytes(k, s->dim) + s->threads * plm_assign_scratch_bytes(k, s->dim);
    size_t rows = PLM_PASS_ROWS * ((2 * r + 1) * sizeof(float) + sizeof(struct plm_found));

    if (!s->has_basis)
        return plm_groups_pay(k) && s->dim == s->r && plm_projected_dim(s->dim, PLM_FETCH_ROWS) == 0
                   ? plm_place_near_bytes(k, s->dim, (unsigned)s->threads)
                   : exact;
    if (!plm_axes_place(k))
        return exact;
    if (plm_groups_pay(k)) /* or exactly, where the axes are given up */
        return plm_max_size(exact, plm_groups_bytes(k, r + 1, (unsigned)s->threads) + k * (r + 3) * sizeof(float) +
                                       s->threads * rows);
    return exact + k * (4 * (r + 1) * sizeof(float) + 8) + s->threads * k * 25 * sizeof(float);
}

/* A pass in full dimension. */
static size_t pass_bytes(const struct shape *s)
{
    size_t k = s->k, sums = plm_sums_bytes(k, s->dim), centroids = k * s->dim * sizeof(float);
    bool wait = plm_sums_wait(k, s->dim);
    size_t near = plm_groups_find_leaves(k) ? plm_place_near_bytes(k, s->r, (unsigned)s->threads) : k * s->r * sizeof(float);
    size_t means = k * s->r * sizeof(float) + plm_max_size(near + (wait ? 0 : sums), sums + centroids);
    size_t place = place_bytes(s), lloyd = centroids + (wait ? plm_max_size(place, sums) : place + sums);

    return plm_max_size(means, lloyd) + k * 48 + (wait ? s->n * 12 : (size_t)1 << 20);
}

static size_t shape_bytes(const struct plm_train_shape *given, bool with_axes)
{
    struct shape s = shape_of(given, with_axes);
    size_t axes = s.has_basis ? s.dim * s.r * sizeof(float) : 0; /* in the step */
    size_t project = axes + (s.aside ? s.threads * PLM_PROJECT_ROWS * s.r * sizeof(float) : 0);
    size_t scratch = s.threads * (4 * plm_packed_floats(s.dim) * sizeof(float) + s.k * s.r / 8 + 65536);
    size_t most = plm_max_size(project, plm_max_size(tree_bytes(&s), pass_bytes(&s)));

    return plm_max_size(axes_bytes(&s), projected_bytes(&s) + axes + most + scratch) + 65536;
}

size_t plm_train_bytes(const struct plm_train_shape *given)
{
    size_t bytes = shape_bytes(given, true);

    return plm_axes_may_go(given->dim) && !given->has_axes ? plm_max_size(bytes, shape_bytes(given, false)) : bytes;
}

/* Rows read back: of a projection's tasks, or a chunk (shard_full.c, whose chunks grow with what the
 * budget leaves). */
size_t plm_train_spill_bytes(size_t dim, unsigned threads)
{
    size_t row_bytes = dim * sizeof(float);

    return plm_max_size(threads * PLM_PROJECT_ROWS, PLM_PASS_ROWS) * row_bytes + 65536;
}

size_t plm_train_aside_bytes(size_t n_sample, size_t dim)
{
    struct shape s = shape_of(&(struct plm_train_shape){.n_sample = n_sample, .dim = dim, .k = 1, .threads = 1},
                              !plm_axes_may_go(dim));

    return s.n * s.r * sizeof(float);
}
