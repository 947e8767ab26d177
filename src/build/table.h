/* table.h - a table opened by its reference: store and manifest together.
 *
 * Owns     a table owns both; zeroed is empty.
 */
#ifndef PLM_TABLE_H
#define PLM_TABLE_H

#include "lance/manifest.h"
#include "store/store.h"

struct plm_table {
    struct plm_store *store;
    struct plm_manifest manifest;
};
PLM_MUST_CHECK enum plm_code
plm_table_open(struct plm_ctx *ctx, const struct plm_table_ref *ref, struct plm_table *out,
               struct plm_err *err);
/* PLM_ARG where Lance could not open a table: its location is not UTF-8. */
PLM_MUST_CHECK enum plm_code plm_table_check_location(const struct plm_store *store, struct plm_err *err);
void plm_table_close(struct plm_table *table);

#endif
