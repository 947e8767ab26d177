/* arrow_ipc.h - the one Arrow file that Lance tables hold: a deletion file.
 *
 * Errors   PLM_CORRUPT with the offset; PLM_UNSUPPORTED for another schema, big-endian data,
 *          LZ4 bodies and the framing of before Arrow 0.15, each by name.
 * Memory   the values, and one decompressed buffer at a time.
 */
#ifndef PLM_ARROW_IPC_H
#define PLM_ARROW_IPC_H

#include "core/core.h"

/* An IPC file with one uint32 column without nulls: its values in file order (plm_free).
 * More than n_max of them are PLM_CORRUPT, before anything is allocated. */
PLM_MUST_CHECK enum plm_code
plm_arrow_read_u32(struct plm_ctx *ctx, struct plm_view file, size_t n_max, uint32_t **values,
                   size_t *n, struct plm_err *err);

#endif
