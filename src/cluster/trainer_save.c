/* trainer_save.c - checkpoints of the trainer. */
#include "cluster/trainer_impl.h"

struct saved {
    char magic[8];
    uint64_t hash; /* xxh3 of everything behind this field */
    uint64_t n_sample, dim, k, seed;
    uint32_t metric, max_iters, n_absorbed, round;
    uint32_t n_requotas, done, n_losses, unused;
    double loss_before, losses[PLM_LLOYD_MAX + 1];
    uint64_t step_bytes;
};
#define HASHED_FROM (offsetof(struct saved, hash) + sizeof(uint64_t))

static const char saved_magic[8] = "PLMTRAN1";

enum plm_code plm_trainer_save(const struct plm_trainer *t, struct plm_buf *out, struct plm_err *err)
{
    const struct plm_train_options *o = &t->options;
    struct saved s = {.n_sample = o->n_sample, .dim = o->dim, .k = o->k, .seed = o->seed,
                      .metric = o->metric, .max_iters = o->max_iters, .n_absorbed = t->n_absorbed,
                      .round = t->round, .n_requotas = t->n_requotas, .done = t->done,
                      .n_losses = (uint32_t)t->n_losses, .loss_before = t->loss_before,
                      .step_bytes = t->step.len};
    size_t before = out->len;
    enum plm_code rc = PLM_OK;

    memcpy(s.magic, saved_magic, sizeof s.magic);
    memcpy(s.losses, t->losses, sizeof s.losses);
    PLM_TRY(plm_buf_reserve(out, sizeof s + t->step.len, err));
    PLM_TRY(plm_buf_add(out, &s, sizeof s, err));
    PLM_TRY(plm_buf_add(out, t->step.data, t->step.len, err));
    uint8_t *data = out->data + before;
    s.hash = plm_xxh3(data + HASHED_FROM, sizeof s + t->step.len - HASHED_FROM);
    memcpy(data + offsetof(struct saved, hash), &s.hash, sizeof s.hash);
done:
    if (rc != PLM_OK)
        out->len = before;
    return rc;
}

static enum plm_code check_saved(const struct saved *s, struct plm_view saved, struct plm_err *err)
{
    if (memcmp(s->magic, saved_magic, sizeof s->magic) != 0)
        return plm_fail(err, PLM_CORRUPT, "training checkpoint: does not begin with %.8s", saved_magic);
    if (s->step_bytes != saved.len - sizeof *s)
        return plm_fail(err, PLM_CORRUPT, "training checkpoint: %zu bytes behind its head, it says %" PRIu64,
                        saved.len - sizeof *s, s->step_bytes);
    if (plm_xxh3(saved.data + HASHED_FROM, saved.len - HASHED_FROM) != s->hash)
        return plm_fail(err, PLM_CORRUPT, "training checkpoint: its checksum does not match");
    if (s->n_losses > PLM_LLOYD_MAX || s->n_losses > s->n_absorbed || s->done > 1 ||
        (s->done && s->n_losses == 0) || (!s->done && s->n_losses == PLM_LLOYD_MAX))
        return plm_fail(err, PLM_CORRUPT, "training checkpoint: %u losses after %u steps", s->n_losses,
                        s->n_absorbed);
    return PLM_OK;
}

enum plm_code plm_trainer_saved_step(struct plm_view saved, struct plm_view *step, struct plm_err *err)
{
    struct saved s;

    if (saved.len < sizeof s)
        return plm_fail(err, PLM_CORRUPT, "training checkpoint: has %zu bytes, expected at least %zu",
                        saved.len, sizeof s);
    memcpy(&s, saved.data, sizeof s);
    enum plm_code rc = check_saved(&s, saved, err);
    if (rc == PLM_OK)
        *step = (struct plm_view){saved.data + sizeof s, saved.len - sizeof s};
    return rc;
}

static bool fits(const struct saved *s, const struct plm_step_head *h)
{
    return h->n_sample == s->n_sample && h->dim == s->dim && h->k == s->k && h->seed == s->seed &&
           h->metric == s->metric && h->number == s->n_absorbed && s->max_iters >= 1 &&
           (!s->done || h->kind == PLM_STEP_LLOYD);
}

enum plm_code plm_trainer_load(struct plm_ctx *ctx, struct plm_view saved, struct plm_trainer **out,
                               struct plm_err *err)
{
    struct plm_trainer *t = NULL;
    struct plm_step step;
    struct plm_view message = {0};
    struct saved s;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_trainer_saved_step(saved, &message, err));
    memcpy(&s, saved.data, sizeof s);
    PLM_TRY(plm_calloc(ctx, &t, 1, sizeof *t, err));
    t->ctx = ctx;
    t->options = (struct plm_train_options){.n_sample = s.n_sample, .dim = s.dim, .k = s.k,
                                            .metric = (enum plm_metric)s.metric, .seed = s.seed,
                                            .max_iters = s.max_iters};
    t->n_absorbed = s.n_absorbed;
    t->round = s.round;
    t->n_requotas = s.n_requotas;
    t->done = s.done;
    t->n_losses = s.n_losses;
    t->loss_before = s.loss_before;
    memcpy(t->losses, s.losses, sizeof s.losses);
    plm_buf_init(&t->step, ctx, SIZE_MAX);
    PLM_TRY(plm_buf_add(&t->step, message.data, message.len, err));
    PLM_TRY(plm_step_parse((struct plm_view){t->step.data, t->step.len}, &step, err));
    if (!fits(&s, &step.head))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "training checkpoint: its step %u belongs to another training",
                         step.head.number));
    plm_trainer_describe(t);
    *out = t;
    t = NULL;
done:
    plm_trainer_destroy(t);
    return rc;
}
