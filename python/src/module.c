/* module.c - pilum._core: its functions, the type Context, the list of codes. */
#include "ext.h"

/* {"ARG": (1, "wrong argument"), ...} */
static PyObject *make_codes(void)
{
    static const struct {
        const char *name;
        int number;
        const char *text;
    } codes[] = {
#define CODE_ROW(name, number, text) {#name, number, text},
        PLM_CODES(CODE_ROW)
#undef CODE_ROW
    };
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict && i < sizeof(codes) / sizeof(codes[0]); i++) {
        PyObject *pair = Py_BuildValue("(is)", codes[i].number, codes[i].text);
        if (!pair || PyDict_SetItemString(dict, codes[i].name, pair) != 0) {
            Py_DECREF(dict);
            dict = NULL;
        }
        Py_XDECREF(pair);
    }
    return dict;
}

static int fill_module(PyObject *module)
{
    PyObject *codes = make_codes();

    if (!codes)
        return -1;
    if (PyModule_AddObject(module, "CODES", codes) != 0) {
        Py_DECREF(codes);
        return -1;
    }
    if (PyModule_AddStringConstant(module, "__version__", PLM_VERSION) != 0)
        return -1;
    return plm_py_context_ready(module) == 0 && plm_py_dist_ready(module) == 0 ? 0 : -1;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        .m_name = "pilum._core",
                                        .m_doc = "The C library, as the rest of the package calls it.",
                                        .m_size = -1};

/* Another file's functions join here with PyModule_AddFunctions(). */
PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (!module)
        return NULL;
    if (PyModule_AddFunctions(module, plm_py_calls) == 0 && fill_module(module) == 0)
        return module;
    Py_DECREF(module);
    return NULL;
}
