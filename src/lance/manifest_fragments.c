/* manifest_fragments.c - the DataFragment messages: files of rows, deletions, row ids. */
#include "lance/manifest_impl.h"

#include <stdlib.h>

static enum plm_code read_base_id(const struct plm_pb_field *field, int64_t *out,
                                  struct plm_err *err)
{
    uint32_t id;
    enum plm_code rc = plm_pb_get_u32(field, &id, err);

    if (rc == PLM_OK)
        *out = id;
    return rc;
}

static enum plm_code finish_data_file(struct plm_parse *p, struct plm_data_file *out,
                                      struct plm_err *err)
{
    const struct plm_u64s *columns = &p->columns;
    enum plm_code rc;

    plm_settle_file_version(&out->major, &out->minor);
    if (!out->path)
        return plm_fail(err, PLM_CORRUPT, "a data file without a name");
    if (out->major < 2 && columns->n == 0)
        columns = &p->fields; /* legacy files know columns by their fields */
    if (p->fields.n != columns->n)
        return plm_fail(err, PLM_CORRUPT, "data file %s has %zu field ids and %zu column numbers",
                        out->path, p->fields.n, columns->n);
    out->n_columns = p->fields.n;
    rc = plm_pb_get_i32s(p->m, &p->fields, &out->field_ids, err);
    return rc != PLM_OK ? rc : plm_pb_get_i32s(p->m, columns, &out->column_indices, err);
}

static enum plm_code read_data_file(struct plm_parse *p, struct plm_view message,
                                    struct plm_data_file *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    out->base_id = PLM_NO_BASE;
    p->fields.n = p->columns.n = 0;
    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_text(p->m, &field, &out->path, err)); break;
        case 2:
            PLM_TRY(plm_pb_repeated_u64(p->m->ctx, &field, message.len, &p->fields, err));
            break;
        case 3:
            PLM_TRY(plm_pb_repeated_u64(p->m->ctx, &field, message.len, &p->columns, err));
            break;
        case 4: PLM_TRY(plm_pb_get_u32(&field, &out->major, err)); break;
        case 5: PLM_TRY(plm_pb_get_u32(&field, &out->minor, err)); break;
        case 6: PLM_TRY(plm_pb_get_u64(&field, &out->size_bytes, err)); break;
        case 7: PLM_TRY(read_base_id(&field, &out->base_id, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    PLM_TRY(finish_data_file(p, out, err));
done:
    return rc;
}

static enum plm_code read_deletion_file(struct plm_view message, struct plm_deletion_file *out,
                                        struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t type = 0;

    *out = (struct plm_deletion_file){.present = true, .base_id = PLM_NO_BASE};
    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_u32(&field, &type, err)); break;
        case 2: PLM_TRY(plm_pb_get_u64(&field, &out->read_version, err)); break;
        case 3: PLM_TRY(plm_pb_get_u64(&field, &out->id, err)); break;
        case 4: PLM_TRY(plm_pb_get_u64(&field, &out->n_deleted, err)); break;
        case 7: PLM_TRY(read_base_id(&field, &out->base_id, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (type > 1)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "deletion file of type %" PRIu32 " is not supported",
                         type));
    out->is_bitmap = type == 1;
done:
    return rc;
}

static enum plm_code read_row_id_file(struct plm_parse *p, struct plm_view message,
                                      struct plm_fragment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_text(p->m, &field, &out->row_ids_path, err)); break;
        case 2: PLM_TRY(plm_pb_get_u64(&field, &out->row_ids_offset, err)); break;
        case 3: PLM_TRY(plm_pb_get_u64(&field, &out->row_ids_size, err)); break;
        default: break;
        }
    }
done:
    return rc;
}

static enum plm_code read_fragment_field(struct plm_parse *p, const struct plm_pb_field *field,
                                         struct plm_fragment *out, struct plm_err *err)
{
    struct plm_view view = {0};
    enum plm_code rc = PLM_OK;

    switch (field->number) {
    case 1: return plm_pb_get_u64(field, &out->id, err);
    case 2:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_data_file(p, view, &out->files[out->n_files++], err);
    case 3:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_deletion_file(view, &out->deletion, err);
    case 4: return plm_pb_get_u64(field, &out->n_physical_rows, err);
    case 5: return plm_pb_get_view(field, &out->row_ids_inline, err);
    case 6:
        PLM_TRY(plm_pb_get_view(field, &view, err));
        return read_row_id_file(p, view, out, err);
    case 11: return plm_fail(err, PLM_UNSUPPORTED, "data overlay files are not supported");
    default: return PLM_OK;
    }
done:
    return rc;
}

enum plm_code plm_parse_fragment(struct plm_parse *p, struct plm_view message,
                                 struct plm_fragment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_files;

    out->raw = message;
    out->deletion.base_id = PLM_NO_BASE;
    PLM_TRY(plm_pb_count(message, 2, &n_files, err));
    PLM_TRY(plm_parse_alloc(p, &out->files, n_files, sizeof *out->files, err));
    PLM_PB_EACH(message)
        PLM_TRY(read_fragment_field(p, &field, out, err));
    PLM_TRY(rc);
    if (out->id > UINT32_MAX || out->n_physical_rows > (uint64_t)UINT32_MAX + 1)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "id and %" PRIu64 " rows do not fit 32 bits",
                         out->n_physical_rows));
    if (out->deletion.n_deleted > out->n_physical_rows)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%" PRIu64 " of %" PRIu64 " rows deleted",
                         out->deletion.n_deleted, out->n_physical_rows));
done:
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "fragment %" PRIu64, out->id);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

enum plm_code plm_check_fragment_ids(const struct plm_manifest *m, struct plm_err *err)
{
    enum plm_code rc;
    uint64_t *ids;

    rc = plm_alloc(m->ctx, &ids, m->n_fragments, sizeof *ids, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < m->n_fragments; i++)
        ids[i] = m->fragments[i].id;
    qsort(ids, m->n_fragments, sizeof *ids, by_number);
    for (size_t i = 1; i < m->n_fragments && rc == PLM_OK; i++) {
        if (ids[i] == ids[i - 1])
            rc = plm_fail(err, PLM_CORRUPT, "fragment %" PRIu64 " is listed twice", ids[i]);
    }
    plm_free(m->ctx, ids);
    return rc;
}
