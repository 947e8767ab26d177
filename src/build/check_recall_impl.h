/* check_recall_impl.h - the files of plm_check_recall() to one another.
 *
 * check_recall.c         the curve, and what it comes to
 * check_recall_pass.c    a segment and some of the queries
 * check_recall_visits.c  which query comes to which partition
 * check_recall_scan.c    partitions read, for all queries that visit them
 */
#ifndef PLM_CHECK_RECALL_IMPL_H
#define PLM_CHECK_RECALL_IMPL_H

#include "build/check.h"
#include "ivf/window.h"

#define PLM_RECALL_REFINE_PQ 5 /* times PLM_PROBE_K rows of PQ are ranked again */

/* A query comes to a partition, on the way to a point of the curve. */
struct plm_recall_visit {
    uint32_t query, point;
};

/* A true neighbour, by row id. */
struct plm_recall_sought {
    uint64_t rowid;
    uint32_t query;
};

struct plm_recall_curve {
    struct plm_ctx *ctx;
    const struct plm_probes *probes;
    const struct plm_neighbour *truth;
    uint32_t nprobes[PLM_RECALL_POINTS];
    size_t n_points, kept;
    double *hits, *rows; /* [query][point]; rows that a point adds to the one before */
    /* of one segment and pass */
    struct plm_segment *segment;
    size_t first, n;     /* queries */
    uint32_t *ranked;    /* [n][probes] partitions, nearest first */
    size_t *n_ranked;    /* [n] */
    size_t *starts;      /* [k + 1] visits of each partition */
    struct plm_recall_visit *visits;
    struct plm_recall_sought *sought; /* FLAT: sorted */
    size_t n_sought;
    struct plm_window *windows;
    struct plm_many *many; /* SQ, PQ */
    struct plm_recall_thread *threads;
};

struct plm_recall_thread {
    struct plm_recall_curve *recall;
    struct plm_read_scratch read;
    struct plm_many_scratch scan;
    uint64_t *rowids;
    uint8_t *codes;
    uint32_t *which;             /* queries that visit the partition at hand */
    double *bases;               /* of the rows of the window */
    struct plm_top *tops;        /* SQ, PQ: [n][point] */
    float *distances;            /* theirs */
    uint64_t *top_rowids;
    double *hits;                /* FLAT: [n][point] */
    const struct plm_recall_visit *visiting; /* of the partition at hand */
    const uint64_t *ids;
};

/* Only row ids count. */
static inline bool plm_recall_is_flat(const struct plm_recall_curve *r)
{
    return r->segment->model.quantizer == PLM_FLAT;
}

/* Visits sorted by partition, then query; rows seen on the way to each point. */
PLM_MUST_CHECK enum plm_code
plm_recall_plan_visits(struct plm_recall_curve *r, struct plm_err *err);
/* FLAT: the true neighbours of the pass, by row id. */
PLM_MUST_CHECK enum plm_code
plm_recall_list_sought(struct plm_recall_curve *r, struct plm_err *err);
/* Reads a window of the pass; for plm_parallel(), arg is the curve. */
PLM_MUST_CHECK enum plm_code
plm_recall_scan_window(void *arg, size_t number, unsigned worker, struct plm_err *err);
/* Adds what queries [first, first + n) find in the segment to hits and rows. */
PLM_MUST_CHECK enum plm_code
plm_recall_measure_pass(struct plm_recall_curve *r, struct plm_err *err);

#endif
