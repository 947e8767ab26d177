/* page.h - one page of a fixed-width column: where its parts lie and how they are packed.
 *
 * Private to the data file code. page_parse.h says how pages come about, datafile_impl.h how
 * they are read.
 * A struct plm_page that page_parse.h made is checked: its spans lie inside the file
 * and hold its rows, so that reading needs no second look at the encoding.
 */
#ifndef PLM_PAGE_H
#define PLM_PAGE_H

#include "lance/datafile.h"

struct plm_span {
    uint64_t offset, size; /* in the file; size 0 = not there */
};

#define PLM_CHUNK_ROWS_MAX 32768u /* 4 bits of log2; stock Lance stays at 4096 */

enum plm_page_kind {
    PLM_PAGE_NULL,    /* every row is null; nothing is stored */
    PLM_PAGE_SAME,    /* every row is `same` */
    PLM_PAGE_PLAIN,   /* one array, null bitmaps aside (file version 2.0, or FullZip) */
    PLM_PAGE_ZIPPED,  /* FullZip: per row control word, validity bits, values */
    PLM_PAGE_CHUNKED, /* MiniBlock */
};

enum plm_packing { PLM_PACK_NONE, PLM_PACK_FLAT, PLM_PACK_RLE, PLM_PACK_INLINE, PLM_PACK_OUTLINE };

struct plm_page {
    enum plm_page_kind kind;
    uint64_t first_row, n_rows;
    struct plm_span values;    /* PLAIN, ZIPPED: the rows; CHUNKED: the chunks */
    struct plm_span row_bits;  /* PLAIN: validity of rows, LSB first, 1 = valid */
    struct plm_span item_bits; /* PLAIN: validity of elements */
    struct plm_span table;     /* CHUNKED: one word per chunk */
    uint8_t same[8];           /* SAME */
    uint32_t control_bytes;    /* ZIPPED: nonzero = null */
    uint32_t valid_bytes;      /* ZIPPED: validity bits of the elements */
    /* CHUNKED */
    bool is_large;             /* 32-bit table words and value sizes */
    bool has_validity;         /* the first value buffer holds element validity */
    bool has_values;           /* false: every element is null */
    enum plm_packing levels;   /* definition levels, NONE = no null row */
    uint32_t level_bits;       /* OUTLINE: bits of a packed level */
    enum plm_packing packing;  /* of the values: FLAT, RLE or INLINE */
};

/* The pages of one column that plm_datafile_check_column() accepted. */
struct plm_pages {
    uint32_t column;
    struct plm_column_shape shape;
    struct plm_page *items;
    size_t n;
    uint64_t n_rows, bytes_stored;
};

/* Bytes of one row; the shape has been checked. */
static inline size_t plm_shape_row_bytes(const struct plm_column_shape *shape)
{
    return (size_t)shape->items * (shape->bits / 8);
}

/* Decodes one chunk: `n_rows` rows into values and one byte a row into nulls. */
PLM_MUST_CHECK enum plm_code
plm_chunk_decode(const struct plm_page *page, const struct plm_column_shape *shape,
                 struct plm_view chunk, size_t n_rows, uint8_t *values, uint8_t *nulls,
                 struct plm_err *err);

/* Sets flags[i] = 1 where an element of row i is null: bit `first_bit + i * items + j` of
 * `bits` is 0 for some j. Rows without a null element keep their flag. */
void plm_flag_unset(const uint8_t *bits, uint64_t first_bit, size_t n_rows, uint32_t items,
                    uint8_t *flags);

/* One FastLanes block: 1024 values of `bits` (8, 16, 32, 64) bits from their `width` low bits.
 * packed: 128 * width bytes; out: 128 * bits bytes. */
void plm_fastlanes_unpack(unsigned bits, unsigned width, const uint8_t *packed, uint8_t *out);

#endif
