/* dump_column.c - values and nulls of columns of Lance files, for comparison with the peer.
 *
 * One request per line of standard input:
 *     FILE COLUMN ITEMS BITS IS_LIST STEP OUT
 * reads the column STEP rows at a time (0 = at once) and writes OUT.values and OUT.nulls (one
 * byte a row). Then it reads random ranges again and compares. One answer line per request:
 *     ok ROWS PAGES KINDS GETS        KINDS: page kinds and packings seen, joined with +
 *     error CODE MESSAGE
 */
#include <stdlib.h>

#include "lance/datafile_impl.h"

enum { RANGES_CHECKED = 24 };

struct request {
    char path[4000], out[4000];
    unsigned column, is_list;
    struct plm_column_shape shape;
    size_t step;
};

/* "dir/name" -> a store on dir and the name. */
static enum plm_code open_file(struct plm_ctx *ctx, const char *path, struct plm_store **store,
                               struct plm_datafile **file, struct plm_err *err)
{
    char dir[4000];
    const char *name = strrchr(path, '/');

    if (!name)
        return plm_fail(err, PLM_ARG, "%s: expected a path with a folder", path);
    snprintf(dir, sizeof dir, "%.*s", (int)(name - path), path);
    enum plm_code rc = plm_store_open(ctx, dir, NULL, store, err);
    return rc == PLM_OK ? plm_datafile_open(*store, name + 1, 0, file, err) : rc;
}

static const char *page_kind(const struct plm_page *page)
{
    static const char *const levels[] = {"none", "flat", "rle", "inline", "outline"};
    static char text[80];

    switch (page->kind) {
    case PLM_PAGE_NULL:
        return "null";
    case PLM_PAGE_SAME:
        return "same";
    case PLM_PAGE_PLAIN:
        return page->item_bits.size ? "plain-items" : page->row_bits.size ? "plain-rows" : "plain";
    case PLM_PAGE_ZIPPED:
        return page->valid_bytes ? "zipped-items" : "zipped";
    case PLM_PAGE_CHUNKED:
        break;
    }
    snprintf(text, sizeof text, "chunked-%s-%s%s", levels[page->levels], levels[page->packing],
             page->has_validity ? "-items" : "");
    return text;
}

static void list_kinds(const struct plm_pages *pages, char *out, size_t room)
{
    snprintf(out, room, "-");
    for (size_t i = 0; i < pages->n; i++) {
        const char *kind = page_kind(&pages->items[i]);
        size_t len = strlen(out);

        if (i == 0)
            snprintf(out, room, "%s", kind);
        else if (!strstr(out, kind) && len + strlen(kind) + 2 < room)
            snprintf(out + len, room - len, "+%s", kind);
    }
}

static int write_file(const char *out, const char *suffix, const void *bytes, size_t n)
{
    char path[4100];
    snprintf(path, sizeof path, "%s.%s", out, suffix);
    FILE *f = fopen(path, "wb");
    int ok = f && fwrite(bytes, 1, n, f) == n;
    if (f)
        ok &= fclose(f) == 0;
    return ok;
}

/* Random ranges, in random order, must give what the first pass gave. */
static enum plm_code check_ranges(struct plm_datafile *file, const struct request *q,
                                  uint64_t n_rows, const uint8_t *values, const uint8_t *nulls,
                                  struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t row_bytes = plm_shape_row_bytes(&q->shape);
    struct plm_read_scratch scratch = {0};
    uint8_t *v = malloc((size_t)n_rows * row_bytes + 1), *z = malloc((size_t)n_rows + 1);

    for (uint64_t i = 0; i < RANGES_CHECKED && n_rows > 0; i++) {
        uint64_t first = plm_mix64(1, i) % n_rows;
        size_t n = (size_t)(plm_mix64(2, i) % (n_rows - first) + 1);

        if (i % 2)
            n = plm_min_size(n, 3);
        PLM_TRY(plm_datafile_read(file, q->column, &q->shape, first, n, v, z, &scratch, err));
        if (memcmp(v, values + first * row_bytes, n * row_bytes) ||
            memcmp(z, nulls + first, n))
            PLM_TRY(plm_fail(err, PLM_BUG, "rows %llu + %zu differ when read again",
                             (unsigned long long)first, n));
    }
done:
    plm_read_scratch_reset(&scratch);
    free(v);
    free(z);
    return rc;
}

static enum plm_code dump(struct plm_ctx *ctx, struct plm_datafile *file, const struct request *q,
                          struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_read_scratch scratch = {0};
    uint64_t n_rows = 0, bytes_stored;
    size_t row_bytes = plm_shape_row_bytes(&q->shape);
    uint8_t *values = NULL, *nulls = NULL;
    char kinds[1000];

    PLM_TRY(plm_datafile_check_column(file, q->column, &q->shape, &n_rows, &bytes_stored, err));
    PLM_TRY(plm_alloc(ctx, &values, (size_t)n_rows, row_bytes, err));
    PLM_TRY(plm_alloc(ctx, &nulls, (size_t)n_rows, 1, err));
    uint64_t n_get = atomic_load(&ctx->n_get);
    size_t step = q->step ? q->step : (size_t)n_rows + 1;
    for (uint64_t first = 0; first < n_rows; first += step) {
        size_t n = (size_t)plm_min_u64(step, n_rows - first);
        PLM_TRY(plm_datafile_read(file, q->column, &q->shape, first, n, values + first * row_bytes,
                                  nulls + first, &scratch, err));
    }
    n_get = atomic_load(&ctx->n_get) - n_get;
    PLM_TRY(check_ranges(file, q, n_rows, values, nulls, err));
    if (!write_file(q->out, "values", values, (size_t)n_rows * row_bytes) ||
        !write_file(q->out, "nulls", nulls, (size_t)n_rows))
        PLM_TRY(plm_fail(err, PLM_IO, "%s: cannot write", q->out));
    const struct plm_pages *pages = plm_datafile_pages(file, q->column, &q->shape);
    list_kinds(pages, kinds, sizeof kinds);
    printf("ok %llu %zu %s %llu\n", (unsigned long long)n_rows, pages->n, kinds,
           (unsigned long long)n_get);
done:
    plm_read_scratch_reset(&scratch);
    plm_free(ctx, nulls);
    plm_free(ctx, values);
    return rc;
}

static void answer(const struct request *q)
{
    struct plm_err err = {0};
    struct plm_ctx *ctx = NULL;
    struct plm_store *store = NULL;
    struct plm_datafile *file = NULL;
    enum plm_code rc = plm_ctx_create(NULL, &ctx, &err);

    if (rc == PLM_OK)
        rc = open_file(ctx, q->path, &store, &file, &err);
    if (rc == PLM_OK)
        rc = dump(ctx, file, q, &err);
    if (rc != PLM_OK)
        printf("error %s %s\n", plm_code_name(rc), err.message);
    fflush(stdout);
    plm_datafile_close(file);
    plm_store_close(store);
    plm_ctx_destroy(ctx);
}

int main(void)
{
    struct request q;

    while (scanf("%3999s %u %" SCNu32 " %" SCNu32 " %u %zu %3999s", q.path, &q.column,
                 &q.shape.items, &q.shape.bits, &q.is_list, &q.step, q.out) == 7) {
        q.shape.is_list = q.is_list != 0;
        answer(&q);
    }
    return 0;
}
