/* page_encoding.c - CompressiveEncoding: how values and definition levels of a page of 2.1 or 2.2
 * are packed. What stock Lance does not write for fixed-width columns is refused by name.
 */
#include "lance/page_parse.h"
#include "lance/wire_get.h"

enum { FLAT = 1, CONSTANT = 3, OUTLINE = 4, INLINE = 5, RLE = 8, FIXED_SIZE_LIST = 11 };

static const char *compression_name(uint32_t kind)
{
    static const char *const names[] = {
        "no compression named", "Flat",       "Variable",      "Constant",
        "OutOfLineBitpacking",  "InlineBitpacking", "Fsst",    "Dictionary",
        "Rle",                  "ByteStreamSplit",  "General", "FixedSizeList",
        "PackedStruct",         "VariablePackedStruct", "Range", "Delta",
    };
    return kind < sizeof names / sizeof names[0] ? names[kind] : "unknown";
}

static enum plm_code refuse(const char *what, uint32_t kind, struct plm_err *err)
{
    return plm_fail(err, PLM_UNSUPPORTED, "%s compression %s (%" PRIu32 ")", what,
                    compression_name(kind), kind);
}

/* Flat {1 bits per value, 2 compression of the buffer}. */
static enum plm_code parse_flat(struct plm_view body, uint64_t *bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view compression = {0};
    bool is_compressed = false;

    *bits = 0;
    PLM_TRY(plm_msg_u64(body, 1, bits, err));
    PLM_TRY(plm_msg_bytes(body, 2, &compression, &is_compressed, err));
    if (is_compressed)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "compressed Flat buffer"));
done:
    return rc;
}

/* An embedded CompressiveEncoding, field `number` of `body`, that must be Flat. */
static enum plm_code parse_inner_flat(struct plm_view body, uint32_t number, const char *what,
                                      uint64_t *bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view inner = {0}, flat;
    uint32_t kind;

    PLM_TRY(plm_msg_bytes(body, number, &inner, NULL, err));
    PLM_TRY(plm_msg_oneof(inner, &kind, &flat, err));
    if (kind != FLAT)
        PLM_TRY(refuse(what, kind, err));
    PLM_TRY(parse_flat(flat, bits, err));
done:
    return rc;
}

/* Rle {1 values, 2 run lengths}: values of `bits` bits, lengths of one byte. */
static enum plm_code parse_rle(struct plm_view body, uint64_t bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t seen;

    PLM_TRY(parse_inner_flat(body, 1, "run value", &seen, err));
    PLM_TRY(plm_page_expect_bits("run values", seen, bits, err));
    PLM_TRY(parse_inner_flat(body, 2, "run length", &seen, err));
    PLM_TRY(plm_page_expect_bits("run lengths", seen, 8, err));
done:
    return rc;
}

/* InlineBitpacking and OutOfLineBitpacking {1 uncompressed bits, 2 or 3 more}. */
static enum plm_code parse_bitpacking(struct plm_view body, uint64_t bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t seen = 0;

    PLM_TRY(plm_msg_u64(body, 1, &seen, err));
    PLM_TRY(plm_page_expect_bits("bit-packed values", seen, bits, err));
done:
    return rc;
}

static enum plm_code parse_inline(struct plm_view body, uint64_t bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view compression;
    bool is_compressed;

    PLM_TRY(parse_bitpacking(body, bits, err));
    PLM_TRY(plm_msg_bytes(body, 2, &compression, &is_compressed, err));
    if (is_compressed)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "compressed InlineBitpacking buffer"));
done:
    return rc;
}

/* FixedSizeList {1 items, 2 values, 3 has_validity}; values Flat, or Constant without a value
 * when every element is null. */
static enum plm_code parse_list(const struct plm_column_shape *shape, struct plm_view body,
                                struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t items = 0, has_validity = 0, bits;
    struct plm_view values = {0}, inner, constant;
    uint32_t kind;
    bool has_constant = false;

    PLM_TRY(plm_msg_u64(body, 1, &items, err));
    if (items != shape->items)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "lists of %" PRIu64 " items, expected %" PRIu32, items,
                         shape->items));
    PLM_TRY(plm_msg_bytes(body, 2, &values, NULL, err));
    PLM_TRY(plm_msg_u64(body, 3, &has_validity, err));
    PLM_TRY(plm_msg_oneof(values, &kind, &inner, err));
    page->has_validity = has_validity != 0;
    page->has_values = kind != CONSTANT;
    page->packing = PLM_PACK_FLAT;
    if (kind == FLAT) {
        PLM_TRY(parse_flat(inner, &bits, err));
        PLM_TRY(plm_page_expect_bits("list items", bits, shape->bits, err));
    } else if (kind == CONSTANT && page->has_validity) {
        PLM_TRY(plm_msg_bytes(inner, 1, &constant, &has_constant, err));
        if (has_constant)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "lists of one constant value"));
    } else {
        PLM_TRY(refuse("list item", kind, err));
    }
done:
    return rc;
}

enum plm_code plm_encoding_values(const struct plm_column_shape *shape, struct plm_view message,
                                  struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t kind;
    uint64_t bits;
    struct plm_view body;

    PLM_TRY(plm_msg_oneof(message, &kind, &body, err));
    page->has_values = true;
    if (shape->is_list && kind == FIXED_SIZE_LIST) {
        PLM_TRY(parse_list(shape, body, page, err));
    } else if (shape->is_list || kind == FIXED_SIZE_LIST) {
        PLM_TRY(refuse(shape->is_list ? "list" : "value", kind, err));
    } else if (kind == FLAT) {
        PLM_TRY(parse_flat(body, &bits, err));
        PLM_TRY(plm_page_expect_bits("values", bits, shape->bits, err));
        page->packing = PLM_PACK_FLAT;
    } else if (kind == INLINE) {
        PLM_TRY(parse_inline(body, shape->bits, err));
        page->packing = PLM_PACK_INLINE;
    } else if (kind == RLE) {
        PLM_TRY(parse_rle(body, shape->bits, err));
        page->packing = PLM_PACK_RLE;
    } else {
        PLM_TRY(refuse("value", kind, err));
    }
done:
    return rc;
}

enum plm_code plm_encoding_levels(struct plm_view message, struct plm_page *page,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t kind;
    uint64_t bits;
    struct plm_view body;

    PLM_TRY(plm_msg_oneof(message, &kind, &body, err));
    if (kind == FLAT) {
        PLM_TRY(parse_flat(body, &bits, err));
        PLM_TRY(plm_page_expect_bits("definition levels", bits, 16, err));
        page->levels = PLM_PACK_FLAT;
    } else if (kind == RLE) {
        PLM_TRY(parse_rle(body, 16, err));
        page->levels = PLM_PACK_RLE;
    } else if (kind == INLINE) {
        PLM_TRY(parse_inline(body, 16, err));
        page->levels = PLM_PACK_INLINE;
    } else if (kind == OUTLINE) {
        PLM_TRY(parse_bitpacking(body, 16, err));
        PLM_TRY(parse_inner_flat(body, 3, "packed level", &bits, err));
        if (bits > 16)
            PLM_TRY(plm_page_expect_bits("packed definition levels", bits, 16, err));
        page->levels = PLM_PACK_OUTLINE;
        page->level_bits = (uint32_t)bits;
    } else {
        PLM_TRY(refuse("definition level", kind, err));
    }
done:
    return rc;
}
