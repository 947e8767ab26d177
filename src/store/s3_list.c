/* s3_list.c - listings page by page, and the removal of everything below a name. */
#ifdef PLM_WITH_S3

#include "store/s3.h"
#include "store/s3_xml.h"

#include <stdlib.h>

#define PAGE_KEYS 1000
/* A page of 1000 keys of 1 KiB, each byte escaped. */
#define PAGE_BYTES_MAX ((size_t)8 << 20)

static void add_query(struct plm_s3_request *q, const char *name, const char *value)
{
    PLM_ASSERT(q->n_query < sizeof q->query / sizeof *q->query);
    q->query[q->n_query++] = (struct plm_s3_pair){name, value};
}

/* One page of the keys that start with `prefix`, names cut by `strip` bytes' worth of it. */
static enum plm_code list_page(struct plm_s3 *s3, const char *prefix, const char *strip,
                               const char *delimiter, unsigned max_keys, const char *token,
                               struct plm_entries *entries, struct plm_s3_page *page,
                               struct plm_err *err)
{
    struct plm_ctx *ctx = s3->base.ctx;
    enum plm_code rc = PLM_OK;
    struct plm_buf xml;
    struct plm_s3_request q = {.method = "GET", .into = &xml, .is_list = true};
    char keys[16];

    plm_buf_init(&xml, ctx, PAGE_BYTES_MAX);
    snprintf(keys, sizeof keys, "%u", max_keys);
    add_query(&q, "list-type", "2");
    add_query(&q, "encoding-type", "url");
    add_query(&q, "max-keys", keys);
    add_query(&q, "prefix", prefix);
    if (delimiter)
        add_query(&q, "delimiter", delimiter);
    if (token)
        add_query(&q, "continuation-token", token);
    PLM_TRY(plm_s3_one(&s3->client, &q, err));
    rc = plm_s3_xml_list(ctx, xml.data, xml.len, strip, entries, page, err);
    if (rc)
        rc = plm_wrap(err, rc, "s3://%s/%s: list", s3->client.config.bucket, prefix);
done:
    plm_buf_reset(&xml);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct plm_entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* S3 sorts a directory as "name/", we as "name". So a directory D yet to come may belong in
 * front of a listed name that continues D with a character below '/'; it cannot any more once
 * the listing is past "D/". `last`: the greatest key seen, without the prefix. */
static bool is_settled(const struct plm_entries *entries, size_t limit, const char *last)
{
    for (size_t i = 0; i < limit; i++) {
        const char *name = entries->items[i].name;

        for (size_t n = 1; name[n]; n++)
            if ((unsigned char)name[n] < '/' && strncmp(last, name, n) == 0 &&
                (unsigned char)last[n] < '/')
                return false;
    }
    return true;
}

static enum plm_code next_token(char **token, struct plm_s3_page *page, struct plm_ctx *ctx,
                                struct plm_err *err)
{
    if (*token && page->next && strcmp(*token, page->next) == 0)
        return plm_fail(err, PLM_CORRUPT, "listing repeats its continuation token");
    plm_free(ctx, *token);
    *token = page->next;
    page->next = NULL;
    return PLM_OK;
}

enum plm_code plm_s3_list(struct plm_store *store, const char *dir, size_t limit,
                          struct plm_entries *out, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    enum plm_code rc = PLM_OK;
    struct plm_s3_request q = {0}; /* for its key */
    struct plm_entries entries = {.ctx = store->ctx};
    struct plm_s3_page page = {0};
    char *token = NULL;
    /* Some more than asked settle the order in one request, see is_settled(). */
    unsigned max_keys = limit > 0 && limit < PAGE_KEYS - 32 ? (unsigned)limit + 32 : PAGE_KEYS;
    size_t n;

    PLM_TRY(plm_s3_key(s3, dir, &q, err));
    n = strlen(q.key);
    if (n + 1 >= sizeof q.key)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3://%s/%s: directory name too long",
                         s3->client.config.bucket, q.key));
    if (n > 0)
        memcpy(q.key + n++, "/", 2);
    for (;;) {
        plm_s3_page_reset(store->ctx, &page);
        PLM_TRY(list_page(s3, q.key, q.key, "/", max_keys, token, &entries, &page, err));
        if (entries.n > 1)
            qsort(entries.items, entries.n, sizeof *entries.items, by_name);
        if (!page.truncated || (limit > 0 && entries.n >= limit && page.last &&
                                is_settled(&entries, limit, page.last + n)))
            break;
        PLM_TRY(next_token(&token, &page, store->ctx, err));
    }
    *out = entries;
    entries = (struct plm_entries){0};
done:
    plm_free(store->ctx, token);
    plm_s3_page_reset(store->ctx, &page);
    plm_entries_reset(&entries);
    return rc;
}

/* ---- deleting a tree ------------------------------------------------------------ */

struct doomed {
    struct plm_s3 *s3;
    struct plm_entries entries; /* names below the root */
};

static enum plm_code fill_delete(void *arg, size_t i, struct plm_s3_request *q, struct plm_err *err)
{
    struct doomed *doomed = arg;

    q->method = "DELETE";
    return plm_s3_key(doomed->s3, doomed->entries.items[i].name, q, err);
}

/* Keys that the server puts in our hand must lie where we asked. */
static enum plm_code check_doomed(const struct doomed *doomed, const char *dir, struct plm_err *err)
{
    size_t n = strlen(dir);

    for (size_t i = 0; i < doomed->entries.n; i++) {
        const char *name = doomed->entries.items[i].name;

        if (strncmp(name, dir, n) != 0 || name[n] != '/')
            return plm_fail(err, PLM_CORRUPT, "listing of \"%s\" has the key \"%.200s\"", dir, name);
    }
    return PLM_OK;
}

enum plm_code plm_s3_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    enum plm_code rc = PLM_OK;
    struct doomed doomed = {.s3 = s3, .entries = {.ctx = store->ctx}};
    struct plm_s3_batch batch = {.arg = &doomed, .fill = fill_delete};
    struct plm_s3_page page = {0};
    char *token = NULL, *prefix = NULL, *strip = NULL;
    const char *root = s3->client.config.prefix;

    PLM_TRY(plm_format(store->ctx, &strip, err, "%s%s", root, *root ? "/" : ""));
    PLM_TRY(plm_format(store->ctx, &prefix, err, "%s%s/", strip, dir));
    do {
        plm_s3_page_reset(store->ctx, &page);
        plm_entries_reset(&doomed.entries);
        doomed.entries.ctx = store->ctx;
        PLM_TRY(list_page(s3, prefix, strip, NULL, PAGE_KEYS, token, &doomed.entries, &page, err));
        PLM_TRY(check_doomed(&doomed, dir, err));
        batch.n = doomed.entries.n;
        PLM_TRY(plm_s3_run(&s3->client, &batch, err));
        PLM_TRY(next_token(&token, &page, store->ctx, err));
    } while (page.truncated);
done:
    plm_s3_page_reset(store->ctx, &page);
    plm_entries_reset(&doomed.entries);
    plm_free(store->ctx, token);
    plm_free(store->ctx, prefix);
    plm_free(store->ctx, strip);
    return rc;
}

#endif
