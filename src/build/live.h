/* live.h - which row ids an index may return: the live rows of the fragments it covers.
 *
 * Rows deleted since the build, rows of fragments that are gone, and rows of fragments outside
 * the bitmaps do not pass. With stable row ids an id passes if a live row of a covered fragment
 * has it, as in stock Lance: an id that an update moved to a newer fragment is scored there.
 * (Stock Lance 14 also returns ids of rows that were deleted and then compacted away; they do
 * not pass here.)
 *
 * Owns     a live set owns its row maps.
 * Memory   1 bit a row where rows are deleted; with stable row ids 1 bit an id of their range,
 *          or 8 bytes an id where the ids are sparse.
 * Threads  one set, many threads, each with its own cursor.
 */
#ifndef PLM_LIVE_H
#define PLM_LIVE_H

#include "lance/rowmap.h"

struct plm_live {
    struct plm_ctx *ctx;
    struct plm_live_fragment {
        uint64_t id, n_rows;
        size_t manifest_index;
        struct plm_row_map map;
    } *fragments; /* ascending id */
    size_t n_fragments;
    bool is_stable;
    uint64_t first_id, last_id, n_ids; /* stable ids: of all live rows */
    uint8_t *bits;                     /* one for each id from first_id, or */
    uint64_t *ids;                     /* [n_ids] ascending */
};
/* fragments: ids, ascending; those that are not in the manifest are left out. */
PLM_MUST_CHECK enum plm_code
plm_live_open(struct plm_manifest *manifest, const uint32_t *fragments, size_t n_fragments,
              struct plm_live *out, struct plm_err *err);
void plm_live_close(struct plm_live *live);

struct plm_live_cursor {
    const struct plm_live *live;
    size_t at; /* fragment of the last row: the next one is mostly there too */
};
/* A plm_allow_fn; arg is a cursor. */
bool plm_live_allow(void *arg, uint64_t rowid);

#endif
