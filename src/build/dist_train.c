/* dist_train.c - the model of a shared build: the driver keeps the trainer and the model, workers
 * answer steps for their shards of the sample and train sub-vectors.
 *
 * The training rows of PQ go from worker to worker through storage: each shard writes its columns
 * [sub-vector][row][value], and who trains sub-vectors reads theirs from every shard.
 */
#include <jansson.h>
#include <math.h>

#include "build/dist_parts.h"
#include "build/model_file.h"
#include "build/piece.h"
#include "build/report.h"

#define COLUMNS_BYTES ((size_t)8 << 20) /* gathered at once */
#define PQ_WORDS_MAX ((size_t)1 << 31)

static const char centroids_magic[8] = "PLMCENT1", words_magic[8] = "PLMWORD1", picks_magic[8] = "PLMPICK1",
                  rows_magic[8] = "PLMROWS1";

/* ---- centroids: the driver ------------------------------------------------------------------- */

static enum plm_code call_train_begin(struct plm_dist *d, const struct plm_dist_args *args,
                                      struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)args;

    if (d->sampling.round != PLM_ROUND_DONE)
        return plm_fail(err, PLM_ARG, "train_begin: the sample is not chosen yet");
    plm_trainer_destroy(d->trainer);
    d->trainer = NULL;
    PLM_TRY(plm_train_begin(&d->job, d->options, &d->sample, &d->trainer, err));
    d->checkpoint_at = plm_now_seconds();
    PLM_TRY(plm_put_u64(answer, d->trainer != NULL, err));
done:
    return rc;
}

static enum plm_code need_trainer(const struct plm_dist *d, struct plm_err *err)
{
    return d->trainer ? PLM_OK : plm_fail(err, PLM_ARG, "train_begin comes first");
}

static enum plm_code call_train_step(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)args;

    PLM_TRY(need_trainer(d, err));
    struct plm_view step = plm_trainer_step(d->trainer, NULL);
    PLM_TRY(plm_buf_add(answer, step.data, step.len, err));
done:
    return rc;
}

static enum plm_code call_train_absorb(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(need_trainer(d, err));
    PLM_TRY(plm_trainer_absorb(d->trainer, args->messages[0], err));
    PLM_TRY(plm_train_checkpoint(&d->job, d->trainer, &d->checkpoint_at, err));
done:
    return rc;
}

static enum plm_code call_train_status(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    unsigned done = 0, total = 0;
    const char *what = "";
    char *text = NULL;
    enum plm_code rc = PLM_OK;
    (void)args;

    PLM_TRY(need_trainer(d, err));
    plm_trainer_progress(d->trainer, &done, &total);
    (void)plm_trainer_step(d->trainer, &what);
    PLM_TRY(plm_json_string(json_pack("{s:s, s:I, s:I}", "what", what, "done", (json_int_t)done, "total",
                                      (json_int_t)total),
                            &text, err));
    PLM_TRY(plm_buf_add(answer, text, strlen(text), err));
done:
    plm_string_free(text);
    return rc;
}

/* Centroids into the model; the answer carries them to the workers. */
static enum plm_code call_train_end(struct plm_dist *d, const struct plm_dist_args *args,
                                    struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_model *m = &d->job.model;
    enum plm_code rc = PLM_OK;
    (void)args;

    if (d->trainer)
        PLM_TRY(plm_train_take_centroids(&d->job, d->trainer, err));
    plm_trainer_destroy(d->trainer);
    d->trainer = NULL;
    PLM_TRY(plm_buf_add(answer, centroids_magic, 8, err));
    PLM_TRY(plm_put_u64(answer, m->k, err));
    PLM_TRY(plm_buf_add(answer, m->centroids, (size_t)m->k * m->dim * sizeof(float), err));
done:
    return rc;
}

/* ---- centroids: workers ------------------------------------------------------------------------- */

static enum plm_code open_shard(struct plm_dist *d, uint64_t number, uint64_t first,
                                struct plm_dist_shard **out, struct plm_err *err)
{
    struct plm_dist_shard *s = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_find_shard(d, number, &s, err));
    if (s->shard && s->first != first) {
        plm_shard_destroy(s->shard);
        s->shard = NULL;
    }
    if (!s->shard)
        PLM_TRY(plm_shard_create(d->ctx, &s->sample, (size_t)first, &s->shard, err));
    s->first = first;
    *out = s;
done:
    return rc;
}

/* Pre-summed: one partial for all shards named. */
static enum plm_code call_step(struct plm_dist *d, const struct plm_dist_args *args,
                               struct plm_buf *answer, struct plm_err *err)
{
    struct plm_buf sum, one;
    struct plm_dist_shard *s = NULL;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&sum, d->ctx, PLM_DIST_MESSAGE_MAX);
    plm_buf_init(&one, d->ctx, PLM_DIST_MESSAGE_MAX);
    if (args->n_numbers == 0 || args->n_numbers % 2)
        PLM_TRY(plm_fail(err, PLM_ARG, "step: %zu numbers, expected pairs", args->n_numbers));
    for (size_t i = 0; i < args->n_numbers; i += 2) {
        PLM_TRY(open_shard(d, args->numbers[i], args->numbers[i + 1], &s, err));
        one.len = 0;
        PLM_TRY(plm_shard_run(s->shard, args->messages[0], &one, err));
        PLM_TRY(plm_partial_merge(&sum, (struct plm_view){one.data, one.len}, err));
    }
    PLM_TRY(plm_buf_add(answer, sum.data, sum.len, err));
done:
    plm_buf_reset(&sum);
    plm_buf_reset(&one);
    return rc;
}

static enum plm_code call_reduce(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    struct plm_buf sum;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&sum, d->ctx, PLM_DIST_MESSAGE_MAX);
    for (size_t i = 0; i < args->n_messages; i++)
        PLM_TRY(plm_partial_merge(&sum, args->messages[i], err));
    PLM_TRY(plm_buf_add(answer, sum.data, sum.len, err));
done:
    plm_buf_reset(&sum);
    return rc;
}

/* ---- codebook: workers ---------------------------------------------------------------------------- */

static uint32_t sub_dim(const struct plm_dist *d)
{
    return d->job.plan.column.dim / d->job.plan.num_sub_vectors;
}

static size_t word_bytes(const struct plm_dist *d)
{
    return ((size_t)sub_dim(d) << d->job.plan.num_bits) * sizeof(float);
}

static enum plm_code take_centroids(struct plm_dist *d, struct plm_view message, struct plm_err *err)
{
    struct plm_job *job = &d->job;
    struct plm_reader r;
    uint64_t k = 0;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_reader_open(message, centroids_magic, "centroids", &r, err));
    PLM_TRY(plm_reader_copy(&r, &k, sizeof k, err));
    if (k < 1 || k > job->plan.num_partitions ||
        plm_reader_left(&r) != k * job->plan.column.dim * sizeof(float))
        return plm_fail(err, PLM_CORRUPT, "message: %" PRIu64 " centroids in %zu bytes", k, plm_reader_left(&r));
    PLM_TRY(plm_job_model_init(job, (uint32_t)k, err));
    d->has_model = false;
    PLM_TRY(plm_reader_copy(&r, job->model.centroids, plm_reader_left(&r), err));
    for (size_t i = 0; i < k * job->model.dim; i++)
        if (!isfinite(job->model.centroids[i]))
            return plm_fail(err, PLM_CORRUPT, "message: centroids: value %zu is not finite", i);
done:
    return rc;
}

static enum plm_code write_columns(struct plm_dist *d, uint64_t number, struct plm_pq_part *part,
                                   struct plm_err *err)
{
    uint32_t m = d->job.plan.num_sub_vectors;
    size_t each = part->n * sub_dim(d) * sizeof(float);
    uint32_t group = (uint32_t)plm_min_size(m, COLUMNS_BYTES / (each + 1) + 1);
    struct plm_piece piece = {0};
    float *columns = NULL;
    char name[48];
    enum plm_code rc = PLM_OK;

    snprintf(name, sizeof name, "columns-%" PRIu64, number);
    PLM_TRY(plm_alloc(d->ctx, &columns, group * each, 1, err));
    PLM_TRY(plm_piece_open(&d->job, name, m * each, &piece, err));
    for (uint32_t first = 0, n; first < m; first += n) {
        n = (uint32_t)plm_min_size(group, m - first);
        PLM_TRY(plm_check_cancel(d->ctx, err));
        PLM_TRY(plm_pq_part_columns(part, first, n, columns, err));
        PLM_TRY(plm_piece_put(&piece, columns, n * each, err));
    }
    PLM_TRY(plm_piece_finish(&piece, false, err));
done:
    plm_piece_reset(&piece);
    plm_free(d->ctx, columns);
    return rc;
}

static enum plm_code call_pq_columns(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    struct plm_pq_part part = {0};
    struct plm_dist_shard *s = NULL;
    uint64_t first = args->numbers[1], n_sample = args->numbers[2];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_find_shard(d, args->numbers[0], &s, err));
    if (d->job.plan.quantizer != PLM_PQ || n_sample < 1 || n_sample > d->job.plan.sample_rows ||
        first > n_sample || s->sample.n > n_sample - first)
        return plm_fail(err, PLM_ARG, "pq_columns: rows %" PRIu64 " + %zu of %" PRIu64, first, s->sample.n,
                        n_sample);
    PLM_TRY(take_centroids(d, args->messages[0], err));
    PLM_TRY(plm_pq_part_open(&d->job, &s->sample, (size_t)n_sample, (size_t)first, &part, err));
    if (part.n > 0)
        PLM_TRY(write_columns(d, args->numbers[0], &part, err));
    PLM_TRY(plm_put_u64(answer, part.n, err));
done:
    plm_pq_part_close(&part);
    return rc;
}

/* Columns of sub-vectors [first, first + n) from every shard: [n][n_rows][dsub]. */
static enum plm_code read_columns(struct plm_dist *d, uint32_t first, uint32_t n, const uint64_t *rows,
                                  size_t n_shards, size_t n_rows, float *columns, struct plm_err *err)
{
    size_t dsub = sub_dim(d), row = 0;
    struct plm_range *ranges = NULL;
    struct plm_file *file = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(d->ctx, &ranges, n, sizeof *ranges, err));
    for (size_t s = 0; s < n_shards; s++) {
        size_t each = (size_t)rows[s] * dsub * sizeof(float);
        char name[48];
        if (rows[s] == 0)
            continue;
        snprintf(name, sizeof name, "columns-%zu", s);
        for (uint32_t j = 0; j < n; j++)
            ranges[j] = (struct plm_range){(first + j) * each, each, columns + (j * n_rows + row) * dsub};
        PLM_TRY(plm_file_open(d->job.work, name, d->job.plan.num_sub_vectors * each, &file, err));
        PLM_TRY(plm_file_read_ranges(file, ranges, n, err));
        plm_file_close(file);
        file = NULL;
        row += (size_t)rows[s];
    }
done:
    plm_file_close(file);
    plm_free(d->ctx, ranges);
    return rc;
}

static void words_name(uint64_t first, uint64_t n, char *out, size_t size)
{
    snprintf(out, size, "codewords-%" PRIu64 "-%" PRIu64, first, n);
}

/* errors [n], codewords [n][n_codes][dsub], xxh3 of all before it. */
static enum plm_code put_words(struct plm_dist *d, uint32_t first, uint32_t n, const double *errors,
                               const float *words, struct plm_buf *answer, struct plm_err *err)
{
    size_t before = answer->len;
    char name[64];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_buf_add(answer, words_magic, 8, err));
    PLM_TRY(plm_put_u64(answer, first, err));
    PLM_TRY(plm_put_u64(answer, n, err));
    PLM_TRY(plm_buf_add(answer, errors, n * sizeof *errors, err));
    PLM_TRY(plm_buf_add(answer, words, n * word_bytes(d), err));
    PLM_TRY(plm_put_u64(answer, plm_xxh3(answer->data + before, answer->len - before), err));
    words_name(first, n, name, sizeof name);
    PLM_TRY(plm_store_put(d->job.work, name, answer->data + before, answer->len - before, err));
done:
    return rc;
}

static enum plm_code check_range(const struct plm_dist *d, const char *call, uint64_t first, uint64_t n,
                                 struct plm_err *err)
{
    uint32_t m = d->job.plan.num_sub_vectors;
    if (n < 1 || first > m || n > m - first)
        return plm_fail(err, PLM_ARG, "%s: sub-vectors %" PRIu64 " + %" PRIu64 " of %u", call, first, n, m);
    return PLM_OK;
}

/* Rows of every shard, which add up to what PQ is trained on. */
static enum plm_code read_rows(struct plm_dist *d, struct plm_view message, uint64_t **out, size_t *n_shards,
                               size_t *n_rows, struct plm_err *err)
{
    uint64_t *rows = NULL;
    size_t n = message.len / sizeof *rows, sum = 0;
    enum plm_code rc = PLM_OK;

    if (n < 1 || message.len % sizeof *rows)
        return plm_fail(err, PLM_CORRUPT, "message: rows of shards in %zu bytes", message.len);
    PLM_TRY(plm_alloc(d->ctx, &rows, n, sizeof *rows, err));
    memcpy(rows, message.data, message.len);
    for (size_t i = 0; i < n; i++) {
        sum += rows[i];
        if (rows[i] > d->job.plan.sample_rows || sum > d->job.plan.sample_rows)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: shards with %zu rows and more", sum));
    }
    *out = rows;
    *n_shards = n;
    *n_rows = sum;
    rows = NULL;
done:
    plm_free(d->ctx, rows);
    return rc;
}

static enum plm_code call_pq_train(struct plm_dist *d, const struct plm_dist_args *args,
                                   struct plm_buf *answer, struct plm_err *err)
{
    uint64_t *rows = NULL;
    float *columns = NULL, *words = NULL;
    double *errors = NULL;
    size_t n_shards = 0, n_rows = 0;
    uint32_t first = (uint32_t)args->numbers[0], n = (uint32_t)args->numbers[1];
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_range(d, "pq_train", args->numbers[0], args->numbers[1], err));
    PLM_TRY(read_rows(d, args->messages[0], &rows, &n_shards, &n_rows, err));
    PLM_TRY(plm_alloc(d->ctx, &columns, n * n_rows, sub_dim(d) * sizeof(float), err));
    PLM_TRY(plm_calloc(d->ctx, &words, n, word_bytes(d), err));
    PLM_TRY(plm_calloc(d->ctx, &errors, n, sizeof *errors, err));
    PLM_TRY(read_columns(d, first, n, rows, n_shards, n_rows, columns, err));
    PLM_TRY(plm_pq_train_columns(&d->job, columns, n_rows, first, n, words, errors, err));
    PLM_TRY(put_words(d, first, n, errors, words, answer, err));
done:
    plm_free(d->ctx, errors);
    plm_free(d->ctx, words);
    plm_free(d->ctx, columns);
    plm_free(d->ctx, rows);
    return rc;
}

/* ---- codebook: the driver ------------------------------------------------------------------------------ */

static enum plm_code need_codebook(struct plm_dist *d, struct plm_err *err)
{
    uint32_t m = d->job.plan.num_sub_vectors;
    enum plm_code rc = PLM_OK;

    if (d->codebook)
        return PLM_OK;
    PLM_TRY(plm_calloc(d->ctx, &d->pq_error, m, sizeof *d->pq_error, err));
    PLM_TRY(plm_calloc(d->ctx, &d->pq_done, m, 1, err));
    PLM_TRY(plm_calloc(d->ctx, &d->codebook, m, word_bytes(d), err));
done:
    return rc;
}

static enum plm_code call_pq_given(struct plm_dist *d, const struct plm_dist_args *args,
                                   struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_matrix_view *given = &d->options->pq_codebook;
    enum plm_code rc = PLM_OK;
    (void)args;

    if (d->job.plan.quantizer == PLM_PQ && given->data)
        PLM_TRY(plm_build_train_pq(&d->job, NULL, given, err));
    PLM_TRY(plm_put_u64(answer, d->job.plan.quantizer != PLM_PQ || given->data, err));
done:
    return rc;
}

static enum plm_code absorb_words(struct plm_dist *d, uint64_t first, uint64_t n, struct plm_view message,
                                  struct plm_err *err)
{
    struct plm_reader r;
    uint64_t head[2], hash;
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_range(d, "pq_absorb", first, n, err));
    PLM_TRY(need_codebook(d, err));
    PLM_TRY(plm_reader_open(message, words_magic, "codewords", &r, err));
    PLM_TRY(plm_reader_copy(&r, head, sizeof head, err));
    if (head[0] != first || head[1] != n ||
        plm_reader_left(&r) != n * (sizeof(double) + word_bytes(d)) + sizeof hash)
        return plm_fail(err, PLM_CORRUPT, "message: codewords of other sub-vectors");
    memcpy(&hash, message.data + message.len - sizeof hash, sizeof hash);
    if (hash != plm_xxh3(message.data, message.len - sizeof hash))
        return plm_fail(err, PLM_CORRUPT, "message: codewords are damaged");
    PLM_TRY(plm_reader_copy(&r, d->pq_error + first, n * sizeof(double), err));
    PLM_TRY(plm_reader_copy(&r, (uint8_t *)d->codebook + first * word_bytes(d), n * word_bytes(d), err));
    memset(d->pq_done + first, 1, n);
done:
    return rc;
}

static enum plm_code call_pq_absorb(struct plm_dist *d, const struct plm_dist_args *args,
                                    struct plm_buf *answer, struct plm_err *err)
{
    (void)answer;
    return absorb_words(d, args->numbers[0], args->numbers[1], args->messages[0], err);
}

/* What an earlier driver's workers trained; damaged or missing: an empty answer. */
static enum plm_code call_pq_find(struct plm_dist *d, const struct plm_dist_args *args,
                                  struct plm_buf *answer, struct plm_err *err)
{
    struct plm_buf found;
    char name[64];
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_range(d, "pq_find", args->numbers[0], args->numbers[1], err));
    words_name(args->numbers[0], args->numbers[1], name, sizeof name);
    plm_buf_init(&found, d->ctx, PQ_WORDS_MAX);
    rc = plm_store_get(d->job.work, name, &found, err);
    if (rc == PLM_OK)
        rc = absorb_words(d, args->numbers[0], args->numbers[1], (struct plm_view){found.data, found.len}, err);
    if (rc == PLM_OK)
        rc = plm_put_u64(answer, 1, err);
    plm_buf_reset(&found);
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT)
        rc = PLM_OK;
done:
    return rc;
}

static enum plm_code call_pq_end(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    uint32_t m = d->job.plan.num_sub_vectors;
    enum plm_code rc = PLM_OK;
    (void)args, (void)answer;

    PLM_TRY(need_codebook(d, err));
    for (uint32_t j = 0; j < m; j++)
        if (!d->pq_done[j])
            PLM_TRY(plm_fail(err, PLM_ARG, "pq_end: sub-vector %u is not trained", j));
    PLM_TRY(plm_pq_take_codebook(&d->job, d->codebook, err));
    plm_free(d->ctx, d->job.pq_error);
    d->job.pq_error = d->pq_error;
    d->job.n_pq_error = m;
    d->pq_error = NULL;
    plm_free(d->ctx, d->codebook);
    plm_free(d->ctx, d->pq_done);
    d->codebook = NULL;
    d->pq_done = NULL;
done:
    return rc;
}

/* ---- probe queries ----------------------------------------------------------------------------------------- */

/* Which rows of a shard are probe queries: u64 {place among the queries, row of the shard}. */
static enum plm_code call_probes_message(struct plm_dist *d, const struct plm_dist_args *args,
                                         struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_dist_sampling *s = &d->sampling;
    uint64_t first = 0;
    enum plm_code rc = PLM_OK;

    if (s->round != PLM_ROUND_DONE || args->numbers[0] >= s->n_shards)
        return plm_fail(err, PLM_ARG, "probes_message: shard %" PRIu64 " of %zu", args->numbers[0], s->n_shards);
    if (!d->job.probes.vectors)
        PLM_TRY(plm_probes_alloc(&d->job, (size_t)d->sample.n, err));
    for (size_t i = 0; i < args->numbers[0]; i++)
        first += s->held[i].n;
    PLM_TRY(plm_buf_add(answer, picks_magic, 8, err));
    for (size_t i = 0; i < d->job.probes.n; i++) {
        uint64_t row = plm_probe_row(i, (size_t)d->sample.n);
        uint64_t pair[2] = {i, row - first};
        if (row >= first && row - first < s->held[args->numbers[0]].n)
            PLM_TRY(plm_buf_add(answer, pair, sizeof pair, err));
    }
done:
    return rc;
}

/* For each row asked for: u64 {place, row id}, float32 [dim]. */
static enum plm_code call_shard_rows(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_shard *s = NULL;
    struct plm_reader r;
    float *scratch = NULL;
    const float *row;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_find_shard(d, args->numbers[0], &s, err));
    PLM_TRY(plm_reader_open(args->messages[0], picks_magic, "rows of a shard", &r, err));
    PLM_TRY(plm_alloc(d->ctx, &scratch, s->sample.dim, sizeof(float), err));
    PLM_TRY(plm_buf_add(answer, rows_magic, 8, err));
    while (plm_reader_left(&r) > 0) {
        uint64_t pair[2];
        PLM_TRY(plm_reader_copy(&r, pair, sizeof pair, err));
        if (pair[1] >= s->sample.n)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: row %" PRIu64 " of a shard of %zu", pair[1], s->sample.n));
        PLM_TRY(plm_sample_rows(&s->sample, (size_t)pair[1], 1, scratch, &row, err));
        PLM_TRY(plm_put_u64(answer, pair[0], err));
        PLM_TRY(plm_put_u64(answer, s->sample.rowids[pair[1]], err));
        PLM_TRY(plm_buf_add(answer, row, s->sample.dim * sizeof(float), err));
    }
done:
    plm_free(d->ctx, scratch);
    return rc;
}

static enum plm_code call_probes_answer(struct plm_dist *d, const struct plm_dist_args *args,
                                        struct plm_buf *answer, struct plm_err *err)
{
    struct plm_probes *q = &d->job.probes;
    size_t dim = d->job.plan.column.dim;
    struct plm_reader r;
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(plm_reader_open(args->messages[0], rows_magic, "rows", &r, err));
    while (plm_reader_left(&r) > 0) {
        uint64_t pair[2];
        PLM_TRY(plm_reader_copy(&r, pair, sizeof pair, err));
        if (pair[0] >= q->n)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: probe query %" PRIu64 " of %zu", pair[0], q->n));
        q->rowids[pair[0]] = pair[1];
        PLM_TRY(plm_reader_copy(&r, q->vectors + pair[0] * dim, dim * sizeof(float), err));
        for (size_t i = 0; i < dim; i++)
            if (!isfinite(q->vectors[pair[0] * dim + i]))
                PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: probe query %" PRIu64 " is not finite", pair[0]));
    }
done:
    return rc;
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

/* Columns and codewords are of no use any more. */
static enum plm_code remove_pieces(struct plm_dist *d, struct plm_err *err)
{
    struct plm_entries entries = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_list(d->job.work, "", 0, &entries, err));
    for (size_t i = 0; i < entries.n; i++)
        if (strncmp(entries.items[i].name, "columns-", 8) == 0 ||
            strncmp(entries.items[i].name, "codewords-", 10) == 0)
            PLM_TRY(plm_store_delete(d->job.work, entries.items[i].name, err));
done:
    plm_entries_reset(&entries);
    return rc;
}

static enum plm_code call_model_save(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)args, (void)answer;

    PLM_TRY(plm_train_end(&d->job, err));
    d->has_model = true;
    PLM_TRY(remove_pieces(d, err));
done:
    return rc;
}

enum plm_code plm_dist_need_model(struct plm_dist *d, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (d->has_model)
        return PLM_OK;
    plm_dist_drop_shards(d);
    plm_job_model_reset(&d->job);
    PLM_TRY(plm_model_load(&d->job, err));
    d->has_model = true;
done:
    return rc;
}

const struct plm_dist_entry plm_dist_train_calls[] = {
    {"train_begin", call_train_begin, 0, 0},
    {"train_step", call_train_step, 0, 0},
    {"train_absorb", call_train_absorb, 0, 1},
    {"train_status", call_train_status, 0, 0},
    {"train_end", call_train_end, 0, 0},
    {"step", call_step, PLM_ANY, 1},
    {"reduce", call_reduce, 0, PLM_ANY},
    {"pq_columns", call_pq_columns, 3, 1},
    {"pq_train", call_pq_train, 2, 1},
    {"pq_given", call_pq_given, 0, 0},
    {"pq_find", call_pq_find, 2, 0},
    {"pq_absorb", call_pq_absorb, 2, 1},
    {"pq_end", call_pq_end, 0, 0},
    {"probes_message", call_probes_message, 1, 0},
    {"shard_rows", call_shard_rows, 1, 1},
    {"probes_answer", call_probes_answer, 0, 1},
    {"model_save", call_model_save, 0, 0},
    {NULL, NULL, 0, 0},
};
