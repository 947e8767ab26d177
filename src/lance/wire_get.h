/* wire_get.h - protobuf values out of fields and messages, with their ranges checked.
 *
 * Owns     nothing: views lie in the message that was read.
 * Errors   PLM_CORRUPT, which names the field's number.
 */
#ifndef PLM_WIRE_GET_H
#define PLM_WIRE_GET_H

#include "lance/wire.h"

/* A loop over the fields of a message, in a function with `rc`, `err` and `done:`; the body
 * sees `field`. Follow it with PLM_TRY(rc): it also ends at the first malformed byte. */
#define PLM_PB_EACH(message)                                                             \
    struct plm_pb pb = plm_pb_of(message);                                               \
    struct plm_pb_field field;                                                           \
    bool more = true;                                                                    \
    for (rc = plm_pb_next(&pb, &field, &more, err); rc == PLM_OK && more;                \
         rc = plm_pb_next(&pb, &field, &more, err))

/* A varint as int32, which comes sign-extended to 64 bits; false if it is none. */
bool plm_pb_to_i32(uint64_t value, int32_t *out);

/* ---- of one field ------------------------------------------------------------------ */

/* Each checks the wire type and the range. */
PLM_MUST_CHECK enum plm_code
plm_pb_get_u64(const struct plm_pb_field *field, uint64_t *out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_get_u32(const struct plm_pb_field *field, uint32_t *out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_get_i32(const struct plm_pb_field *field, int32_t *out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_get_bool(const struct plm_pb_field *field, bool *out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_pb_get_view(const struct plm_pb_field *field, struct plm_view *out, struct plm_err *err);

/* ---- of a whole message; one without data is an empty one --------------------------- */

/* How often field `number` occurs. */
PLM_MUST_CHECK enum plm_code
plm_pb_count(struct plm_view message, uint32_t number, size_t *n, struct plm_err *err);
/* The value of field `number`, the last one if there are several; *out stays as it is without one. */
PLM_MUST_CHECK enum plm_code
plm_msg_u64(struct plm_view message, uint32_t number, uint64_t *out, struct plm_err *err);
/* The same; *is_there (may be NULL) says whether there is one. */
PLM_MUST_CHECK enum plm_code
plm_msg_bytes(struct plm_view message, uint32_t number, struct plm_view *out, bool *is_there,
              struct plm_err *err);
/* The one field that is set of a oneof of messages: its number (0 = none) and its bytes. */
PLM_MUST_CHECK enum plm_code
plm_msg_oneof(struct plm_view message, uint32_t *number, struct plm_view *body,
              struct plm_err *err);

#endif
