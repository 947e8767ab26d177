/* calls.c - the calls of pilum.h, one Python function each: (context, table, ...). */
#include <stdlib.h>
#include <string.h>

#include "ext.h"

/* Arguments and results of one call; each call uses the members it needs. */
struct job {
    struct plm_py_table table;
    struct plm_py_build build;
    struct plm_verify_options verify;
    struct plm_search_options search;
    const char *index;
    int remove;
    char *text;
    uint64_t n_problems;
    struct plm_hits hits;
};

static void job_reset(struct job *job)
{
    plm_py_table_reset(&job->table);
    plm_py_build_reset(&job->build);
    plm_string_free(job->text);
    plm_hits_reset(&job->hits);
}

/* Runs fn; the result is the text that it left in the job. Ends the job. */
static PyObject *run_for_text(struct plm_py_context *context, plm_py_fn *fn, struct job *job)
{
    PyObject *result = NULL;

    if (plm_py_run(context, fn, job) == 0) {
        result = plm_py_take_text(job->text);
        job->text = NULL;
    }
    job_reset(job);
    return result;
}

/* ---- create_index, plan_index ------------------------------------------------------ */

static enum plm_code do_create(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_create_index(ctx, &j->table.ref, &j->build.options, &j->text, err);
}

static enum plm_code do_plan(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_plan_index(ctx, &j->table.ref, &j->build.options, &j->text, err);
}

static PyObject *build_call(PyObject *args, plm_py_fn *fn)
{
    PyObject *object, *table, *options;
    struct plm_py_context *context;
    struct job job = {0};

    if (!PyArg_ParseTuple(args, "OO!O!", &object, &PyTuple_Type, &table, &PyDict_Type, &options) ||
        !(context = plm_py_context(object)) || plm_py_table_parse(table, &job.table) != 0)
        return NULL;
    if (plm_py_build_parse(options, &job.build) != 0) {
        job_reset(&job);
        return NULL;
    }
    return run_for_text(context, fn, &job);
}

static PyObject *create_index(PyObject *module, PyObject *args)
{
    (void)module;
    return build_call(args, do_create);
}

static PyObject *plan_index(PyObject *module, PyObject *args)
{
    (void)module;
    return build_call(args, do_plan);
}

/* ---- inspect, gc, version -------------------------------------------------------------- */

static enum plm_code do_inspect(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_inspect(ctx, &j->table.ref, j->index, &j->text, err);
}

static PyObject *inspect(PyObject *module, PyObject *args)
{
    PyObject *object, *table;
    struct plm_py_context *context;
    struct job job = {0};

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!z", &object, &PyTuple_Type, &table, &job.index) ||
        !(context = plm_py_context(object)) || plm_py_table_parse(table, &job.table) != 0)
        return NULL;
    return run_for_text(context, do_inspect, &job);
}

static enum plm_code do_gc(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_gc(ctx, &j->table.ref, j->remove != 0, &j->text, err);
}

static PyObject *collect_garbage(PyObject *module, PyObject *args)
{
    PyObject *object, *table;
    struct plm_py_context *context;
    struct job job = {0};

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!p", &object, &PyTuple_Type, &table, &job.remove) ||
        !(context = plm_py_context(object)) || plm_py_table_parse(table, &job.table) != 0)
        return NULL;
    return run_for_text(context, do_gc, &job);
}

static enum plm_code do_version(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_version_json(ctx, &j->text, err);
}

static PyObject *version_json(PyObject *module, PyObject *object)
{
    struct plm_py_context *context = plm_py_context(object);
    struct job job = {0};

    (void)module;
    return context ? run_for_text(context, do_version, &job) : NULL;
}

/* ---- verify ----------------------------------------------------------------------------- */

static enum plm_code do_verify(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_verify_index(ctx, &j->table.ref, &j->verify, &j->text, &j->n_problems, err);
}

static PyObject *verify_index(PyObject *module, PyObject *args)
{
    PyObject *object, *table, *text;
    struct plm_py_context *context;
    struct job job = {0};
    unsigned int queries;
    int full;

    (void)module;
    plm_verify_options_default(&job.verify);
    if (!PyArg_ParseTuple(args, "OO!ypI|z", &object, &PyTuple_Type, &table, &job.verify.index, &full, &queries,
                          &job.verify.column_copy) ||
        !(context = plm_py_context(object)) || plm_py_table_parse(table, &job.table) != 0)
        return NULL;
    job.verify.full = full != 0;
    job.verify.queries = queries;
    text = run_for_text(context, do_verify, &job);
    return text ? Py_BuildValue("(NK)", text, (unsigned long long)job.n_problems) : NULL;
}

/* ---- search ------------------------------------------------------------------------------ */

static enum plm_code do_search(struct plm_ctx *ctx, void *arg, struct plm_err *err)
{
    struct job *j = arg;
    return plm_search(ctx, &j->table.ref, &j->search, &j->hits, err);
}

/* vector: float32 values as bytes. */
static int parse_search(PyObject *dict, struct plm_search_options *o)
{
    PyObject *vector = PyDict_GetItemString(dict, "vector");

    plm_search_options_default(o);
    if (vector && vector != Py_None) {
        char *data;
        Py_ssize_t n_bytes;
        if (PyBytes_AsStringAndSize(vector, &data, &n_bytes) != 0)
            return -1;
        o->vector = (const float *)(const void *)data; /* bytes objects are aligned for this */
        o->dim = (size_t)n_bytes / sizeof(float);
    }
    return plm_py_get_text(dict, "column", &o->column) || plm_py_get_text(dict, "index", &o->index) ||
                   plm_py_get_text(dict, "column_copy", &o->column_copy) ||
                   plm_py_get_u64(dict, "rowid", UINT64_MAX, &o->rowid) ||
                   plm_py_get_u32(dict, "k", &o->k) || plm_py_get_u32(dict, "nprobes", &o->nprobes) ||
                   plm_py_get_u32(dict, "refine_factor", &o->refine_factor) ||
                   plm_py_get_bool(dict, "exact", &o->exact)
               ? -1
               : 0;
}

static PyObject *search(PyObject *module, PyObject *args)
{
    PyObject *object, *table, *options, *result = NULL;
    struct plm_py_context *context;
    struct job job = {0};

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!O!", &object, &PyTuple_Type, &table, &PyDict_Type, &options) ||
        !(context = plm_py_context(object)) || parse_search(options, &job.search) != 0 ||
        plm_py_table_parse(table, &job.table) != 0)
        return NULL;
    if (plm_py_run(context, do_search, &job) == 0)
        result = Py_BuildValue("(y#y#IKd)", (const char *)job.hits.rowids,
                               (Py_ssize_t)(job.hits.n * sizeof(*job.hits.rowids)),
                               (const char *)job.hits.distances,
                               (Py_ssize_t)(job.hits.n * sizeof(*job.hits.distances)),
                               (unsigned int)job.hits.nprobes, (unsigned long long)job.hits.rows_scanned,
                               job.hits.seconds);
    job_reset(&job);
    return result;
}

PyMethodDef plm_py_calls[] = {
    {"create_index", create_index, METH_VARARGS, "(context, table, options) -> report as JSON"},
    {"plan_index", plan_index, METH_VARARGS, "(context, table, options) -> plan as JSON"},
    {"inspect", inspect, METH_VARARGS, "(context, table, index or None) -> JSON"},
    {"verify_index", verify_index, METH_VARARGS,
     "(context, table, index, full, queries) -> (report as JSON, number of problems)"},
    {"search", search, METH_VARARGS,
     "(context, table, options) -> (row ids, distances, nprobes, rows scanned, seconds)"},
    {"gc", collect_garbage, METH_VARARGS, "(context, table, remove) -> JSON"},
    {"version", version_json, METH_O, "(context) -> JSON"},
    {NULL, NULL, 0, NULL}};
