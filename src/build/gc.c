/* gc.c - job directories that no process holds, and what killed writers left elsewhere.
 *
 * Local: a job at work holds its lock. S3 has no locks: there a job counts as at work while anything
 * in it is younger than a quarter of an hour.
 */
#include "build/gc_left.h"

#define AT_WORK_MS ((int64_t)15 * 60 * 1000)

struct tree {
    uint64_t bytes;
    int64_t newest_ms;
};

static enum plm_code look_through(struct plm_store *store, const char *dir, struct tree *tree,
                                  unsigned depth, struct plm_err *err)
{
    struct plm_entries entries = {0};
    char *below = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(store, dir, 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++) {
        tree->bytes += entries.items[i].size_bytes;
        if (entries.items[i].modified_ms > tree->newest_ms)
            tree->newest_ms = entries.items[i].modified_ms;
        if (!entries.items[i].is_dir || depth == 0)
            continue;
        PLM_TRY(plm_format(plm_store_ctx(store), &below, err, "%s/%s", dir, entries.items[i].name));
        PLM_TRY(look_through(store, below, tree, depth - 1, err));
        plm_free(plm_store_ctx(store), below);
        below = NULL;
    }
done:
    plm_free(plm_store_ctx(store), below);
    plm_entries_reset(&entries);
    return rc;
}

/* One directory below _pilum/: removed, unless it is at work. */
static enum plm_code collect(struct plm_store *root, const struct plm_entry *entry, bool remove,
                             json_t *jobs, json_t *busy, struct plm_err *err)
{
    struct plm_ctx *ctx = plm_store_ctx(root);
    struct plm_lock *lock = NULL;
    char *dir = NULL, *path = NULL;
    struct tree tree = {.newest_ms = entry->modified_ms};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_format(ctx, &dir, err, "_pilum/%s", entry->name));
    PLM_TRY(plm_format(ctx, &path, err, "%s/lock", dir));
    if (plm_store_is_local(root)) {
        rc = plm_store_lock(root, path, &lock, err);
        if (rc == PLM_CONFLICT) {
            rc = PLM_OK;
            json_array_append_new(busy, json_string(entry->name));
            goto done;
        }
        PLM_TRY(rc);
    }
    PLM_TRY(look_through(root, dir, &tree, 4, err));
    if (!plm_store_is_local(root) && (int64_t)plm_unix_millis() - tree.newest_ms < AT_WORK_MS) {
        json_array_append_new(busy, json_string(entry->name));
        goto done;
    }
    if (remove)
        PLM_TRY(plm_store_delete_tree(root, dir, err));
    json_array_append_new(jobs, json_pack("{s:s, s:I, s:I, s:b}", "job", entry->name, "bytes", (json_int_t)tree.bytes,
                                          "modified_ms", (json_int_t)tree.newest_ms, "removed", (int)remove));
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
    json_t *jobs = json_array(), *busy = json_array(), *uploads = json_array(), *files = json_array();
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_table_open(ctx, ref, &table, err));
    PLM_TRY(open_root(&table, &root, err));
    PLM_TRY(plm_store_list(root, "_pilum", 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++)
        if (entries.items[i].is_dir)
            PLM_TRY(collect(root, &entries.items[i], remove, jobs, busy, err));
    PLM_TRY(plm_gc_uploads(root, &table.manifest, jobs, remove, uploads, err));
    PLM_TRY(plm_gc_files(root, remove, files, err));
    PLM_TRY(plm_json_string(json_pack("{s:s, s:O, s:O, s:O, s:O}", "table", plm_store_uri(table.store),
                                      "jobs", jobs, "at_work", busy, "uploads", uploads, "files", files),
                            json, err));
    if (remove)
        PLM_TRY(plm_store_delete_empty(root, "_pilum", err)); /* a build may have begun meanwhile */
done:
    json_decref(jobs);
    json_decref(busy);
    json_decref(uploads);
    json_decref(files);
    plm_entries_reset(&entries);
    if (root && root != table.store)
        plm_store_close(root);
    plm_table_close(&table);
    return rc;
}
