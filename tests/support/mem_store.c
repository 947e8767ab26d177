/* mem_store.c - a store whose objects are blocks of memory in one sorted array. */
#include "support/mem_store.h"

#include <pthread.h>
#include <stdlib.h>

#include "store/store_impl.h"

struct object {
    char *path;
    uint8_t *bytes;
    size_t n;
    unsigned n_users; /* the store itself and each open file */
};
struct mem_store {
    struct plm_store base;
    pthread_mutex_t lock;
    struct object **objects; /* ascending by path */
    size_t n;
};
struct mem_file {
    struct plm_file base;
    struct object *object;
};
struct mem_writer {
    struct plm_writer base;
    uint8_t *bytes;
};

/* ---- small steps ------------------------------------------------------------------- */

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

static struct mem_store *mem_of(struct plm_store *store)
{
    return (struct mem_store *)(void *)store;
}

static void release(struct object *object)
{
    if (--object->n_users > 0)
        return;
    free(object->bytes);
    free(object->path);
    free(object);
}

/* Where `path` is, or belongs. */
static size_t place_of(const struct mem_store *s, const char *path)
{
    size_t at = 0;
    while (at < s->n && strcmp(s->objects[at]->path, path) < 0)
        at++;
    return at;
}

static struct object *find(const struct mem_store *s, const char *path)
{
    size_t at = place_of(s, path);
    return at < s->n && strcmp(s->objects[at]->path, path) == 0 ? s->objects[at] : NULL;
}

static void remove_at(struct mem_store *s, size_t at)
{
    release(s->objects[at]);
    s->n--;
    memmove(s->objects + at, s->objects + at + 1, (s->n - at) * sizeof *s->objects);
}

/* A block of exactly n bytes, so that a sanitizer sees the first one past it. */
static void set(struct mem_store *s, const char *path, const void *bytes, size_t n)
{
    struct object *fresh = must(calloc(1, sizeof *fresh));
    size_t at = place_of(s, path);

    fresh->path = must(strdup(path));
    fresh->bytes = must(malloc(n ? n : 1));
    fresh->n = n;
    fresh->n_users = 1;
    if (n)
        memcpy(fresh->bytes, bytes, n);
    if (find(s, path))
        remove_at(s, at);
    s->objects = must(realloc(s->objects, (s->n + 1) * sizeof *s->objects));
    memmove(s->objects + at + 1, s->objects + at, (s->n - at) * sizeof *s->objects);
    s->objects[at] = fresh;
    s->n++;
}

static enum plm_code missing(const char *path, struct plm_err *err)
{
    return plm_fail(err, PLM_NOT_FOUND, "mem/%s: not there", path);
}

static bool is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return n == 0 || (strncmp(path, dir, n) == 0 && path[n] == '/');
}

/* ---- reading ----------------------------------------------------------------------- */

static enum plm_code mem_file_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                                   struct plm_file **out, struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    struct object *object = find(s, path);
    if (object)
        object->n_users++;
    pthread_mutex_unlock(&s->lock);
    if (!object)
        return missing(path, err);
    struct mem_file *file = must(calloc(1, sizeof *file));
    file->base.store = store;
    file->base.size_bytes = size_bytes ? size_bytes : object->n;
    file->base.name = must(strdup(path));
    file->object = object;
    *out = &file->base;
    return PLM_OK;
}

static enum plm_code mem_read_ranges(struct plm_file *file, const struct plm_range *ranges,
                                     size_t n, struct plm_err *err)
{
    struct object *object = ((struct mem_file *)(void *)file)->object;
    struct plm_ctx *ctx = file->store->ctx;

    for (size_t i = 0; i < n; i++) {
        enum plm_code rc = plm_check_io_fault(ctx, err);
        if (rc != PLM_OK)
            return rc;
        if (ranges[i].offset > object->n || ranges[i].len > object->n - ranges[i].offset)
            return plm_fail(err, PLM_CORRUPT, "mem/%s: shorter than promised", file->name);
        memcpy(ranges[i].dst, object->bytes + ranges[i].offset, ranges[i].len);
        atomic_fetch_add(&ctx->n_get, 1);
        atomic_fetch_add(&ctx->bytes_read, ranges[i].len);
    }
    return PLM_OK;
}

static void mem_file_close(struct plm_file *file)
{
    struct mem_store *s = mem_of(file->store);

    pthread_mutex_lock(&s->lock);
    release(((struct mem_file *)(void *)file)->object);
    pthread_mutex_unlock(&s->lock);
    free(file->name);
    free(file);
}

static enum plm_code mem_size(struct plm_store *store, const char *path, uint64_t *size_bytes,
                              struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    struct object *object = find(s, path);
    if (object)
        *size_bytes = object->n;
    pthread_mutex_unlock(&s->lock);
    return object ? PLM_OK : missing(path, err);
}

/* Adds the name directly below `dir` that leads to `object`, once. */
static enum plm_code add_entry(struct plm_ctx *ctx, struct plm_entries *list, const char *rest,
                               size_t n_bytes, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n = strcspn(rest, "/");
    char *name = NULL;

    for (size_t i = 0; i < list->n; i++)
        if (strlen(list->items[i].name) == n && memcmp(list->items[i].name, rest, n) == 0)
            return PLM_OK;
    PLM_TRY(plm_strndup(ctx, rest, n, &name, err));
    PLM_TRY(plm_realloc(ctx, &list->items, list->n + 1, sizeof *list->items, err));
    list->items[list->n++] = (struct plm_entry){
        .name = name, .size_bytes = rest[n] ? 0 : n_bytes, .is_dir = rest[n] == '/'};
    name = NULL;
done:
    plm_free(ctx, name);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct plm_entry *)a)->name, ((const struct plm_entry *)b)->name);
}

static enum plm_code mem_list(struct plm_store *store, const char *dir, size_t limit,
                              struct plm_entries *out, struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    struct plm_entries list = {.ctx = store->ctx};
    size_t skip = *dir ? strlen(dir) + 1 : 0;
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    (void)limit; /* "at least" */
    atomic_fetch_add(&store->ctx->n_list, 1);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; rc == PLM_OK && i < s->n; i++)
        if (is_below(s->objects[i]->path, dir))
            rc = add_entry(store->ctx, &list, s->objects[i]->path + skip, s->objects[i]->n, err);
    pthread_mutex_unlock(&s->lock);
    if (rc != PLM_OK) {
        plm_entries_reset(&list);
        return rc;
    }
    if (list.n > 0)
        qsort(list.items, list.n, sizeof *list.items, by_name);
    *out = list;
    return PLM_OK;
}

/* ---- writing ----------------------------------------------------------------------- */

static enum plm_code mem_put(struct plm_store *store, const char *path, const void *bytes,
                             size_t n, bool if_absent, struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    if (if_absent && find(s, path))
        rc = plm_fail(err, PLM_CONFLICT, "mem/%s: is there already", path);
    else
        set(s, path, bytes, n);
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_add(&store->ctx->n_put, 1);
    atomic_fetch_add(&store->ctx->bytes_written, n);
    return rc;
}

static enum plm_code mem_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    if (find(s, path))
        remove_at(s, place_of(s, path));
    pthread_mutex_unlock(&s->lock);
    return PLM_OK;
}

static enum plm_code mem_delete_tree(struct plm_store *store, const char *dir,
                                     struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    for (size_t i = s->n; i-- > 0;)
        if (is_below(s->objects[i]->path, dir))
            remove_at(s, i);
    pthread_mutex_unlock(&s->lock);
    return PLM_OK;
}

/* An object, or everything below a directory. */
static enum plm_code mem_rename(struct plm_store *store, const char *from, const char *to,
                                struct plm_err *err)
{
    struct mem_store *s = mem_of(store);
    enum plm_code rc = plm_check_io_fault(store->ctx, err);
    bool seen = false;

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n;) {
        struct object *object = s->objects[i];
        char path[8192];

        if (strcmp(object->path, from) != 0 && !is_below(object->path, from)) {
            i++;
            continue;
        }
        snprintf(path, sizeof path, "%s%s", to, object->path + strlen(from));
        object->n_users++;
        remove_at(s, i);
        set(s, path, object->bytes, object->n);
        release(object);
        seen = true;
        i = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return seen ? PLM_OK : missing(from, err);
}

static enum plm_code mem_writer_open(struct plm_store *store, const char *path,
                                     uint64_t size_bytes, const char *token, char **token_out,
                                     struct plm_writer **out, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    if (token)
        return plm_fail(err, PLM_UNSUPPORTED, "mem/%s: one process only", path);
    if (token_out) {
        rc = plm_strdup(store->ctx, "mem", token_out, err);
        if (rc != PLM_OK)
            return rc;
    }
    struct mem_writer *writer = must(calloc(1, sizeof *writer));
    writer->base.store = store;
    writer->base.size_bytes = size_bytes;
    writer->base.name = must(strdup(path));
    writer->bytes = must(calloc(1, size_bytes ? (size_t)size_bytes : 1));
    *out = &writer->base;
    return PLM_OK;
}

static enum plm_code mem_writer_write(struct plm_writer *writer, unsigned part, uint64_t offset,
                                      const void *bytes, size_t n, struct plm_err *err)
{
    enum plm_code rc = plm_check_io_fault(writer->store->ctx, err);

    (void)part;
    if (rc != PLM_OK)
        return rc;
    memcpy(((struct mem_writer *)(void *)writer)->bytes + offset, bytes, n);
    atomic_fetch_add(&writer->store->ctx->n_put, 1);
    atomic_fetch_add(&writer->store->ctx->bytes_written, n);
    return PLM_OK;
}

static enum plm_code mem_writer_finish(struct plm_writer *writer, struct plm_err *err)
{
    struct mem_store *s = mem_of(writer->store);
    enum plm_code rc = plm_check_io_fault(writer->store->ctx, err);

    if (rc != PLM_OK)
        return rc;
    pthread_mutex_lock(&s->lock);
    set(s, writer->name, ((struct mem_writer *)(void *)writer)->bytes,
        (size_t)writer->size_bytes);
    pthread_mutex_unlock(&s->lock);
    return PLM_OK;
}

static void mem_writer_close(struct plm_writer *writer, bool remove)
{
    (void)remove; /* nothing was visible */
    free(((struct mem_writer *)(void *)writer)->bytes);
    free(writer->name);
    free(writer);
}

/* ---- the store --------------------------------------------------------------------- */

static void mem_close(struct plm_store *store)
{
    struct mem_store *s = mem_of(store);

    for (size_t i = 0; i < s->n; i++)
        release(s->objects[i]);
    pthread_mutex_destroy(&s->lock);
    free(s->objects);
    free(s->base.uri);
    free(s);
}

struct plm_store *mem_store_open(struct plm_ctx *ctx)
{
    static const struct plm_store_ops ops = {.close = mem_close,
                                             .file_open = mem_file_open,
                                             .file_read_ranges = mem_read_ranges,
                                             .file_close = mem_file_close,
                                             .size = mem_size,
                                             .list = mem_list,
                                             .put = mem_put,
                                             .del = mem_delete,
                                             .delete_tree = mem_delete_tree,
                                             .rename = mem_rename,
                                             .writer_open = mem_writer_open,
                                             .writer_write = mem_writer_write,
                                             .writer_finish = mem_writer_finish,
                                             .writer_close = mem_writer_close};
    struct mem_store *s = must(calloc(1, sizeof *s));

    s->base = (struct plm_store){.ops = &ops, .ctx = ctx, .uri = must(strdup("mem://test"))};
    if (pthread_mutex_init(&s->lock, NULL) != 0)
        abort();
    return &s->base;
}

uint8_t *mem_store_bytes(struct plm_store *store, const char *path, size_t *n)
{
    struct object *object = find(mem_of(store), path);

    if (!object)
        return NULL;
    if (n)
        *n = object->n;
    return object->bytes;
}

void mem_store_set(struct plm_store *store, const char *path, const void *bytes, size_t n)
{
    set(mem_of(store), path, bytes, n);
}

bool mem_store_load(struct plm_store *store, const char *path, const char *local_file)
{
    FILE *f = fopen(local_file, "rb");
    size_t n = 0, cap = (size_t)1 << 20;

    if (!f)
        return false;
    uint8_t *bytes = must(malloc(cap));
    for (size_t got; (got = fread(bytes + n, 1, cap - n, f)) > 0;) {
        n += got;
        if (n == cap)
            bytes = must(realloc(bytes, cap *= 2));
    }
    fclose(f);
    set(mem_of(store), path, bytes, n);
    free(bytes);
    return true;
}
