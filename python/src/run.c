/* run.c - run a call of the library on its own thread while Python stays responsive.
 *
 * Why a thread: Python looks for signals only on its main thread, and only while that thread
 * runs Python. So the main thread must not be the one that computes. The library's own
 * threads never touch Python; they leave events here, which the waiting thread delivers.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ext.h"

#define POLL_MS 50       /* between two looks for signals */
#define EVENTS_MAX 64    /* phases begin and end rarely; the rest comes 10 times a second */
#define WARNINGS_MAX 100 /* more of them in 50 ms say nothing new */

struct event {
    char phase[16], detail[80], unit[16];
    uint64_t done, total, bytes_read, bytes_written;
    double seconds;
};

struct plm_py_call {
    struct plm_ctx *ctx;
    plm_py_fn *fn;
    void *arg;
    enum plm_code rc;
    struct plm_err err;
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t news;
    bool is_done;
    struct event events[EVENTS_MAX];
    size_t n_events;
    char *warnings[WARNINGS_MAX];
    size_t n_warnings;
};

/* ---- on the library's threads ---------------------------------------------------- */

static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size - 1);
    while (n > 0 && n == size - 1 && ((unsigned char)from[n] & 0xc0) == 0x80)
        n--; /* never cut inside a character */
    memcpy(to, from, n);
    to[n] = '\0';
}

void plm_py_on_progress(void *user, const struct plm_progress *p)
{
    struct plm_py_call *call = ((struct plm_py_context *)user)->call;

    if (!call)
        return;
    pthread_mutex_lock(&call->lock);
    /* A full queue means a slow callback: the newest news replaces the one before. */
    struct event *e = &call->events[call->n_events < EVENTS_MAX ? call->n_events++ : EVENTS_MAX - 1];
    copy_text(e->phase, sizeof(e->phase), p->phase);
    copy_text(e->detail, sizeof(e->detail), p->detail);
    copy_text(e->unit, sizeof(e->unit), p->unit);
    e->done = p->done;
    e->total = p->total;
    e->bytes_read = p->bytes_read;
    e->bytes_written = p->bytes_written;
    e->seconds = p->seconds;
    pthread_cond_signal(&call->news);
    pthread_mutex_unlock(&call->lock);
}

void plm_py_on_warning(void *user, const char *message)
{
    struct plm_py_call *call = ((struct plm_py_context *)user)->call;

    if (!call)
        return;
    pthread_mutex_lock(&call->lock);
    if (call->n_warnings < WARNINGS_MAX) {
        char *copy = strdup(message);
        if (copy)
            call->warnings[call->n_warnings++] = copy;
    }
    pthread_cond_signal(&call->news);
    pthread_mutex_unlock(&call->lock);
}

static void *run_call(void *arg)
{
    struct plm_py_call *call = arg;

    call->rc = call->fn(call->ctx, call->arg, &call->err);
    pthread_mutex_lock(&call->lock);
    call->is_done = true;
    pthread_cond_signal(&call->news);
    pthread_mutex_unlock(&call->lock);
    return NULL;
}

/* ---- on the thread that called ----------------------------------------------------- */

static int tell_progress(struct plm_py_context *self, const struct event *e)
{
    PyObject *result = PyObject_CallFunction(self->progress, "ssKKsKKd", e->phase, e->detail,
                                             (unsigned long long)e->done, (unsigned long long)e->total,
                                             e->unit, (unsigned long long)e->bytes_read,
                                             (unsigned long long)e->bytes_written, e->seconds);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int tell_warning(struct plm_py_context *self, const char *message)
{
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
    PyObject *result = text ? PyObject_CallFunctionObjArgs(self->warn, text, NULL) : NULL;

    Py_XDECREF(text);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Hands over everything that waits; stops at the first exception. */
static int deliver(struct plm_py_context *self, struct plm_py_call *call, struct event *room)
{
    char *warnings[WARNINGS_MAX];
    size_t n_events, n_warnings;
    int status = 0;

    pthread_mutex_lock(&call->lock);
    n_events = call->n_events;
    memcpy(room, call->events, n_events * sizeof(*room));
    call->n_events = 0;
    n_warnings = call->n_warnings;
    memcpy(warnings, call->warnings, n_warnings * sizeof(*warnings));
    call->n_warnings = 0;
    pthread_mutex_unlock(&call->lock);

    for (size_t i = 0; i < n_warnings; i++) {
        if (status == 0)
            status = tell_warning(self, warnings[i]);
        free(warnings[i]);
    }
    for (size_t i = 0; i < n_events && status == 0; i++)
        status = tell_progress(self, &room[i]);
    return status;
}

/* True when the call has ended. Returns early for news. Without the GIL. */
static bool wait_a_little(struct plm_py_call *call, bool deaf)
{
    struct timespec until;
    int status = 0;
    bool is_done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += POLL_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&call->lock);
    while (!call->is_done && status != ETIMEDOUT &&
           (deaf || (call->n_events == 0 && call->n_warnings == 0)))
        status = pthread_cond_timedwait(&call->news, &call->lock, &until);
    is_done = call->is_done;
    pthread_mutex_unlock(&call->lock);
    return is_done;
}

/* Until the call ends. -1 with the exception of a signal handler or a callback. */
static int attend(struct plm_py_context *self, struct plm_py_call *call, struct event *room)
{
    PyObject *type = NULL, *value = NULL, *traceback = NULL; /* what was raised first */
    bool is_done = false;

    while (!is_done) {
        Py_BEGIN_ALLOW_THREADS
        is_done = wait_a_little(call, type != NULL);
        Py_END_ALLOW_THREADS
        if (type)
            continue;
        if (PyErr_CheckSignals() != 0 || deliver(self, call, room) != 0) {
            PyErr_Fetch(&type, &value, &traceback);
            plm_ctx_cancel(call->ctx);
        }
    }
    if (!type)
        return 0;
    PyErr_Restore(type, value, traceback);
    return -1;
}

void plm_py_raise(const struct plm_err *err)
{
    PyObject *errors = PyImport_ImportModule("pilum._errors");
    PyObject *message = PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strnlen(err->message, sizeof(err->message)),
                                             "replace");
    PyObject *error = NULL;

    if (errors && message)
        error = PyObject_CallMethod(errors, "error_from_core", "iOii", (int)err->code, message,
                                    err->sys_errno, err->http_status);
    if (error)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(message);
    Py_XDECREF(errors);
}

/* The new thread and all that it starts leave signals to Python's threads. */
static int start(struct plm_py_call *call, pthread_t *thread)
{
    sigset_t all, before;
    int status;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    status = pthread_create(thread, NULL, run_call, call);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

static void free_call(struct plm_py_call *call)
{
    for (size_t i = 0; i < call->n_warnings; i++)
        free(call->warnings[i]);
    pthread_cond_destroy(&call->news);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

static struct plm_py_call *new_call(struct plm_ctx *ctx, plm_py_fn *fn, void *arg)
{
    struct plm_py_call *call = calloc(1, sizeof(*call));
    pthread_condattr_t attributes;

    if (!call)
        return NULL;
    call->ctx = ctx;
    call->fn = fn;
    call->arg = arg;
    pthread_mutex_init(&call->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&call->news, &attributes);
    pthread_condattr_destroy(&attributes);
    return call;
}

int plm_py_run(struct plm_py_context *self, plm_py_fn *fn, void *arg)
{
    struct event *room = malloc(EVENTS_MAX * sizeof(*room));
    struct plm_py_call *call = new_call(self->ctx, fn, arg);
    pthread_t thread;
    int status = -1, sys_errno;

    if (!call || !room) {
        PyErr_NoMemory();
        goto done;
    }
    if (self->call) {
        PyErr_SetString(PyExc_RuntimeError, "this Context is in use: one call at a time");
        goto done;
    }
    self->call = call;
    if ((sys_errno = start(call, &thread)) != 0) {
        PyErr_Format(PyExc_RuntimeError, "no thread can be started: %s", strerror(sys_errno));
        self->call = NULL;
        goto done;
    }
    status = attend(self, call, room);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    self->call = NULL;
    if (status == 0)
        status = deliver(self, call, room);
    if (status == 0 && call->rc != PLM_OK) {
        plm_py_raise(&call->err);
        status = -1;
    }
done:
    if (call)
        free_call(call);
    free(room);
    return status;
}
