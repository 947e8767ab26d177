/* wire.h - protobuf, bounded: a reader that never trusts a length, a writer into a buffer.
 *
 * Owns     readers borrow their bytes; writers append to a caller's plm_buf.
 * Errors   malformed input is PLM_CORRUPT with the offset in the message.
 * Nesting  is the caller's: each message is read by one function, so depth is bounded by code.
 */
#ifndef PLM_WIRE_H
#define PLM_WIRE_H

#include "core/core.h"

struct plm_pb {
    const uint8_t *begin, *at, *end;
};

struct plm_pb_field {
    uint32_t number;
    uint32_t wire;        /* 0 varint, 1 fixed64, 2 bytes, 5 fixed32 */
    uint64_t value;       /* wire 0, 1, 5 */
    struct plm_view bytes; /* wire 2 */
    struct plm_view whole; /* tag and payload, for copying unknown fields */
};

static inline struct plm_pb plm_pb_of(struct plm_view v)
{
    return (struct plm_pb){v.data, v.data, v.data ? v.data + v.len : v.data};
}

/* Next field; *more = false at the end. Groups (wire 3, 4), field 0, overlong varints and
 * lengths beyond the end are PLM_CORRUPT. */
PLM_MUST_CHECK enum plm_code
plm_pb_next(struct plm_pb *pb, struct plm_pb_field *field, bool *more, struct plm_err *err);
/* PLM_CORRUPT unless the field has this wire type. */
PLM_MUST_CHECK enum plm_code
plm_pb_expect(const struct plm_pb_field *field, uint32_t wire, struct plm_err *err);

/* Repeated scalars, packed (wire 2) or one by one (wire 0): appends to a growable array
 * of u64 owned by the caller. n_max bounds the count. */
struct plm_u64s {
    uint64_t *items;
    size_t n, cap;
};
PLM_MUST_CHECK enum plm_code
plm_pb_repeated_u64(struct plm_ctx *ctx, const struct plm_pb_field *field, size_t n_max,
                    struct plm_u64s *out, struct plm_err *err);
void plm_u64s_reset(struct plm_ctx *ctx, struct plm_u64s *list);

/* Writers. Scalars equal to 0 ARE written: callers skip proto3 defaults themselves. */
PLM_MUST_CHECK enum plm_code
plm_pb_put_u64(struct plm_buf *buf, uint32_t number, uint64_t value, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_put_f64(struct plm_buf *buf, uint32_t number, double value, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_put_bytes(struct plm_buf *buf, uint32_t number, const void *bytes, size_t n,
                 struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_put_str(struct plm_buf *buf, uint32_t number, const char *s, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_put_packed(struct plm_buf *buf, uint32_t number, const uint64_t *values, size_t n,
                  struct plm_err *err);
/* An embedded message: its bytes are already in `message`. */
PLM_MUST_CHECK enum plm_code
plm_pb_put_message(struct plm_buf *buf, uint32_t number, const struct plm_buf *message,
                   struct plm_err *err);
/* map<string, V>: one entry {1: key, 2: value bytes}. */
PLM_MUST_CHECK enum plm_code
plm_pb_put_map(struct plm_buf *buf, uint32_t number, const char *key, const void *value, size_t n,
               struct plm_err *err);

static inline uint16_t plm_le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t plm_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t plm_le64(const uint8_t *p)
{
    return (uint64_t)plm_le32(p) | (uint64_t)plm_le32(p + 4) << 32;
}
static inline void plm_put_le16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static inline void plm_put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}
static inline void plm_put_le64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

#endif
