/* datafile.c - opening a Lance file: footer, tables, descriptor, global buffers.
 *
 * The end of the file is read once; in most files it holds everything that opening and the
 * first column need. That copy is dropped with the first checked column, so that a table of
 * many files keeps little more than its page lists.
 */
#include "lance/datafile.h"

#include "lance/page.h"
#include "lance/page_parse.h"

#define TAIL_BYTES ((uint64_t)64 << 10)
#define FOOTER_BYTES 40u
#define ENTRY_BYTES 16u /* position and size in the tables */

/* Do `size` bytes at `offset` lie before the footer? */
static bool is_inside(const struct plm_datafile *file, uint64_t offset, uint64_t size)
{
    uint64_t end = file->size_bytes - FOOTER_BYTES;
    return offset <= end && size <= end - offset;
}

/* Metadata at a checked place, from the tail when it is all there. */
static enum plm_code read_meta(struct plm_datafile *file, uint64_t offset, size_t len, void *dst,
                               struct plm_err *err)
{
    if (len == 0)
        return PLM_OK;
    if (file->tail && offset >= file->tail_at) {
        memcpy(dst, file->tail + (offset - file->tail_at), len);
        return PLM_OK;
    }
    struct plm_queue queue = {0};
    enum plm_code rc = plm_queue_add(file, &queue, offset, len, dst, err);
    return rc == PLM_OK ? plm_queue_flush(file, &queue, err) : rc;
}

/* ---- footer and tables -------------------------------------------------------- */

static enum plm_code check_version(struct plm_datafile *file, unsigned major, unsigned minor,
                                   struct plm_err *err)
{
    if ((major == 0 && minor == 3) || (major == 2 && minor == 0)) {
        file->major = 2, file->minor = 0;
    } else if (major == 2 && (minor == 1 || minor == 2)) {
        file->major = 2, file->minor = minor;
    } else {
        return plm_fail(err, PLM_UNSUPPORTED,
                        "%s: Lance file version %u.%u; this build reads 2.0, 2.1 and 2.2",
                        plm_file_name(file->file), major, minor);
    }
    return PLM_OK;
}

static enum plm_code check_table(const struct plm_datafile *file, const char *what, uint64_t at,
                                 uint32_t n, struct plm_err *err)
{
    if (is_inside(file, at, (uint64_t)n * ENTRY_BYTES))
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT,
                    "%s: %s of %" PRIu32 " entries at offset %" PRIu64
                    " does not fit into %" PRIu64 " bytes",
                    plm_file_name(file->file), what, n, at, file->size_bytes);
}

/* Reads the tail and what its last 40 bytes say. */
static enum plm_code read_footer(struct plm_datafile *file, uint64_t *meta_at, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const char *name = plm_file_name(file->file);

    if (file->size_bytes < FOOTER_BYTES)
        return plm_fail(err, PLM_CORRUPT, "%s: %" PRIu64 " bytes, too short for a Lance file",
                        name, file->size_bytes);
    size_t tail_bytes = (size_t)plm_min_u64(file->size_bytes, TAIL_BYTES);
    file->tail_at = file->size_bytes - tail_bytes;
    PLM_TRY(plm_alloc(file->ctx, &file->tail, tail_bytes, 1, err));
    PLM_TRY(plm_file_read(file->file, file->tail_at, tail_bytes, file->tail, err));

    const uint8_t *footer = file->tail + tail_bytes - FOOTER_BYTES;
    if (memcmp(footer + 36, "LANC", 4) != 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "%s: no \"LANC\" at offset %" PRIu64 ", not a Lance file", name,
                         file->size_bytes - 4));
    PLM_TRY(check_version(file, plm_le16(footer + 32), plm_le16(footer + 34), err));
    *meta_at = plm_le64(footer);
    file->column_table_at = plm_le64(footer + 8);
    file->buffer_table_at = plm_le64(footer + 16);
    file->n_buffers = plm_le32(footer + 24);
    file->n_columns = plm_le32(footer + 28);
    PLM_TRY(check_table(file, "column table", file->column_table_at, file->n_columns, err));
    PLM_TRY(check_table(file, "buffer table", file->buffer_table_at, file->n_buffers, err));
    if (*meta_at > file->column_table_at)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "%s: column metadata begins at %" PRIu64 ", expected at most %" PRIu64
                         ", where the column table begins",
                         name, *meta_at, file->column_table_at));
done:
    return rc;
}

/* Entry `number` of a table, checked against the file. */
static enum plm_code read_entry(struct plm_datafile *file, uint64_t table_at, uint32_t number,
                                const char *what, struct plm_span *out, struct plm_err *err)
{
    uint8_t bytes[ENTRY_BYTES];
    enum plm_code rc = read_meta(file, table_at + (uint64_t)number * ENTRY_BYTES, sizeof bytes,
                                 bytes, err);
    if (rc != PLM_OK)
        return rc;
    struct plm_span span = {plm_le64(bytes), plm_le64(bytes + 8)};
    if (!is_inside(file, span.offset, span.size))
        return plm_fail(err, PLM_CORRUPT,
                        "%s: %s %" PRIu32 " at offset %" PRIu64 " with %" PRIu64
                        " bytes does not fit into %" PRIu64 " bytes",
                        plm_file_name(file->file), what, number, span.offset, span.size,
                        file->size_bytes);
    *out = span;
    return PLM_OK;
}

/* Keeps only the metadata of the tail: pages that happened to be in it can go. */
static enum plm_code trim_tail(struct plm_datafile *file, uint64_t meta_at, struct plm_err *err)
{
    if (meta_at <= file->tail_at || meta_at > file->column_table_at ||
        file->column_table_at > file->buffer_table_at)
        return PLM_OK;
    size_t n = (size_t)(file->size_bytes - meta_at);
    memmove(file->tail, file->tail + (meta_at - file->tail_at), n);
    file->tail_at = meta_at;
    return plm_realloc(file->ctx, &file->tail, n, 1, err);
}

/* ---- descriptor ---------------------------------------------------------------- */

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
    struct plm_pb pb = plm_pb_of(schema);
    struct plm_pb_field field;
    bool more;

    for (;;) {
        PLM_TRY(plm_pb_next(&pb, &field, &more, err));
        if (!more)
            break;
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
    struct plm_pb pb = plm_pb_of(schema);
    struct plm_pb_field field;
    bool more;

    for (;;) {
        PLM_TRY(plm_pb_next(&pb, &field, &more, err));
        if (!more)
            break;
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

static enum plm_code read_descriptor(struct plm_datafile *file, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_span span = {0};

    if (file->n_buffers == 0)
        return plm_fail(err, PLM_CORRUPT, "%s: no global buffers, hence no file descriptor",
                        plm_file_name(file->file));
    PLM_TRY(read_entry(file, file->buffer_table_at, 0, "global buffer", &span, err));
    PLM_TRY(plm_alloc(file->ctx, &file->descriptor, (size_t)span.size + 1, 1, err));
    PLM_TRY(read_meta(file, span.offset, (size_t)span.size, file->descriptor, err));
    rc = parse_descriptor(file, (size_t)span.size, err);
    if (rc != PLM_OK)
        rc = plm_wrap(err, rc, "%s: file descriptor at offset %" PRIu64,
                      plm_file_name(file->file), span.offset);
done:
    return rc;
}

/* ---- the life of a file --------------------------------------------------------- */

static enum plm_code open_file(struct plm_store *store, const char *path, uint64_t size_bytes,
                               bool is_all_wanted, struct plm_datafile **out, struct plm_err *err)
{
    static atomic_uint_fast64_t n_opened; /* only to tell files apart, see plm_datafile.serial */
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    struct plm_datafile *file = NULL;
    uint64_t meta_at = 0;

    PLM_TRY(plm_calloc(ctx, &file, 1, sizeof *file, err));
    file->ctx = ctx;
    file->serial = atomic_fetch_add(&n_opened, 1) + 1;
    PLM_TRY(plm_file_open(store, path, size_bytes, &file->file, err));
    file->size_bytes = plm_file_size(file->file);
    if (is_all_wanted) {
        struct plm_range all = {0, (size_t)plm_min_u64(file->size_bytes, SIZE_MAX), NULL};
        plm_file_expect(file->file, &all, 1);
    }
    PLM_TRY(read_footer(file, &meta_at, err));
    PLM_TRY(read_descriptor(file, err));
    PLM_TRY(trim_tail(file, meta_at, err));
    *out = file;
    file = NULL;
done:
    plm_datafile_close(file);
    return rc;
}

enum plm_code plm_datafile_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                struct plm_datafile **out, struct plm_err *err)
{
    return open_file(store, path, size_bytes, false, out, err);
}

enum plm_code plm_datafile_open_all(struct plm_store *store, const char *path, uint64_t size_bytes,
                                    struct plm_datafile **out, struct plm_err *err)
{
    return open_file(store, path, size_bytes, true, out, err);
}

void plm_datafile_close(struct plm_datafile *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->n_checked; i++)
        plm_free(file->ctx, file->checked[i].items);
    plm_free(file->ctx, file->checked);
    plm_free(file->ctx, file->metadata);
    plm_free(file->ctx, file->fields);
    plm_free(file->ctx, file->descriptor);
    plm_free(file->ctx, file->tail);
    plm_file_close(file->file);
    plm_free(file->ctx, file);
}

/* ---- questions ------------------------------------------------------------------ */

uint32_t plm_datafile_n_columns(const struct plm_datafile *file)
{
    return file->n_columns;
}

uint64_t plm_datafile_n_rows(const struct plm_datafile *file)
{
    return file->n_rows;
}

void plm_datafile_version(const struct plm_datafile *file, uint32_t *major, uint32_t *minor)
{
    *major = file->major;
    *minor = file->minor;
}

static bool is_text(struct plm_view v, const char *text)
{
    return v.len == strlen(text) && memcmp(v.data, text, v.len) == 0;
}

int32_t plm_datafile_find(const struct plm_datafile *file, const char *name,
                          const char **logical_type)
{
    for (size_t i = 0; i < file->n_fields; i++) {
        const struct plm_file_field *field = &file->fields[i];
        if (field->parent_id != -1 || !field->has_column || field->column > INT32_MAX ||
            !is_text(field->name, name))
            continue;
        if (logical_type)
            *logical_type = (const char *)field->logical_type.data;
        return (int32_t)field->column;
    }
    return -1;
}

struct plm_view plm_datafile_metadata(const struct plm_datafile *file, const char *key)
{
    for (size_t i = 0; i < file->n_metadata; i++)
        if (file->metadata[i].key.data && is_text(file->metadata[i].key, key))
            return file->metadata[i].value;
    return (struct plm_view){0};
}

uint32_t plm_datafile_n_buffers(const struct plm_datafile *file)
{
    return file->n_buffers;
}

enum plm_code plm_datafile_buffer(struct plm_datafile *file, uint32_t number, struct plm_buf *buf,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_span span = {0};

    if (number >= file->n_buffers)
        return plm_fail(err, PLM_CORRUPT,
                        "%s: global buffer %" PRIu32 " is asked for, the file has %" PRIu32,
                        plm_file_name(file->file), number, file->n_buffers);
    PLM_TRY(read_entry(file, file->buffer_table_at, number, "global buffer", &span, err));
    if (span.size == 0)
        goto done; /* `buf` may have no memory yet */
    PLM_TRY(plm_buf_reserve(buf, (size_t)span.size, err));
    PLM_TRY(read_meta(file, span.offset, (size_t)span.size, buf->data + buf->len, err));
    buf->len += (size_t)span.size;
done:
    return rc;
}

/* ---- columns -------------------------------------------------------------------- */

static bool is_same_shape(const struct plm_column_shape *a, const struct plm_column_shape *b)
{
    return a->items == b->items && a->bits == b->bits && a->is_list == b->is_list;
}

const struct plm_pages *plm_datafile_pages(const struct plm_datafile *file, uint32_t column,
                                           const struct plm_column_shape *shape)
{
    for (size_t i = 0; i < file->n_checked; i++)
        if (file->checked[i].column == column && is_same_shape(&file->checked[i].shape, shape))
            return &file->checked[i];
    return NULL;
}

static enum plm_code check_shape(const struct plm_column_shape *shape, struct plm_err *err)
{
    bool is_width = shape->bits == 8 || shape->bits == 16 || shape->bits == 32 || shape->bits == 64;
    if (is_width && shape->items > 0 && (shape->is_list || shape->items == 1))
        return PLM_OK;
    return plm_fail(err, PLM_ARG, "a column of %" PRIu32 " items of %" PRIu32 " bits",
                    shape->items, shape->bits);
}

/* Reads and parses the pages of a column and adds them to the checked ones. */
static enum plm_code load_column(struct plm_datafile *file, uint32_t column,
                                 const struct plm_column_shape *shape, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_pages pages = {.column = column, .shape = *shape};
    struct plm_span span = {0};
    uint8_t *bytes = NULL;

    PLM_TRY(read_entry(file, file->column_table_at, column, "metadata of column", &span, err));
    PLM_TRY(plm_alloc(file->ctx, &bytes, (size_t)span.size, 1, err));
    PLM_TRY(read_meta(file, span.offset, (size_t)span.size, bytes, err));
    rc = plm_pages_parse(file, (struct plm_view){bytes, (size_t)span.size}, shape, &pages, err);
    if (rc != PLM_OK)
        PLM_TRY(plm_wrap(err, rc, "%s: column %" PRIu32, plm_file_name(file->file), column));
    PLM_TRY(plm_realloc(file->ctx, &file->checked, file->n_checked + 1, sizeof *file->checked,
                        err));
    file->checked[file->n_checked++] = pages;
    pages.items = NULL;
done:
    plm_free(file->ctx, pages.items);
    plm_free(file->ctx, bytes);
    return rc;
}

enum plm_code plm_datafile_check_column(struct plm_datafile *file, uint32_t column,
                                        const struct plm_column_shape *shape, uint64_t *n_rows,
                                        uint64_t *bytes_stored, struct plm_err *err)
{
    enum plm_code rc = check_shape(shape, err);
    if (rc != PLM_OK)
        return rc;
    if (column >= file->n_columns)
        return plm_fail(err, PLM_CORRUPT,
                        "%s: column %" PRIu32 " is asked for, the file has %" PRIu32,
                        plm_file_name(file->file), column, file->n_columns);
    if (!plm_datafile_pages(file, column, shape)) {
        rc = load_column(file, column, shape, err);
        if (rc != PLM_OK)
            return rc;
        plm_free(file->ctx, file->tail);
        file->tail = NULL;
    }
    const struct plm_pages *pages = plm_datafile_pages(file, column, shape);
    *n_rows = pages->n_rows;
    *bytes_stored = pages->bytes_stored;
    return PLM_OK;
}
