/* s3_window.c - which bytes to fetch together, and for how long to keep them.
 *
 * A window is fetched once: by the first read that touches it. Bytes are counted down as they are asked
 * for; a window that has given them all is the first to go when room is needed, and stays until then,
 * since a table that fits is read again by the next phase. One that is gone and has given
 * everything is not fetched again: later reads of it are few and small, and get just what they ask.
 */
#ifdef PLM_WITH_S3

#include "store/s3_window.h"

#include <stdlib.h>
#include <time.h>

#define KEEP_BYTES_AT_FIRST ((uint64_t)8 << 20)
/* Further windows that a read fetches along with its own, while there is much room. */
#define AHEAD 3
/* A window still wanted goes once it has been passed over by so many reads. */
#define OLD_READS 1024

void plm_s3_shelf_init(struct plm_s3_shelf *shelf, struct plm_ctx *ctx)
{
    *shelf = (struct plm_s3_shelf){.ctx = ctx, .keep_bytes = KEEP_BYTES_AT_FIRST};
    pthread_mutex_init(&shelf->lock, NULL);
    pthread_cond_init(&shelf->changed, NULL);
}

void plm_s3_shelf_reset(struct plm_s3_shelf *shelf)
{
    PLM_ASSERT(shelf->first == NULL); /* the files are closed */
    pthread_cond_destroy(&shelf->changed);
    pthread_mutex_destroy(&shelf->lock);
}

/* ---- room (the lock is held) --------------------------------------------------------- */

static void drop_bytes(struct plm_s3_shelf *shelf, struct plm_s3_window *w)
{
    if (w->bytes == NULL)
        return;
    *(w->previous ? &w->previous->next : &shelf->first) = w->next;
    if (w->next)
        w->next->previous = w->previous;
    w->previous = w->next = NULL;
    shelf->kept_bytes -= w->to - w->from;
    plm_free(shelf->ctx, w->bytes);
    w->bytes = NULL;
    w->state = PLM_S3_ABSENT;
}

/* The window to give up: of those that have given everything the oldest, else one that seems
 * forgotten. */
static struct plm_s3_window *find_victim(const struct plm_s3_shelf *shelf)
{
    struct plm_s3_window *best = NULL;

    for (struct plm_s3_window *w = shelf->first; w; w = w->next) {
        bool may_go = w->left <= 0 || shelf->n_reads - w->touched > OLD_READS;

        if (w->state == PLM_S3_HELD && w->pins == 0 && may_go && (!best || w->touched < best->touched))
            best = w;
    }
    return best;
}

static bool make_room(struct plm_s3_shelf *shelf, struct plm_s3_window *w)
{
    uint64_t n = w->to - w->from;

    if (n > shelf->keep_bytes)
        return false;
    while (shelf->kept_bytes > shelf->keep_bytes - n) {
        struct plm_s3_window *victim = find_victim(shelf);

        if (!victim)
            return false;
        drop_bytes(shelf, victim);
    }
    if (plm_alloc(shelf->ctx, &w->bytes, (size_t)n, 1, NULL) != PLM_OK)
        return false; /* the budget has no room: then without */
    shelf->kept_bytes += n;
    w->next = shelf->first;
    if (w->next)
        w->next->previous = w;
    shelf->first = w;
    w->state = PLM_S3_LOADING;
    return true;
}

/* ---- what is expected ------------------------------------------------------------------ */

static void forget_items(struct plm_s3_shelf *shelf, struct plm_s3_window *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        drop_bytes(shelf, &items[i]);
    plm_free(shelf->ctx, items);
}

void plm_s3_windows_forget(struct plm_s3_shelf *shelf, struct plm_s3_windows *w)
{
    pthread_mutex_lock(&shelf->lock);
    forget_items(shelf, w->items, w->n);
    pthread_mutex_unlock(&shelf->lock);
    *w = (struct plm_s3_windows){0};
}

static int by_offset(const void *a, const void *b)
{
    const struct plm_range *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sorts ranges and joins those that overlap, are near, or begin in the same 8 MiB of the object.
 * Returns how many are left. */
static size_t join_ranges(struct plm_range *ranges, size_t n)
{
    size_t to = 0;
    uint64_t last_offset = 0;

    qsort(ranges, n, sizeof *ranges, by_offset);
    for (size_t i = 0; i < n; i++) {
        struct plm_range *last = to ? &ranges[to - 1] : NULL;
        uint64_t end = last ? last->offset + last->len : 0, from = ranges[i].offset;
        bool is_near = last && (from <= end || from - end <= PLM_S3_GAP_BYTES ||
                                from / PLM_S3_PIECE_BYTES == last_offset / PLM_S3_PIECE_BYTES);

        if (ranges[i].len == 0)
            continue;
        last_offset = from;
        if (is_near)
            last->len = (size_t)(plm_max_u64(end, from + ranges[i].len) - last->offset);
        else
            ranges[to++] = ranges[i];
    }
    return to;
}

static uint64_t n_windows(uint64_t len)
{
    return plm_max_u64(1, len / PLM_S3_PIECE_BYTES);
}

/* How much of each window the ranges want; both lists ascend, ranges may overlap. */
static void count_wanted(struct plm_s3_window *items, size_t n_items, const struct plm_range *ranges,
                         size_t n)
{
    for (size_t i = 0, r = 0; i < n_items; i++) {
        while (r < n && ranges[r].offset + ranges[r].len <= items[i].from)
            r++;
        for (size_t j = r; j < n && ranges[j].offset < items[i].to; j++) {
            uint64_t from = plm_max_u64(ranges[j].offset, items[i].from);
            uint64_t to = plm_min_u64(ranges[j].offset + ranges[j].len, items[i].to);

            items[i].left += from < to ? (int64_t)(to - from) : 0;
        }
    }
}

/* Bytes that are here already move to the new window of the same place. */
static void keep_known(struct plm_s3_shelf *shelf, struct plm_s3_windows *old,
                       struct plm_s3_window *items, size_t n)
{
    size_t o = 0;

    for (size_t i = 0; i < n; i++) {
        while (o < old->n && old->items[o].from < items[i].from)
            o++;
        if (o == old->n || old->items[o].from != items[i].from || old->items[o].to != items[i].to ||
            old->items[o].state != PLM_S3_HELD)
            continue;
        struct plm_s3_window *was = &old->items[o];

        items[i].bytes = was->bytes;
        items[i].state = PLM_S3_HELD;
        items[i].touched = shelf->n_reads;
        items[i].previous = was->previous;
        items[i].next = was->next;
        *(was->previous ? &was->previous->next : &shelf->first) = &items[i];
        if (was->next)
            was->next->previous = &items[i];
        was->bytes = NULL;
        was->state = PLM_S3_ABSENT;
    }
}

static enum plm_code cut_windows(struct plm_s3_shelf *shelf, struct plm_range *sorted, size_t n,
                                 const struct plm_range *ranges, struct plm_s3_windows *out)
{
    size_t n_joined, n_items = 0;

    memcpy(sorted, ranges, n * sizeof *ranges);
    n_joined = join_ranges(sorted, n);
    for (size_t i = 0; i < n_joined; i++)
        n_items += (size_t)n_windows(sorted[i].len);
    enum plm_code rc = plm_calloc(shelf->ctx, &out->items, n_items, sizeof *out->items, NULL);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n_joined; i++) {
        uint64_t parts = n_windows(sorted[i].len), each = (sorted[i].len + parts - 1) / parts;
        uint64_t end = sorted[i].offset + sorted[i].len;

        for (uint64_t at = sorted[i].offset; at < end; at += each)
            out->items[out->n++] = (struct plm_s3_window){.from = at, .to = plm_min_u64(end, at + each)};
    }
    memcpy(sorted, ranges, n * sizeof *ranges);
    qsort(sorted, n, sizeof *sorted, by_offset);
    count_wanted(out->items, out->n, sorted, n);
    return PLM_OK;
}

void plm_s3_windows_expect(struct plm_s3_shelf *shelf, struct plm_s3_windows *w,
                           const struct plm_range *ranges, size_t n)
{
    struct plm_s3_windows fresh = {0};
    struct plm_range *sorted = NULL;

    if (n > 0 && (plm_alloc(shelf->ctx, &sorted, n, sizeof *sorted, NULL) != PLM_OK ||
                  cut_windows(shelf, sorted, n, ranges, &fresh) != PLM_OK)) {
        plm_free(shelf->ctx, sorted);
        return; /* no memory for the list: reads get just what they ask for */
    }
    pthread_mutex_lock(&shelf->lock);
    keep_known(shelf, w, fresh.items, fresh.n);
    forget_items(shelf, w->items, w->n);
    *w = fresh;
    pthread_mutex_unlock(&shelf->lock);
    plm_free(shelf->ctx, sorted);
}

/* ---- reading ------------------------------------------------------------------------------ */

/* First window that ends behind `offset`; n if there is none. */
static size_t window_at(const struct plm_s3_windows *w, uint64_t offset)
{
    size_t low = 0, high = w->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->items[middle].to <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The windows [*first, *end) that hold the range without a gap. */
static bool find_windows(const struct plm_s3_windows *w, const struct plm_range *r, size_t *first,
                         size_t *end)
{
    uint64_t at = r->offset;

    *first = *end = window_at(w, r->offset);
    while (at < r->offset + r->len) {
        if (*end == w->n || w->items[*end].from > at)
            return false;
        at = w->items[(*end)++].to;
    }
    return *end > *first;
}

static bool claim(struct plm_s3_shelf *shelf, struct plm_s3_window *w, struct plm_s3_served *out)
{
    if (w->state == PLM_S3_ABSENT) {
        if (w->left <= 0 || !make_room(shelf, w))
            return false;
        w->pins++; /* until finish(): else it could go, and be fetched by another, in between */
        out->mine[out->n_mine++] = w;
    }
    w->touched = shelf->n_reads;
    w->pins++;
    return true;
}

static void unpin(struct plm_s3_window *from, struct plm_s3_window *to)
{
    for (; from < to; from++)
        from->pins--;
}

static void serve(struct plm_s3_shelf *shelf, struct plm_s3_windows *w, const struct plm_range *r,
                  struct plm_s3_served *out)
{
    size_t first, end, i;

    if (r->len == 0)
        return;
    bool is_covered = find_windows(w, r, &first, &end);

    for (i = first; is_covered && i < end; i++)
        if (!claim(shelf, &w->items[i], out))
            break;
    is_covered = is_covered && i == end;
    if (!is_covered && i > first)
        unpin(&w->items[first], &w->items[i]);
    for (i = first; i < w->n && w->items[i].from < r->offset + r->len; i++) /* asked for, either way */
        w->items[i].left -= (int64_t)(plm_min_u64(r->offset + r->len, w->items[i].to) -
                                      plm_max_u64(r->offset, w->items[i].from));
    if (is_covered)
        out->served[out->n_served++] = *r;
    else
        out->rest[out->n_rest++] = *r;
}

/* A read that begins a stretch fetches the next windows with it, side by side. */
static void look_ahead(struct plm_s3_shelf *shelf, struct plm_s3_windows *w, struct plm_s3_served *out)
{
    uint64_t share = shelf->keep_bytes / (shelf->ctx->threads ? shelf->ctx->threads : 1);
    uint64_t more = share / (4 * PLM_S3_PIECE_BYTES);

    if (out->n_mine == 0)
        return;
    size_t next = (size_t)(out->mine[out->n_mine - 1] - w->items) + 1;
    for (; more > 0 && out->n_mine <= AHEAD && next < w->n; next++, more--) {
        struct plm_s3_window *ahead = &w->items[next];

        if (ahead->state != PLM_S3_ABSENT || ahead->left < (int64_t)(ahead->to - ahead->from) ||
            ahead->from > ahead[-1].to + PLM_S3_PIECE_BYTES || !make_room(shelf, ahead))
            return;
        ahead->touched = shelf->n_reads;
        ahead->pins++;
        out->mine[out->n_mine++] = ahead;
    }
}

enum plm_code plm_s3_windows_begin(struct plm_s3_shelf *shelf, struct plm_s3_windows *w,
                                   const struct plm_range *ranges, size_t n,
                                   struct plm_s3_served *out, struct plm_err *err)
{
    struct plm_s3_served s = {0};
    size_t n_mine_max = AHEAD + 1;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(shelf->ctx, &s.served, n, sizeof *s.served, err));
    PLM_TRY(plm_alloc(shelf->ctx, &s.rest, n, sizeof *s.rest, err));
    for (size_t i = 0, first, end; i < n; i++)
        if (ranges[i].len > 0 && find_windows(w, &ranges[i], &first, &end))
            n_mine_max += end - first;
    PLM_TRY(plm_alloc(shelf->ctx, &s.mine, n_mine_max, sizeof *s.mine, err));
    pthread_mutex_lock(&shelf->lock);
    shelf->n_reads++;
    for (size_t i = 0; i < n; i++)
        serve(shelf, w, &ranges[i], &s);
    look_ahead(shelf, w, &s);
    pthread_mutex_unlock(&shelf->lock);
    *out = s;
    s = (struct plm_s3_served){0};
done:
    plm_s3_served_reset(shelf, &s);
    return rc;
}

void plm_s3_served_reset(struct plm_s3_shelf *shelf, struct plm_s3_served *served)
{
    plm_free(shelf->ctx, served->served);
    plm_free(shelf->ctx, served->rest);
    plm_free(shelf->ctx, served->mine);
    *served = (struct plm_s3_served){0};
}

void plm_s3_window_came(struct plm_s3_shelf *shelf, struct plm_s3_window *window)
{
    pthread_mutex_lock(&shelf->lock);
    window->state = PLM_S3_HELD;
    pthread_cond_broadcast(&shelf->changed);
    pthread_mutex_unlock(&shelf->lock);
}

/* Waits until nobody fetches the window any more; the lock is held. */
static enum plm_code wait_for(struct plm_s3_shelf *shelf, const struct plm_s3_window *w,
                              struct plm_err *err)
{
    while (w->state == PLM_S3_LOADING) {
        struct timespec until;
        enum plm_code rc = plm_check_cancel(shelf->ctx, err);

        if (rc != PLM_OK)
            return rc;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 200000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&shelf->changed, &shelf->lock, &until);
    }
    return PLM_OK;
}

static void copy_out(const struct plm_s3_window *w, const struct plm_range *r)
{
    uint64_t from = plm_max_u64(w->from, r->offset), to = plm_min_u64(w->to, r->offset + r->len);

    memcpy((uint8_t *)r->dst + (from - r->offset), w->bytes + (from - w->from), (size_t)(to - from));
}

/* One range from its windows; *missed = one of them never came. The lock is held, but not while
 * bytes are copied: a pinned window stays. */
static enum plm_code take(struct plm_s3_shelf *shelf, struct plm_s3_windows *w, const struct plm_range *r,
                          enum plm_code rc, bool *missed, struct plm_err *err)
{
    size_t first, end;
    bool is_covered = find_windows(w, r, &first, &end);

    PLM_ASSERT(is_covered);
    for (size_t i = first; i < end; i++) {
        struct plm_s3_window *at = &w->items[i];

        if (rc == PLM_OK)
            rc = wait_for(shelf, at, err);
        if (rc == PLM_OK && at->state == PLM_S3_HELD) {
            pthread_mutex_unlock(&shelf->lock);
            copy_out(at, r);
            pthread_mutex_lock(&shelf->lock);
        }
        *missed = *missed || at->state != PLM_S3_HELD;
        at->pins--;
    }
    return rc;
}

enum plm_code plm_s3_windows_finish(struct plm_s3_shelf *shelf, struct plm_s3_windows *w,
                                    enum plm_code rc, struct plm_s3_served *served, size_t *n_again,
                                    struct plm_err *err)
{
    *n_again = 0;
    pthread_mutex_lock(&shelf->lock);
    for (size_t i = 0; i < served->n_mine; i++) {
        if (served->mine[i]->state == PLM_S3_LOADING) /* it did not come */
            drop_bytes(shelf, served->mine[i]);
        served->mine[i]->pins--;
    }
    pthread_cond_broadcast(&shelf->changed);
    for (size_t i = 0; i < served->n_served; i++) {
        struct plm_range r = served->served[i];
        bool missed = false;

        rc = take(shelf, w, &r, rc, &missed, err);
        if (rc == PLM_OK && missed)
            served->served[(*n_again)++] = r;
    }
    pthread_mutex_unlock(&shelf->lock);
    return rc;
}

#endif
