/* s3_xml.c - expat drives one small state (s3_xml_impl.h); the answer that says what went wrong. */
#ifdef PLM_WITH_S3

#include "store/s3_xml_impl.h"

#include <expat.h>
#include <stdlib.h>

#define XML_BYTES_MAX ((size_t)1 << 30)

static void stop(struct plm_xml *r, enum plm_code rc)
{
    r->rc = rc;
    XML_StopParser(r->expat, XML_FALSE);
}

static void on_start(void *user, const XML_Char *name, const XML_Char **attributes)
{
    struct plm_xml *r = user;
    const char *colon = strrchr(name, ':');

    (void)attributes;
    if (r->depth == PLM_XML_DEPTH_MAX) {
        stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer is nested deeper than %d",
                         PLM_XML_DEPTH_MAX));
        return;
    }
    snprintf(r->names[r->depth++], sizeof r->names[0], "%s", colon ? colon + 1 : name);
    r->text_len = 0;
}

static void on_end(void *user, const XML_Char *name)
{
    struct plm_xml *r = user;
    const char *parent = r->depth > 1 ? r->names[r->depth - 2] : "";
    enum plm_code rc;

    (void)name;
    r->text[r->text_len] = 0;
    rc = r->leaf(r, parent, r->names[r->depth - 1], r->err);
    r->depth--;
    r->text_len = 0;
    if (rc != PLM_OK)
        stop(r, rc);
}

static void on_text(void *user, const XML_Char *text, int n)
{
    struct plm_xml *r = user;

    if ((size_t)n > PLM_XML_TEXT_MAX - r->text_len) {
        stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer has a text longer than %d bytes",
                         PLM_XML_TEXT_MAX));
        return;
    }
    memcpy(r->text + r->text_len, text, (size_t)n);
    r->text_len += (size_t)n;
}

static void on_doctype(void *user, const XML_Char *name, const XML_Char *system,
                       const XML_Char *public, int internal)
{
    struct plm_xml *r = user;

    (void)name, (void)system, (void)public, (void)internal;
    stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer declares a document type"));
}

static enum plm_code drive(struct plm_xml *r, const void *xml, size_t n, struct plm_err *err)
{
    r->expat = XML_ParserCreate(NULL);
    if (r->expat == NULL)
        return plm_fail(err, PLM_NOMEM, "out of memory in the XML reader");
    XML_SetUserData(r->expat, r);
    XML_SetElementHandler(r->expat, on_start, on_end);
    XML_SetCharacterDataHandler(r->expat, on_text);
    XML_SetStartDoctypeDeclHandler(r->expat, on_doctype);
    if (XML_Parse(r->expat, xml, (int)n, 1) != XML_STATUS_OK && r->rc == PLM_OK)
        r->rc = plm_fail(err, PLM_CORRUPT, "XML answer is broken at byte %lld: %s",
                         (long long)XML_GetCurrentByteIndex(r->expat),
                         XML_ErrorString(XML_GetErrorCode(r->expat)));
    XML_ParserFree(r->expat);
    return r->rc;
}

enum plm_code plm_xml_read(struct plm_ctx *ctx, const void *xml, size_t n, plm_xml_leaf *leaf,
                           void *into, struct plm_err *err)
{
    struct plm_xml *r = NULL; /* too large for the stack of a host's thread */
    enum plm_code rc = plm_calloc(ctx, &r, 1, sizeof *r, err);

    if (rc != PLM_OK)
        return rc;
    r->ctx = ctx;
    r->leaf = leaf;
    r->into = into;
    r->err = err;
    rc = n > XML_BYTES_MAX ? plm_fail(err, PLM_CORRUPT,
                                      "XML answer of %zu bytes, expected at most 1 GiB", n)
                           : drive(r, xml, n, err);
    plm_free(ctx, r);
    return rc;
}

bool plm_xml_u64(const char *text, uint64_t *out)
{
    char *end;

    if (*text < '0' || *text > '9' || strlen(text) > 19)
        return false;
    *out = strtoull(text, &end, 10);
    return *end == 0;
}

void plm_xml_copy(char *to, size_t room, const char *from)
{
    size_t n = 0;

    for (; *from && n + 1 < room; from++)
        to[n++] = *from >= 32 && *from < 127 ? *from : '?';
    to[n] = 0;
}

/* ---- errors ------------------------------------------------------------------ */

struct error_reader {
    struct plm_s3_reply *reply;
    bool is_error;
};

static enum plm_code error_leaf(struct plm_xml *r, const char *parent, const char *name,
                                struct plm_err *err)
{
    struct error_reader *e = r->into;

    (void)err;
    if (plm_xml_is(parent, "Error") && r->depth == 2 && plm_xml_is(name, "Code")) {
        plm_xml_copy(e->reply->code, sizeof e->reply->code, r->text);
        e->is_error = true;
    } else if (plm_xml_is(parent, "Error") && r->depth == 2 && plm_xml_is(name, "Message")) {
        plm_xml_copy(e->reply->message, sizeof e->reply->message, r->text);
    }
    return PLM_OK;
}

bool plm_s3_xml_error(struct plm_ctx *ctx, const void *xml, size_t n, struct plm_s3_reply *reply)
{
    struct error_reader e = {reply, false};

    if (n > 0)
        (void)!plm_xml_read(ctx, xml, n, error_leaf, &e, NULL); /* a body cut short names its code */
    return e.is_error;
}

#endif
