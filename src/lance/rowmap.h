/* rowmap.h - Roaring bitmaps, deletion files and row ids: which rows of a fragment live,
 * and what they are called.
 *
 * Owns     a row map owns its arrays.
 * Memory   1 bit a row when rows are deleted, 8 bytes a row with stable row ids.
 * Errors   PLM_CORRUPT (file, offset, seen, expected), and the store's.
 * Source   lance-format.md section 3 and 1.3 (bitmaps).
 */
#ifndef PLM_ROWMAP_H
#define PLM_ROWMAP_H

#include "lance/manifest.h"

/* 32-bit Roaring, portable form; both run and non-run containers are read, every byte is
 * checked. *values (plm_free) ascend; more than n_max of them are PLM_CORRUPT. */
PLM_MUST_CHECK enum plm_code
plm_bitmap_decode(struct plm_ctx *ctx, struct plm_view bytes, size_t n_max, uint32_t **values,
                  size_t *n, struct plm_err *err);
/* Ascending distinct values (else PLM_BUG) -> array/bitset containers appended to buf. */
PLM_MUST_CHECK enum plm_code
plm_bitmap_encode(const uint32_t *values, size_t n, struct plm_buf *buf, struct plm_err *err);

/* Which rows of a fragment live, and their ids. */
struct plm_row_map {
    struct plm_ctx *ctx;
    uint64_t n_rows, n_deleted;
    uint8_t *deleted;        /* bit per physical row, LSB first; NULL = none deleted */
    uint64_t *ids;           /* stable ids [n_rows]; NULL = address (fragment << 32 | offset) */
    uint64_t first_address;  /* fragment << 32 */
};
/* PLM_CORRUPT also when the deletion file or the row ids do not agree with the manifest's
 * counts. The deletion file is read whole. */
PLM_MUST_CHECK enum plm_code
plm_row_map_load(struct plm_manifest *manifest, size_t fragment_index, struct plm_row_map *out,
                 struct plm_err *err);
void plm_row_map_reset(struct plm_row_map *map);
static inline bool plm_row_is_deleted(const struct plm_row_map *map, uint64_t row)
{
    return map->deleted && (map->deleted[row >> 3] >> (row & 7) & 1);
}
static inline uint64_t plm_row_id(const struct plm_row_map *map, uint64_t row)
{
    return map->ids ? map->ids[row] : map->first_address + row;
}

#endif
