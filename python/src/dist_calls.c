/* dist_calls.c - the type Dist: a build that several processes share (build/dist.h).
 *
 * A Dist keeps its Context, table and options alive; messages are bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "build/dist.h"
#include "ext.h"

#define ANSWER_MAX ((size_t)8 << 30)

struct dist_object {
    PyObject_HEAD
    struct plm_dist *dist;
    PyObject *context, *table_owner, *options_owner; /* what the C structs below borrow from */
    struct plm_py_table table;
    struct plm_py_build build;
};

static PyObject *dist_type; /* owned by the module; the extension is loaded once a process */

/* ---- opening ------------------------------------------------------------------------- */

struct opening {
    struct dist_object *self;
    uint32_t n_workers;
    struct plm_view plan;
    const char *spill_dir;
    bool done;
};

static enum plm_code do_open(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct opening *o = arg;
    return plm_dist_open(ctx, &o->self->table.ref, &o->self->build.options, o->n_workers, &o->self->dist,
                         &o->done, err);
}

static enum plm_code do_join(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct opening *o = arg;
    return plm_dist_join(ctx, &o->self->table.ref, &o->self->build.options, o->n_workers, o->plan,
                         o->spill_dir, &o->self->dist, err);
}

/* A Dist with its arguments parsed, not open yet. */
static struct dist_object *new_dist(PyObject *context, PyObject *table, PyObject *options)
{
    PyTypeObject *type = (PyTypeObject *)dist_type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct dist_object *self;

    if (!plm_py_context(context) || !(self = (struct dist_object *)alloc(type, 0)))
        return NULL;
    Py_INCREF(context);
    Py_INCREF(table);
    Py_INCREF(options);
    self->context = context;
    self->table_owner = table;
    self->options_owner = options;
    if (plm_py_table_parse(table, &self->table) == 0 && plm_py_build_parse(options, &self->build) == 0)
        return self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static PyObject *dist_open(PyObject *module, PyObject *args)
{
    PyObject *context, *table, *options;
    struct opening o = {0};
    unsigned int n_workers;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!O!I", &context, &PyTuple_Type, &table, &PyDict_Type, &options, &n_workers))
        return NULL;
    o.n_workers = n_workers;
    if (!(o.self = new_dist(context, table, options)))
        return NULL;
    if (plm_py_run(plm_py_context(context), do_open, &o) == 0)
        return Py_BuildValue("(NO)", (PyObject *)o.self, o.done ? Py_True : Py_False);
    Py_DECREF((PyObject *)o.self);
    return NULL;
}

static PyObject *dist_join(PyObject *module, PyObject *args)
{
    PyObject *context, *table, *options;
    struct opening o = {0};
    unsigned int n_workers;
    const char *plan;
    Py_ssize_t plan_bytes;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!O!Iy#y", &context, &PyTuple_Type, &table, &PyDict_Type, &options,
                          &n_workers, &plan, &plan_bytes, &o.spill_dir))
        return NULL;
    o.n_workers = n_workers;
    o.plan = (struct plm_view){(const uint8_t *)plan, (size_t)plan_bytes};
    if (!(o.self = new_dist(context, table, options)))
        return NULL;
    if (plm_py_run(plm_py_context(context), do_join, &o) == 0)
        return (PyObject *)o.self;
    Py_DECREF((PyObject *)o.self);
    return NULL;
}

static void close_dist(struct dist_object *self)
{
    plm_dist_close(self->dist);
    self->dist = NULL;
}

static void dist_dealloc(PyObject *object)
{
    struct dist_object *self = (struct dist_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    close_dist(self);
    plm_py_table_reset(&self->table);
    plm_py_build_reset(&self->build);
    Py_XDECREF(self->context);
    Py_XDECREF(self->table_owner);
    Py_XDECREF(self->options_owner);
    release(object);
    Py_DECREF(type);
}

/* ---- calls ------------------------------------------------------------------------------ */

struct calling {
    struct plm_dist *dist;
    const char *name;
    struct plm_dist_args args;
    uint64_t *numbers;
    struct plm_view *messages;
    struct plm_buf answer;
};

static enum plm_code do_call(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct calling *c = arg;
    plm_buf_init(&c->answer, ctx, ANSWER_MAX);
    return plm_dist_call(c->dist, c->name, &c->args, &c->answer, err);
}

static int parse_numbers(PyObject *tuple, struct calling *c)
{
    Py_ssize_t n = PyTuple_Size(tuple);

    c->numbers = calloc((size_t)n + 1, sizeof(*c->numbers));
    if (!c->numbers) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        c->numbers[i] = PyLong_AsUnsignedLongLong(PyTuple_GetItem(tuple, i));
        if (PyErr_Occurred())
            return -1;
    }
    c->args.numbers = c->numbers;
    c->args.n_numbers = (size_t)n;
    return 0;
}

static int parse_messages(PyObject *tuple, struct calling *c)
{
    Py_ssize_t n = PyTuple_Size(tuple);

    c->messages = calloc((size_t)n + 1, sizeof(*c->messages));
    if (!c->messages) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        char *data;
        Py_ssize_t n_bytes;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, i), &data, &n_bytes) != 0)
            return -1;
        c->messages[i] = (struct plm_view){(const uint8_t *)data, (size_t)n_bytes};
    }
    c->args.messages = c->messages;
    c->args.n_messages = (size_t)n;
    return 0;
}

static PyObject *dist_call(PyObject *object, PyObject *args)
{
    struct dist_object *self = (struct dist_object *)object;
    PyObject *numbers, *messages, *result = NULL;
    struct calling c = {.dist = self->dist};

    if (!PyArg_ParseTuple(args, "sO!O!", &c.name, &PyTuple_Type, &numbers, &PyTuple_Type, &messages))
        return NULL;
    if (!self->dist) {
        PyErr_SetString(PyExc_RuntimeError, "this Dist is closed");
        return NULL;
    }
    if (parse_numbers(numbers, &c) == 0 && parse_messages(messages, &c) == 0 &&
        plm_py_run(plm_py_context(self->context), do_call, &c) == 0)
        result = PyBytes_FromStringAndSize((const char *)c.answer.data, (Py_ssize_t)c.answer.len);
    if (c.answer.ctx)
        plm_buf_reset(&c.answer);
    free(c.numbers);
    free(c.messages);
    return result;
}

static PyObject *dist_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    close_dist((struct dist_object *)object);
    PLM_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------------------------ */

static PyMethodDef dist_methods[] = {
    {"call", dist_call, METH_VARARGS, "(name, numbers, messages) -> bytes; see build/dist.h"},
    {"close", dist_close, METH_NOARGS, "Release files, memory and the lock."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot dist_slots[] = {
    {Py_tp_doc, "A build that several processes share; made by dist_open() and dist_join()."},
    {Py_tp_dealloc, dist_dealloc},
    {Py_tp_methods, dist_methods},
    {0, NULL}};

static PyType_Spec dist_spec = {.name = "pilum._core.Dist",
                                .basicsize = sizeof(struct dist_object),
                                .flags = Py_TPFLAGS_DEFAULT,
                                .slots = dist_slots};

static PyMethodDef dist_functions[] = {
    {"dist_open", dist_open, METH_VARARGS,
     "(context, table, options, n_workers) -> (Dist, True if it is committed already)"},
    {"dist_join", dist_join, METH_VARARGS,
     "(context, table, options, n_workers, plan, spill_dir) -> Dist"},
    {NULL, NULL, 0, NULL}};

int plm_py_dist_ready(PyObject *module)
{
    if (!dist_type)
        dist_type = PyType_FromSpec(&dist_spec);
    if (!dist_type || PyModule_AddFunctions(module, dist_functions) != 0)
        return -1;
    Py_INCREF(dist_type);
    if (PyModule_AddObject(module, "Dist", dist_type) == 0)
        return 0;
    Py_DECREF(dist_type);
    return -1;
}
