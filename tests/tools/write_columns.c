/* write_columns.c - a small index-like file by plm_file_tail(), for the peer to read.
 *
 *     write_columns DIRECTORY NAME MINOR
 * writes NAME as version 2.MINOR: `_rowid` (uint64, row * row) in pages of 300, 1 and 699 rows, `flat`
 * (5 floats, row * 5 + i) in one page, `code` (3 bytes, (row + i) & 255), global buffer 1 "first".
 */
#include <stdlib.h>

#include "lance/datafile.h"
#include "lance/wire.h"

enum { ROWS = 1000, DIM = 5, CODES = 3, FLAT_AT = 8128, CODE_AT = 28160, END = CODE_AT + CODES * ROWS };

static void fill(uint8_t *bytes)
{
    for (uint32_t i = 0; i < ROWS; i++)
        plm_put_le64(bytes + (i < 300 ? 8 * i : i < 301 ? 2432 : 2496 + 8 * (i - 301)),
                     (uint64_t)i * i);
    for (uint32_t i = 0; i < ROWS * DIM; i++) {
        float f = (float)i;
        uint32_t word;
        memcpy(&word, &f, sizeof word);
        plm_put_le32(bytes + FLAT_AT + 4 * i, word);
    }
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t k = 0; k < CODES; k++)
            bytes[CODE_AT + CODES * i + k] = (uint8_t)(i + k);
}

static enum plm_code write_file(struct plm_ctx *ctx, const char *dir, const char *name,
                                uint32_t minor, struct plm_err *err)
{
    static uint8_t bytes[END];
    static const struct plm_page_plan ids[] = {{0, 2400, 300}, {2432, 8, 1}, {2496, 5592, 699}};
    static const struct plm_page_plan flat = {FLAT_AT, 4 * DIM * ROWS, ROWS};
    static const struct plm_page_plan code = {CODE_AT, CODES * ROWS, ROWS};
    const struct plm_column_plan columns[] = {
        {"_rowid", "uint64", true, {1, 64, false}, ids, 3},
        {"flat", "fixed_size_list:float:5", false, {DIM, 32, true}, &flat, 1},
        {"code", "fixed_size_list:uint8:3", true, {CODES, 8, true}, &code, 1},
    };
    static const char *const metadata[] = {"lance:ivf", "1", "distance_type", "l2", NULL};
    struct plm_view first = {(const uint8_t *)"first", 5};
    struct plm_file_plan plan = {2, minor, columns, 3, ROWS, &first, 1, metadata};
    enum plm_code rc = PLM_OK;
    struct plm_store *store = NULL;
    struct plm_buf out = {0};

    fill(bytes);
    plm_buf_init(&out, ctx, 1 << 20);
    PLM_TRY(plm_buf_add(&out, bytes, END, err));
    PLM_TRY(plm_file_tail(&plan, END, &out, err));
    PLM_TRY(plm_store_open(ctx, dir, NULL, &store, err));
    PLM_TRY(plm_store_put(store, name, out.data, out.len, err));
done:
    plm_buf_reset(&out);
    plm_store_close(store);
    return rc;
}

int main(int argc, char **argv)
{
    struct plm_err err = {0};
    struct plm_ctx *ctx = NULL;
    enum plm_code rc = argc == 4 ? plm_ctx_create(NULL, &ctx, &err) : PLM_ARG;

    if (rc == PLM_OK)
        rc = write_file(ctx, argv[1], argv[2], (uint32_t)atoi(argv[3]), &err);
    if (rc != PLM_OK)
        fprintf(stderr, "write_columns: %s %s\n", plm_code_name(rc), err.message);
    plm_ctx_destroy(ctx);
    return rc != PLM_OK;
}
