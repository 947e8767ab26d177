/* manifest.h - one version of a Lance table: its fields and fragments (fragment.h), its indexes
 * (index_meta.h). column.h finds a column in it.
 *
 * Owns     a manifest owns its raw bytes and everything parsed from them; views and
 *          strings inside live as long as it does.
 * Memory   sizes are checked against the file before anything is allocated.
 * Errors   PLM_NOT_FOUND (no table, version, column), PLM_CORRUPT, PLM_UNSUPPORTED (reader
 *          flags, overlay files: named). Versions of data files are noted, not judged.
 */
#ifndef PLM_MANIFEST_H
#define PLM_MANIFEST_H

#include "lance/fragment.h"
#include "lance/index_meta.h"
#include "lance/versions.h"

#define PLM_FLAG_DELETIONS 1u
#define PLM_FLAG_STABLE_ROW_IDS 2u
#define PLM_FLAG_NO_TXN_FILE 32u
#define PLM_FLAGS_KNOWN (1u | 2u | 4u | 8u | 16u | 32u | 256u | 2048u)

struct plm_arena_block;

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
/* PLM_UNSUPPORTED unless files of this version can be read here: 2.0, 2.1, 2.2. */
PLM_MUST_CHECK enum plm_code
plm_file_version_check(uint32_t major, uint32_t minor, struct plm_err *err);

/* The store that holds files with this base id (-1 = the manifest's own) and the prefix
 * below it ("data/", "" if the base is no dataset root). Opened on first use, kept by the
 * manifest. kind is "data/", "_deletions/" or "_indices/". Not thread-safe: open files in
 * one thread. */
PLM_MUST_CHECK enum plm_code
plm_manifest_base(struct plm_manifest *manifest, int64_t base_id, const char *kind,
                  struct plm_store **store, const char **prefix, struct plm_err *err);

#endif
