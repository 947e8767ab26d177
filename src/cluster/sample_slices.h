/* sample_slices.h - which slices of the live rows a sample takes, and reading some of them: for the
 * cluster room, and for builds that several processes share. */
#ifndef PLM_SAMPLE_SLICES_H
#define PLM_SAMPLE_SLICES_H

#include "cluster/sample.h"

#define PLM_USABLE_UNKNOWN UINT32_MAX

struct plm_slice {
    uint64_t number, priority;
    uint32_t usable; /* rows of it that were usable, PLM_USABLE_UNKNOWN before it was read */
    uint32_t keep;   /* of these, the first so many belong to the sample */
};

/* Multiples of the golden ratio, modulo 1: those below any bound are evenly spread (no gap is more than
 * about 2.6 times the mean). */
static inline uint64_t plm_slice_priority(uint64_t seed, uint64_t number)
{
    return plm_mix64(seed, 0) + number * UINT64_C(0x9e3779b97f4a7c15);
}

/* The slices of least priority, in order of (priority, number). */
struct plm_slices {
    struct plm_ctx *ctx;
    uint64_t n_live, seed;
    struct plm_slice *items;
    size_t n;       /* slices listed */
    uint64_t n_all; /* slices there are */
};

void plm_slices_init(struct plm_slices *slices, struct plm_ctx *ctx, uint64_t n_live, uint64_t seed);
void plm_slices_reset(struct plm_slices *slices);
/* Lists at least min(n_min, n_all) slices; what is known of the listed ones stays. */
PLM_MUST_CHECK enum plm_code
plm_slices_extend(struct plm_slices *slices, uint64_t n_min, struct plm_err *err);
/* Live rows of a slice. */
uint32_t plm_slice_rows(const struct plm_slices *slices, uint64_t number);
/* Sets `keep` so that n_wanted rows are taken in order of priority, a slice not yet read counting
 * as full. *n_used = slices needed, at most slices->n; *n_rows = rows they give; *known = all of
 * them were read before. */
void plm_slices_choose(struct plm_slices *slices, uint64_t n_wanted, size_t *n_used,
                       uint64_t *n_rows, bool *known);

/* Chooses, the first n_counted slices being counted. *n = slices to have counted before asking
 * again (listed by then); n_counted when the choice is made: the first *n_used slices. */
PLM_MUST_CHECK enum plm_code
plm_slices_next(struct plm_slices *slices, uint64_t n_wanted, size_t n_counted, size_t *n_used,
                uint64_t *n_rows, size_t *n, struct plm_err *err);

/* Reads n slices (ascending numbers) and keeps the first `keep` usable rows of each; `usable` is
 * filled in. Otherwise as plm_sample_take(). */
PLM_MUST_CHECK enum plm_code
plm_sample_take_slices(struct plm_source *source, enum plm_metric metric, struct plm_slice *slices,
                       size_t n, size_t max_bytes, struct plm_store *spill_store,
                       const char *spill_path, struct plm_sample *out, struct plm_err *err);

#endif
