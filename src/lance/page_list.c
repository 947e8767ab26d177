/* page_list.c - a ColumnMetadata message becomes a list of checked pages. */
#include "lance/datafile_impl.h"
#include "lance/page_parse.h"
#include "lance/wire_get.h"

#define PAGE_BUFFERS_MAX 16 /* more than any layout has */

/* Encoding: 1 indirect, 2 direct {1 bytes: an Any {1 type url, 2 value}}. */
static enum plm_code read_encoding(struct plm_view encoding, struct plm_view *url,
                                   struct plm_view *value, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t place;
    struct plm_view body, any = {0};

    PLM_TRY(plm_msg_oneof(encoding, &place, &body, err));
    if (place != 2)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "encoding is not stored in the column metadata"));
    PLM_TRY(plm_msg_bytes(body, 1, &any, NULL, err));
    PLM_TRY(plm_msg_bytes(any, 1, url, NULL, err));
    PLM_TRY(plm_msg_bytes(any, 2, value, NULL, err));
done:
    return rc;
}

static bool is_url(struct plm_view url, const char *text)
{
    return url.len == strlen(text) && memcmp(url.data, text, url.len) == 0;
}

/* ---- pages ---------------------------------------------------------------------- */

static enum plm_code parse_encoding(const struct plm_page_frame *frame, struct plm_view encoding,
                                    struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view url = {0}, value = {0};

    PLM_TRY(read_encoding(encoding, &url, &value, err));
    if (is_url(url, "/lance.encodings21.PageLayout") && !frame->is_v20)
        PLM_TRY(plm_page_parse_layout(frame, value, page, err));
    else if (is_url(url, "/lance.encodings.ArrayEncoding") && frame->is_v20)
        PLM_TRY(plm_page_parse_array(frame, value, page, err));
    else
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "page encoding \"%.*s\"",
                         (int)plm_min_size(url.len, 100), url.data ? (const char *)url.data : ""));
done:
    return rc;
}

/* Offsets and sizes of one page's buffers, used again from page to page. */
struct buffers {
    struct plm_u64s offsets, sizes;
};

/* Page: 1 offsets, 2 sizes, 3 rows, 4 Encoding. (5, its first row, is the sum before it.) */
static enum plm_code parse_page(struct plm_ctx *ctx, struct plm_page_frame *frame,
                                struct buffers *buffers, struct plm_view message,
                                struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view encoding = {0};

    buffers->offsets.n = buffers->sizes.n = 0;
    frame->n_rows = 0;
    PLM_PB_EACH(message) {
        if (field.number == 1 || field.number == 2) {
            PLM_TRY(plm_pb_repeated_u64(ctx, &field, PAGE_BUFFERS_MAX,
                                        field.number == 1 ? &buffers->offsets : &buffers->sizes,
                                        err));
        } else if (field.number == 3) {
            PLM_TRY(plm_pb_get_u64(&field, &frame->n_rows, err));
        } else if (field.number == 4) {
            PLM_TRY(plm_pb_get_view(&field, &encoding, err));
        }
    }
    PLM_TRY(rc);
    if (buffers->offsets.n != buffers->sizes.n)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%zu buffer offsets and %zu sizes", buffers->offsets.n,
                         buffers->sizes.n));
    frame->offsets = buffers->offsets.items;
    frame->sizes = buffers->sizes.items;
    frame->n_buffers = buffers->sizes.n;
    *page = (struct plm_page){.n_rows = frame->n_rows};
    PLM_TRY(parse_encoding(frame, encoding, page, err));
done:
    return rc;
}

/* ---- columns -------------------------------------------------------------------- */

/* The column's own encoding: oneof 1 plain values; others (blob, zone maps) change what the
 * pages mean. An absent one is plain. */
static enum plm_code check_column_encoding(struct plm_view encoding, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view url = {0}, value = {0}, body;
    uint32_t kind;

    PLM_TRY(read_encoding(encoding, &url, &value, err));
    if (!is_url(url, "/lance.encodings.ColumnEncoding"))
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "column encoding \"%.*s\"",
                         (int)plm_min_size(url.len, 100), url.data ? (const char *)url.data : ""));
    PLM_TRY(plm_msg_oneof(value, &kind, &body, err));
    if (kind != 1)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "column encoding %s",
                         kind == 2   ? "with zone maps"
                         : kind == 3 ? "of blobs"
                                     : "of unknown kind"));
done:
    return rc;
}

/* First walk over ColumnMetadata {1 Encoding, 2 repeated Page}: checks and counts. */
static enum plm_code count_pages(struct plm_view message, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        if (field.number != 1 && field.number != 2)
            continue;
        PLM_TRY(plm_pb_expect(&field, 2, err));
        if (field.number == 1)
            PLM_TRY(check_column_encoding(field.bytes, err));
        else
            (*n)++;
    }
done:
    return rc;
}

/* Places the page behind the ones before it. */
static enum plm_code append_page(struct plm_pages *pages, const struct plm_page *page,
                                 struct plm_err *err)
{
    struct plm_page *slot = &pages->items[pages->n];

    if (page->n_rows > INT64_MAX - pages->n_rows)
        return plm_fail(err, PLM_CORRUPT, "%" PRIu64 " rows and %" PRIu64 " before them",
                        page->n_rows, pages->n_rows);
    *slot = *page;
    slot->first_row = pages->n_rows;
    pages->n_rows += page->n_rows;
    /* Each span is at most the file's size: saturating is enough for an estimate. */
    if (__builtin_add_overflow(pages->bytes_stored, page->values.size, &pages->bytes_stored))
        pages->bytes_stored = UINT64_MAX;
    pages->n++;
    return PLM_OK;
}

enum plm_code plm_pages_parse(struct plm_datafile *file, struct plm_view message,
                              const struct plm_column_shape *shape, struct plm_pages *out,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_pages pages = {.column = out->column, .shape = *shape};
    struct plm_page_frame frame = {
        .shape = *shape, .file_bytes = file->size_bytes, .is_v20 = file->minor == 0};
    struct buffers buffers = {0};
    struct plm_page page;
    size_t n = 0;

    PLM_TRY(count_pages(message, &n, err));
    PLM_TRY(plm_alloc(file->ctx, &pages.items, n, sizeof *pages.items, err));
    PLM_PB_EACH(message) {
        if (field.number != 2)
            continue;
        rc = parse_page(file->ctx, &frame, &buffers, field.bytes, &page, err);
        if (rc != PLM_OK)
            PLM_TRY(plm_wrap(err, rc, "page %zu", pages.n));
        if (page.n_rows > 0)
            PLM_TRY(append_page(&pages, &page, err));
    }
    PLM_TRY(rc);
    *out = pages;
    pages.items = NULL;
done:
    plm_u64s_reset(file->ctx, &buffers.sizes);
    plm_u64s_reset(file->ctx, &buffers.offsets);
    plm_free(file->ctx, pages.items);
    return rc;
}
