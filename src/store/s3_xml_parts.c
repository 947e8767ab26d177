/* s3_xml_parts.c - a multipart upload: its id, and the parts that are there. */
#ifdef PLM_WITH_S3

#include "store/s3_xml_impl.h"

static enum plm_code upload_leaf(struct plm_xml *r, const char *parent, const char *name,
                                 struct plm_err *err)
{
    char **id = r->into;

    if (r->depth == 2 && plm_xml_is(parent, "InitiateMultipartUploadResult") &&
        plm_xml_is(name, "UploadId") && *id == NULL)
        return plm_strdup(r->ctx, r->text, id, err);
    return PLM_OK;
}

enum plm_code plm_s3_xml_upload(struct plm_ctx *ctx, const void *xml, size_t n, char **upload_id,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *id = NULL;

    PLM_TRY(plm_xml_read(ctx, xml, n, upload_leaf, &id, err));
    if (id == NULL || id[0] == 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer has no upload id"));
    *upload_id = id;
    id = NULL;
done:
    plm_free(ctx, id);
    return rc;
}

struct parts_reader {
    struct plm_s3_parts *parts;
    struct plm_s3_part open;
    uint64_t next_marker;
    bool has_size, complete;
};

static enum plm_code close_part(struct parts_reader *p, struct plm_err *err)
{
    struct plm_s3_parts *parts = p->parts;
    enum plm_code rc = PLM_OK;

    if (p->open.number == 0 || p->open.etag[0] == 0 || !p->has_size)
        return plm_fail(err, PLM_CORRUPT, "list of parts has one without number, size or tag");
    if (parts->n > 0 && parts->items[parts->n - 1].number >= p->open.number)
        return plm_fail(err, PLM_CORRUPT, "list of parts is not ascending: %u after %u",
                        p->open.number, parts->items[parts->n - 1].number);
    PLM_TRY(plm_grow(parts->ctx, &parts->items, &parts->cap, parts->n, sizeof *parts->items, err));
    parts->items[parts->n++] = p->open;
    p->open = (struct plm_s3_part){0};
    p->has_size = false;
done:
    return rc;
}

static enum plm_code parts_leaf(struct plm_xml *r, const char *parent, const char *name,
                                struct plm_err *err)
{
    struct parts_reader *p = r->into;
    uint64_t number = 0;

    if (r->depth == 1)
        p->complete = strncmp(name, "ListParts", 9) == 0; /* ...Result; moto says ...Response */
    else if (r->depth == 2 && plm_xml_is(name, "IsTruncated"))
        p->parts->truncated = plm_xml_is(r->text, "true");
    else if (r->depth == 2 && plm_xml_is(name, "NextPartNumberMarker"))
        p->next_marker = plm_xml_u64(r->text, &number) ? number : 0;
    else if (r->depth == 2 && plm_xml_is(name, "Part"))
        return close_part(p, err);
    else if (r->depth != 3 || !plm_xml_is(parent, "Part"))
        return PLM_OK;
    else if (plm_xml_is(name, "Size"))
        p->has_size = plm_xml_u64(r->text, &p->open.size_bytes);
    else if (plm_xml_is(name, "ETag"))
        plm_xml_copy(p->open.etag, sizeof p->open.etag, r->text);
    else if (plm_xml_is(name, "PartNumber")) {
        if (!plm_xml_u64(r->text, &number) || number < 1 || number > 10000)
            return plm_fail(err, PLM_CORRUPT, "list of parts has a number outside 1..10000");
        p->open.number = (unsigned)number;
    }
    return PLM_OK;
}

enum plm_code plm_s3_xml_parts(const void *xml, size_t n, struct plm_s3_parts *parts,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct parts_reader p = {.parts = parts};
    unsigned before = parts->next_marker;

    parts->truncated = false;
    PLM_TRY(plm_xml_read(parts->ctx, xml, n, parts_leaf, &p, err));
    if (!p.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListPartsResult"));
    if (parts->truncated && (p.next_marker <= before || p.next_marker > 10000))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "list of parts does not move on from %u", before));
    parts->next_marker = (unsigned)p.next_marker;
done:
    return rc;
}

#endif
