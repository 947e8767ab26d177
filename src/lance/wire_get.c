/* wire_get.c - single protobuf values with their ranges checked. */
#include "lance/wire_get.h"

enum plm_code plm_pb_get_u64(const struct plm_pb_field *field, uint64_t *out, struct plm_err *err)
{
    enum plm_code rc = plm_pb_expect(field, 0, err);

    if (rc == PLM_OK)
        *out = field->value;
    return rc;
}

enum plm_code plm_pb_get_u32(const struct plm_pb_field *field, uint32_t *out, struct plm_err *err)
{
    uint64_t value;
    enum plm_code rc = plm_pb_get_u64(field, &value, err);

    if (rc != PLM_OK)
        return rc;
    if (value > UINT32_MAX)
        return plm_fail(err, PLM_CORRUPT, "field %" PRIu32 " is %" PRIu64 ", expected 32 bits",
                        field->number, value);
    *out = (uint32_t)value;
    return PLM_OK;
}

bool plm_pb_to_i32(uint64_t value, int32_t *out)
{
    if (value > INT32_MAX && value < (uint64_t)(int64_t)INT32_MIN)
        return false;
    *out = (int32_t)(uint32_t)value;
    return true;
}

enum plm_code plm_pb_get_i32(const struct plm_pb_field *field, int32_t *out, struct plm_err *err)
{
    uint64_t value;
    enum plm_code rc = plm_pb_get_u64(field, &value, err);

    if (rc == PLM_OK && !plm_pb_to_i32(value, out))
        rc = plm_fail(err, PLM_CORRUPT, "field %" PRIu32 " is %" PRIu64 ", expected a 32-bit integer",
                      field->number, value);
    return rc;
}

enum plm_code plm_pb_get_bool(const struct plm_pb_field *field, bool *out, struct plm_err *err)
{
    enum plm_code rc = plm_pb_expect(field, 0, err);

    if (rc == PLM_OK)
        *out = field->value != 0;
    return rc;
}

enum plm_code plm_pb_get_view(const struct plm_pb_field *field, struct plm_view *out,
                              struct plm_err *err)
{
    enum plm_code rc = plm_pb_expect(field, 2, err);

    if (rc == PLM_OK)
        *out = field->bytes;
    return rc;
}

enum plm_code plm_pb_count(struct plm_view message, uint32_t number, size_t *n,
                           struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t count = 0;

    PLM_PB_EACH(message)
        count += field.number == number;
    PLM_TRY(rc);
    *n = count;
done:
    return rc;
}

enum plm_code plm_msg_u64(struct plm_view message, uint32_t number, uint64_t *out,
                          struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message)
        if (field.number == number)
            PLM_TRY(plm_pb_get_u64(&field, out, err));
done:
    return rc;
}

enum plm_code plm_msg_bytes(struct plm_view message, uint32_t number, struct plm_view *out,
                            bool *is_there, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    bool seen = false;

    PLM_PB_EACH(message) {
        if (field.number != number)
            continue;
        PLM_TRY(plm_pb_get_view(&field, out, err));
        seen = true;
    }
    PLM_TRY(rc);
    if (is_there)
        *is_there = seen;
done:
    return rc;
}

enum plm_code plm_msg_oneof(struct plm_view message, uint32_t *number, struct plm_view *body,
                            struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *number = 0;
    *body = (struct plm_view){0};
    PLM_PB_EACH(message) {
        PLM_TRY(plm_pb_get_view(&field, body, err));
        *number = field.number;
    }
done:
    return rc;
}
