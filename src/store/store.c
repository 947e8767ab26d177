/* store.c - what every kind of store has in common: locations, checked paths and ranges,
 * and the way to the implementation. */
#include "store/store_impl.h"

#define PATH_MAX_BYTES 4096u

/* ---- locations ---------------------------------------------------------------- */

/* Length of "scheme" in "scheme://...", 0 for a plain path. */
static size_t scheme_length(const char *uri)
{
    size_t n = strspn(uri, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

    return n > 0 && strncmp(uri + n, "://", 3) == 0 ? n : 0;
}

static bool is_scheme(const char *uri, size_t n, const char *name)
{
    return strlen(name) == n && memcmp(uri, name, n) == 0;
}

/* file:///path and file://localhost/path. */
static enum plm_code open_file_uri(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                   struct plm_store **out, struct plm_err *err)
{
    static const char host[] = "localhost";
    enum plm_code rc = PLM_OK;
    char *path = NULL;
    const char *rest = uri + strlen("file://"), *bad;

    if (strncmp(rest, host, strlen(host)) == 0 && rest[strlen(host)] == '/')
        rest += strlen(host);
    if (*rest != '/')
        return plm_fail(err, PLM_ARG, "location \"%s\": expected file:///absolute/path", uri);
    PLM_TRY(plm_strdup(ctx, rest, &path, err));
    bad = plm_percent_decode(path, true);
    if (bad)
        PLM_TRY(plm_fail(err, PLM_ARG, "location \"file://...\": broken escape \"%.3s\"", bad));
    PLM_TRY(plm_store_open_local(ctx, path, options, out, err));
done:
    plm_free(ctx, path);
    return rc;
}

enum plm_code plm_store_open(struct plm_ctx *ctx, const char *uri, const char *const *options,
                             struct plm_store **out, struct plm_err *err)
{
    if (!uri || !*uri)
        return plm_fail(err, PLM_ARG, "empty location, expected a path, file:///... or s3://...");

    size_t n = scheme_length(uri);

    if (n == 0)
        return plm_store_open_local(ctx, uri, options, out, err);
    if (is_scheme(uri, n, "file"))
        return open_file_uri(ctx, uri, options, out, err);
    if (is_scheme(uri, n, "s3"))
        return plm_store_open_s3(ctx, uri, options, out, err);
    /* Only the scheme is shown: what follows may hold a password. */
    return plm_fail(err, PLM_UNSUPPORTED,
                    "storage \"%.*s://\" is not supported, expected a path, file:///... or s3://...",
                    (int)plm_min_size(n, 32), uri);
}

enum plm_code plm_store_options_copy(struct plm_ctx *ctx, const char *const *options, char ***out,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char **copy = NULL;
    size_t n = 0;

    while (options && options[n])
        n++;
    if (n % 2 != 0)
        return plm_fail(err, PLM_ARG, "storage option \"%s\" has no value", options[n - 1]);
    if (n > 0) {
        PLM_TRY(plm_calloc(ctx, &copy, n + 1, sizeof *copy, err));
        for (size_t i = 0; i < n; i++)
            PLM_TRY(plm_strdup(ctx, options[i], &copy[i], err));
    }
    *out = copy;
    copy = NULL;
done:
    plm_store_options_free(ctx, copy);
    return rc;
}

void plm_store_options_free(struct plm_ctx *ctx, char **options)
{
    for (size_t i = 0; options && options[i]; i++) {
        explicit_bzero(options[i], strlen(options[i])); /* may be a secret */
        plm_free(ctx, options[i]);
    }
    plm_free(ctx, options);
}

/* ---- paths -------------------------------------------------------------------- */

static enum plm_code check_path(const char *path, struct plm_err *err)
{
    if (!path || !*path)
        return plm_fail(err, PLM_ARG, "empty path");

    size_t n = strnlen(path, PATH_MAX_BYTES + 1);

    if (n > PATH_MAX_BYTES)
        return plm_fail(err, PLM_ARG, "path \"%.60s...\" is longer than %u bytes", path,
                        PATH_MAX_BYTES);
    for (const char *part = path;;) {
        size_t len = strcspn(part, "/");

        if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && memcmp(part, "..", 2) == 0))
            return plm_fail(err, PLM_ARG,
                            "path \"%.200s\" at byte %td: expected a relative path without empty, "
                            "\".\" or \"..\" parts",
                            path, part - path);
        if (part[len] == '\0')
            return PLM_OK;
        part += len + 1;
    }
}

/* A directory may end in '/'; *out is a checked copy without it. */
static enum plm_code directory_path(struct plm_ctx *ctx, const char *dir, bool root_is_fine,
                                    char **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *copy = NULL;
    size_t n = dir ? strlen(dir) : 0;

    if (n > 1 && dir[n - 1] == '/')
        n--;
    PLM_TRY(plm_strndup(ctx, dir ? dir : "", n, &copy, err));
    if (n > 0 || !root_is_fine)
        PLM_TRY(check_path(copy, err));
    *out = copy;
    copy = NULL;
done:
    plm_free(ctx, copy);
    return rc;
}

enum plm_code plm_store_open_at(struct plm_store *store, const char *uri_or_subpath,
                                struct plm_store **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *sub = NULL, *joined = NULL;
    struct plm_ctx *ctx = store->ctx;
    const char *const *options = (const char *const *)store->options;
    size_t n = strlen(store->uri);

    if (uri_or_subpath && (uri_or_subpath[0] == '/' || scheme_length(uri_or_subpath) > 0))
        return plm_store_open(ctx, uri_or_subpath, options, out, err);
    while (n > 0 && store->uri[n - 1] == '/')
        n--;
    PLM_TRY(directory_path(ctx, uri_or_subpath, false, &sub, err));
    PLM_TRY(plm_format(ctx, &joined, err, "%.*s/%s", (int)n, store->uri, sub));
    PLM_TRY(plm_store_open(ctx, joined, options, out, err));
    (*out)->is_uncounted = store->is_uncounted;
done:
    plm_free(ctx, joined);
    plm_free(ctx, sub);
    return rc;
}

void plm_store_close(struct plm_store *store)
{
    if (store)
        store->ops->close(store);
}

const char *plm_store_uri(const struct plm_store *store) { return store->uri; }

/* A local root is an absolute path, every other root has a scheme. */
bool plm_store_is_local(const struct plm_store *store) { return store->uri[0] == '/'; }

void plm_store_uncounted(struct plm_store *store) { store->is_uncounted = true; }

struct plm_ctx *plm_store_ctx(const struct plm_store *store) { return store->ctx; }

/* ---- reading ------------------------------------------------------------------ */

enum plm_code plm_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                            struct plm_file **out, struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    return rc ? rc : store->ops->file_open(store, path, size_bytes, out, err);
}

uint64_t plm_file_size(const struct plm_file *file) { return file->size_bytes; }

const char *plm_file_name(const struct plm_file *file) { return file->name; }

enum plm_code plm_file_read(struct plm_file *file, uint64_t offset, size_t len, void *dst,
                            struct plm_err *err)
{
    struct plm_range range = {offset, len, dst};

    return plm_file_read_ranges(file, &range, 1, err);
}

static enum plm_code check_ranges(const struct plm_file *file, const struct plm_range *ranges, size_t n,
                                  struct plm_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ranges[i].offset > file->size_bytes ||
            ranges[i].len > file->size_bytes - ranges[i].offset)
            return plm_fail(err, PLM_CORRUPT,
                            "%s: needs %zu bytes at offset %" PRIu64 ", but the file ends at %" PRIu64,
                            file->name, ranges[i].len, ranges[i].offset, file->size_bytes);
    return PLM_OK;
}

enum plm_code plm_file_read_ranges(struct plm_file *file, const struct plm_range *ranges, size_t n,
                                   struct plm_err *err)
{
    enum plm_code rc = check_ranges(file, ranges, n, err);

    return rc != PLM_OK || n == 0 ? rc : file->store->ops->file_read_ranges(file, ranges, n, err);
}

enum plm_code plm_file_view(struct plm_file *file, uint64_t offset, size_t len, void *dst,
                            struct plm_err *err)
{
    const struct plm_store_ops *ops = file->store->ops;
    struct plm_range range = {offset, len, dst};
    enum plm_code rc = check_ranges(file, &range, 1, err);

    if (rc != PLM_OK || len == 0)
        return rc;
    return ops->file_view ? ops->file_view(file, &range, err) : ops->file_read_ranges(file, &range, 1, err);
}

void plm_file_ahead(struct plm_file *file, const struct plm_range *ranges, size_t n)
{
    if (file->store->ops->file_ahead)
        file->store->ops->file_ahead(file, ranges, n);
}

void plm_file_expect(struct plm_file *file, const struct plm_range *ranges, size_t n)
{
    if (file->store->ops->file_expect)
        file->store->ops->file_expect(file, ranges, n);
}

void plm_store_keep(struct plm_store *store, uint64_t bytes)
{
    if (store->ops->keep)
        store->ops->keep(store, bytes);
}

void plm_file_set_direct(struct plm_file *file)
{
    if (file->store->ops->file_set_direct)
        file->store->ops->file_set_direct(file);
}

void plm_file_close(struct plm_file *file)
{
    if (file)
        file->store->ops->file_close(file);
}

/* For kinds without a `get` of their own. */
static enum plm_code get_by_open(struct plm_store *store, const char *path, struct plm_buf *buf,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_file *file = NULL;

    PLM_TRY(plm_file_open(store, path, 0, &file, err));
    if (file->size_bytes > SIZE_MAX)
        PLM_TRY(plm_fail(err, PLM_LIMIT, "%s: %" PRIu64 " bytes", file->name, file->size_bytes));
    if (file->size_bytes == 0)
        goto done;
    rc = plm_buf_reserve(buf, (size_t)file->size_bytes, err);
    if (rc)
        PLM_TRY(plm_wrap(err, rc, "%s: %" PRIu64 " bytes", file->name, file->size_bytes));
    PLM_TRY(plm_file_read(file, 0, (size_t)file->size_bytes, buf->data + buf->len, err));
    buf->len += (size_t)file->size_bytes;
done:
    plm_file_close(file);
    return rc;
}

enum plm_code plm_store_get(struct plm_store *store, const char *path, struct plm_buf *buf,
                            struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    if (rc)
        return rc;
    return store->ops->get ? store->ops->get(store, path, buf, err)
                           : get_by_open(store, path, buf, err);
}

enum plm_code plm_store_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                             struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    return rc ? rc : store->ops->size(store, path, size_bytes, err);
}

enum plm_code plm_store_list(struct plm_store *store, const char *dir, size_t limit,
                             struct plm_entries *out, struct plm_err *err)
{
    char *path = NULL;
    enum plm_code rc = directory_path(store->ctx, dir, true, &path, err);

    if (rc == PLM_OK)
        rc = store->ops->list(store, path, limit, out, err);
    plm_free(store->ctx, path);
    return rc;
}

void plm_entries_reset(struct plm_entries *entries)
{
    for (size_t i = 0; i < entries->n; i++)
        plm_free(entries->ctx, entries->items[i].name);
    plm_free(entries->ctx, entries->items);
    *entries = (struct plm_entries){0};
}

/* ---- writing ------------------------------------------------------------------ */

static enum plm_code put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                         bool if_absent, struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    return rc ? rc : store->ops->put(store, path, bytes, n, if_absent, err);
}

enum plm_code plm_store_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                            struct plm_err *err)
{
    return put(store, path, bytes, n, false, err);
}

enum plm_code plm_store_put_if_absent(struct plm_store *store, const char *path, const void *bytes,
                                      size_t n, struct plm_err *err)
{
    return put(store, path, bytes, n, true, err);
}

enum plm_code plm_store_put_probing(struct plm_store *store, const char *path, const void *bytes,
                                    size_t n, struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    if (rc == PLM_OK && store->ops->put_probing)
        return store->ops->put_probing(store, path, bytes, n, err);
    return rc ? rc : store->ops->put(store, path, bytes, n, false, err);
}

enum plm_code plm_store_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    return rc ? rc : store->ops->del(store, path, err);
}

enum plm_code plm_store_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err)
{
    char *path = NULL;
    enum plm_code rc = directory_path(store->ctx, dir, false, &path, err);

    if (rc == PLM_OK)
        rc = store->ops->delete_tree(store, path, err);
    plm_free(store->ctx, path);
    return rc;
}

enum plm_code plm_store_delete_empty(struct plm_store *store, const char *dir, struct plm_err *err)
{
    char *path = NULL;
    enum plm_code rc = directory_path(store->ctx, dir, false, &path, err);

    if (rc == PLM_OK && store->ops->delete_empty)
        rc = store->ops->delete_empty(store, path, err);
    plm_free(store->ctx, path);
    return rc;
}

enum plm_code plm_store_rename(struct plm_store *store, const char *from, const char *to,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *from_path = NULL, *to_path = NULL;

    PLM_TRY(directory_path(store->ctx, from, false, &from_path, err));
    PLM_TRY(directory_path(store->ctx, to, false, &to_path, err));
    if (!store->ops->rename)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "%s: this storage cannot rename \"%s\"", store->uri,
                         from));
    PLM_TRY(store->ops->rename(store, from_path, to_path, err));
done:
    plm_free(store->ctx, from_path);
    plm_free(store->ctx, to_path);
    return rc;
}

enum plm_code plm_writer_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                              const char *token, char **token_out, struct plm_writer **out,
                              struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    return rc ? rc : store->ops->writer_open(store, path, size_bytes, token, token_out, out, err);
}

enum plm_code plm_writer_write(struct plm_writer *writer, unsigned part, uint64_t offset,
                               const void *bytes, size_t n, struct plm_err *err)
{
    if (part < 1)
        return plm_fail(err, PLM_ARG, "%s: parts are counted from 1", writer->name);
    if (offset > writer->size_bytes || n > writer->size_bytes - offset)
        return plm_fail(err, PLM_ARG,
                        "%s: %zu bytes at offset %" PRIu64 " do not fit the promised %" PRIu64,
                        writer->name, n, offset, writer->size_bytes);
    return writer->store->ops->writer_write(writer, part, offset, bytes, n, err);
}

void plm_writer_set_direct(struct plm_writer *writer)
{
    if (writer->store->ops->writer_set_direct)
        writer->store->ops->writer_set_direct(writer);
}

enum plm_code plm_writer_finish(struct plm_writer *writer, struct plm_err *err)
{
    enum plm_code rc = writer->store->ops->writer_finish(writer, err);

    if (rc == PLM_OK)
        writer->store->ops->writer_close(writer, false);
    return rc;
}

enum plm_code plm_writer_finish_scratch(struct plm_writer *writer, struct plm_err *err)
{
    if (!plm_store_is_local(writer->store))
        return plm_writer_finish(writer, err);
    plm_writer_detach(writer);
    return PLM_OK;
}

void plm_writer_detach(struct plm_writer *writer)
{
    if (writer)
        writer->store->ops->writer_close(writer, false);
}

void plm_writer_abort(struct plm_writer *writer)
{
    if (writer)
        writer->store->ops->writer_close(writer, true);
}

enum plm_code plm_store_uploads(struct plm_store *store, const char *dir, struct plm_uploads *out,
                                struct plm_err *err)
{
    char *path = NULL;
    enum plm_code rc = directory_path(store->ctx, dir, true, &path, err);

    if (rc == PLM_OK && store->ops->uploads)
        rc = store->ops->uploads(store, path, out, err);
    else if (rc == PLM_OK)
        *out = (struct plm_uploads){.ctx = store->ctx};
    plm_free(store->ctx, path);
    return rc;
}

void plm_uploads_reset(struct plm_uploads *uploads)
{
    for (size_t i = 0; i < uploads->n; i++) {
        plm_free(uploads->ctx, uploads->items[i].path);
        plm_free(uploads->ctx, uploads->items[i].token);
    }
    if (uploads->ctx)
        plm_free(uploads->ctx, uploads->items);
    *uploads = (struct plm_uploads){0};
}

enum plm_code plm_store_lock(struct plm_store *store, const char *path, struct plm_lock **out,
                             struct plm_err *err)
{
    enum plm_code rc = check_path(path, err);

    if (rc)
        return rc;
    if (!store->ops->lock)
        return plm_fail(err, PLM_UNSUPPORTED, "%s: this storage cannot lock \"%s\"", store->uri,
                        path);
    return store->ops->lock(store, path, out, err);
}
