/* page_frame.c - what a page may say of itself, given its rows, its buffers and its column. */
#include "lance/page_parse.h"

enum plm_code plm_page_span(const struct plm_page_frame *frame, uint64_t number,
                            struct plm_span *out, struct plm_err *err)
{
    if (number >= frame->n_buffers)
        return plm_fail(err, PLM_CORRUPT, "buffer %" PRIu64 " of a page with %zu buffers", number,
                        frame->n_buffers);
    uint64_t offset = frame->offsets[number], size = frame->sizes[number];
    if (offset > frame->file_bytes || size > frame->file_bytes - offset)
        return plm_fail(err, PLM_CORRUPT,
                        "buffer %" PRIu64 " at offset %" PRIu64 " with %" PRIu64
                        " bytes does not fit into %" PRIu64 " bytes",
                        number, offset, size, frame->file_bytes);
    *out = (struct plm_span){offset, size};
    return PLM_OK;
}

enum plm_code plm_page_expect_bits(const char *what, uint64_t bits, uint64_t expected,
                                   struct plm_err *err)
{
    if (bits == expected)
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT, "%s of %" PRIu64 " bits, expected %" PRIu64, what, bits,
                    expected);
}

enum plm_code plm_page_expect_size(const struct plm_page_frame *frame, struct plm_span span,
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
