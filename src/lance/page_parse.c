/* page_parse.c - what the encoding of a page says, checked against shape, rows and buffers.
 *
 * Two families: PageLayout (2.1, 2.2) and ArrayEncoding (2.0). Whatever is not a form that
 * stock Lance writes for fixed-width columns is refused by name.
 */
#include "lance/page_parse.h"

/* ---- CompressiveEncoding -------------------------------------------------------- */

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

static enum plm_code expect_bits(const char *what, uint64_t bits, uint64_t expected,
                                 struct plm_err *err)
{
    if (bits == expected)
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT, "%s of %" PRIu64 " bits, expected %" PRIu64, what, bits,
                    expected);
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
    PLM_TRY(expect_bits("run values", seen, bits, err));
    PLM_TRY(parse_inner_flat(body, 2, "run length", &seen, err));
    PLM_TRY(expect_bits("run lengths", seen, 8, err));
done:
    return rc;
}

/* InlineBitpacking and OutOfLineBitpacking {1 uncompressed bits, 2 or 3 more}. */
static enum plm_code parse_bitpacking(struct plm_view body, uint64_t bits, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t seen = 0;

    PLM_TRY(plm_msg_u64(body, 1, &seen, err));
    PLM_TRY(expect_bits("bit-packed values", seen, bits, err));
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
        PLM_TRY(expect_bits("list items", bits, shape->bits, err));
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

/* The CompressiveEncoding of the values: has_validity, has_values, packing of *page. */
static enum plm_code parse_values(const struct plm_column_shape *shape, struct plm_view message,
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
        PLM_TRY(expect_bits("values", bits, shape->bits, err));
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

/* The CompressiveEncoding of definition levels, 16-bit numbers. */
static enum plm_code parse_levels(struct plm_view message, struct plm_page *page,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t kind;
    uint64_t bits;
    struct plm_view body;

    PLM_TRY(plm_msg_oneof(message, &kind, &body, err));
    if (kind == FLAT) {
        PLM_TRY(parse_flat(body, &bits, err));
        PLM_TRY(expect_bits("definition levels", bits, 16, err));
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
            PLM_TRY(expect_bits("packed definition levels", bits, 16, err));
        page->levels = PLM_PACK_OUTLINE;
        page->level_bits = (uint32_t)bits;
    } else {
        PLM_TRY(refuse("definition level", kind, err));
    }
done:
    return rc;
}

/* ---- PageLayout ----------------------------------------------------------------- */

/* Layers: packed (or single) enums. 1 = all valid, 3 = nullable; the others are lists. */
static enum plm_code parse_layers(struct plm_view message, uint32_t number, bool *is_nullable,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_pb pb = plm_pb_of(message);
    struct plm_pb_field field;
    bool more;

    *is_nullable = false;
    for (;;) {
        uint8_t one;

        PLM_TRY(plm_pb_next(&pb, &field, &more, err));
        if (!more)
            break;
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

/* The span holds n_rows times `bytes` bytes, and no more if is_exact. */
static enum plm_code expect_size(const struct plm_page_frame *frame, struct plm_span span,
                                 uint64_t bytes, bool is_exact, struct plm_err *err)
{
    uint64_t total;
    if (!__builtin_mul_overflow(frame->n_rows, bytes, &total) &&
        (is_exact ? span.size == total : span.size >= total))
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT,
                    "buffer at offset %" PRIu64 " has %" PRIu64 " bytes for %" PRIu64
                    " rows of %" PRIu64 " bytes",
                    span.offset, span.size, frame->n_rows, bytes);
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
    PLM_TRY(parse_values(&frame->shape, zip.values, page, err));
    if (page->packing != PLM_PACK_FLAT)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "FullZip of packed values"));
    page->control_bytes = (uint32_t)(zip.bits_def + 7) / 8;
    page->valid_bytes = page->has_validity ? (uint32_t)(((uint64_t)frame->shape.items + 7) / 8) : 0;

    uint64_t stored = page->valid_bytes + (page->has_values ? (uint64_t)row_bytes : 0);
    PLM_TRY(expect_bits("FullZip values", zip.bits_per_value, 8 * stored, err));
    PLM_TRY(expect_buffers(frame, 1, err));
    PLM_TRY(plm_page_span(frame, 0, &page->values, err));
    PLM_TRY(expect_size(frame, page->values, page->control_bytes + stored, true, err));
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
    PLM_TRY(expect_bits("constant value", 8 * (uint64_t)value.len, frame->shape.bits, err));
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
        PLM_TRY(parse_levels(levels, page, err));
    PLM_TRY(parse_values(&frame->shape, values, page, err));
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

/* ---- ArrayEncoding (2.0) -------------------------------------------------------- */

static enum plm_code refuse_array(uint32_t kind, struct plm_err *err)
{
    static const char *const names[] = {"none", "Flat",   "Nullable", "FixedSizeList", "List",
                                        "Struct", "Binary", "Dictionary"};
    return plm_fail(err, PLM_UNSUPPORTED, "array encoding %s (%" PRIu32 ")",
                    kind < sizeof names / sizeof names[0] ? names[kind] : "unknown", kind);
}

/* Flat {1 bits, 2 Buffer {1 index, 2 type: 0 = of the page}, 3 compression}. */
static enum plm_code parse_array_flat(const struct plm_page_frame *frame, struct plm_view message,
                                      uint64_t expected_bits, struct plm_span *out,
                                      struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view flat, buffer = {0}, compression;
    uint64_t bits = 0, index = 0, type = 0;
    uint32_t kind;
    bool is_compressed;

    PLM_TRY(plm_msg_oneof(message, &kind, &flat, err));
    if (kind != 1)
        PLM_TRY(refuse_array(kind, err));
    PLM_TRY(plm_msg_u64(flat, 1, &bits, err));
    PLM_TRY(expect_bits("values", bits, expected_bits, err));
    PLM_TRY(plm_msg_bytes(flat, 2, &buffer, NULL, err));
    PLM_TRY(plm_msg_bytes(flat, 3, &compression, &is_compressed, err));
    PLM_TRY(plm_msg_u64(buffer, 1, &index, err));
    PLM_TRY(plm_msg_u64(buffer, 2, &type, err));
    if (is_compressed || type != 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, is_compressed ? "compressed Flat buffer"
                                                             : "buffer outside of its page"));
    PLM_TRY(plm_page_span(frame, index, out, err));
done:
    return rc;
}

/* Nullable {1 no_nulls {1 values}, 2 some_nulls {1 validity, 2 values}, 3 all_nulls}.
 * n_bits: how many validity bits there must be (UINT64_MAX: more than any file has). */
static enum plm_code parse_nullable(const struct plm_page_frame *frame, struct plm_view message,
                                    uint64_t n_bits, struct plm_span *bits,
                                    struct plm_view *values, bool *is_all_null,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view nullable, body, validity = {0};
    uint32_t kind, how;

    *values = (struct plm_view){0};
    PLM_TRY(plm_msg_oneof(message, &kind, &nullable, err));
    if (kind != 2)
        PLM_TRY(refuse_array(kind, err));
    PLM_TRY(plm_msg_oneof(nullable, &how, &body, err));
    *is_all_null = how == 3;
    if (how == 1) {
        PLM_TRY(plm_msg_bytes(body, 1, values, NULL, err));
    } else if (how == 2) {
        PLM_TRY(plm_msg_bytes(body, 1, &validity, NULL, err));
        PLM_TRY(plm_msg_bytes(body, 2, values, NULL, err));
        PLM_TRY(parse_array_flat(frame, validity, 1, bits, err));
        if (n_bits / 8 + (n_bits % 8 > 0) > bits->size)
            PLM_TRY(plm_fail(err, PLM_CORRUPT,
                             "%" PRIu64 " bytes of validity at offset %" PRIu64
                             " for %" PRIu64 " bits",
                             bits->size, bits->offset, n_bits));
    } else if (how != 3) {
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "nullability of kind %" PRIu32, how));
    }
done:
    return rc;
}

/* FixedSizeList {1 dimension, 2 items, 3 has_validity}: the items' encoding. */
static enum plm_code parse_array_list(const struct plm_page_frame *frame, struct plm_view message,
                                      struct plm_view *items, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view list;
    uint64_t dim = 0, has_validity = 0;
    uint32_t kind;

    PLM_TRY(plm_msg_oneof(message, &kind, &list, err));
    if (kind != 3)
        PLM_TRY(refuse_array(kind, err));
    PLM_TRY(plm_msg_u64(list, 1, &dim, err));
    if (dim != frame->shape.items)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "lists of %" PRIu64 " items, expected %" PRIu32, dim,
                         frame->shape.items));
    PLM_TRY(plm_msg_bytes(list, 2, items, NULL, err));
    PLM_TRY(plm_msg_u64(list, 3, &has_validity, err));
    if (has_validity)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "array encoding of lists with own validity"));
done:
    return rc;
}

/* Nullable -> Flat, or Nullable -> FixedSizeList -> Nullable -> Flat. */
enum plm_code plm_page_parse_array(const struct plm_page_frame *frame, struct plm_view message,
                                   struct plm_page *page, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view values, items = {0};
    bool is_all_null;
    uint64_t n_items;

    PLM_TRY(parse_nullable(frame, message, frame->n_rows, &page->row_bits, &values, &is_all_null,
                           err));
    if (!is_all_null && frame->shape.is_list) {
        if (__builtin_mul_overflow(frame->n_rows, frame->shape.items, &n_items))
            n_items = UINT64_MAX;
        PLM_TRY(parse_array_list(frame, values, &items, err));
        PLM_TRY(parse_nullable(frame, items, n_items, &page->item_bits, &values, &is_all_null,
                               err));
    }
    if (is_all_null) {
        page->kind = PLM_PAGE_NULL;
        goto done;
    }
    PLM_TRY(parse_array_flat(frame, values, frame->shape.bits, &page->values, err));
    PLM_TRY(expect_size(frame, page->values, plm_shape_row_bytes(&frame->shape), false, err));
    page->kind = PLM_PAGE_PLAIN;
done:
    return rc;
}
