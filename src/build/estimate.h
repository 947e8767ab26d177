/* estimate.h - what a build will take: work from the plan's shape over rates of this machine.
 *
 * Nothing of it shapes an index: a wrong estimate is a wrong number in a report.
 */
#ifndef PLM_ESTIMATE_H
#define PLM_ESTIMATE_H

#include "build/plan.h"

/* What the phases' time is made of; estimate.c names them. */
enum plm_term {
    PLM_TERM_TRAIN_START, PLM_TERM_SAMPLE, PLM_TERM_COPY, PLM_TERM_AXES, PLM_TERM_PROJECT, PLM_TERM_TREE, PLM_TERM_NODES, PLM_TERM_LEAVES,
    PLM_TERM_LLOYD, PLM_TERM_SUMS, PLM_TERM_CENTROIDS, PLM_TERM_CODEBOOK, PLM_TERM_COLUMNS,
    PLM_TERM_ENCODE_START, PLM_TERM_READ, PLM_TERM_ASSIGN, PLM_TERM_CODES, PLM_TERM_PROBES, PLM_TERM_RUNS,
    PLM_TERM_MERGE_START, PLM_TERM_GATHER, PLM_TERM_ROOM, PLM_TERM_PAGES, PLM_TERM_WRITE,
    PLM_TERM_VERIFY_START, PLM_TERM_FETCH, PLM_TERM_IDS, PLM_TERM_CHECK, PLM_TERM_SCAN, PLM_TERM_LINES, PLM_TERM_LOOK, PLM_TERM_TABLES,
    PLM_TERM_COMMIT, PLM_N_TERMS
};

/* What this machine does in a second. Of one thread, unless said. */
struct plm_rates {
    double nearest;   /* multiply-adds of the fp32 assignment kernel at the plan's shape */
    double bytes;     /* multiply-adds of the kernel of the byte filter */
    double codewords; /* multiply-adds of the PQ kernel */
    double doubles;   /* multiply-adds of exact distances */
    double copy;      /* bytes copied in memory */
    double touch;     /* bytes of fresh memory written for the first time */
    double read;      /* bytes of the column read and decoded */
    bool read_scales; /* with threads: it is memory that is read, not a device */
    double again;     /* bytes of the column that were read a moment before */
    double write;     /* bytes put on stable storage; all threads together */
    double sync;      /* seconds until a small file is on stable storage */
    double spread;    /* dimensions among which the vectors' variance is spread: (sum of
                         eigenvalues)^2 / sum of their squares; 0 = not known */
};

/* Estimates, with the names of the report. */
struct plm_estimate {
    double plan, train, encode, merge, verify, commit, total; /* seconds */
    double terms[PLM_N_TERMS];                                /* seconds, of the phases but plan */
    uint64_t peak_rss_bytes, bytes_read, bytes_written, get, put, list, deleted;
    struct plm_rates rates;
};

/* estimate.c: from the plan's shape and calibrate.c's rates. verify: as in the options, NULL = "sample". */
void plm_plan_estimate(const struct plm_source *source, const struct plm_plan *plan, const struct plm_rates *rates,
                       const char *verify, double seconds_so_far, struct plm_estimate *out);
const char *plm_term_name(enum plm_term term, const char **phase);

#endif
