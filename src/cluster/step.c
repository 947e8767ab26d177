/* step.c - steps as messages: built by the trainer, checked by every shard. */
#include <math.h>

#include "cluster/train_message.h"
#include "simd/simd.h"

#define ALIGN 64

static const char step_magic[8] = "PLMSTEP1";

/* ---- building ---------------------------------------------------------------------- */

enum plm_code plm_step_begin(struct plm_buf *buf, const struct plm_step_head *head,
                             struct plm_err *err)
{
    struct plm_step_head h = *head;

    _Static_assert(sizeof h == 2 * ALIGN, "sections start behind the head");
    memcpy(h.magic, step_magic, sizeof h.magic);
    h.bytes = 0;
    memset(h.unused, 0, sizeof h.unused);
    buf->len = 0;
    return plm_buf_add(buf, &h, sizeof h, err);
}

enum plm_code plm_step_section(struct plm_buf *buf, const void *bytes, size_t n, size_t each,
                               struct plm_err *err)
{
    static const uint8_t zeros[ALIGN];
    enum plm_code rc = plm_buf_add(buf, bytes, n * each, err);

    if (rc == PLM_OK && buf->len % ALIGN)
        rc = plm_buf_add(buf, zeros, ALIGN - buf->len % ALIGN, err);
    return rc;
}

enum plm_code plm_step_level(struct plm_buf *buf, uint32_t n_nodes, const uint32_t *fan,
                             uint32_t n_points, const float *points, const float *biases, uint32_t r,
                             struct plm_err *err)
{
    uint32_t counts[2] = {n_nodes, n_points};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_step_section(buf, counts, 2, sizeof *counts, err));
    PLM_TRY(plm_step_section(buf, fan, n_nodes, sizeof *fan, err));
    PLM_TRY(plm_step_section(buf, points, (size_t)n_points * r, sizeof *points, err));
    PLM_TRY(plm_step_section(buf, biases, n_points, sizeof *biases, err));
done:
    return rc;
}

void plm_step_finish(struct plm_buf *buf)
{
    uint64_t bytes = buf->len;

    memcpy(buf->data + offsetof(struct plm_step_head, bytes), &bytes, sizeof bytes);
}

/* ---- parsing ------------------------------------------------------------------------- */

struct cursor {
    struct plm_view bytes;
    size_t at;
};

/* The next section, of n * each bytes. */
static enum plm_code take(struct cursor *c, size_t n, size_t each, const void **out,
                          const char *what, struct plm_err *err)
{
    size_t size, padded;

    if (!plm_size_mul(n, each, &size) || !plm_size_add(size, ALIGN - 1, &padded) ||
        padded / ALIGN * ALIGN > c->bytes.len - c->at)
        return plm_fail(err, PLM_CORRUPT,
                        "training step: %s at offset %zu needs %zu x %zu bytes, %zu are left", what,
                        c->at, n, each, c->bytes.len - c->at);
    *out = c->bytes.data + c->at;
    c->at += padded / ALIGN * ALIGN;
    return PLM_OK;
}

static enum plm_code take_floats(struct cursor *c, size_t rows, size_t columns, const float **out,
                                 const char *what, struct plm_err *err)
{
    const void *section = NULL;
    size_t at = c->at, n;
    enum plm_code rc;

    if (!plm_size_mul(rows, columns, &n))
        return plm_fail(err, PLM_CORRUPT, "training step: %s has %zu x %zu values", what, rows, columns);
    rc = take(c, n, sizeof(float), &section, what, err);
    if (rc != PLM_OK)
        return rc;
    *out = section;
    for (size_t i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return plm_fail(err, PLM_CORRUPT,
                            "training step: %s at offset %zu: value %zu is not finite", what, at, i);
    return PLM_OK;
}

static enum plm_code bad_head(struct plm_err *err, const char *field, double seen)
{
    return plm_fail(err, PLM_CORRUPT, "training step: %s is %g", field, seen);
}

static bool is_usable(double x) { return isfinite(x) && x > 0; }

static enum plm_code check_head(const struct plm_step_head *h, size_t len, struct plm_err *err)
{
    if (memcmp(h->magic, step_magic, sizeof h->magic) != 0)
        return plm_fail(err, PLM_CORRUPT, "training step: does not begin with %.8s", step_magic);
    if (h->bytes != len)
        return plm_fail(err, PLM_CORRUPT, "training step: has %zu bytes, its head says %" PRIu64, len,
                        h->bytes);
    if (h->kind < PLM_STEP_FETCH || h->kind > PLM_STEP_LLOYD)
        return bad_head(err, "kind", h->kind);
    if (h->dim < 1 || h->dim > PLM_TRAIN_DIM_MAX)
        return bad_head(err, "dim", h->dim);
    if (h->n_sample < 1 || h->n_sample > UINT32_MAX)
        return bad_head(err, "n_sample", (double)h->n_sample);
    if (h->k < 1 || h->k > h->n_sample)
        return bad_head(err, "k", h->k);
    if (h->metric != PLM_L2 && h->metric != PLM_DOT)
        return bad_head(err, "metric", h->metric);
    if (h->n_levels > PLM_TREE_LEVELS || (h->kind == PLM_STEP_SPLIT && h->n_levels == 0) ||
        (h->kind != PLM_STEP_SEEDS && h->kind != PLM_STEP_SPLIT && h->n_levels != 0))
        return bad_head(err, "n_levels", h->n_levels);
    if (h->kind == PLM_STEP_FETCH)
        return PLM_OK;
    if (h->has_basis ? h->r < 1 || h->r > h->dim || h->r % PLM_PANEL
                     : h->kind != PLM_STEP_LLOYD && h->r != h->dim)
        return bad_head(err, "r", h->r);
    if (!isfinite(h->cap) || h->cap < 0)
        return bad_head(err, "cap", (double)h->cap);
    if (!is_usable(h->magic_sum) || !is_usable(h->loss_limit) || !is_usable(h->loss_scale) ||
        (double)h->n_sample * h->loss_limit * h->loss_scale > 0x1p62) /* the sums would overflow */
        return bad_head(err, "loss_scale", h->loss_scale);
    return PLM_OK;
}

/* Levels hang together: each has a node for every child of the level above. */
static enum plm_code take_level(struct cursor *c, const struct plm_step_head *h, uint32_t n_nodes,
                                struct plm_level *out, struct plm_err *err)
{
    const void *section = NULL;
    uint32_t counts[2];
    uint64_t n_children = 0;
    enum plm_code rc = PLM_OK;

    out->at = c->at;
    PLM_TRY(take(c, 2, sizeof *counts, &section, "a level", err));
    memcpy(counts, section, sizeof counts);
    out->n_nodes = counts[0];
    out->n_points = counts[1];
    if (out->n_nodes != n_nodes || out->n_points < 1 || out->n_points > h->k)
        return plm_fail(err, PLM_CORRUPT,
                        "training step: level at offset %zu has %u nodes and %u points, expected %u "
                        "nodes and at most %u points", out->at, out->n_nodes, out->n_points, n_nodes,
                        h->k);
    PLM_TRY(take(c, n_nodes, sizeof *out->fan, &section, "the children of a level", err));
    out->fan = section;
    for (uint32_t i = 0; i < n_nodes; i++)
        n_children += out->fan[i];
    if (n_children != out->n_points)
        return plm_fail(err, PLM_CORRUPT,
                        "training step: the nodes of the level at offset %zu have %" PRIu64
                        " children, expected %u", out->at, n_children, out->n_points);
    out->points_at = c->at;
    PLM_TRY(take_floats(c, out->n_points, h->r, &out->points, "the points of a level", err));
    out->biases_at = c->at;
    PLM_TRY(take_floats(c, out->n_points, 1, &out->biases, "the biases of a level", err));
done:
    return rc;
}

static enum plm_code take_tree(struct cursor *c, struct plm_step *s, struct plm_err *err)
{
    const struct plm_step_head *h = &s->head;
    const void *section = NULL;
    uint32_t n_nodes = 1;
    enum plm_code rc = PLM_OK;

    PLM_TRY(take_floats(c, 1, h->dim, &s->mean, "the mean", err));
    if (h->has_basis)
        PLM_TRY(take_floats(c, h->r, h->dim, &s->basis, "the basis", err));
    for (uint32_t i = 0; i < h->n_levels; i++) {
        PLM_TRY(take_level(c, h, n_nodes, &s->levels[i], err));
        n_nodes = s->levels[i].n_points;
    }
    s->levels_end = c->at;
    if (h->kind == PLM_STEP_SEEDS) {
        uint64_t n_leaves = 0, n_wanted = 0;

        if (h->n_levels == PLM_TREE_LEVELS || h->n_nodes != n_nodes)
            PLM_TRY(bad_head(err, "n_nodes", h->n_nodes));
        PLM_TRY(take(c, n_nodes, sizeof *s->want, &section, "the seeds wanted", err));
        s->want = section;
        PLM_TRY(take(c, n_nodes, sizeof *s->quotas, &section, "the quotas", err));
        s->quotas = section;
        for (uint32_t i = 0; i < n_nodes; i++) {
            n_leaves += s->quotas[i];
            n_wanted += s->want[i];
        }
        if (n_leaves > h->k || n_wanted > 4 * (uint64_t)h->k)
            PLM_TRY(bad_head(err, "the sum of the quotas", (double)n_leaves));
    }
done:
    return rc;
}

static enum plm_code take_sections(struct cursor *c, struct plm_step *s, struct plm_err *err)
{
    const struct plm_step_head *h = &s->head;
    enum plm_code rc = PLM_OK;

    if (h->kind == PLM_STEP_FETCH)
        return h->n_points >= 1 && h->n_points <= PLM_FETCH_ROWS
                   ? PLM_OK : bad_head(err, "n_points", h->n_points);
    if (h->kind != PLM_STEP_LLOYD || h->has_basis)
        PLM_TRY(take_tree(c, s, err));
    s->points_at = c->at;
    if (h->kind == PLM_STEP_MEANS || h->kind == PLM_STEP_LLOYD) {
        bool full = h->kind == PLM_STEP_LLOYD;

        if (h->n_points < 1 || h->n_points > h->k || (full && h->n_points != h->k))
            PLM_TRY(bad_head(err, "n_points", h->n_points));
        PLM_TRY(take_floats(c, h->n_points, full ? h->dim : h->r, &s->points, "the points", err));
    }
done:
    return rc;
}

enum plm_code plm_step_parse(struct plm_view bytes, struct plm_step *out, struct plm_err *err)
{
    struct plm_step s = {0};
    struct cursor c = {bytes, sizeof s.head};
    enum plm_code rc = PLM_OK;

    if (bytes.len < sizeof s.head)
        return plm_fail(err, PLM_CORRUPT, "training step: has %zu bytes, expected at least %zu",
                        bytes.len, sizeof s.head);
    memcpy(&s.head, bytes.data, sizeof s.head);
    PLM_TRY(check_head(&s.head, bytes.len, err));
    PLM_TRY(take_sections(&c, &s, err));
    if (c.at != bytes.len)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "training step: ends at offset %zu, has %zu bytes", c.at,
                         bytes.len));
    s.hash = plm_xxh3(bytes.data, bytes.len);
    *out = s;
done:
    return rc;
}
