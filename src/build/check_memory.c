/* check_memory.c - the least that checking a committed index takes.
 *
 * Every sum counts the blocks that are alive at a step's highest moment. Chunks of rows, windows and
 * batches are made from what is left when they are opened: only their least counts here.
 */
#include "build/check_recall_impl.h"
#include "cluster/assign.h"
#include "simd/simd.h"

#define WINDOW_BYTES ((uint64_t)3 << 20) /* the least windows, and what reads of damaged or small pages add */
#define WINDOW_ROWS 64                   /* at least, however long their codes are */
#define SLICE_ROWS 64                    /* of a sample are read together */
#define FRAGMENT_BYTES 256

/* All row ids, and as much again while they are sorted; the set of those that live. */
static uint64_t rowids_bytes(const struct plm_segment *s, const struct plm_source *source)
{
    uint64_t rows = source->n_live + source->n_deleted;
    bool is_stable = source->manifest->reader_flags & PLM_FLAG_STABLE_ROW_IDS;
    uint64_t live = source->n_fragments * FRAGMENT_BYTES + (is_stable ? 2 * rows * sizeof(uint64_t) : rows / 8);

    return 2 * s->n_rows * sizeof(uint64_t) + live + WINDOW_BYTES;
}

static uint64_t rows_bytes(const struct plm_segment *s, const struct plm_source *source, bool full)
{
    const struct plm_model *m = &s->model;
    size_t code_bytes = plm_model_code_bytes(m);
    uint64_t each = plm_check_row_bytes(m->dim, code_bytes);
    uint64_t bytes = WINDOW_BYTES + WINDOW_ROWS * (code_bytes + 8) + m->k;

    if (m->quantizer == PLM_PQ)
        bytes += plm_pq_encode_bytes(&m->pq);
    if (!full)
        return bytes + plm_min_u64(source->n_live, PLM_CHECK_SAMPLE_MAX) * each + plm_batch_bytes(source, SLICE_ROWS);
    return bytes + plm_assigner_bytes(m->k, m->dim) + plm_assign_scratch_bytes(m->k, m->dim) +
           PLM_CHECK_ROWS_MIN * each + plm_batch_bytes(source, PLM_CHECK_ROWS_MIN);
}

/* Finding the true neighbours of the queries, then looking for them. */
static uint64_t recall_bytes(const struct plm_segment *s, const struct plm_source *source, uint64_t queries)
{
    const struct plm_model *m = &s->model;
    uint64_t threads = s->ctx->threads, dim = m->dim, k = m->k;
    uint64_t n = (plm_min_u64(queries, source->n_live) + PLM_PANEL - 1) / PLM_PANEL * PLM_PANEL;
    uint64_t truth = n * PLM_PROBE_K * sizeof(struct plm_neighbour);
    uint64_t thread = PLM_BLOCK_ROWS * (dim + n) * sizeof(float) + truth +
                      plm_batch_bytes(source, plm_batch_rows(source, PLM_TRUTH_BYTES_MIN));
    uint64_t find = n * (dim * sizeof(float) + 16) + threads * thread;
    uint64_t kept = PLM_PROBE_K * (m->quantizer == PLM_PQ ? PLM_RECALL_REFINE_PQ : 1) + 4;
    uint64_t visits = 8 * k * (sizeof(struct plm_recall_visit) + sizeof(uint32_t)) + k * 17 + threads * k * 12;
    uint64_t tops = threads * 8 * PLM_RECALL_POINTS * kept * 12 + threads * (WINDOW_ROWS * 1024 + dim * 4);
    uint64_t look = n * PLM_RECALL_POINTS * 16 + visits + tops + plm_many_bytes(m, 8) + WINDOW_BYTES;

    return n * (dim * sizeof(float) + sizeof(uint64_t)) + truth + plm_max_u64(find, look);
}

uint64_t plm_check_least_bytes(const struct plm_segment *segment, const struct plm_source *source, bool full,
                               uint32_t queries)
{
    uint64_t rows = plm_max_u64(rowids_bytes(segment, source), rows_bytes(segment, source, full));

    return plm_max_u64(rows, queries ? recall_bytes(segment, source, queries) : 0);
}
