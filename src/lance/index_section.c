/* index_section.c - the indexes of a version: IndexSection and IndexMetadata. */
#include "lance/manifest_impl.h"
#include "lance/rowmap.h"

/* More fragment numbers than this in one bitmap is damage or an attack, not a table. */
#define BITMAP_FRAGMENTS_MAX ((size_t)1 << 24)

static enum plm_code read_uuid(struct plm_view message, uint8_t uuid[16], struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view bytes = {0};

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_view(&field, &bytes, err));
    }
    PLM_TRY(rc);
    if (bytes.len != 16)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "uuid of %zu bytes, expected 16", bytes.len));
    memcpy(uuid, bytes.data, 16);
done:
    return rc;
}

static enum plm_code read_details(struct plm_manifest *m, struct plm_view message,
                                  struct plm_index_meta *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_text(m, &field, &out->details_url, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_view(&field, &out->details, err));
    }
done:
    return rc;
}

static enum plm_code read_index_file(struct plm_manifest *m, struct plm_view message,
                                     struct plm_index_file *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_text(m, &field, &out->path, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_u64(&field, &out->size_bytes, err));
    }
    PLM_TRY(rc);
    if (!out->path)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "a file without a name"));
done:
    return rc;
}

/* Moves the decoded list into the arena, so that the manifest frees in one place. */
static enum plm_code read_bitmap(struct plm_manifest *m, struct plm_view bytes,
                                 struct plm_index_meta *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t *values = NULL;
    size_t n = 0;

    PLM_TRY(plm_bitmap_decode(m->ctx, bytes, BITMAP_FRAGMENTS_MAX, &values, &n, err));
    PLM_TRY(plm_arena_alloc(m->ctx, &m->arena, &out->fragments, n, sizeof *values, err));
    if (n)
        memcpy(out->fragments, values, n * sizeof *values);
    out->n_fragments = n;
    out->has_bitmap = true;
done:
    plm_free(m->ctx, values);
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "fragment bitmap");
}

static enum plm_code read_index_field(struct plm_manifest *m, const struct plm_pb_field *field,
                                      struct plm_index_meta *out, struct plm_u64s *ids,
                                      struct plm_err *err)
{
    struct plm_view view = {0};
    uint32_t base;
    enum plm_code rc = PLM_OK;

    switch (field->number) {
    case 2: return plm_pb_repeated_u64(m->ctx, field, out->raw.len, ids, err);
    case 3: return plm_pb_get_text(m, field, &out->name, err);
    case 4: return plm_pb_get_u64(field, &out->dataset_version, err);
    case 7: return plm_pb_get_i32(field, &out->index_version, err);
    case 8: return plm_pb_get_u64(field, &out->created_at_ms, err);
    case 9:
        PLM_TRY(plm_pb_get_u32(field, &base, err));
        out->base_id = base;
        return PLM_OK;
    case 1: case 5: case 6: case 10: break;
    default: return PLM_OK;
    }
    PLM_TRY(plm_pb_get_view(field, &view, err));
    switch (field->number) {
    case 1: return read_uuid(view, out->uuid, err);
    case 5: return read_bitmap(m, view, out, err);
    case 6: return read_details(m, view, out, err);
    default: return read_index_file(m, view, &out->files[out->n_files++], err);
    }
done:
    return rc;
}

static enum plm_code read_index(struct plm_manifest *m, struct plm_index_meta *out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_u64s ids = {0};
    bool has_uuid = false;
    size_t n_files;

    out->base_id = -1;
    PLM_TRY(plm_pb_count(out->raw, 10, &n_files, err));
    PLM_TRY(plm_arena_alloc(m->ctx, &m->arena, &out->files, n_files, sizeof *out->files, err));
    PLM_PB_EACH(out->raw) {
        has_uuid = has_uuid || field.number == 1;
        PLM_TRY(read_index_field(m, &field, out, &ids, err));
    }
    PLM_TRY(rc);
    if (!has_uuid || !out->name)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "no %s", has_uuid ? "name" : "uuid"));
    out->n_fields = ids.n;
    PLM_TRY(plm_pb_get_i32s(m, &ids, &out->field_ids, err));
done:
    plm_u64s_reset(m->ctx, &ids);
    if (rc != PLM_OK)
        return plm_wrap(err, rc, "index '%.100s'", out->name ? out->name : "");
    return rc;
}

enum plm_code plm_index_section_read(struct plm_manifest *manifest, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n;

    if (!manifest->index_section.data)
        return PLM_OK;
    PLM_TRY(plm_pb_count(manifest->index_section, 1, &n, err));
    PLM_TRY(plm_arena_alloc(manifest->ctx, &manifest->arena, &manifest->indices, n,
                            sizeof *manifest->indices, err));
    PLM_PB_EACH(manifest->index_section) {
        if (field.number != 1)
            continue;
        struct plm_index_meta *index = &manifest->indices[manifest->n_indices++];

        PLM_TRY(plm_pb_get_view(&field, &index->raw, err));
        PLM_TRY(read_index(manifest, index, err));
    }
done:
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "index section");
}
