/* page_array.c - ArrayEncoding (2.0): what a page says, checked against shape, rows and buffers.
 * Whatever is not a form that stock Lance writes for fixed-width columns is refused by name.
 */
#include "lance/page_parse.h"
#include "lance/wire_get.h"

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
    PLM_TRY(plm_page_expect_bits("values", bits, expected_bits, err));
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
    PLM_TRY(plm_page_expect_size(frame, page->values, plm_shape_row_bytes(&frame->shape), false, err));
    page->kind = PLM_PAGE_PLAIN;
done:
    return rc;
}
