/* s3_xml.c - expat drives one small state: the path of open elements and their text. */
#ifdef PLM_WITH_S3

#include "store/s3_xml.h"

#include <expat.h>
#include <stdlib.h>

#define DEPTH_MAX 16
#define TEXT_MAX 8192

struct reader {
    struct plm_ctx *ctx;
    XML_Parser expat;
    char names[DEPTH_MAX][48]; /* open elements, without namespace prefix */
    size_t depth;
    char text[TEXT_MAX + 1];
    size_t text_len;
    /* Called when an element closes: its parent's name, its own, its text. */
    enum plm_code (*leaf)(struct reader *, const char *parent, const char *name, struct plm_err *);
    void *into;
    enum plm_code rc;
    struct plm_err *err;
};

static void stop(struct reader *r, enum plm_code rc)
{
    r->rc = rc;
    XML_StopParser(r->expat, XML_FALSE);
}

static void on_start(void *user, const XML_Char *name, const XML_Char **attributes)
{
    struct reader *r = user;
    const char *colon = strrchr(name, ':');

    (void)attributes;
    if (r->depth == DEPTH_MAX) {
        stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer is nested deeper than %d", DEPTH_MAX));
        return;
    }
    snprintf(r->names[r->depth++], sizeof r->names[0], "%s", colon ? colon + 1 : name);
    r->text_len = 0;
}

static void on_end(void *user, const XML_Char *name)
{
    struct reader *r = user;
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
    struct reader *r = user;

    if ((size_t)n > TEXT_MAX - r->text_len) {
        stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer has a text longer than %d bytes", TEXT_MAX));
        return;
    }
    memcpy(r->text + r->text_len, text, (size_t)n);
    r->text_len += (size_t)n;
}

static void on_doctype(void *user, const XML_Char *name, const XML_Char *system,
                       const XML_Char *public, int internal)
{
    struct reader *r = user;

    (void)name, (void)system, (void)public, (void)internal;
    stop(r, plm_fail(r->err, PLM_CORRUPT, "XML answer declares a document type"));
}

static enum plm_code read_xml(struct reader *r, const void *xml, size_t n, struct plm_err *err)
{
    r->err = err;
    if (n > (size_t)1 << 30)
        return plm_fail(err, PLM_CORRUPT, "XML answer of %zu bytes, expected at most 1 GiB", n);
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
    r->expat = NULL;
    return r->rc;
}

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static bool text_u64(const char *text, uint64_t *out)
{
    char *end;

    if (*text < '0' || *text > '9' || strlen(text) > 19)
        return false;
    *out = strtoull(text, &end, 10);
    return *end == 0;
}

/* ---- errors ------------------------------------------------------------------ */

struct error_reader {
    struct plm_s3_reply *reply;
    bool is_error;
};

static void copy_printable(char *to, size_t room, const char *from)
{
    size_t n = 0;

    for (; *from && n + 1 < room; from++)
        to[n++] = *from >= 32 && *from < 127 ? *from : '?';
    to[n] = 0;
}

static enum plm_code error_leaf(struct reader *r, const char *parent, const char *name,
                                struct plm_err *err)
{
    struct error_reader *e = r->into;

    (void)err;
    if (is(parent, "Error") && r->depth == 2 && is(name, "Code")) {
        copy_printable(e->reply->code, sizeof e->reply->code, r->text);
        e->is_error = true;
    } else if (is(parent, "Error") && r->depth == 2 && is(name, "Message")) {
        copy_printable(e->reply->message, sizeof e->reply->message, r->text);
    }
    return PLM_OK;
}

bool plm_s3_xml_error(struct plm_ctx *ctx, const void *xml, size_t n, struct plm_s3_reply *reply)
{
    struct error_reader e = {reply, false};
    struct reader *r = NULL;

    if (n == 0 || plm_calloc(ctx, &r, 1, sizeof *r, NULL) != PLM_OK)
        return false;
    r->ctx = ctx;
    r->leaf = error_leaf;
    r->into = &e;
    (void)!read_xml(r, xml, n, NULL); /* a body cut short still names its code */
    plm_free(ctx, r);
    return e.is_error;
}

/* ---- listings ---------------------------------------------------------------- */

struct list_reader {
    const char *prefix;
    struct plm_entries *entries;
    struct plm_s3_page *page;
    size_t cap;
    bool encoded, complete;
    struct plm_entry open; /* name: the key inside a <Contents>, still raw */
    bool has_size;
};

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes encoding-type=url in place ('+' is a blank there); false on a broken escape or NUL. */
static bool decode(char *text)
{
    char *to = text;

    for (const char *p = text; *p; p++) {
        int high, low;

        if (*p != '%') {
            *to++ = *p == '+' ? ' ' : *p;
            continue;
        }
        high = hex_value(p[1]);
        low = high < 0 ? -1 : hex_value(p[2]);
        if (low < 0 || (high == 0 && low == 0))
            return false;
        *to++ = (char)(high * 16 + low);
        p += 2;
    }
    *to = 0;
    return true;
}

static enum plm_code note_last(struct reader *r, const char *key, struct plm_err *err)
{
    struct list_reader *l = r->into;
    enum plm_code rc = PLM_OK;
    char *copy = NULL;

    if (l->page->last && strcmp(key, l->page->last) <= 0)
        return PLM_OK;
    PLM_TRY(plm_strdup(r->ctx, key, &copy, err));
    plm_free(r->ctx, l->page->last);
    l->page->last = copy;
done:
    return rc;
}

/* Adds what `key` (decoded here, in place) names below the prefix. */
static enum plm_code add_entry(struct reader *r, char *key, bool is_dir, struct plm_err *err)
{
    struct list_reader *l = r->into;
    struct plm_entries *list = l->entries;
    size_t strip = strlen(l->prefix), n;
    enum plm_code rc = PLM_OK;
    struct plm_entry entry = {.size_bytes = l->open.size_bytes,
                              .modified_ms = l->open.modified_ms, .is_dir = is_dir};

    if (l->encoded && !decode(key))
        return plm_fail(err, PLM_CORRUPT, "listing has a key with a broken %%-escape");
    n = strlen(key);
    if (n < strip || memcmp(key, l->prefix, strip) != 0)
        return plm_fail(err, PLM_CORRUPT, "listing has a key outside the prefix asked for");
    PLM_TRY(note_last(r, key, err));
    if (is_dir && n > strip && key[n - 1] == '/')
        n--;
    if (n == strip)
        return PLM_OK; /* the marker some tools leave for the directory itself */
    if (list->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : plm_max_size(64, list->n * 2);
        PLM_TRY(plm_realloc(r->ctx, &list->items, l->cap, sizeof *list->items, err));
    }
    PLM_TRY(plm_strndup(r->ctx, key + strip, n - strip, &entry.name, err));
    list->items[list->n++] = entry;
done:
    return rc;
}

static enum plm_code close_contents(struct reader *r, struct plm_err *err)
{
    struct list_reader *l = r->into;
    enum plm_code rc;

    if (l->open.name == NULL || !l->has_size)
        return plm_fail(err, PLM_CORRUPT, "listing has an object without key or size");
    rc = add_entry(r, l->open.name, false, err);
    plm_free(r->ctx, l->open.name);
    l->open = (struct plm_entry){0};
    l->has_size = false;
    return rc;
}

static enum plm_code contents_leaf(struct reader *r, const char *name, struct plm_err *err)
{
    struct list_reader *l = r->into;

    if (is(name, "Key")) {
        plm_free(r->ctx, l->open.name);
        l->open.name = NULL;
        return plm_strdup(r->ctx, r->text, &l->open.name, err);
    }
    if (is(name, "Size")) {
        l->has_size = text_u64(r->text, &l->open.size_bytes);
        if (!l->has_size)
            return plm_fail(err, PLM_CORRUPT, "listing has an object with a bad size");
    }
    if (is(name, "LastModified")) {
        l->open.modified_ms = plm_s3_time(r->text);
        if (l->open.modified_ms < 0)
            return plm_fail(err, PLM_CORRUPT, "listing has an object with a bad time");
    }
    return PLM_OK;
}

static enum plm_code list_leaf(struct reader *r, const char *parent, const char *name,
                               struct plm_err *err)
{
    struct list_reader *l = r->into;

    if (r->depth == 1)
        l->complete = is(name, "ListBucketResult");
    else if (r->depth == 2 && is(name, "EncodingType"))
        l->encoded = is(r->text, "url");
    else if (r->depth == 2 && is(name, "IsTruncated"))
        l->page->truncated = is(r->text, "true");
    else if (r->depth == 2 && is(name, "NextContinuationToken") && l->page->next == NULL)
        return plm_strdup(r->ctx, r->text, &l->page->next, err);
    else if (r->depth == 2 && is(name, "Contents"))
        return close_contents(r, err);
    else if (r->depth == 3 && is(parent, "Contents"))
        return contents_leaf(r, name, err);
    else if (r->depth == 3 && is(parent, "CommonPrefixes") && is(name, "Prefix"))
        return add_entry(r, r->text, true, err);
    return PLM_OK;
}

/* S3 names the encoding before the keys, others after: found beforehand, so that the order
 * does not matter. */
static enum plm_code encoding_leaf(struct reader *r, const char *parent, const char *name,
                                   struct plm_err *err)
{
    (void)parent, (void)err;
    if (r->depth == 2 && is(name, "EncodingType"))
        *(bool *)r->into = is(r->text, "url");
    return PLM_OK;
}

void plm_s3_page_reset(struct plm_ctx *ctx, struct plm_s3_page *page)
{
    plm_free(ctx, page->next);
    plm_free(ctx, page->last);
    *page = (struct plm_s3_page){0};
}

enum plm_code plm_s3_xml_list(struct plm_ctx *ctx, const void *xml, size_t n, const char *prefix,
                              struct plm_entries *entries, struct plm_s3_page *page,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_page got = {0};
    struct list_reader l = {.prefix = prefix, .entries = entries, .page = &got, .cap = 0};
    struct reader *r = NULL;

    PLM_TRY(plm_calloc(ctx, &r, 1, sizeof *r, err));
    r->ctx = ctx;
    r->leaf = encoding_leaf;
    r->into = &l.encoded;
    PLM_TRY(read_xml(r, xml, n, err));
    memset(r, 0, sizeof *r);
    r->ctx = ctx;
    r->leaf = list_leaf;
    r->into = &l;
    l.cap = entries->n; /* what is there is full: the first addition makes room */
    PLM_TRY(read_xml(r, xml, n, err));
    if (!l.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListBucketResult"));
    if (got.truncated && (got.next == NULL || got.next[0] == 0))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "listing is cut short without a continuation token"));
    *page = got;
    got = (struct plm_s3_page){0};
done:
    plm_free(ctx, l.open.name);
    plm_s3_page_reset(ctx, &got);
    plm_free(ctx, r);
    return rc;
}

/* ---- multipart --------------------------------------------------------------- */

static enum plm_code upload_leaf(struct reader *r, const char *parent, const char *name,
                                 struct plm_err *err)
{
    char **id = r->into;

    if (r->depth == 2 && is(parent, "InitiateMultipartUploadResult") && is(name, "UploadId") &&
        *id == NULL)
        return plm_strdup(r->ctx, r->text, id, err);
    return PLM_OK;
}

enum plm_code plm_s3_xml_upload(struct plm_ctx *ctx, const void *xml, size_t n, char **upload_id,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct reader *r = NULL;
    char *id = NULL;

    PLM_TRY(plm_calloc(ctx, &r, 1, sizeof *r, err));
    r->ctx = ctx;
    r->leaf = upload_leaf;
    r->into = &id;
    PLM_TRY(read_xml(r, xml, n, err));
    if (id == NULL || id[0] == 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer has no upload id"));
    *upload_id = id;
    id = NULL;
done:
    plm_free(ctx, id);
    plm_free(ctx, r);
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
    if (parts->n == parts->cap) {
        parts->cap = parts->cap ? parts->cap * 2 : 64;
        PLM_TRY(plm_realloc(parts->ctx, &parts->items, parts->cap, sizeof *parts->items, err));
    }
    parts->items[parts->n++] = p->open;
    p->open = (struct plm_s3_part){0};
    p->has_size = false;
done:
    return rc;
}

static enum plm_code parts_leaf(struct reader *r, const char *parent, const char *name,
                                struct plm_err *err)
{
    struct parts_reader *p = r->into;
    uint64_t number = 0;

    if (r->depth == 1)
        p->complete = strncmp(name, "ListParts", 9) == 0; /* ...Result; moto says ...Response */
    else if (r->depth == 2 && is(name, "IsTruncated"))
        p->parts->truncated = is(r->text, "true");
    else if (r->depth == 2 && is(name, "NextPartNumberMarker"))
        p->next_marker = text_u64(r->text, &number) ? number : 0;
    else if (r->depth == 2 && is(name, "Part"))
        return close_part(p, err);
    else if (r->depth != 3 || !is(parent, "Part"))
        return PLM_OK;
    else if (is(name, "Size"))
        p->has_size = text_u64(r->text, &p->open.size_bytes);
    else if (is(name, "ETag"))
        copy_printable(p->open.etag, sizeof p->open.etag, r->text);
    else if (is(name, "PartNumber")) {
        if (!text_u64(r->text, &number) || number < 1 || number > 10000)
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
    struct reader *r = NULL;
    unsigned before = parts->n ? parts->items[parts->n - 1].number : 0;

    parts->truncated = false;
    PLM_TRY(plm_calloc(parts->ctx, &r, 1, sizeof *r, err));
    r->ctx = parts->ctx;
    r->leaf = parts_leaf;
    r->into = &p;
    PLM_TRY(read_xml(r, xml, n, err));
    if (!p.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListPartsResult"));
    if (parts->truncated && (p.next_marker <= before || p.next_marker > 10000))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "list of parts does not move on from %u", before));
    parts->next_marker = (unsigned)p.next_marker;
done:
    plm_free(parts->ctx, r);
    return rc;
}

/* ---- unfinished uploads --------------------------------------------------------- */

struct uploads_reader {
    const char *prefix;
    size_t n_root;
    struct plm_uploads *uploads;
    size_t cap;
    struct plm_s3_upload_page *page;
    struct plm_upload open;
    bool complete;
};

static void free_upload(struct plm_ctx *ctx, struct plm_upload *u)
{
    plm_free(ctx, u->path);
    plm_free(ctx, u->token);
    *u = (struct plm_upload){0};
}

/* Uploads elsewhere are passed over, whatever was asked for: not ours to touch. */
static enum plm_code close_upload(struct reader *r, struct plm_err *err)
{
    struct uploads_reader *u = r->into;
    struct plm_uploads *list = u->uploads;
    size_t n = strlen(u->prefix);
    enum plm_code rc = PLM_OK;

    if (!u->open.path || !u->open.token || !*u->open.token)
        return plm_fail(err, PLM_CORRUPT, "list of uploads has one without key or id");
    if (strncmp(u->open.path, u->prefix, n) != 0 || u->open.path[n] == 0) {
        free_upload(r->ctx, &u->open);
        return PLM_OK;
    }
    memmove(u->open.path, u->open.path + u->n_root, strlen(u->open.path + u->n_root) + 1);
    if (list->n == u->cap) {
        size_t cap = 2 * u->cap + 16;

        PLM_TRY(plm_realloc(r->ctx, &list->items, cap, sizeof *list->items, err));
        u->cap = cap;
    }
    list->items[list->n++] = u->open;
    u->open = (struct plm_upload){0};
done:
    return rc;
}

static enum plm_code keep_text(struct reader *r, char **to, struct plm_err *err)
{
    return *to ? plm_fail(err, PLM_CORRUPT, "list of uploads says something twice")
               : plm_strdup(r->ctx, r->text, to, err);
}

static enum plm_code uploads_leaf(struct reader *r, const char *parent, const char *name,
                                  struct plm_err *err)
{
    struct uploads_reader *u = r->into;

    if (r->depth == 1)
        u->complete = strncmp(name, "ListMultipartUploads", 20) == 0;
    else if (r->depth == 2 && is(name, "IsTruncated"))
        u->page->truncated = is(r->text, "true");
    else if (r->depth == 2 && is(name, "NextKeyMarker") && r->text[0])
        return keep_text(r, &u->page->next_key, err);
    else if (r->depth == 2 && is(name, "NextUploadIdMarker") && r->text[0])
        return keep_text(r, &u->page->next_id, err);
    else if (r->depth == 2 && is(name, "Upload"))
        return close_upload(r, err);
    else if (r->depth != 3 || !is(parent, "Upload"))
        return PLM_OK;
    else if (is(name, "Key"))
        return keep_text(r, &u->open.path, err);
    else if (is(name, "UploadId"))
        return keep_text(r, &u->open.token, err);
    else if (is(name, "Initiated"))
        u->open.begun_ms = plm_s3_time(r->text);
    return PLM_OK;
}

void plm_s3_upload_page_reset(struct plm_ctx *ctx, struct plm_s3_upload_page *page)
{
    plm_free(ctx, page->next_key);
    plm_free(ctx, page->next_id);
    *page = (struct plm_s3_upload_page){0};
}

enum plm_code plm_s3_xml_uploads(const void *xml, size_t n, const char *prefix, const char *root,
                                 struct plm_uploads *uploads, struct plm_s3_upload_page *page,
                                 struct plm_err *err)
{
    struct plm_ctx *ctx = uploads->ctx;
    struct plm_s3_upload_page got = {0};
    struct uploads_reader u = {.prefix = prefix, .n_root = strlen(root), .uploads = uploads, .cap = uploads->n, .page = &got};
    struct reader *r = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(ctx, &r, 1, sizeof *r, err));
    r->ctx = ctx;
    r->leaf = uploads_leaf;
    r->into = &u;
    PLM_TRY(read_xml(r, xml, n, err));
    if (!u.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListMultipartUploadsResult"));
    if (got.truncated && (!got.next_key || !got.next_id))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "list of uploads is cut short without a marker"));
    *page = got;
    got = (struct plm_s3_upload_page){0};
done:
    free_upload(ctx, &u.open);
    plm_s3_upload_page_reset(ctx, &got);
    plm_free(ctx, r);
    return rc;
}

#endif
