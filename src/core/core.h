/* core.h - errors, memory under a budget, threads, randomness: what every room uses.
 *
 * Owns     a context owns its counters only; memory from plm_alloc() is the caller's.
 * Memory   everything of a size that input decides goes through plm_alloc(): checked
 *          arithmetic, then the budget, then one 64-byte aligned block.
 * Threads  plm_alloc/plm_free, counters, cancellation and progress may be used from
 *          the threads of plm_parallel().
 */
#ifndef PLM_CORE_H
#define PLM_CORE_H

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/sizes.h"
#include "pilum/pilum.h"

struct plm_kernels;
struct plm_spares;

/* ---- errors ---------------------------------------------------------------- */

/* Fills *err (if not NULL) and returns `code`. sys_errno is left 0. */
enum plm_code plm_fail(struct plm_err *err, enum plm_code code, const char *fmt, ...)
    PLM_PRINTF(3, 4);
/* The same, with errno's text appended and a code chosen from errno
 * (ENOENT NOT_FOUND, EACCES/EPERM DENIED, ENOMEM NOMEM, else IO). */
enum plm_code plm_fail_errno(struct plm_err *err, int sys_errno, const char *fmt, ...)
    PLM_PRINTF(3, 4);
/* Puts "prefix: " before the message; returns err's code, for `return plm_wrap(...)`.
 * `code` is what to return when err is NULL. */
enum plm_code plm_wrap(struct plm_err *err, enum plm_code code, const char *fmt, ...)
    PLM_PRINTF(3, 4);

/* Inside a function with `enum plm_code rc` and a `done:` label. */
#define PLM_TRY(call)                                                                    \
    do {                                                                                 \
        rc = (call);                                                                     \
        if (rc != PLM_OK)                                                                \
            goto done;                                                                   \
    } while (0)

/* For our own mistakes only; input never meets one. */
#define PLM_ASSERT(x)                                                                    \
    do {                                                                                 \
        if (!(x))                                                                        \
            plm_assert_failed(#x, __FILE__, __LINE__);                                   \
    } while (0)
_Noreturn void plm_assert_failed(const char *what, const char *file, int line);

/* ---- context --------------------------------------------------------------- */

/* Test hooks: fail the n-th allocation or I/O call. 0 = never. */
struct plm_faults {
    atomic_long alloc_countdown, io_countdown;
};

struct plm_ctx {
    unsigned threads;
    uint64_t memory_limit_bytes; /* what the machine, or its cgroup, leaves to this process and the page cache */
    uint64_t memory_budget_bytes;
    uint64_t memory_base_bytes; /* of the budget: taken, though not charged (the process itself) */
    bool map_files; /* as in struct plm_ctx_options */
    atomic_uint reads_wait; /* > 0: local files come from a device rather than the page cache, of late */
    const struct plm_kernels *kernels;
    void (*progress)(void *user, const struct plm_progress *progress);
    void (*warn)(void *user, const char *message);
    void *user;
    struct plm_spares *spares;    /* mem_spares.c */
    void *lock;                   /* pthread_mutex_t: one callback at a time */
    atomic_bool cancelled;
    atomic_uint_fast64_t memory_used, memory_peak; /* charged bytes */
    atomic_uint_fast64_t bytes_read, bytes_written;
    atomic_uint_fast64_t n_get, n_put, n_list, n_delete, n_retried;
    /* progress state of the running phase */
    const char *phase, *unit;
    char detail[80];
    atomic_uint_fast64_t done;
    uint64_t total;
    double phase_began, last_report;
    struct plm_faults faults;
};

/* PLM_CANCELLED once plm_ctx_cancel() was called; ask at least every 100 ms of work. */
PLM_MUST_CHECK enum plm_code plm_check_cancel(struct plm_ctx *ctx, struct plm_err *err);
/* PLM_IO when the fault hook says so; each I/O call of a store asks it once. */
PLM_MUST_CHECK enum plm_code plm_check_io_fault(struct plm_ctx *ctx, struct plm_err *err);
/* True when the hook says that this allocation fails; for mem.c. */
bool plm_alloc_fault(struct plm_ctx *ctx);

void plm_warn(struct plm_ctx *ctx, const char *fmt, ...) PLM_PRINTF(2, 3);

/* Progress: begin a phase, add work done (rate limited to ~10 callbacks a second),
 * name a detail. Phase and unit must be string literals. */
void plm_progress_begin(struct plm_ctx *ctx, const char *phase, uint64_t total, const char *unit);
void plm_progress_add(struct plm_ctx *ctx, uint64_t done);
void plm_progress_detail(struct plm_ctx *ctx, const char *fmt, ...) PLM_PRINTF(2, 3);
void plm_progress_end(struct plm_ctx *ctx); /* one last callback with done == total */

double plm_now_seconds(void); /* monotonic */
uint64_t plm_unix_millis(void);
#include "core/mem.h"

/* ---- threads --------------------------------------------------------------- */

/* Runs fn(arg, task, worker) for task 0..n_tasks-1 on up to ctx->threads threads
 * (worker < ctx->threads tells scratch apart). Tasks start in ascending order. After a
 * failure no new task starts; the error of the lowest failed task is returned. Honours
 * cancellation between tasks. Not nestable: a nested call runs on its own thread only. */
typedef enum plm_code plm_task_fn(void *arg, size_t task, unsigned worker, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_parallel(struct plm_ctx *ctx, size_t n_tasks, plm_task_fn *fn, void *arg, struct plm_err *err);

/* ---- randomness and hashing ------------------------------------------------- */

/* A good 64-bit mix of (seed, i): counter-based, so any element can be had alone. */
uint64_t plm_mix64(uint64_t seed, uint64_t i);
uint64_t plm_xxh3(const void *bytes, size_t n);

/* Version-4 UUID from the system's randomness; text is 36 characters + NUL. */
PLM_MUST_CHECK enum plm_code plm_uuid_random(uint8_t uuid[16], struct plm_err *err);
void plm_uuid_text(const uint8_t uuid[16], char text[37]);
bool plm_uuid_parse(const char *text, uint8_t uuid[16]);

#endif
