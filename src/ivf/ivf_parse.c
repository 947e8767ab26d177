/* ivf_parse.c - reads the protobuf and JSON inside index files, trusting nothing. */
#include <jansson.h>
#include <math.h>

#include "ivf/ivf_format.h"

/* Far above what stock Lance writes; a guard for the JSON parser. */
#define JSON_BYTES_MAX ((size_t)16 << 20)

const char *plm_code_column(enum plm_quantizer q)
{
    return q == PLM_FLAT ? "flat" : q == PLM_SQ ? "__sq_code" : "__pq_code";
}

struct plm_type_name plm_list_type(enum plm_element element, uint32_t items)
{
    static const char *const names[] = {
        [PLM_F16] = "halffloat", [PLM_F32] = "float", [PLM_F64] = "double", [PLM_U8] = "uint8"};
    struct plm_type_name type;

    snprintf(type.text, sizeof(type.text), "fixed_size_list:%s:%" PRIu32, names[element], items);
    return type;
}

/* ---- protobuf ------------------------------------------------------------------ */

static enum plm_code element_of_tensor(uint64_t type, enum plm_element *out, struct plm_err *err)
{
    switch (type) {
    case 1:
        *out = PLM_F16;
        return PLM_OK;
    case 2:
        *out = PLM_F32;
        return PLM_OK;
    case 3:
        *out = PLM_F64;
        return PLM_OK;
    case 0:
        return plm_fail(err, PLM_UNSUPPORTED, "index of bfloat16 vectors");
    case 4:
        return plm_fail(err, PLM_UNSUPPORTED, "index of uint8 vectors");
    default:
        return plm_fail(err, PLM_UNSUPPORTED, "tensor of data type %" PRIu64
                        ", expected 1 (float16), 2 (float32) or 3 (float64)", type);
    }
}

static enum plm_code tensor_check(struct plm_tensor *tensor, uint64_t type,
                                  const struct plm_u64s *shape, struct plm_err *err)
{
    size_t n, bytes;
    enum plm_code rc = element_of_tensor(type, &tensor->element, err);

    if (rc != PLM_OK)
        return rc;
    if (shape->n != 2)
        return plm_fail(err, PLM_CORRUPT, "tensor has %zu dimensions, expected 2", shape->n);
    tensor->n_rows = shape->items[0];
    tensor->n_columns = shape->items[1];
    if (!plm_size_mul(tensor->n_rows, tensor->n_columns, &n) ||
        !plm_size_mul(n, plm_element_bytes(tensor->element), &bytes) || bytes != tensor->data.len)
        return plm_fail(err, PLM_CORRUPT, "tensor of %" PRIu64 " x %" PRIu64
                        " values of %zu bytes holds %zu bytes", tensor->n_rows, tensor->n_columns,
                        plm_element_bytes(tensor->element), tensor->data.len);
    tensor->present = true;
    return PLM_OK;
}

enum plm_code plm_tensor_parse(struct plm_ctx *ctx, struct plm_view bytes, struct plm_tensor *out,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_tensor tensor = {0};
    struct plm_u64s shape = {0};
    uint64_t type = 0;

    PLM_PB_EACH(bytes) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_u64(&field, &type, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_repeated_u64(ctx, &field, 8, &shape, err));
        else if (field.number == 3)
            PLM_TRY(plm_pb_get_view(&field, &tensor.data, err));
    }
    PLM_TRY(rc);
    PLM_TRY(tensor_check(&tensor, type, &shape, err));
    *out = tensor;
done:
    plm_u64s_reset(ctx, &shape);
    return rc;
}

static enum plm_code ivf_field(struct plm_ivf_message *m, const struct plm_pb_field *field,
                               size_t n_max, struct plm_err *err)
{
    enum plm_code rc;

    switch (field->number) {
    case 2:
        return plm_pb_repeated_u64(m->ctx, field, n_max, &m->offsets, err);
    case 3:
        return plm_pb_repeated_u64(m->ctx, field, n_max, &m->lengths, err);
    case 4:
        rc = plm_pb_expect(field, 2, err);
        return rc ? rc : plm_tensor_parse(m->ctx, field->bytes, &m->centroids, err);
    case 5:
        rc = plm_pb_expect(field, 1, err);
        if (rc == PLM_OK) {
            memcpy(&m->loss, &field->value, 8);
            m->has_loss = true;
        }
        return rc;
    default:
        return PLM_OK;
    }
}

enum plm_code plm_ivf_message_parse(struct plm_ctx *ctx, struct plm_view bytes,
                                    struct plm_ivf_message *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ivf_message message = {.ctx = ctx};

    PLM_PB_EACH(bytes)
        PLM_TRY(ivf_field(&message, &field, bytes.len, err));
    PLM_TRY(rc);
    if (message.offsets.n != message.lengths.n)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "IVF message has %zu offsets and %zu lengths",
                         message.offsets.n, message.lengths.n));
    *out = message;
    memset(&message, 0, sizeof(message));
done:
    plm_ivf_message_reset(&message);
    return rc;
}

void plm_ivf_message_reset(struct plm_ivf_message *message)
{
    plm_u64s_reset(message->ctx, &message->offsets);
    plm_u64s_reset(message->ctx, &message->lengths);
    memset(message, 0, sizeof(*message));
}

enum plm_code plm_tensor_floats(struct plm_ctx *ctx, const struct plm_tensor *tensor, float **out,
                                struct plm_err *err)
{
    size_t n = (size_t)(tensor->n_rows * tensor->n_columns); /* checked when parsed */
    float *values;
    enum plm_code rc = plm_alloc(ctx, &values, n, sizeof(float), err);

    if (rc != PLM_OK)
        return rc;
    plm_floats_of_element(ctx->kernels, tensor->data.data, n, tensor->element, values);
    *out = values;
    return PLM_OK;
}

/* ---- JSON ---------------------------------------------------------------------- */

static enum plm_code json_parse(const char *what, struct plm_view text, size_t flags, json_t **out,
                                struct plm_err *err)
{
    json_error_t error;

    if (text.len == 0)
        return plm_fail(err, PLM_CORRUPT, "%s is missing", what);
    if (text.len > JSON_BYTES_MAX)
        return plm_fail(err, PLM_CORRUPT, "%s is %zu bytes long, expected at most %zu", what,
                        text.len, JSON_BYTES_MAX);
    *out = json_loadb((const char *)text.data, text.len, flags, &error);
    if (!*out)
        return plm_fail(err, PLM_CORRUPT, "%s is not JSON: %s (byte %d)", what, error.text,
                        error.position);
    return PLM_OK;
}

enum plm_code plm_metric_parse(const char *name, size_t len, enum plm_metric *out,
                               struct plm_err *err)
{
    static const enum plm_metric all[] = {PLM_L2, PLM_COSINE, PLM_DOT};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const char *known = plm_metric_name(all[i]);
        if (strlen(known) == len && memcmp(known, name, len) == 0) {
            *out = all[i];
            return PLM_OK;
        }
    }
    return plm_fail(err, PLM_UNSUPPORTED, "index with distance type \"%.*s\"",
                    (int)plm_min_size(len, 40), name);
}

static enum plm_code quantizer_parse(const char *name, enum plm_quantizer *out,
                                     struct plm_err *err)
{
    static const enum plm_quantizer all[] = {PLM_FLAT, PLM_SQ, PLM_PQ};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(name, plm_quantizer_type(all[i])) == 0) {
            *out = all[i];
            return PLM_OK;
        }
    return plm_fail(err, PLM_UNSUPPORTED, "index type \"%.40s\" is not supported (IVF_FLAT, IVF_SQ and IVF_PQ are)",
                    name);
}

enum plm_code plm_index_kind_parse(struct plm_view text, enum plm_quantizer *quantizer,
                                   enum plm_metric *metric, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    enum plm_quantizer q = PLM_FLAT;
    enum plm_metric m = PLM_L2;
    json_t *root = NULL;

    PLM_TRY(json_parse("lance:index", text, 0, &root, err));
    const char *type = json_string_value(json_object_get(root, "type"));
    const char *distance = json_string_value(json_object_get(root, "distance_type"));
    if (!type || !distance)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "lance:index has no %s", type ? "distance_type" : "type"));
    PLM_TRY(quantizer_parse(type, &q, err));
    PLM_TRY(plm_metric_parse(distance, strlen(distance), &m, err));
    *quantizer = q;
    *metric = m;
done:
    json_decref(root);
    return rc;
}

enum plm_code plm_sub_index_count(struct plm_view text, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    json_t *root = NULL;

    PLM_TRY(json_parse("lance:flat", text, 0, &root, err));
    if (!json_is_array(root))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "lance:flat is not a JSON array"));
    *n = json_array_size(root);
done:
    json_decref(root);
    return rc;
}

/* A whole number 0 .. 2^31-1. */
static enum plm_code json_count(const json_t *object, const char *key, uint32_t *out,
                                struct plm_err *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX)
        return plm_fail(err, PLM_CORRUPT, "storage_metadata: \"%s\" is not a number from 0 to 2^31-1",
                        key);
    *out = (uint32_t)json_integer_value(value);
    return PLM_OK;
}

static enum plm_code sq_info(const json_t *object, struct plm_storage_info *info,
                             struct plm_err *err)
{
    enum plm_code rc;
    uint32_t n_bits = 0;
    const json_t *bounds = json_object_get(object, "bounds");
    const json_t *lo = json_object_get(bounds, "start"), *hi = json_object_get(bounds, "end");

    if ((rc = json_count(object, "dim", &info->dim, err)) ||
        (rc = json_count(object, "num_bits", &n_bits, err)))
        return rc;
    if (n_bits != 8)
        return plm_fail(err, PLM_UNSUPPORTED, "scalar quantization with %" PRIu32
                        " bits, expected 8", n_bits);
    if (!json_is_number(lo) || !json_is_number(hi))
        return plm_fail(err, PLM_CORRUPT, "storage_metadata: \"bounds\" has no start and end");
    info->lo = json_number_value(lo);
    info->hi = json_number_value(hi);
    if (!isfinite(info->lo) || !isfinite(info->hi) || info->lo > info->hi)
        return plm_fail(err, PLM_CORRUPT, "storage_metadata: bounds %g to %g", info->lo, info->hi);
    return PLM_OK;
}

static enum plm_code pq_info(const json_t *object, struct plm_storage_info *info,
                             struct plm_err *err)
{
    enum plm_code rc;

    if ((rc = json_count(object, "dimension", &info->dim, err)) ||
        (rc = json_count(object, "nbits", &info->n_bits, err)) ||
        (rc = json_count(object, "num_sub_vectors", &info->m, err)) ||
        (rc = json_count(object, "codebook_position", &info->codebook_buffer, err)))
        return rc;
    if (!json_is_array(json_object_get(object, "codebook_tensor"))) /* stock Lance wants it, empty as it may be */
        return plm_fail(err, PLM_CORRUPT, "storage_metadata has no array \"codebook_tensor\"");
    info->transposed = json_is_true(json_object_get(object, "transposed"));
    if (info->n_bits != 8 && info->n_bits != 4)
        return plm_fail(err, PLM_UNSUPPORTED, "product quantization with %" PRIu32
                        " bits, expected 8 or 4", info->n_bits);
    if (info->m == 0 || info->dim % info->m != 0 || (info->n_bits == 4 && info->m % 2 != 0))
        return plm_fail(err, PLM_CORRUPT, "storage_metadata: %" PRIu32 " sub-vectors of %" PRIu32
                        " bits for dimension %" PRIu32, info->m, info->n_bits, info->dim);
    return PLM_OK;
}

enum plm_code plm_storage_info_parse(struct plm_view text, enum plm_quantizer quantizer,
                                     struct plm_storage_info *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_storage_info info = {0};
    json_t *outer = NULL, *inner = NULL;
    const json_t *first;
    struct plm_view inner_text;

    PLM_TRY(json_parse("storage_metadata", text, 0, &outer, err));
    first = json_array_get(outer, 0);
    if (!json_is_string(first))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "storage_metadata is not an array of strings"));
    inner_text.data = (const uint8_t *)json_string_value(first);
    inner_text.len = json_string_length(first);
    PLM_TRY(json_parse("storage_metadata[0]", inner_text, 0, &inner, err));

    if (quantizer == PLM_FLAT)
        PLM_TRY(json_count(inner, "dim", &info.dim, err));
    else if (quantizer == PLM_SQ)
        PLM_TRY(sq_info(inner, &info, err));
    else
        PLM_TRY(pq_info(inner, &info, err));
    *out = info;
done:
    json_decref(inner);
    json_decref(outer);
    return rc;
}

enum plm_code plm_buffer_number_parse(struct plm_view text, uint32_t *out, struct plm_err *err)
{
    uint32_t number = 0;

    if (text.len == 0 || text.len > 9)
        return plm_fail(err, PLM_CORRUPT, "lance:ivf is %s, expected the number of a global buffer",
                        text.len ? "too long" : "missing");
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return plm_fail(err, PLM_CORRUPT, "lance:ivf is not a decimal number");
        number = number * 10 + (uint32_t)(text.data[i] - '0');
    }
    *out = number;
    return PLM_OK;
}
