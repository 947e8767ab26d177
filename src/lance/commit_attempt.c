/* commit_attempt.c - the next version: its index entries, its transaction, its manifest. */
#include "lance/commit_impl.h"
#include "lance/rowmap.h"

static enum plm_code check_file(struct plm_commit *c, const struct plm_entries *files, const char *dir,
                                const char *name, uint64_t expected_bytes, struct plm_err *err)
{
    const char *root = plm_store_uri(c->latest.store);

    for (size_t i = 0; i < files->n; i++) {
        const struct plm_entry *file = &files->items[i];

        if (file->is_dir || strcmp(file->name, name) != 0)
            continue;
        if (file->size_bytes == expected_bytes)
            return PLM_OK;
        return plm_fail(err, PLM_CORRUPT, "%s/%s/%s is %" PRIu64 " bytes long, expected %" PRIu64, root,
                        dir, name, file->size_bytes, expected_bytes);
    }
    return plm_fail(err, PLM_NOT_FOUND, "%s/%s/%s is not there", root, dir, name);
}

/* The index files are there and as long as they should be: one listing for each segment. */
static enum plm_code check_segment(struct plm_commit *c, const struct plm_new_segment *segment,
                                   struct plm_err *err)
{
    char uuid[37], dir[PLM_COMMIT_PATH_BYTES];
    struct plm_entries files = {0};
    enum plm_code rc = PLM_OK;

    plm_uuid_text(segment->uuid, uuid);
    snprintf(dir, sizeof dir, "_indices/%s", uuid);
    PLM_TRY(plm_store_list(c->latest.store, dir, 0, &files, err));
    PLM_TRY(check_file(c, &files, dir, "auxiliary.idx", segment->auxiliary_bytes, err));
    PLM_TRY(check_file(c, &files, dir, "index.idx", segment->index_bytes, err));
done:
    plm_entries_reset(&files);
    return rc;
}

enum plm_code plm_commit_check_files(struct plm_commit *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < c->request->n_segments; i++)
        PLM_TRY(check_segment(c, &c->request->segments[i], err));
done:
    return rc;
}

/* The fragments of the segment whose vectors are still the ones indexed. Dead fragments stay. */
static enum plm_code put_bitmap(struct plm_commit *c, const struct plm_new_segment *segment,
                                struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf bitmap;
    uint32_t *ids = NULL;
    size_t n = 0;

    plm_buf_init(&bitmap, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_alloc(c->ctx, &ids, segment->n_fragments, sizeof *ids, err));
    for (size_t i = 0; i < segment->n_fragments; i++) {
        if (!c->cover.is_rewritten[plm_cover_find(&c->cover, segment->fragments[i])])
            ids[n++] = segment->fragments[i];
    }
    PLM_TRY(plm_bitmap_encode(ids, n, &bitmap, err));
    PLM_TRY(plm_pb_put_bytes(buf, 5, bitmap.data, bitmap.len, err));
done:
    plm_free(c->ctx, ids);
    plm_buf_reset(&bitmap);
    return rc;
}

static enum plm_code put_file(struct plm_buf *buf, const char *name, uint64_t size_bytes,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf message;

    plm_buf_init(&message, buf->ctx, 256);
    PLM_TRY(plm_pb_put_str(&message, 1, name, err));
    PLM_TRY(plm_pb_put_u64(&message, 2, size_bytes, err));
    PLM_TRY(plm_pb_put_message(buf, 10, &message, err));
done:
    plm_buf_reset(&message);
    return rc;
}

/* The IndexMetadata of a segment. */
static enum plm_code put_index_meta(struct plm_commit *c, const struct plm_new_segment *segment,
                                    struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_commit_request *r = c->request;
    uint64_t field_id = (uint64_t)r->field_id;
    struct plm_buf message;

    plm_buf_init(&message, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_pb_put_bytes(&message, 1, segment->uuid, 16, err));
    PLM_TRY(plm_pb_put_message(buf, 1, &message, err));
    PLM_TRY(plm_pb_put_packed(buf, 2, &field_id, 1, err));
    PLM_TRY(plm_pb_put_str(buf, 3, r->index_name, err));
    PLM_TRY(plm_pb_put_u64(buf, 4, r->read_version, err));
    PLM_TRY(put_bitmap(c, segment, buf, err));
    message.len = 0;
    PLM_TRY(plm_pb_put_str(&message, 1, "/lance.index.pb.VectorIndexDetails", err));
    PLM_TRY(plm_pb_put_bytes(&message, 2, r->details.data, r->details.len, err));
    PLM_TRY(plm_pb_put_message(buf, 6, &message, err));
    PLM_TRY(plm_pb_put_u64(buf, 7, 1, err));
    PLM_TRY(plm_pb_put_u64(buf, 8, r->created_at_ms, err));
    PLM_TRY(put_file(buf, "auxiliary.idx", segment->auxiliary_bytes, err));
    PLM_TRY(put_file(buf, "index.idx", segment->index_bytes, err));
done:
    plm_buf_reset(&message);
    return rc;
}

/* Puts the next version's two objects; the first is only a record until the second is in. */
static enum plm_code put_version(struct plm_commit *c, const struct plm_view *added,
                                 const struct plm_buf *txn, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *store = c->latest.store;
    bool has_file = !(c->latest.writer_flags & PLM_FLAG_NO_TXN_FILE);
    char name[40], path[PLM_COMMIT_PATH_BYTES];
    struct plm_buf manifest;

    plm_buf_init(&manifest, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_manifest_next(&c->latest, c->request->index_name, added, c->request->n_segments,
                              (struct plm_view){txn->data, txn->len},
                              has_file ? c->txn_file : NULL, &manifest, err));
    if (has_file) {
        snprintf(path, sizeof path, PLM_TRANSACTIONS_DIR "/%s", c->txn_file);
        c->wrote_txn_file = true; /* even if the answer is lost */
        PLM_TRY(plm_store_put_probing(store, path, txn->data, txn->len, err));
    }
    plm_manifest_file_name(c->latest.version + 1, c->latest.is_v1_naming, name);
    snprintf(path, sizeof path, PLM_VERSIONS_DIR "/%s", name);
    c->asked_for_manifest = true;
    PLM_TRY(plm_store_put_if_absent(store, path, manifest.data, manifest.len, err));
done:
    plm_buf_reset(&manifest);
    return rc;
}

enum plm_code plm_commit_attempt(struct plm_commit *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_segments = c->request->n_segments, n_removed = 0;
    struct plm_buf *metas = NULL, txn;
    struct plm_view *added = NULL, *removed = NULL;

    plm_buf_init(&txn, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_flags_check(c->latest.writer_flags, "writer", err));
    PLM_TRY(plm_alloc(c->ctx, &added, n_segments, sizeof *added, err));
    PLM_TRY(plm_alloc(c->ctx, &removed, c->latest.n_indices, sizeof *removed, err));
    PLM_TRY(plm_calloc(c->ctx, &metas, n_segments, sizeof *metas, err));
    for (size_t i = 0; i < n_segments; i++) {
        plm_buf_init(&metas[i], c->ctx, PLM_MANIFEST_BYTES_MAX);
        PLM_TRY(put_index_meta(c, &c->request->segments[i], &metas[i], err));
        added[i] = (struct plm_view){metas[i].data, metas[i].len};
    }
    for (size_t i = 0; i < c->latest.n_indices; i++) {
        if (strcmp(c->latest.indices[i].name, c->request->index_name) == 0)
            removed[n_removed++] = c->latest.indices[i].raw;
    }
    PLM_TRY(plm_txn_write(c->request, added, n_segments, removed, n_removed, &txn, err));
    PLM_TRY(put_version(c, added, &txn, err));
done:
    for (size_t i = 0; metas && i < n_segments; i++)
        plm_buf_reset(&metas[i]);
    plm_free(c->ctx, metas);
    plm_free(c->ctx, removed);
    plm_free(c->ctx, added);
    plm_buf_reset(&txn);
    return rc;
}
