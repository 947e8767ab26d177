/* found.h - what the phases of a build find out: statistics, probe queries, recall, problems. */
#ifndef PLM_FOUND_H
#define PLM_FOUND_H

#include "core/core.h"
#include "rows/source.h"

#define PLM_PROBE_QUERIES 64 /* rows whose true neighbours are kept, to measure recall */
#define PLM_PROBE_K 10

/* What one encode task saw; kept in its run. */
struct plm_run_stats {
    uint64_t n, dropped[PLM_N_DROPS];
    uint64_t hash_low, hash_high; /* commutative hash of the row ids */
    __int128 loss;                /* in units of the job's loss_unit */
};

/* A true neighbour of a probe query. */
struct plm_neighbour {
    uint64_t rowid;
    double distance;
};

/* The queries by which recall is measured, drawn from the sample. */
struct plm_probes {
    size_t n;
    float *vectors;   /* [n][dim] */
    uint64_t *rowids; /* [n]: a query never counts as its own neighbour */
};

struct plm_seconds {
    double plan, train, encode, merge, verify, commit;
};

struct plm_recall {
    uint32_t nprobes;
    double rows_scanned, recall;
};
#define PLM_RECALL_POINTS 12

/* What verify found; see verify.c. */
struct plm_findings {
    uint64_t checked_rows, misfiled, n_problems;
    void *problems;        /* json_t array */
    uint32_t refine_factor;
    struct plm_recall recall[PLM_RECALL_POINTS];
    size_t n_recall;
};

#endif
