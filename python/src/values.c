/* values.c - Python values as the library's structs. */
#include <stdlib.h>
#include <string.h>

#include "ext.h"

/* ---- members of a dict ------------------------------------------------------------- */

/* Borrowed; NULL when missing or None. */
static PyObject *member(PyObject *dict, const char *name)
{
    PyObject *value = PyDict_GetItemString(dict, name);
    return value == Py_None ? NULL : value;
}

static int as_u64(PyObject *value, const char *name, uint64_t max, uint64_t *out)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(value);

    if (PyErr_Occurred())
        return -1;
    if (number > max) {
        PyErr_Format(PyExc_ValueError, "%s is %llu, at most %llu is possible", name, number,
                     (unsigned long long)max);
        return -1;
    }
    *out = number;
    return 0;
}

int plm_py_get_text(PyObject *dict, const char *name, const char **out)
{
    PyObject *value = member(dict, name);
    char *text;

    if (!value)
        return 0;
    if (PyBytes_AsStringAndSize(value, &text, NULL) != 0) /* refuses a NUL inside */
        return -1;
    *out = text;
    return 0;
}

int plm_py_get_u64(PyObject *dict, const char *name, uint64_t max, uint64_t *out)
{
    PyObject *value = member(dict, name);
    return value ? as_u64(value, name, max, out) : 0;
}

int plm_py_get_u32(PyObject *dict, const char *name, uint32_t *out)
{
    uint64_t number = *out;

    if (plm_py_get_u64(dict, name, UINT32_MAX, &number) != 0)
        return -1;
    *out = (uint32_t)number;
    return 0;
}

int plm_py_get_bool(PyObject *dict, const char *name, bool *out)
{
    PyObject *value = member(dict, name);
    int is_true = value ? PyObject_IsTrue(value) : *out;

    if (is_true < 0)
        return -1;
    *out = is_true != 0;
    return 0;
}

PyObject *plm_py_take_text(char *text)
{
    PyObject *result = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");

    plm_string_free(text);
    return result;
}

/* ---- tables --------------------------------------------------------------------------- */

static int parse_storage_options(PyObject *tuple, struct plm_py_table *out)
{
    Py_ssize_t n = PyTuple_Size(tuple);

    if (n < 0)
        return -1;
    out->options = calloc((size_t)n + 1, sizeof(*out->options));
    if (!out->options) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        char *text;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, i), &text, NULL) != 0)
            return -1;
        out->options[i] = text;
    }
    out->ref.storage_options = out->options;
    return 0;
}

int plm_py_table_parse(PyObject *tuple, struct plm_py_table *out)
{
    PyObject *options;
    unsigned long long version;

    memset(out, 0, sizeof(*out));
    if (!PyArg_ParseTuple(tuple, "yKzO!:table", &out->ref.uri, &version, &out->ref.branch, &PyTuple_Type,
                          &options))
        return -1;
    out->ref.version = version;
    if (parse_storage_options(options, out) == 0)
        return 0;
    plm_py_table_reset(out);
    return -1;
}

void plm_py_table_reset(struct plm_py_table *table)
{
    free(table->options);
    memset(table, 0, sizeof(*table));
}

/* ---- build options --------------------------------------------------------------------- */

/* (address, bytes per element, shape) of a matrix that the dict's owner keeps alive. */
static int get_matrix(PyObject *dict, const char *name, struct plm_matrix_view *out)
{
    PyObject *value = member(dict, name), *shape;
    struct plm_matrix_view view = {0};
    unsigned long long address;

    if (!value)
        return 0;
    if (!PyArg_ParseTuple(value, "KiO!", &address, &view.element, &PyTuple_Type, &shape))
        return -1;
    Py_ssize_t n = PyTuple_Size(shape);
    if (n < 2 || n > 3) {
        PyErr_Format(PyExc_ValueError, "%s has %zd dimensions, expected 2 or 3", name, n);
        return -1;
    }
    view.data = (const void *)(uintptr_t)address;
    view.n_dims = (size_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        uint64_t length;
        if (as_u64(PyTuple_GetItem(shape, i), name, SIZE_MAX, &length) != 0)
            return -1;
        view.shape[i] = (size_t)length;
    }
    *out = view;
    return 0;
}

static int get_fragments(PyObject *dict, struct plm_py_build *out)
{
    PyObject *value = member(dict, "fragments");

    if (!value)
        return 0;
    Py_ssize_t n = PyTuple_Size(value);
    if (n < 0)
        return -1;
    out->fragments = calloc((size_t)n + 1, sizeof(*out->fragments));
    if (!out->fragments) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (as_u64(PyTuple_GetItem(value, i), "fragments", UINT64_MAX, &out->fragments[i]) != 0)
            return -1;
    out->options.fragments = out->fragments;
    out->options.n_fragments = (size_t)n;
    return 0;
}

static int get_texts(PyObject *dict, struct plm_build_options *o)
{
    return plm_py_get_text(dict, "column", &o->column) || plm_py_get_text(dict, "type", &o->type) ||
                   plm_py_get_text(dict, "name", &o->name) ||
                   plm_py_get_text(dict, "metric", &o->metric) ||
                   plm_py_get_text(dict, "work_dir", &o->work_dir) ||
                   plm_py_get_text(dict, "verify", &o->verify) ||
                   plm_py_get_text(dict, "column_copy", &o->column_copy)
               ? -1
               : 0;
}

static int get_numbers(PyObject *dict, struct plm_build_options *o)
{
    return plm_py_get_u64(dict, "num_partitions", UINT64_MAX, &o->num_partitions) ||
                   plm_py_get_u64(dict, "num_sub_vectors", UINT64_MAX, &o->num_sub_vectors) ||
                   plm_py_get_u32(dict, "num_bits", &o->num_bits) ||
                   plm_py_get_u64(dict, "sample_rate", UINT64_MAX, &o->sample_rate) ||
                   plm_py_get_u32(dict, "max_iters", &o->max_iters) ||
                   plm_py_get_u64(dict, "seed", UINT64_MAX, &o->seed) ||
                   plm_py_get_u64(dict, "num_segments", UINT64_MAX, &o->num_segments) ||
                   plm_py_get_bool(dict, "replace", &o->replace) ||
                   plm_py_get_bool(dict, "restart", &o->restart) ||
                   plm_py_get_bool(dict, "leave_commit", &o->leave_commit)
               ? -1
               : 0;
}

int plm_py_build_parse(PyObject *dict, struct plm_py_build *out)
{
    memset(out, 0, sizeof(*out));
    plm_build_options_default(&out->options);
    if (!PyDict_Check(dict)) {
        PyErr_SetString(PyExc_TypeError, "options must be a dict");
        return -1;
    }
    if (get_texts(dict, &out->options) == 0 && get_numbers(dict, &out->options) == 0 &&
        get_matrix(dict, "ivf_centroids", &out->options.ivf_centroids) == 0 &&
        get_matrix(dict, "pq_codebook", &out->options.pq_codebook) == 0 && get_fragments(dict, out) == 0)
        return 0;
    plm_py_build_reset(out);
    return -1;
}

void plm_py_build_reset(struct plm_py_build *build)
{
    free(build->fragments);
    memset(build, 0, sizeof(*build));
}
