/* file_footer.c - the end of a Lance file: footer, tables of columns and of global buffers.
 *
 * The end is read once; in most files it holds everything that opening and the first column need.
 */
#include "lance/datafile_impl.h"
#include "lance/wire.h"

#define TAIL_BYTES ((uint64_t)64 << 10)
#define FOOTER_BYTES 40u
#define ENTRY_BYTES 16u /* position and size in the tables */

/* Do `size` bytes at `offset` lie before the footer? */
static bool is_inside(const struct plm_datafile *file, uint64_t offset, uint64_t size)
{
    uint64_t end = file->size_bytes - FOOTER_BYTES;
    return offset <= end && size <= end - offset;
}

enum plm_code plm_footer_meta(struct plm_datafile *file, uint64_t offset, size_t len, void *dst,
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

enum plm_code plm_footer_read(struct plm_datafile *file, uint64_t *meta_at, struct plm_err *err)
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

enum plm_code plm_footer_entry(struct plm_datafile *file, uint64_t table_at, uint32_t number,
                               const char *what, struct plm_span *out, struct plm_err *err)
{
    uint8_t bytes[ENTRY_BYTES];
    uint64_t at = table_at + (uint64_t)number * ENTRY_BYTES;
    enum plm_code rc = plm_footer_meta(file, at, sizeof bytes, bytes, err);
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

enum plm_code plm_footer_trim(struct plm_datafile *file, uint64_t meta_at, struct plm_err *err)
{
    if (meta_at <= file->tail_at || meta_at > file->column_table_at ||
        file->column_table_at > file->buffer_table_at)
        return PLM_OK;
    size_t n = (size_t)(file->size_bytes - meta_at);
    memmove(file->tail, file->tail + (meta_at - file->tail_at), n);
    file->tail_at = meta_at;
    return plm_realloc(file->ctx, &file->tail, n, 1, err);
}
