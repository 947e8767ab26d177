/* wire_get.c - single protobuf values with their ranges checked. */
#include "lance/manifest_impl.h"

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

/* Negative numbers come sign-extended to 64 bits. */
static bool to_i32(uint64_t value, int32_t *out)
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

    if (rc == PLM_OK && !to_i32(value, out))
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

enum plm_code plm_pb_get_text(struct plm_manifest *manifest, const struct plm_pb_field *field,
                              char **out, struct plm_err *err)
{
    char *text;
    struct plm_view view;
    enum plm_code rc = plm_pb_get_view(field, &view, err);

    if (rc != PLM_OK)
        return rc;
    if (view.len && memchr(view.data, 0, view.len))
        return plm_fail(err, PLM_CORRUPT, "field %" PRIu32 " is text with a NUL in it",
                        field->number);
    rc = plm_arena_alloc(manifest->ctx, &manifest->arena, &text, view.len + 1, 1, err);
    if (rc != PLM_OK)
        return rc;
    if (view.len)
        memcpy(text, view.data, view.len);
    *out = text;
    return PLM_OK;
}

enum plm_code plm_pb_get_i32s(struct plm_manifest *manifest, const struct plm_u64s *values,
                              int32_t **out, struct plm_err *err)
{
    int32_t *items;
    enum plm_code rc =
        plm_arena_alloc(manifest->ctx, &manifest->arena, &items, values->n, sizeof *items, err);

    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < values->n; i++) {
        if (!to_i32(values->items[i], &items[i]))
            return plm_fail(err, PLM_CORRUPT, "%" PRIu64 " in a list of 32-bit integers",
                            values->items[i]);
    }
    *out = items;
    return PLM_OK;
}

enum plm_code plm_pb_count(struct plm_view message, uint32_t number, size_t *n, struct plm_err *err)
{
    struct plm_pb pb = plm_pb_of(message);
    struct plm_pb_field field;
    size_t count = 0;

    for (;;) {
        bool more;
        enum plm_code rc = plm_pb_next(&pb, &field, &more, err);

        if (rc != PLM_OK)
            return rc;
        if (!more)
            break;
        count += field.number == number;
    }
    *n = count;
    return PLM_OK;
}
