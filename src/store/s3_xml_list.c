/* s3_xml_list.c - ListObjectsV2: one page of keys. */
#ifdef PLM_WITH_S3

#include "store/s3_xml_impl.h"

struct list_reader {
    const char *prefix;
    struct plm_entries *entries;
    struct plm_s3_page *page;
    size_t cap;
    bool encoded, complete;
    struct plm_entry open; /* name: the key inside a <Contents>, still raw */
    bool has_size;
};

/* Undoes encoding-type=url in place, where '+' is a blank; false on a broken escape or NUL. */
static bool decode(char *text)
{
    for (char *p = strchr(text, '+'); p; p = strchr(p, '+'))
        *p = ' ';
    return plm_percent_decode(text, true) == NULL;
}

static enum plm_code note_last(struct plm_xml *r, const char *key, struct plm_err *err)
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
static enum plm_code add_entry(struct plm_xml *r, char *key, bool is_dir, struct plm_err *err)
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
    PLM_TRY(plm_grow(r->ctx, &list->items, &l->cap, list->n, sizeof *list->items, err));
    PLM_TRY(plm_strndup(r->ctx, key + strip, n - strip, &entry.name, err));
    list->items[list->n++] = entry;
done:
    return rc;
}

static enum plm_code close_contents(struct plm_xml *r, struct plm_err *err)
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

static enum plm_code contents_leaf(struct plm_xml *r, const char *name, struct plm_err *err)
{
    struct list_reader *l = r->into;

    if (plm_xml_is(name, "Key")) {
        plm_free(r->ctx, l->open.name);
        l->open.name = NULL;
        return plm_strdup(r->ctx, r->text, &l->open.name, err);
    }
    if (plm_xml_is(name, "Size")) {
        l->has_size = plm_xml_u64(r->text, &l->open.size_bytes);
        if (!l->has_size)
            return plm_fail(err, PLM_CORRUPT, "listing has an object with a bad size");
    }
    if (plm_xml_is(name, "LastModified")) {
        l->open.modified_ms = plm_s3_time(r->text);
        if (l->open.modified_ms < 0)
            return plm_fail(err, PLM_CORRUPT, "listing has an object with a bad time");
    }
    return PLM_OK;
}

static enum plm_code list_leaf(struct plm_xml *r, const char *parent, const char *name,
                               struct plm_err *err)
{
    struct list_reader *l = r->into;

    if (r->depth == 1)
        l->complete = plm_xml_is(name, "ListBucketResult");
    else if (r->depth == 2 && plm_xml_is(name, "EncodingType"))
        l->encoded = plm_xml_is(r->text, "url");
    else if (r->depth == 2 && plm_xml_is(name, "IsTruncated"))
        l->page->truncated = plm_xml_is(r->text, "true");
    else if (r->depth == 2 && plm_xml_is(name, "NextContinuationToken") && l->page->next == NULL)
        return plm_strdup(r->ctx, r->text, &l->page->next, err);
    else if (r->depth == 2 && plm_xml_is(name, "Contents"))
        return close_contents(r, err);
    else if (r->depth == 3 && plm_xml_is(parent, "Contents"))
        return contents_leaf(r, name, err);
    else if (r->depth == 3 && plm_xml_is(parent, "CommonPrefixes") && plm_xml_is(name, "Prefix"))
        return add_entry(r, r->text, true, err);
    return PLM_OK;
}

/* S3 names the encoding before the keys, others after: found beforehand, so that the order
 * does not matter. */
static enum plm_code encoding_leaf(struct plm_xml *r, const char *parent, const char *name,
                                   struct plm_err *err)
{
    (void)parent, (void)err;
    if (r->depth == 2 && plm_xml_is(name, "EncodingType"))
        *(bool *)r->into = plm_xml_is(r->text, "url");
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
    /* What is there is full: the first addition makes room. */
    struct list_reader l = {
        .prefix = prefix, .entries = entries, .page = &got, .cap = entries->n};

    PLM_TRY(plm_xml_read(ctx, xml, n, encoding_leaf, &l.encoded, err));
    PLM_TRY(plm_xml_read(ctx, xml, n, list_leaf, &l, err));
    if (!l.complete)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "answer is no ListBucketResult"));
    if (got.truncated && (got.next == NULL || got.next[0] == 0))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "listing is cut short without a continuation token"));
    *page = got;
    got = (struct plm_s3_page){0};
done:
    plm_free(ctx, l.open.name);
    plm_s3_page_reset(ctx, &got);
    return rc;
}

#endif
