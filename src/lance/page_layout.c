/* page_layout.c - PageLayout (2.1, 2.2): what a page says, checked against shape, rows and buffers.
 * Whatever is not a form that stock Lance writes for fixed-width columns is refused by name.
 */
#include "lance/page_parse.h"
#include "lance/wire_get.h"

/* Layers: packed (or single) enums. 1 = all valid, 3 = nullable; the others are lists. */
static enum plm_code parse_layers(struct plm_view message, uint32_t number, bool *is_nullable,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *is_nullable = false;
    PLM_PB_EACH(message) {
        uint8_t one;

        if (field.number != number)
            continue;
        if (field.wire != 2) {
            PLM_TRY(plm_pb_expect(&field, 0, err));
            one = (uint8_t)plm_min_u64(field.value, UINT8_MAX);
            field.bytes = (struct plm_view){&one, 1};
        }
        for (size_t i = 0; i < field.bytes.len; i++) {
            uint8_t layer = field.bytes.data[i];
            if (layer != 1 && layer != 3)
                PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "layer %u: variable-length lists", layer));
            *is_nullable |= layer == 3;
        }
    }
done:
    return rc;
}

static enum plm_code expect_buffers(const struct plm_page_frame *frame, size_t n,
                                    struct plm_err *err)
{
    if (frame->n_buffers == n)
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT, "page with %zu buffers, expected %zu", frame->n_buffers, n);
}

static enum plm_code expect_rows(const struct plm_page_frame *frame, const char *what, uint64_t n,
                                 struct plm_err *err)
{
    if (n == frame->n_rows)
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT, "%s is %" PRIu64 " in a page of %" PRIu64 " rows", what, n,
                    frame->n_rows);
}

struct fullzip {
    uint64_t bits_rep, bits_def, bits_per_value, bits_per_offset, n_items, n_visible;
    struct plm_view values;
    bool is_nullable;
};

static enum plm_code read_fullzip(struct plm_view body, struct fullzip *zip, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_msg_u64(body, 1, &zip->bits_rep, err));
    PLM_TRY(plm_msg_u64(body, 2, &zip->bits_def, err));
    PLM_TRY(plm_msg_u64(body, 3, &zip->bits_per_value, err));
    PLM_TRY(plm_msg_u64(body, 4, &zip->bits_per_offset, err));
    PLM_TRY(plm_msg_u64(body, 5, &zip->n_items, err));
    PLM_TRY(plm_msg_u64(body, 6, &zip->n_visible, err));
    PLM_TRY(plm_msg_bytes(body, 7, &zip->values, NULL, err));
    PLM_TRY(parse_layers(body, 8, &zip->is_nullable, err));
    if (zip->bits_rep > 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "FullZip of lists (repetition levels)"));
    if (zip->bits_per_offset > 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "FullZip of variable-width values"));
    if (zip->bits_def > 16)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "FullZip with %" PRIu64 " definition bits",
                         zip->bits_def));
done:
    return rc;
}

static enum plm_code parse_fullzip(const struct plm_page_frame *frame, struct plm_view body,
                                   struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct fullzip zip = {0};
    size_t row_bytes = plm_shape_row_bytes(&frame->shape);

    PLM_TRY(read_fullzip(body, &zip, err));
    PLM_TRY(expect_rows(frame, "num_items", zip.n_items, err));
    PLM_TRY(expect_rows(frame, "num_visible_items", zip.n_visible, err));
    PLM_TRY(plm_encoding_values(&frame->shape, zip.values, page, err));
    if (page->packing != PLM_PACK_FLAT)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "FullZip of packed values"));
    page->control_bytes = (uint32_t)(zip.bits_def + 7) / 8;
    page->valid_bytes = page->has_validity ? (uint32_t)(((uint64_t)frame->shape.items + 7) / 8) : 0;

    uint64_t stored = page->valid_bytes + (page->has_values ? (uint64_t)row_bytes : 0);
    PLM_TRY(plm_page_expect_bits("FullZip values", zip.bits_per_value, 8 * stored, err));
    PLM_TRY(expect_buffers(frame, 1, err));
    PLM_TRY(plm_page_span(frame, 0, &page->values, err));
    PLM_TRY(plm_page_expect_size(frame, page->values, page->control_bytes + stored, true, err));
    page->kind = !page->has_values                          ? PLM_PAGE_NULL
                 : page->control_bytes + page->valid_bytes > 0 ? PLM_PAGE_ZIPPED
                                                               : PLM_PAGE_PLAIN;
done:
    return rc;
}

/* Constant: null rows only (their level says at which depth, which is one to us), or one
 * value of a scalar column. */
static enum plm_code parse_constant(const struct plm_page_frame *frame, struct plm_view body,
                                    struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view value = {0};
    bool has_value = false, is_nullable;
    uint64_t n_rep = 0;

    PLM_TRY(parse_layers(body, 5, &is_nullable, err));
    PLM_TRY(plm_msg_bytes(body, 6, &value, &has_value, err));
    PLM_TRY(plm_msg_u64(body, 9, &n_rep, err));
    if (n_rep > 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "constant page of lists (repetition levels)"));
    if (!has_value) {
        if (!is_nullable)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "constant page without a value or a null layer"));
        page->kind = PLM_PAGE_NULL;
        goto done;
    }
    if (frame->shape.is_list || is_nullable || frame->n_buffers > 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "constant page of %s",
                         frame->shape.is_list ? "lists" : "values and nulls"));
    PLM_TRY(plm_page_expect_bits("constant value", 8 * (uint64_t)value.len, frame->shape.bits, err));
    memcpy(page->same, value.data, value.len);
    page->kind = PLM_PAGE_SAME;
done:
    return rc;
}

/* MiniBlock is refused where it holds more than definition levels and values. */
static enum plm_code check_miniblock(const struct plm_page_frame *frame, struct plm_view body,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view unused = {0};
    bool has_rep, has_dictionary, is_nullable;
    uint64_t depth = 0, n_items = 0;

    PLM_TRY(plm_msg_bytes(body, 1, &unused, &has_rep, err));
    PLM_TRY(plm_msg_bytes(body, 4, &unused, &has_dictionary, err));
    PLM_TRY(parse_layers(body, 6, &is_nullable, err));
    PLM_TRY(plm_msg_u64(body, 8, &depth, err));
    PLM_TRY(plm_msg_u64(body, 9, &n_items, err));
    if (has_rep || depth > 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "MiniBlock of lists (repetition levels)"));
    if (has_dictionary)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "MiniBlock with a dictionary"));
    PLM_TRY(expect_rows(frame, "num_items", n_items, err));
    PLM_TRY(expect_buffers(frame, 2, err));
done:
    return rc;
}

static enum plm_code parse_miniblock(const struct plm_page_frame *frame, struct plm_view body,
                                     struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view levels = {0}, values = {0};
    bool has_levels = false;
    uint64_t n_buffers = 0, is_large = 0;

    PLM_TRY(check_miniblock(frame, body, err));
    PLM_TRY(plm_msg_bytes(body, 2, &levels, &has_levels, err));
    PLM_TRY(plm_msg_bytes(body, 3, &values, NULL, err));
    PLM_TRY(plm_msg_u64(body, 7, &n_buffers, err));
    PLM_TRY(plm_msg_u64(body, 10, &is_large, err));
    if (has_levels)
        PLM_TRY(plm_encoding_levels(levels, page, err));
    PLM_TRY(plm_encoding_values(&frame->shape, values, page, err));
    page->is_large = is_large != 0;

    uint64_t expected = (page->packing == PLM_PACK_RLE ? 2u : 1u * page->has_values) +
                        page->has_validity;
    if (n_buffers != expected)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "MiniBlock with %" PRIu64 " value buffers, expected %" PRIu64, n_buffers,
                         expected));
    PLM_TRY(plm_page_span(frame, 0, &page->table, err));
    PLM_TRY(plm_page_span(frame, 1, &page->values, err));
    if (page->table.size / (page->is_large ? 4 : 2) < frame->n_rows / PLM_CHUNK_ROWS_MAX)
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "chunk table at offset %" PRIu64 " has %" PRIu64 " bytes for %" PRIu64
                         " rows",
                         page->table.offset, page->table.size, frame->n_rows));
    page->kind = page->has_values ? PLM_PAGE_CHUNKED : PLM_PAGE_NULL;
done:
    return rc;
}

enum plm_code plm_page_parse_layout(const struct plm_page_frame *frame, struct plm_view message,
                                    struct plm_page *page, struct plm_err *err)
{
    static const char *const names[] = {"none", "MiniBlock", "Constant", "FullZip", "Blob",
                                        "Sparse"};
    struct plm_view body;
    uint32_t kind;
    enum plm_code rc = plm_msg_oneof(message, &kind, &body, err);

    if (rc != PLM_OK)
        return rc;
    switch (kind) {
    case 1:
        return parse_miniblock(frame, body, page, err);
    case 2:
        return parse_constant(frame, body, page, err);
    case 3:
        return parse_fullzip(frame, body, page, err);
    default:
        return plm_fail(err, PLM_UNSUPPORTED, "page layout %s (%" PRIu32 ")",
                        kind < sizeof names / sizeof names[0] ? names[kind] : "unknown", kind);
    }
}
