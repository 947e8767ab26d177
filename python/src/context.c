/* context.c - the type Context: threads, budget, kernels and callbacks of calls. */
#include "ext.h"

static PyObject *context_type; /* owned by the module; the extension is loaded once a process */

static PyObject *or_null(PyObject *callable)
{
    if (!callable || callable == Py_None)
        return NULL;
    Py_INCREF(callable);
    return callable;
}

static int context_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"threads", "memory_budget", "simd", "progress", "warn", NULL};
    struct plm_py_context *self = (struct plm_py_context *)object;
    struct plm_ctx_options options;
    struct plm_err err = {0};
    PyObject *progress = NULL, *warn = NULL;
    unsigned long long budget = 0;
    unsigned int threads = 0;
    const char *simd = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$IKzOO:Context", names, &threads, &budget, &simd,
                                     &progress, &warn))
        return -1;
    if (self->ctx) {
        PyErr_SetString(PyExc_RuntimeError, "a Context is made once");
        return -1;
    }
    plm_ctx_options_default(&options);
    options.threads = threads;
    options.memory_budget_bytes = budget;
    options.simd = simd;
    options.user = self;
    self->progress = or_null(progress);
    self->warn = or_null(warn);
    options.progress = self->progress ? plm_py_on_progress : NULL;
    options.warn = self->warn ? plm_py_on_warning : NULL;
    if (plm_ctx_create(&options, &self->ctx, &err) == PLM_OK)
        return 0;
    plm_py_raise(&err);
    return -1;
}

static void context_dealloc(PyObject *object)
{
    struct plm_py_context *self = (struct plm_py_context *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    plm_ctx_destroy(self->ctx);
    Py_XDECREF(self->progress);
    Py_XDECREF(self->warn);
    release(object);
    Py_DECREF(type);
}

static PyObject *context_cancel(PyObject *object, PyObject *unused)
{
    (void)unused;
    plm_ctx_cancel(((struct plm_py_context *)object)->ctx);
    PLM_RETURN_NONE;
}

static PyMethodDef context_methods[] = {
    {"cancel", context_cancel, METH_NOARGS,
     "End the call under way, and every later one, soon; they raise CancelledError."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot context_slots[] = {
    {Py_tp_doc, "Context(*, threads=0, memory_budget=0, simd=None, progress=None, warn=None)"
                "\n--\n\nThreads, memory and callbacks of calls of the library."},
    {Py_tp_init, context_init},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_methods, context_methods},
    {0, NULL}};

static PyType_Spec context_spec = {.name = "pilum._core.Context",
                                   .basicsize = sizeof(struct plm_py_context),
                                   .flags = Py_TPFLAGS_DEFAULT,
                                   .slots = context_slots};

int plm_py_context_ready(PyObject *module)
{
    if (!context_type)
        context_type = PyType_FromSpec(&context_spec);
    if (!context_type)
        return -1;
    Py_INCREF(context_type);
    if (PyModule_AddObject(module, "Context", context_type) == 0)
        return 0;
    Py_DECREF(context_type);
    return -1;
}

struct plm_py_context *plm_py_context(PyObject *object)
{
    if (context_type && PyObject_TypeCheck(object, (PyTypeObject *)context_type) &&
        ((struct plm_py_context *)object)->ctx)
        return (struct plm_py_context *)object;
    PyErr_SetString(PyExc_TypeError, "expected a pilum._core.Context");
    return NULL;
}
