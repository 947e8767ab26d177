/* dist_codebook.c - PQ's codebook in a shared build: workers train sub-vectors, the driver collects them.
 *
 * The training rows go from worker to worker through storage: each shard writes its columns
 * [sub-vector][row][value], and who trains sub-vectors reads theirs from every shard.
 */
#include "build/dist_parts.h"
#include "build/piece.h"

#define COLUMNS_BYTES ((size_t)8 << 20) /* gathered at once */
#define PQ_WORDS_MAX ((size_t)1 << 31)

static const char words_magic[8] = "PLMWORD1";

/* ---- workers --------------------------------------------------------------------------------- */

static uint32_t sub_dim(const struct plm_dist *d)
{
    return d->job.plan.column.dim / d->job.plan.num_sub_vectors;
}

static size_t word_bytes(const struct plm_dist *d)
{
    return ((size_t)sub_dim(d) << d->job.plan.num_bits) * sizeof(float);
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
    PLM_TRY(plm_dist_take_centroids(d, args->messages[0], err));
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

/* ---- the driver ------------------------------------------------------------------------------ */

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

const struct plm_dist_entry plm_dist_codebook_calls[] = {
    {"pq_columns", call_pq_columns, 3, 1},
    {"pq_train", call_pq_train, 2, 1},
    {"pq_given", call_pq_given, 0, 0},
    {"pq_find", call_pq_find, 2, 0},
    {"pq_absorb", call_pq_absorb, 2, 1},
    {"pq_end", call_pq_end, 0, 0},
    {NULL, NULL, 0, 0},
};
