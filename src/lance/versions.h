/* versions.h - the versions that a table has, and the tags that name some.
 *
 * Owns     a list of versions owns its names.
 * Errors   PLM_NOT_FOUND: not a Lance table, or no such tag.
 */
#ifndef PLM_VERSIONS_H
#define PLM_VERSIONS_H

#include "store/store.h"

/* A manifest file as a listing shows it. */
struct plm_listed_version {
    uint64_t version, size_bytes;
    int64_t modified_ms;
    bool is_v1_naming;
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
/* The version a tag stands for, and its branch (NULL on main; plm_free). */
PLM_MUST_CHECK enum plm_code
plm_tag_resolve(struct plm_store *store, const char *tag, uint64_t *version, char **branch,
                struct plm_err *err);

#endif
