/* s3_xml_impl.h - what the readers of answers share: the open elements and their text. */
#ifndef PLM_S3_XML_IMPL_H
#define PLM_S3_XML_IMPL_H

#include "store/s3_xml.h"
#include "store/store_impl.h"

#define PLM_XML_DEPTH_MAX 16
#define PLM_XML_TEXT_MAX 8192

struct plm_xml;
/* Called when an element closes: its parent's name and its own; its text is xml->text, and it still
 * counts in xml->depth. */
typedef enum plm_code plm_xml_leaf(struct plm_xml *xml, const char *parent, const char *name,
                                   struct plm_err *err);

struct plm_xml {
    struct plm_ctx *ctx;
    void *into;                        /* the leaf's */
    char names[PLM_XML_DEPTH_MAX][48]; /* open elements, without namespace prefix */
    size_t depth;
    char text[PLM_XML_TEXT_MAX + 1];
    size_t text_len;
    plm_xml_leaf *leaf;
    struct XML_ParserStruct *expat;
    enum plm_code rc;
    struct plm_err *err;
};

/* Reads an answer; ends at the first failure of its leaf. */
PLM_MUST_CHECK enum plm_code
plm_xml_read(struct plm_ctx *ctx, const void *xml, size_t n, plm_xml_leaf *leaf, void *into,
             struct plm_err *err);
/* A decimal number below 10^19 and nothing else. */
bool plm_xml_u64(const char *text, uint64_t *out);
/* What fits, with '?' for what is not printable ASCII. */
void plm_xml_copy(char *to, size_t room, const char *from);
static inline bool plm_xml_is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

#endif
