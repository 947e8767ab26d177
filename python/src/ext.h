/* ext.h - pilum._core, the thin layer between Python and the C library.
 *
 * Owns     a Context object owns its struct plm_ctx. Everything handed to Python is Python's.
 * Threads  a long call runs on a thread of its own, without the GIL. The calling thread waits,
 *          looks for signals (Ctrl-C) and runs the Python callbacks: progress and warnings
 *          always arrive on the thread that made the call.
 * Errors   functions return NULL or -1 with a Python exception set.
 */
#ifndef PLM_EXT_H
#define PLM_EXT_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x03090000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pilum/pilum.h"

#define PLM_RETURN_NONE return (Py_INCREF(Py_None), Py_None)

struct plm_py_context {
    PyObject_HEAD
    struct plm_ctx *ctx;
    struct plm_py_call *call; /* the call under way, NULL = idle */
    PyObject *progress;       /* called with 8 arguments, see run.c; or NULL */
    PyObject *warn;           /* called with one text; or NULL */
};

/* ---- context.c ------------------------------------------------------------------ */

/* Adds the type Context to the module. */
int plm_py_context_ready(PyObject *module);
/* `object` as a context; TypeError if it is none. Borrowed. */
struct plm_py_context *plm_py_context(PyObject *object);

/* ---- run.c ---------------------------------------------------------------------- */

/* A call of the library with its arguments in `arg`; runs without the GIL. */
typedef enum plm_code plm_py_fn(struct plm_ctx *ctx, void *arg, struct plm_err *err);

/* Runs fn and waits. 0, or -1 with an exception: the error of the library, or whatever a
 * signal handler or a callback raised (then the call was cancelled, and has ended). What fn
 * wrote before a callback raised is the caller's to release. */
int plm_py_run(struct plm_py_context *self, plm_py_fn *fn, void *arg);
/* Sets the exception of an error of the library (pilum._errors decides which). */
void plm_py_raise(const struct plm_err *err);

/* Hooks of struct plm_ctx_options; user = struct plm_py_context. */
void plm_py_on_progress(void *user, const struct plm_progress *progress);
void plm_py_on_warning(void *user, const char *message);

/* ---- values.c ------------------------------------------------------------------- */

/* Texts come as bytes (UTF-8), which can be borrowed while their owner lives. A branch is a str. */

/* A table reference out of (uri, version, branch, (key, value, ...)); borrows the texts. */
struct plm_py_table {
    struct plm_table_ref ref;
    const char **options;
};
int plm_py_table_parse(PyObject *tuple, struct plm_py_table *out);
void plm_py_table_reset(struct plm_py_table *table);

/* Build options out of a dict with the names of struct plm_build_options; names that are
 * missing keep their default. Borrows the texts and matrices of the dict. */
struct plm_py_build {
    struct plm_build_options options;
    uint64_t *fragments;
};
int plm_py_build_parse(PyObject *dict, struct plm_py_build *out);
void plm_py_build_reset(struct plm_py_build *build);

/* Members of a dict; a missing name or None leaves *out alone. -1 with an exception. Texts
 * are borrowed from the dict. */
int plm_py_get_text(PyObject *dict, const char *name, const char **out);
int plm_py_get_u64(PyObject *dict, const char *name, uint64_t max, uint64_t *out);
int plm_py_get_u32(PyObject *dict, const char *name, uint32_t *out);
int plm_py_get_bool(PyObject *dict, const char *name, bool *out);

/* A text that the library made, as str; frees it. NULL stays an error. */
PyObject *plm_py_take_text(char *text);

/* ---- calls.c -------------------------------------------------------------------- */

extern PyMethodDef plm_py_calls[];

/* ---- dist_calls.c --------------------------------------------------------------- */

/* Adds the type Dist and its openers to the module. */
int plm_py_dist_ready(PyObject *module);

#endif
