/* store_tool.c - the calls of store.h from a command line, for the tests in Python.
 *
 *   store_tool URI [-o KEY=VALUE]... COMMAND ARGUMENT...
 *
 * Prints one JSON line: {"code", "message", "http_status", "n_get", ..., result}; exits 0 if
 * the code is OK, else 1 (2: wrong usage).
 */
#include "core/core.h"
#include "store/store.h"
#include "store/writer.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>

#define OPTIONS_MAX 64

struct tool {
    struct plm_ctx *ctx;
    struct plm_store *store;
    char **args;
    int n_args;
    json_t *result;
};

static struct plm_ctx *to_cancel;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    plm_ctx_cancel(to_cancel);
}

static void on_warning(void *user, const char *message)
{
    (void)user;
    fprintf(stderr, "warning: %s\n", message);
}

static enum plm_code read_local(struct tool *t, const char *path, struct plm_buf *buf,
                                struct plm_err *err)
{
    FILE *in = fopen(path, "rb");
    enum plm_code rc = PLM_OK;
    size_t n;

    if (!in)
        return plm_fail(err, PLM_ARG, "cannot open %s", path);
    plm_buf_init(buf, t->ctx, (size_t)1 << 30);
    do {
        PLM_TRY(plm_buf_reserve(buf, 1 << 20, err));
        n = fread(buf->data + buf->len, 1, 1 << 20, in);
        buf->len += n;
    } while (n > 0);
done:
    fclose(in);
    return rc;
}

static enum plm_code write_local(const char *path, const void *bytes, size_t n, struct plm_err *err)
{
    FILE *to = fopen(path, "wb");
    bool ok = to && fwrite(bytes, 1, n, to) == n;

    if (to && fclose(to) != 0)
        ok = false;
    return ok ? PLM_OK : plm_fail(err, PLM_ARG, "cannot write %s", path);
}

static enum plm_code do_get(struct tool *t, struct plm_err *err)
{
    struct plm_buf buf;
    enum plm_code rc;

    plm_buf_init(&buf, t->ctx, t->n_args > 2 ? strtoull(t->args[2], NULL, 10) : (size_t)1 << 30);
    rc = plm_store_get(t->store, t->args[0], &buf, err);
    if (rc == PLM_OK)
        rc = write_local(t->args[1], buf.data, buf.len, err);
    plm_buf_reset(&buf);
    return rc;
}

static enum plm_code do_put(struct tool *t, bool if_absent, struct plm_err *err)
{
    struct plm_buf buf = {0};
    enum plm_code rc = read_local(t, t->args[1], &buf, err);

    if (rc == PLM_OK)
        rc = if_absent ? plm_store_put_if_absent(t->store, t->args[0], buf.data, buf.len, err)
                       : plm_store_put(t->store, t->args[0], buf.data, buf.len, err);
    plm_buf_reset(&buf);
    return rc;
}

/* read KEY FILE SIZE OFFSET:LEN...: the ranges, one behind the other, into FILE. */
static enum plm_code do_read(struct tool *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_range ranges[1024];
    struct plm_file *file = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0, total = 0;

    for (int i = 3; i < t->n_args && n < 1024; i++, n++) {
        char *colon;

        ranges[n].offset = strtoull(t->args[i], &colon, 10);
        ranges[n].len = strtoull(colon + 1, NULL, 10);
        total += ranges[n].len;
    }
    PLM_TRY(plm_alloc(t->ctx, &bytes, total, 1, err));
    total = 0;
    for (size_t i = 0; i < n; i++) {
        ranges[i].dst = bytes + total;
        total += ranges[i].len;
    }
    PLM_TRY(plm_file_open(t->store, t->args[0], strtoull(t->args[2], NULL, 10), &file, err));
    PLM_TRY(plm_file_read_ranges(file, ranges, n, err));
    json_object_set_new(t->result, "size", json_integer((json_int_t)plm_file_size(file)));
    PLM_TRY(write_local(t->args[1], bytes, total, err));
done:
    plm_file_close(file);
    plm_free(t->ctx, bytes);
    return rc;
}

static enum plm_code do_size(struct tool *t, struct plm_err *err)
{
    uint64_t size = 0;
    enum plm_code rc = plm_store_size(t->store, t->args[0], &size, err);

    json_object_set_new(t->result, "size", json_integer((json_int_t)size));
    return rc;
}

static enum plm_code do_list(struct tool *t, struct plm_err *err)
{
    struct plm_entries entries = {0};
    size_t limit = t->n_args > 1 ? strtoull(t->args[1], NULL, 10) : 0;
    enum plm_code rc = plm_store_list(t->store, t->args[0], limit, &entries, err);
    json_t *list = json_array();

    for (size_t i = 0; i < entries.n; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:b}", "name", entries.items[i].name,
                                              "size", (json_int_t)entries.items[i].size_bytes,
                                              "modified_ms", (json_int_t)entries.items[i].modified_ms,
                                              "is_dir", entries.items[i].is_dir));
    json_object_set_new(t->result, "entries", list);
    plm_entries_reset(&entries);
    return rc;
}

struct upload {
    struct plm_writer *writer;
    const uint8_t *bytes;
    size_t n, part_bytes;
};

static enum plm_code write_part(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    const struct upload *u = arg;
    size_t at = task * u->part_bytes;

    (void)worker;
    return plm_writer_write(u->writer, (unsigned)task + 1, at, u->bytes + at,
                            plm_min_size(u->part_bytes, u->n - at), err);
}

/* multipart KEY FILE PART_BYTES finish|abort|detach */
static enum plm_code do_multipart(struct tool *t, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf buf = {0};
    struct upload u = {.part_bytes = strtoull(t->args[2], NULL, 10)};

    PLM_TRY(read_local(t, t->args[1], &buf, err));
    u.bytes = buf.data;
    u.n = buf.len;
    PLM_TRY(plm_writer_open(t->store, t->args[0], buf.len, NULL, NULL, &u.writer, err));
    PLM_TRY(plm_parallel(t->ctx, (buf.len + u.part_bytes - 1) / u.part_bytes, write_part, &u, err));
    if (strcmp(t->args[3], "finish") == 0) {
        PLM_TRY(plm_writer_finish(u.writer, err));
        u.writer = NULL;
    } else if (strcmp(t->args[3], "detach") == 0) {
        plm_writer_detach(u.writer);
        u.writer = NULL;
    }
done:
    plm_writer_abort(u.writer);
    plm_buf_reset(&buf);
    return rc;
}

/* mp-start KEY SIZE; mp-part KEY SIZE TOKEN PART OFFSET FILE; mp-finish|mp-abort KEY SIZE TOKEN */
static enum plm_code do_piecewise(struct tool *t, const char *what, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_writer *writer = NULL;
    struct plm_buf buf = {0};
    uint64_t size = strtoull(t->args[1], NULL, 10);
    char *token = NULL;
    const char *given = strcmp(what, "mp-start") == 0 ? NULL : t->args[2];

    PLM_TRY(plm_writer_open(t->store, t->args[0], size, given, &token, &writer, err));
    json_object_set_new(t->result, "token", json_string(token));
    if (strcmp(what, "mp-part") == 0) {
        PLM_TRY(read_local(t, t->args[5], &buf, err));
        PLM_TRY(plm_writer_write(writer, (unsigned)strtoul(t->args[3], NULL, 10),
                                 strtoull(t->args[4], NULL, 10), buf.data, buf.len, err));
    } else if (strcmp(what, "mp-finish") == 0) {
        PLM_TRY(plm_writer_finish(writer, err));
        writer = NULL;
    } else if (strcmp(what, "mp-abort") == 0) {
        plm_writer_abort(writer);
        writer = NULL;
    }
done:
    plm_writer_detach(writer);
    plm_free(t->ctx, token);
    plm_buf_reset(&buf);
    return rc;
}

/* puts N: that many small objects from all threads, for throttling. */
static enum plm_code put_one(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct tool *t = arg;
    char key[64];

    (void)worker;
    snprintf(key, sizeof key, "%s/%05zu", t->args[0], task);
    return plm_store_put(t->store, key, key, strlen(key), err);
}

static enum plm_code run(struct tool *t, const char *what, struct plm_err *err)
{
    const struct {
        const char *name;
        int n_args;
    } commands[] = {{"get", 2}, {"put", 2}, {"putifabsent", 2}, {"read", 4}, {"size", 1},
                    {"list", 1}, {"delete", 1}, {"deletetree", 1}, {"rename", 2},
                    {"multipart", 4}, {"mp-start", 2}, {"mp-part", 6}, {"mp-finish", 3},
                    {"mp-abort", 3}, {"puts", 2}};

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(what, commands[i].name) == 0 && t->n_args < commands[i].n_args)
            return plm_fail(err, PLM_ARG, "%s needs %d arguments", what, commands[i].n_args);
    if (strcmp(what, "get") == 0)
        return do_get(t, err);
    if (strcmp(what, "put") == 0)
        return do_put(t, false, err);
    if (strcmp(what, "putifabsent") == 0)
        return do_put(t, true, err);
    if (strcmp(what, "read") == 0)
        return do_read(t, err);
    if (strcmp(what, "size") == 0)
        return do_size(t, err);
    if (strcmp(what, "list") == 0)
        return do_list(t, err);
    if (strcmp(what, "delete") == 0)
        return plm_store_delete(t->store, t->args[0], err);
    if (strcmp(what, "deletetree") == 0)
        return plm_store_delete_tree(t->store, t->args[0], err);
    if (strcmp(what, "rename") == 0)
        return plm_store_rename(t->store, t->args[0], t->args[1], err);
    if (strcmp(what, "multipart") == 0)
        return do_multipart(t, err);
    if (strncmp(what, "mp-", 3) == 0)
        return do_piecewise(t, what, err);
    if (strcmp(what, "puts") == 0)
        return plm_parallel(t->ctx, strtoull(t->args[1], NULL, 10), put_one, t, err);
    return plm_fail(err, PLM_ARG, "unknown command %s", what);
}

static void print_result(struct tool *t, enum plm_code rc, const struct plm_err *err)
{
    json_object_set_new(t->result, "code", json_string(plm_code_name(rc)));
    json_object_set_new(t->result, "message", json_string(rc ? err->message : ""));
    json_object_set_new(t->result, "http_status", json_integer(rc ? err->http_status : 0));
    json_object_set_new(t->result, "n_get", json_integer((json_int_t)atomic_load(&t->ctx->n_get)));
    json_object_set_new(t->result, "n_put", json_integer((json_int_t)atomic_load(&t->ctx->n_put)));
    json_object_set_new(t->result, "n_list", json_integer((json_int_t)atomic_load(&t->ctx->n_list)));
    json_object_set_new(t->result, "n_retried",
                        json_integer((json_int_t)atomic_load(&t->ctx->n_retried)));
    json_object_set_new(t->result, "bytes_read",
                        json_integer((json_int_t)atomic_load(&t->ctx->bytes_read)));
    json_dumpf(t->result, stdout, JSON_SORT_KEYS | JSON_ENSURE_ASCII);
    printf("\n");
}

/* KEY=VALUE in place; the rest of the arguments stays for the command. */
static int take_options(int argc, char **argv, const char **options)
{
    int at = 2, n = 0;

    while (at + 1 < argc && strcmp(argv[at], "-o") == 0 && n + 2 < OPTIONS_MAX) {
        char *equals = strchr(argv[at + 1], '=');

        if (!equals)
            return -1;
        *equals = 0;
        options[n++] = argv[at + 1];
        options[n++] = equals + 1;
        at += 2;
    }
    return at < argc ? at : -1;
}

int main(int argc, char **argv)
{
    const char *options[OPTIONS_MAX] = {0};
    struct plm_ctx_options co;
    struct plm_err err = {0};
    struct tool t = {0};
    enum plm_code rc = PLM_OK;
    int at = argc > 2 ? take_options(argc, argv, options) : -1;

    if (at < 0) {
        fprintf(stderr, "usage: store_tool URI [-o KEY=VALUE]... COMMAND ARGUMENT...\n");
        return 2;
    }
    plm_ctx_options_default(&co);
    co.threads = 4;
    co.memory_budget_bytes = (uint64_t)2 << 30;
    co.warn = on_warning;
    t.result = json_object();
    if (plm_ctx_create(&co, &t.ctx, &err) != PLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    to_cancel = t.ctx;
    signal(SIGINT, on_interrupt);
    t.args = argv + at + 1;
    t.n_args = argc - at - 1;
    PLM_TRY(plm_store_open(t.ctx, argv[1], options, &t.store, &err));
    PLM_TRY(run(&t, argv[at], &err));
done:
    plm_store_close(t.store);
    print_result(&t, rc, &err);
    json_decref(t.result);
    plm_ctx_destroy(t.ctx);
    return rc == PLM_OK ? 0 : 1;
}
