/* s3_read.c - files open for reading: ranges become requests, near ones together. */
#ifdef PLM_WITH_S3

#include "store/s3.h"

#include <stdlib.h>

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

enum plm_code plm_s3_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                          struct plm_err *err)
{
    struct plm_s3_request q;
    enum plm_code rc = head(plm_s3_of(store), path, &q, err);

    if (rc == PLM_OK)
        *size_bytes = q.reply.length;
    return rc;
}

void plm_s3_file_close(struct plm_file *file)
{
    struct plm_ctx *ctx;

    if (file == NULL)
        return;
    ctx = file->store->ctx;
    plm_s3_windows_forget(&plm_s3_of(file->store)->shelf, &((struct s3_file *)file)->windows);
    plm_free(ctx, file->name);
    plm_free(ctx, file);
}

enum plm_code plm_s3_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                               struct plm_file **out, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
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
    plm_s3_file_close(file ? &file->base : NULL);
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
    enum plm_code rc = plm_grow(plan->file->base.store->ctx, &plan->jobs, &plan->jobs_cap,
                                plan->n_jobs, sizeof *plan->jobs, err);

    if (rc == PLM_OK)
        plan->jobs[plan->n_jobs++] = job;
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
        plm_s3_window_came(&plm_s3_of(plan->file->base.store)->shelf, plan->jobs[i].window);
    return PLM_OK;
}

/* Fetches windows and ranges; places: room for one range for each window. */
static enum plm_code fetch(struct s3_file *file, struct plm_s3_window *const *windows,
                           size_t n_windows, struct plm_range *places,
                           const struct plm_range *ranges, size_t n, struct plm_err *err)
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
    PLM_TRY(plm_s3_run(&plm_s3_of(file->base.store)->client, &batch, err));
done:
    plm_free(file->base.store->ctx, plan.jobs);
    plm_free(file->base.store->ctx, plan.sorted);
    return rc;
}

enum plm_code plm_s3_file_read_ranges(struct plm_file *base, const struct plm_range *ranges,
                                      size_t n, struct plm_err *err)
{
    struct s3_file *file = (struct s3_file *)base;
    struct plm_s3_shelf *shelf = &plm_s3_of(base->store)->shelf;
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

void plm_s3_file_expect(struct plm_file *base, const struct plm_range *ranges, size_t n)
{
    struct s3_file *file = (struct s3_file *)base;

    plm_s3_windows_expect(&plm_s3_of(base->store)->shelf, &file->windows, ranges, n);
}

void plm_s3_keep(struct plm_store *store, uint64_t bytes)
{
    struct plm_s3_shelf *shelf = &plm_s3_of(store)->shelf;

    pthread_mutex_lock(&shelf->lock);
    shelf->keep_bytes = bytes;
    pthread_mutex_unlock(&shelf->lock);
}

enum plm_code plm_s3_get(struct plm_store *store, const char *path, struct plm_buf *buf,
                         struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_s3_request q = {.method = "GET", .into = buf};
    size_t before = buf->len;
    enum plm_code rc = plm_s3_key(s3, path, &q, err);

    if (rc == PLM_OK)
        rc = plm_s3_one(&s3->client, &q, err);
    if (rc != PLM_OK)
        buf->len = before;
    return rc;
}

#endif
