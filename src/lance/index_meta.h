/* index_meta.h - what a manifest says of an index.
 *
 * Owns     nothing: all of it lies in the manifest that was parsed, and lives as long.
 */
#ifndef PLM_INDEX_META_H
#define PLM_INDEX_META_H

#include "core/core.h"

struct plm_index_file {
    char *path;
    uint64_t size_bytes;
};

/* An IndexMetadata: one segment of a named index. */
struct plm_index_meta {
    uint8_t uuid[16];
    int32_t *field_ids;
    size_t n_fields;
    char *name;
    uint64_t dataset_version;
    uint32_t *fragments; /* from the bitmap, ascending */
    size_t n_fragments;
    bool has_bitmap;
    char *details_url;          /* may be NULL */
    struct plm_view details;
    int32_t index_version;      /* 0 when absent */
    uint64_t created_at_ms;
    int64_t base_id;            /* -1 = none */
    struct plm_index_file *files;
    size_t n_files;
    struct plm_view raw;        /* the IndexMetadata message */
};

#endif
