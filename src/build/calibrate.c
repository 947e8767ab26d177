/* calibrate.c - what this machine does in a second, measured in a moment.
 *
 * Every measurement has a limit in seconds that follows from the size of the table, so that small builds
 * are not held up. Nothing measured here shapes an index.
 */
#include <math.h>

#include "build/calibrate_impl.h"

#define SECONDS_PER_BYTE 1e-11 /* of the column, for one measurement: 1 GB, 10 ms */
#define SECONDS_MIN 0.3e-3
#define SECONDS_MAX 12e-3
#define REMOTE_READ 80e6 /* of one thread, from object storage */
#define REMOTE_WRITE 100e6
#define REMOTE_SYNC 50e-3

/* What is usual where nothing can be measured. */
static const struct plm_rates usual = {
    .nearest = 25e9, .bytes = 40e9, .codewords = 20e9, .doubles = 3e9, .copy = 5e9, .touch = 2e9, .read = 1e9, .read_scales = true, .again = 1e9,
    .write = 0.3e9, .sync = 5e-3,
};

static struct plm_rates remote(struct plm_rates rates, unsigned threads)
{
    rates.read = rates.again = REMOTE_READ;
    rates.write = REMOTE_WRITE * threads;
    rates.sync = REMOTE_SYNC;
    return rates;
}

void plm_calibrate(struct plm_source *source, const struct plm_plan *plan, const struct plm_store *root,
                   struct plm_rates *out)
{
    struct plm_calibration c = {source, plan, (double)plan->column_bytes * SECONDS_PER_BYTE};
    struct plm_rates rates = usual;

    if (plan->n_workers > 0) { /* what plans for workers is not where they work */
        *out = plm_store_is_local(root) ? rates : remote(rates, source->ctx->threads);
        return;
    }
    c.seconds = fmin(SECONDS_MAX, fmax(SECONDS_MIN, c.seconds));
    (void)!plm_calibrate_nearest(&c, &rates.nearest);
    (void)!plm_calibrate_bytes(&c, &rates.bytes);
    if (plan->quantizer == PLM_PQ)
        (void)!plm_calibrate_codewords(&c, &rates.codewords);
    (void)!plm_calibrate_doubles(&c, &rates.doubles);
    (void)!plm_calibrate_memory(&c, &rates);
    if (plm_store_is_local(root)) {
        (void)!plm_calibrate_rows(&c, &rates);
        (void)!plm_calibrate_writes(&c, plm_store_uri(root), &rates);
    } else {
        rates = remote(rates, source->ctx->threads);
    }
    *out = rates;
}
