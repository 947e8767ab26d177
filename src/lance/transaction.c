/* transaction.c - read what made a version, write what makes ours. */
#include "lance/commit_impl.h"

#define OPERATION_FIRST 100u /* field numbers from here on belong to the oneof */

enum plm_code plm_txn_parse(struct plm_view message, struct plm_txn *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_txn txn = {0};
    struct plm_view uuid = {0};
    unsigned n_operations = 0;

    if (message.len == 0)
        return plm_fail(err, PLM_CORRUPT, "transaction is empty");
    PLM_PB_EACH(message) {
        if (field.number == 1) {
            PLM_TRY(plm_pb_get_u64(&field, &txn.read_version, err));
        } else if (field.number == 2) {
            PLM_TRY(plm_pb_get_view(&field, &uuid, err));
        } else if (field.number >= OPERATION_FIRST) {
            PLM_TRY(plm_pb_get_view(&field, &txn.body, err));
            txn.operation = n_operations++ ? 0 : field.number;
        }
    }
    PLM_TRY(rc);
    if (uuid.len != 36)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "transaction's uuid has %zu characters, expected 36",
                         uuid.len));
    memcpy(txn.uuid, uuid.data, 36);
    *out = txn;
done:
    return rc;
}

void plm_txn_reset(struct plm_txn *txn)
{
    plm_buf_reset(&txn->file);
    *txn = (struct plm_txn){0};
}

/* Where a manifest says its transaction is. */
struct txn_place {
    uint64_t inline_old_at, inline_at; /* UINT64_MAX = none */
    struct plm_view file_name;
};

static enum plm_code find_place(struct plm_view manifest, struct txn_place *out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view message;

    *out = (struct txn_place){.inline_old_at = UINT64_MAX, .inline_at = UINT64_MAX};
    PLM_TRY(plm_manifest_split(manifest, &message, err));
    PLM_PB_EACH(message) {
        if (field.number == 12)
            PLM_TRY(plm_pb_get_view(&field, &out->file_name, err));
        else if (field.number == 21)
            PLM_TRY(plm_pb_get_u64(&field, &out->inline_old_at, err));
        else if (field.number == 23)
            PLM_TRY(plm_pb_get_u64(&field, &out->inline_at, err));
    }
    PLM_TRY(rc);
    if (out->inline_at == UINT64_MAX)
        out->inline_at = out->inline_old_at;
done:
    return rc;
}

static enum plm_code read_txn_file(struct plm_store *store, struct plm_view name,
                                   struct plm_txn *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    struct plm_buf file;
    struct plm_txn txn = {0};
    char *path = NULL;

    if (memchr(name.data, 0, name.len))
        return plm_fail(err, PLM_CORRUPT, "transaction file's name has a NUL in it");
    plm_buf_init(&file, ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_format(ctx, &path, err, PLM_TRANSACTIONS_DIR "/%.*s",
                       (int)plm_min_size(name.len, 4096), (const char *)name.data));
    PLM_TRY(plm_store_get(store, path, &file, err));
    rc = plm_txn_parse((struct plm_view){file.data, file.len}, &txn, err);
    if (rc != PLM_OK)
        PLM_TRY(plm_wrap(err, rc, "%s/%s", plm_store_uri(store), path));
    txn.file = file;
    plm_buf_init(&file, ctx, 0);
    *out = txn;
done:
    plm_buf_reset(&file);
    plm_free(ctx, path);
    return rc;
}

enum plm_code plm_txn_of_manifest(struct plm_store *store, struct plm_view manifest,
                                  struct plm_txn *out, struct plm_err *err)
{
    struct txn_place place;
    struct plm_view message;
    enum plm_code rc = find_place(manifest, &place, err);

    if (rc != PLM_OK)
        return rc;
    if (place.inline_at != UINT64_MAX) {
        rc = plm_manifest_section(manifest, place.inline_at, "inline transaction", &message, err);
        if (rc == PLM_OK)
            rc = plm_txn_parse(message, out, err);
        /* A writer that keeps unknown fields may have carried an old offset along. */
        if (rc != PLM_CORRUPT || place.file_name.len == 0)
            return rc;
    }
    if (place.file_name.len == 0)
        return plm_fail(err, PLM_NOT_FOUND, "no transaction is recorded");
    return read_txn_file(store, place.file_name, out, err);
}

enum plm_code plm_txn_write(const struct plm_commit_request *request, const struct plm_view *added,
                            size_t n_added, const struct plm_view *removed, size_t n_removed,
                            struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf operation;
    char uuid[37];

    plm_buf_init(&operation, buf->ctx, PLM_MANIFEST_BYTES_MAX);
    plm_uuid_text(request->transaction_uuid, uuid);
    for (size_t i = 0; i < n_added; i++)
        PLM_TRY(plm_pb_put_bytes(&operation, 1, added[i].data, added[i].len, err));
    for (size_t i = 0; i < n_removed; i++)
        PLM_TRY(plm_pb_put_bytes(&operation, 2, removed[i].data, removed[i].len, err));
    PLM_TRY(plm_pb_put_u64(buf, 1, request->read_version, err));
    PLM_TRY(plm_pb_put_str(buf, 2, uuid, err));
    PLM_TRY(plm_pb_put_message(buf, 103, &operation, err));
done:
    plm_buf_reset(&operation);
    return rc;
}
