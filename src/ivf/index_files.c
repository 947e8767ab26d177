/* index_files.c - index.idx, and everything behind the pages of auxiliary.idx.
 *
 * Both are made in memory: at most the centroids and 12 bytes a partition, a few times over. */
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "ivf/ivf_format.h"
#include "rows/half.h"

#define FILE_BYTES_MAX ((size_t)64 << 30) /* ceiling of the buffers; the budget is the limit */

static uint64_t tensor_type(enum plm_element element)
{
    return element == PLM_F16 ? 1 : element == PLM_F32 ? 2 : 3;
}

static size_t varint_bytes(uint64_t value)
{
    size_t n = 1;
    while (value >= 0x80) {
        value >>= 7;
        n++;
    }
    return n;
}

static enum plm_code put_varint(struct plm_buf *buf, uint64_t value, struct plm_err *err)
{
    uint8_t bytes[10];
    size_t n = 0;

    do {
        bytes[n++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value);
    return plm_buf_add(buf, bytes, n, err);
}

/* n values in the element type, in small steps to keep the copy small. */
static enum plm_code put_values(struct plm_buf *buf, const float *values, size_t n,
                                enum plm_element element, struct plm_err *err)
{
    uint8_t bytes[4096];
    size_t each = plm_element_bytes(element), step = sizeof(bytes) / each;

    for (size_t at = 0; at < n; at += step) {
        size_t m = plm_min_size(step, n - at);
        for (size_t i = 0; i < m; i++) {
            float value = values[at + i];
            if (element == PLM_F16) {
                plm_put_le16(bytes + 2 * i, plm_f16_from_f32(value));
            } else if (element == PLM_F32) {
                uint32_t bits;
                memcpy(&bits, &value, 4);
                plm_put_le32(bytes + 4 * i, bits);
            } else {
                double wide = value;
                uint64_t bits;
                memcpy(&bits, &wide, 8);
                plm_put_le64(bytes + 8 * i, bits);
            }
        }
        enum plm_code rc = plm_buf_add(buf, bytes, m * each, err);
        if (rc != PLM_OK)
            return rc;
    }
    return PLM_OK;
}

/* Fields of a Tensor [rows, columns] appended to buf; as field `number` of the message in buf
 * unless that is 0. The size is worked out first, so that the values are copied once. */
static enum plm_code put_tensor(struct plm_buf *buf, uint32_t number, const float *values,
                                uint64_t rows, uint64_t columns, enum plm_element element,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n = (size_t)(rows * columns), bytes = n * plm_element_bytes(element);
    uint64_t shape[2] = {rows, columns};
    struct plm_buf head;

    plm_buf_init(&head, buf->ctx, 256);
    PLM_TRY(plm_pb_put_u64(&head, 1, tensor_type(element), err));
    PLM_TRY(plm_pb_put_packed(&head, 2, shape, 2, err));
    if (number) {
        PLM_TRY(put_varint(buf, (uint64_t)number << 3 | 2, err));
        PLM_TRY(put_varint(buf, head.len + 1 + varint_bytes(bytes) + bytes, err));
    }
    PLM_TRY(plm_buf_add(buf, head.data, head.len, err));
    PLM_TRY(plm_buf_reserve(buf, 11 + bytes, err));
    PLM_TRY(put_varint(buf, 3 << 3 | 2, err));
    PLM_TRY(put_varint(buf, bytes, err));
    PLM_TRY(put_values(buf, values, n, element, err));
done:
    plm_buf_reset(&head);
    return rc;
}

/* Offsets and lengths of K partitions; lengths NULL = all zero. */
static enum plm_code put_partitions(struct plm_buf *buf, const uint32_t *lengths, uint32_t k,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t *values = NULL, at = 0;

    PLM_TRY(plm_calloc(buf->ctx, &values, k, sizeof(uint64_t), err));
    for (uint32_t i = 0; lengths && i < k; i++) {
        values[i] = at;
        at += lengths[i];
    }
    PLM_TRY(plm_pb_put_packed(buf, 2, values, k, err));
    for (uint32_t i = 0; lengths && i < k; i++)
        values[i] = lengths[i];
    PLM_TRY(plm_pb_put_packed(buf, 3, values, k, err));
done:
    plm_free(buf->ctx, values);
    return rc;
}

/* ---- storage metadata ------------------------------------------------------------ */

/* The shortest decimal that reads back as the same double, with a point in every locale. */
static void double_text(double value, char out[40])
{
    char point = localeconv()->decimal_point[0];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, 36, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            break;
    }
    for (char *p = out; *p; p++)
        if (*p == point)
            *p = '.';
    if (!strpbrk(out, ".en"))
        strcat(out, ".0");
}

/* The inner JSON holds no character to escape but the quotes. */
static enum plm_code storage_metadata(const struct plm_model *m, char **out, struct plm_err *err)
{
    char lo[40], hi[40];

    switch (m->quantizer) {
    case PLM_FLAT:
        return plm_format(m->ctx, out, err, "[\"{\\\"dim\\\":%" PRIu32 "}\"]", m->dim);
    case PLM_SQ:
        double_text(m->sq.lo, lo);
        double_text(m->sq.hi, hi);
        return plm_format(m->ctx, out, err,
                          "[\"{\\\"dim\\\":%" PRIu32 ",\\\"num_bits\\\":8,\\\"bounds\\\":"
                          "{\\\"start\\\":%s,\\\"end\\\":%s}}\"]", m->dim, lo, hi);
    case PLM_PQ:
        return plm_format(m->ctx, out, err,
                          "[\"{\\\"codebook_position\\\":2,\\\"nbits\\\":%" PRIu32
                          ",\\\"num_sub_vectors\\\":%" PRIu32 ",\\\"dimension\\\":%" PRIu32
                          ",\\\"codebook_tensor\\\":[],\\\"transposed\\\":true}\"]",
                          m->pq.n_bits, m->pq.m, m->dim);
    }
    return plm_fail(err, PLM_BUG, "storage metadata of quantizer %d", (int)m->quantizer);
}

/* ---- auxiliary.idx ------------------------------------------------------------------ */

struct aux_pages {
    struct plm_page_plan *rowids, *codes;
};

static enum plm_code plan_pages(const struct plm_model *model, const struct plm_layout *layout,
                                struct aux_pages *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct aux_pages pages = {0};
    size_t n = (size_t)layout->n_blocks;

    PLM_TRY(plm_alloc(model->ctx, &pages.rowids, n, sizeof(*pages.rowids), err));
    PLM_TRY(plm_alloc(model->ctx, &pages.codes, n, sizeof(*pages.codes), err));
    for (size_t i = 0; i < n; i++) {
        uint64_t rows = plm_layout_block_rows(layout, i);
        pages.rowids[i] = (struct plm_page_plan){plm_layout_rowid_at(layout, i), rows * 8, rows};
        pages.codes[i] =
            (struct plm_page_plan){plm_layout_code_at(layout, i), rows * layout->code_bytes, rows};
    }
    *out = pages;
    return PLM_OK;
done:
    plm_free(model->ctx, pages.rowids);
    return rc;
}

static struct plm_column_plan code_column(const struct plm_model *model, uint32_t code_bytes,
                                          const char *type)
{
    bool is_flat = model->quantizer == PLM_FLAT;
    uint32_t items = is_flat ? model->dim : code_bytes;
    uint32_t bits = is_flat ? (uint32_t)plm_element_bytes(model->element) * 8 : 8;

    return (struct plm_column_plan){.name = plm_code_column(model->quantizer),
                                    .logical_type = type,
                                    .nullable = !is_flat,
                                    .shape = {items, bits, true}};
}

static enum plm_code aux_file(const struct plm_model *model, const struct plm_layout *layout,
                              const struct aux_pages *pages, const struct plm_view buffers[2],
                              const char *storage, uint32_t major, uint32_t minor,
                              struct plm_buf *buf, struct plm_err *err)
{
    bool is_flat = model->quantizer == PLM_FLAT;
    struct plm_type_name type = plm_list_type(is_flat ? model->element : PLM_U8,
                                              is_flat ? model->dim : layout->code_bytes);
    struct plm_column_plan columns[2] = {
        {.name = PLM_COLUMN_ROWID, .logical_type = "uint64", .nullable = true, .shape = {1, 64, false}},
        code_column(model, layout->code_bytes, type.text),
    };
    const char *metadata[] = {"distance_type", plm_metric_name(model->metric),
                              "lance:ivf", "1", "storage_metadata", storage, NULL};
    struct plm_file_plan plan = {.major = major, .minor = minor, .columns = columns, .n_columns = 2,
                                 .n_rows = layout->n_rows, .buffers = buffers,
                                 .n_buffers = model->quantizer == PLM_PQ ? 2 : 1,
                                 .metadata = metadata};

    columns[0].pages = pages->rowids;
    columns[1].pages = pages->codes;
    columns[0].n_pages = columns[1].n_pages = (size_t)layout->n_blocks;
    return plm_file_tail(&plan, plm_layout_end(layout), buf, err);
}

enum plm_code plm_index_aux_tail(const struct plm_model *model, const struct plm_layout *layout,
                                 const uint32_t *lengths, uint32_t file_major, uint32_t file_minor,
                                 struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf ivf, codebook;
    struct aux_pages pages = {0};
    struct plm_view buffers[2];
    char *storage = NULL;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < model->k; i++)
        sum += lengths[i];
    if (sum != layout->n_rows)
        return plm_fail(err, PLM_BUG, "index: partitions hold %" PRIu64 " rows, the layout %" PRIu64,
                        sum, layout->n_rows);
    plm_buf_init(&ivf, model->ctx, FILE_BYTES_MAX);
    plm_buf_init(&codebook, model->ctx, FILE_BYTES_MAX);
    PLM_TRY(put_partitions(&ivf, lengths, model->k, err));
    if (model->quantizer == PLM_PQ)
        PLM_TRY(put_tensor(&codebook, 0, model->pq.codebook, plm_pq_n_codes(&model->pq),
                           model->dim, model->element, err));
    PLM_TRY(storage_metadata(model, &storage, err));
    PLM_TRY(plan_pages(model, layout, &pages, err));
    buffers[0] = (struct plm_view){ivf.data, ivf.len};
    buffers[1] = (struct plm_view){codebook.data, codebook.len};
    PLM_TRY(aux_file(model, layout, &pages, buffers, storage, file_major, file_minor, buf, err));
done:
    plm_free(model->ctx, pages.rowids);
    plm_free(model->ctx, pages.codes);
    plm_free(model->ctx, storage);
    plm_buf_reset(&codebook);
    plm_buf_reset(&ivf);
    return rc;
}

/* ---- index.idx ---------------------------------------------------------------------- */

/* `["","",...]`: one empty string for each partition. */
static enum plm_code sub_index_json(const struct plm_model *model, struct plm_buf *buf,
                                    struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_buf_reserve(buf, (size_t)model->k * 3 + 3, err));
    PLM_TRY(plm_buf_add(buf, "[", 1, err));
    for (uint32_t i = 0; i < model->k; i++)
        PLM_TRY(i ? plm_buf_add(buf, ",\"\"", 3, err) : plm_buf_add(buf, "\"\"", 2, err));
    PLM_TRY(plm_buf_add(buf, "]", 2, err)); /* with the NUL */
done:
    return rc;
}

static enum plm_code main_message(const struct plm_model *model, double loss, struct plm_buf *ivf,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    /* Room for all of it: a buffer that grows takes twice its size. */
    PLM_TRY(plm_buf_reserve(ivf, (size_t)model->k * (2 + model->dim * plm_element_bytes(model->element)) + 4096, err));
    PLM_TRY(put_partitions(ivf, NULL, model->k, err));
    PLM_TRY(put_tensor(ivf, 4, model->centroids, model->k, model->dim, model->element, err));
    PLM_TRY(plm_pb_put_f64(ivf, 5, loss, err));
done:
    return rc;
}

enum plm_code plm_index_main(const struct plm_model *model, double loss, uint32_t file_major,
                             uint32_t file_minor, struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf ivf, flat;
    char kind[80];
    struct plm_view buffer;
    struct plm_column_plan column = {
        .name = "__flat_marker", .logical_type = "uint64", .shape = {1, 64, false}};

    plm_buf_init(&ivf, model->ctx, FILE_BYTES_MAX);
    plm_buf_init(&flat, model->ctx, FILE_BYTES_MAX);
    PLM_TRY(main_message(model, loss, &ivf, err));
    PLM_TRY(sub_index_json(model, &flat, err));
    snprintf(kind, sizeof(kind), "{\"type\":\"%s\",\"distance_type\":\"%s\"}",
             plm_quantizer_type(model->quantizer), plm_metric_name(model->metric));
    buffer = (struct plm_view){ivf.data, ivf.len};
    PLM_TRY(plm_buf_reserve(buf, ivf.len + 2 * flat.len + 65536, err));

    const char *metadata[] = {"lance:index", kind, "lance:ivf", "1",
                              "lance:flat", (const char *)flat.data, NULL};
    struct plm_file_plan plan = {.major = file_major, .minor = file_minor, .columns = &column,
                                 .n_columns = 1, .buffers = &buffer, .n_buffers = 1,
                                 .metadata = metadata};
    PLM_TRY(plm_file_tail(&plan, 0, buf, err));
done:
    plm_buf_reset(&flat);
    plm_buf_reset(&ivf);
    return rc;
}
