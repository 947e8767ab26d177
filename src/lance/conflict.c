/* conflict.c - may an index built on version r be committed after what came since?
 *
 * The table is lance-format.md 1.8. Transactions tell what was meant; comparing the data
 * files of the two versions then catches whatever replaced the vectors without saying so.
 */
#include "lance/commit_impl.h"

#include <stdlib.h>

enum operation {
    OP_APPEND = 100, OP_DELETE, OP_OVERWRITE, OP_CREATE_INDEX, OP_REWRITE, OP_MERGE, OP_RESTORE,
    OP_RESERVE_FRAGMENTS, OP_UPDATE, OP_PROJECT, OP_UPDATE_CONFIG, OP_DATA_REPLACEMENT,
    OP_UPDATE_MEM_WAL, OP_CLONE, OP_UPDATE_BASES
};
#define UPDATE_MODE_COLUMNS 1u

/* ---- our fragments ----------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static enum plm_code check_segment(const struct plm_new_segment *segment, struct plm_err *err)
{
    for (size_t i = 1; i < segment->n_fragments; i++) {
        if (segment->fragments[i] <= segment->fragments[i - 1])
            return plm_fail(err, PLM_ARG, "commit: a segment's fragments are not ascending");
    }
    return PLM_OK;
}

enum plm_code plm_cover_init(struct plm_ctx *ctx, const struct plm_commit_request *request,
                             struct plm_cover *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_cover cover = {.ctx = ctx};
    size_t n = 0;

    for (size_t i = 0; i < request->n_segments; i++) {
        PLM_TRY(check_segment(&request->segments[i], err));
        n += request->segments[i].n_fragments;
    }
    PLM_TRY(plm_alloc(ctx, &cover.ids, n, sizeof *cover.ids, err));
    PLM_TRY(plm_calloc(ctx, &cover.is_rewritten, n, sizeof *cover.is_rewritten, err));
    for (size_t i = 0; i < request->n_segments; i++) {
        for (size_t j = 0; j < request->segments[i].n_fragments; j++)
            cover.ids[cover.n++] = request->segments[i].fragments[j];
    }
    qsort(cover.ids, cover.n, sizeof *cover.ids, by_id);
    for (size_t i = 1; i < cover.n; i++) {
        if (cover.ids[i] == cover.ids[i - 1])
            PLM_TRY(plm_fail(err, PLM_ARG, "commit: fragment %" PRIu32 " is in two segments",
                             cover.ids[i]));
    }
    *out = cover;
    cover = (struct plm_cover){0};
done:
    plm_cover_reset(&cover);
    return rc;
}

void plm_cover_reset(struct plm_cover *cover)
{
    if (cover->ctx) {
        plm_free(cover->ctx, cover->ids);
        plm_free(cover->ctx, cover->is_rewritten);
    }
    *cover = (struct plm_cover){0};
}

size_t plm_cover_find(const struct plm_cover *cover, uint64_t fragment_id)
{
    size_t low = 0, high = cover->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (cover->ids[middle] < fragment_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < cover->n && cover->ids[low] == fragment_id ? low : SIZE_MAX;
}

/* ---- the data files of two versions ------------------------------------------------- */

/* Where a fragment keeps a field; file NULL = nowhere, all null. */
struct column_place {
    const struct plm_data_file *file;
    int32_t column;
};

static struct column_place find_place(const struct plm_fragment *fragment, int32_t field_id)
{
    for (size_t f = 0; f < fragment->n_files; f++) {
        const struct plm_data_file *file = &fragment->files[f];

        for (size_t i = 0; i < file->n_columns; i++) {
            if (file->field_ids[i] == field_id)
                return (struct column_place){file, file->column_indices[i]};
        }
    }
    return (struct column_place){0};
}

static bool same_place(struct column_place a, struct column_place b)
{
    if (!a.file || !b.file)
        return a.file == b.file;
    return a.column == b.column && a.file->base_id == b.file->base_id &&
           strcmp(a.file->path, b.file->path) == 0;
}

enum plm_code plm_cover_compare(struct plm_cover *cover, const struct plm_manifest *before,
                                const struct plm_manifest *after, int32_t field_id,
                                struct plm_err *err)
{
    struct column_place *old;
    bool *was_there;
    enum plm_code rc = plm_alloc(cover->ctx, &old, cover->n, sizeof *old, err);

    if (rc != PLM_OK)
        return rc;
    rc = plm_calloc(cover->ctx, &was_there, cover->n, sizeof *was_there, err);
    if (rc != PLM_OK) {
        plm_free(cover->ctx, old);
        return rc;
    }
    for (size_t i = 0; i < before->n_fragments; i++) {
        size_t at = plm_cover_find(cover, before->fragments[i].id);

        if (at != SIZE_MAX) {
            old[at] = find_place(&before->fragments[i], field_id);
            was_there[at] = true;
        }
    }
    for (size_t i = 0; i < after->n_fragments; i++) {
        size_t at = plm_cover_find(cover, after->fragments[i].id);

        if (at != SIZE_MAX && was_there[at] &&
            !same_place(old[at], find_place(&after->fragments[i], field_id)))
            cover->is_rewritten[at] = true;
    }
    plm_free(cover->ctx, was_there);
    plm_free(cover->ctx, old);
    return PLM_OK;
}

/* ---- one transaction ------------------------------------------------------------------ */

/* Everything the checks of one operation need. */
struct check {
    const struct plm_commit_request *request;
    struct plm_cover *cover;
    uint64_t version;
    bool has_fragment_reuse;
};

static enum plm_code fragment_id_of(struct plm_view fragment, uint64_t *id, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *id = 0; /* absent means 0 */
    PLM_PB_EACH(fragment) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_u64(&field, id, err));
    }
done:
    return rc;
}

/* A list of field ids or fragment ids, packed or not, has this value in it. */
static enum plm_code list_has(struct plm_ctx *ctx, const struct plm_pb_field *field, uint64_t value,
                              bool *found, struct plm_err *err)
{
    struct plm_u64s list = {0};
    enum plm_code rc = plm_pb_repeated_u64(ctx, field, field->whole.len, &list, err);

    for (size_t i = 0; rc == PLM_OK && i < list.n; i++)
        *found = *found || list.items[i] == value;
    plm_u64s_reset(ctx, &list);
    return rc;
}

static enum plm_code index_name_of(struct plm_view index, struct plm_view *name,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *name = (struct plm_view){0};
    PLM_PB_EACH(index) {
        if (field.number == 3)
            PLM_TRY(plm_pb_get_view(&field, name, err));
    }
done:
    return rc;
}

/* Indexes it added clash by name; a mere drop leaves nothing that we could clash with. */
static enum plm_code check_create_index(const struct check *c, struct plm_view body,
                                        struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t len = strlen(c->request->index_name);

    PLM_PB_EACH(body) {
        struct plm_view index, name;

        if (field.number != 1)
            continue;
        PLM_TRY(plm_pb_get_view(&field, &index, err));
        PLM_TRY(index_name_of(index, &name, err));
        if (name.len == len && memcmp(name.data, c->request->index_name, len) == 0)
            PLM_TRY(plm_fail(err, PLM_CONFLICT,
                             "version %" PRIu64 " has built the index '%.200s' in the meantime;"
                             " build again", c->version, c->request->index_name));
    }
done:
    return rc;
}

static enum plm_code check_rewritten_fragment(const struct check *c, struct plm_view fragment,
                                              struct plm_err *err)
{
    uint64_t id;
    enum plm_code rc = fragment_id_of(fragment, &id, err);

    if (rc == PLM_OK && plm_cover_find(c->cover, id) != SIZE_MAX)
        rc = plm_fail(err, PLM_CONFLICT,
                      "version %" PRIu64 " has compacted fragment %" PRIu64
                      ", which the index covers%s; build again", c->version, id,
                      c->has_fragment_reuse
                          ? " (deferred through a fragment-reuse index, which pilum does not follow)"
                          : "");
    return rc;
}

/* Old fragments stand in field 1 of each group; very old writers put them in field 1 of the
 * operation itself. */
static enum plm_code check_rewrite(const struct check *c, struct plm_view body, bool is_group,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(body) {
        struct plm_view view;

        if (field.number != 1 && (is_group || field.number != 3))
            continue;
        PLM_TRY(plm_pb_get_view(&field, &view, err));
        if (field.number == 1)
            PLM_TRY(check_rewritten_fragment(c, view, err));
        else
            PLM_TRY(check_rewrite(c, view, true, err));
    }
done:
    return rc;
}

static enum plm_code mark_rewritten(const struct check *c, struct plm_view fragment,
                                    struct plm_err *err)
{
    uint64_t id;
    enum plm_code rc = fragment_id_of(fragment, &id, err);
    size_t at = rc == PLM_OK ? plm_cover_find(c->cover, id) : SIZE_MAX;

    if (at != SIZE_MAX)
        c->cover->is_rewritten[at] = true;
    return rc;
}

/* Did the update rewrite our column in place? (The other kind moves rows to new fragments,
 * which does no harm.) Only that kind lists columns; its mode may be left out all the same,
 * as pylance 14.0.2 does, and where it is given the list may be missing. */
static enum plm_code updates_in_place(const struct check *c, struct plm_view body, bool *out,
                                      struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t mode = 0;
    bool is_ours = false, has_list = false;

    PLM_PB_EACH(body) {
        if (field.number == 7) {
            PLM_TRY(plm_pb_get_u64(&field, &mode, err));
        } else if (field.number == 4) {
            has_list = true;
            PLM_TRY(list_has(c->cover->ctx, &field, (uint64_t)c->request->field_id, &is_ours, err));
        }
    }
    PLM_TRY(rc);
    *out = is_ours || (mode == UPDATE_MODE_COLUMNS && !has_list);
done:
    return rc;
}

static enum plm_code check_update(const struct check *c, struct plm_view body, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    bool is_in_place = false;

    PLM_TRY(updates_in_place(c, body, &is_in_place, err));
    if (!is_in_place)
        return PLM_OK;
    PLM_PB_EACH(body) {
        struct plm_view fragment;

        if (field.number != 2)
            continue;
        PLM_TRY(plm_pb_get_view(&field, &fragment, err));
        PLM_TRY(mark_rewritten(c, fragment, err));
    }
done:
    return rc;
}

/* DataFile: does it hold our field? */
static enum plm_code file_has_field(const struct check *c, struct plm_view file, bool *found,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(file) {
        if (field.number == 2)
            PLM_TRY(list_has(c->cover->ctx, &field, (uint64_t)(int64_t)c->request->field_id, found,
                             err));
    }
done:
    return rc;
}

static enum plm_code check_replacement(const struct check *c, struct plm_view group,
                                       struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t id = 0;
    bool has_field = false;

    PLM_PB_EACH(group) {
        struct plm_view file;

        if (field.number == 1) {
            PLM_TRY(plm_pb_get_u64(&field, &id, err));
        } else if (field.number == 2) {
            PLM_TRY(plm_pb_get_view(&field, &file, err));
            PLM_TRY(file_has_field(c, file, &has_field, err));
        }
    }
    PLM_TRY(rc);
    if (has_field && plm_cover_find(c->cover, id) != SIZE_MAX)
        PLM_TRY(plm_fail(err, PLM_CONFLICT,
                         "version %" PRIu64 " has replaced the indexed column in fragment %" PRIu64
                         "; build again", c->version, id));
done:
    return rc;
}

static enum plm_code check_data_replacement(const struct check *c, struct plm_view body,
                                            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(body) {
        struct plm_view group;

        if (field.number != 1)
            continue;
        PLM_TRY(plm_pb_get_view(&field, &group, err));
        PLM_TRY(check_replacement(c, group, err));
    }
done:
    return rc;
}

enum plm_code plm_conflict_check(const struct plm_commit_request *request, struct plm_cover *cover,
                                 const struct plm_txn *txn, uint64_t version,
                                 bool has_fragment_reuse, struct plm_err *err)
{
    struct check c = {request, cover, version, has_fragment_reuse};

    switch (txn->operation) {
    case OP_APPEND: case OP_DELETE: case OP_MERGE: case OP_RESERVE_FRAGMENTS: case OP_PROJECT:
    case OP_UPDATE_CONFIG: case OP_CLONE: case OP_UPDATE_BASES:
        return PLM_OK;
    case OP_CREATE_INDEX: return check_create_index(&c, txn->body, err);
    case OP_REWRITE: return check_rewrite(&c, txn->body, false, err);
    case OP_UPDATE: return check_update(&c, txn->body, err);
    case OP_DATA_REPLACEMENT: return check_data_replacement(&c, txn->body, err);
    case OP_OVERWRITE:
        return plm_fail(err, PLM_CONFLICT, "version %" PRIu64 " has overwritten the table", version);
    case OP_RESTORE:
        return plm_fail(err, PLM_CONFLICT, "version %" PRIu64 " has restored an older version",
                        version);
    case OP_UPDATE_MEM_WAL:
        return plm_fail(err, PLM_CONFLICT,
                        "version %" PRIu64 " has changed the state of a MemWAL; build again", version);
    default:
        return plm_fail(err, PLM_CONFLICT,
                        "version %" PRIu64 " was made by an operation that pilum does not know"
                        " (number %" PRIu32 "); build again", version, txn->operation);
    }
}
