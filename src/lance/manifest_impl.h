/* manifest_impl.h - what the files that read manifests and transactions share.
 * For src/lance only.
 *
 * Memory   everything parsed lies in the manifest's arena: a table of a million fragments
 *          is a few large blocks, and a parse that fails halfway leaves nothing to sort out.
 */
#ifndef PLM_MANIFEST_IMPL_H
#define PLM_MANIFEST_IMPL_H

#include "lance/manifest.h"
#include "lance/wire_get.h"

#define PLM_MANIFEST_BYTES_MAX ((size_t)1 << 30)
#define PLM_VERSIONS_DIR "_versions"
#define PLM_TRANSACTIONS_DIR "_transactions"

/* ---- arena ------------------------------------------------------------------- */

/* *out = n zeroed items of `each` bytes, 16-byte aligned, that live until the reset. */
PLM_MUST_CHECK enum plm_code
plm_arena_alloc(struct plm_ctx *ctx, struct plm_arena_block **arena, void *out, size_t n,
                size_t each, struct plm_err *err);
void plm_arena_reset(struct plm_ctx *ctx, struct plm_arena_block **arena);

/* A NUL-terminated copy in the arena; a NUL inside is PLM_CORRUPT. */
PLM_MUST_CHECK enum plm_code
plm_pb_get_text(struct plm_manifest *manifest, const struct plm_pb_field *field, char **out,
                struct plm_err *err);
/* Repeated int32 into the arena. */
PLM_MUST_CHECK enum plm_code
plm_pb_get_i32s(struct plm_manifest *manifest, const struct plm_u64s *values, int32_t **out,
                struct plm_err *err);
/* ---- pieces of a manifest file -------------------------------------------------- */

/* The Manifest message of a whole manifest file, by its footer. */
PLM_MUST_CHECK enum plm_code
plm_manifest_split(struct plm_view file, struct plm_view *message, struct plm_err *err);
/* The length-prefixed message at offset `at`; `what` names it in messages. */
PLM_MUST_CHECK enum plm_code
plm_manifest_section(struct plm_view file, uint64_t at, const char *what, struct plm_view *out,
                     struct plm_err *err);
/* Parses manifest->index_section into manifest->indices. */
PLM_MUST_CHECK enum plm_code
plm_index_section_read(struct plm_manifest *manifest, struct plm_err *err);
/* PLM_UNSUPPORTED that names the flags outside PLM_FLAGS_KNOWN; kind "reader" or "writer". */
PLM_MUST_CHECK enum plm_code
plm_flags_check(uint64_t flags, const char *kind, struct plm_err *err);

/* ---- the Manifest message --------------------------------------------------------- */

#define PLM_NO_BASE ((int64_t)-1)

/* What one parse carries along. */
struct plm_parse {
    struct plm_manifest *m;
    struct plm_u64s fields, columns; /* scratch of data files */
    bool has_storage_format;
};
/* *out = n zeroed items in the manifest's arena. */
PLM_MUST_CHECK enum plm_code
plm_parse_alloc(struct plm_parse *p, void *out, size_t n, size_t each, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_parse_field(struct plm_parse *p, struct plm_view message, struct plm_field *out,
                struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_parse_storage_format(struct plm_parse *p, struct plm_view message, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_parse_fragment(struct plm_parse *p, struct plm_view message, struct plm_fragment *out,
                   struct plm_err *err);
/* Two fragments of one number would give two rows one address. */
PLM_MUST_CHECK enum plm_code
plm_check_fragment_ids(const struct plm_manifest *m, struct plm_err *err);
/* (0,3) is what a 2.0 file calls itself. */
void plm_settle_file_version(uint32_t *major, uint32_t *minor);

/* ---- finding versions ------------------------------------------------------------ */

/* The newest version, as listed. */
PLM_MUST_CHECK enum plm_code
plm_versions_latest(struct plm_store *store, struct plm_listed_version *out, struct plm_err *err);
/* The manifest file of a version into `raw` (initialised here), and its name. */
PLM_MUST_CHECK enum plm_code
plm_manifest_get(struct plm_store *store, uint64_t version, bool is_v1_naming,
                 struct plm_buf *raw, struct plm_err *err);

#endif
