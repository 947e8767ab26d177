/* file_descriptor.c - the schema that a Lance file has of its own: names, types, columns, metadata. */
#include "lance/datafile_impl.h"
#include "lance/wire_get.h"

/* Field: 2 name, 3 id, 4 parent id, 5 logical type. */
static enum plm_code parse_field(struct plm_view message, struct plm_file_field *out,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t id = 0, parent = 0;

    PLM_TRY(plm_msg_bytes(message, 2, &out->name, NULL, err));
    PLM_TRY(plm_msg_u64(message, 3, &id, err));
    PLM_TRY(plm_msg_u64(message, 4, &parent, err));
    PLM_TRY(plm_msg_bytes(message, 5, &out->logical_type, NULL, err));
    out->id = (int32_t)(uint32_t)id;
    out->parent_id = (int32_t)(uint32_t)parent;
done:
    return rc;
}

/* Since 2.1 only leaves have a column; in 2.0 every field has one. Fields come depth first,
 * so a parent is followed by its first child. */
static void number_columns(struct plm_datafile *file)
{
    uint32_t column = 0;
    for (size_t i = 0; i < file->n_fields; i++) {
        struct plm_file_field *field = &file->fields[i];
        bool is_parent = i + 1 < file->n_fields && field[1].parent_id == field->id;
        field->has_column = (file->minor == 0 || !is_parent) && column < file->n_columns;
        field->column = column;
        column += field->has_column;
    }
}

/* How many fields and metadata entries a Schema message has. */
static enum plm_code count_schema(struct plm_view schema, size_t *n_fields, size_t *n_entries,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(schema) {
        if (field.number != 1 && field.number != 5)
            continue;
        PLM_TRY(plm_pb_expect(&field, 2, err));
        *n_fields += field.number == 1;
        *n_entries += field.number == 5;
    }
done:
    return rc;
}

/* Schema: 1 repeated Field, 5 map of metadata. Counted before, so there is room. */
static enum plm_code parse_schema(struct plm_datafile *file, struct plm_view schema,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(schema) {
        if (field.number == 1) {
            PLM_TRY(parse_field(field.bytes, &file->fields[file->n_fields], err));
            file->n_fields++;
        } else if (field.number == 5) {
            struct plm_file_entry *entry = &file->metadata[file->n_metadata];
            PLM_TRY(plm_msg_bytes(field.bytes, 1, &entry->key, NULL, err));
            PLM_TRY(plm_msg_bytes(field.bytes, 2, &entry->value, NULL, err));
            file->n_metadata++;
        }
    }
done:
    return rc;
}

/* Ends a string of the parsed descriptor with NUL. The byte behind a string is the tag of a
 * field that has been read, or the spare byte at the end. */
static void terminate(struct plm_datafile *file, struct plm_view *text)
{
    static const uint8_t nothing[1] = "";
    if (text->data)
        file->descriptor[text->data - file->descriptor + (ptrdiff_t)text->len] = 0;
    else
        text->data = nothing;
}

/* FileDescriptor: 1 Schema, 2 number of rows. */
static enum plm_code parse_descriptor(struct plm_datafile *file, size_t len, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view message = {file->descriptor, len}, schema = {0};
    size_t n_fields = 0, n_entries = 0;

    PLM_TRY(plm_msg_bytes(message, 1, &schema, NULL, err));
    PLM_TRY(plm_msg_u64(message, 2, &file->n_rows, err));
    if (!schema.data)
        return PLM_OK;
    PLM_TRY(count_schema(schema, &n_fields, &n_entries, err));
    PLM_TRY(plm_calloc(file->ctx, &file->fields, n_fields, sizeof *file->fields, err));
    PLM_TRY(plm_calloc(file->ctx, &file->metadata, n_entries, sizeof *file->metadata, err));
    PLM_TRY(parse_schema(file, schema, err));
    for (size_t i = 0; i < file->n_fields; i++) {
        terminate(file, &file->fields[i].name);
        terminate(file, &file->fields[i].logical_type);
    }
    number_columns(file);
done:
    return rc;
}

enum plm_code plm_descriptor_read(struct plm_datafile *file, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_span span = {0};

    if (file->n_buffers == 0)
        return plm_fail(err, PLM_CORRUPT, "%s: no global buffers, hence no file descriptor",
                        plm_file_name(file->file));
    PLM_TRY(plm_footer_entry(file, file->buffer_table_at, 0, "global buffer", &span, err));
    PLM_TRY(plm_alloc(file->ctx, &file->descriptor, (size_t)span.size + 1, 1, err));
    PLM_TRY(plm_footer_meta(file, span.offset, (size_t)span.size, file->descriptor, err));
    rc = parse_descriptor(file, (size_t)span.size, err);
    if (rc != PLM_OK)
        rc = plm_wrap(err, rc, "%s: file descriptor at offset %" PRIu64,
                      plm_file_name(file->file), span.offset);
done:
    return rc;
}
