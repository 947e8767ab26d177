/* segment.c - one segment of an index: opened with every number checked, read by partition. */
#include <limits.h>

#include "ivf/ivf_format.h"

#define BUFFER_BYTES_MAX ((size_t)64 << 30) /* ceiling; the file's size and the budget limit first */
#define DIM_MAX 65536

/* ---- opening ---------------------------------------------------------------------- */

/* What the two files say before it is put together. */
struct opening {
    struct plm_ctx *ctx;
    struct plm_datafile *main, *aux;
    struct plm_storage_info info;
};

static enum plm_code read_buffer(struct plm_datafile *file, uint32_t number, const char *what,
                                 struct plm_buf *buf, struct plm_err *err)
{
    uint32_t n = plm_datafile_n_buffers(file);

    /* Buffer 0 is the file's own descriptor. */
    if (number == 0 || number >= n)
        return plm_fail(err, PLM_CORRUPT, "%s is in global buffer %" PRIu32
                        ", expected 1 to %" PRIu32, what, number, n ? n - 1 : 0);
    return plm_datafile_buffer(file, number, buf, err);
}

static enum plm_code read_ivf(struct plm_datafile *file, struct plm_buf *buf,
                              struct plm_ivf_message *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t number = 0;

    PLM_TRY(plm_buffer_number_parse(plm_datafile_metadata(file, "lance:ivf"), &number, err));
    PLM_TRY(read_buffer(file, number, "the IVF message", buf, err));
    PLM_TRY(plm_ivf_message_parse(buf->ctx, (struct plm_view){buf->data, buf->len}, out, err));
done:
    return rc;
}

/* index.idx has columns without rows; stock Lance does not open it when what describes them is damaged. */
static enum plm_code check_markers(struct plm_datafile *file, struct plm_err *err)
{
    static const struct plm_column_shape any = {.items = 1, .bits = 64};
    enum plm_code rc = PLM_OK;
    uint64_t n_rows, n_bytes;
    const char *type = "uint64";

    if (plm_datafile_find(file, "__flat_marker", &type) >= 0 && strcmp(type, "uint64") != 0)
        return plm_fail(err, PLM_CORRUPT, "column \"__flat_marker\" has type \"%s\", expected \"uint64\"", type);
    for (uint32_t c = 0; plm_datafile_n_rows(file) == 0 && c < plm_datafile_n_columns(file); c++)
        PLM_TRY(plm_datafile_check_column(file, c, &any, &n_rows, &n_bytes, err));
done:
    return rc;
}

/* index.idx: type, metric, centroids, loss. */
static enum plm_code open_model(struct opening *o, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ivf_message ivf = {.ctx = o->ctx};
    struct plm_model *m = &s->model;
    struct plm_buf buf;
    size_t n_sub = 0;

    plm_buf_init(&buf, o->ctx, BUFFER_BYTES_MAX);
    PLM_TRY(check_markers(o->main, err));
    PLM_TRY(plm_index_kind_parse(plm_datafile_metadata(o->main, "lance:index"), &m->quantizer,
                                 &m->metric, err));
    PLM_TRY(read_ivf(o->main, &buf, &ivf, err));
    const struct plm_tensor *t = &ivf.centroids;
    if (!t->present)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "the IVF message has no centroids"));
    if (t->n_rows == 0 || t->n_rows > INT32_MAX || t->n_columns == 0 || t->n_columns > DIM_MAX)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%" PRIu64 " centroids of dimension %" PRIu64,
                         t->n_rows, t->n_columns));
    m->k = (uint32_t)t->n_rows;
    m->dim = (uint32_t)t->n_columns;
    m->element = t->element;
    PLM_TRY(plm_tensor_floats(o->ctx, t, &m->centroids, err));
    PLM_TRY(plm_sub_index_count(plm_datafile_metadata(o->main, "lance:flat"), &n_sub, err));
    if (n_sub != m->k)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "lance:flat has %zu entries, expected %" PRIu32
                         " (the number of centroids)", n_sub, m->k));
    s->has_loss = ivf.has_loss;
    s->loss = ivf.loss;
done:
    plm_ivf_message_reset(&ivf);
    plm_buf_reset(&buf);
    return rc;
}

/* Partitions follow each other without a gap: together they are all the rows. */
static enum plm_code take_partitions(const struct plm_ivf_message *ivf, struct plm_segment *s,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint32_t k = s->model.k;
    uint64_t at = 0;

    if (ivf->lengths.n != k)
        return plm_fail(err, PLM_CORRUPT, "%zu partition lengths, expected %" PRIu32,
                        ivf->lengths.n, k);
    PLM_TRY(plm_alloc(s->ctx, &s->offsets, k, sizeof(*s->offsets), err));
    PLM_TRY(plm_alloc(s->ctx, &s->lengths, k, sizeof(*s->lengths), err));
    for (uint32_t i = 0; i < k; i++) {
        uint64_t length = ivf->lengths.items[i], offset = ivf->offsets.items[i];
        if (length > UINT32_MAX)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "partition %" PRIu32 " has %" PRIu64 " rows", i,
                             length));
        if (length && offset != at)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "partition %" PRIu32 " starts at row %" PRIu64
                             ", expected %" PRIu64, i, offset, at));
        s->offsets[i] = at;
        s->lengths[i] = (uint32_t)length;
        at += length; /* at most 2^31 * 2^32 */
    }
    s->n_rows = at;
done:
    return rc;
}

static enum plm_code open_partitions(struct opening *o, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ivf_message ivf = {.ctx = o->ctx};
    struct plm_view distance = plm_datafile_metadata(o->aux, "distance_type");
    enum plm_metric metric;
    struct plm_buf buf;

    plm_buf_init(&buf, o->ctx, BUFFER_BYTES_MAX);
    if (distance.len == 0)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "distance_type is missing"));
    PLM_TRY(plm_metric_parse((const char *)distance.data, distance.len, &metric, err));
    if (metric != s->model.metric)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "distance_type is %s, but %s in index.idx",
                         plm_metric_name(metric), plm_metric_name(s->model.metric)));
    PLM_TRY(read_ivf(o->aux, &buf, &ivf, err));
    PLM_TRY(take_partitions(&ivf, s, err));
done:
    plm_ivf_message_reset(&ivf);
    plm_buf_reset(&buf);
    return rc;
}

/* The codebook's shape says [codes, dim], its order is [sub-vector][code][dsub]. */
static enum plm_code open_codebook(struct opening *o, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_storage_info *info = &o->info;
    struct plm_tensor tensor = {0};
    float *values = NULL;
    struct plm_buf buf;

    plm_buf_init(&buf, o->ctx, BUFFER_BYTES_MAX);
    PLM_TRY(read_buffer(o->aux, info->codebook_buffer, "the codebook", &buf, err));
    PLM_TRY(plm_tensor_parse(o->ctx, (struct plm_view){buf.data, buf.len}, &tensor, err));
    if (tensor.n_rows != (uint64_t)1 << info->n_bits || tensor.n_columns != info->dim)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "codebook of shape [%" PRIu64 ", %" PRIu64
                         "], expected [%d, %" PRIu32 "]", tensor.n_rows, tensor.n_columns,
                         1 << info->n_bits, info->dim));
    PLM_TRY(plm_tensor_floats(o->ctx, &tensor, &values, err));
    PLM_TRY(plm_pq_init(o->ctx, info->m, info->dim / info->m, info->n_bits, values, &s->model.pq,
                        err));
    s->pq_transposed = info->transposed;
done:
    plm_free(o->ctx, values);
    plm_buf_reset(&buf);
    return rc;
}

static enum plm_code open_quantizer(struct opening *o, struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_model *m = &s->model;

    PLM_TRY(plm_storage_info_parse(plm_datafile_metadata(o->aux, "storage_metadata"), m->quantizer,
                                   &o->info, err));
    if (o->info.dim != m->dim)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "storage_metadata says dimension %" PRIu32
                         ", the centroids have %" PRIu32, o->info.dim, m->dim));
    if (m->quantizer == PLM_SQ)
        m->sq = (struct plm_sq){o->info.lo, o->info.hi};
    if (m->quantizer == PLM_PQ)
        PLM_TRY(open_codebook(o, s, err));
done:
    return rc;
}

struct plm_column_shape plm_segment_code_shape(const struct plm_segment *s)
{
    const struct plm_model *m = &s->model;

    if (m->quantizer == PLM_FLAT)
        return (struct plm_column_shape){m->dim, (uint32_t)plm_element_bytes(m->element) * 8, true};
    return (struct plm_column_shape){plm_model_code_bytes(m), 8, true};
}

static const struct plm_column_shape rowid_shape = {1, 64, false};

static enum plm_code find_column(struct plm_segment *s, const char *name, const char *type,
                                 const struct plm_column_shape *shape, uint32_t *column,
                                 struct plm_err *err)
{
    const char *seen = NULL;
    uint64_t n_rows = 0, bytes = 0;
    int32_t found = plm_datafile_find(s->aux, name, &seen);

    if (found < 0)
        return plm_fail(err, PLM_CORRUPT, "no column \"%s\"", name);
    if (strcmp(seen, type) != 0)
        return plm_fail(err, PLM_CORRUPT, "column \"%s\" is \"%.80s\", expected \"%s\"", name, seen,
                        type);
    enum plm_code rc =
        plm_datafile_check_column(s->aux, (uint32_t)found, shape, &n_rows, &bytes, err);
    if (rc != PLM_OK)
        return rc;
    if (n_rows != s->n_rows)
        return plm_fail(err, PLM_CORRUPT, "column \"%s\" has %" PRIu64
                        " rows, the partitions %" PRIu64, name, n_rows, s->n_rows);
    *column = (uint32_t)found;
    return PLM_OK;
}

static enum plm_code open_columns(struct plm_segment *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_column_shape shape = plm_segment_code_shape(s);
    enum plm_element element = s->model.quantizer == PLM_FLAT ? s->model.element : PLM_U8;
    struct plm_type_name type = plm_list_type(element, shape.items);

    PLM_TRY(find_column(s, PLM_COLUMN_ROWID, "uint64", &rowid_shape, &s->rowid_column, err));
    PLM_TRY(find_column(s, plm_code_column(s->model.quantizer), type.text, &shape, &s->code_column,
                        err));
done:
    return rc;
}

typedef enum plm_code open_fn(struct plm_store *store, const char *path, uint64_t size_bytes,
                              struct plm_datafile **out, struct plm_err *err);

static enum plm_code open_files(struct plm_store *store, const char *const paths[2],
                                const uint64_t sizes[2], open_fn *open, struct plm_segment *out,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    struct plm_segment s = {.ctx = ctx, .model.ctx = ctx};
    struct opening o = {.ctx = ctx};
    const char *path = paths[0];

    PLM_TRY(open(store, path, sizes[0], &o.main, err));
    PLM_TRY(open_model(&o, &s, err));
    path = paths[1];
    PLM_TRY(open(store, path, sizes[1], &o.aux, err));
    s.aux = o.aux;
    PLM_TRY(open_partitions(&o, &s, err));
    PLM_TRY(open_quantizer(&o, &s, err));
    PLM_TRY(open_columns(&s, err));
    *out = s;
    memset(&s, 0, sizeof(s));
done:
    if (rc != PLM_OK)
        plm_wrap(err, rc, "%s", path);
    plm_datafile_close(o.main);
    plm_segment_close(&s);
    return rc;
}

static uint64_t known_size(const struct plm_index_meta *meta, const char *name)
{
    for (size_t i = 0; i < meta->n_files; i++)
        if (strcmp(meta->files[i].path, name) == 0)
            return meta->files[i].size_bytes;
    return 0;
}

enum plm_code plm_segment_open(struct plm_manifest *manifest, const struct plm_index_meta *meta,
                               struct plm_segment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *store;
    const char *prefix;
    char uuid[37], *model_path = NULL, *aux_path = NULL;
    uint64_t sizes[2] = {known_size(meta, "index.idx"), known_size(meta, "auxiliary.idx")};

    plm_uuid_text(meta->uuid, uuid);
    PLM_TRY(plm_manifest_base(manifest, meta->base_id, "_indices/", &store, &prefix, err));
    PLM_TRY(plm_format(manifest->ctx, &model_path, err, "%s%s/index.idx", prefix, uuid));
    PLM_TRY(plm_format(manifest->ctx, &aux_path, err, "%s%s/auxiliary.idx", prefix, uuid));
    PLM_TRY(open_files(store, (const char *const[]){model_path, aux_path}, sizes, plm_datafile_open, out,
                       err));
done:
    if (rc != PLM_OK)
        plm_wrap(err, rc, "index \"%s\"", meta->name);
    plm_free(manifest->ctx, model_path);
    plm_free(manifest->ctx, aux_path);
    return rc;
}

static enum plm_code open_dir(struct plm_store *store, const char *dir, const uint64_t sizes[2],
                              open_fn *open, struct plm_segment *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_ctx *ctx = plm_store_ctx(store);
    char *model_path = NULL, *aux_path = NULL;
    const char *slash = *dir ? "/" : "";

    PLM_TRY(plm_format(ctx, &model_path, err, "%s%sindex.idx", dir, slash));
    PLM_TRY(plm_format(ctx, &aux_path, err, "%s%sauxiliary.idx", dir, slash));
    PLM_TRY(open_files(store, (const char *const[]){model_path, aux_path}, sizes, open, out, err));
done:
    plm_free(ctx, model_path);
    plm_free(ctx, aux_path);
    return rc;
}

enum plm_code plm_segment_open_dir(struct plm_store *store, const char *dir,
                                   struct plm_segment *out, struct plm_err *err)
{
    return open_dir(store, dir, (const uint64_t[]){0, 0}, plm_datafile_open, out, err);
}

enum plm_code plm_segment_open_all(struct plm_store *store, const char *dir, const uint64_t sizes[2],
                                   struct plm_segment *out, struct plm_err *err)
{
    return open_dir(store, dir, sizes, plm_datafile_open_all, out, err);
}

void plm_segment_close(struct plm_segment *segment)
{
    if (!segment)
        return;
    plm_datafile_close(segment->aux);
    plm_free(segment->ctx, segment->offsets);
    plm_free(segment->ctx, segment->lengths);
    plm_model_reset(&segment->model);
    memset(segment, 0, sizeof(*segment));
}

/* ---- reading ---------------------------------------------------------------------- */

/* Rows [first, first + n) of a transposed partition: its codes are one matrix
 * [code_bytes][length] that runs over the rows of the column, so each of its lines is cut out of
 * the (few) column rows that it touches. Result: [code_bytes][n]. */
static enum plm_code read_lines(struct plm_segment *s, uint32_t partition, uint64_t first,
                                size_t n, uint8_t *codes, uint8_t *spare,
                                struct plm_read_scratch *scratch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_column_shape shape = plm_segment_code_shape(s);
    uint64_t width = shape.items, length = s->lengths[partition];

    for (uint64_t j = 0; j < width; j++) {
        uint64_t begin = j * length + first;
        uint64_t row = begin / width, row_end = (begin + n + width - 1) / width;
        PLM_TRY(plm_datafile_read(s->aux, s->code_column, &shape, s->offsets[partition] + row,
                                  (size_t)(row_end - row), spare, NULL, scratch, err));
        memcpy(codes + j * n, spare + (begin - row * width), n);
    }
done:
    return rc;
}

enum plm_code plm_segment_read_stored(struct plm_segment *s, uint32_t partition, uint64_t first,
                                      size_t n, uint64_t *rowids, uint8_t *codes, uint8_t *spare,
                                      struct plm_read_scratch *scratch, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_column_shape shape = plm_segment_code_shape(s);

    PLM_ASSERT(partition < s->model.k);
    PLM_ASSERT(first <= s->lengths[partition] && n <= s->lengths[partition] - first);
    if (n == 0)
        return PLM_OK;
    scratch->ctx = s->ctx;
    uint64_t at = s->offsets[partition] + first;
    if (rowids)
        PLM_TRY(plm_datafile_read(s->aux, s->rowid_column, &rowid_shape, at, n, rowids, NULL,
                                  scratch, err));
    if (codes && s->pq_transposed && n < s->lengths[partition])
        PLM_TRY(read_lines(s, partition, first, n, codes, spare, scratch, err));
    else if (codes)
        PLM_TRY(plm_datafile_read(s->aux, s->code_column, &shape, at, n, codes, NULL, scratch, err));
done:
    return rc;
}
