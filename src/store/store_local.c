/* store_local.c - a store in a directory of the local (or a shared POSIX) file system. */
#include "store/local_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static void local_close(struct plm_store *store)
{
    struct plm_ctx *ctx = store->ctx;

    plm_store_options_free(ctx, store->options);
    plm_free(ctx, store->uri);
    plm_free(ctx, store);
}

static const struct plm_store_ops local_ops = {
    .close = local_close,
    .file_open = plm_local_file_open,
    .file_read_ranges = plm_local_read_ranges,
    .file_view = plm_local_file_view,
    .file_ahead = plm_local_file_ahead,
    .file_set_direct = plm_local_file_set_direct,
    .file_close = plm_local_file_close,
    .size = plm_local_size,
    .list = plm_local_list,
    .put = plm_local_put,
    .del = plm_local_delete,
    .delete_tree = plm_local_delete_tree,
    .delete_empty = plm_local_delete_empty,
    .rename = plm_local_rename,
    .writer_open = plm_local_writer_open,
    .writer_write = plm_local_writer_write,
    .writer_set_direct = plm_local_writer_set_direct,
    .writer_finish = plm_local_writer_finish,
    .writer_close = plm_local_writer_close,
    .lock = plm_local_lock,
};

/* Absolute, so that a later chdir() of the host process does not move the table. */
static enum plm_code absolute_path(struct plm_ctx *ctx, const char *path, char **out,
                                   struct plm_err *err)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    if (path[0] == '/')
        return plm_strndup(ctx, path, n, out, err);

    char *here = getcwd(NULL, 0);

    if (!here)
        return plm_fail_errno(err, errno, "\"%s\": cannot find the working directory", path);
    while (n >= 2 && path[0] == '.' && path[1] == '/')
        path += 2, n -= 2;

    bool is_here = n == 0 || (n == 1 && path[0] == '.');
    enum plm_code rc = plm_format(ctx, out, err, "%s%s%.*s", here,
                                  is_here || strcmp(here, "/") == 0 ? "" : "/",
                                  is_here ? 0 : (int)n, path);

    free(here);
    return rc;
}

enum plm_code plm_store_open_local(struct plm_ctx *ctx, const char *root,
                                   const char *const *options, struct plm_store **out,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *uri = NULL, **copy = NULL;
    struct plm_store *store = NULL;

    PLM_TRY(absolute_path(ctx, root, &uri, err));
    PLM_TRY(plm_store_options_copy(ctx, options, &copy, err));
    PLM_TRY(plm_alloc(ctx, &store, 1, sizeof *store, err));
    *store = (struct plm_store){.ops = &local_ops, .ctx = ctx, .uri = uri, .options = copy};
    *out = store;
    return PLM_OK;
done:
    plm_store_options_free(ctx, copy);
    plm_free(ctx, uri);
    return rc;
}
