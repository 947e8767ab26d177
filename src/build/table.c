/* table.c - opening a table by its reference. */
#include "build/table.h"

#include <stdlib.h>

#include "lance/versions.h"

enum plm_code plm_table_check_location(const struct plm_store *store, struct plm_err *err)
{
    if (plm_is_utf8(plm_store_uri(store)))
        return PLM_OK;
    return plm_fail(err, PLM_ARG, "%s: the location of a table must be UTF-8, or Lance cannot open it", plm_store_uri(store));
}

enum plm_code plm_find_tag(struct plm_ctx *ctx, const struct plm_table_ref *ref, const char *tag, uint64_t *version,
                           char **branch, struct plm_err *err)
{
    struct plm_store *store = NULL;
    char *on = NULL, *copy = NULL; /* the caller frees without a context */
    uint64_t found;
    enum plm_code rc = PLM_OK;

    if (!ref || !ref->uri || !*ref->uri || !tag)
        return plm_fail(err, PLM_ARG, "no table or tag given");
    PLM_TRY(plm_store_open(ctx, ref->uri, ref->storage_options, &store, err));
    PLM_TRY(plm_tag_resolve(store, tag, &found, &on, err));
    if (on && !(copy = strdup(on)))
        PLM_TRY(plm_fail(err, PLM_NOMEM, "out of memory"));
    *version = found;
    *branch = copy;
done:
    plm_free(ctx, on);
    plm_store_close(store);
    return rc;
}

enum plm_code plm_table_open(struct plm_ctx *ctx, const struct plm_table_ref *ref,
                             struct plm_table *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_table table = {0};

    if (!ref || !ref->uri || !*ref->uri)
        return plm_fail(err, PLM_ARG, "no table given");
    PLM_TRY(plm_store_open(ctx, ref->uri, ref->storage_options, &table.store, err));
    PLM_TRY(plm_table_check_location(table.store, err));
    PLM_TRY(plm_manifest_open(table.store, ref->branch, ref->version, &table.manifest, err));
    *out = table;
    memset(&table, 0, sizeof(table));
done:
    plm_table_close(&table);
    return rc;
}

void plm_table_close(struct plm_table *table)
{
    if (table->manifest.ctx)
        plm_manifest_reset(&table->manifest);
    plm_store_close(table->store);
    memset(table, 0, sizeof(*table));
}
