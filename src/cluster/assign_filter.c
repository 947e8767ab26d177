/* assign_filter.c - whether the head and tail filter pays, found out by trying.
 *
 * Preparing it takes as long as assigning some thousand rows without it, so it waits until that
 * many rows have gone by: at worst the cost about doubles, whatever number is still to come. Then
 * the call at hand times the fp32 path and several ranks on its first rows. Every path gives
 * the same answer, so time may decide.
 */
#include <time.h>

#include "cluster/assign_impl.h"

#define MIN_CENTROIDS 128
#define MIN_DIM 64
#define PILOT_ROWS (2 * PLM_BLOCK_ROWS)

enum state { WAITING, TRYING, READY, OFF };

struct plm_filter {
    atomic_int state;
    atomic_size_t n_seen;
    struct plm_head head; /* written while TRYING by one thread, read when READY */
};

enum plm_code plm_filter_create(struct plm_assigner *assigner, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (assigner->n_packed < MIN_CENTROIDS || assigner->dim < MIN_DIM)
        return PLM_OK;
    PLM_TRY(plm_calloc(assigner->ctx, &assigner->filter, 1, sizeof *assigner->filter, err));
    atomic_init(&assigner->filter->state, WAITING);
    atomic_init(&assigner->filter->n_seen, 0);
done:
    return rc;
}

void plm_filter_destroy(struct plm_assigner *assigner)
{
    if (assigner->filter)
        plm_head_reset(assigner, &assigner->filter->head);
    plm_free(assigner->ctx, assigner->filter);
    assigner->filter = NULL;
}

/* Rows whose fp32 assignment, K * dim multiply-adds each, costs what preparation costs. That is
 * seven products of the sampled centroids with all axes, and four Gram-Schmidt passes, whose
 * 128^2 dim terms in double take about 50 times as long as a multiply-add of the kernels
 * (measured: 0.25 s for K = 1,000, dim = 2,048, when a row took 45 us). */
static size_t rows_worth_preparing(const struct plm_assigner *assigner)
{
    size_t n_sampled = plm_min_size(assigner->n_packed, PLM_HEAD_SAMPLE);
    size_t per_dim = PLM_HEAD_MAX * (7 * n_sampled + 4 * PLM_HEAD_MAX * 50);

    return plm_max_size(1024, per_dim / assigner->n_packed);
}

/* Of this thread alone: others may be using the processor. */
static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Processor seconds for a pass over the pilot rows, the better of two. */
static double time_pass(const struct plm_assigner *assigner, const struct plm_head *head,
                        const float *rows, size_t n, uint32_t *ids,
                        struct plm_assign_scratch *scratch)
{
    double best = 0;

    for (int run = 0; run < 2; run++) {
        double began = cpu_seconds(), seconds;

        for (size_t first = 0; first < n; first += PLM_BLOCK_ROWS)
            plm_assign_block(assigner, head, rows + first * assigner->dim,
                             plm_min_size(PLM_BLOCK_ROWS, n - first), ids + first, scratch);
        seconds = cpu_seconds() - began;
        best = run == 0 || seconds < best ? seconds : best;
    }
    return best;
}

/* The rank that took least time, or 0 when none is clearly faster than fp32 alone. */
static size_t try_ranks(const struct plm_assigner *assigner, struct plm_head *head,
                        const float *rows, size_t n, uint32_t *ids,
                        struct plm_assign_scratch *scratch)
{
    static const size_t ranks[] = {32, 48, 64, 80, 96, 128};
    size_t best_rank = 0;
    double best = 0.9 * time_pass(assigner, NULL, rows, n, ids, scratch);

    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        double seconds;

        if (2 * ranks[i] > assigner->dim || !plm_head_set_rank(assigner, head, ranks[i]))
            break;
        seconds = time_pass(assigner, head, rows, n, ids, scratch);
        if (seconds < best) {
            best = seconds;
            best_rank = ranks[i];
        }
    }
    return best_rank;
}

/* The filter is an extra: if memory for it is short, there is none. */
static enum state prepare(const struct plm_assigner *assigner, const float *rows, size_t n,
                          uint32_t *ids, struct plm_assign_scratch *scratch)
{
    struct plm_head *head = &assigner->filter->head;
    size_t rank;

    if (plm_head_create(assigner, head, NULL) != PLM_OK)
        return OFF;
    rank = try_ranks(assigner, head, rows, plm_min_size(n, PILOT_ROWS), ids, scratch);
    if (rank == 0 || !plm_head_set_rank(assigner, head, rank)) {
        plm_head_reset(assigner, head);
        return OFF;
    }
    plm_free(assigner->ctx, head->projections);
    head->projections = NULL;
    return READY;
}

const struct plm_head *plm_filter_head(const struct plm_assigner *assigner, const float *rows,
                                       size_t n, uint32_t *ids, struct plm_assign_scratch *scratch)
{
    struct plm_filter *filter = assigner->filter;
    int state;

    if (!filter)
        return NULL;
    state = atomic_load(&filter->state);
    if (state == WAITING && n >= PLM_BLOCK_ROWS &&
        atomic_load(&filter->n_seen) >= rows_worth_preparing(assigner) &&
        atomic_compare_exchange_strong(&filter->state, &state, TRYING)) {
        state = prepare(assigner, rows, n, ids, scratch);
        atomic_store(&filter->state, state);
    }
    if (state == WAITING)
        atomic_fetch_add(&filter->n_seen, n);
    return state == READY ? &filter->head : NULL;
}

bool plm_filter_has_chosen(const struct plm_assigner *assigner)
{
    int state = assigner->filter ? atomic_load(&assigner->filter->state) : OFF;

    return state == READY || state == OFF;
}

enum plm_code plm_filter_force(struct plm_assigner *assigner, size_t rank, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_filter *filter = assigner->filter;

    if (!filter || rank == 0 || rank > PLM_HEAD_MAX || rank % PLM_PANEL)
        return plm_fail(err, PLM_UNSUPPORTED, "assign: no head of rank %zu here", rank);
    plm_head_reset(assigner, &filter->head);
    PLM_TRY(plm_head_create(assigner, &filter->head, err));
    if (!plm_head_set_rank(assigner, &filter->head, rank)) {
        atomic_store(&filter->state, OFF);
        return plm_fail(err, PLM_UNSUPPORTED, "assign: the bounds of rank %zu are too wide", rank);
    }
    atomic_store(&filter->state, READY);
done:
    return rc;
}
