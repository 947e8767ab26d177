/* assign_block.c - one block of rows through the filter, the fp32 kernel and float64.
 *
 * Each stage settles the rows it is certain of and leaves the others to the next.
 */
#include <math.h>

#include "cluster/assign_impl.h"

/* ---- the filter --------------------------------------------------------------------------- */

/* Rows list[0..n) of `from` to the front of block->framed. When `from` is block->framed, rows
 * only move down, in order: list is ascending. */
static void gather(struct plm_assign_block *block, const float *from, const size_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (from + list[i] * block->dim != block->framed + i * block->dim)
            memmove(block->framed + i * block->dim, from + list[i] * block->dim,
                    block->dim * sizeof *from);
}

/* Head rows of all rows to do. Those that the filter does not take become zeros. */
static void project_rows(const struct plm_assigner *assigner, const struct plm_head *head,
                         struct plm_assign_block *block, const float *framed, float *packed)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    size_t len = head->rank + 2, n = block->n_todo;

    kernels->pack_rows(framed, assigner->dim, n, assigner->dim, packed);
    kernels->project(packed, n, head->basis_panels, head->rank / PLM_PANEL, assigner->dim,
                     block->head_rows, len);
    for (size_t p = 0; p < n; p++) {
        float *row = block->head_rows + p * len;

        if (block->taken[p])
            plm_head_finish_row(assigner, head, block->norms[block->todo[p]], row);
        else
            memset(row, 0, len * sizeof *row);
    }
}

/* Whatever the way needs of all rows to do; bytes go where packed rows were. */
static void prepare_rows(const struct plm_assigner *assigner, struct plm_way way,
                         const float *framed, struct plm_assign_scratch *scratch)
{
    struct plm_assign_block *block = scratch->more;
    double norms[PLM_BLOCK_ROWS];

    for (size_t p = 0; p < block->n_todo; p++) {
        norms[p] = block->norms[block->todo[p]];
        block->taken[p] = plm_bound_takes(assigner, norms[p]);
    }
    if (way.head)
        project_rows(assigner, way.head, block, framed, scratch->packed);
    if (way.bytes)
        plm_bytes_rows(assigner, way.bytes, way.head ? block->head_rows : framed,
                       way.head ? way.head->rank + 2 : assigner->dim, block->n_todo, norms,
                       (uint8_t *)scratch->packed, block->byte_terms, block->taken);
}

/* Bounds of rows first .. first + n - 1 of those to do, PLM_TIE_ROWS of them at most. */
static void bound_rows(const struct plm_assigner *assigner, struct plm_way way, size_t first,
                       size_t n, struct plm_assign_scratch *scratch)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    struct plm_assign_block *block = scratch->more;
    size_t stride = assigner->n_panels * PLM_PANEL;

    if (way.bytes) {
        kernels->byte_bounds((const uint8_t *)scratch->packed + first * way.bytes->len,
                             block->byte_terms + first * PLM_BYTE_ROW_TERMS, n, way.bytes->panels,
                             way.bytes->offsets, way.bytes->terms, assigner->n_panels,
                             way.bytes->len, scratch->values, stride);
    } else {
        size_t len = way.head->rank + 2;

        kernels->pack_rows(block->head_rows + first * len, len, n, len, block->head_packed);
        kernels->values(block->head_packed, n, way.head->panels, way.head->half_norms,
                        assigner->n_panels, len, scratch->values, stride);
    }
}

/* With more survivors than this a row costs less in the next stage: measured, a lone estimate takes
 * as long as 16 centroids of the byte filter, or 4 in the fp32 kernel. */
static size_t survivors_most(const struct plm_assigner *assigner, struct plm_way way)
{
    return plm_max_size(16, assigner->n_packed / (way.next ? 16 : 8));
}

/* Rows settled by bounds come off the list of things to do. framed is in the order of that list;
 * returns it in the order of what is left. */
static const float *filter_rows(const struct plm_assigner *assigner, struct plm_way way,
                                const float *rows, const float *framed, uint32_t *ids,
                                struct plm_assign_scratch *scratch)
{
    struct plm_assign_block *block = scratch->more;
    size_t stride = assigner->n_panels * PLM_PANEL, n = block->n_todo, n_left = 0;
    size_t most = survivors_most(assigner, way), left[PLM_BLOCK_ROWS];

    prepare_rows(assigner, way, framed, scratch);
    for (size_t first = 0; first < n; first += PLM_TIE_ROWS) {
        size_t n_some = plm_min_size(PLM_TIE_ROWS, n - first);

        bound_rows(assigner, way, first, n_some, scratch);
        for (size_t p = first; p < first + n_some; p++) {
            size_t i = block->todo[p];

            if (!block->taken[p] ||
                !plm_settle_by_bounds(assigner, rows + i * assigner->dim, block->norms[i],
                                      scratch->values + (p - first) * stride, most, block->places,
                                      block->least, &ids[i]))
                left[n_left++] = p;
        }
    }
    for (size_t p = 0; p < n_left; p++)
        block->todo[p] = block->todo[left[p]];
    block->n_todo = n_left;
    if (n_left == n)
        return framed;
    gather(block, framed, left, n_left);
    return block->framed;
}

/* ---- fp32, then float64 --------------------------------------------------------------------- */

/* Puts place p of the list on the list of open ones, unless its row equals the last of them: then
 * it follows. So a table full of one row costs one decision per block. */
static void open_row(struct plm_assign_block *block, const float *rows, size_t p)
{
    size_t row = block->todo[p];

    if (block->n_open > 0) {
        size_t last = block->todo[block->open[block->n_open - 1]];

        if (memcmp(rows + last * block->dim, rows + row * block->dim,
                   block->dim * sizeof *rows) == 0) {
            block->follows[row] = last;
            return;
        }
    }
    block->open[block->n_open++] = p;
}

/* best and second of every row to do -> ids of those that are certain; the others are opened. */
static void settle_certain(const struct plm_assigner *assigner, struct plm_assign_block *block,
                           const struct plm_assign_scratch *scratch, const float *rows,
                           uint32_t *ids)
{
    block->n_open = 0;
    for (size_t p = 0; p < block->n_todo; p++) {
        size_t row = block->todo[p];
        double gap = (double)scratch->second[p] - (double)scratch->best[p];
        double bound = plm_assign_error(assigner->dim, block->norms[row], assigner->norm_max);

        if (plm_assign_is_tame(assigner, block->norms[row]) && gap > 2 * bound)
            ids[row] = assigner->ids[block->found[p]];
        else
            open_row(block, rows, p);
    }
}

/* Open rows, PLM_TIE_ROWS at a time. framed is in the order of todo. */
static void settle_open(const struct plm_assigner *assigner, struct plm_assign_block *block,
                        const struct plm_assign_scratch *scratch, const float *rows,
                        const float *framed, uint32_t *ids)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    size_t dim = assigner->dim, stride = assigner->n_panels * PLM_PANEL;

    for (size_t first = 0; first < block->n_open; first += PLM_TIE_ROWS) {
        size_t n = plm_min_size(PLM_TIE_ROWS, block->n_open - first);

        gather(block, framed, block->open + first, n);
        kernels->pack_rows(block->framed, dim, n, dim, scratch->packed);
        kernels->values(scratch->packed, n, assigner->panels, assigner->half_norms,
                        assigner->n_panels, dim, scratch->values, stride);
        for (size_t t = 0; t < n; t++) {
            size_t i = block->todo[block->open[first + t]];
            const float *row = rows + i * dim;

            ids[i] = plm_assign_is_tame(assigner, block->norms[i])
                         ? plm_assign_refine(assigner, row, block->norms[i],
                                             scratch->values + t * stride)
                         : plm_assign_brute(assigner, row);
        }
    }
}

/* framed is in the order of todo. */
static void settle_todo(const struct plm_assigner *assigner, const float *rows,
                        const float *framed, uint32_t *ids, struct plm_assign_scratch *scratch)
{
    const struct plm_kernels *kernels = assigner->ctx->kernels;
    struct plm_assign_block *block = scratch->more;
    size_t dim = assigner->dim;

    kernels->pack_rows(framed, dim, block->n_todo, dim, scratch->packed);
    kernels->nearest(scratch->packed, block->n_todo, assigner->panels, assigner->half_norms,
                     assigner->n_panels, dim, scratch->best, scratch->second, block->found);
    settle_certain(assigner, block, scratch, rows, ids);
    settle_open(assigner, block, scratch, rows, framed, ids);
}

/* With the frame the identity, `rows` themselves; in any case the norms. */
static const float *frame_rows(const struct plm_assigner *assigner, const float *rows, size_t n,
                               struct plm_assign_block *block)
{
    bool is_framed = assigner->origin || assigner->scale != 1;

    assigner->ctx->kernels->frame_rows(rows, n, assigner->dim, assigner->origin, assigner->scale,
                                       is_framed ? block->framed : NULL, block->norms);
    return is_framed ? block->framed : rows;
}

void plm_assign_block(const struct plm_assigner *assigner, struct plm_way way, const float *rows,
                      size_t n, uint32_t *ids, struct plm_assign_scratch *scratch)
{
    struct plm_assign_block *block = scratch->more;
    const float *framed = frame_rows(assigner, rows, n, block);

    for (size_t i = 0; i < n; i++) {
        block->norms[i] = sqrt(block->norms[i]);
        block->todo[i] = block->follows[i] = i;
    }
    block->n_todo = n;
    if (way.head || way.bytes)
        framed = filter_rows(assigner, way, rows, framed, ids, scratch);
    if (way.next && block->n_todo > 0)
        framed = filter_rows(assigner, (struct plm_way){.bytes = way.next}, rows, framed, ids,
                             scratch);
    if (block->n_todo > 0)
        settle_todo(assigner, rows, framed, ids, scratch);
    for (size_t i = 0; i < n; i++)
        ids[i] = ids[block->follows[i]];
}
