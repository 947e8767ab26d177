/* dist_work.c - encoding and merging of a shared build.
 *
 * Runs and index files go to storage; the driver hears statistics, true neighbours of the probe
 * queries and partition lengths. What lies there already, whole, is not made again.
 */
#include <stdlib.h>

#include "build/dist_parts.h"
#include "build/run.h"

static const char stats_magic[8] = "PLMSTAT1", merge_magic[8] = "PLMMERG1";

#define TOKEN_MAX 4096

/* ---- encoding: workers ------------------------------------------------------------------ */

struct encode_call {
    struct plm_dist *dist;
    const uint64_t *tasks;
    struct plm_run_stats *stats;      /* [task of the call] */
    struct plm_neighbour *neighbours; /* [task of the call][probes.n][PLM_PROBE_K] */
};

static size_t n_places(const struct plm_dist *d)
{
    return d->job.probes.n * PLM_PROBE_K;
}

/* The run of a task: there and whole, or made now. */
static enum plm_code encode_one(void *arg, size_t i, unsigned worker, struct plm_err *err)
{
    struct encode_call *c = arg;
    struct plm_dist *d = c->dist;
    size_t task = (size_t)c->tasks[i];
    struct plm_neighbour *neighbours = c->neighbours + i * n_places(d);
    struct plm_run run = {0};
    struct plm_err why = {0};
    enum plm_code rc = plm_run_open(&d->job, task, true, &run, neighbours, &why);

    if (rc == PLM_OK)
        plm_progress_add(d->ctx, d->job.plan.tasks[task].n);
    if (rc != PLM_OK && rc != PLM_NOT_FOUND && rc != PLM_CORRUPT) {
        if (err)
            *err = why;
        return rc;
    }
    if (rc != PLM_OK) {
        PLM_TRY(plm_encoding_task(d->encoding, task, worker, err));
        PLM_TRY(plm_run_open(&d->job, task, false, &run, neighbours, err));
    }
    c->stats[i] = run.stats;
done:
    plm_run_close(&run);
    return rc;
}

static enum plm_code prepare_encoding(struct plm_dist *d, const struct plm_dist_args *args,
                                      struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_need_model(d, err));
    for (size_t i = 0; i < args->n_numbers; i++)
        if (args->numbers[i] >= d->job.plan.n_tasks)
            return plm_fail(err, PLM_ARG, "encode: task %" PRIu64 " of %zu", args->numbers[i],
                            d->job.plan.n_tasks);
    if (!d->encoding)
        PLM_TRY(plm_encoding_open(&d->job, &d->encoding, err));
done:
    return rc;
}

static enum plm_code put_stats(const struct encode_call *c, size_t n, struct plm_buf *answer,
                               struct plm_err *err)
{
    size_t bytes = n_places(c->dist) * sizeof *c->neighbours;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_buf_add(answer, stats_magic, 8, err));
    PLM_TRY(plm_put_u64(answer, n, err));
    for (size_t i = 0; i < n; i++) {
        PLM_TRY(plm_put_u64(answer, c->tasks[i], err));
        PLM_TRY(plm_buf_add(answer, &c->stats[i], sizeof c->stats[i], err));
        PLM_TRY(plm_buf_add(answer, c->neighbours + i * n_places(c->dist), bytes, err));
    }
done:
    return rc;
}

static int by_first(const void *a, const void *b)
{
    const struct plm_ordinals *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* The rows of the tasks at hand. */
static enum plm_code expect_rows(struct plm_dist *d, const struct plm_dist_args *args, struct plm_err *err)
{
    struct plm_ordinals *ranges = NULL;
    enum plm_code rc = plm_alloc(d->ctx, &ranges, args->n_numbers, sizeof *ranges, err);

    for (size_t i = 0; rc == PLM_OK && i < args->n_numbers; i++) {
        const struct plm_task *t = &d->job.plan.tasks[args->numbers[i]];
        ranges[i] = (struct plm_ordinals){t->first, t->n};
    }
    if (rc == PLM_OK && args->n_numbers > 0) {
        qsort(ranges, args->n_numbers, sizeof *ranges, by_first);
        plm_source_expect(&d->job.source, ranges, args->n_numbers);
    }
    plm_free(d->ctx, ranges);
    return rc;
}

static enum plm_code call_encode(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    struct encode_call c = {.dist = d, .tasks = args->numbers};
    unsigned threads = d->ctx->threads;
    uint64_t n_rows = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(prepare_encoding(d, args, err));
    for (size_t i = 0; i < args->n_numbers; i++)
        n_rows += d->job.plan.tasks[args->numbers[i]].n;
    plm_progress_begin(d->ctx, "encode", n_rows, "rows");
    PLM_TRY(plm_calloc(d->ctx, &c.stats, args->n_numbers, sizeof *c.stats, err));
    PLM_TRY(plm_alloc(d->ctx, &c.neighbours, args->n_numbers * n_places(d), sizeof *c.neighbours, err));
    PLM_TRY(expect_rows(d, args, err));
    d->ctx->threads = plm_encoding_threads(d->encoding);
    PLM_TRY(plm_parallel(d->ctx, args->n_numbers, encode_one, &c, err));
    PLM_TRY(put_stats(&c, args->n_numbers, answer, err));
done:
    d->ctx->threads = threads;
    plm_free(d->ctx, c.stats);
    plm_free(d->ctx, c.neighbours);
    return rc;
}

/* ---- encoding: the driver ------------------------------------------------------------------ */

static enum plm_code call_encode_begin(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)args, (void)answer;

    PLM_TRY(plm_dist_need_model(d, err));
    PLM_TRY(plm_totals_begin(&d->job, err));
    memset(d->encoded, 0, d->job.plan.n_tasks);
done:
    return rc;
}

static enum plm_code check_stats(const struct plm_dist *d, uint64_t task, const struct plm_run_stats *s,
                                 struct plm_err *err)
{
    uint64_t n = s->n, planned = task < d->job.plan.n_tasks ? d->job.plan.tasks[task].n : 0;
    for (int i = 0; i < PLM_N_DROPS; i++)
        n = n <= planned && s->dropped[i] <= planned ? n + s->dropped[i] : UINT64_MAX;
    if (task >= d->job.plan.n_tasks || n > planned)
        return plm_fail(err, PLM_CORRUPT, "message: task %" PRIu64 " saw %" PRIu64 " rows of %" PRIu64, task,
                        s->n, planned);
    return PLM_OK;
}

/* A task that was run twice is counted once. */
static enum plm_code call_encoded(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err)
{
    struct plm_reader r;
    struct plm_neighbour *neighbours = NULL;
    struct plm_run_stats stats;
    uint64_t n = 0, task = 0;
    enum plm_code rc = PLM_OK;
    (void)answer;

    if (!d->job.truth)
        return plm_fail(err, PLM_ARG, "encoded: encode_begin comes first");
    PLM_TRY(plm_reader_open(args->messages[0], stats_magic, "what encoding saw", &r, err));
    PLM_TRY(plm_reader_copy(&r, &n, sizeof n, err));
    PLM_TRY(plm_alloc(d->ctx, &neighbours, n_places(d), sizeof *neighbours, err));
    for (uint64_t i = 0; i < n; i++) {
        PLM_TRY(plm_reader_copy(&r, &task, sizeof task, err));
        PLM_TRY(plm_reader_copy(&r, &stats, sizeof stats, err));
        PLM_TRY(plm_reader_copy(&r, neighbours, n_places(d) * sizeof *neighbours, err));
        PLM_TRY(check_stats(d, task, &stats, err));
        if (!d->encoded[task])
            plm_totals_add(&d->job, &stats, neighbours);
        d->encoded[task] = 1;
    }
    PLM_TRY(plm_reader_end(&r, err));
done:
    plm_free(d->ctx, neighbours);
    return rc;
}

static enum plm_code call_encode_end(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    (void)args, (void)answer;
    for (size_t i = 0; i < d->job.plan.n_tasks; i++)
        if (!d->encoded[i])
            return plm_fail(err, PLM_ARG, "encode_end: task %zu is not done", i);
    return plm_totals_check(&d->job, err);
}

/* ---- merging: workers -------------------------------------------------------------------------- */

static void close_merge(struct plm_dist *d)
{
    plm_merge_close(d->merge);
    plm_free(d->ctx, d->merge_token);
    d->merge = NULL;
    d->merge_token = NULL;
}

void plm_dist_work_reset(struct plm_dist *d)
{
    plm_encoding_close(d->encoding);
    d->encoding = NULL;
    close_merge(d);
}

static enum plm_code need_merge(struct plm_dist *d, uint64_t segment, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_check_segment(d, segment, err));
    PLM_TRY(plm_dist_need_model(d, err));
    plm_encoding_close(d->encoding);
    d->encoding = NULL;
    if (d->merge && plm_merge_segment(d->merge) == segment)
        return PLM_OK;
    close_merge(d);
    PLM_TRY(plm_merge_open(&d->job, (size_t)segment, &d->merge, err));
done:
    return rc;
}

/* u64 {blocks to write, segment, k}, u32 lengths [k], u64 length of the token, token, u64 number of
 * hashes, u64 hashes of the blocks that an earlier driver's merge wrote. No blocks: the segment is
 * merged already. */
static enum plm_code put_merge(struct plm_dist *d, uint64_t blocks, const char *token,
                               struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_buf_add(answer, merge_magic, 8, err));
    PLM_TRY(plm_put_u64(answer, blocks, err));
    PLM_TRY(plm_put_u64(answer, plm_merge_segment(d->merge), err));
    PLM_TRY(plm_put_u64(answer, d->job.model.k, err));
    PLM_TRY(plm_buf_add(answer, plm_merge_lengths(d->merge), d->job.model.k * sizeof(uint32_t), err));
    PLM_TRY(plm_put_u64(answer, strlen(token), err));
    PLM_TRY(plm_buf_add(answer, token, strlen(token), err));
    const uint64_t *known = blocks ? plm_merge_known(d->merge) : NULL;
    PLM_TRY(plm_put_u64(answer, known ? blocks : 0, err));
    if (known)
        PLM_TRY(plm_buf_add(answer, known, (size_t)blocks * sizeof *known, err));
done:
    return rc;
}

static enum plm_code call_merge_open(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    char *token = NULL;
    bool is_done = false;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_check_segment(d, args->numbers[0], err));
    PLM_TRY(need_merge(d, args->numbers[0], err));
    PLM_TRY(plm_merge_is_done(&d->job, (size_t)args->numbers[0], &is_done, err));
    if (is_done) {
        PLM_TRY(put_merge(d, 0, "", answer, err));
        goto done;
    }
    close_merge(d); /* its writer, if it has one, is of another token */
    PLM_TRY(need_merge(d, args->numbers[0], err));
    PLM_TRY(plm_merge_begin(d->merge, &token, err));
    PLM_TRY(put_merge(d, plm_merge_blocks(d->merge), token, answer, err));
    d->merge_token = token;
    token = NULL;
done:
    plm_free(d->ctx, token);
    return rc;
}

struct merge_opened {
    uint64_t blocks, segment, k;
    const uint8_t *lengths; /* [k] u32, not aligned */
    uint64_t n_known;       /* 0 or blocks */
    const uint8_t *known;   /* [n_known] u64, not aligned */
    char token[TOKEN_MAX + 1];
};

static enum plm_code read_opened(const struct plm_dist *d, struct plm_view message, uint64_t segment,
                                 struct merge_opened *out, struct plm_err *err)
{
    struct plm_reader r;
    uint64_t n = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_reader_open(message, merge_magic, "a merge", &r, err));
    PLM_TRY(plm_reader_copy(&r, &out->blocks, sizeof out->blocks, err));
    PLM_TRY(plm_reader_copy(&r, &out->segment, sizeof out->segment, err));
    PLM_TRY(plm_reader_copy(&r, &out->k, sizeof out->k, err));
    if (out->segment != segment || out->k != d->job.model.k)
        return plm_fail(err, PLM_CORRUPT, "message: merge of segment %" PRIu64 " with %" PRIu64
                        " partitions, expected %" PRIu64 " and %u", out->segment, out->k, segment,
                        d->job.model.k);
    PLM_TRY(plm_reader_take(&r, (size_t)out->k, sizeof(uint32_t), &out->lengths, err));
    PLM_TRY(plm_reader_copy(&r, &n, sizeof n, err));
    if (n > TOKEN_MAX)
        return plm_fail(err, PLM_CORRUPT, "message: a token of %" PRIu64 " bytes", n);
    PLM_TRY(plm_reader_copy(&r, out->token, (size_t)n, err));
    out->token[n] = '\0';
    PLM_TRY(plm_reader_copy(&r, &out->n_known, sizeof out->n_known, err));
    if (out->n_known != 0 && out->n_known != out->blocks)
        return plm_fail(err, PLM_CORRUPT, "message: %" PRIu64 " hashes of %" PRIu64 " blocks", out->n_known,
                        out->blocks);
    PLM_TRY(plm_reader_take(&r, (size_t)out->n_known, sizeof(uint64_t), &out->known, err));
    PLM_TRY(plm_reader_end(&r, err));
done:
    return rc;
}

/* The merge of the message, joined. */
static enum plm_code join_merge(struct plm_dist *d, uint64_t segment, struct plm_view message,
                                struct plm_err *err)
{
    struct merge_opened opened;
    enum plm_code rc = PLM_OK;

    PLM_TRY(need_merge(d, segment, err));
    PLM_TRY(read_opened(d, message, segment, &opened, err));
    if (d->merge_token && strcmp(d->merge_token, opened.token) == 0)
        return PLM_OK;
    if (d->merge_token) {
        close_merge(d);
        PLM_TRY(need_merge(d, segment, err));
    }
    PLM_TRY(plm_merge_join(d->merge, opened.token, err));
    if (opened.n_known)
        PLM_TRY(plm_merge_know(d->merge, opened.known, opened.n_known, err));
    PLM_TRY(plm_strdup(d->ctx, opened.token, &d->merge_token, err));
done:
    if (rc != PLM_OK)
        close_merge(d);
    return rc;
}

/* An upload that is gone, or lacks a part, is not carried on: the next merge_open begins another. */
static enum plm_code forget_lost(struct plm_dist *d, uint64_t segment, enum plm_code rc)
{
    struct plm_err why = {0};
    bool is_lost = rc == PLM_NOT_FOUND || rc == PLM_CORRUPT;
    if (is_lost && plm_merge_forget(&d->job, (size_t)segment, &why) != PLM_OK)
        plm_warn(d->ctx, "segment %" PRIu64 ": %s", segment, why.message);
    return rc;
}

static enum plm_code call_merge_blocks(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    uint64_t first = args->numbers[1], end = args->numbers[2];
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(join_merge(d, args->numbers[0], args->messages[0], err));
    if (first > end || end > plm_merge_blocks(d->merge))
        return plm_fail(err, PLM_ARG, "merge_blocks: %" PRIu64 " to %" PRIu64 " of %" PRIu64, first, end,
                        plm_merge_blocks(d->merge));
    plm_progress_begin(d->ctx, "merge", 0, "bytes");
    PLM_TRY(forget_lost(d, args->numbers[0], plm_merge_write(d->merge, first, end, err)));
done:
    return rc;
}

/* A second try after a lost answer finds the segment done. */
static enum plm_code call_merge_finish(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    bool is_done = false;
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(need_merge(d, args->numbers[0], err));
    PLM_TRY(plm_merge_is_done(&d->job, (size_t)args->numbers[0], &is_done, err));
    if (is_done)
        goto done;
    PLM_TRY(join_merge(d, args->numbers[0], args->messages[0], err));
    PLM_TRY(forget_lost(d, args->numbers[0], plm_merge_finish(d->merge, err)));
done:
    close_merge(d);
    return rc;
}

/* ---- merging: the driver ------------------------------------------------------------------------- */

static enum plm_code call_merged(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    struct merge_opened opened;
    uint64_t segment = args->numbers[0];
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(plm_dist_check_segment(d, segment, err));
    PLM_TRY(plm_dist_need_model(d, err));
    PLM_TRY(read_opened(d, args->messages[0], segment, &opened, err));
    if (!d->job.lengths[segment])
        PLM_TRY(plm_alloc(d->ctx, &d->job.lengths[segment], d->job.model.k, sizeof(uint32_t), err));
    memcpy(d->job.lengths[segment], opened.lengths, d->job.model.k * sizeof(uint32_t));
done:
    return rc;
}

const struct plm_dist_entry plm_dist_work_calls[] = {
    {"encode", call_encode, PLM_ANY, 0},
    {"encode_begin", call_encode_begin, 0, 0},
    {"encoded", call_encoded, 0, 1},
    {"encode_end", call_encode_end, 0, 0},
    {"merge_open", call_merge_open, 1, 0},
    {"merge_blocks", call_merge_blocks, 3, 1},
    {"merge_finish", call_merge_finish, 1, 1},
    {"merged", call_merged, 1, 1},
    {NULL, NULL, 0, 0},
};
