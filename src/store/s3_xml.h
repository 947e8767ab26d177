/* s3_xml.h - the few XML answers of S3, read with expat under bounds.
 *
 * Every answer is hostile: no DOCTYPE, depth <= 16, text of one element <= 8 KiB, no NUL in
 * names, and what is missing or out of place is PLM_CORRUPT.
 */
#ifndef PLM_S3_XML_H
#define PLM_S3_XML_H

#include "store/s3_retry.h"
#include "store/writer.h"

/* Fills reply->code and reply->message from an <Error> body; true if it was one. */
bool plm_s3_xml_error(struct plm_ctx *ctx, const void *xml, size_t n, struct plm_s3_reply *reply);

/* One page of ListObjectsV2. */
struct plm_s3_page {
    bool truncated;
    char *next; /* continuation token, or NULL */
    char *last; /* the greatest raw key or common prefix of the page, or NULL */
};
void plm_s3_page_reset(struct plm_ctx *ctx, struct plm_s3_page *page);

/* Appends the page's entries, their names without the first `strip` bytes (which must be
 * `prefix`); common prefixes lose their last '/' and become directories. */
PLM_MUST_CHECK enum plm_code
plm_s3_xml_list(struct plm_ctx *ctx, const void *xml, size_t n, const char *prefix,
                struct plm_entries *entries, struct plm_s3_page *page, struct plm_err *err);

/* The <UploadId> of a new multipart upload; release with plm_free(). */
PLM_MUST_CHECK enum plm_code plm_s3_xml_upload(struct plm_ctx *ctx, const void *xml, size_t n,
                                               char **upload_id, struct plm_err *err);

struct plm_s3_part {
    unsigned number;
    uint64_t size_bytes;
    char etag[160];
};
struct plm_s3_parts {
    struct plm_ctx *ctx;
    struct plm_s3_part *items; /* ascending by number */
    size_t n, cap;
    bool truncated;
    unsigned next_marker; /* where the next page begins; 0 at first */
};
/* Appends one page of ListParts. Pages that do not move on are PLM_CORRUPT. */
PLM_MUST_CHECK enum plm_code plm_s3_xml_parts(const void *xml, size_t n, struct plm_s3_parts *parts,
                                              struct plm_err *err);

/* One page of ListMultipartUploads. */
struct plm_s3_upload_page {
    bool truncated;
    char *next_key, *next_id; /* where the next page begins, or NULL */
};
void plm_s3_upload_page_reset(struct plm_ctx *ctx, struct plm_s3_upload_page *page);
/* Appends the uploads whose key begins with `prefix`: path = the key without `root` (a prefix of
 * prefix), token = the upload id. */
PLM_MUST_CHECK enum plm_code
plm_s3_xml_uploads(const void *xml, size_t n, const char *prefix, const char *root,
                   struct plm_uploads *uploads, struct plm_s3_upload_page *page, struct plm_err *err);

#endif
