/* core.c - errors, context, progress, hashing. */
#include "core/core.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "simd/simd.h"

/* ---- errors ---------------------------------------------------------------- */

const char *plm_code_name(enum plm_code code)
{
    switch (code) {
#define CODE_NAME(name, number, text)                                                    \
    case PLM_##name:                                                                     \
        return #name;
        PLM_CODES(CODE_NAME)
#undef CODE_NAME
    }
    return "?";
}

const char *plm_code_text(enum plm_code code)
{
    switch (code) {
#define CODE_TEXT(name, number, text)                                                    \
    case PLM_##name:                                                                     \
        return text;
        PLM_CODES(CODE_TEXT)
#undef CODE_TEXT
    }
    return "?";
}

/* Messages are one line: control characters of hostile names become '?'. */
static void keep_one_line(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

static void set_error(struct plm_err *err, enum plm_code code, int sys_errno, const char *fmt,
                      va_list ap)
{
    if (!err)
        return;
    err->code = code;
    err->sys_errno = sys_errno;
    err->http_status = 0;
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    keep_one_line(err->message);
}

enum plm_code plm_fail(struct plm_err *err, enum plm_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_error(err, code, 0, fmt, ap);
    va_end(ap);
    return code;
}

static enum plm_code code_of_errno(int e)
{
    switch (e) {
    case ENOENT:
    case ENOTDIR:
        return PLM_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return PLM_DENIED;
    case ENOMEM:
        return PLM_NOMEM;
    default:
        return PLM_IO;
    }
}

enum plm_code plm_fail_errno(struct plm_err *err, int sys_errno, const char *fmt, ...)
{
    enum plm_code code = code_of_errno(sys_errno);
    va_list ap;
    va_start(ap, fmt);
    set_error(err, code, sys_errno, fmt, ap);
    va_end(ap);
    if (err) {
        size_t at = strlen(err->message);
        char text[128];
        snprintf(err->message + at, sizeof err->message - at, ": %s",
                 strerror_r(sys_errno, text, sizeof text));
    }
    return code;
}

enum plm_code plm_wrap(struct plm_err *err, enum plm_code code, const char *fmt, ...)
{
    char prefix[400];
    va_list ap;

    if (!err || code == PLM_CANCELLED) /* where an interrupt met the work says nothing */
        return code;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix - 2, fmt, ap);
    va_end(ap);
    keep_one_line(prefix);
    strcat(prefix, ": ");

    size_t n = strlen(prefix), room = sizeof err->message - 1;
    memmove(err->message + n, err->message, room - n); /* a long tail is cut */
    memcpy(err->message, prefix, n);
    err->message[room] = 0;
    return err->code != PLM_OK ? err->code : code;
}

_Noreturn void plm_assert_failed(const char *what, const char *file, int line)
{
    /* The one place that writes to a stream: a broken invariant of our own. */
    fprintf(stderr, "pilum: internal error: %s does not hold (%s:%d)\n", what, file, line);
    abort();
}

/* ---- context --------------------------------------------------------------- */

void plm_ctx_options_default(struct plm_ctx_options *options)
{
    *options = (struct plm_ctx_options){.struct_bytes = sizeof *options};
}

enum plm_code plm_ctx_create(const struct plm_ctx_options *options, struct plm_ctx **out,
                             struct plm_err *err)
{
    struct plm_ctx_options o;
    plm_ctx_options_default(&o);
    if (options) {
        if (options->struct_bytes < offsetof(struct plm_ctx_options, user))
            return plm_fail(err, PLM_ARG, "context: struct_bytes is %zu; fill the options with "
                            "plm_ctx_options_default() first", options->struct_bytes);
        memcpy(&o, options, plm_min_size(options->struct_bytes, sizeof o));
    }

    const char *cap = o.simd ? o.simd : getenv("PILUM_SIMD");
    if (cap && !*cap)
        cap = NULL;
    const struct plm_kernels *kernels = plm_kernels_for(cap);
    if (!kernels)
        return plm_fail(err, PLM_ARG, "PILUM_SIMD is \"%.20s\"; known: scalar, avx2, avx512", cap);
    if (o.threads > 1024)
        return plm_fail(err, PLM_ARG, "threads is %u, expected 1..1024 (0 = all processors)",
                        o.threads);

    struct plm_ctx *ctx = calloc(1, sizeof *ctx);
    pthread_mutex_t *lock = calloc(1, sizeof *lock);
    if (!ctx || !lock || pthread_mutex_init(lock, NULL) != 0) {
        free(ctx);
        free(lock);
        return plm_fail(err, PLM_NOMEM, "context: out of memory");
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    ctx->threads = o.threads ? o.threads : online > 0 ? (unsigned)plm_min_u64((uint64_t)online, 1024) : 1;
    ctx->memory_limit_bytes = plm_memory_limit("");
    ctx->memory_budget_bytes = o.memory_budget_bytes ? o.memory_budget_bytes : ctx->memory_limit_bytes / 2;
    if (o.budget_is_of_process)
        ctx->memory_base_bytes = plm_resident_bytes();
    if (plm_spares_create(ctx, err) != PLM_OK) {
        pthread_mutex_destroy(lock);
        free(ctx);
        free(lock);
        return PLM_NOMEM;
    }
    ctx->map_files = o.map_files;
    ctx->kernels = kernels;
    ctx->progress = o.progress;
    ctx->warn = o.warn;
    ctx->user = o.user;
    ctx->lock = lock;
    ctx->phase = ctx->unit = "";
    *out = ctx;
    return PLM_OK;
}

void plm_ctx_destroy(struct plm_ctx *ctx)
{
    if (!ctx)
        return;
    pthread_mutex_destroy(ctx->lock);
    free(ctx->lock);
    plm_spares_destroy(ctx);
    free(ctx);
}

void plm_ctx_cancel(struct plm_ctx *ctx)
{
    if (ctx)
        atomic_store(&ctx->cancelled, true);
}

enum plm_code plm_check_cancel(struct plm_ctx *ctx, struct plm_err *err)
{
    if (atomic_load_explicit(&ctx->cancelled, memory_order_relaxed))
        return plm_fail(err, PLM_CANCELLED, "interrupted");
    return PLM_OK;
}

/* Counts a test hook down; true on the call that reaches zero. */
static bool fault_now(atomic_long *countdown)
{
    if (atomic_load_explicit(countdown, memory_order_relaxed) <= 0)
        return false;
    return atomic_fetch_sub(countdown, 1) == 1;
}

enum plm_code plm_check_io_fault(struct plm_ctx *ctx, struct plm_err *err)
{
    if (fault_now(&ctx->faults.io_countdown))
        return plm_fail(err, PLM_IO, "injected input/output error");
    return PLM_OK;
}

bool plm_alloc_fault(struct plm_ctx *ctx)
{
    return fault_now(&ctx->faults.alloc_countdown);
}

void plm_warn(struct plm_ctx *ctx, const char *fmt, ...)
{
    char message[1000];
    va_list ap;

    if (!ctx->warn)
        return;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    keep_one_line(message);
    pthread_mutex_lock(ctx->lock);
    ctx->warn(ctx->user, message);
    pthread_mutex_unlock(ctx->lock);
}

/* ---- progress --------------------------------------------------------------- */

#define REPORT_EVERY_S 0.1

/* The caller holds the lock. */
static void report(struct plm_ctx *ctx, double now)
{
    struct plm_progress p = {
        .phase = ctx->phase,
        .detail = ctx->detail,
        .done = atomic_load(&ctx->done),
        .total = ctx->total,
        .unit = ctx->unit,
        .bytes_read = atomic_load(&ctx->bytes_read),
        .bytes_written = atomic_load(&ctx->bytes_written),
        .seconds = now - ctx->phase_began,
    };
    ctx->last_report = now;
    ctx->progress(ctx->user, &p);
}

void plm_progress_begin(struct plm_ctx *ctx, const char *phase, uint64_t total, const char *unit)
{
    pthread_mutex_lock(ctx->lock);
    ctx->phase = phase;
    ctx->unit = unit;
    ctx->total = total;
    ctx->detail[0] = 0;
    atomic_store(&ctx->done, 0);
    ctx->phase_began = plm_now_seconds();
    if (ctx->progress)
        report(ctx, ctx->phase_began);
    pthread_mutex_unlock(ctx->lock);
}

void plm_progress_add(struct plm_ctx *ctx, uint64_t done)
{
    atomic_fetch_add(&ctx->done, done);
    if (!ctx->progress || pthread_mutex_trylock(ctx->lock) != 0)
        return; /* someone else is reporting */
    double now = plm_now_seconds();
    if (now - ctx->last_report >= REPORT_EVERY_S)
        report(ctx, now);
    pthread_mutex_unlock(ctx->lock);
}

void plm_progress_detail(struct plm_ctx *ctx, const char *fmt, ...)
{
    va_list ap;
    pthread_mutex_lock(ctx->lock);
    va_start(ap, fmt);
    vsnprintf(ctx->detail, sizeof ctx->detail, fmt, ap);
    va_end(ap);
    double now = plm_now_seconds();
    if (ctx->progress && now - ctx->last_report >= REPORT_EVERY_S)
        report(ctx, now);
    pthread_mutex_unlock(ctx->lock);
}

void plm_progress_end(struct plm_ctx *ctx)
{
    pthread_mutex_lock(ctx->lock);
    if (ctx->total == 0)
        ctx->total = atomic_load(&ctx->done);
    atomic_store(&ctx->done, ctx->total);
    if (ctx->progress)
        report(ctx, plm_now_seconds());
    pthread_mutex_unlock(ctx->lock);
}

double plm_now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint64_t plm_unix_millis(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- randomness and hashing -------------------------------------------------- */

/* The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
 * generators, 2014), applied to a counter spread by the golden ratio. */
static uint64_t finish_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t plm_mix64(uint64_t seed, uint64_t i)
{
    return finish_mix(finish_mix(seed + 0x9e3779b97f4a7c15u) + (i + 1) * 0x9e3779b97f4a7c15u);
}

uint64_t plm_xxh3(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

enum plm_code plm_uuid_random(uint8_t uuid[16], struct plm_err *err)
{
    uint8_t bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return plm_fail_errno(err, errno, "getrandom");
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    memcpy(uuid, bytes, sizeof bytes);
    return PLM_OK;
}

void plm_uuid_text(const uint8_t uuid[16], char text[37])
{
    static const char hex[] = "0123456789abcdef";
    size_t at = 0;
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[at++] = '-';
        text[at++] = hex[uuid[i] >> 4];
        text[at++] = hex[uuid[i] & 15];
    }
    text[at] = 0;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool plm_uuid_parse(const char *text, uint8_t uuid[16])
{
    uint8_t bytes[16];
    if (strlen(text) != 36)
        return false;
    for (size_t i = 0, at = 0; i < 16; i++, at += 2) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            if (text[at++] != '-')
                return false;
        int high = hex_value(text[at]), low = hex_value(text[at + 1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(uuid, bytes, sizeof bytes);
    return true;
}
