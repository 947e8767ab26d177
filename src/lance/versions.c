/* versions.c - which versions a table has, what their manifests are called, and tags.
 *
 * Two naming schemes exist (lance-format.md 1.2): the newer counts down from 2^64-1 in 20
 * digits, so that the newest sorts first; the older is the plain number. A name of exactly
 * 29 characters is the newer one.
 */
#include "lance/manifest_impl.h"

#include <jansson.h>
#include <stdlib.h>

#define SUFFIX ".manifest"
#define SUFFIX_LEN (sizeof SUFFIX - 1)
#define V2_DIGITS 20u
#define LIST_FIRST 64u /* names asked for when only the newest is wanted */
#define TAG_BYTES_MAX ((size_t)1 << 20)

void plm_manifest_file_name(uint64_t version, bool is_v1_naming, char out[40])
{
    if (is_v1_naming)
        snprintf(out, 40, "%" PRIu64 SUFFIX, version);
    else
        snprintf(out, 40, "%020" PRIu64 SUFFIX, UINT64_MAX - version);
}

/* Detached versions (top bit set, name begins with 'd'), temporaries and hints are no
 * versions of the chain. */
static bool parse_name(const char *name, uint64_t *version, bool *is_v1_naming)
{
    size_t len = strlen(name), n_digits;
    uint64_t number = 0;

    if (len <= SUFFIX_LEN || strcmp(name + len - SUFFIX_LEN, SUFFIX) != 0)
        return false;
    n_digits = len - SUFFIX_LEN;
    if (n_digits > V2_DIGITS)
        return false;
    for (size_t i = 0; i < n_digits; i++) {
        if (name[i] < '0' || name[i] > '9' ||
            __builtin_mul_overflow(number, (uint64_t)10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(name[i] - '0'), &number))
            return false;
    }
    *is_v1_naming = n_digits != V2_DIGITS;
    if (*is_v1_naming && name[0] == '0')
        return false;
    *version = *is_v1_naming ? number : UINT64_MAX - number;
    return *version != 0 && *version >> 63 == 0;
}

static int by_version(const void *a, const void *b)
{
    const struct plm_version *x = a, *y = b;

    return x->version < y->version ? -1 : x->version > y->version;
}

static enum plm_code no_table(struct plm_store *store, const struct plm_entries *entries,
                              struct plm_err *err)
{
    return plm_fail(err, PLM_NOT_FOUND, "%s is not a Lance table (%s)", plm_store_uri(store),
                    entries->n ? "no manifest in its " PLM_VERSIONS_DIR " directory"
                               : "no " PLM_VERSIONS_DIR " directory");
}

enum plm_code plm_versions_list(struct plm_store *store, struct plm_versions *out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_versions list = {.ctx = plm_store_ctx(store)};
    struct plm_entries entries = {0};

    PLM_TRY(plm_store_list(store, PLM_VERSIONS_DIR, 0, &entries, err));
    PLM_TRY(plm_calloc(list.ctx, &list.items, entries.n, sizeof *list.items, err));
    for (size_t i = 0; i < entries.n; i++) {
        uint64_t version;
        bool is_v1;

        if (entries.items[i].is_dir || !parse_name(entries.items[i].name, &version, &is_v1))
            continue;
        PLM_TRY(plm_strdup(list.ctx, entries.items[i].name, &list.items[list.n].file_name, err));
        list.items[list.n++].version = version;
    }
    if (list.n == 0)
        PLM_TRY(no_table(store, &entries, err));
    qsort(list.items, list.n, sizeof *list.items, by_version);
    list.is_v1_naming = strlen(list.items[list.n - 1].file_name) != V2_DIGITS + SUFFIX_LEN;
    *out = list;
    list = (struct plm_versions){0};
done:
    plm_entries_reset(&entries);
    plm_versions_reset(&list);
    return rc;
}

void plm_versions_reset(struct plm_versions *versions)
{
    for (size_t i = 0; i < versions->n; i++)
        plm_free(versions->ctx, versions->items[i].file_name);
    if (versions->items)
        plm_free(versions->ctx, versions->items);
    *versions = (struct plm_versions){0};
}

/* The newest among the names given; false if there is none. */
static bool newest_of(const struct plm_entries *entries, struct plm_listed_version *out)
{
    *out = (struct plm_listed_version){0};

    for (size_t i = 0; i < entries->n; i++) {
        uint64_t v;
        bool is_v1;

        if (entries->items[i].is_dir || !parse_name(entries->items[i].name, &v, &is_v1))
            continue;
        if (v > out->version || (v == out->version && !is_v1))
            *out = (struct plm_listed_version){v, entries->items[i].size_bytes,
                                               entries->items[i].modified_ms, is_v1};
    }
    return out->version != 0;
}

/* A remote listing is sorted and the newer names count down: the first page has the newest.
 * Only with the older names must everything be read. */
enum plm_code plm_versions_latest(struct plm_store *store, struct plm_listed_version *out,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_entries entries = {0};
    struct plm_listed_version newest = {0};
    bool found = false;

    if (!plm_store_is_local(store)) {
        PLM_TRY(plm_store_list(store, PLM_VERSIONS_DIR, LIST_FIRST, &entries, err));
        found = newest_of(&entries, &newest) && !newest.is_v1_naming;
        if (!found)
            plm_entries_reset(&entries);
    }
    if (!found) {
        PLM_TRY(plm_store_list(store, PLM_VERSIONS_DIR, 0, &entries, err));
        if (!newest_of(&entries, &newest))
            PLM_TRY(no_table(store, &entries, err));
    }
    *out = newest;
done:
    plm_entries_reset(&entries);
    return rc;
}

static bool is_ref_name(const char *name)
{
    if (!*name)
        return false;
    for (const char *c = name; *c; c++) {
        bool is_alnum = (*c >= '0' && *c <= '9') || ((*c | 32) >= 'a' && (*c | 32) <= 'z');

        if (!is_alnum && *c != '.' && *c != '-' && *c != '_')
            return false;
    }
    return true;
}

static enum plm_code read_tag(struct plm_ctx *ctx, const struct plm_buf *text, const char *path,
                              uint64_t *version, char **branch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    json_error_t why;
    json_t *root = json_loadb((const char *)text->data, text->len, 0, &why);
    json_t *number = json_object_get(root, "version"), *name = json_object_get(root, "branch");
    char *on = NULL;

    if (!root)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%s: not JSON at byte %d: %s", path, why.position,
                         why.text));
    if (!json_is_integer(number) || json_integer_value(number) < 1)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%s: no version number in it", path));
    if (json_is_string(name))
        PLM_TRY(plm_strdup(ctx, json_string_value(name), &on, err));
    *version = (uint64_t)json_integer_value(number);
    *branch = on;
done:
    json_decref(root);
    return rc;
}

enum plm_code plm_tag_resolve(struct plm_store *store, const char *tag, uint64_t *version,
                              char **branch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    struct plm_buf text;
    char *path = NULL;

    if (!is_ref_name(tag))
        return plm_fail(err, PLM_ARG, "'%s' is no tag name: letters, digits, '.', '-' and '_' only",
                        tag);
    plm_buf_init(&text, ctx, TAG_BYTES_MAX);
    PLM_TRY(plm_format(ctx, &path, err, "_refs/tags/%s.json", tag));
    rc = plm_store_get(store, path, &text, err);
    if (rc == PLM_NOT_FOUND)
        rc = plm_fail(err, PLM_NOT_FOUND, "%s has no tag '%s'", plm_store_uri(store), tag);
    PLM_TRY(rc);
    PLM_TRY(read_tag(ctx, &text, path, version, branch, err));
done:
    plm_buf_reset(&text);
    plm_free(ctx, path);
    return rc;
}
