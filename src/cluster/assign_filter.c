/* assign_filter.c - which filter pays, found out by trying.
 *
 * First comes the byte filter, whose preparation is cheap, then the head, whose preparation takes
 * as long as assigning some thousand rows. Each waits until so many rows have gone by that it would
 * have paid: at worst the cost about doubles, whatever number is still to come. Then the call at
 * hand times it on its first rows, against the best so far. Every way gives the same answer, so
 * time may decide.
 */
#include <math.h>
#include <time.h>

#include "cluster/assign_impl.h"

#define MIN_CENTROIDS 128
#define MIN_DIM 64
#define PILOT_ROWS (2 * PLM_BLOCK_ROWS)
#define BYTES_AFTER 192       /* rows: quantizing K centroids takes as long as some hundred rows in fp32 */
#define HEAD_IN_BYTES_FROM 512 /* centroids, below which the product with a head is a minor part */
#define CLEARLY 0.95           /* of the time of the best so far, or there is no change */

enum state { WAITING, TRYING_BYTES, BYTES_TRIED, TRYING_HEAD, SETTLED };

struct plm_filter {
    atomic_int state;
    atomic_size_t n_seen;
    /* Written by the one thread that tries; read by others in a later state only. */
    struct plm_bytes bytes, head_bytes;
    struct plm_head head;
    struct plm_way first, last; /* in the states BYTES_TRIED and TRYING_HEAD; SETTLED */
    double plain_seconds, best_seconds;
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

static void reset_all(const struct plm_assigner *assigner)
{
    plm_bytes_reset(assigner, &assigner->filter->bytes);
    plm_bytes_reset(assigner, &assigner->filter->head_bytes);
    plm_head_reset(assigner, &assigner->filter->head);
}

void plm_filter_destroy(struct plm_assigner *assigner)
{
    if (assigner->filter)
        reset_all(assigner);
    plm_free(assigner->ctx, assigner->filter);
    assigner->filter = NULL;
}

size_t plm_filter_bytes(size_t k, size_t dim)
{
    if (k < MIN_CENTROIDS || dim < MIN_DIM)
        return 0;
    return plm_head_bytes(k, dim) + plm_bytes_bytes(k, dim) + plm_bytes_bytes(k, PLM_HEAD_MAX) +
           sizeof(struct plm_filter);
}

/* ---- trials ------------------------------------------------------------------------------ */

/* Of this thread alone: others may be using the processor. */
static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The rows of the call at hand, and where their answers go. */
struct pilot {
    const struct plm_assigner *assigner;
    const float *rows;
    size_t n;
    uint32_t *ids;
    struct plm_assign_scratch *scratch;
};

static double time_rows(const struct pilot *pilot, struct plm_way way, size_t n)
{
    double began = cpu_seconds();

    for (size_t first = 0; first < n; first += PLM_BLOCK_ROWS)
        plm_assign_block(pilot->assigner, way, pilot->rows + first * pilot->assigner->dim,
                         plm_min_size(PLM_BLOCK_ROWS, n - first), pilot->ids + first,
                         pilot->scratch);
    return (cpu_seconds() - began) / (double)n;
}

/* Processor seconds per row, the better of two passes over the pilot rows. A way that takes much
 * longer than `best` for a first block, once its operands are in the caches, is not tried further. */
static double time_pass(const struct pilot *pilot, struct plm_way way, double best)
{
    size_t n_first = plm_min_size(PLM_BLOCK_ROWS, pilot->n);
    double seconds = fmin(time_rows(pilot, way, n_first), time_rows(pilot, way, n_first));

    if (seconds > 1.5 * best)
        return seconds;
    for (int run = 0; run < 2; run++)
        seconds = fmin(seconds, time_rows(pilot, way, pilot->n));
    return seconds;
}

/* A filter is an extra: if memory for it is short, there is none. */
static void try_bytes(const struct pilot *pilot)
{
    struct plm_filter *filter = pilot->assigner->filter;
    struct plm_way way = {.bytes = &filter->bytes};
    double seconds;

    filter->plain_seconds = filter->best_seconds =
        time_pass(pilot, (struct plm_way){0}, INFINITY);
    if (plm_bytes_create(pilot->assigner, NULL, &filter->bytes, NULL) != PLM_OK)
        return;
    seconds = time_pass(pilot, way, filter->best_seconds);
    if (seconds < CLEARLY * filter->best_seconds) {
        filter->best_seconds = seconds;
        filter->first = way;
    }
}

/* The head, and for what it leaves the byte filter, where there is one. */
static struct plm_way head_way(const struct plm_filter *filter, const struct plm_bytes *bytes)
{
    return (struct plm_way){&filter->head, bytes, filter->bytes.panels ? &filter->bytes : NULL};
}

/* The rank that took least time, or 0 when none is clearly faster than the best so far. */
static size_t try_ranks(const struct pilot *pilot, double *best)
{
    static const size_t ranks[] = {32, 48, 64, 80, 96, 128};
    struct plm_filter *filter = pilot->assigner->filter;
    size_t best_rank = 0;

    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        double seconds;

        if (2 * ranks[i] > pilot->assigner->dim ||
            !plm_head_set_rank(pilot->assigner, &filter->head, ranks[i]))
            break;
        seconds = time_pass(pilot, head_way(filter, NULL), *best);
        if (seconds < CLEARLY * *best) {
            *best = seconds;
            best_rank = ranks[i];
        }
    }
    return best_rank;
}

/* The head as it is, in bytes too: with many centroids its product is what takes the time. */
static void try_head_in_bytes(const struct pilot *pilot, double best)
{
    struct plm_filter *filter = pilot->assigner->filter;
    struct plm_way way = head_way(filter, &filter->head_bytes);

    if (pilot->assigner->n_packed < HEAD_IN_BYTES_FROM ||
        plm_bytes_create(pilot->assigner, &filter->head, &filter->head_bytes, NULL) != PLM_OK)
        return;
    if (time_pass(pilot, way, best) < CLEARLY * best)
        filter->last = way;
    else
        plm_bytes_reset(pilot->assigner, &filter->head_bytes);
}

static void try_head(const struct pilot *pilot)
{
    struct plm_filter *filter = pilot->assigner->filter;
    double best = time_pass(pilot, filter->first, INFINITY);
    size_t rank = 0;

    filter->last = filter->first;
    if (plm_head_create(pilot->assigner, &filter->head, NULL) != PLM_OK)
        return;
    rank = try_ranks(pilot, &best);
    if (rank == 0 || !plm_head_set_rank(pilot->assigner, &filter->head, rank)) {
        plm_head_reset(pilot->assigner, &filter->head);
        return;
    }
    plm_free(pilot->assigner->ctx, filter->head.projections);
    filter->head.projections = NULL;
    filter->last = head_way(filter, NULL);
    try_head_in_bytes(pilot, best);
}

/* ---- when --------------------------------------------------------------------------------- */

/* Rows whose assignment, as fast as it is by now, costs what preparing a head costs: seven products
 * of the sampled centroids with all axes, and Gram-Schmidt, which takes as long as 3,584 more
 * sampled centroids would (measured: 18 ms of 45 for K = 1,000, dim = 2,048). */
static size_t rows_worth_a_head(const struct plm_assigner *assigner)
{
    const struct plm_filter *filter = assigner->filter;
    size_t n_sampled = plm_min_size(assigner->n_packed, PLM_HEAD_SAMPLE);
    double rows = PLM_HEAD_MAX * (7.0 * (double)n_sampled + 3584) / (double)assigner->n_packed;

    if (filter->best_seconds > 0)
        rows *= filter->plain_seconds / filter->best_seconds;
    return plm_max_size(1024, (size_t)rows);
}

/* Moves from one state to the next, if this call is the one to try. */
static bool begin(struct plm_filter *filter, int state)
{
    return atomic_compare_exchange_strong(&filter->state, &state, state + 1);
}

struct plm_way plm_filter_way(const struct plm_assigner *assigner, const float *rows, size_t n,
                              uint32_t *ids, struct plm_assign_scratch *scratch)
{
    struct plm_filter *filter = assigner->filter;
    struct pilot pilot = {assigner, rows, plm_min_size(n, PILOT_ROWS), ids, scratch};
    int state;

    if (!filter)
        return (struct plm_way){0};
    state = atomic_load(&filter->state);
    if (state != SETTLED && n >= PLM_BLOCK_ROWS) {
        size_t n_seen = atomic_fetch_add(&filter->n_seen, PLM_BLOCK_ROWS);

        if (state == WAITING && n_seen >= BYTES_AFTER && begin(filter, WAITING)) {
            try_bytes(&pilot);
            atomic_store(&filter->state, BYTES_TRIED);
        } else if (state == BYTES_TRIED && n_seen >= rows_worth_a_head(assigner) &&
                   begin(filter, BYTES_TRIED)) {
            try_head(&pilot);
            atomic_store(&filter->state, SETTLED);
        }
        state = atomic_load(&filter->state);
    }
    if (state == SETTLED)
        return filter->last;
    return state >= BYTES_TRIED ? filter->first : (struct plm_way){0};
}

bool plm_filter_has_chosen(const struct plm_assigner *assigner)
{
    return !assigner->filter || atomic_load(&assigner->filter->state) == SETTLED;
}

enum plm_code plm_filter_force(struct plm_assigner *assigner, size_t rank, bool in_bytes,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_filter *filter = assigner->filter;
    struct plm_way way = {0};

    if (!filter || rank > PLM_HEAD_MAX || rank % PLM_PANEL || 2 * rank > assigner->dim)
        return plm_fail(err, PLM_UNSUPPORTED, "assign: no head of rank %zu here", rank);
    reset_all(assigner);
    if (rank > 0) {
        PLM_TRY(plm_head_create(assigner, &filter->head, err));
        if (!plm_head_set_rank(assigner, &filter->head, rank))
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "assign: the bounds of rank %zu are too wide",
                             rank));
        way.head = &filter->head;
    }
    if (in_bytes) {
        PLM_TRY(plm_bytes_create(assigner, way.head, &filter->head_bytes, err));
        PLM_TRY(plm_bytes_create(assigner, NULL, &filter->bytes, err));
        way.bytes = &filter->head_bytes;
        way.next = way.head ? &filter->bytes : NULL;
    }
    filter->last = way;
done:
    if (rc != PLM_OK)
        filter->last = (struct plm_way){0};
    atomic_store(&filter->state, SETTLED);
    return rc;
}
