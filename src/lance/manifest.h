/* manifest.h - one version of a Lance table: schema, fragments, indexes.
 *
 * Owns     a manifest owns its raw bytes and everything parsed from them; views and
 *          strings inside live as long as it does.
 * Memory   sizes are checked against the file before anything is allocated.
 * Errors   PLM_NOT_FOUND (no table, version, column), PLM_CORRUPT, PLM_UNSUPPORTED (reader
 *          flags, overlay files: named). Versions of data files are noted, not judged.
 */
#ifndef PLM_MANIFEST_H
#define PLM_MANIFEST_H

#include "core/core.h"
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

#define PLM_FLAG_DELETIONS 1u
#define PLM_FLAG_STABLE_ROW_IDS 2u
#define PLM_FLAG_NO_TXN_FILE 32u
#define PLM_FLAGS_KNOWN (1u | 2u | 4u | 8u | 16u | 32u | 256u | 2048u)

struct plm_arena_block;

/* A manifest file as a listing shows it. */
struct plm_listed_version {
    uint64_t version, size_bytes;
    int64_t modified_ms;
    bool is_v1_naming;
};

struct plm_manifest {
    struct plm_ctx *ctx;
    struct plm_arena_block *arena; /* holds everything parsed */
    struct plm_store *store;  /* the branch's root (borrowed or owned_store) */
    struct plm_store *owned_store;
    char *file_name;          /* below _versions/ */
    bool is_v1_naming;
    uint64_t version;
    uint64_t reader_flags, writer_flags;
    struct plm_field *fields;
    size_t n_fields;
    struct plm_fragment *fragments;
    size_t n_fragments;
    struct plm_base_path *bases;
    size_t n_bases;
    struct plm_index_meta *indices;
    size_t n_indices;
    uint32_t file_major, file_minor; /* data storage format of the table */
    char *branch;             /* NULL on main */
    char *transaction_file;   /* below _transactions/, NULL = none */
    int64_t inline_txn_at;    /* offset of its length word in `raw`, -1 = none */
    uint64_t xxh3;            /* of the whole file */
    struct plm_buf raw;       /* the whole manifest file */
    struct plm_listed_version listed; /* how it was found; version 0 = it was asked for by number */
    struct plm_view message;  /* the Manifest message in `raw` */
    struct plm_view index_section; /* the IndexSection message, len 0 = none */
};

/* The versions there are: number and file name of each, ascending. */
struct plm_versions {
    struct plm_ctx *ctx;
    struct plm_version {
        uint64_t version;
        char *file_name;
    } *items;
    size_t n;
    bool is_v1_naming;
};
/* PLM_NOT_FOUND when there is no `_versions/` or nothing in it: "not a Lance table". */
PLM_MUST_CHECK enum plm_code
plm_versions_list(struct plm_store *store, struct plm_versions *out, struct plm_err *err);
void plm_versions_reset(struct plm_versions *versions);
/* File name of version v in the given scheme; room for 40 bytes. */
void plm_manifest_file_name(uint64_t version, bool is_v1_naming, char out[40]);

/* version 0 = latest. branch NULL = main. Refuses what cannot be read by name. Checks every
 * reader flag. tag: resolved by plm_tag_resolve() before. */
PLM_MUST_CHECK enum plm_code
plm_manifest_open(struct plm_store *store, const char *branch, uint64_t version,
                  struct plm_manifest *out, struct plm_err *err);
/* The latest version. On remote storage `known` (NULL = none), opened as the latest a while ago, is not
 * read again when the listing shows that same file as the newest: nothing ever replaces one. */
PLM_MUST_CHECK enum plm_code
plm_manifest_open_latest(struct plm_store *store, const char *branch,
                         const struct plm_manifest *known, struct plm_manifest *out,
                         struct plm_err *err);
/* Parse bytes already read (takes `raw`'s contents over on success). store may be NULL in tests. */
PLM_MUST_CHECK enum plm_code
plm_manifest_parse(struct plm_ctx *ctx, struct plm_store *store, struct plm_buf *raw,
                   struct plm_manifest *out, struct plm_err *err);
void plm_manifest_reset(struct plm_manifest *manifest);
PLM_MUST_CHECK enum plm_code
plm_tag_resolve(struct plm_store *store, const char *tag, uint64_t *version, char **branch,
                struct plm_err *err);

/* A column of vectors, found by its path ("vec", "s.vec", "`odd.name`"). */
enum plm_element { PLM_F16 = 1, PLM_F32 = 2, PLM_F64 = 3, PLM_U8 = 4 };
static inline size_t plm_element_bytes(enum plm_element e)
{
    return e == PLM_F64 ? 8 : e == PLM_F32 ? 4 : e == PLM_F16 ? 2 : 1;
}
struct plm_column {
    int32_t field_id;
    enum plm_element element; /* F16, F32 or F64 */
    uint32_t dim;
    bool is_packed;           /* inside a packed struct: no file has it as a column of its own */
    int32_t packed_id;        /* field of that struct */
    const char *packed_name;  /* borrowed from the manifest */
};
/* PLM_UNSUPPORTED unless files of this version can be read here: 2.0, 2.1, 2.2. */
PLM_MUST_CHECK enum plm_code
plm_file_version_check(uint32_t major, uint32_t minor, struct plm_err *err);
/* PLM_NOT_FOUND names the columns there are; PLM_DATA for a column that holds no float
 * vectors (text: "column "t" is string, ..."); PLM_UNSUPPORTED for uint8, int8, bfloat16,
 * multivector by name. */
PLM_MUST_CHECK enum plm_code
plm_manifest_find_column(const struct plm_manifest *manifest, const char *path,
                         struct plm_column *out, struct plm_err *err);
/* Default index name of a column path is "<path>_idx"; path of a field id for messages
 * (plm_free). */
PLM_MUST_CHECK enum plm_code
plm_manifest_field_path(const struct plm_manifest *manifest, int32_t field_id, char **out,
                        struct plm_err *err);

/* The store that holds files with this base id (-1 = the manifest's own) and the prefix
 * below it ("data/", "" if the base is no dataset root). Opened on first use, kept by the
 * manifest. kind is "data/", "_deletions/" or "_indices/". Not thread-safe: open files in
 * one thread. */
PLM_MUST_CHECK enum plm_code
plm_manifest_base(struct plm_manifest *manifest, int64_t base_id, const char *kind,
                  struct plm_store **store, const char **prefix, struct plm_err *err);

#endif
