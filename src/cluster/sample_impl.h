/* sample_impl.h - the sample's files to one another.
 *
 * sample.c       which slices are taken, until there are enough usable rows of them
 * sample_read.c  one pass over slices: how they are read, where each row lands
 * sample_room.c  the room for the rows, in memory or in a spill file, and reading them from there
 * sample_kept.c  which rows of the table are in the sample and need not be read again
 */
#ifndef PLM_SAMPLE_IMPL_H
#define PLM_SAMPLE_IMPL_H

#include "cluster/sample_slices.h"
#include "store/writer.h"

/* One read: neighbouring slices. */
struct plm_sample_run {
    size_t first, n;   /* of the slices in `by_number` */
    size_t at, n_kept; /* rows of the sample: the first, how many */
    float lo, hi;      /* of these */
};

struct plm_sample_taking {
    struct plm_ctx *ctx;
    struct plm_source *source;
    enum plm_metric metric;
    struct plm_slices slices;
    struct plm_slice **by_number; /* those of this pass, ascending */
    struct plm_sample_run *runs;
    size_t n_runs, first_run;     /* of the window being read */
    struct plm_batch *batches;    /* one per read of a window */
    size_t window, window_max;    /* of reads that are written in order, or on their way */
    size_t run_slices;            /* slices of a read, at most */
    bool store_rows;
    struct plm_writer *writer;    /* spilling */
    unsigned part;
    size_t n_max;                 /* rows there is room for */
    struct plm_sample sample;     /* being filled */
};

/* Reads slices [first, n) of the list once, counts their usable rows and, if asked to, stores those that
 * are kept; the sample has n rows then. */
PLM_MUST_CHECK enum plm_code
plm_sample_read_slices(struct plm_sample_taking *t, size_t first, size_t n, bool store_rows,
                       struct plm_err *err);
/* Reads as large and as many as half of what the budget leaves: called when the sample has its place,
 * and before the first read. */
void plm_sample_size_window(struct plm_sample_taking *t);

/* Room for n_rows: in memory up to max_bytes, else a file at spill_path (PLM_LIMIT without a store). */
PLM_MUST_CHECK enum plm_code
plm_sample_make_room(struct plm_sample_taking *t, uint64_t n_rows, size_t max_bytes,
                     struct plm_store *spill_store, const char *spill_path, struct plm_err *err);
/* Ends the writing of a spilled sample and opens it for reading; fine for one in memory. */
PLM_MUST_CHECK enum plm_code
plm_sample_finish_spill(struct plm_sample_taking *t, struct plm_err *err);
/* Rows with values in [lo, hi] come; called before s->n counts them. */
void plm_sample_widen(struct plm_sample *s, float lo, float hi);

/* Lists the stretches of the table that the sample holds whole, where they are worth it: when little
 * else is left to be read. */
PLM_MUST_CHECK enum plm_code
plm_sample_note_kept(struct plm_sample_taking *t, struct plm_err *err);

#endif
