/* datafile.c - the life of an open Lance file, and what may be asked of it.
 *
 * The copy of the file's end is dropped with the first checked column, so that a table of
 * many files keeps little more than its page lists.
 */
#include "lance/datafile_impl.h"
#include "lance/page_parse.h"

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
    PLM_TRY(plm_footer_read(file, &meta_at, err));
    PLM_TRY(plm_descriptor_read(file, err));
    PLM_TRY(plm_footer_trim(file, meta_at, err));
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
    PLM_TRY(plm_footer_entry(file, file->buffer_table_at, number, "global buffer", &span, err));
    if (span.size == 0)
        goto done; /* `buf` may have no memory yet */
    PLM_TRY(plm_buf_reserve(buf, (size_t)span.size, err));
    PLM_TRY(plm_footer_meta(file, span.offset, (size_t)span.size, buf->data + buf->len, err));
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

    PLM_TRY(plm_footer_entry(file, file->column_table_at, column, "metadata of column", &span,
                             err));
    PLM_TRY(plm_alloc(file->ctx, &bytes, (size_t)span.size, 1, err));
    PLM_TRY(plm_footer_meta(file, span.offset, (size_t)span.size, bytes, err));
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
