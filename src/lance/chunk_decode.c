/* chunk_decode.c - one MiniBlock chunk: header, definition levels, values.
 *
 * Header: u16 number of levels; u16 size of the level buffer if there is one; one size per
 * value buffer (u32 in large chunks, else u16); then the buffers, all starting at multiples of 8.
 */
#include "lance/page.h"
#include "lance/wire.h"

#define BLOCK 1024u /* values of a FastLanes block */

/* What is left of a chunk. */
struct cursor {
    const uint8_t *begin, *at, *end;
};

static enum plm_code take(struct cursor *c, size_t n, struct plm_view *out, struct plm_err *err)
{
    size_t left = (size_t)(c->end - c->at);
    if (n > left)
        return plm_fail(err, PLM_CORRUPT,
                        "chunk of %zu bytes ends inside a part of %zu bytes at %zu",
                        (size_t)(c->end - c->begin), n, (size_t)(c->at - c->begin));
    *out = (struct plm_view){c->at, n};
    c->at += n;
    return PLM_OK;
}

/* Skips the filler; the last part of a chunk may do without it. */
static void align_cursor(struct cursor *c)
{
    size_t over = (size_t)(c->at - c->begin) % 8;
    size_t pad = over ? 8 - over : 0;
    c->at += plm_min_size(pad, (size_t)(c->end - c->at));
}

static enum plm_code take_number(struct cursor *c, unsigned bytes, size_t *out,
                                 struct plm_err *err)
{
    struct plm_view v = {0};
    enum plm_code rc = take(c, bytes, &v, err);
    if (rc == PLM_OK)
        *out = bytes == 2 ? plm_le16(v.data) : plm_le32(v.data);
    return rc;
}

/* ---- definition levels ----------------------------------------------------------- */

static enum plm_code bad_levels(struct plm_view bytes, size_t n, struct plm_err *err)
{
    return plm_fail(err, PLM_CORRUPT, "%zu bytes of definition levels for %zu rows", bytes.len, n);
}

static void flag_levels(const uint8_t *levels, size_t n, uint8_t *nulls)
{
    for (size_t i = 0; i < n; i++)
        nulls[i] = (levels[2 * i] | levels[2 * i + 1]) != 0;
}

/* u64 length of the values, the u16 values, then a run length of one byte for each. */
static enum plm_code levels_rle(struct plm_view bytes, size_t n, uint8_t *nulls,
                                struct plm_err *err)
{
    if (bytes.len < 8 || plm_le64(bytes.data) > bytes.len - 8)
        return bad_levels(bytes, n, err);
    size_t value_bytes = (size_t)plm_le64(bytes.data), n_runs = value_bytes / 2, at = 0;
    const uint8_t *values = bytes.data + 8, *lengths = values + value_bytes;
    if (value_bytes % 2 || bytes.len - 8 - value_bytes < n_runs)
        return bad_levels(bytes, n, err);
    for (size_t i = 0; i < n_runs; i++) {
        if (lengths[i] > n - at)
            return bad_levels(bytes, n, err);
        memset(nulls + at, plm_le16(values + 2 * i) != 0, lengths[i]);
        at += lengths[i];
    }
    return at == n ? PLM_OK : bad_levels(bytes, n, err);
}

/* One block of n <= 1024 levels of which each took `width` bits. */
static enum plm_code levels_block(struct plm_view bytes, size_t width, size_t n, uint8_t *nulls,
                                  struct plm_err *err)
{
    uint8_t unpacked[2 * BLOCK];
    if (width > 16 || n > BLOCK || bytes.len < 128 * width)
        return bad_levels(bytes, n, err);
    plm_fastlanes_unpack(16, (unsigned)width, bytes.data, unpacked);
    flag_levels(unpacked, n, nulls);
    return PLM_OK;
}

static enum plm_code levels_inline(struct plm_view bytes, size_t n, uint8_t *nulls,
                                   struct plm_err *err)
{
    if (bytes.len < 2)
        return bad_levels(bytes, n, err);
    return levels_block((struct plm_view){bytes.data + 2, bytes.len - 2}, plm_le16(bytes.data), n,
                        nulls, err);
}

/* Full blocks, then the rest as u16 if that is what the size says, else one padded block. */
static enum plm_code levels_outline(struct plm_view bytes, size_t width, size_t n, uint8_t *nulls,
                                    struct plm_err *err)
{
    size_t block_bytes = 128 * width, at = 0;
    for (; n - at >= BLOCK; at += BLOCK) {
        enum plm_code rc = levels_block(bytes, width, BLOCK, nulls + at, err);
        if (rc != PLM_OK)
            return rc;
        bytes.data += block_bytes, bytes.len -= block_bytes;
    }
    size_t rest = n - at;
    if (bytes.len != 2 * rest)
        return levels_block(bytes, width, rest, nulls + at, err);
    flag_levels(bytes.data, rest, nulls + at);
    return PLM_OK;
}

static enum plm_code decode_levels(const struct plm_page *page, struct plm_view bytes, size_t n,
                                   uint8_t *nulls, struct plm_err *err)
{
    switch (page->levels) {
    case PLM_PACK_FLAT:
        if (bytes.len < 2 * n)
            return bad_levels(bytes, n, err);
        flag_levels(bytes.data, n, nulls);
        return PLM_OK;
    case PLM_PACK_RLE:
        return levels_rle(bytes, n, nulls, err);
    case PLM_PACK_INLINE:
        return levels_inline(bytes, n, nulls, err);
    case PLM_PACK_OUTLINE:
        return levels_outline(bytes, page->level_bits, n, nulls, err);
    case PLM_PACK_NONE:
        break;
    }
    memset(nulls, 0, n);
    return PLM_OK;
}

/* ---- values ---------------------------------------------------------------------- */

static enum plm_code bad_values(size_t seen, size_t n_rows, struct plm_err *err)
{
    return plm_fail(err, PLM_CORRUPT, "%zu bytes of values for %zu rows", seen, n_rows);
}

/* One word with the width, then one block. */
static enum plm_code values_inline(unsigned bits, struct plm_view bytes, size_t n_rows,
                                   uint8_t *values, struct plm_err *err)
{
    uint8_t unpacked[8 * BLOCK];
    size_t word = bits / 8;
    if (bytes.len < word || n_rows > BLOCK)
        return bad_values(bytes.len, n_rows, err);
    uint64_t width = 0;
    for (size_t i = word; i-- > 0;)
        width = width << 8 | bytes.data[i];
    if (width > bits || bytes.len - word < 128 * width)
        return bad_values(bytes.len, n_rows, err);
    plm_fastlanes_unpack(bits, (unsigned)width, bytes.data + word, unpacked);
    memcpy(values, unpacked, n_rows * word);
    return PLM_OK;
}

static enum plm_code values_rle(size_t word, struct plm_view runs, struct plm_view lengths,
                                size_t n_rows, uint8_t *values, struct plm_err *err)
{
    size_t at = 0;
    if (runs.len % word || runs.len / word > lengths.len)
        return bad_values(runs.len, n_rows, err);
    for (size_t i = 0; i < runs.len / word; i++) {
        if (lengths.data[i] > n_rows - at)
            return bad_values(runs.len, n_rows, err);
        for (size_t k = 0; k < lengths.data[i]; k++)
            memcpy(values + (at + k) * word, runs.data + i * word, word);
        at += lengths.data[i];
    }
    return at == n_rows ? PLM_OK : bad_values(runs.len, n_rows, err);
}

static enum plm_code decode_values(const struct plm_page *page,
                                   const struct plm_column_shape *shape,
                                   const struct plm_view *buffers, size_t n_rows, uint8_t *values,
                                   struct plm_err *err)
{
    size_t row_bytes = plm_shape_row_bytes(shape);

    if (page->packing == PLM_PACK_INLINE)
        return values_inline(shape->bits, buffers[0], n_rows, values, err);
    if (page->packing == PLM_PACK_RLE)
        return values_rle(row_bytes, buffers[0], buffers[1], n_rows, values, err);
    if (buffers[0].len / row_bytes < n_rows)
        return bad_values(buffers[0].len, n_rows, err);
    memcpy(values, buffers[0].data, n_rows * row_bytes);
    return PLM_OK;
}

/* ---- chunks ---------------------------------------------------------------------- */

struct parts {
    size_t n_levels;
    struct plm_view levels, validity, values[2];
};

static enum plm_code split(const struct plm_page *page, struct plm_view chunk,
                           struct parts *parts, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct cursor c = {chunk.data, chunk.data, chunk.data + chunk.len};
    size_t n_values = page->packing == PLM_PACK_RLE ? 2 : 1, level_bytes = 0;
    size_t validity_bytes = 0, bytes[2] = {0};
    unsigned width = page->is_large ? 4 : 2;

    PLM_TRY(take_number(&c, 2, &parts->n_levels, err));
    if (page->levels != PLM_PACK_NONE)
        PLM_TRY(take_number(&c, 2, &level_bytes, err));
    if (page->has_validity)
        PLM_TRY(take_number(&c, width, &validity_bytes, err));
    for (size_t i = 0; i < n_values; i++)
        PLM_TRY(take_number(&c, width, &bytes[i], err));
    align_cursor(&c);
    if (page->levels != PLM_PACK_NONE)
        PLM_TRY(take(&c, level_bytes, &parts->levels, err));
    align_cursor(&c);
    if (page->has_validity)
        PLM_TRY(take(&c, validity_bytes, &parts->validity, err));
    align_cursor(&c);
    for (size_t i = 0; i < n_values; i++) {
        PLM_TRY(take(&c, bytes[i], &parts->values[i], err));
        align_cursor(&c);
    }
done:
    return rc;
}

enum plm_code plm_chunk_decode(const struct plm_page *page, const struct plm_column_shape *shape,
                               struct plm_view chunk, size_t n_rows, uint8_t *values,
                               uint8_t *nulls, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct parts parts = {0};

    PLM_TRY(split(page, chunk, &parts, err));
    if (page->levels != PLM_PACK_NONE && parts.n_levels != n_rows)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "%zu definition levels for %zu rows", parts.n_levels,
                         n_rows));
    PLM_TRY(decode_levels(page, parts.levels, n_rows, nulls, err));
    if (page->has_validity) {
        uint64_t bits = (uint64_t)n_rows * shape->items;
        if (parts.validity.len < bits / 8 + (bits % 8 > 0))
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "%zu bytes of validity for %" PRIu64 " elements",
                             parts.validity.len, bits));
        plm_flag_unset(parts.validity.data, 0, n_rows, shape->items, nulls);
    }
    PLM_TRY(decode_values(page, shape, parts.values, n_rows, values, err));
done:
    return rc;
}
