/* arrow_ipc.c - read one uint32 column of an Arrow IPC file.
 *
 *   "ARROW1" + 2 bytes, messages, footer (a flatbuffer), i32 footer length, "ARROW1"
 *   message = u32 0xffffffff, i32 length, flatbuffer, padding, body
 *
 * The footer holds the schema and where each record batch is. A flatbuffer is a table of
 * fields behind a u32 offset; a table begins with the signed distance back to its vtable
 * (u16 vtable bytes, u16 table bytes, u16 offset of each field, 0 = absent).
 */
#include "lance/arrow_ipc.h"
#include "lance/wire.h"

#include <zstd.h>

#define MAGIC "ARROW1"
#define MAGIC_BYTES 6u
#define CONTINUATION 0xffffffffu
#define BLOCK_BYTES 24u /* i64 offset, i32 metadata bytes, 4 padding, i64 body bytes */
#define PAIR_BYTES 16u  /* two i64: a FieldNode, a Buffer */
#define SLACK_BYTES 64u /* a buffer may be padded to this much */

enum { HEADER_RECORD_BATCH = 3, TYPE_INT = 2, CODEC_LZ4 = 0, CODEC_ZSTD = 1 };

/* Numbers of the fields in their tables, as in Arrow's schemas. */
enum { FOOTER_SCHEMA = 1, FOOTER_BATCHES = 3 };
enum { SCHEMA_ENDIANNESS = 0, SCHEMA_FIELDS = 1 };
enum { FIELD_TYPE_TYPE = 2, FIELD_TYPE = 3, FIELD_DICTIONARY = 4, INT_BITS = 0, INT_SIGNED = 1 };
enum { MESSAGE_HEADER_TYPE = 1, MESSAGE_HEADER = 2 };
enum { BATCH_LENGTH = 0, BATCH_NODES = 1, BATCH_BUFFERS = 2, BATCH_COMPRESSION = 3 };
enum { COMPRESSION_CODEC = 0, COMPRESSION_METHOD = 1 };

/* ---- flatbuffers, bounded ----------------------------------------------------------- */

struct flat {
    const uint8_t *data;
    size_t len, base; /* base: offset in the file, for messages */
};
struct flat_table {
    size_t at, bytes;           /* the table */
    size_t vtable, vtable_bytes;
};
struct flat_vector {
    size_t at, n;
};

static enum plm_code fail_at(const struct flat *f, size_t at, struct plm_err *err,
                             const char *what)
{
    return plm_fail(err, PLM_CORRUPT, "Arrow file: %s at byte %zu", what, f->base + at);
}

static bool fits(const struct flat *f, size_t at, size_t n)
{
    return at <= f->len && n <= f->len - at;
}

/* Where the u32 at `at` points, with n bytes there. */
static enum plm_code follow(const struct flat *f, size_t at, size_t n, size_t *to,
                            struct plm_err *err)
{
    if (!fits(f, at, 4))
        return fail_at(f, at, err, "offset cut short");

    size_t target = at + plm_le32(f->data + at);

    if (!fits(f, target, n))
        return fail_at(f, at, err, "offset leads outside");
    *to = target;
    return PLM_OK;
}

static enum plm_code open_table(const struct flat *f, size_t at, struct flat_table *out,
                                struct plm_err *err)
{
    struct flat_table t = {0};
    enum plm_code rc = follow(f, at, 4, &t.at, err);

    if (rc)
        return rc;

    int64_t vtable = (int64_t)t.at - (int32_t)plm_le32(f->data + t.at);

    if (vtable < 0 || !fits(f, (size_t)vtable, 4))
        return fail_at(f, t.at, err, "vtable outside");
    t.vtable = (size_t)vtable;
    t.vtable_bytes = plm_le16(f->data + t.vtable);
    t.bytes = plm_le16(f->data + t.vtable + 2);
    if (t.vtable_bytes < 4 || t.vtable_bytes % 2 != 0 || !fits(f, t.vtable, t.vtable_bytes) ||
        t.bytes < 4 || !fits(f, t.at, t.bytes))
        return fail_at(f, t.vtable, err, "vtable or table of impossible size");
    *out = t;
    return PLM_OK;
}

/* Where field `number` of n bytes is; 0 = absent (a table never begins at 0). */
static enum plm_code find_field(const struct flat *f, const struct flat_table *t, unsigned number,
                                size_t n, size_t *at, struct plm_err *err)
{
    size_t slot = 4 + 2 * (size_t)number;
    size_t off = slot + 2 <= t->vtable_bytes ? plm_le16(f->data + t->vtable + slot) : 0;

    if (off != 0 && (off < 4 || off > t->bytes || n > t->bytes - off))
        return fail_at(f, t->vtable + slot, err, "field outside its table");
    *at = off ? t->at + off : 0;
    return PLM_OK;
}

/* A scalar of 1, 2, 4 or 8 bytes, 0 when absent. */
static enum plm_code scalar(const struct flat *f, const struct flat_table *t, unsigned number,
                            size_t n, uint64_t *value, struct plm_err *err)
{
    size_t at = 0;
    enum plm_code rc = find_field(f, t, number, n, &at, err);
    uint64_t v = 0;

    for (size_t i = 0; rc == PLM_OK && at && i < n; i++)
        v |= (uint64_t)f->data[at + i] << 8 * i;
    if (rc == PLM_OK)
        *value = v;
    return rc;
}

/* A table in a field; *there says whether it is present. */
static enum plm_code sub_table(const struct flat *f, const struct flat_table *t, unsigned number,
                               struct flat_table *out, bool *there, struct plm_err *err)
{
    size_t at = 0;
    enum plm_code rc = find_field(f, t, number, 4, &at, err);

    if (rc)
        return rc;
    *there = at != 0;
    return at ? open_table(f, at, out, err) : PLM_OK;
}

/* A vector of items of `each` bytes, empty when absent. */
static enum plm_code vector(const struct flat *f, const struct flat_table *t, unsigned number,
                            size_t each, struct flat_vector *out, struct plm_err *err)
{
    struct flat_vector v = {0};
    size_t at = 0;
    enum plm_code rc = find_field(f, t, number, 4, &at, err);

    if (rc == PLM_OK && at) {
        rc = follow(f, at, 4, &v.at, err);
        if (rc)
            return rc;
        v.n = plm_le32(f->data + v.at);
        v.at += 4;
        if (v.n > (f->len - v.at) / each)
            return fail_at(f, v.at - 4, err, "vector longer than the file");
    }
    if (rc == PLM_OK)
        *out = v;
    return rc;
}

/* ---- the file ----------------------------------------------------------------------- */

/* The schema must be one column of unsigned 32-bit integers, little-endian. */
static enum plm_code check_schema(const struct flat *f, const struct flat_table *footer,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct flat_table schema, field, type, dictionary;
    struct flat_vector fields;
    bool has_schema = false, has_type = false, has_dictionary = false;
    uint64_t endianness, kind, bits, is_signed;

    PLM_TRY(sub_table(f, footer, FOOTER_SCHEMA, &schema, &has_schema, err));
    if (!has_schema)
        PLM_TRY(fail_at(f, footer->at, err, "footer without a schema"));
    PLM_TRY(scalar(f, &schema, SCHEMA_ENDIANNESS, 2, &endianness, err));
    PLM_TRY(vector(f, &schema, SCHEMA_FIELDS, 4, &fields, err));
    if (endianness != 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: big-endian data"));
    if (fields.n != 1)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: %zu columns, expected 1", fields.n));
    PLM_TRY(open_table(f, fields.at, &field, err));
    PLM_TRY(scalar(f, &field, FIELD_TYPE_TYPE, 1, &kind, err));
    PLM_TRY(sub_table(f, &field, FIELD_TYPE, &type, &has_type, err));
    PLM_TRY(sub_table(f, &field, FIELD_DICTIONARY, &dictionary, &has_dictionary, err));
    if (kind != TYPE_INT || !has_type || has_dictionary)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: column of %stype %" PRIu64
                         ", expected plain uint32", has_dictionary ? "dictionary " : "", kind));
    PLM_TRY(scalar(f, &type, INT_BITS, 4, &bits, err));
    PLM_TRY(scalar(f, &type, INT_SIGNED, 1, &is_signed, err));
    if (bits != 32 || is_signed)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: column of %s%" PRIu64
                         ", expected uint32", is_signed ? "int" : "uint", bits));
done:
    return rc;
}

/* The footer's flatbuffer and the bytes before it, where the messages are. */
static enum plm_code find_footer(struct plm_view file, struct flat *footer, struct plm_err *err)
{
    const struct flat whole = {file.data, file.len, 0};

    if (file.len < 8 + 4 + MAGIC_BYTES || memcmp(file.data, MAGIC, MAGIC_BYTES) != 0)
        return fail_at(&whole, 0, err, "no \"" MAGIC "\"");

    size_t end = file.len - MAGIC_BYTES - 4;

    if (memcmp(file.data + end + 4, MAGIC, MAGIC_BYTES) != 0)
        return fail_at(&whole, end + 4, err, "no closing \"" MAGIC "\"");

    size_t n = plm_le32(file.data + end);

    if (n > end - 8)
        return fail_at(&whole, end, err, "footer longer than the file");
    *footer = (struct flat){file.data + end - n, n, end - n};
    return PLM_OK;
}

/* One record batch: its flatbuffer, its body, its rows. */
struct batch {
    struct flat meta;
    struct plm_view body;
    size_t body_base; /* offset in the file, for messages */
    struct flat_table table;
    size_t n_rows;
    bool is_zstd;
};

static enum plm_code frame_batch(struct plm_view file, const struct flat *footer, size_t block,
                                 struct batch *out, struct plm_err *err)
{
    const struct flat room = {file.data, footer->base, 0}; /* messages end where the footer begins */
    uint64_t offset = plm_le64(footer->data + block);
    uint32_t meta_bytes = plm_le32(footer->data + block + 8);
    uint64_t body_bytes = plm_le64(footer->data + block + 16);

    if (offset > room.len || meta_bytes > room.len - offset || meta_bytes < 8 ||
        body_bytes > room.len - offset - meta_bytes)
        return fail_at(footer, block, err, "record batch outside the file");
    if (plm_le32(file.data + offset) != CONTINUATION)
        return plm_fail(err, PLM_UNSUPPORTED,
                        "Arrow file: record batch at byte %" PRIu64 " without continuation mark",
                        offset);
    if (plm_le32(file.data + offset + 4) > meta_bytes - 8)
        return fail_at(&room, (size_t)offset + 4, err, "message longer than its block");
    out->meta = (struct flat){file.data + offset + 8, plm_le32(file.data + offset + 4),
                              (size_t)offset + 8};
    out->body_base = (size_t)(offset + meta_bytes);
    out->body = (struct plm_view){file.data + out->body_base, (size_t)body_bytes};
    return PLM_OK;
}

static enum plm_code check_compression(struct batch *b, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct flat_table compression;
    uint64_t codec = 0, method = 0;
    bool there = false;

    PLM_TRY(sub_table(&b->meta, &b->table, BATCH_COMPRESSION, &compression, &there, err));
    if (there) {
        PLM_TRY(scalar(&b->meta, &compression, COMPRESSION_CODEC, 1, &codec, err));
        PLM_TRY(scalar(&b->meta, &compression, COMPRESSION_METHOD, 1, &method, err));
        if (codec == CODEC_LZ4)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: LZ4 compression, expected ZSTD"));
        if (codec != CODEC_ZSTD || method != 0)
            PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "Arrow file: compression %" PRIu64
                             " by method %" PRIu64 ", expected ZSTD by buffer", codec, method));
    }
    b->is_zstd = there;
done:
    return rc;
}

static enum plm_code open_batch(struct plm_view file, const struct flat *footer, size_t block,
                                struct batch *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct batch b = {0};
    struct flat_table message;
    struct flat_vector nodes;
    uint64_t kind, n_rows;
    bool there = false;

    PLM_TRY(frame_batch(file, footer, block, &b, err));
    PLM_TRY(open_table(&b.meta, 0, &message, err));
    PLM_TRY(scalar(&b.meta, &message, MESSAGE_HEADER_TYPE, 1, &kind, err));
    PLM_TRY(sub_table(&b.meta, &message, MESSAGE_HEADER, &b.table, &there, err));
    if (kind != HEADER_RECORD_BATCH || !there)
        PLM_TRY(fail_at(&b.meta, message.at, err, "message is no record batch"));
    PLM_TRY(scalar(&b.meta, &b.table, BATCH_LENGTH, 8, &n_rows, err));
    PLM_TRY(vector(&b.meta, &b.table, BATCH_NODES, PAIR_BYTES, &nodes, err));
    if (nodes.n != 1 || plm_le64(b.meta.data + nodes.at) != n_rows)
        PLM_TRY(fail_at(&b.meta, b.table.at, err, "record batch and column differ in length"));
    if (plm_le64(b.meta.data + nodes.at + 8) != 0)
        PLM_TRY(fail_at(&b.meta, nodes.at + 8, err, "nulls in the column"));
    if (n_rows > UINT32_MAX)
        PLM_TRY(fail_at(&b.meta, b.table.at, err, "record batch of more than 2^32 rows"));
    b.n_rows = (size_t)n_rows;
    PLM_TRY(check_compression(&b, err));
    *out = b;
done:
    return rc;
}

/* ZSTD: i64 length once decompressed (-1 = stored as it is), then the frame. */
static enum plm_code decompress(struct plm_ctx *ctx, const struct batch *b, struct plm_view stored,
                                size_t want, uint32_t *to, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint8_t *plain = NULL;
    const struct flat at = {stored.data, stored.len, (size_t)(stored.data - b->body.data) +
                                                         b->body_base};
    uint64_t n = stored.len >= 8 ? plm_le64(stored.data) : 0;

    if (stored.len < 8)
        return fail_at(&at, 0, err, "compressed buffer cut short");
    if (n == UINT64_MAX) {
        if (stored.len - 8 < want)
            return fail_at(&at, 8, err, "buffer shorter than its rows");
        memcpy(to, stored.data + 8, want);
        return PLM_OK;
    }
    if (n < want || n - want >= SLACK_BYTES)
        return fail_at(&at, 0, err, "decompressed length does not fit the rows");
    PLM_TRY(plm_alloc(ctx, &plain, (size_t)n, 1, err));

    size_t got = ZSTD_decompress(plain, (size_t)n, stored.data + 8, stored.len - 8);

    if (ZSTD_isError(got))
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "Arrow file: ZSTD at byte %zu: %s", at.base + 8,
                         ZSTD_getErrorName(got)));
    if (got != n)
        PLM_TRY(fail_at(&at, 0, err, "ZSTD gave fewer bytes than promised"));
    memcpy(to, plain, want);
done:
    plm_free(ctx, plain);
    return rc;
}

/* Buffer 0 is the validity, which says nothing without nulls; buffer 1 is the values. */
static enum plm_code read_batch(struct plm_ctx *ctx, const struct batch *b, uint32_t *to,
                                struct plm_err *err)
{
    struct flat_vector buffers;
    size_t want = b->n_rows * sizeof *to;
    enum plm_code rc = vector(&b->meta, &b->table, BATCH_BUFFERS, PAIR_BYTES, &buffers, err);

    if (rc)
        return rc;
    if (buffers.n != 2)
        return fail_at(&b->meta, b->table.at, err, "column without its 2 buffers");
    if (b->n_rows == 0)
        return PLM_OK;

    uint64_t at = plm_le64(b->meta.data + buffers.at + PAIR_BYTES);
    uint64_t n = plm_le64(b->meta.data + buffers.at + PAIR_BYTES + 8);

    if (at > b->body.len || n > b->body.len - at)
        return fail_at(&b->meta, buffers.at + PAIR_BYTES, err, "buffer outside its record batch");

    struct plm_view stored = {b->body.data + at, (size_t)n};

    if (b->is_zstd) {
        rc = decompress(ctx, b, stored, want, to, err);
    } else if (n < want) {
        rc = fail_at(&b->meta, buffers.at + PAIR_BYTES, err, "buffer shorter than its rows");
    } else {
        memcpy(to, stored.data, want);
    }
    for (size_t i = 0; rc == PLM_OK && i < b->n_rows; i++)
        to[i] = plm_le32((const uint8_t *)&to[i]);
    return rc;
}

enum plm_code plm_arrow_read_u32(struct plm_ctx *ctx, struct plm_view file, size_t n_max,
                                 uint32_t **values, size_t *n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct flat footer = {0};
    struct flat_table table;
    struct flat_vector blocks;
    struct batch b;
    uint32_t *list = NULL;
    size_t total = 0;

    PLM_TRY(find_footer(file, &footer, err));
    PLM_TRY(open_table(&footer, 0, &table, err));
    PLM_TRY(check_schema(&footer, &table, err));
    PLM_TRY(vector(&footer, &table, FOOTER_BATCHES, BLOCK_BYTES, &blocks, err));
    for (size_t i = 0; i < blocks.n; i++) {
        PLM_TRY(open_batch(file, &footer, blocks.at + i * BLOCK_BYTES, &b, err));
        total += b.n_rows; /* fewer than 2^32 blocks of 2^32 rows */
        if (total > n_max)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "Arrow file: %zu rows, expected at most %zu", total,
                             n_max));
    }
    PLM_TRY(plm_alloc(ctx, &list, total, sizeof *list, err));
    total = 0;
    for (size_t i = 0; i < blocks.n; i++) {
        PLM_TRY(open_batch(file, &footer, blocks.at + i * BLOCK_BYTES, &b, err));
        PLM_TRY(read_batch(ctx, &b, list + total, err));
        total += b.n_rows;
    }
    *values = list;
    *n = total;
    list = NULL;
done:
    plm_free(ctx, list);
    return rc;
}
