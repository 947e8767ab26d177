/* manifest.c - open a version: find its file, read it, keep the roots it refers to. */
#include "lance/manifest_impl.h"

#define FOOTER_BYTES 16u /* i64 position, u16 major, u16 minor, "LANC" */
#define PATH_BYTES 64u   /* "_versions/" and a file name of at most 39 characters */

enum plm_code plm_manifest_section(struct plm_view file, uint64_t at, const char *what,
                                   struct plm_view *out, struct plm_err *err)
{
    uint64_t len;

    if (file.len < FOOTER_BYTES + 4 || at > file.len - FOOTER_BYTES - 4)
        return plm_fail(err, PLM_CORRUPT, "%s at offset %" PRIu64 ", file of %zu bytes", what, at,
                        file.len);
    len = plm_le32(file.data + at);
    if (len > file.len - FOOTER_BYTES - 4 - at)
        return plm_fail(err, PLM_CORRUPT,
                        "%s at offset %" PRIu64 " is %" PRIu64 " bytes long, file of %zu bytes",
                        what, at, len, file.len);
    *out = (struct plm_view){file.data + at + 4, (size_t)len};
    return PLM_OK;
}

enum plm_code plm_manifest_split(struct plm_view file, struct plm_view *message,
                                 struct plm_err *err)
{
    const uint8_t *footer;
    struct plm_view found;
    enum plm_code rc;

    if (file.len < FOOTER_BYTES + 4)
        return plm_fail(err, PLM_CORRUPT, "%zu bytes, too short for a manifest", file.len);
    footer = file.data + file.len - FOOTER_BYTES;
    if (memcmp(footer + 12, "LANC", 4) != 0)
        return plm_fail(err, PLM_CORRUPT, "no \"LANC\" at the end (offset %zu)", file.len - 4);
    if (plm_le16(footer + 8) != 0)
        return plm_fail(err, PLM_UNSUPPORTED, "manifest format %u.%u is not supported",
                        plm_le16(footer + 8), plm_le16(footer + 10));
    rc = plm_manifest_section(file, plm_le64(footer), "manifest message", &found, err);
    if (rc != PLM_OK)
        return rc;
    if (found.data + found.len != footer)
        return plm_fail(err, PLM_CORRUPT,
                        "manifest message ends at offset %zu, expected the footer at %zu",
                        (size_t)(found.data + found.len - file.data), file.len - FOOTER_BYTES);
    *message = found;
    return PLM_OK;
}

enum plm_code plm_manifest_get(struct plm_store *store, uint64_t version, bool is_v1_naming,
                               struct plm_buf *raw, struct plm_err *err)
{
    char name[40], path[PATH_BYTES];

    plm_buf_init(raw, plm_store_ctx(store), PLM_MANIFEST_BYTES_MAX);
    plm_manifest_file_name(version, is_v1_naming, name);
    snprintf(path, sizeof path, PLM_VERSIONS_DIR "/%s", name);
    return plm_store_get(store, path, raw, err);
}

/* A version that is not there: say which are. */
static enum plm_code no_version(struct plm_store *store, uint64_t version, struct plm_err *err)
{
    struct plm_versions list = {0};
    enum plm_code rc = plm_versions_list(store, &list, err);

    if (rc != PLM_OK)
        return rc;
    rc = plm_fail(err, PLM_NOT_FOUND,
                  "%s has no version %" PRIu64 "; there are %zu, from %" PRIu64 " to %" PRIu64,
                  plm_store_uri(store), version, list.n, list.items[0].version,
                  list.items[list.n - 1].version);
    plm_versions_reset(&list);
    return rc;
}

static bool is_same_file(const struct plm_listed_version *a, const struct plm_listed_version *b)
{
    return a->version == b->version && a->size_bytes == b->size_bytes &&
           a->modified_ms == b->modified_ms && a->is_v1_naming == b->is_v1_naming;
}

static enum plm_code read_latest(struct plm_store *store, const struct plm_manifest *known,
                                 struct plm_listed_version *listed, struct plm_buf *raw,
                                 struct plm_err *err)
{
    enum plm_code rc = plm_versions_latest(store, listed, err);

    if (rc != PLM_OK)
        return rc;
    if (!known || plm_store_is_local(store) || !is_same_file(&known->listed, listed))
        return plm_manifest_get(store, listed->version, listed->is_v1_naming, raw, err);
    plm_buf_init(raw, plm_store_ctx(store), PLM_MANIFEST_BYTES_MAX);
    return plm_buf_add(raw, known->raw.data, known->raw.len, err);
}

/* Reads the file of a version (0 = latest). */
static enum plm_code read_version(struct plm_store *store, const struct plm_manifest *known,
                                  uint64_t *version, struct plm_listed_version *listed,
                                  bool *is_v1_naming, struct plm_buf *raw, struct plm_err *err)
{
    enum plm_code rc;

    if (*version == 0) {
        rc = read_latest(store, known, listed, raw, err);
        *version = listed->version;
        *is_v1_naming = listed->is_v1_naming;
        return rc;
    }
    *is_v1_naming = false;
    rc = plm_manifest_get(store, *version, false, raw, err);
    if (rc != PLM_NOT_FOUND)
        return rc;
    *is_v1_naming = true;
    plm_buf_reset(raw);
    rc = plm_manifest_get(store, *version, true, raw, err);
    return rc == PLM_NOT_FOUND ? no_version(store, *version, err) : rc;
}

/* Opens on `root`, the directory that holds `_versions/`. */
static enum plm_code open_at(struct plm_store *root, uint64_t version,
                             const struct plm_manifest *known, struct plm_manifest *out,
                             struct plm_err *err)
{
    struct plm_listed_version listed = {0};
    enum plm_code rc = PLM_OK;
    struct plm_manifest found = {0};
    struct plm_buf raw = {0};
    bool is_v1_naming;
    char name[40];

    PLM_TRY(read_version(root, known, &version, &listed, &is_v1_naming, &raw, err));
    plm_manifest_file_name(version, is_v1_naming, name);
    rc = plm_manifest_parse(plm_store_ctx(root), root, &raw, &found, err);
    if (rc == PLM_OK && found.version != version)
        rc = plm_fail(err, PLM_CORRUPT, "says it is version %" PRIu64, found.version);
    if (rc != PLM_OK)
        PLM_TRY(plm_wrap(err, rc, "%s/" PLM_VERSIONS_DIR "/%s", plm_store_uri(root), name));
    found.is_v1_naming = is_v1_naming;
    found.listed = listed;
    PLM_TRY(plm_arena_alloc(found.ctx, &found.arena, &found.file_name, sizeof name, 1, err));
    memcpy(found.file_name, name, sizeof name);
    *out = found;
    found = (struct plm_manifest){0};
done:
    plm_buf_reset(&raw);
    plm_manifest_reset(&found);
    return rc;
}

/* Names that stock Lance accepts: parts of letters, digits, '.', '-', '_' between slashes. */
static bool is_branch_name(const char *name)
{
    size_t part = 0;

    for (const char *c = name;; c++) {
        bool is_alnum = (*c >= '0' && *c <= '9') || ((*c | 32) >= 'a' && (*c | 32) <= 'z');

        if (*c == '/' || *c == 0) {
            bool is_dots = (part == 1 && c[-1] == '.') || (part == 2 && c[-1] == '.' && c[-2] == '.');

            if (part == 0 || is_dots)
                return false;
            if (*c == 0)
                return true;
            part = 0;
        } else if (!is_alnum && *c != '.' && *c != '-' && *c != '_') {
            return false;
        } else {
            part++;
        }
    }
}

static enum plm_code open_branch(struct plm_store *store, const char *branch,
                                 struct plm_store **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    struct plm_entries entries = {0};
    struct plm_store *root = NULL;
    char *path = NULL;

    if (!is_branch_name(branch))
        return plm_fail(err, PLM_ARG, "'%s' is no branch name", branch);
    PLM_TRY(plm_format(ctx, &path, err, "tree/%s", branch));
    PLM_TRY(plm_store_open_at(store, path, &root, err));
    PLM_TRY(plm_store_list(root, PLM_VERSIONS_DIR, 1, &entries, err));
    if (entries.n == 0)
        PLM_TRY(plm_fail(err, PLM_NOT_FOUND, "%s has no branch '%s'", plm_store_uri(store), branch));
    *out = root;
    root = NULL;
done:
    plm_entries_reset(&entries);
    plm_store_close(root);
    plm_free(ctx, path);
    return rc;
}

static enum plm_code open_version(struct plm_store *store, const char *branch, uint64_t version,
                                  const struct plm_manifest *known, struct plm_manifest *out,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *root = NULL;
    bool is_main = !branch || strcmp(branch, "main") == 0;

    if (!is_main)
        PLM_TRY(open_branch(store, branch, &root, err));
    PLM_TRY(open_at(root ? root : store, version, known, out, err));
    out->owned_store = root;
    root = NULL;
done:
    plm_store_close(root);
    return rc;
}

enum plm_code plm_manifest_open(struct plm_store *store, const char *branch, uint64_t version,
                                struct plm_manifest *out, struct plm_err *err)
{
    return open_version(store, branch, version, NULL, out, err);
}

enum plm_code plm_manifest_open_latest(struct plm_store *store, const char *branch,
                                       const struct plm_manifest *known, struct plm_manifest *out,
                                       struct plm_err *err)
{
    return open_version(store, branch, 0, known, out, err);
}

void plm_manifest_reset(struct plm_manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_bases; i++)
        plm_store_close(manifest->bases[i].store);
    plm_store_close(manifest->owned_store);
    plm_buf_reset(&manifest->raw);
    plm_arena_reset(manifest->ctx, &manifest->arena);
    *manifest = (struct plm_manifest){0};
}

enum plm_code plm_manifest_base(struct plm_manifest *manifest, int64_t base_id, const char *kind,
                                struct plm_store **store, const char **prefix, struct plm_err *err)
{
    if (base_id < 0) {
        *store = manifest->store;
        *prefix = kind;
        return PLM_OK;
    }
    for (size_t i = 0; i < manifest->n_bases; i++) {
        struct plm_base_path *base = &manifest->bases[i];

        if (base->id != (uint64_t)base_id)
            continue;
        if (!base->store) {
            enum plm_code rc = plm_store_open_at(manifest->store, base->path, &base->store, err);

            if (rc != PLM_OK)
                return plm_wrap(err, rc, "base path %" PRId64, base_id);
        }
        *store = base->store;
        *prefix = base->is_dataset_root ? kind : "";
        return PLM_OK;
    }
    return plm_fail(err, PLM_CORRUPT, "version %" PRIu64 " refers to base path %" PRId64
                    ", which it does not list", manifest->version, base_id);
}
