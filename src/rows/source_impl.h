/* source_impl.h - what a source keeps for each fragment; for the rows room only. */
#ifndef PLM_SOURCE_IMPL_H
#define PLM_SOURCE_IMPL_H

#include "rows/source.h"

#define PLM_RANK_ROWS 4096 /* physical rows between two entries of live_before */

struct plm_source_fragment {
    uint64_t id, n_rows, n_live;
    uint64_t first_ordinal;
    struct plm_row_map map;
    struct plm_datafile *file; /* NULL: the column is missing here, every row is null */
    uint32_t column;
    uint64_t *live_before;     /* live rows before each PLM_RANK_ROWS; NULL: none deleted */
    /* how to open it; used by the opening tasks only */
    size_t manifest_index;
    struct plm_store *store;
    char *path;
    uint64_t size_bytes;
    uint64_t bytes_stored;
};

/* Physical row of the live row number `rank` of a fragment (rank < n_live). */
uint64_t plm_source_select(const struct plm_source_fragment *f, uint64_t rank);
/* The fragment that has a live row; there is one. */
size_t plm_source_fragment_of(const struct plm_source *source, uint64_t ordinal);

#endif
