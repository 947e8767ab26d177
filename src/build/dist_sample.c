/* dist_sample.c - the sample of a shared build.
 *
 * Driver: which slices (as plm_sample_take() chooses them), cut into shards of neighbouring slices.
 * Round by round it sends every shard its slices and hears how many rows were usable; a table
 * whose rows are all usable takes one round. Worker: shards held in memory or spilled.
 */
#include <math.h>
#include <stdlib.h>

#include "build/dist_parts.h"

#define SHARDS_MAX 65536

static const char slices_magic[8] = "PLMSLIC1", held_magic[8] = "PLMHELD1";

/* Of a message for `shard`; wire_slice[n] follow. */
struct wire_head {
    uint64_t n, load; /* load 0: only count */
};
struct wire_slice {
    uint64_t number;
    uint32_t keep, unused;
};
/* Of its answer; u8 usable[n_slices] follow. */
struct wire_held {
    uint64_t n_slices, n_rows;
    float lo, hi, max_abs;
    uint32_t unused;
};

/* ---- driver: rounds ------------------------------------------------------------------------ */

void plm_dist_sampling_reset(struct plm_dist *d)
{
    struct plm_dist_sampling *s = &d->sampling;
    plm_slices_reset(&s->slices);
    plm_free(d->ctx, s->by_number);
    plm_free(d->ctx, s->held);
    plm_free(d->ctx, s->answered);
    *s = (struct plm_dist_sampling){0};
}

static int by_number(const void *a, const void *b)
{
    const struct plm_slice *const *x = a, *const *y = b;
    return (*x)->number < (*y)->number ? -1 : (*x)->number > (*y)->number;
}

/* Slices [from, to) of the list, cut between the shards. */
static enum plm_code begin_round(struct plm_dist *d, size_t from, size_t to, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    enum plm_code rc = PLM_OK;

    s->from = from;
    s->to = to;
    PLM_TRY(plm_realloc(d->ctx, &s->by_number, to - from, sizeof *s->by_number, err));
    for (size_t i = from; i < to; i++)
        s->by_number[i - from] = &s->slices.items[i];
    qsort(s->by_number, to - from, sizeof *s->by_number, by_number);
    memset(s->answered, 0, s->n_shards);
    s->n_messages = s->n_shards;
done:
    return rc;
}

static void shard_slices(const struct plm_dist_sampling *s, size_t shard, size_t *first, size_t *end)
{
    size_t n = s->to - s->from;
    *first = (size_t)((__uint128_t)shard * n / s->n_shards);
    *end = (size_t)((__uint128_t)(shard + 1) * n / s->n_shards);
}

static enum plm_code call_sample_begin(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    const struct plm_plan *p = &d->job.plan;
    size_t n_used;
    bool known;
    enum plm_code rc = PLM_OK;
    (void)answer;

    if (args->numbers[0] < 1 || args->numbers[0] > SHARDS_MAX)
        return plm_fail(err, PLM_ARG, "%" PRIu64 " shards, expected 1..%d", args->numbers[0], SHARDS_MAX);
    plm_dist_sampling_reset(d);
    plm_slices_init(&s->slices, d->ctx, p->n_live, p->seed);
    PLM_TRY(plm_slices_extend(&s->slices, p->sample_rows / PLM_SLICE_ROWS + 2, err));
    plm_slices_choose(&s->slices, p->sample_rows, &n_used, &s->n_rows, &known);
    s->n_used = n_used;
    s->n_shards = (size_t)plm_min_u64(args->numbers[0], plm_max_size(1, n_used));
    PLM_TRY(plm_calloc(d->ctx, &s->held, s->n_shards, sizeof *s->held, err));
    PLM_TRY(plm_calloc(d->ctx, &s->answered, s->n_shards, 1, err));
    PLM_TRY(begin_round(d, 0, n_used, err));
done:
    return rc;
}

static uint64_t rows_held(const struct plm_dist_sampling *s)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s->n_shards; i++)
        n += s->held[i].n;
    return n;
}

static enum plm_code finish_sample(struct plm_dist *d, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    struct plm_sample_facts all = {0};

    for (size_t i = 0; i < s->n_shards; i++) {
        const struct plm_sample_facts *h = &s->held[i];
        if (h->n == 0)
            continue;
        all.lo = all.n == 0 || h->lo < all.lo ? h->lo : all.lo;
        all.hi = all.n == 0 || h->hi > all.hi ? h->hi : all.hi;
        all.n += h->n;
    }
    all.max_abs = fmaxf(fabsf(all.lo), fabsf(all.hi));
    if (s->round == PLM_ROUND_LAST && all.n != s->n_rows)
        return plm_fail(err, PLM_CORRUPT, "sample: %" PRIu64 " usable rows, %" PRIu64
                        " when they were read before", all.n, s->n_rows);
    s->round = PLM_ROUND_DONE;
    s->n_messages = 0;
    d->sample = all;
    return PLM_OK;
}

/* All shards have answered: what next? */
static enum plm_code next_round(struct plm_dist *d, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    size_t n_counted = s->to, n = 0;
    enum plm_code rc = PLM_OK;

    bool is_enough = rows_held(s) >= s->n_rows || s->n_used == s->slices.n_all;
    if (s->round == PLM_ROUND_LAST || (s->round == PLM_ROUND_FIRST && is_enough))
        return finish_sample(d, err);
    PLM_TRY(plm_slices_next(&s->slices, d->job.plan.sample_rows, n_counted, &s->n_used, &s->n_rows, &n, err));
    s->round = n == n_counted ? PLM_ROUND_LAST : PLM_ROUND_COUNT;
    PLM_TRY(n == n_counted ? begin_round(d, 0, s->n_used, err) : begin_round(d, n_counted, n, err));
done:
    return rc;
}

static enum plm_code call_sample_round(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    size_t n_answered = 0;
    enum plm_code rc = PLM_OK;
    (void)args;

    if (s->n_shards == 0)
        return plm_fail(err, PLM_ARG, "sample_round: sample_begin comes first");
    for (size_t i = 0; i < s->n_shards; i++)
        n_answered += s->answered[i];
    if (s->round != PLM_ROUND_DONE && n_answered == s->n_shards)
        PLM_TRY(next_round(d, err));
    PLM_TRY(plm_put_u64(answer, s->n_messages, err));
done:
    return rc;
}

static enum plm_code check_shard(const struct plm_dist *d, uint64_t shard, struct plm_err *err)
{
    if (shard >= d->sampling.n_shards)
        return plm_fail(err, PLM_ARG, "shard %" PRIu64 " of %zu", shard, d->sampling.n_shards);
    return PLM_OK;
}

/* After the last round: the same message again, for a worker that takes the place of a lost one. */
static enum plm_code call_sample_message(struct plm_dist *d, const struct plm_dist_args *args,
                                         struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_dist_sampling *s = &d->sampling;
    size_t first, end;
    enum plm_code rc = PLM_OK;

    PLM_TRY(check_shard(d, args->numbers[0], err));
    shard_slices(s, args->numbers[0], &first, &end);
    struct wire_head head = {.n = end - first, .load = s->round != PLM_ROUND_COUNT};
    PLM_TRY(plm_buf_add(answer, slices_magic, 8, err));
    PLM_TRY(plm_buf_add(answer, &head, sizeof head, err));
    for (size_t i = first; i < end; i++) {
        const struct plm_slice *slice = s->by_number[i];
        struct wire_slice w = {.number = slice->number, .keep = head.load ? slice->keep : 0};
        PLM_TRY(plm_buf_add(answer, &w, sizeof w, err));
    }
done:
    return rc;
}

static enum plm_code read_held(struct plm_dist *d, size_t shard, struct plm_view message,
                               struct wire_held *held, const uint8_t **usable, struct plm_err *err)
{
    struct plm_reader r;
    size_t first, end;
    enum plm_code rc = PLM_OK;

    shard_slices(&d->sampling, shard, &first, &end);
    PLM_TRY(plm_reader_open(message, held_magic, "a shard's answer", &r, err));
    PLM_TRY(plm_reader_copy(&r, held, sizeof *held, err));
    if (held->n_slices != end - first || held->n_rows > held->n_slices * PLM_SLICE_ROWS ||
        !isfinite(held->lo) || !isfinite(held->hi) || !isfinite(held->max_abs) || held->lo > held->hi)
        return plm_fail(err, PLM_CORRUPT, "message: shard %zu answers for %" PRIu64 " slices with %" PRIu64
                        " rows, expected %zu slices", shard, held->n_slices, held->n_rows, end - first);
    PLM_TRY(plm_reader_take(&r, end - first, 1, usable, err));
    for (size_t i = first; i < end; i++)
        if ((*usable)[i - first] > plm_slice_rows(&d->sampling.slices, d->sampling.by_number[i]->number))
            return plm_fail(err, PLM_CORRUPT, "message: shard %zu: %u usable rows in slice %zu", shard,
                            (*usable)[i - first], i);
    PLM_TRY(plm_reader_end(&r, err));
done:
    return rc;
}

static enum plm_code call_sample_answer(struct plm_dist *d, const struct plm_dist_args *args,
                                        struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_sampling *s = &d->sampling;
    struct wire_held held;
    const uint8_t *usable = NULL;
    size_t shard = (size_t)args->numbers[0], first, end;
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(check_shard(d, args->numbers[0], err));
    PLM_TRY(read_held(d, shard, args->messages[0], &held, &usable, err));
    if (s->round == PLM_ROUND_DONE || s->answered[shard])
        goto done; /* a shard that was read again */
    shard_slices(s, shard, &first, &end);
    for (size_t i = first; i < end; i++)
        s->by_number[i]->usable = usable[i - first];
    if (s->round != PLM_ROUND_COUNT)
        s->held[shard] = (struct plm_sample_facts){held.n_rows, held.lo, held.hi, held.max_abs};
    s->answered[shard] = 1;
done:
    return rc;
}

static enum plm_code call_shards(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    uint64_t pair[2] = {0};
    enum plm_code rc = PLM_OK;
    (void)args;

    for (size_t i = 0; i < d->sampling.n_shards; i++) {
        pair[0] += pair[1];
        pair[1] = d->sampling.held[i].n;
        PLM_TRY(plm_buf_add(answer, pair, sizeof pair, err));
    }
done:
    return rc;
}

/* ---- worker: shards ------------------------------------------------------------------------- */

static void reset_shard(struct plm_dist *d, struct plm_dist_shard *shard)
{
    (void)d;
    plm_shard_destroy(shard->shard);
    plm_sample_reset(&shard->sample);
    plm_buf_reset(&shard->answer);
    *shard = (struct plm_dist_shard){0};
}

void plm_dist_drop_shards(struct plm_dist *d)
{
    for (size_t i = 0; i < d->n_shards; i++)
        reset_shard(d, &d->shards[i]);
    plm_free(d->ctx, d->shards);
    d->shards = NULL;
    d->n_shards = 0;
}

static struct plm_dist_shard *find_shard(struct plm_dist *d, uint64_t number)
{
    for (size_t i = 0; i < d->n_shards; i++)
        if (d->shards[i].number == number)
            return &d->shards[i];
    return NULL;
}

enum plm_code plm_dist_find_shard(struct plm_dist *d, uint64_t number, struct plm_dist_shard **out,
                                  struct plm_err *err)
{
    *out = find_shard(d, number);
    return *out ? PLM_OK : plm_fail(err, PLM_NOT_FOUND, "shard %" PRIu64 " is not here", number);
}

static void drop_shard(struct plm_dist *d, struct plm_dist_shard *shard)
{
    reset_shard(d, shard);
    *shard = d->shards[--d->n_shards];
    for (size_t i = 0; i < d->n_shards; i++) { /* shards borrow their samples, which moved */
        plm_shard_destroy(d->shards[i].shard);
        d->shards[i].shard = NULL;
    }
}

static enum plm_code call_shard_drop(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    (void)answer, (void)err;
    if (args->n_numbers == 0)
        plm_dist_drop_shards(d);
    for (size_t i = 0; i < args->n_numbers; i++) {
        struct plm_dist_shard *shard = find_shard(d, args->numbers[i]);
        if (shard)
            drop_shard(d, shard);
    }
    return PLM_OK;
}

static enum plm_code read_slices(struct plm_dist *d, struct plm_view message, struct plm_slice **out,
                                 struct wire_head *head, struct plm_err *err)
{
    struct plm_reader r;
    struct plm_slice *slices = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_reader_open(message, slices_magic, "the slices of a shard", &r, err));
    PLM_TRY(plm_reader_copy(&r, head, sizeof *head, err));
    if (head->n != plm_reader_left(&r) / sizeof(struct wire_slice))
        return plm_fail(err, PLM_CORRUPT, "message: %zu bytes for %" PRIu64 " slices", plm_reader_left(&r),
                        head->n);
    PLM_TRY(plm_alloc(d->ctx, &slices, (size_t)head->n, sizeof *slices, err));
    for (size_t i = 0; i < head->n; i++) {
        struct wire_slice w;
        PLM_TRY(plm_reader_copy(&r, &w, sizeof w, err));
        slices[i] = (struct plm_slice){.number = w.number, .keep = w.keep};
    }
    PLM_TRY(plm_reader_end(&r, err));
    *out = slices;
    slices = NULL;
done:
    plm_free(d->ctx, slices);
    return rc;
}

static enum plm_code put_held(const struct plm_sample *sample, const struct plm_slice *slices, size_t n,
                              struct plm_buf *out, struct plm_err *err)
{
    struct wire_held held = {.n_slices = n, .n_rows = sample->n};
    enum plm_code rc = PLM_OK;

    if (sample->n > 0) {
        held.lo = sample->lo;
        held.hi = sample->hi;
        held.max_abs = sample->max_abs;
    }
    PLM_TRY(plm_buf_add(out, held_magic, 8, err));
    PLM_TRY(plm_buf_add(out, &held, sizeof held, err));
    for (size_t i = 0; i < n; i++) {
        uint8_t usable = (uint8_t)slices[i].usable;
        PLM_TRY(plm_buf_add(out, &usable, 1, err));
    }
done:
    return rc;
}

/* What the other shards leave of the memory for samples. */
static size_t room_left(const struct plm_dist *d)
{
    size_t room = d->job.plan.memory.sample_bytes;
    for (size_t i = 0; i < d->n_shards; i++) {
        const struct plm_sample *s = &d->shards[i].sample;
        size_t bytes = s->rows ? s->n * s->dim * sizeof(float) : 0;
        room -= plm_min_size(room, bytes);
    }
    return room;
}

static enum plm_code keep_shard(struct plm_dist *d, struct plm_dist_shard *shard, struct plm_err *err)
{
    enum plm_code rc = plm_realloc(d->ctx, &d->shards, d->n_shards + 1, sizeof *d->shards, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < d->n_shards; i++) { /* shards borrow their samples, which moved */
        plm_shard_destroy(d->shards[i].shard);
        d->shards[i].shard = NULL;
    }
    d->shards[d->n_shards++] = *shard;
    *shard = (struct plm_dist_shard){0};
    return PLM_OK;
}

static enum plm_code load_shard(struct plm_dist *d, uint64_t number, struct plm_view message,
                                struct plm_buf *answer, struct plm_err *err)
{
    struct plm_dist_shard shard = {.number = number, .message_xxh3 = plm_xxh3(message.data, message.len)};
    struct plm_slice *slices = NULL;
    struct wire_head head;
    char path[48];
    enum plm_code rc = PLM_OK;

    snprintf(path, sizeof path, "sample-%" PRIu64, number);
    plm_buf_init(&shard.answer, d->ctx, PLM_DIST_MESSAGE_MAX);
    PLM_TRY(read_slices(d, message, &slices, &head, err));
    PLM_TRY(plm_sample_take_slices(&d->job.source, d->job.plan.metric, slices, (size_t)head.n, room_left(d),
                                   d->spill, path, &shard.sample, err));
    if (d->job.plan.memory.spills_projected) {
        shard.sample.aside = d->spill;
        snprintf(shard.sample.aside_path, sizeof shard.sample.aside_path, "projected-%" PRIu64, number);
    }
    PLM_TRY(put_held(&shard.sample, slices, (size_t)head.n, &shard.answer, err));
    PLM_TRY(plm_buf_add(answer, shard.answer.data, shard.answer.len, err));
    if (head.load)
        PLM_TRY(keep_shard(d, &shard, err));
done:
    reset_shard(d, &shard);
    plm_free(d->ctx, slices);
    return rc;
}

static enum plm_code call_shard(struct plm_dist *d, const struct plm_dist_args *args,
                                struct plm_buf *answer, struct plm_err *err)
{
    struct plm_view message = args->messages[0];
    struct plm_dist_shard *old = find_shard(d, args->numbers[0]);

    if (!d->spill)
        return plm_fail(err, PLM_ARG, "shard: only a worker reads samples");
    if (old && old->message_xxh3 == plm_xxh3(message.data, message.len))
        return plm_buf_add(answer, old->answer.data, old->answer.len, err);
    if (old)
        drop_shard(d, old);
    return load_shard(d, args->numbers[0], message, answer, err);
}

const struct plm_dist_entry plm_dist_sample_calls[] = {
    {"sample_begin", call_sample_begin, 1, 0},
    {"sample_round", call_sample_round, 0, 0},
    {"sample_message", call_sample_message, 1, 0},
    {"sample_answer", call_sample_answer, 1, 1},
    {"shards", call_shards, 0, 0},
    {"shard", call_shard, 1, 1},
    {"shard_drop", call_shard_drop, PLM_ANY, 0},
    {NULL, NULL, 0, 0},
};
