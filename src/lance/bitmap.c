/* bitmap.c - 32-bit Roaring bitmaps in their portable form.
 *
 * All of it is decoded here: once every byte has been checked there is nothing left that a
 * library would do, and the memory stays on our budget. libroaring is the tests' oracle.
 *
 *   u32 12346, u32 n                        no run containers
 *   u32 12347 | (n-1) << 16, n flag bits    flag i: container i is a list of runs
 *   n x (u16 high half of the values, u16 count - 1)
 *   n x u32 offset from the first byte      left out with runs and fewer than 4 containers
 *   n containers: runs u16 n_runs, n_runs x (u16 first, u16 length - 1)
 *                 array u16 x count         count <= 4096
 *                 bits  8192 bytes          count >  4096
 */
#include "lance/rowmap.h"
#include "lance/wire.h"

#define COOKIE_PLAIN 12346u
#define COOKIE_RUNS 12347u
#define CONTAINERS_MAX 65536u
#define OFFSETS_ALWAYS_FROM 4u /* containers, in the form with runs */
#define ARRAY_MAX 4096u
#define BITS_BYTES 8192u

struct roaring {
    struct plm_view bytes;
    size_t n;               /* containers */
    const uint8_t *runs;    /* flag bits, NULL = none */
    const uint8_t *heads;   /* (key, count - 1) */
    const uint8_t *offsets; /* NULL = left out */
    size_t body;            /* where the first container begins */
};

static enum plm_code fail_at(const struct roaring *r, size_t at, struct plm_err *err,
                             const char *what)
{
    return plm_fail(err, PLM_CORRUPT, "Roaring bitmap of %zu bytes: %s at byte %zu", r->bytes.len,
                    what, at);
}

static uint32_t container_key(const struct roaring *r, size_t i) { return plm_le16(r->heads + 4 * i); }

static size_t container_count(const struct roaring *r, size_t i)
{
    return (size_t)plm_le16(r->heads + 4 * i + 2) + 1;
}

static bool container_has_runs(const struct roaring *r, size_t i)
{
    return r->runs && (r->runs[i / 8] >> i % 8 & 1);
}

/* Takes n bytes at *at, or NULL. */
static const uint8_t *take(const struct roaring *r, size_t *at, size_t n)
{
    if (n > r->bytes.len - *at)
        return NULL;
    *at += n;
    return r->bytes.data + *at - n;
}

/* Cookie, flags, heads, offsets; keys must ascend. */
static enum plm_code read_head(struct plm_view bytes, struct roaring *out, struct plm_err *err)
{
    struct roaring r = {.bytes = bytes};
    size_t at = 0;
    const uint8_t *p = take(&r, &at, 4);
    uint32_t cookie = p ? plm_le32(p) : 0;

    if (p && (cookie & 0xffff) == COOKIE_RUNS) {
        r.n = (cookie >> 16) + 1;
        r.runs = take(&r, &at, (r.n + 7) / 8);
        if (!r.runs)
            return fail_at(&r, at, err, "cut short in the run flags");
    } else if (p && cookie == COOKIE_PLAIN && (p = take(&r, &at, 4)) != NULL) {
        r.n = plm_le32(p);
        if (r.n > CONTAINERS_MAX)
            return fail_at(&r, 4, err, "more than 65536 containers");
    } else {
        return fail_at(&r, 0, err, "no cookie and count");
    }
    r.heads = take(&r, &at, 4 * r.n);
    if (!r.heads)
        return fail_at(&r, at, err, "cut short in the container heads");
    for (size_t i = 1; i < r.n; i++)
        if (container_key(&r, i) <= container_key(&r, i - 1))
            return fail_at(&r, at - 4 * (r.n - i), err, "keys do not ascend");
    if (!r.runs || r.n >= OFFSETS_ALWAYS_FROM) {
        r.offsets = take(&r, &at, 4 * r.n);
        if (!r.offsets)
            return fail_at(&r, at, err, "cut short in the offsets");
    }
    r.body = at;
    *out = r;
    return PLM_OK;
}

static enum plm_code decode_runs(const struct roaring *r, size_t i, size_t *at, uint32_t *to,
                                 struct plm_err *err)
{
    size_t begin = *at, n = 0;
    uint32_t key = container_key(r, i) << 16, next = 0;
    const uint8_t *p = take(r, at, 2);
    size_t n_runs = p ? plm_le16(p) : 0;

    p = p ? take(r, at, 4 * n_runs) : NULL;
    if (!p)
        return fail_at(r, begin, err, "runs cut short");
    for (size_t k = 0; k < n_runs; k++) {
        uint32_t first = plm_le16(p + 4 * k), last = first + plm_le16(p + 4 * k + 2);

        if (first < next || last > 0xffff)
            return fail_at(r, begin, err, "runs overlap, do not ascend or overflow");
        next = last + 1;
        n += last - first + 1;
        if (n > container_count(r, i))
            break;
        for (uint32_t v = first; v <= last; v++)
            *to++ = key | v;
    }
    return n == container_count(r, i) ? PLM_OK
                                      : fail_at(r, begin, err, "runs do not add up to their count");
}

static enum plm_code decode_array(const struct roaring *r, size_t i, size_t *at, uint32_t *to,
                                  struct plm_err *err)
{
    size_t begin = *at, n = container_count(r, i);
    uint32_t key = container_key(r, i) << 16;
    const uint8_t *p = take(r, at, 2 * n);

    if (!p)
        return fail_at(r, begin, err, "array cut short");
    for (size_t k = 0; k < n; k++) {
        if (k > 0 && plm_le16(p + 2 * k) <= plm_le16(p + 2 * k - 2))
            return fail_at(r, begin + 2 * k, err, "array does not ascend");
        to[k] = key | plm_le16(p + 2 * k);
    }
    return PLM_OK;
}

static enum plm_code decode_bits(const struct roaring *r, size_t i, size_t *at, uint32_t *to,
                                 struct plm_err *err)
{
    size_t begin = *at, n = 0;
    uint32_t key = container_key(r, i) << 16;
    const uint8_t *p = take(r, at, BITS_BYTES);

    if (!p)
        return fail_at(r, begin, err, "bits cut short");
    for (size_t w = 0; w < BITS_BYTES; w += 8)
        n += (size_t)__builtin_popcountll(plm_le64(p + w));
    if (n != container_count(r, i))
        return fail_at(r, begin, err, "bits do not add up to their count");
    for (uint32_t w = 0; w < BITS_BYTES / 8; w++)
        for (uint64_t word = plm_le64(p + 8 * w); word; word &= word - 1)
            *to++ = key | (w * 64 + (uint32_t)__builtin_ctzll(word));
    return PLM_OK;
}

static enum plm_code decode_containers(const struct roaring *r, uint32_t *to, struct plm_err *err)
{
    size_t at = r->body;

    for (size_t i = 0; i < r->n; i++) {
        enum plm_code rc;

        if (r->offsets && plm_le32(r->offsets + 4 * i) != at)
            return fail_at(r, (size_t)(r->offsets - r->bytes.data) + 4 * i, err,
                           "offset is not where the container is");
        if (container_has_runs(r, i))
            rc = decode_runs(r, i, &at, to, err);
        else if (container_count(r, i) <= ARRAY_MAX)
            rc = decode_array(r, i, &at, to, err);
        else
            rc = decode_bits(r, i, &at, to, err);
        if (rc)
            return rc;
        to += container_count(r, i);
    }
    return at == r->bytes.len ? PLM_OK : fail_at(r, at, err, "bytes left over");
}

enum plm_code plm_bitmap_decode(struct plm_ctx *ctx, struct plm_view bytes, size_t n_max,
                                uint32_t **values, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct roaring r = {0};
    uint32_t *list = NULL;
    size_t total = 0; /* at most 2^32 */

    PLM_TRY(read_head(bytes, &r, err));
    for (size_t i = 0; i < r.n; i++)
        total += container_count(&r, i);
    if (total > n_max)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "Roaring bitmap: %zu values, expected at most %zu",
                         total, n_max));
    PLM_TRY(plm_alloc(ctx, &list, total, sizeof *list, err));
    PLM_TRY(decode_containers(&r, list, err));
    *values = list;
    *n = total;
    list = NULL;
done:
    plm_free(ctx, list);
    return rc;
}

/* ---- writing ------------------------------------------------------------------ */

/* Values from `at` on that share its high half. */
static size_t group_length(const uint32_t *values, size_t n, size_t at)
{
    size_t end = at + 1;

    while (end < n && values[end] >> 16 == values[at] >> 16)
        end++;
    return end - at;
}

static size_t group_bytes(size_t count) { return count <= ARRAY_MAX ? 2 * count : BITS_BYTES; }

static void put_group(const uint32_t *values, size_t count, uint8_t *to)
{
    if (count <= ARRAY_MAX) {
        for (size_t i = 0; i < count; i++)
            plm_put_le16(to + 2 * i, (uint16_t)values[i]);
        return;
    }
    memset(to, 0, BITS_BYTES);
    for (size_t i = 0; i < count; i++)
        to[(values[i] & 0xffff) / 8] |= (uint8_t)(1u << values[i] % 8);
}

enum plm_code plm_bitmap_encode(const uint32_t *values, size_t n, struct plm_buf *buf,
                                struct plm_err *err)
{
    size_t n_groups = 0, bytes = 8;

    for (size_t i = 1; i < n; i++)
        if (values[i] <= values[i - 1])
            return plm_fail(err, PLM_BUG, "Roaring bitmap: value %zu does not ascend", i);
    for (size_t i = 0, len; i < n; i += len, n_groups++) {
        len = group_length(values, n, i);
        bytes += 8 + group_bytes(len);
    }

    enum plm_code rc = plm_buf_reserve(buf, bytes, err);

    if (rc)
        return rc;

    uint8_t *begin = buf->data + buf->len, *head = begin + 8, *offset = head + 4 * n_groups;
    uint8_t *body = offset + 4 * n_groups;

    plm_put_le32(begin, COOKIE_PLAIN);
    plm_put_le32(begin + 4, (uint32_t)n_groups);
    for (size_t i = 0, len; i < n; i += len, head += 4, offset += 4, body += group_bytes(len)) {
        len = group_length(values, n, i);
        plm_put_le16(head, (uint16_t)(values[i] >> 16));
        plm_put_le16(head + 2, (uint16_t)(len - 1));
        plm_put_le32(offset, (uint32_t)(body - begin));
        put_group(values + i, len, body);
    }
    buf->len += bytes;
    return PLM_OK;
}
