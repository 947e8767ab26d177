/* gc.c - job directories that no process holds. */
#include "build/report.h"
#include "build/table.h"

static enum plm_code tree_bytes(struct plm_store *store, const char *dir, uint64_t *bytes,
                                unsigned depth, struct plm_err *err)
{
    struct plm_entries entries = {0};
    char *below = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(store, dir, 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++) {
        *bytes += entries.items[i].size_bytes;
        if (!entries.items[i].is_dir || depth == 0)
            continue;
        PLM_TRY(plm_format(plm_store_ctx(store), &below, err, "%s/%s", dir, entries.items[i].name));
        PLM_TRY(tree_bytes(store, below, bytes, depth - 1, err));
        plm_free(plm_store_ctx(store), below);
        below = NULL;
    }
done:
    plm_free(plm_store_ctx(store), below);
    plm_entries_reset(&entries);
    return rc;
}

/* One directory below _pilum/: removed, unless a process holds its lock. */
static enum plm_code collect(struct plm_store *root, const struct plm_entry *entry, bool remove,
                             json_t *jobs, struct plm_err *err)
{
    struct plm_ctx *ctx = plm_store_ctx(root);
    struct plm_lock *lock = NULL;
    char *dir = NULL, *path = NULL;
    uint64_t bytes = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_format(ctx, &dir, err, "_pilum/%s", entry->name));
    PLM_TRY(plm_format(ctx, &path, err, "%s/lock", dir));
    if (plm_store_is_local(root)) {
        rc = plm_store_lock(root, path, &lock, err);
        if (rc == PLM_CONFLICT) {
            rc = PLM_OK; /* at work */
            goto done;
        }
        PLM_TRY(rc);
    }
    PLM_TRY(tree_bytes(root, dir, &bytes, 4, err));
    if (remove)
        PLM_TRY(plm_store_delete_tree(root, dir, err));
    json_array_append_new(jobs, json_pack("{s:s, s:I, s:I, s:b}", "job", entry->name, "bytes", (json_int_t)bytes,
                                          "modified_ms", (json_int_t)entry->modified_ms, "removed", (int)remove));
done:
    plm_store_unlock(lock);
    plm_free(ctx, dir);
    plm_free(ctx, path);
    return rc;
}

static enum plm_code open_root(struct plm_table *table, struct plm_store **root, struct plm_err *err)
{
    char *below = NULL;
    enum plm_code rc = PLM_OK;
    *root = table->store;
    if (table->manifest.branch) {
        PLM_TRY(plm_format(plm_store_ctx(table->store), &below, err, "tree/%s", table->manifest.branch));
        PLM_TRY(plm_store_open_at(table->store, below, root, err));
    }
done:
    plm_free(plm_store_ctx(table->store), below);
    return rc;
}

enum plm_code plm_gc(struct plm_ctx *ctx, const struct plm_table_ref *ref, bool remove, char **json,
                     struct plm_err *err)
{
    struct plm_table table = {0};
    struct plm_store *root = NULL;
    struct plm_entries entries = {0};
    json_t *jobs = json_array();
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_table_open(ctx, ref, &table, err));
    PLM_TRY(open_root(&table, &root, err));
    PLM_TRY(plm_store_list(root, "_pilum", 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++)
        if (entries.items[i].is_dir)
            PLM_TRY(collect(root, &entries.items[i], remove, jobs, err));
    PLM_TRY(plm_json_string(json_pack("{s:s, s:O}", "table", plm_store_uri(table.store), "jobs", jobs), json, err));
    if (remove && json_array_size(jobs) == entries.n && entries.n > 0)
        PLM_TRY(plm_store_delete_tree(root, "_pilum", err));
done:
    json_decref(jobs);
    plm_entries_reset(&entries);
    if (root && root != table.store)
        plm_store_close(root);
    plm_table_close(&table);
    return rc;
}
