/* dist_train.c - centroids in a shared build.
 *
 * The trainer is a message: its state, of which any worker makes the next one from the partials
 * of all shards. The driver sees only the first and the last of them.
 */
#include <math.h>

#include "build/dist_parts.h"
#include "build/model_file.h"

static const char centroids_magic[8] = "PLMCENT1", state_magic[8] = "PLMTRNG1";

/* ---- the state ------------------------------------------------------------------------------- */

/* A trainer as plm_trainer_save() has it follows. Engines read this head: for progress, and to know
 * when to stop. */
struct wire_state {
    char magic[8];
    uint64_t is_done, n_done, n_total; /* steps */
    char what[64];
};

static enum plm_code put_state(const struct plm_trainer *trainer, struct plm_buf *answer, struct plm_err *err)
{
    struct wire_state head = {.is_done = plm_trainer_centroids(trainer) != NULL};
    unsigned done = 0, total = 0;
    const char *what = "";
    enum plm_code rc = PLM_OK;

    plm_trainer_progress(trainer, &done, &total);
    (void)plm_trainer_step(trainer, &what);
    memcpy(head.magic, state_magic, sizeof head.magic);
    head.n_done = done;
    head.n_total = total;
    snprintf(head.what, sizeof head.what, "%s", what);
    PLM_TRY(plm_buf_add(answer, &head, sizeof head, err));
    PLM_TRY(plm_trainer_save(trainer, answer, err));
done:
    return rc;
}

/* The trainer in a state, borrowed. */
static enum plm_code read_state(struct plm_view message, struct plm_view *saved, struct plm_err *err)
{
    if (message.len < sizeof(struct wire_state) || memcmp(message.data, state_magic, sizeof state_magic) != 0)
        return plm_fail(err, PLM_CORRUPT, "message: %zu bytes, expected the state of training", message.len);
    *saved = (struct plm_view){message.data + sizeof(struct wire_state),
                               message.len - sizeof(struct wire_state)};
    return PLM_OK;
}

static enum plm_code load_state(struct plm_dist *d, struct plm_view message, struct plm_trainer **out,
                                struct plm_err *err)
{
    struct plm_view saved = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(read_state(message, &saved, err));
    PLM_TRY(plm_trainer_load(d->ctx, saved, out, err));
done:
    return rc;
}

/* ---- the driver ------------------------------------------------------------------------------ */

static enum plm_code call_train_begin(struct plm_dist *d, const struct plm_dist_args *args,
                                      struct plm_buf *answer, struct plm_err *err)
{
    struct plm_trainer *trainer = NULL;
    enum plm_code rc = PLM_OK;
    (void)args;

    if (d->sampling.round != PLM_ROUND_DONE)
        return plm_fail(err, PLM_ARG, "train_begin: the sample is not chosen yet");
    PLM_TRY(plm_train_begin(&d->job, d->options, &d->sample, &trainer, err));
    d->is_training = true;
    if (trainer)
        PLM_TRY(put_state(trainer, answer, err));
done:
    plm_trainer_destroy(trainer);
    return rc;
}

/* What a state trained, into the model. */
static enum plm_code take_state(struct plm_dist *d, struct plm_view message, struct plm_err *err)
{
    struct plm_trainer *trainer = NULL;
    const struct plm_train_options *o;
    enum plm_code rc = PLM_OK;

    PLM_TRY(load_state(d, message, &trainer, err));
    o = plm_trainer_options(trainer);
    if (!plm_trainer_centroids(trainer) || o->k != d->job.model.k || o->dim != d->job.model.dim ||
        o->n_sample != d->sample.n)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: training of %zu x %zu on %zu rows%s, expected %u x %u on %" PRIu64,
                         o->k, o->dim, o->n_sample, plm_trainer_centroids(trainer) ? "" : ", not done",
                         d->job.model.k, d->job.model.dim, d->sample.n));
    PLM_TRY(plm_train_take_centroids(&d->job, trainer, err));
done:
    plm_trainer_destroy(trainer);
    return rc;
}

/* Centroids into the model, if they are not given; the answer carries them to the workers. */
static enum plm_code call_train_end(struct plm_dist *d, const struct plm_dist_args *args,
                                    struct plm_buf *answer, struct plm_err *err)
{
    const struct plm_model *m = &d->job.model;
    enum plm_code rc = PLM_OK;

    if (!d->is_training)
        return plm_fail(err, PLM_ARG, "train_end: train_begin comes first");
    if (!d->options->ivf_centroids.data)
        PLM_TRY(take_state(d, args->messages[0], err));
    PLM_TRY(plm_buf_add(answer, centroids_magic, 8, err));
    PLM_TRY(plm_put_u64(answer, m->k, err));
    PLM_TRY(plm_buf_add(answer, m->centroids, (size_t)m->k * m->dim * sizeof(float), err));
done:
    return rc;
}

/* ---- workers --------------------------------------------------------------------------------- */

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
    struct plm_view step = {0};
    struct plm_dist_shard *s = NULL;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&sum, d->ctx, PLM_DIST_MESSAGE_MAX);
    plm_buf_init(&one, d->ctx, PLM_DIST_MESSAGE_MAX);
    if (args->n_numbers == 0 || args->n_numbers % 2)
        PLM_TRY(plm_fail(err, PLM_ARG, "step: %zu numbers, expected pairs", args->n_numbers));
    PLM_TRY(read_state(args->messages[0], &step, err));
    PLM_TRY(plm_trainer_saved_step(step, &step, err));
    for (size_t i = 0; i < args->n_numbers; i += 2) {
        PLM_TRY(open_shard(d, args->numbers[i], args->numbers[i + 1], &s, err));
        one.len = 0;
        PLM_TRY(plm_shard_run(s->shard, step, &one, err));
        PLM_TRY(plm_partial_merge(&sum, (struct plm_view){one.data, one.len}, err));
    }
    PLM_TRY(plm_buf_add(answer, sum.data, sum.len, err));
done:
    plm_buf_reset(&sum);
    plm_buf_reset(&one);
    return rc;
}

static enum plm_code add_partials(struct plm_dist *d, const struct plm_view *partials, size_t n,
                                  struct plm_buf *sum, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    plm_buf_init(sum, d->ctx, PLM_DIST_MESSAGE_MAX);
    for (size_t i = 0; i < n; i++)
        PLM_TRY(plm_partial_merge(sum, partials[i], err));
done:
    return rc;
}

static enum plm_code call_reduce(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    struct plm_buf sum = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(add_partials(d, args->messages, args->n_messages, &sum, err));
    PLM_TRY(plm_buf_add(answer, sum.data, sum.len, err));
done:
    plm_buf_reset(&sum);
    return rc;
}

/* One step of the trainer, which the answer has in its new state. */
static enum plm_code call_train_next(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    struct plm_trainer *trainer = NULL;
    struct plm_buf sum = {0};
    double long_ago = -INFINITY;
    enum plm_code rc = PLM_OK;

    if (args->n_messages < 2)
        return plm_fail(err, PLM_ARG, "train_next: %zu messages, expected a state and partials", args->n_messages);
    struct plm_view all = args->messages[1];
    PLM_TRY(load_state(d, args->messages[0], &trainer, err));
    if (args->n_messages > 2) {
        PLM_TRY(add_partials(d, args->messages + 1, args->n_messages - 1, &sum, err));
        all = (struct plm_view){sum.data, sum.len};
    }
    PLM_TRY(plm_trainer_absorb(trainer, all, err));
    plm_buf_reset(&sum);
    if (args->numbers[0])
        PLM_TRY(plm_train_checkpoint(&d->job, trainer, &long_ago, err));
    PLM_TRY(put_state(trainer, answer, err));
done:
    plm_buf_reset(&sum);
    plm_trainer_destroy(trainer);
    return rc;
}

/* As train_end gave them: into the model of this worker. */
enum plm_code plm_dist_take_centroids(struct plm_dist *d, struct plm_view message, struct plm_err *err)
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
    plm_job_model_init(job, (uint32_t)k);
    PLM_TRY(plm_job_model_room(job, err));
    d->has_model = false;
    PLM_TRY(plm_reader_copy(&r, job->model.centroids, plm_reader_left(&r), err));
    for (size_t i = 0; i < k * job->model.dim; i++)
        if (!isfinite(job->model.centroids[i]))
            return plm_fail(err, PLM_CORRUPT, "message: centroids: value %zu is not finite", i);
done:
    return rc;
}

/* ---- the model ------------------------------------------------------------------------------- */

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
    {"train_next", call_train_next, 1, PLM_ANY},
    {"train_end", call_train_end, 0, 1},
    {"step", call_step, PLM_ANY, 1},
    {"reduce", call_reduce, 0, PLM_ANY},
    {"model_save", call_model_save, 0, 0},
    {NULL, NULL, 0, 0},
};
