/* fragment.h - what a version of a table is made of: fields, and fragments of rows with their files.
 *
 * Owns     nothing: all of it lies in the manifest that was parsed, and lives as long.
 */
#ifndef PLM_FRAGMENT_H
#define PLM_FRAGMENT_H

#include "store/store.h"

struct plm_field {
    int32_t id, parent_id;
    char *name, *logical_type;
    bool nullable;
    bool is_packed; /* a struct stored as one column: its children have none of their own */
};

struct plm_data_file {
    char *path;                   /* below data/ */
    int32_t *field_ids;           /* [n_columns]; -2 = tombstone */
    int32_t *column_indices;      /* [n_columns]; -1 = none */
    size_t n_columns;
    uint32_t major, minor;        /* (2,0) (2,1) (2,2); anything else cannot be read */
    uint64_t size_bytes;          /* 0 = unknown */
    int64_t base_id;              /* -1 = none */
};

struct plm_deletion_file {
    bool present, is_bitmap;      /* else Arrow */
    uint64_t read_version, id, n_deleted;
    int64_t base_id;
};

struct plm_fragment {
    uint64_t id;
    struct plm_data_file *files;
    size_t n_files;
    struct plm_deletion_file deletion;
    uint64_t n_physical_rows;
    struct plm_view row_ids_inline;       /* stable row ids: one of the two */
    char *row_ids_path;                   /* relative to the root; NULL = none */
    uint64_t row_ids_offset, row_ids_size;
    struct plm_view raw;                  /* the DataFragment message */
};

struct plm_base_path {
    uint32_t id;
    bool is_dataset_root;
    char *path;
    struct plm_store *store; /* NULL until first used */
};

#endif
