/* gc_left.h - what killed writers leave outside of job directories: uploads never finished (S3)
 * and temporary files (local disk).
 *
 * An upload is stale when nobody can be writing it: its index is part of the table already, its job is
 * among `jobs` or has no plan any more, or it was begun more than a day ago. Only uploads
 * below the table's `_indices/` and `_pilum/` count.
 * A temporary file is stale when its writer is no process of this machine and it is a minute old.
 */
#ifndef PLM_GC_LEFT_H
#define PLM_GC_LEFT_H

#include "build/report.h"
#include "build/table.h"

/* Append {"path", "modified_ms", "removed"} to `found`. jobs: [{"job"}], those that gc found stale. */
PLM_MUST_CHECK enum plm_code
plm_gc_uploads(struct plm_store *root, const struct plm_manifest *manifest, const json_t *jobs,
               bool remove, json_t *found, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_gc_files(struct plm_store *root, bool remove, json_t *found, struct plm_err *err);

#endif
