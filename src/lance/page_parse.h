/* page_parse.h - from a ColumnMetadata message to checked pages.
 *
 * Private to the data file code (datafile.c, page_list.c, page_parse.c).
 */
#ifndef PLM_PAGE_PARSE_H
#define PLM_PAGE_PARSE_H

#include "lance/page.h"
#include "lance/wire.h"

/* ---- small protobuf questions: the last value of a field wins ------------------ */

PLM_MUST_CHECK enum plm_code
plm_msg_u64(struct plm_view message, uint32_t number, uint64_t *out, struct plm_err *err);
/* A missing field leaves *out alone and says so in *is_there (may be NULL). */
PLM_MUST_CHECK enum plm_code
plm_msg_bytes(struct plm_view message, uint32_t number, struct plm_view *out, bool *is_there,
              struct plm_err *err);
/* The one field that is set of a oneof of messages: its number (0 = none) and its bytes. */
PLM_MUST_CHECK enum plm_code
plm_msg_oneof(struct plm_view message, uint32_t *number, struct plm_view *body,
              struct plm_err *err);

/* ---- pages ---------------------------------------------------------------------- */

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

/* All pages of a column from its ColumnMetadata message. */
PLM_MUST_CHECK enum plm_code
plm_pages_parse(struct plm_datafile *file, struct plm_view message,
                const struct plm_column_shape *shape, struct plm_pages *out,
                struct plm_err *err);

#endif
