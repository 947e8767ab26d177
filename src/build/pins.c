#include "build/pins.h"

#include <jansson.h>
#include <stdlib.h>

void plm_pins_reset(struct plm_pins *pins)
{
    if (pins->ctx)
        plm_free(pins->ctx, pins->uuids);
    *pins = (struct plm_pins){0};
}

static json_t *uuid_json(const uint8_t uuid[16])
{
    char text[37];
    plm_uuid_text(uuid, text);
    return json_string(text);
}

enum plm_code plm_pins_save(const struct plm_plan *p, struct plm_buf *out, struct plm_err *err)
{
    char hash[17];
    enum plm_code rc = PLM_NOMEM;
    snprintf(hash, sizeof hash, "%016" PRIx64, p->manifest_xxh3);
    json_t *segments = json_array();
    for (size_t i = 0; i < p->n_segments; i++)
        json_array_append_new(segments, uuid_json(p->segments[i].uuid));
    json_t *root = json_pack(
        "{s:i, s:s, s:s, s:I, s:s, s:o, s:I, s:s, s:I, s:s, s:s, s:s, s:I, s:o}", "format", 1, "pilum",
        PLM_VERSION, "job", p->id, "version", (json_int_t)p->version, "manifest_xxh3", hash,
        "transaction", uuid_json(p->transaction_uuid), "created_at_ms", (json_int_t)p->created_at_ms,
        "kernels", p->kernels, "task_rows", (json_int_t)p->memory.task_rows, "index", p->index_name,
        "column", p->column_path, "type", plm_quantizer_type(p->quantizer), "num_partitions",
        (json_int_t)p->num_partitions, "segments", segments);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    if (text)
        rc = plm_buf_add(out, text, strlen(text), err);
    else
        (void)plm_fail(err, PLM_NOMEM, "plan.json: out of memory");
    free(text);
    json_decref(root);
    return rc;
}

static enum plm_code load_uuids(const json_t *list, struct plm_pins *pins, struct plm_err *err)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > PLM_PINNED_SEGMENTS_MAX)
        return plm_fail(err, PLM_CORRUPT, "plan.json: %zu segments", n);
    enum plm_code rc = plm_alloc(pins->ctx, &pins->uuids, n, 16, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text || !plm_uuid_parse(text, pins->uuids[i]))
            return plm_fail(err, PLM_CORRUPT, "plan.json: segment %zu has no uuid", i);
    }
    pins->n_uuids = n;
    return PLM_OK;
}

enum plm_code plm_pins_load(struct plm_ctx *ctx, struct plm_view json, const char *job_id,
                            struct plm_pins *out, struct plm_err *err)
{
    struct plm_pins pins = {.ctx = ctx};
    json_error_t where;
    json_int_t format = 0, version = 0, created = 0, task_rows = 0;
    const char *job = "", *hash = "", *transaction = "", *kernels = "";
    json_t *segments = NULL;
    enum plm_code rc = PLM_OK;

    json_t *root = json_loadb((const char *)json.data, json.len, 0, &where);
    if (!root)
        return plm_fail(err, PLM_CORRUPT, "plan.json: %.80s at %d", where.text, where.position);
    if (json_unpack(root, "{s:I, s:s, s:I, s:s, s:s, s:I, s:s, s:I, s:o}", "format", &format, "job", &job,
                    "version", &version, "manifest_xxh3", &hash, "transaction", &transaction,
                    "created_at_ms", &created, "kernels", &kernels, "task_rows", &task_rows, "segments",
                    &segments) != 0 ||
        format != 1 || strcmp(job, job_id) != 0 || version <= 0 || created <= 0 || task_rows <= 0 ||
        strlen(kernels) >= sizeof pins.kernels || !plm_uuid_parse(transaction, pins.transaction_uuid)) {
        rc = plm_fail(err, PLM_CORRUPT, "plan.json is no plan of this job");
        goto done;
    }
    pins.version = (uint64_t)version;
    pins.manifest_xxh3 = strtoull(hash, NULL, 16);
    pins.created_at_ms = (uint64_t)created;
    pins.task_rows = (uint64_t)task_rows;
    snprintf(pins.kernels, sizeof pins.kernels, "%s", kernels);
    PLM_TRY(load_uuids(segments, &pins, err));
    *out = pins;
    pins = (struct plm_pins){0};
done:
    plm_pins_reset(&pins);
    json_decref(root);
    return rc;
}
