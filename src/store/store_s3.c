/* store_s3.c - the calls of store_impl.h over S3 requests. */
#ifdef PLM_WITH_S3

#include "store/s3_xml.h"
#include "store/s3.h"

#include <stdlib.h>

/* One PUT may carry 5 GiB; the server's copy the same. */
#define PUT_BYTES_MAX ((uint64_t)5 << 30)
#define PAGE_KEYS 1000
/* A page of 1000 keys of 1 KiB, each byte escaped. */
#define PAGE_BYTES_MAX ((size_t)8 << 20)

static struct plm_s3 *s3_of(struct plm_store *store)
{
    return (struct plm_s3 *)store;
}

enum plm_code plm_s3_key(const struct plm_s3 *s3, const char *path, struct plm_s3_request *request,
                         struct plm_err *err)
{
    const char *prefix = s3->client.config.prefix;
    int n = snprintf(request->key, sizeof request->key, "%s%s%s", prefix, *prefix && *path ? "/" : "",
                     path);

    if (n < 0 || (size_t)n >= sizeof request->key)
        return plm_fail(err, PLM_ARG, "s3://%s/%.100s...: the key is %d bytes long, S3 takes %d",
                        s3->client.config.bucket, prefix, n, PLM_S3_KEY_BYTES_MAX);
    return PLM_OK;
}

static void add_query(struct plm_s3_request *q, const char *name, const char *value)
{
    PLM_ASSERT(q->n_query < sizeof q->query / sizeof *q->query);
    q->query[q->n_query++] = (struct plm_s3_pair){name, value};
}

/* ---- reading ------------------------------------------------------------------- */

struct s3_file {
    struct plm_file base;
    char key[PLM_S3_KEY_BYTES_MAX + 1];
    char etag[160]; /* "" = unknown */
    struct plm_s3_windows windows;
};

static enum plm_code head(struct plm_s3 *s3, const char *path, struct plm_s3_request *q,
                          struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *q = (struct plm_s3_request){.method = "HEAD"};
    PLM_TRY(plm_s3_key(s3, path, q, err));
    PLM_TRY(plm_s3_one(&s3->client, q, err));
    if (!q->reply.has_length)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "s3://%s/%s: HEAD answer has no Content-Length",
                         s3->client.config.bucket, q->key));
done:
    return rc;
}

static enum plm_code s3_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                             struct plm_err *err)
{
    struct plm_s3_request q;
    enum plm_code rc = head(s3_of(store), path, &q, err);

    if (rc == PLM_OK)
        *size_bytes = q.reply.length;
    return rc;
}

static void s3_file_close(struct plm_file *file)
{
    struct plm_ctx *ctx;

    if (file == NULL)
        return;
    ctx = file->store->ctx;
    plm_s3_windows_forget(&s3_of(file->store)->shelf, &((struct s3_file *)file)->windows);
    plm_free(ctx, file->name);
    plm_free(ctx, file);
}

static enum plm_code s3_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                  struct plm_file **out, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    enum plm_code rc = PLM_OK;
    struct s3_file *file = NULL;
    struct plm_s3_request q = {0};

    PLM_TRY(plm_calloc(store->ctx, &file, 1, sizeof *file, err));
    file->base.store = store;
    file->base.size_bytes = size_bytes;
    if (size_bytes == 0) {
        PLM_TRY(head(s3, path, &q, err));
        file->base.size_bytes = q.reply.length;
        if (q.reply.etag[0] == '"') /* a weak one never matches */
            memcpy(file->etag, q.reply.etag, sizeof file->etag);
    }
    PLM_TRY(plm_s3_key(s3, path, &q, err));
    memcpy(file->key, q.key, sizeof file->key);
    PLM_TRY(plm_format(store->ctx, &file->base.name, err, "s3://%s/%s", s3->client.config.bucket,
                       q.key));
    *out = &file->base;
    file = NULL;
done:
    s3_file_close(file ? &file->base : NULL);
    return rc;
}

/* One GET: bytes first..+n of the object, cut into pieces[0..n_pieces). */
struct job {
    uint64_t first, n_bytes;
    const struct plm_range *pieces;
    size_t n_pieces;
    struct plm_s3_window *window; /* the job fetches it; else NULL */
};
struct plan {
    struct s3_file *file;
    struct plm_range *sorted;
    struct job *jobs;
    size_t n_jobs, jobs_cap;
};

static int by_offset(const void *a, const void *b)
{
    const struct plm_range *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static enum plm_code add_job(struct plan *plan, struct job job, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (plan->n_jobs == plan->jobs_cap) {
        plan->jobs_cap = plan->jobs_cap ? plan->jobs_cap * 2 : 16;
        PLM_TRY(plm_realloc(plan->file->base.store->ctx, &plan->jobs, plan->jobs_cap, sizeof *plan->jobs,
                            err));
    }
    plan->jobs[plan->n_jobs++] = job;
done:
    return rc;
}

/* The stretch from..to, which pieces[0..n) lie in, as jobs of about equal length. */
static enum plm_code add_jobs(struct plan *plan, uint64_t from, uint64_t to,
                              const struct plm_range *pieces, size_t n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t n_parts = plm_max_u64(1, (to - from) / PLM_S3_PIECE_BYTES);
    uint64_t part = (to - from + n_parts - 1) / n_parts;

    for (uint64_t at = from; at < to; at += part) {
        struct job job = {at, plm_min_u64(part, to - at), pieces, n, NULL};

        while (job.n_pieces > 0 && job.pieces->offset + job.pieces->len <= at)
            job.pieces++, job.n_pieces--;
        pieces = job.pieces;
        n = job.n_pieces;
        PLM_TRY(add_job(plan, job, err));
    }
done:
    return rc;
}

/* Jobs for ranges that no window holds: near ones together. */
static enum plm_code add_ranges(struct plan *plan, const struct plm_range *ranges, size_t n,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t begin = 0;
    uint64_t end;

    if (n == 0)
        return PLM_OK;
    PLM_TRY(plm_alloc(plan->file->base.store->ctx, &plan->sorted, n, sizeof *ranges, err));
    memcpy(plan->sorted, ranges, n * sizeof *ranges);
    qsort(plan->sorted, n, sizeof *ranges, by_offset);
    end = plan->sorted[0].offset + plan->sorted[0].len;
    for (size_t i = 1; i < n; i++) {
        const struct plm_range *r = &plan->sorted[i];

        if (r->offset > end && r->offset - end > PLM_S3_GAP_BYTES) {
            PLM_TRY(add_jobs(plan, plan->sorted[begin].offset, end, plan->sorted + begin, i - begin,
                             err));
            begin = i;
            end = r->offset;
        }
        end = plm_max_u64(end, r->offset + r->len);
    }
    PLM_TRY(add_jobs(plan, plan->sorted[begin].offset, end, plan->sorted + begin, n - begin, err));
done:
    return rc;
}

static enum plm_code fill_job(void *arg, size_t i, struct plm_s3_request *q, struct plm_err *err)
{
    const struct plan *plan = arg;
    const struct job *job = &plan->jobs[i];

    (void)err;
    q->method = "GET";
    memcpy(q->key, plan->file->key, sizeof q->key);
    q->if_match = plan->file->etag[0] ? plan->file->etag : NULL;
    q->ranged = true;
    q->first = job->first;
    q->n_bytes = job->n_bytes;
    q->object_bytes = plan->file->base.size_bytes;
    q->pieces = job->pieces;
    q->n_pieces = job->n_pieces;
    return PLM_OK;
}

static enum plm_code job_done(void *arg, size_t i, struct plm_s3_request *q, struct plm_err *err)
{
    const struct plan *plan = arg;

    (void)q, (void)err;
    if (plan->jobs[i].window)
        plm_s3_window_came(&s3_of(plan->file->base.store)->shelf, plan->jobs[i].window);
    return PLM_OK;
}

/* Fetches windows and ranges; places: room for one range for each window. */
static enum plm_code fetch(struct s3_file *file, struct plm_s3_window *const *windows, size_t n_windows,
                           struct plm_range *places, const struct plm_range *ranges, size_t n,
                           struct plm_err *err)
{
    struct plan plan = {.file = file};
    struct plm_s3_batch batch = {.arg = &plan, .fill = fill_job, .done = job_done};
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < n_windows; i++) {
        struct plm_s3_window *w = windows[i];

        places[i] = (struct plm_range){w->from, (size_t)(w->to - w->from), w->bytes};
        PLM_TRY(add_job(&plan, (struct job){w->from, w->to - w->from, &places[i], 1, w}, err));
    }
    PLM_TRY(add_ranges(&plan, ranges, n, err));
    batch.n = plan.n_jobs;
    PLM_TRY(plm_s3_run(&s3_of(file->base.store)->client, &batch, err));
done:
    plm_free(file->base.store->ctx, plan.jobs);
    plm_free(file->base.store->ctx, plan.sorted);
    return rc;
}

static enum plm_code s3_file_read_ranges(struct plm_file *base, const struct plm_range *ranges,
                                         size_t n, struct plm_err *err)
{
    struct s3_file *file = (struct s3_file *)base;
    struct plm_s3_shelf *shelf = &s3_of(base->store)->shelf;
    struct plm_s3_served served = {0};
    struct plm_range *places = NULL;
    size_t n_again = 0;
    enum plm_code rc = PLM_OK;

    if (file->windows.n == 0)
        return fetch(file, NULL, 0, NULL, ranges, n, err);
    PLM_TRY(plm_s3_windows_begin(shelf, &file->windows, ranges, n, &served, err));
    rc = plm_alloc(base->store->ctx, &places, served.n_mine, sizeof *places, err);
    if (rc == PLM_OK)
        rc = fetch(file, served.mine, served.n_mine, places, served.rest, served.n_rest, err);
    rc = plm_s3_windows_finish(shelf, &file->windows, rc, &served, &n_again, err);
    if (rc == PLM_OK && n_again > 0)
        rc = fetch(file, NULL, 0, NULL, served.served, n_again, err);
done:
    plm_free(base->store->ctx, places);
    plm_s3_served_reset(shelf, &served);
    return rc;
}

static void s3_file_expect(struct plm_file *base, const struct plm_range *ranges, size_t n)
{
    struct s3_file *file = (struct s3_file *)base;

    plm_s3_windows_expect(&s3_of(base->store)->shelf, &file->windows, ranges, n);
}

static void s3_keep(struct plm_store *store, uint64_t bytes)
{
    struct plm_s3_shelf *shelf = &s3_of(store)->shelf;

    pthread_mutex_lock(&shelf->lock);
    shelf->keep_bytes = bytes;
    pthread_mutex_unlock(&shelf->lock);
}

static enum plm_code s3_get(struct plm_store *store, const char *path, struct plm_buf *buf,
                            struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    struct plm_s3_request q = {.method = "GET", .into = buf};
    size_t before = buf->len;
    enum plm_code rc = plm_s3_key(s3, path, &q, err);

    if (rc == PLM_OK)
        rc = plm_s3_one(&s3->client, &q, err);
    if (rc != PLM_OK)
        buf->len = before;
    return rc;
}

/* ---- listing ------------------------------------------------------------------- */

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

static enum plm_code s3_list(struct plm_store *store, const char *dir, size_t limit,
                             struct plm_entries *out, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
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
        PLM_TRY(plm_fail(err, PLM_ARG, "s3://%s/%s: directory name too long", s3->client.config.bucket,
                         q.key));
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

/* ---- writing ------------------------------------------------------------------- */

static enum plm_code put_request(struct plm_s3 *s3, const char *path, const void *bytes, size_t n,
                                 bool if_absent, struct plm_s3_request *q, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *q = (struct plm_s3_request){.method = "PUT", .body = bytes, .body_bytes = n,
                                 .if_absent = if_absent};
    PLM_TRY(plm_s3_key(s3, path, q, err));
    if (n > PUT_BYTES_MAX)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3://%s/%s: %zu bytes in one PUT, S3 takes 5 GiB",
                         s3->client.config.bucket, q->key, n));
    PLM_TRY(plm_s3_one(&s3->client, q, err));
done:
    return rc;
}

static enum plm_code s3_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    struct plm_s3_request q = {.method = "DELETE"};
    enum plm_code rc = plm_s3_key(s3, path, &q, err);

    if (rc == PLM_OK)
        rc = plm_s3_one(&s3->client, &q, err);
    return rc == PLM_NOT_FOUND && strcmp(q.reply.code, "NoSuchBucket") != 0 ? PLM_OK : rc;
}

static enum plm_code ignored_condition(struct plm_s3 *s3, const char *seen, struct plm_err *err)
{
    return plm_fail(err, PLM_UNSUPPORTED,
                    "s3://%s: this endpoint does not keep conditional writes (If-None-Match): %s; "
                    "committing there could lose another writer's version, so it is refused",
                    s3->client.config.bucket, seen);
}

/* Writes one fresh key twice under the condition: 200, then 412. */
static enum plm_code probe_key(struct plm_s3 *s3, const char *path, const void *bytes, size_t n,
                               struct plm_err *err)
{
    struct plm_err local;
    struct plm_s3_request q;
    enum plm_code rc = put_request(s3, path, bytes, n, true, &q, &local);

    if (rc == PLM_OK)
        rc = put_request(s3, path, bytes, n, true, &q, &local);
    else if (rc == PLM_CONFLICT)
        return ignored_condition(s3, "a key that is not there counts as present", err);
    else
        goto other;
    if (rc == PLM_OK)
        return ignored_condition(s3, "a key was written twice", err);
    if (rc == PLM_CONFLICT || (rc == PLM_RETRY && q.reply.status == 412))
        return PLM_OK;
other:
    if (q.reply.status == 501 || q.reply.status == 400)
        return ignored_condition(s3, local.message, err);
    if (err)
        *err = local;
    return rc;
}

static void remove_probe(struct plm_s3 *s3, const char *path)
{
    struct plm_err ignored;
    enum plm_code gone = s3_delete(&s3->base, path, &ignored);

    if (gone != PLM_OK && gone != PLM_CANCELLED)
        plm_warn(s3->base.ctx, "the probe object stays behind: %s", ignored.message);
}

/* An unclear answer (reset, time-out) is asked again with another key. */
static enum plm_code probe(struct plm_s3 *s3, struct plm_err *err)
{
    static const char bytes[] = "pilum asks whether conditional writes work here\n";
    enum plm_code rc = PLM_OK;
    uint8_t uuid[16];
    char text[37], path[64];

    for (int i = 0; i < 4; i++) {
        rc = plm_uuid_random(uuid, err);
        if (rc)
            return rc;
        plm_uuid_text(uuid, text);
        snprintf(path, sizeof path, "_pilum/probe-%s", text);
        rc = probe_key(s3, path, bytes, sizeof bytes - 1, err);
        remove_probe(s3, path);
        if (rc != PLM_RETRY)
            break;
    }
    return rc ? plm_wrap(err, rc, "asking whether conditional writes work") : PLM_OK;
}

static enum plm_code make_sure_of_conditions(struct plm_s3 *s3, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&s3->probe_lock);
    if (!s3->conditional_works)
        rc = probe(s3, err);
    s3->conditional_works = s3->conditional_works || rc == PLM_OK;
    pthread_mutex_unlock(&s3->probe_lock);
    return rc;
}

/* An object there already (of an earlier try) or an unclear answer tells nothing: then it is put
 * without condition, and the next conditional write probes with a key of its own. */
static enum plm_code s3_put_probing(struct plm_store *store, const char *path, const void *bytes,
                                    size_t n, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    struct plm_s3_request q;
    struct plm_err local;
    enum plm_code rc = PLM_RETRY;

    pthread_mutex_lock(&s3->probe_lock);
    if (!s3->conditional_works)
        rc = probe_key(s3, path, bytes, n, &local);
    s3->conditional_works = s3->conditional_works || rc == PLM_OK;
    pthread_mutex_unlock(&s3->probe_lock);
    if (rc == PLM_OK || rc == PLM_CANCELLED) {
        if (rc && err)
            *err = local;
        return rc;
    }
    if (rc == PLM_UNSUPPORTED) { /* or a copy of an earlier process lies there: a fresh key will tell */
        rc = make_sure_of_conditions(s3, err);
        if (rc != PLM_OK) {
            remove_probe(s3, path);
            return rc;
        }
    }
    return put_request(s3, path, bytes, n, false, &q, err);
}

static enum plm_code s3_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                            bool if_absent, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    struct plm_s3_request q;
    enum plm_code rc = if_absent ? make_sure_of_conditions(s3, err) : PLM_OK;

    return rc ? rc : put_request(s3, path, bytes, n, if_absent, &q, err);
}

enum plm_code plm_s3_copy(struct plm_store *store, const char *from, const char *to,
                          struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
    enum plm_code rc = PLM_OK;
    struct plm_buf xml, source;
    struct plm_s3_request q = {.method = "PUT", .error_in_200 = true, .slow_answer = true,
                               .into = &xml};

    plm_buf_init(&xml, store->ctx, 64 << 10);
    plm_buf_init(&source, store->ctx, 8 << 10);
    PLM_TRY(plm_s3_key(s3, from, &q, err));
    PLM_TRY(plm_buf_add(&source, "/", 1, err));
    PLM_TRY(plm_s3_encode(&source, s3->client.config.bucket, false, err));
    PLM_TRY(plm_buf_add(&source, "/", 1, err));
    PLM_TRY(plm_s3_encode(&source, q.key, true, err));
    PLM_TRY(plm_buf_add(&source, "", 1, err));
    q.copy_source = (const char *)source.data;
    PLM_TRY(plm_s3_key(s3, to, &q, err));
    PLM_TRY(plm_s3_one(&s3->client, &q, err));
done:
    plm_buf_reset(&xml);
    plm_buf_reset(&source);
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

static enum plm_code s3_delete_tree(struct plm_store *store, const char *dir, struct plm_err *err)
{
    struct plm_s3 *s3 = s3_of(store);
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

/* ---- opening -------------------------------------------------------------------- */

static void s3_close(struct plm_store *store)
{
    struct plm_s3 *s3 = s3_of(store);
    struct plm_ctx *ctx = store->ctx;

    plm_s3_client_reset(&s3->client);
    plm_s3_shelf_reset(&s3->shelf);
    pthread_mutex_destroy(&s3->probe_lock);
    plm_store_options_free(ctx, store->options);
    plm_free(ctx, store->uri);
    plm_free(ctx, s3);
}

static const struct plm_store_ops s3_ops = {
    .close = s3_close,
    .file_open = s3_file_open,
    .file_read_ranges = s3_file_read_ranges,
    .file_expect = s3_file_expect,
    .keep = s3_keep,
    .file_close = s3_file_close,
    .size = s3_size,
    .list = s3_list,
    .put = s3_put,
    .put_probing = s3_put_probing,
    .del = s3_delete,
    .delete_tree = s3_delete_tree,
    .writer_open = plm_s3_writer_open,
    .writer_write = plm_s3_writer_write,
    .writer_finish = plm_s3_writer_finish,
    .writer_close = plm_s3_writer_close,
    .uploads = plm_s3_uploads,
    .get = s3_get,
};

enum plm_code plm_store_open_s3(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                struct plm_store **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3 *s3 = NULL;
    struct plm_s3_config config = {0};
    struct plm_s3_secret *given = NULL;

    PLM_TRY(plm_calloc(ctx, &s3, 1, sizeof *s3, err));
    s3->base.ops = &s3_ops;
    s3->base.ctx = ctx;
    pthread_mutex_init(&s3->probe_lock, NULL);
    plm_s3_shelf_init(&s3->shelf, ctx);
    PLM_TRY(plm_store_options_copy(ctx, options, &s3->base.options, err));
    PLM_TRY(plm_strdup(ctx, uri, &s3->base.uri, err));
    PLM_TRY(plm_s3_config_read(ctx, uri, (const char *const *)s3->base.options, &config, &given, err));
    plm_s3_client_init(&s3->client, ctx, &config, given);
    *out = &s3->base;
    s3 = NULL;
done:
    if (s3)
        s3_close(&s3->base);
    return rc;
}

#endif
