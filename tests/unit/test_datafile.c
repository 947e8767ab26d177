/* test_datafile.c - Lance files: the peer's good ones, our own tails, refused and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lance/datafile_impl.h"
#include "lance/page_parse.h"
#include "lance/wire_get.h"
#include "lance/wire.h"
#include "support/mem_store.h"

#ifndef PLM_TEST_SOURCE_DIR
#define PLM_TEST_SOURCE_DIR "."
#endif
#define GOOD PLM_TEST_SOURCE_DIR "/tests/format/good/files/"

static const struct plm_column_shape U64 = {1, 64, false};

static struct plm_ctx *new_ctx(uint64_t budget)
{
    struct plm_ctx_options options;
    struct plm_ctx *ctx = NULL;

    plm_ctx_options_default(&options);
    options.threads = 4;
    options.memory_budget_bytes = budget;
    assert_int_equal(plm_ctx_create(&options, &ctx, NULL), PLM_OK);
    return ctx;
}

struct bench {
    struct plm_ctx *ctx;
    struct plm_store *store;
    struct plm_err err;
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    b->ctx = new_ctx((uint64_t)1 << 30);
    b->store = mem_store_open(b->ctx);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    plm_store_close(b->store);
    assert_int_equal(atomic_load(&b->ctx->memory_used), 0);
    plm_ctx_destroy(b->ctx);
    free(b);
    return 0;
}

/* ---- the peer's files ------------------------------------------------------------- */

/* A column of the manifest, with what it must hold. */
struct expected {
    char name[100];
    unsigned number;
    struct plm_column_shape shape;
    size_t n_rows;
    const uint8_t *values, *nulls;
};

enum { EXPECTED_MAX = 256 };

struct good {
    struct expected columns[EXPECTED_MAX];
    size_t n;
    struct plm_store *npy; /* keeps the expected bytes */
};

static size_t npy_header(const uint8_t *bytes)
{
    return 10 + (size_t)plm_le16(bytes + 8);
}

/* Reads the manifest; loads each file into `store`. */
static void load_good(struct good *g, struct bench *b)
{
    FILE *f = fopen(GOOD "manifest.txt", "r");
    unsigned is_list;
    size_t at = 0;

    assert_non_null(f);
    g->npy = mem_store_open(b->ctx);
    for (struct expected *e = g->columns;
         fscanf(f, "%99s %u %" SCNu32 " %" SCNu32 " %u %zu", e->name, &e->number, &e->shape.items,
                &e->shape.bits, &is_list, &e->n_rows) == 6;
         e = &g->columns[++g->n]) {
        char path[sizeof GOOD + 200];
        size_t n;

        assert_true(g->n + 1 < EXPECTED_MAX);
        e->shape.is_list = is_list != 0;
        if (g->n == 0 || strcmp(e->name, e[-1].name) != 0) {
            snprintf(path, sizeof path, "%s%.99s.lance", GOOD, e->name);
            assert_true(mem_store_load(b->store, e->name, path));
            snprintf(path, sizeof path, "%s%.99s.npy", GOOD, e->name);
            assert_true(mem_store_load(g->npy, e->name, path));
            at = npy_header(mem_store_bytes(g->npy, e->name, NULL));
        }
        const uint8_t *bytes = mem_store_bytes(g->npy, e->name, &n);
        e->values = bytes + at;
        e->nulls = e->values + e->n_rows * plm_shape_row_bytes(&e->shape);
        at += e->n_rows * (plm_shape_row_bytes(&e->shape) + 1);
        assert_true(at <= n);
    }
    fclose(f);
    assert_true(g->n > 100);
}

static void compare(const struct expected *e, const uint8_t *values, const uint8_t *nulls)
{
    size_t row_bytes = plm_shape_row_bytes(&e->shape);

    for (size_t i = 0; i < e->n_rows; i++) {
        if (nulls[i] != e->nulls[i])
            fail_msg("%s column %u row %zu: null is %d", e->name, e->number, i, nulls[i]);
        if (!nulls[i] && memcmp(values + i * row_bytes, e->values + i * row_bytes, row_bytes) != 0)
            fail_msg("%s column %u row %zu: other values", e->name, e->number, i);
    }
}

/* Reads a checked column `step` rows at a time and compares. */
static void read_and_compare(struct bench *b, struct plm_datafile *file, const struct expected *e,
                             size_t step)
{
    size_t row_bytes = plm_shape_row_bytes(&e->shape);
    struct plm_read_scratch scratch = {0};
    uint8_t *values = malloc(e->n_rows * row_bytes + 1), *nulls = malloc(e->n_rows + 1);

    for (size_t at = 0; at < e->n_rows; at += step)
        assert_int_equal(plm_datafile_read(file, e->number, &e->shape, at,
                                           plm_min_size(step, e->n_rows - at),
                                           values + at * row_bytes, nulls + at, &scratch, &b->err),
                         PLM_OK);
    compare(e, values, nulls);
    plm_read_scratch_reset(&scratch);
    plm_read_scratch_reset(&scratch);
    free(values);
    free(nulls);
}

static void reads_what_the_peer_wrote(void **state)
{
    struct bench *b = *state;
    struct good *g = calloc(1, sizeof *g);

    load_good(g, b);
    for (size_t i = 0; i < g->n; i++) {
        struct expected *e = &g->columns[i];
        struct plm_datafile *file;
        uint64_t n_rows, bytes_stored;
        uint32_t major, minor;

        assert_int_equal(plm_datafile_open(b->store, e->name, 0, &file, &b->err), PLM_OK);
        plm_datafile_version(file, &major, &minor);
        assert_int_equal(major, 2);
        assert_int_equal(minor, e->name[2] - '0');
        assert_int_equal(plm_datafile_n_rows(file), e->n_rows);
        if (plm_datafile_check_column(file, e->number, &e->shape, &n_rows, &bytes_stored, &b->err))
            fail_msg("%s column %u: %s", e->name, e->number, b->err.message);
        assert_int_equal(n_rows, e->n_rows);
        read_and_compare(b, file, e, e->n_rows + 1);
        read_and_compare(b, file, e, 7);
        read_and_compare(b, file, e, 1000);
        plm_datafile_close(file);
    }
    plm_store_close(g->npy);
    free(g);
}

static void opens_and_checks_with_one_read(void **state)
{
    struct bench *b = *state;
    struct plm_column_shape shape = {3, 32, true};
    struct plm_datafile *file;
    uint64_t n_rows, bytes_stored;

    assert_true(mem_store_load(b->store, "f", GOOD "v22_small.lance"));
    assert_int_equal(plm_datafile_open(b->store, "f", 0, &file, &b->err), PLM_OK);
    assert_int_equal(
        plm_datafile_check_column(file, 0, &shape, &n_rows, &bytes_stored, &b->err), PLM_OK);
    assert_int_equal(atomic_load(&b->ctx->n_get), 1);
    assert_int_equal(n_rows, 40);
    assert_true(bytes_stored >= 40 * 12);
    assert_int_equal(
        plm_datafile_check_column(file, 0, &shape, &n_rows, &bytes_stored, &b->err), PLM_OK);
    assert_int_equal(n_rows, 40);
    assert_int_equal(atomic_load(&b->ctx->n_get), 1);
    plm_datafile_close(file);
}

static void a_small_step_decodes_each_chunk_once(void **state)
{
    struct bench *b = *state;
    struct plm_column_shape shape = {1, 8, true};
    struct plm_read_scratch scratch = {0};
    struct plm_datafile *file;
    uint64_t n_rows, bytes_stored;
    uint8_t values[2112], nulls[2112];

    assert_true(mem_store_load(b->store, "f", GOOD "v21_levels.lance"));
    assert_int_equal(plm_datafile_open(b->store, "f", 0, &file, &b->err), PLM_OK);
    assert_int_equal(
        plm_datafile_check_column(file, 1, &shape, &n_rows, &bytes_stored, &b->err), PLM_OK);
    size_t n_chunks =
        (size_t)plm_datafile_pages(file, 1, &shape)->items[0].table.size / 2;
    uint64_t before = atomic_load(&b->ctx->n_get);
    for (size_t i = 0; i < 2112; i++)
        assert_int_equal(plm_datafile_read(file, 1, &shape, i, 1, values + i, nulls + i, &scratch,
                                           &b->err),
                         PLM_OK);
    assert_int_equal(atomic_load(&b->ctx->n_get) - before, 1 + n_chunks); /* and the table */
    before = atomic_load(&b->ctx->n_get);
    assert_int_equal(
        plm_datafile_read(file, 1, &shape, 0, 2112, values, nulls, &scratch, &b->err), PLM_OK);
    assert_true(atomic_load(&b->ctx->n_get) - before <= 1); /* all chunks together */
    plm_read_scratch_reset(&scratch);
    plm_datafile_close(file);
}

struct parallel_read {
    struct plm_datafile *file;
    const struct expected *column;
};

static enum plm_code read_task(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct parallel_read *p = arg;
    const struct expected *e = p->column;
    struct plm_read_scratch scratch = {0};
    size_t row_bytes = plm_shape_row_bytes(&e->shape), step = 1 + task * 13;
    uint8_t *values = malloc(e->n_rows * row_bytes), *nulls = malloc(e->n_rows);
    enum plm_code rc = PLM_OK;

    (void)worker;
    for (size_t at = 0; at < e->n_rows; at += step)
        PLM_TRY(plm_datafile_read(p->file, e->number, &e->shape, at,
                                  plm_min_size(step, e->n_rows - at), values + at * row_bytes,
                                  nulls + at, &scratch, err));
    for (size_t i = 0; i < e->n_rows; i++)
        if (nulls[i] != e->nulls[i] ||
            (!nulls[i] && memcmp(values + i * row_bytes, e->values + i * row_bytes, row_bytes)))
            PLM_TRY(plm_fail(err, PLM_BUG, "row %zu differs", i));
done:
    plm_read_scratch_reset(&scratch);
    free(values);
    free(nulls);
    return rc;
}

static void threads_share_one_file(void **state)
{
    struct bench *b = *state;
    struct good *g = calloc(1, sizeof *g);

    load_good(g, b);
    for (size_t i = 0; i < g->n; i++) {
        struct parallel_read p = {.column = &g->columns[i]};
        uint64_t n_rows, bytes_stored;

        if (p.column->n_rows < 1000)
            continue;
        assert_int_equal(plm_datafile_open(b->store, p.column->name, 0, &p.file, &b->err), PLM_OK);
        assert_int_equal(plm_datafile_check_column(p.file, p.column->number, &p.column->shape,
                                                   &n_rows, &bytes_stored, &b->err),
                         PLM_OK);
        assert_int_equal(plm_parallel(b->ctx, 16, read_task, &p, &b->err), PLM_OK);
        plm_datafile_close(p.file);
    }
    plm_store_close(g->npy);
    free(g);
}

/* ---- our own tails ------------------------------------------------------------------ */

enum { ROWS = 1000, DIM = 5 };

/* Two columns over three and one pages, two global buffers, metadata. */
static void write_own(struct bench *b, uint32_t minor)
{
    static uint8_t pages[64 * 1024];
    struct plm_page_plan ids[] = {{0, 8 * 300, 300}, {2432, 8 * 1, 1}, {2496, 8 * 699, 699}};
    struct plm_page_plan flat[] = {{8128, 4 * DIM * ROWS, ROWS}};
    struct plm_column_plan columns[] = {
        {"_rowid", "uint64", true, {1, 64, false}, ids, 3},
        {"flat", "fixed_size_list:float:5", false, {DIM, 32, true}, flat, 1},
    };
    struct plm_view buffers[] = {{(const uint8_t *)"first", 5}, {NULL, 0}, {pages, 100}};
    static const char *const metadata[] = {"lance:ivf", "1", "distance_type", "l2", NULL};
    struct plm_file_plan plan = {2, minor, columns, 2, ROWS, buffers, 3, metadata};
    struct plm_buf tail = {0};
    size_t end = 8128 + 4 * DIM * ROWS;

    for (size_t i = 0; i < ROWS; i++)
        plm_put_le64(pages + (i < 300 ? 8 * i : i < 301 ? 2432 : 2496 + 8 * (i - 301)), i * i);
    for (size_t i = 0; i < DIM * ROWS; i++)
        plm_put_le32(pages + 8128 + 4 * i, (uint32_t)(i * 2654435761u));
    plm_buf_init(&tail, b->ctx, 1 << 20);
    assert_int_equal(plm_buf_add(&tail, pages, end, &b->err), PLM_OK);
    assert_int_equal(plm_file_tail(&plan, end, &tail, &b->err), PLM_OK);
    mem_store_set(b->store, "own", tail.data, tail.len);
    plm_buf_reset(&tail);
}

static void check_own_buffers(struct bench *b, struct plm_datafile *file)
{
    struct plm_buf buf = {0};

    assert_int_equal(plm_datafile_n_buffers(file), 4);
    plm_buf_init(&buf, b->ctx, 100);
    assert_int_equal(plm_datafile_buffer(file, 2, &buf, &b->err), PLM_OK); /* empty into empty */
    assert_int_equal(buf.len, 0);
    assert_int_equal(plm_datafile_buffer(file, 1, &buf, &b->err), PLM_OK);
    assert_int_equal(buf.len, 5);
    assert_memory_equal(buf.data, "first", 5);
    buf.len = 0;
    assert_int_equal(plm_datafile_buffer(file, 2, &buf, &b->err), PLM_OK);
    assert_int_equal(buf.len, 0);
    assert_int_equal(plm_datafile_buffer(file, 3, &buf, &b->err), PLM_OK);
    assert_int_equal(buf.len, 100);
    assert_int_equal(plm_datafile_buffer(file, 3, &buf, &b->err), PLM_LIMIT);
    assert_int_equal(plm_datafile_buffer(file, 4, &buf, &b->err), PLM_CORRUPT);
    plm_buf_reset(&buf);
    for (uint32_t i = 0; i < 4; i++) {
        size_t n;
        const uint8_t *bytes = mem_store_bytes(b->store, "own", &n);
        assert_int_equal(plm_le64(bytes + plm_le64(bytes + n - 24) + 16 * i) % 64, 0);
    }
}

static void check_own_columns(struct bench *b, struct plm_datafile *file)
{
    struct plm_column_shape list = {DIM, 32, true};
    struct plm_read_scratch scratch = {0};
    uint64_t ids[ROWS], n_rows, bytes_stored;
    static uint8_t flat[4 * DIM * ROWS];

    assert_int_equal(plm_datafile_check_column(file, 0, &U64, &n_rows, &bytes_stored, &b->err),
                     PLM_OK);
    assert_int_equal(n_rows, ROWS);
    assert_int_equal(bytes_stored, 8 * ROWS);
    assert_int_equal(plm_datafile_check_column(file, 1, &list, &n_rows, &bytes_stored, &b->err),
                     PLM_OK);
    uint64_t before = atomic_load(&b->ctx->n_get);
    assert_int_equal(plm_datafile_read(file, 0, &U64, 0, ROWS, ids, NULL, &scratch, &b->err),
                     PLM_OK);
    assert_int_equal(atomic_load(&b->ctx->n_get) - before, 3);
    for (size_t i = 0; i < ROWS; i++)
        assert_int_equal(ids[i], i * i);
    assert_int_equal(plm_datafile_read(file, 0, &U64, 299, 4, ids, NULL, &scratch, &b->err),
                     PLM_OK);
    assert_int_equal(ids[3], 302 * 302);
    assert_int_equal(plm_datafile_read(file, 1, &list, 0, ROWS, flat, NULL, &scratch, &b->err),
                     PLM_OK);
    for (size_t i = 0; i < DIM * ROWS; i++)
        assert_int_equal(plm_le32(flat + 4 * i), (uint32_t)(i * 2654435761u));
    assert_int_equal(scratch.cap, 0); /* plain pages need none */
    plm_read_scratch_reset(&scratch);
}

/* Field 5 of each page of column 0 is its first row. */
static void check_own_priorities(struct bench *b)
{
    static const uint64_t first_rows[] = {0, 300, 301};
    size_t n, n_pages = 0;
    const uint8_t *bytes = mem_store_bytes(b->store, "own", &n);
    const uint8_t *entry = bytes + plm_le64(bytes + n - 32);
    struct plm_view message = {bytes + plm_le64(entry), (size_t)plm_le64(entry + 8)};
    struct plm_pb pb = plm_pb_of(message);
    struct plm_pb_field field;
    bool more = true;

    while (plm_pb_next(&pb, &field, &more, NULL) == PLM_OK && more) {
        uint64_t first_row = 0;
        if (field.number != 2)
            continue;
        assert_int_equal(plm_msg_u64(field.bytes, 5, &first_row, NULL), PLM_OK);
        assert_true(n_pages < 3);
        assert_int_equal(first_row, first_rows[n_pages++]);
    }
    assert_int_equal(n_pages, 3);
}

static void own_tails_read_back(void **state)
{
    struct bench *b = *state;

    for (uint32_t minor = 0; minor <= 2; minor++) {
        struct plm_datafile *file;
        const char *type = NULL;
        uint32_t major, seen;

        write_own(b, minor);
        assert_int_equal(plm_datafile_open(b->store, "own", 0, &file, &b->err), PLM_OK);
        plm_datafile_version(file, &major, &seen);
        assert_int_equal(seen, minor);
        assert_int_equal(plm_datafile_n_columns(file), 2);
        assert_int_equal(plm_datafile_n_rows(file), ROWS);
        assert_int_equal(plm_datafile_find(file, "flat", &type), 1);
        assert_string_equal(type, "fixed_size_list:float:5");
        assert_int_equal(plm_datafile_find(file, "_rowid", &type), 0);
        assert_string_equal(type, "uint64");
        assert_int_equal(plm_datafile_find(file, "_rowi", NULL), -1);
        struct plm_view v = plm_datafile_metadata(file, "distance_type");
        assert_int_equal(v.len, 2);
        assert_memory_equal(v.data, "l2", 2);
        assert_null(plm_datafile_metadata(file, "distance").data);
        check_own_priorities(b);
        check_own_buffers(b, file);
        check_own_columns(b, file);
        plm_datafile_close(file);
    }
}

static void a_tail_refuses_bad_plans(void **state)
{
    struct bench *b = *state;
    struct plm_page_plan page = {0, 8, (uint64_t)UINT32_MAX + 1};
    struct plm_column_plan column = {"x", "uint64", false, {1, 64, false}, &page, 1};
    struct plm_file_plan plan = {2, 3, &column, 1, 1, NULL, 0, NULL};
    struct plm_buf tail = {0};

    plm_buf_init(&tail, b->ctx, 1 << 20);
    assert_int_equal(plm_file_tail(&plan, 0, &tail, &b->err), PLM_ARG);
    plan.minor = 2;
    assert_int_equal(plm_file_tail(&plan, 0, &tail, &b->err), PLM_ARG);
    page.n_rows = 1;
    assert_int_equal(plm_file_tail(&plan, 0, &tail, &b->err), PLM_OK);
    plm_buf_reset(&tail);
    plm_buf_init(&tail, b->ctx, 100);
    assert_int_equal(plm_file_tail(&plan, 0, &tail, &b->err), PLM_LIMIT);
    assert_int_equal(tail.len, 0);
    plm_buf_reset(&tail);
}

static void large_reads_are_cut_into_ranges(void **state)
{
    struct bench *b = *state;
    size_t n_rows = (2 * PLM_READ_BYTES + 800) / 8;
    struct plm_page_plan page = {0, 8 * n_rows, n_rows};
    struct plm_column_plan column = {"x", "uint64", false, {1, 64, false}, &page, 1};
    struct plm_file_plan plan = {2, 2, &column, 1, n_rows, NULL, 0, NULL};
    struct plm_read_scratch scratch = {0};
    struct plm_datafile *file;
    struct plm_buf bytes = {0};
    uint64_t seen_rows, bytes_stored, *ids = malloc(8 * n_rows);

    for (size_t i = 0; i < n_rows; i++)
        ids[i] = i ^ 0x5555;
    plm_buf_init(&bytes, b->ctx, 1 << 26);
    assert_int_equal(plm_buf_add(&bytes, ids, 8 * n_rows, &b->err), PLM_OK);
    assert_int_equal(plm_file_tail(&plan, 8 * n_rows, &bytes, &b->err), PLM_OK);
    mem_store_set(b->store, "big", bytes.data, bytes.len);
    plm_buf_reset(&bytes);
    assert_int_equal(plm_datafile_open(b->store, "big", 0, &file, &b->err), PLM_OK);
    assert_int_equal(plm_datafile_check_column(file, 0, &U64, &seen_rows, &bytes_stored, &b->err),
                     PLM_OK);
    uint64_t before = atomic_load(&b->ctx->n_get);
    memset(ids, 0, 8 * n_rows);
    assert_int_equal(plm_datafile_read(file, 0, &U64, 0, n_rows, ids, NULL, &scratch, &b->err),
                     PLM_OK);
    assert_int_equal(atomic_load(&b->ctx->n_get) - before, 3);
    for (size_t i = 0; i < n_rows; i++)
        if (ids[i] != (i ^ 0x5555))
            fail_msg("row %zu", i);
    assert_int_equal(scratch.cap, 0);
    plm_datafile_close(file);
    free(ids);
}

/* ---- crafted pages ------------------------------------------------------------------ */

static struct plm_view crafted[256]; /* freed by forget() */
static size_t n_crafted;

static struct plm_view keep_bytes(const void *bytes, size_t n)
{
    uint8_t *copy = malloc(n + 1);
    if (n)
        memcpy(copy, bytes, n);
    assert_true(n_crafted < 256);
    return crafted[n_crafted++] = (struct plm_view){copy, n};
}

static void forget(void)
{
    while (n_crafted > 0)
        free((void *)(uintptr_t)crafted[--n_crafted].data);
}

/* A message: for each letter a field number, then 'u' a uint64_t, 'm' a struct plm_view. */
static struct plm_view pb(struct bench *b, const char *letters, ...)
{
    struct plm_buf buf = {0};
    va_list args;

    plm_buf_init(&buf, b->ctx, 1 << 20);
    va_start(args, letters);
    for (const char *c = letters; *c; c++) {
        uint32_t number = va_arg(args, unsigned);
        if (*c == 'u') {
            uint64_t value = va_arg(args, uint64_t);
            assert_int_equal(plm_pb_put_u64(&buf, number, value, NULL), PLM_OK);
        } else {
            struct plm_view v = va_arg(args, struct plm_view);
            assert_int_equal(plm_pb_put_bytes(&buf, number, v.data, v.len, NULL), PLM_OK);
        }
    }
    va_end(args);
    struct plm_view v = keep_bytes(buf.data, buf.len);
    plm_buf_reset(&buf);
    return v;
}

#define N(x) ((uint64_t)(x))
#define EMPTY ((struct plm_view){(const uint8_t *)"", 0})

static struct plm_view flat(struct bench *b, uint64_t bits)
{
    return pb(b, "m", 1, pb(b, "u", 1, bits));
}

static struct plm_view list_of(struct bench *b, uint64_t items, struct plm_view inner)
{
    return pb(b, "m", 11, pb(b, "um", 1, items, 2, inner));
}

static struct plm_view rle(struct bench *b, uint64_t bits)
{
    return pb(b, "m", 8, pb(b, "mm", 1, flat(b, bits), 2, flat(b, 8)));
}

static struct plm_view layers(const char *bytes)
{
    return keep_bytes(bytes, strlen(bytes));
}

static struct plm_view fullzip(struct bench *b, uint64_t bits_def, uint64_t bits, uint64_t n,
                               struct plm_view values)
{
    return pb(b, "m", 3,
              pb(b, "uuuumm", 2, bits_def, 3, bits, 5, n, 6, n, 7, values, 8, layers("\3")));
}

/* levels.data NULL = no definition levels. */
static struct plm_view miniblock(struct bench *b, struct plm_view levels, struct plm_view values,
                                 uint64_t n_buffers, uint64_t n, uint64_t is_large)
{
    return pb(b, "m", 1,
              levels.data
                  ? pb(b, "mmmuuu", 2, levels, 3, values, 6, layers("\3"), 7, n_buffers, 9, n, 10,
                       is_large)
                  : pb(b, "mmuuu", 3, values, 6, layers("\1"), 7, n_buffers, 9, n, 10, is_large));
}

struct craft {
    struct plm_view message; /* PageLayout or ArrayEncoding */
    unsigned minor;
    uint64_t n_rows;
    struct plm_view buffers[3];
    size_t n_buffers;
    uint64_t size_lie; /* added to the size that the page gives its first buffer */
};

/* One column, one page, as "crafted". */
static void write_crafted(struct bench *b, const struct craft *c)
{
    struct plm_buf out = {0};
    uint64_t offsets[3], sizes[3] = {0};
    uint8_t end[16 + 16 + 40];
    static const char *const urls[] = {"/lance.encodings.ArrayEncoding",
                                       "/lance.encodings21.PageLayout"};
    const char *url = urls[c->minor > 0];

    plm_buf_init(&out, b->ctx, 1 << 24);
    for (size_t i = 0; i < c->n_buffers; i++) {
        offsets[i] = out.len, sizes[i] = c->buffers[i].len;
        assert_int_equal(plm_buf_add(&out, c->buffers[i].data, c->buffers[i].len, NULL), PLM_OK);
    }
    sizes[0] += c->size_lie;
    struct plm_view any = pb(b, "mm", 1, (struct plm_view){(const uint8_t *)url, strlen(url)}, 2,
                             c->message);
    struct plm_view encoding = pb(b, "m", 2, pb(b, "m", 1, any));
    struct plm_buf page = {0};
    plm_buf_init(&page, b->ctx, 1 << 20);
    assert_int_equal(plm_pb_put_packed(&page, 1, offsets, c->n_buffers, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_packed(&page, 2, sizes, c->n_buffers, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_u64(&page, 3, c->n_rows, NULL), PLM_OK);
    assert_int_equal(plm_pb_put_bytes(&page, 4, encoding.data, encoding.len, NULL), PLM_OK);
    size_t meta_at = out.len;
    assert_int_equal(plm_pb_put_message(&out, 2, &page, NULL), PLM_OK);
    plm_buf_reset(&page);

    memset(end, 0, sizeof end);
    plm_put_le64(end, meta_at);
    plm_put_le64(end + 8, out.len - meta_at);
    plm_put_le64(end + 32, meta_at);
    plm_put_le64(end + 40, out.len);
    plm_put_le64(end + 48, out.len + 16);
    plm_put_le32(end + 56, 1);
    plm_put_le32(end + 60, 1);
    plm_put_le16(end + 64, c->minor ? 2 : 0);
    plm_put_le16(end + 66, c->minor ? (uint16_t)c->minor : 3);
    memcpy(end + 68, "LANC", 4);
    assert_int_equal(plm_buf_add(&out, end, sizeof end, NULL), PLM_OK);
    mem_store_set(b->store, "crafted", out.data, out.len);
    plm_buf_reset(&out);
}

/* Opens, checks and reads the crafted page. values and nulls have room for n_rows. */
static enum plm_code read_crafted(struct bench *b, const struct craft *c,
                                  struct plm_column_shape shape, void *values, uint8_t *nulls)
{
    enum plm_code rc = PLM_OK;
    struct plm_datafile *file = NULL;
    struct plm_read_scratch scratch = {0};
    uint64_t n_rows, bytes_stored;

    b->err.message[0] = '\0';
    write_crafted(b, c);
    PLM_TRY(plm_datafile_open(b->store, "crafted", 0, &file, &b->err));
    PLM_TRY(plm_datafile_check_column(file, 0, &shape, &n_rows, &bytes_stored, &b->err));
    assert_int_equal(n_rows, c->n_rows);
    assert_non_null(values); /* a test that expects a refusal got none */
    PLM_TRY(plm_datafile_read(file, 0, &shape, 0, (size_t)n_rows, values, nulls, &scratch,
                              &b->err));
done:
    plm_read_scratch_reset(&scratch);
    plm_datafile_close(file);
    return rc;
}

static void expect_refused(struct bench *b, const struct craft *c, struct plm_column_shape shape,
                           enum plm_code code, const char *word)
{
    enum plm_code rc = read_crafted(b, c, shape, NULL, NULL);

    if (rc != code || !strstr(b->err.message, word) || !strstr(b->err.message, "crafted"))
        fail_msg("expected %s with \"%s\", got %s: %s", plm_code_name(code), word,
                 plm_code_name(rc), b->err.message);
    forget();
}

static void control_words_may_have_two_bytes(void **state)
{
    struct bench *b = *state;
    struct plm_column_shape shape = {2, 16, true};
    static const uint8_t rows[] = {0, 0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 1, 0, 9, 9, 9, 9};
    struct craft c = {fullzip(b, 9, 32, 3, list_of(b, 2, flat(b, 16))), 1, 3,
                      {{rows, sizeof rows}}, 1, 0};
    uint8_t values[12], nulls[3];

    assert_int_equal(read_crafted(b, &c, shape, values, nulls), PLM_OK);
    assert_memory_equal(values, "\1\2\3\4\5\6\7\10\11\11\11\11", 12);
    assert_memory_equal(nulls, "\0\1\1", 3);
    assert_int_equal(read_crafted(b, &c, shape, values, NULL), PLM_CORRUPT);
    assert_non_null(strstr(b->err.message, "row 1 is null"));
    forget();
}

/* A chunk of three u8 lists of one, with levels by `how`, padded to 8; the table says so. */
static enum plm_code read_levels(struct bench *b, struct plm_view how, const void *levels,
                                 size_t n, uint8_t nulls[3])
{
    uint8_t chunk[64] = {3, 0, (uint8_t)n, 0, 3, 0}, table[2];
    size_t at = 8 + (n + 7) / 8 * 8;
    uint8_t values[3];
    struct plm_column_shape shape = {1, 8, true};

    memcpy(chunk + 8, levels, n);
    memcpy(chunk + at, "abc", 3);
    plm_put_le16(table, (uint16_t)((at + 8) / 8 - 1) << 4);
    struct craft c = {miniblock(b, how, list_of(b, 1, flat(b, 8)), 1, 3, 0), 1, 3,
                      {{table, 2}, {chunk, at + 8}}, 2, 0};
    enum plm_code rc = read_crafted(b, &c, shape, values, nulls);
    if (rc == PLM_OK)
        assert_memory_equal(values, "abc", 3);
    forget();
    return rc;
}

static void levels_are_checked(void **state)
{
    struct bench *b = *state;
    uint8_t nulls[3];

    assert_int_equal(read_levels(b, flat(b, 16), "\0\0\2\0\0\1", 6, nulls), PLM_OK);
    assert_memory_equal(nulls, "\0\1\1", 3);
    assert_int_equal(read_levels(b, flat(b, 16), "\0\0\2\0", 4, nulls), PLM_CORRUPT);

    const char runs[] = "\4\0\0\0\0\0\0\0\0\0\1\0\1\2";
    assert_int_equal(read_levels(b, rle(b, 16), runs, 14, nulls), PLM_OK);
    assert_memory_equal(nulls, "\0\1\1", 3);
    assert_int_equal(read_levels(b, rle(b, 16), runs, 13, nulls), PLM_CORRUPT);
    assert_int_equal(read_levels(b, rle(b, 16), runs, 7, nulls), PLM_CORRUPT);
    const char long_runs[] = "\4\0\0\0\0\0\0\0\0\0\1\0\1\3";
    const char short_runs[] = "\4\0\0\0\0\0\0\0\0\0\1\0\1\1";
    assert_int_equal(read_levels(b, rle(b, 16), long_runs, 14, nulls), PLM_CORRUPT);
    assert_int_equal(read_levels(b, rle(b, 16), short_runs, 14, nulls), PLM_CORRUPT);
    assert_int_equal(read_levels(b, rle(b, 16), "\xff\xff\xff\xff\xff\xff\xff\xff", 8, nulls),
                     PLM_CORRUPT);

    struct plm_view packed = pb(b, "m", 5, pb(b, "u", 1, N(16)));
    assert_int_equal(read_levels(b, packed, "\0\0", 2, nulls), PLM_OK);
    assert_memory_equal(nulls, "\0\0\0", 3);
    packed = pb(b, "m", 5, pb(b, "u", 1, N(16)));
    assert_int_equal(read_levels(b, packed, "\1\0\0\0", 4, nulls), PLM_CORRUPT);
    packed = pb(b, "m", 5, pb(b, "u", 1, N(16)));
    assert_int_equal(read_levels(b, packed, "\21\0", 2, nulls), PLM_CORRUPT);

    struct plm_view outline = pb(b, "m", 4, pb(b, "um", 1, N(16), 3, flat(b, 1)));
    assert_int_equal(read_levels(b, outline, "\1\0\0\0\0\0", 6, nulls), PLM_OK);
    assert_memory_equal(nulls, "\1\0\0", 3);
    outline = pb(b, "m", 4, pb(b, "um", 1, N(16), 3, flat(b, 1)));
    assert_int_equal(read_levels(b, outline, "\1\0\0\0", 4, nulls), PLM_CORRUPT);
    forget();
}

/* A MiniBlock page of u64 values in one chunk. */
static enum plm_code read_values(struct bench *b, struct plm_view how, uint64_t n_buffers,
                                 const void *chunk, size_t n_chunk, uint32_t word, size_t n_rows,
                                 uint64_t *values)
{
    uint8_t table[2], nulls[64];

    plm_put_le16(table, (uint16_t)word);
    struct craft c = {miniblock(b, (struct plm_view){0}, how, n_buffers, n_rows, 0), 1, n_rows,
                      {{table, 2}, {chunk, n_chunk}}, 2, 0};
    enum plm_code rc = read_crafted(b, &c, U64, values, nulls);
    forget();
    return rc;
}

static void scalar_chunks_are_checked(void **state)
{
    struct bench *b = *state;
    uint64_t v[64];
    const char flat_chunk[] = "\0\0\20\0\0\0\0\0" "\1\0\0\0\0\0\0\0" "\2\0\0\0\0\0\0\0";
    const char runs[] = "\0\0\10\0\1\0\0\0" "\7\0\0\0\0\0\0\0" "\3\0\0\0\0\0\0\0";
    const char wide[] = "\0\0\10\0\0\0\0\0" "\101\0\0\0\0\0\0\0";
    const char zero[] = "\0\0\10\0\0\0\0\0" "\0\0\0\0\0\0\0\0";

    assert_int_equal(read_values(b, flat(b, 64), 1, flat_chunk, 24, 2 << 4, 2, v), PLM_OK);
    assert_int_equal(v[1], 2);
    assert_int_equal(read_values(b, flat(b, 64), 1, flat_chunk, 24, 2 << 4, 3, v), PLM_CORRUPT);
    assert_int_equal(read_values(b, flat(b, 64), 1, flat_chunk, 24, 3 << 4, 2, v), PLM_CORRUPT);
    assert_int_equal(read_values(b, flat(b, 64), 1, flat_chunk, 24, 1 << 4, 2, v), PLM_CORRUPT);
    assert_int_equal(read_values(b, flat(b, 64), 2, flat_chunk, 24, 2 << 4, 2, v), PLM_CORRUPT);
    assert_int_equal(read_values(b, rle(b, 64), 2, runs, 24, 2 << 4, 3, v), PLM_OK);
    assert_int_equal(v[2], 7);
    assert_int_equal(read_values(b, rle(b, 64), 2, runs, 24, 2 << 4, 4, v), PLM_CORRUPT);
    assert_int_equal(read_values(b, rle(b, 64), 2, runs, 24, 2 << 4, 2, v), PLM_CORRUPT);
    struct plm_view packed = pb(b, "m", 5, pb(b, "u", 1, N(64)));
    assert_int_equal(read_values(b, packed, 1, zero, 16, 1 << 4, 9, v), PLM_OK);
    assert_int_equal(v[8], 0);
    packed = pb(b, "m", 5, pb(b, "u", 1, N(64)));
    assert_int_equal(read_values(b, packed, 1, wide, 16, 1 << 4, 9, v), PLM_CORRUPT);
    forget();
}

static void a_chunk_table_must_add_up(void **state)
{
    struct bench *b = *state;
    uint64_t values[8];
    uint8_t nulls[8], chunks[48] = {0, 0, 16}, table[6];
    struct craft c = {
        .minor = 1, .n_rows = 4, .buffers = {{table, 4}, {chunks, 48}}, .n_buffers = 2};

    memcpy(chunks + 24, chunks, 24);
    for (int rows_log = 0; rows_log <= 3; rows_log++) {
        c.message = miniblock(b, (struct plm_view){0}, flat(b, 64), 1, 4, 0);
        plm_put_le16(table, (uint16_t)(2 << 4 | rows_log));
        plm_put_le16(table + 2, 2 << 4);
        enum plm_code rc = read_crafted(b, &c, U64, values, nulls);
        assert_int_equal(rc, rows_log == 1 ? PLM_OK : PLM_CORRUPT);
        forget();
    }
    c.buffers[0].len = 0; /* no chunk at all */
    c.message = miniblock(b, (struct plm_view){0}, flat(b, 64), 1, 4, 0);
    assert_int_equal(read_crafted(b, &c, U64, values, nulls), PLM_CORRUPT);
    forget();
    c.buffers[0] = (struct plm_view){chunks, 48}; /* more words than chunks can be */
    c.message = miniblock(b, (struct plm_view){0}, flat(b, 64), 1, 4, 0);
    assert_int_equal(read_crafted(b, &c, U64, values, nulls), PLM_CORRUPT);
    assert_non_null(strstr(b->err.message, "number of chunks"));
    forget();
    c.n_rows = (uint64_t)1 << 60; /* seen before anything is read */
    c.message = miniblock(b, (struct plm_view){0}, flat(b, 64), 1, c.n_rows, 0);
    expect_refused(b, &c, U64, PLM_CORRUPT, "chunk table");
}

static void constants_are_read(void **state)
{
    struct bench *b = *state;
    uint64_t values[3] = {0};
    uint8_t nulls[3];
    struct plm_view five = keep_bytes("\5\0\0\0\0\0\0\1", 8);
    struct craft c = {pb(b, "m", 2, pb(b, "mm", 5, layers("\1"), 6, five)), 2, 3, {{0}}, 0, 0};

    assert_int_equal(read_crafted(b, &c, U64, values, nulls), PLM_OK);
    assert_int_equal(values[2], 0x0100000000000005);
    assert_memory_equal(nulls, "\0\0\0", 3);
    forget();
    c.message = pb(b, "m", 2, pb(b, "m", 5, layers("\3\3")));
    assert_int_equal(read_crafted(b, &c, U64, values, nulls), PLM_OK);
    assert_memory_equal(nulls, "\1\1\1", 3);
    assert_int_equal(values[0], 0);
    assert_int_equal(read_crafted(b, &c, U64, values, NULL), PLM_CORRUPT);
    forget();
    c.message = pb(b, "m", 2, pb(b, "m", 5, layers("\1")));
    expect_refused(b, &c, U64, PLM_CORRUPT, "without a value");
    five = keep_bytes("12345", 5);
    c.message = pb(b, "m", 2, pb(b, "mm", 5, layers("\1"), 6, five));
    expect_refused(b, &c, U64, PLM_CORRUPT, "40 bits");
    five = keep_bytes("12345678", 8);
    c.message = pb(b, "m", 2, pb(b, "mm", 5, layers("\3"), 6, five));
    expect_refused(b, &c, U64, PLM_UNSUPPORTED, "values and nulls");
}

/* ---- refused ------------------------------------------------------------------------ */

static void other_layouts_are_refused_by_name(void **state)
{
    struct bench *b = *state;
    struct plm_column_shape list = {2, 32, true};
    static const uint8_t bytes[64];
    struct craft c = {
        .minor = 2, .n_rows = 2, .buffers = {{bytes, 16}, {bytes, 16}}, .n_buffers = 1};
#define REFUSE(made, shape, code, word) \
    (c.message = made, expect_refused(b, &c, shape, code, word))

    REFUSE(pb(b, "m", 4, EMPTY), list, PLM_UNSUPPORTED, "Blob");
    REFUSE(pb(b, "m", 5, EMPTY), list, PLM_UNSUPPORTED, "Sparse");
    REFUSE(pb(b, "m", 9, EMPTY), list, PLM_UNSUPPORTED, "unknown (9)");
    REFUSE(EMPTY, list, PLM_UNSUPPORTED, "layout none");
    REFUSE(pb(b, "m", 3, pb(b, "u", 1, N(1))), list, PLM_UNSUPPORTED, "repetition");
    REFUSE(pb(b, "m", 3, pb(b, "u", 4, N(32))), list, PLM_UNSUPPORTED, "variable-width");
    REFUSE(pb(b, "m", 3, pb(b, "m", 8, layers("\4"))), list, PLM_UNSUPPORTED, "lists");
    REFUSE(fullzip(b, 17, 64, 2, EMPTY), list, PLM_UNSUPPORTED, "17 definition bits");
    REFUSE(fullzip(b, 0, 64, 3, EMPTY), list, PLM_CORRUPT, "num_items is 3");
    for (unsigned kind = 2; kind <= 15; kind++)
        if (kind != 11)
            REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", kind, EMPTY)), list, PLM_UNSUPPORTED,
                   "compression");
    REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", 2, EMPTY)), list, PLM_UNSUPPORTED, "Variable");
    REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", 7, EMPTY)), U64, PLM_UNSUPPORTED, "Dictionary");
    REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", 12, EMPTY)), U64, PLM_UNSUPPORTED, "PackedStruct");
    REFUSE(fullzip(b, 0, 64, 2, list_of(b, 3, flat(b, 32))), list, PLM_CORRUPT, "3 items");
    REFUSE(fullzip(b, 0, 64, 2, list_of(b, 2, flat(b, 16))), list, PLM_CORRUPT, "16 bits");
    REFUSE(fullzip(b, 0, 65, 2, list_of(b, 2, flat(b, 32))), list, PLM_CORRUPT, "65 bits");
    REFUSE(fullzip(b, 1, 64, 2, list_of(b, 2, flat(b, 32))), list, PLM_CORRUPT, "16 bytes");
    REFUSE(fullzip(b, 0, 64, 2, list_of(b, 2, pb(b, "m", 3, EMPTY))), list, PLM_UNSUPPORTED,
           "Constant");
    REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", 1, pb(b, "um", 1, N(64), 2, EMPTY))), U64,
           PLM_UNSUPPORTED, "compressed Flat");
    REFUSE(fullzip(b, 0, 64, 2, pb(b, "m", 5, pb(b, "u", 1, N(64)))), U64, PLM_UNSUPPORTED,
           "packed values");
    c.n_buffers = 2;
    REFUSE(fullzip(b, 0, 64, 2, flat(b, 64)), U64, PLM_CORRUPT, "2 buffers");
    REFUSE(pb(b, "m", 1, pb(b, "m", 1, EMPTY)), list, PLM_UNSUPPORTED, "repetition");
    REFUSE(pb(b, "m", 1, pb(b, "m", 4, EMPTY)), list, PLM_UNSUPPORTED, "dictionary");
    REFUSE(miniblock(b, pb(b, "m", 10, EMPTY), flat(b, 64), 1, 2, 1), U64, PLM_UNSUPPORTED,
           "definition level compression General");
    REFUSE(miniblock(b, pb(b, "m", 4, pb(b, "um", 1, N(16), 3, flat(b, 17))), flat(b, 64), 1, 2, 1),
           U64, PLM_CORRUPT, "17 bits");
    c.minor = 0;
    REFUSE(pb(b, "m", 5, EMPTY), list, PLM_UNSUPPORTED, "Struct");
    REFUSE(pb(b, "m", 2, EMPTY), list, PLM_UNSUPPORTED, "nullability");
    REFUSE(pb(b, "m", 2, pb(b, "m", 1, pb(b, "m", 1, pb(b, "m", 7, EMPTY)))), list,
           PLM_UNSUPPORTED, "Dictionary");
#undef REFUSE
}

/* ArrayEncoding Nullable {2: some_nulls {1: validity in buffer 1, 2: u64 in buffer 0}}. */
static struct plm_view array_with_nulls(struct bench *b)
{
    struct plm_view validity = pb(b, "m", 1, pb(b, "um", 1, N(1), 2, pb(b, "u", 1, N(1))));
    struct plm_view values = pb(b, "m", 1, pb(b, "um", 1, N(64), 2, EMPTY));
    return pb(b, "m", 2, pb(b, "m", 2, pb(b, "mm", 1, validity, 2, values)));
}

static void buffers_of_other_sizes_are_refused(void **state)
{
    struct bench *b = *state;
    static const uint8_t bytes[80] = {1}, bits[2] = {0xfe, 1};
    uint64_t values[9];
    uint8_t nulls[9];
    struct craft c = {fullzip(b, 0, 64, 9, flat(b, 64)), 1, 9, {{bytes, 80}}, 1, 0};

    expect_refused(b, &c, U64, PLM_CORRUPT, "80 bytes for 9 rows");
    c.message = fullzip(b, 0, 64, 9, flat(b, 64));
    c.buffers[0].len = 64;
    expect_refused(b, &c, U64, PLM_CORRUPT, "64 bytes for 9 rows");
    c.buffers[0].len = 72;
    for (int i = 0; i < 2; i++) { /* behind the end, and all there is */
        c.size_lie = i ? UINT64_MAX - 72 : 4096;
        c.message = fullzip(b, 0, 64, 9, flat(b, 64));
        expect_refused(b, &c, U64, PLM_CORRUPT, "does not fit");
    }

    c = (struct craft){array_with_nulls(b), 0, 9, {{bytes, 80}, {bits, 2}}, 2, 0};
    assert_int_equal(read_crafted(b, &c, U64, values, nulls), PLM_OK); /* 2.0 may be padded */
    assert_memory_equal(nulls, "\1\0\0\0\0\0\0\0\0", 9);
    c.buffers[1].len = 1;
    c.message = array_with_nulls(b);
    expect_refused(b, &c, U64, PLM_CORRUPT, "1 bytes of validity");
    c.buffers[1].len = 2;
    c.buffers[0].len = 71;
    c.message = array_with_nulls(b);
    expect_refused(b, &c, U64, PLM_CORRUPT, "71 bytes for 9 rows");
}

static void other_versions_and_magics_are_refused(void **state)
{
    struct bench *b = *state;
    struct plm_datafile *file = NULL;
    size_t n;

    write_own(b, 2);
    uint8_t *bytes = mem_store_bytes(b->store, "own", &n);
    bytes[n - 6] = 3;
    assert_int_equal(plm_datafile_open(b->store, "own", 0, &file, &b->err), PLM_UNSUPPORTED);
    assert_non_null(strstr(b->err.message, "2.3"));
    bytes[n - 1] = 'D';
    assert_int_equal(plm_datafile_open(b->store, "own", 0, &file, &b->err), PLM_CORRUPT);
    assert_non_null(strstr(b->err.message, "LANC"));
    assert_int_equal(plm_datafile_open(b->store, "nowhere", 0, &file, &b->err), PLM_NOT_FOUND);
    assert_null(file);
    mem_store_set(b->store, "own", "short", 5);
    assert_int_equal(plm_datafile_open(b->store, "own", 0, &file, &b->err), PLM_CORRUPT);
}

static void wrong_questions_are_refused(void **state)
{
    struct bench *b = *state;
    struct plm_column_shape list = {DIM, 32, true}, wrong = {DIM + 1, 32, true};
    struct plm_column_shape odd = {1, 24, false}, none = {0, 32, true}, many = {2, 32, false};
    struct plm_read_scratch scratch = {0};
    struct plm_datafile *file;
    uint64_t n, stored;
    uint8_t values[64], nulls[8];

    write_own(b, 1);
    assert_int_equal(plm_datafile_open(b->store, "own", 0, &file, &b->err), PLM_OK);
    assert_int_equal(plm_datafile_check_column(file, 2, &list, &n, &stored, &b->err), PLM_CORRUPT);
    assert_int_equal(plm_datafile_check_column(file, 1, &wrong, &n, &stored, &b->err), PLM_CORRUPT);
    assert_int_equal(plm_datafile_check_column(file, 0, &list, &n, &stored, &b->err),
                     PLM_UNSUPPORTED);
    assert_int_equal(plm_datafile_check_column(file, 1, &odd, &n, &stored, &b->err), PLM_ARG);
    assert_int_equal(plm_datafile_check_column(file, 1, &none, &n, &stored, &b->err), PLM_ARG);
    assert_int_equal(plm_datafile_check_column(file, 1, &many, &n, &stored, &b->err), PLM_ARG);
    assert_int_equal(plm_datafile_read(file, 1, &list, 0, 1, values, nulls, &scratch, &b->err),
                     PLM_BUG);
    assert_int_equal(plm_datafile_check_column(file, 1, &list, &n, &stored, &b->err), PLM_OK);
    assert_int_equal(plm_datafile_read(file, 1, &list, ROWS, 1, values, nulls, &scratch, &b->err),
                     PLM_ARG);
    assert_int_equal(plm_datafile_read(file, 1, &list, 1, SIZE_MAX, values, nulls, &scratch,
                                       &b->err),
                     PLM_ARG);
    assert_int_equal(plm_datafile_read(file, 1, &list, ROWS, 0, values, nulls, &scratch, &b->err),
                     PLM_OK);
    plm_read_scratch_reset(&scratch);
    plm_datafile_close(file);
}

/* ---- hostile ------------------------------------------------------------------------ */

/* Whatever the bytes, every column of the file either reads or says why not. Counts the
 * readable ones; memory stays in proportion to the file. */
static size_t survive(struct bench *b, const struct good *g, size_t first)
{
    size_t n_read = 0, n_bytes;
    const char *name = g->columns[first].name;
    struct plm_read_scratch scratch = {0};
    struct plm_datafile *file = NULL;
    static uint8_t values[1 << 16], nulls[1 << 16];

    mem_store_bytes(b->store, name, &n_bytes);
    atomic_store(&b->ctx->memory_peak, atomic_load(&b->ctx->memory_used));
    if (plm_datafile_open(b->store, name, 0, &file, &b->err) != PLM_OK) {
        assert_null(file);
        return 0;
    }
    for (size_t i = first; i < g->n && strcmp(g->columns[i].name, name) == 0; i++) {
        const struct expected *e = &g->columns[i];
        uint64_t n_rows, stored;
        size_t room = sizeof values / plm_shape_row_bytes(&e->shape);

        if (plm_datafile_check_column(file, e->number, &e->shape, &n_rows, &stored, &b->err))
            continue;
        n_read += plm_datafile_read(file, e->number, &e->shape, 0,
                                    (size_t)plm_min_u64(n_rows, room), values, nulls, &scratch,
                                    &b->err) == PLM_OK;
    }
    plm_read_scratch_reset(&scratch);
    plm_datafile_close(file);
    assert_true(atomic_load(&b->ctx->memory_peak) < ((size_t)1 << 20) + 32 * n_bytes);
    return n_read;
}

static void truncated_files_are_refused(void **state)
{
    struct bench *b = *state;
    struct good *g = calloc(1, sizeof *g);

    load_good(g, b);
    for (size_t i = 0; i < g->n; i++) {
        const char *name = g->columns[i].name;
        size_t n;

        if (i > 0 && strcmp(name, g->columns[i - 1].name) == 0)
            continue;
        uint8_t *whole = mem_store_bytes(b->store, name, &n), *copy = malloc(n);
        memcpy(copy, whole, n);
        for (size_t cut = 0; cut < n; cut++) {
            mem_store_set(b->store, name, copy, cut);
            assert_int_equal(survive(b, g, i), 0);
        }
        /* Without bytes at the front the footer is fine and everything else is elsewhere. */
        for (size_t cut = 1; cut < n; cut += 1 + n / 500) {
            mem_store_set(b->store, name, copy + cut, n - cut);
            survive(b, g, i);
        }
        free(copy);
    }
    plm_store_close(g->npy);
    free(g);
}

static void flipped_bits_never_crash(void **state)
{
    struct bench *b = *state;
    struct good *g = calloc(1, sizeof *g);
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x10};
    size_t n_unharmed = 0, n_harmed = 0;

    load_good(g, b);
    for (size_t i = 0; i < g->n; i++) {
        const char *name = g->columns[i].name;
        size_t n;

        if (i > 0 && strcmp(name, g->columns[i - 1].name) == 0)
            continue;
        uint8_t *bytes = mem_store_bytes(b->store, name, &n);
        size_t all = survive(b, g, i), meta_at = (size_t)plm_le64(bytes + n - 40);
        for (size_t at = 0; at < n; at += at < meta_at ? 1 + n / 400 : 1)
            for (size_t k = at < meta_at ? 3 : at % 4; k < 4; k += 4) {
                bytes[at] ^= flips[k];
                *(survive(b, g, i) == all ? &n_unharmed : &n_harmed) += 1;
                bytes[at] ^= flips[k];
            }
        assert_int_equal(survive(b, g, i), all);
    }
    assert_true(n_unharmed > 0 && n_harmed > 1000);
    plm_store_close(g->npy);
    free(g);
}

/* Failing allocation or I/O call N: the error comes out, nothing leaks, nothing is half done. */
static void every_failure_comes_out(void **state)
{
    struct bench *b = *state;
    struct good *g = calloc(1, sizeof *g);

    load_good(g, b);
    for (size_t i = 0; i < g->n; i++) {
        const char *name = g->columns[i].name;

        if (i > 0 && strcmp(name, g->columns[i - 1].name) == 0)
            continue;
        size_t all = survive(b, g, i);
        for (int is_io = 0; is_io < 2; is_io++) {
            atomic_long *countdown =
                is_io ? &b->ctx->faults.io_countdown : &b->ctx->faults.alloc_countdown;
            for (long k = 1;; k++) {
                uint64_t used = atomic_load(&b->ctx->memory_used);
                atomic_store(countdown, k);
                size_t n_read = survive(b, g, i);
                bool is_over = atomic_load(countdown) > 0; /* the fault was not reached */
                atomic_store(countdown, 0);
                assert_int_equal(atomic_load(&b->ctx->memory_used), used);
                if (is_over)
                    break;
                assert_true(n_read < all);
                assert_true(k < 1000);
            }
        }
    }
    plm_store_close(g->npy);
    free(g);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(reads_what_the_peer_wrote),
        T(opens_and_checks_with_one_read),
        T(a_small_step_decodes_each_chunk_once),
        T(threads_share_one_file),
        T(own_tails_read_back),
        T(a_tail_refuses_bad_plans),
        T(large_reads_are_cut_into_ranges),
        T(control_words_may_have_two_bytes),
        T(levels_are_checked),
        T(scalar_chunks_are_checked),
        T(a_chunk_table_must_add_up),
        T(constants_are_read),
        T(other_layouts_are_refused_by_name),
        T(buffers_of_other_sizes_are_refused),
        T(other_versions_and_magics_are_refused),
        T(wrong_questions_are_refused),
        T(truncated_files_are_refused),
        T(flipped_bits_never_crash),
        T(every_failure_comes_out),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
