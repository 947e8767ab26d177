/* partial.c - partials as messages, and their exact merge. */
#include <math.h>

#include "cluster/train_message.h"

static const char partial_magic[8] = "PLMPART1";

enum plm_code plm_aligned(struct plm_ctx *ctx, struct plm_view view, void **copy,
                          struct plm_view *out, struct plm_err *err)
{
    if ((uintptr_t)view.data % sizeof(uint64_t) != 0) {
        enum plm_code rc = plm_alloc(ctx, copy, view.len, 1, err);
        if (rc != PLM_OK)
            return rc;
        memcpy(*copy, view.data, view.len);
        view.data = *copy;
    }
    *out = view;
    return PLM_OK;
}

/* ---- layout ----------------------------------------------------------------------------- */

/* Bytes of a partial; false on overflow. */
static bool partial_bytes(enum plm_partial_kind kind, uint32_t n, uint32_t dim, size_t n_picks,
                          size_t *out)
{
    size_t each = sizeof(uint64_t) + sizeof(int64_t), values;

    if (kind == PLM_PICKS) {
        if (!plm_size_mul(n_picks, plm_pick_bytes(dim), &values))
            return false;
    } else if (!plm_size_mul((size_t)n * dim, sizeof(double), &values)) {
        return false;
    }
    return plm_size_add(values, sizeof(struct plm_partial_head) + n * each, out);
}

static void lay_out(uint8_t *data, struct plm_partial *p)
{
    struct plm_partial_head *head = (struct plm_partial_head *)(void *)data;
    size_t n = head->n;

    *p = (struct plm_partial){.head = head, .sizes = (uint64_t *)(void *)(data + sizeof *head)};
    if (head->kind == PLM_PICKS) {
        p->want = (uint32_t *)(void *)(p->sizes + n);
        p->have = p->want + n;
        p->picks = (uint8_t *)(p->have + n);
    } else {
        p->losses = (int64_t *)(void *)(p->sizes + n);
        p->sums = (double *)(void *)(p->losses + n);
    }
}

/* Room in an empty buffer, no more than asked for: a buffer that grows doubles, and partials are
 * the largest thing in memory. */
static enum plm_code reserve(struct plm_buf *buf, size_t n, struct plm_err *err)
{
    if (buf->len == 0 && buf->cap < n)
        plm_buf_reset(buf);
    return plm_buf_reserve(buf, n, err);
}

static enum plm_code append(struct plm_buf *buf, const struct plm_partial_head *head, size_t n_picks,
                            struct plm_partial *out, struct plm_err *err)
{
    struct plm_partial_head h = *head;
    size_t bytes;
    enum plm_code rc;

    if (buf->len % sizeof(uint64_t) != 0)
        return plm_fail(err, PLM_ARG, "training partial: appended at offset %zu, expected a multiple of 8",
                        buf->len);
    if (!partial_bytes((enum plm_partial_kind)h.kind, h.n, h.dim, n_picks, &bytes))
        return plm_fail(err, PLM_LIMIT, "training partial: %u x %u values are too many", h.n, h.dim);
    rc = reserve(buf, bytes, err);
    if (rc != PLM_OK)
        return rc;
    h.bytes = bytes;
    uint8_t *data = buf->data + buf->len;
    memset(data, 0, bytes);
    memcpy(data, &h, sizeof h);
    buf->len += bytes;
    lay_out(data, out);
    return PLM_OK;
}

enum plm_code plm_partial_begin(struct plm_buf *buf, enum plm_partial_kind kind,
                                const struct plm_step *step, uint32_t n, uint32_t dim,
                                size_t n_picks, struct plm_partial *out, struct plm_err *err)
{
    struct plm_partial_head h = {.kind = kind, .number = step->head.number, .step_hash = step->hash,
                                 .n = n, .dim = dim};

    _Static_assert(sizeof h == 64, "arrays behind the head are aligned");
    memcpy(h.magic, partial_magic, sizeof h.magic);
    return append(buf, &h, n_picks, out, err);
}

/* ---- parsing ------------------------------------------------------------------------------ */

static struct plm_pick pick_at(const struct plm_partial *p, size_t i)
{
    struct plm_pick pick;

    memcpy(&pick, p->picks + i * plm_pick_bytes(p->head->dim), sizeof pick);
    return pick;
}

static int compare_picks(struct plm_pick a, struct plm_pick b)
{
    if (a.priority != b.priority)
        return a.priority < b.priority ? -1 : 1;
    return a.row < b.row ? -1 : a.row > b.row;
}

static enum plm_code check_picks(const struct plm_partial *p, size_t n_picks, struct plm_err *err)
{
    const float *vector;

    for (size_t node = 0, at = 0; node < p->head->n; node++)
        for (uint32_t i = 0; i < p->have[node]; i++, at++)
            if (i > 0 && compare_picks(pick_at(p, at - 1), pick_at(p, at)) >= 0)
                return plm_fail(err, PLM_CORRUPT, "training partial: pick %zu is out of order", at);
    for (size_t at = 0; at < n_picks; at++) {
        vector = (const float *)(const void *)(p->picks + at * plm_pick_bytes(p->head->dim) +
                                               sizeof(struct plm_pick));
        for (uint32_t d = 0; d < p->head->dim; d++)
            if (!isfinite(vector[d]))
                return plm_fail(err, PLM_CORRUPT, "training partial: pick %zu is not finite", at);
    }
    return PLM_OK;
}

/* Counts first: they say how long the message must be. */
static enum plm_code check_counts(const struct plm_partial *p, size_t len, struct plm_err *err)
{
    const struct plm_partial_head *h = p->head;
    uint64_t n_rows = 0;
    size_t n_picks = 0, bytes;

    for (size_t i = 0; i < h->n; i++) {
        if (p->sizes[i] > UINT32_MAX ||
            (h->kind == PLM_PICKS && (p->have[i] > p->want[i] || p->have[i] > p->sizes[i])))
            return plm_fail(err, PLM_CORRUPT, "training partial: impossible counts of node %zu", i);
        n_rows += p->sizes[i];
        n_picks += h->kind == PLM_PICKS ? p->have[i] : 0;
    }
    if (n_rows != h->n_rows)
        return plm_fail(err, PLM_CORRUPT, "training partial: counts add up to %" PRIu64
                        " rows, its head says %" PRIu64, n_rows, h->n_rows);
    if (!partial_bytes((enum plm_partial_kind)h->kind, h->n, h->dim, n_picks, &bytes) || bytes != len)
        return plm_fail(err, PLM_CORRUPT, "training partial: has %zu bytes, not what its counts need", len);
    if (h->kind == PLM_PICKS)
        return check_picks(p, n_picks, err);
    for (size_t i = 0; i < (size_t)h->n * h->dim; i++)
        if (!isfinite(p->sums[i]))
            return plm_fail(err, PLM_CORRUPT, "training partial: sum %zu is not finite", i);
    return PLM_OK;
}

enum plm_code plm_partial_parse(struct plm_view bytes, struct plm_partial *out, struct plm_err *err)
{
    struct plm_partial_head h;
    struct plm_partial p = {0};
    size_t least;

    if (bytes.len < sizeof h)
        return plm_fail(err, PLM_CORRUPT, "training partial: has %zu bytes, expected at least %zu",
                        bytes.len, sizeof h);
    memcpy(&h, bytes.data, sizeof h);
    if (memcmp(h.magic, partial_magic, sizeof h.magic) != 0)
        return plm_fail(err, PLM_CORRUPT, "training partial: does not begin with %.8s", partial_magic);
    if ((h.kind != PLM_PICKS && h.kind != PLM_SUMS) || h.n < 1 || h.dim < 1 ||
        h.dim > PLM_TRAIN_DIM_MAX || h.bytes != bytes.len || !isfinite(h.max_abs) || h.max_abs < 0 ||
        h.n_open > h.n_rows)
        return plm_fail(err, PLM_CORRUPT, "training partial: impossible head (kind %u, %u x %u, %" PRIu64
                        " of %zu bytes)", h.kind, h.n, h.dim, h.bytes, bytes.len);
    if (!partial_bytes((enum plm_partial_kind)h.kind, h.n, h.dim, 0, &least) || least > bytes.len)
        return plm_fail(err, PLM_CORRUPT, "training partial: has %zu bytes, too few for %u x %u",
                        bytes.len, h.n, h.dim);
    lay_out((uint8_t *)(uintptr_t)bytes.data, &p);
    enum plm_code rc = check_counts(&p, bytes.len, err);
    if (rc == PLM_OK)
        *out = p;
    return rc;
}

/* ---- merging -------------------------------------------------------------------------------- */

static enum plm_code check_partners(const struct plm_partial *a, const struct plm_partial *b,
                                    struct plm_err *err)
{
    const struct plm_partial_head *x = a->head, *y = b->head;

    if (x->kind != y->kind || x->number != y->number || x->step_hash != y->step_hash ||
        x->n != y->n || x->dim != y->dim ||
        (x->kind == PLM_PICKS && memcmp(a->want, b->want, x->n * sizeof *a->want) != 0))
        return plm_fail(err, PLM_CORRUPT, "training partial: answers step %u, the other one step %u",
                        y->number, x->number);
    return PLM_OK;
}

static void merge_sums(struct plm_partial *a, const struct plm_partial *b)
{
    size_t n = a->head->n, n_values = n * a->head->dim;

    for (size_t i = 0; i < n; i++) {
        a->sizes[i] += b->sizes[i];
        a->losses[i] = (int64_t)((uint64_t)a->losses[i] + (uint64_t)b->losses[i]);
    }
    for (size_t i = 0; i < n_values; i++)
        a->sums[i] += b->sums[i];
    a->head->n_rows += b->head->n_rows;
    a->head->n_open += b->head->n_open;
}

/* The least `want` of two ascending lists. Returns how many were put at *to. */
static uint32_t merge_lists(const struct plm_partial *a, size_t at_a, uint32_t n_a,
                            const struct plm_partial *b, size_t at_b, uint32_t n_b, uint32_t want,
                            uint8_t *to, bool *twice)
{
    size_t bytes = plm_pick_bytes(a->head->dim);
    uint32_t i = 0, j = 0, n = 0;

    while (n < want && (i < n_a || j < n_b)) {
        int order = i == n_a ? 1 : j == n_b ? -1
                                            : compare_picks(pick_at(a, at_a + i), pick_at(b, at_b + j));

        *twice = *twice || order == 0;
        memcpy(to + n++ * bytes,
               order <= 0 ? a->picks + (at_a + i) * bytes : b->picks + (at_b + j) * bytes, bytes);
        if (order <= 0)
            i++;
        else
            j++;
    }
    return n;
}

static enum plm_code merge_picks(struct plm_buf *buf, const struct plm_partial *a,
                                 const struct plm_partial *b, struct plm_err *err)
{
    struct plm_buf merged;
    struct plm_partial m = {0};
    size_t n = a->head->n, n_picks = 0, at_a = 0, at_b = 0, at = 0;
    bool twice = false;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&merged, buf->ctx, buf->max_bytes);
    for (size_t i = 0; i < n; i++)
        n_picks += (size_t)plm_min_u64((uint64_t)a->have[i] + b->have[i], a->want[i]);
    PLM_TRY(append(&merged, a->head, n_picks, &m, err));
    m.head->n_rows += b->head->n_rows;
    m.head->max_abs = fmaxf(a->head->max_abs, b->head->max_abs);
    for (size_t i = 0; i < n; i++) {
        m.sizes[i] = a->sizes[i] + b->sizes[i];
        m.want[i] = a->want[i];
        m.have[i] = merge_lists(a, at_a, a->have[i], b, at_b, b->have[i], a->want[i],
                                m.picks + at * plm_pick_bytes(m.head->dim), &twice);
        at_a += a->have[i];
        at_b += b->have[i];
        at += m.have[i];
    }
    if (twice)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "training partial: two shards answered for the same row"));
    plm_buf_reset(buf);
    *buf = merged;
    merged = (struct plm_buf){0};
done:
    plm_buf_reset(&merged);
    return rc;
}

enum plm_code plm_partial_merge(struct plm_buf *a, struct plm_view b, struct plm_err *err)
{
    struct plm_partial pa = {0}, pb = {0};
    struct plm_view aligned;
    void *copy = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_aligned(a->ctx, b, &copy, &aligned, err));
    PLM_TRY(plm_partial_parse(aligned, &pb, err));
    if (a->len == 0) {
        PLM_TRY(reserve(a, b.len, err));
        PLM_TRY(plm_buf_add(a, b.data, b.len, err));
        goto done;
    }
    PLM_TRY(plm_partial_parse((struct plm_view){a->data, a->len}, &pa, err));
    PLM_TRY(check_partners(&pa, &pb, err));
    if (pa.head->kind == PLM_PICKS)
        PLM_TRY(merge_picks(a, &pa, &pb, err));
    else
        merge_sums(&pa, &pb);
done:
    plm_free(a->ctx, copy);
    return rc;
}
