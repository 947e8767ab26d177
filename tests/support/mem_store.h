/* mem_store.h - a store in memory, for tests and fuzz harnesses.
 *
 * Owns     objects and handles are plain malloc(): the context's allocation fault hook and
 *          budget only ever hit the code under test. ctx->faults.io_countdown fails its calls,
 *          ctx->n_get etc. count them, as with a real store.
 * Threads  as plm_store.
 * Files    an open file keeps reading the object that it was opened on.
 */
#ifndef PLM_TEST_MEM_STORE_H
#define PLM_TEST_MEM_STORE_H

#include "store/store.h"

/* Aborts when out of memory. Close with plm_store_close() after all its files. */
struct plm_store *mem_store_open(struct plm_ctx *ctx);
/* The bytes of an object, to be changed in place; NULL if there is none. */
uint8_t *mem_store_bytes(struct plm_store *store, const char *path, size_t *n);
/* Puts without counting and without faults. */
void mem_store_set(struct plm_store *store, const char *path, const void *bytes, size_t n);
/* Copies a file of the local disk to `path`; false if it cannot be read. */
bool mem_store_load(struct plm_store *store, const char *path, const char *local_file);

#endif
