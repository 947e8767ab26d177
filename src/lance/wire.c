/* wire.c - protobuf fields in and out. */
#include "lance/wire.h"

#define VARINT_BYTES_MAX 10u /* 64 bits, 7 to a byte */
#define FIELD_NUMBER_MAX ((1u << 29) - 1)

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* ---- reading ------------------------------------------------------------------ */

static enum plm_code fail_at(const struct plm_pb *pb, struct plm_err *err, const char *what)
{
    return plm_fail(err, PLM_CORRUPT, "protobuf: %s at byte %td of %td", what, pb->at - pb->begin,
                    pb->end - pb->begin);
}

/* Length of the varint at `at`; 0 if it does not end in time or exceeds 64 bits. */
static size_t varint(const uint8_t *at, const uint8_t *end, uint64_t *value)
{
    size_t room = plm_min_size((size_t)(end - at), VARINT_BYTES_MAX);
    uint64_t v = 0;

    for (size_t i = 0; i < room; i++) {
        /* The tenth byte has room for one bit. */
        if (i == VARINT_BYTES_MAX - 1 && at[i] > 1)
            return 0;
        v |= (uint64_t)(at[i] & 0x7f) << 7 * i;
        if (at[i] < 0x80) {
            *value = v;
            return i + 1;
        }
    }
    return 0;
}

static enum plm_code read_varint(struct plm_pb *pb, const char *what, uint64_t *value,
                                 struct plm_err *err)
{
    size_t n = varint(pb->at, pb->end, value);

    if (n == 0)
        return fail_at(pb, err, what);
    pb->at += n;
    return PLM_OK;
}

static enum plm_code read_payload(struct plm_pb *pb, struct plm_pb_field *field,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t n = 0;

    switch (field->wire) {
    case WIRE_VARINT:
        return read_varint(pb, "broken varint", &field->value, err);
    case WIRE_FIXED64:
        n = 8;
        break;
    case WIRE_FIXED32:
        n = 4;
        break;
    case WIRE_BYTES:
        rc = read_varint(pb, "broken length", &n, err);
        if (rc)
            return rc;
        break;
    default:
        return fail_at(pb, err, "unknown wire type");
    }
    if (n > (uint64_t)(pb->end - pb->at))
        return fail_at(pb, err, "field longer than its message");
    if (field->wire == WIRE_BYTES)
        field->bytes = (struct plm_view){pb->at, (size_t)n};
    else
        field->value = n == 8 ? plm_le64(pb->at) : plm_le32(pb->at);
    pb->at += n;
    return PLM_OK;
}

enum plm_code plm_pb_next(struct plm_pb *pb, struct plm_pb_field *field, bool *more,
                          struct plm_err *err)
{
    struct plm_pb at = *pb;
    struct plm_pb_field seen = {0};
    uint64_t tag = 0;

    if (at.at == at.end) {
        *more = false;
        return PLM_OK;
    }

    enum plm_code rc = read_varint(&at, "broken tag", &tag, err);

    if (rc)
        return rc;
    if (tag >> 3 == 0 || tag >> 3 > FIELD_NUMBER_MAX)
        return fail_at(pb, err, "field number out of range");
    seen.number = (uint32_t)(tag >> 3);
    seen.wire = (uint32_t)(tag & 7);
    rc = read_payload(&at, &seen, err);
    if (rc)
        return rc;
    seen.whole = (struct plm_view){pb->at, (size_t)(at.at - pb->at)};
    *pb = at;
    *field = seen;
    *more = true;
    return PLM_OK;
}

enum plm_code plm_pb_expect(const struct plm_pb_field *field, uint32_t wire, struct plm_err *err)
{
    if (field->wire == wire)
        return PLM_OK;
    return plm_fail(err, PLM_CORRUPT, "protobuf: field %u has wire type %u, expected %u",
                    field->number, field->wire, wire);
}

/* Room for n more. A list that grows again doubles, so that many short fields stay linear. */
static enum plm_code u64s_reserve(struct plm_ctx *ctx, struct plm_u64s *list, size_t n,
                                  struct plm_err *err)
{
    size_t want;

    if (!plm_size_add(list->n, n, &want))
        return plm_fail(err, PLM_NOMEM, "protobuf: a list of %zu and %zu items", list->n, n);
    if (want <= list->cap)
        return PLM_OK;
    want = plm_max_size(want, list->n > 0 ? list->cap * 2 : 0);

    enum plm_code rc = plm_realloc(ctx, &list->items, want, sizeof *list->items, err);

    if (rc == PLM_OK)
        list->cap = want;
    return rc;
}

/* Counts first: every varint has exactly one byte below 0x80. */
static enum plm_code packed_u64(struct plm_ctx *ctx, const struct plm_pb_field *field,
                                size_t n_max, struct plm_u64s *out, struct plm_err *err)
{
    const struct plm_view v = field->bytes;
    size_t n = 0, kept = out->n;

    for (size_t i = 0; i < v.len; i++)
        n += v.data[i] < 0x80;
    if (n > n_max - out->n)
        return plm_fail(err, PLM_CORRUPT, "protobuf: field %u has %zu items, expected at most %zu",
                        field->number, n + out->n, n_max);

    enum plm_code rc = u64s_reserve(ctx, out, n, err);

    if (rc)
        return rc;
    for (size_t at = 0; at < v.len;) {
        uint64_t value = 0;
        size_t used = varint(v.data + at, v.data + v.len, &value);

        if (used == 0) {
            out->n = kept;
            return plm_fail(err, PLM_CORRUPT,
                            "protobuf: field %u: broken packed varint at byte %zu of %zu",
                            field->number, at, v.len);
        }
        out->items[out->n++] = value;
        at += used;
    }
    return PLM_OK;
}

enum plm_code plm_pb_repeated_u64(struct plm_ctx *ctx, const struct plm_pb_field *field,
                                  size_t n_max, struct plm_u64s *out, struct plm_err *err)
{
    if (out->n > n_max)
        return plm_fail(err, PLM_CORRUPT, "protobuf: field %u has %zu items, expected at most %zu",
                        field->number, out->n, n_max);
    if (field->wire == WIRE_BYTES)
        return packed_u64(ctx, field, n_max, out, err);

    enum plm_code rc = plm_pb_expect(field, WIRE_VARINT, err);

    if (rc)
        return rc;
    if (out->n == n_max)
        return plm_fail(err, PLM_CORRUPT, "protobuf: field %u has more than %zu items",
                        field->number, n_max);
    rc = u64s_reserve(ctx, out, 1, err);
    if (rc == PLM_OK)
        out->items[out->n++] = field->value;
    return rc;
}

void plm_u64s_reset(struct plm_ctx *ctx, struct plm_u64s *list)
{
    plm_free(ctx, list->items);
    *list = (struct plm_u64s){0};
}

/* ---- writing ------------------------------------------------------------------ */

static size_t put_varint(uint8_t *to, uint64_t value)
{
    size_t n = 0;

    for (; value >= 0x80; value >>= 7)
        to[n++] = (uint8_t)(value | 0x80);
    to[n++] = (uint8_t)value;
    return n;
}

static size_t varint_bytes(uint64_t value)
{
    uint8_t scratch[VARINT_BYTES_MAX];

    return put_varint(scratch, value);
}

static size_t put_tag(uint8_t *to, uint32_t number, uint32_t wire)
{
    PLM_ASSERT(number > 0 && number <= FIELD_NUMBER_MAX);
    return put_varint(to, (uint64_t)number << 3 | wire);
}

/* Tag and length, with room for the n bytes that follow: all or nothing. */
static enum plm_code put_head(struct plm_buf *buf, uint32_t number, size_t n, struct plm_err *err)
{
    uint8_t head[2 * VARINT_BYTES_MAX];
    size_t n_head = put_tag(head, number, WIRE_BYTES), total;

    n_head += put_varint(head + n_head, n);
    if (!plm_size_add(n_head, n, &total))
        return plm_fail(err, PLM_NOMEM, "protobuf: field %u of %zu bytes", number, n);

    enum plm_code rc = plm_buf_reserve(buf, total, err);

    return rc ? rc : plm_buf_add(buf, head, n_head, err);
}

enum plm_code plm_pb_put_u64(struct plm_buf *buf, uint32_t number, uint64_t value,
                             struct plm_err *err)
{
    uint8_t bytes[2 * VARINT_BYTES_MAX];
    size_t n = put_tag(bytes, number, WIRE_VARINT);

    n += put_varint(bytes + n, value);
    return plm_buf_add(buf, bytes, n, err);
}

enum plm_code plm_pb_put_f64(struct plm_buf *buf, uint32_t number, double value,
                             struct plm_err *err)
{
    uint8_t bytes[VARINT_BYTES_MAX + 8];
    size_t n = put_tag(bytes, number, WIRE_FIXED64);
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    plm_put_le64(bytes + n, bits);
    return plm_buf_add(buf, bytes, n + 8, err);
}

enum plm_code plm_pb_put_bytes(struct plm_buf *buf, uint32_t number, const void *bytes, size_t n,
                               struct plm_err *err)
{
    enum plm_code rc = put_head(buf, number, n, err);

    return rc || n == 0 ? rc : plm_buf_add(buf, bytes, n, err);
}

enum plm_code plm_pb_put_str(struct plm_buf *buf, uint32_t number, const char *s,
                             struct plm_err *err)
{
    return plm_pb_put_bytes(buf, number, s, strlen(s), err);
}

/* An empty list is no field at all, as protobuf writers do it. */
enum plm_code plm_pb_put_packed(struct plm_buf *buf, uint32_t number, const uint64_t *values,
                                size_t n, struct plm_err *err)
{
    size_t bytes = 0;

    if (n == 0)
        return PLM_OK;
    for (size_t i = 0; i < n; i++)
        if (!plm_size_add(bytes, varint_bytes(values[i]), &bytes))
            return plm_fail(err, PLM_NOMEM, "protobuf: field %u of %zu items", number, n);

    enum plm_code rc = put_head(buf, number, bytes, err);

    for (size_t i = 0; rc == PLM_OK && i < n; i++) {
        uint8_t scratch[VARINT_BYTES_MAX];

        rc = plm_buf_add(buf, scratch, put_varint(scratch, values[i]), err);
    }
    return rc;
}

enum plm_code plm_pb_put_message(struct plm_buf *buf, uint32_t number,
                                 const struct plm_buf *message, struct plm_err *err)
{
    return plm_pb_put_bytes(buf, number, message->data, message->len, err);
}

enum plm_code plm_pb_put_map(struct plm_buf *buf, uint32_t number, const char *key,
                             const void *value, size_t n, struct plm_err *err)
{
    size_t n_key = strlen(key), entry;

    if (!plm_size_add(n, 2 + varint_bytes(n_key) + varint_bytes(n), &entry) ||
        !plm_size_add(entry, n_key, &entry))
        return plm_fail(err, PLM_NOMEM, "protobuf: map value of %zu bytes", n);

    enum plm_code rc = put_head(buf, number, entry, err);

    if (rc == PLM_OK)
        rc = plm_pb_put_bytes(buf, 1, key, n_key, err);
    return rc ? rc : plm_pb_put_bytes(buf, 2, value, n, err);
}
