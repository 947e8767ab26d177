/* page_parse.h - from a ColumnMetadata message to checked pages.
 *
 * Private to the data file code. page_list.c walks the message; page_layout.c (2.1, 2.2) and
 * page_array.c (2.0) read what one page says, in encodings that page_encoding.c knows.
 */
#ifndef PLM_PAGE_PARSE_H
#define PLM_PAGE_PARSE_H

#include "lance/page.h"

/* What a page is checked against. */
struct plm_page_frame {
    struct plm_column_shape shape;
    uint64_t file_bytes;
    bool is_v20; /* ArrayEncoding instead of PageLayout */
    const uint64_t *offsets, *sizes;
    size_t n_buffers;
    uint64_t n_rows;
};
/* From an ArrayEncoding (2.0) or a PageLayout (2.1, 2.2). Fills all of *page but first_row. */
PLM_MUST_CHECK enum plm_code
plm_page_parse_array(const struct plm_page_frame *frame, struct plm_view message,
                     struct plm_page *page, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_page_parse_layout(const struct plm_page_frame *frame, struct plm_view message,
                      struct plm_page *page, struct plm_err *err);
/* Buffer `number` of the page, inside the file. */
PLM_MUST_CHECK enum plm_code
plm_page_span(const struct plm_page_frame *frame, uint64_t number, struct plm_span *out,
              struct plm_err *err);

/* The span holds n_rows times `bytes` bytes, and no more if is_exact. */
PLM_MUST_CHECK enum plm_code
plm_page_expect_size(const struct plm_page_frame *frame, struct plm_span span, uint64_t bytes,
                     bool is_exact, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_page_expect_bits(const char *what, uint64_t bits, uint64_t expected, struct plm_err *err);

/* The CompressiveEncoding of the values: has_validity, has_values, packing of *page. */
PLM_MUST_CHECK enum plm_code
plm_encoding_values(const struct plm_column_shape *shape, struct plm_view message,
                    struct plm_page *page, struct plm_err *err);
/* That of definition levels, 16-bit numbers: levels, level_bits of *page. */
PLM_MUST_CHECK enum plm_code
plm_encoding_levels(struct plm_view message, struct plm_page *page, struct plm_err *err);

/* All pages of a column from its ColumnMetadata message. */
PLM_MUST_CHECK enum plm_code
plm_pages_parse(struct plm_datafile *file, struct plm_view message,
                const struct plm_column_shape *shape, struct plm_pages *out,
                struct plm_err *err);

#endif
