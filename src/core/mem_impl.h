/* mem_impl.h - the files of mem.h to one another.
 *
 * mem.c         blocks, their charge, and regions
 * mem_spares.c  mappings kept for who wants as much again
 * mem_text.c    strings and growable buffers, made of blocks
 */
#ifndef PLM_MEM_IMPL_H
#define PLM_MEM_IMPL_H

#include "core/mem.h"

/* A spare mapping of exactly `total` bytes, the caller's from now on, or NULL. */
void *plm_spares_take(struct plm_ctx *ctx, size_t total);
/* A mapping that is charged still. Afterwards it is a spare or gone; the charge is the caller's. */
void plm_spares_put(struct plm_ctx *ctx, void *block, size_t total);
/* Spares make room for what has been charged. */
void plm_spares_trim(struct plm_ctx *ctx);

#endif
