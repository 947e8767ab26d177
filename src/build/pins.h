/* pins.h - plan.json: what a resumed job must not decide anew.
 *
 * Everything else of a plan follows from the options and the pinned version, so it is made
 * again rather than stored.
 */
#ifndef PLM_PINS_H
#define PLM_PINS_H

#include "build/build.h"

#define PLM_PINNED_SEGMENTS_MAX 65536

struct plm_pins {
    struct plm_ctx *ctx;
    uint64_t version, manifest_xxh3;
    uint64_t created_at_ms;
    uint8_t transaction_uuid[16];
    char kernels[16];
    uint64_t task_rows;
    uint8_t (*uuids)[16]; /* of the segments */
    size_t n_uuids;
};
void plm_pins_reset(struct plm_pins *pins);

/* The plan's pins (and a few words for people) as JSON. */
PLM_MUST_CHECK enum plm_code
plm_pins_save(const struct plm_plan *plan, struct plm_buf *out, struct plm_err *err);
/* PLM_CORRUPT when it is no plan of this job. */
PLM_MUST_CHECK enum plm_code
plm_pins_load(struct plm_ctx *ctx, struct plm_view json, const char *job_id, struct plm_pins *out,
              struct plm_err *err);

#endif
