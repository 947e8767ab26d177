/* inspect.c - plm_inspect(): a table, its indexes and their partitions as one JSON document.
 *
 * {"table", "version", "branch", "rows", "deleted_rows", "fragments", "file_version",
 *  "columns": [{"name", "type", "nullable"}],
 *  "indexes": [{"name", "type", "metric", "column", "num_partitions", "num_sub_vectors", "num_bits",
 *    "rows_indexed", "fragments_unindexed",
 *    "segments": [{"uuid", "fragments": [ids], "rows", "dataset_version", "created_at_ms", "loss",
 *      "partitions": {"count", "empty", "max", "mean", "cv", "sizes"}}]}]}
 *
 * Indexes that pilum does not read (scalar ones, IVF_RQ, HNSW) are listed with what the
 * manifest says about them: metric and partitions are null then. */
#include <jansson.h>
#include <math.h>

#include "build/report.h"
#include "build/table.h"
#include "ivf/index.h"
#include "lance/wire.h"

static enum plm_code no_memory(struct plm_err *err)
{
    return plm_fail(err, PLM_NOMEM, "inspect: out of memory");
}

/* ---- one segment ------------------------------------------------------------------------ */

static json_t *partitions_json(const struct plm_segment *s)
{
    uint32_t k = s->model.k, empty = 0, max = 0;
    double mean = (double)s->n_rows / k, squares = 0;
    json_t *sizes = json_array();

    for (uint32_t i = 0; sizes && i < k; i++) {
        empty += s->lengths[i] == 0;
        max = s->lengths[i] > max ? s->lengths[i] : max;
        squares += (s->lengths[i] - mean) * (s->lengths[i] - mean);
        if (json_array_append_new(sizes, json_integer(s->lengths[i])) != 0) {
            json_decref(sizes);
            return NULL;
        }
    }
    return json_pack("{s:I,s:I,s:I,s:f,s:f,s:o}", "count", (json_int_t)k, "empty",
                     (json_int_t)empty, "max", (json_int_t)max, "mean", mean, "cv",
                     mean > 0 ? sqrt(squares / k) / mean : 0.0, "sizes", sizes);
}

static json_t *fragments_json(const struct plm_index_meta *meta)
{
    json_t *ids = json_array();

    for (size_t i = 0; ids && i < meta->n_fragments; i++)
        if (json_array_append_new(ids, json_integer(meta->fragments[i])) != 0) {
            json_decref(ids);
            return NULL;
        }
    return ids;
}

/* s NULL = not readable. json_pack() releases what it was given when it fails. */
static json_t *segment_json(const struct plm_index_meta *meta, const struct plm_segment *s)
{
    char uuid[37];
    json_t *rows = s ? json_integer((json_int_t)s->n_rows) : json_null();
    json_t *loss = s && s->has_loss && isfinite(s->loss) ? json_real(s->loss) : json_null();

    plm_uuid_text(meta->uuid, uuid);
    return json_pack("{s:s,s:o,s:o,s:I,s:I,s:o,s:o}", "uuid", uuid, "fragments",
                     fragments_json(meta), "rows", rows, "dataset_version",
                     (json_int_t)meta->dataset_version, "created_at_ms",
                     (json_int_t)meta->created_at_ms, "loss", loss, "partitions",
                     s ? partitions_json(s) : json_null());
}

/* ---- one index ---------------------------------------------------------------------------- */

/* A vector index as its details describe it: "IVF_RQ", "IVF_HNSW_PQ", ... */
static json_t *type_of_vector_details(struct plm_view details)
{
    struct plm_pb pb = plm_pb_of(details);
    struct plm_pb_field field;
    const char *quantizer = "FLAT";
    bool more = true, has_graph = false;
    char name[32];

    while (plm_pb_next(&pb, &field, &more, NULL) == PLM_OK && more) {
        has_graph = has_graph || field.number == 3;
        if (field.number >= 4 && field.number <= 6)
            quantizer = field.number == 4 ? "PQ" : field.number == 5 ? "SQ" : "RQ";
    }
    snprintf(name, sizeof(name), "IVF_%s%s", has_graph ? "HNSW_" : "", quantizer);
    return json_string(name);
}

/* "BTree" of "/lance.index.pb.BTreeIndexDetails". */
static json_t *type_of_details(const struct plm_index_meta *meta)
{
    static const char tail[] = "IndexDetails";
    const char *url = meta->details_url ? meta->details_url : "";
    const char *dot = strrchr(url, '.'), *name = dot ? dot + 1 : url;
    size_t n = strlen(name), n_tail = sizeof(tail) - 1;

    if (strcmp(name, "VectorIndexDetails") == 0 && meta->details.len)
        return type_of_vector_details(meta->details);
    if (n > n_tail && strcmp(name + n - n_tail, tail) == 0)
        n -= n_tail;
    return n ? json_stringn(name, n) : json_null();
}

static int describe_model(json_t *index, const struct plm_model *m)
{
    bool is_pq = m->quantizer == PLM_PQ;

    return json_object_set_new(index, "type", json_string(plm_quantizer_type(m->quantizer))) ||
           json_object_set_new(index, "metric", json_string(plm_metric_name(m->metric))) ||
           json_object_set_new(index, "num_partitions", json_integer(m->k)) ||
           json_object_set_new(index, "num_sub_vectors",
                               is_pq ? json_integer(m->pq.m) : json_null()) ||
           json_object_set_new(index, "num_bits",
                               is_pq                      ? json_integer(m->pq.n_bits)
                               : m->quantizer == PLM_SQ ? json_integer(8)
                                                          : json_null());
}

static enum plm_code new_index(const struct plm_manifest *m, const struct plm_index_meta *meta,
                               json_t **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *path = NULL;

    if (meta->n_fields)
        rc = plm_manifest_field_path(m, meta->field_ids[0], &path, err);
    if (rc == PLM_NOT_FOUND)
        rc = PLM_OK; /* the column was dropped, the index dangles */
    if (rc != PLM_OK)
        return rc;
    *out = json_pack("{s:s,s:o,s:n,s:s?,s:n,s:n,s:n,s:i,s:i,s:[]}", "name", meta->name, "type",
                     type_of_details(meta), "metric", "column", path, "num_partitions",
                     "num_sub_vectors", "num_bits", "rows_indexed", 0, "fragments_unindexed",
                     (int)m->n_fragments, "segments");
    plm_free(m->ctx, path);
    return *out ? PLM_OK : no_memory(err);
}

static bool is_vector_index(const struct plm_index_meta *meta)
{
    const char *url = meta->details_url;

    if (url && *url)
        return strstr(url, "VectorIndexDetails") != NULL;
    for (size_t i = 0; i < meta->n_files; i++)
        if (strcmp(meta->files[i].path, "auxiliary.idx") == 0)
            return true;
    return meta->n_files == 0;
}

static bool is_in_manifest(const struct plm_manifest *m, uint32_t id)
{
    for (size_t i = 0; i < m->n_fragments; i++)
        if (m->fragments[i].id == id)
            return true;
    return false;
}

static int count_segment(const struct plm_manifest *m, const struct plm_index_meta *meta,
                         const struct plm_segment *s, json_t *index)
{
    json_int_t rows = json_integer_value(json_object_get(index, "rows_indexed"));
    json_int_t left = json_integer_value(json_object_get(index, "fragments_unindexed"));

    for (size_t i = 0; i < meta->n_fragments; i++)
        left -= is_in_manifest(m, meta->fragments[i]);
    return json_object_set_new(index, "rows_indexed",
                               json_integer(rows + (s ? (json_int_t)s->n_rows : 0))) ||
           json_object_set_new(index, "fragments_unindexed", json_integer(left > 0 ? left : 0));
}

static enum plm_code add_segment(struct plm_manifest *m, const struct plm_index_meta *meta,
                                 json_t *index, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_segment segment = {0}, *opened = NULL;
    json_t *json;

    if (is_vector_index(meta)) {
        rc = plm_segment_open(m, meta, &segment, err);
        if (rc == PLM_OK)
            opened = &segment;
        else if (rc == PLM_UNSUPPORTED)
            plm_warn(m->ctx, "%s", err ? err->message : "an index is not supported");
        else
            return rc;
        rc = PLM_OK;
    }
    json = segment_json(meta, opened);
    if (!json || json_array_append_new(json_object_get(index, "segments"), json) != 0 ||
        (opened && describe_model(index, &opened->model) != 0) ||
        count_segment(m, meta, opened, index) != 0)
        rc = no_memory(err);
    plm_segment_close(&segment);
    return rc;
}

static json_t *find_index(json_t *indexes, const char *name)
{
    size_t i;
    json_t *index;

    json_array_foreach (indexes, i, index)
        if (strcmp(json_string_value(json_object_get(index, "name")), name) == 0)
            return index;
    return NULL;
}

static enum plm_code indexes_json(struct plm_manifest *m, const char *wanted, json_t *indexes,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < m->n_indices; i++) {
        const struct plm_index_meta *meta = &m->indices[i];
        json_t *index = find_index(indexes, meta->name);
        if (wanted && strcmp(wanted, meta->name) != 0)
            continue;
        if (!index) {
            PLM_TRY(new_index(m, meta, &index, err));
            if (json_array_append_new(indexes, index) != 0)
                PLM_TRY(no_memory(err));
        }
        PLM_TRY(add_segment(m, meta, index, err));
    }
    if (wanted && json_array_size(indexes) == 0)
        return plm_fail(err, PLM_NOT_FOUND, "no index \"%s\" in version %" PRIu64 " of the table",
                        wanted, m->version);
done:
    return rc;
}

/* ---- the table ------------------------------------------------------------------------------ */

static enum plm_code columns_json(const struct plm_manifest *m, json_t *columns,
                                  struct plm_err *err)
{
    for (size_t i = 0; i < m->n_fields; i++) {
        const struct plm_field *f = &m->fields[i];
        char *path = NULL;
        enum plm_code rc = plm_manifest_field_path(m, f->id, &path, err);
        if (rc != PLM_OK)
            return rc;
        json_t *column = json_pack("{s:s,s:s,s:b}", "name", path, "type",
                                   f->logical_type ? f->logical_type : "", "nullable",
                                   (int)f->nullable);
        plm_free(m->ctx, path);
        if (!column || json_array_append_new(columns, column) != 0)
            return no_memory(err);
    }
    return PLM_OK;
}

static json_t *table_json(const struct plm_table *table)
{
    const struct plm_manifest *m = &table->manifest;
    json_int_t rows = 0, deleted = 0;
    char version[24];

    for (size_t i = 0; i < m->n_fragments; i++) {
        rows += (json_int_t)m->fragments[i].n_physical_rows;
        deleted += (json_int_t)m->fragments[i].deletion.n_deleted;
    }
    snprintf(version, sizeof(version), "%" PRIu32 ".%" PRIu32, m->file_major, m->file_minor);
    return json_pack("{s:s,s:I,s:s?,s:I,s:I,s:I,s:s,s:[],s:[]}", "table",
                     plm_store_uri(table->store), "version", (json_int_t)m->version, "branch",
                     m->branch, "rows", rows - deleted, "deleted_rows", deleted, "fragments",
                     (json_int_t)m->n_fragments, "file_version", version, "columns", "indexes");
}

enum plm_code plm_inspect(struct plm_ctx *ctx, const struct plm_table_ref *ref, const char *index,
                          char **json, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_table table = {0};
    struct plm_err own;
    json_t *root = NULL;

    if (!err)
        err = &own; /* its text is needed for warnings */
    PLM_TRY(plm_check_cancel(ctx, err));
    PLM_TRY(plm_table_open(ctx, ref, &table, err));
    root = table_json(&table);
    if (!root)
        PLM_TRY(no_memory(err));
    PLM_TRY(columns_json(&table.manifest, json_object_get(root, "columns"), err));
    PLM_TRY(indexes_json(&table.manifest, index, json_object_get(root, "indexes"), err));
    rc = plm_json_string(json_incref(root), json, err);
done:
    json_decref(root);
    plm_table_close(&table);
    return rc;
}
