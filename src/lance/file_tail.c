/* file_tail.c - everything of an index file that comes behind its column pages.
 *
 * Order: global buffers 1..n, the descriptor (buffer 0), column metadata, column table,
 * buffer table, footer. Buffers start at multiples of 64.
 */
#include "lance/datafile.h"

#include "lance/wire.h"

#define ALIGN 64u
#define MESSAGE_MAX ((size_t)1 << 30) /* ceiling of one metadata message */

/* Small buffers for nested messages, deepest first. */
enum { M_VALUE, M_INNER, M_OUTER, M_PAGE, M_COLUMN, M_COUNT };

struct tail {
    const struct plm_file_plan *plan;
    uint64_t at; /* file offset of out->data[start] */
    size_t start;
    struct plm_buf *out;
    struct plm_buf message[M_COUNT];
    struct plm_buf tables; /* column table, then buffer table */
};

static uint64_t here(const struct tail *t)
{
    return t->at + (t->out->len - t->start);
}

static struct plm_buf *fresh(struct tail *t, int which)
{
    t->message[which].len = 0;
    return &t->message[which];
}

static enum plm_code align_out(struct tail *t, struct plm_err *err)
{
    static const uint8_t zeros[ALIGN];
    return plm_buf_add(t->out, zeros, (size_t)((ALIGN - here(t) % ALIGN) % ALIGN), err);
}

static enum plm_code add_entry(struct plm_buf *table, uint64_t offset, uint64_t size,
                               struct plm_err *err)
{
    uint8_t entry[16];
    plm_put_le64(entry, offset);
    plm_put_le64(entry + 8, size);
    return plm_buf_add(table, entry, sizeof entry, err);
}

/* ---- encodings ------------------------------------------------------------------- */

/* parent.number = child, and child starts anew. */
static enum plm_code nest(struct plm_buf *parent, uint32_t number, struct plm_buf *child,
                          struct plm_err *err)
{
    enum plm_code rc = plm_pb_put_message(parent, number, child, err);
    child->len = 0;
    return rc;
}

/* message = {number: message}, by way of a spare buffer. */
static enum plm_code wrap(struct plm_buf *message, uint32_t number, struct plm_buf *spare,
                          struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    spare->len = 0;
    PLM_TRY(plm_pb_put_message(spare, number, message, err));
    message->len = 0;
    PLM_TRY(plm_buf_add(message, spare->data, spare->len, err));
done:
    return rc;
}

/* CompressiveEncoding: Flat {1: bits}, inside FixedSizeList {1: items, 2: values} for lists. */
static enum plm_code put_compressive(struct tail *t, const struct plm_column_shape *shape,
                                     struct plm_buf *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf *inner = fresh(t, M_INNER);

    PLM_TRY(plm_pb_put_u64(inner, 1, shape->bits, err));
    PLM_TRY(nest(out, 1, inner, err));
    if (shape->is_list) {
        PLM_TRY(plm_pb_put_u64(inner, 1, shape->items, err));
        PLM_TRY(nest(inner, 2, out, err));
        PLM_TRY(nest(out, 11, inner, err));
    }
done:
    return rc;
}

/* PageLayout {3: FullZip} of a plain array. */
static enum plm_code put_fullzip(struct tail *t, const struct plm_column_shape *shape,
                                 uint64_t n_rows, struct plm_buf *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf *zip = fresh(t, M_VALUE), *values = fresh(t, M_OUTER);
    uint64_t layer = 1; /* all valid */

    PLM_TRY(put_compressive(t, shape, values, err));
    PLM_TRY(plm_pb_put_u64(zip, 3, (uint64_t)shape->items * shape->bits, err));
    PLM_TRY(plm_pb_put_u64(zip, 5, n_rows, err));
    PLM_TRY(plm_pb_put_u64(zip, 6, n_rows, err));
    PLM_TRY(plm_pb_put_message(zip, 7, values, err));
    PLM_TRY(plm_pb_put_packed(zip, 8, &layer, 1, err));
    PLM_TRY(nest(out, 3, zip, err));
done:
    return rc;
}

/* message = ArrayEncoding {2: Nullable {1: no_nulls {1: message}}}. */
static enum plm_code wrap_no_nulls(struct plm_buf *message, struct plm_buf *spare,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    PLM_TRY(wrap(message, 1, spare, err));
    PLM_TRY(wrap(message, 1, spare, err));
    PLM_TRY(wrap(message, 2, spare, err));
done:
    return rc;
}

/* ArrayEncoding: Nullable(Flat), or Nullable(FixedSizeList(Nullable(Flat))); page buffer 0. */
static enum plm_code put_array(struct tail *t, const struct plm_column_shape *shape,
                               struct plm_buf *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf *spare = fresh(t, M_INNER), *nothing = fresh(t, M_OUTER);

    PLM_TRY(plm_pb_put_u64(out, 1, shape->bits, err));
    PLM_TRY(plm_pb_put_message(out, 2, nothing, err)); /* Buffer {}: index 0 of the page */
    PLM_TRY(wrap(out, 1, spare, err));
    PLM_TRY(wrap_no_nulls(out, spare, err));
    if (shape->is_list) {
        spare->len = 0;
        PLM_TRY(plm_pb_put_u64(spare, 1, shape->items, err));
        PLM_TRY(plm_pb_put_message(spare, 2, out, err));
        out->len = 0;
        PLM_TRY(nest(out, 3, spare, err));
        PLM_TRY(wrap_no_nulls(out, spare, err));
    }
done:
    return rc;
}

/* message = Encoding {2: direct {1: Any {1: url, 2: message}}}. */
static enum plm_code wrap_any(struct plm_buf *message, struct plm_buf *spare, const char *url,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    spare->len = 0;
    PLM_TRY(plm_pb_put_str(spare, 1, url, err));
    PLM_TRY(plm_pb_put_message(spare, 2, message, err));
    message->len = 0;
    PLM_TRY(nest(message, 1, spare, err));
    PLM_TRY(wrap(message, 2, spare, err));
done:
    return rc;
}

/* ---- columns --------------------------------------------------------------------- */

/* Page: 1 offsets, 2 sizes, 3 rows, 4 Encoding, 5 first row. */
static enum plm_code put_page(struct tail *t, const struct plm_column_plan *column,
                              const struct plm_page_plan *plan, uint64_t first_row,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf *page = fresh(t, M_PAGE), *encoding = fresh(t, M_COLUMN);

    if (t->plan->minor == 0)
        PLM_TRY(put_array(t, &column->shape, encoding, err));
    else
        PLM_TRY(put_fullzip(t, &column->shape, plan->n_rows, encoding, err));
    PLM_TRY(wrap_any(encoding, fresh(t, M_INNER),
                     t->plan->minor == 0 ? "/lance.encodings.ArrayEncoding"
                                         : "/lance.encodings21.PageLayout",
                     err));
    PLM_TRY(plm_pb_put_packed(page, 1, &plan->offset, 1, err));
    PLM_TRY(plm_pb_put_packed(page, 2, &plan->size_bytes, 1, err));
    PLM_TRY(plm_pb_put_u64(page, 3, plan->n_rows, err));
    PLM_TRY(plm_pb_put_message(page, 4, encoding, err));
    if (first_row > 0)
        PLM_TRY(plm_pb_put_u64(page, 5, first_row, err));
    PLM_TRY(plm_pb_put_message(t->out, 2, page, err));
done:
    return rc;
}

/* ColumnMetadata: 1 Encoding {ColumnEncoding {1: values}}, 2 pages. */
static enum plm_code put_column(struct tail *t, const struct plm_column_plan *column,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf *encoding = fresh(t, M_COLUMN);
    uint64_t begin = here(t), first_row = 0;

    PLM_TRY(plm_pb_put_message(encoding, 1, fresh(t, M_VALUE), err));
    PLM_TRY(wrap_any(encoding, fresh(t, M_INNER), "/lance.encodings.ColumnEncoding", err));
    PLM_TRY(plm_pb_put_message(t->out, 1, encoding, err));
    for (size_t i = 0; i < column->n_pages; i++) {
        PLM_TRY(put_page(t, column, &column->pages[i], first_row, err));
        first_row += column->pages[i].n_rows;
    }
    PLM_TRY(add_entry(&t->tables, begin, here(t) - begin, err));
done:
    return rc;
}

/* ---- descriptor ------------------------------------------------------------------ */

/* Field: 2 name, 3 id, 4 parent -1, 5 logical type, 6 nullable, 7 encoding 1. */
static enum plm_code put_field(struct plm_buf *schema, struct plm_buf *field,
                               const struct plm_column_plan *column, size_t id,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_pb_put_str(field, 2, column->name, err));
    if (id > 0)
        PLM_TRY(plm_pb_put_u64(field, 3, id, err));
    PLM_TRY(plm_pb_put_u64(field, 4, UINT64_MAX, err)); /* -1, sign-extended */
    PLM_TRY(plm_pb_put_str(field, 5, column->logical_type, err));
    if (column->nullable)
        PLM_TRY(plm_pb_put_u64(field, 6, 1, err));
    PLM_TRY(plm_pb_put_u64(field, 7, 1, err));
    PLM_TRY(nest(schema, 1, field, err));
done:
    return rc;
}

/* FileDescriptor: 1 Schema {1 fields, 5 metadata}, 2 rows. */
static enum plm_code put_descriptor(struct tail *t, struct plm_buf *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_file_plan *plan = t->plan;
    struct plm_buf *schema = fresh(t, M_OUTER);

    for (size_t i = 0; i < plan->n_columns; i++)
        PLM_TRY(put_field(schema, fresh(t, M_INNER), &plan->columns[i], i, err));
    for (const char *const *m = plan->metadata; m && m[0]; m += 2)
        PLM_TRY(plm_pb_put_map(schema, 5, m[0], m[1], strlen(m[1]), err));
    PLM_TRY(plm_pb_put_message(out, 1, schema, err));
    if (plan->n_rows > 0)
        PLM_TRY(plm_pb_put_u64(out, 2, plan->n_rows, err));
done:
    return rc;
}

/* ---- the tail -------------------------------------------------------------------- */

static enum plm_code put_buffers(struct tail *t, struct plm_buf *table, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_file_plan *plan = t->plan;
    struct plm_buf *descriptor = fresh(t, M_VALUE);

    PLM_TRY(add_entry(table, 0, 0, err)); /* the descriptor's, known below */
    for (size_t i = 0; i < plan->n_buffers; i++) {
        PLM_TRY(align_out(t, err));
        PLM_TRY(add_entry(table, here(t), plan->buffers[i].len, err));
        PLM_TRY(plm_buf_add(t->out, plan->buffers[i].data, plan->buffers[i].len, err));
    }
    PLM_TRY(put_descriptor(t, descriptor, err));
    PLM_TRY(align_out(t, err));
    plm_put_le64(table->data, here(t));
    plm_put_le64(table->data + 8, descriptor->len);
    PLM_TRY(plm_buf_add(t->out, descriptor->data, descriptor->len, err));
done:
    return rc;
}

/* 40 bytes: places of metadata and tables, counts, version, magic. */
static enum plm_code put_footer(struct tail *t, uint64_t columns_at, uint64_t tables_at,
                                struct plm_err *err)
{
    const struct plm_file_plan *plan = t->plan;
    uint8_t footer[40];

    plm_put_le64(footer, columns_at);
    plm_put_le64(footer + 8, tables_at);
    plm_put_le64(footer + 16, tables_at + 16 * (uint64_t)plan->n_columns);
    plm_put_le32(footer + 24, (uint32_t)plan->n_buffers + 1);
    plm_put_le32(footer + 28, (uint32_t)plan->n_columns);
    plm_put_le16(footer + 32, plan->minor == 0 ? 0 : 2);
    plm_put_le16(footer + 34, plan->minor == 0 ? 3 : (uint16_t)plan->minor);
    memcpy(footer + 36, "LANC", 4);
    return plm_buf_add(t->out, footer, sizeof footer, err);
}

static enum plm_code check_plan(const struct plm_file_plan *plan, struct plm_err *err)
{
    if (plan->major != 2 || plan->minor > 2)
        return plm_fail(err, PLM_ARG, "Lance files of version %" PRIu32 ".%" PRIu32, plan->major,
                        plan->minor);
    if (plan->n_columns > UINT32_MAX || plan->n_buffers >= UINT32_MAX)
        return plm_fail(err, PLM_ARG, "a file of %zu columns and %zu buffers", plan->n_columns,
                        plan->n_buffers);
    for (size_t i = 0; i < plan->n_columns; i++)
        for (size_t k = 0; k < plan->columns[i].n_pages; k++)
            if (plan->columns[i].pages[k].n_rows > UINT32_MAX) /* num_items is a u32 */
                return plm_fail(err, PLM_ARG, "a page of %" PRIu64 " rows",
                                plan->columns[i].pages[k].n_rows);
    return PLM_OK;
}

enum plm_code plm_file_tail(const struct plm_file_plan *plan, uint64_t tail_at,
                            struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf buffer_table = {0};
    struct tail t = {.plan = plan, .at = tail_at, .start = buf->len, .out = buf};

    for (int i = 0; i < M_COUNT; i++)
        plm_buf_init(&t.message[i], buf->ctx, MESSAGE_MAX);
    plm_buf_init(&t.tables, buf->ctx, MESSAGE_MAX);
    plm_buf_init(&buffer_table, buf->ctx, MESSAGE_MAX);

    PLM_TRY(check_plan(plan, err));
    PLM_TRY(put_buffers(&t, &buffer_table, err));
    uint64_t columns_at = here(&t);
    for (size_t i = 0; i < plan->n_columns; i++)
        PLM_TRY(put_column(&t, &plan->columns[i], err));
    uint64_t tables_at = here(&t);
    PLM_TRY(plm_buf_add(buf, t.tables.data, t.tables.len, err));
    PLM_TRY(plm_buf_add(buf, buffer_table.data, buffer_table.len, err));
    PLM_TRY(put_footer(&t, columns_at, tables_at, err));
done:
    if (rc != PLM_OK)
        buf->len = t.start;
    for (int i = 0; i < M_COUNT; i++)
        plm_buf_reset(&t.message[i]);
    plm_buf_reset(&t.tables);
    plm_buf_reset(&buffer_table);
    return rc;
}
