/* column.c - a column of vectors by its path.
 *
 * A path is names joined by dots; a name may stand in backticks (then dots inside it are
 * plain) and a doubled backtick inside stands for one.
 */
#include "lance/column.h"
#include "lance/manifest_impl.h"

#define DIM_MAX 65536u
#define NAMES_BYTES 600u /* of the list of columns in a message */
#define TOP_LEVEL (-1)

/* ---- paths ----------------------------------------------------------------------- */

/* Takes the next name off *at into `name` (as long as the whole path). */
static enum plm_code next_name(const char *path, const char **at, char *name, struct plm_err *err)
{
    const char *c = *at;
    bool is_quoted = *c == '`';
    size_t n = 0;

    for (c += is_quoted; *c; c++) {
        if (is_quoted && c[0] == '`' && c[1] != '`')
            break;
        if (!is_quoted && *c == '.')
            break;
        if (is_quoted && c[0] == '`')
            c++;
        name[n++] = *c;
    }
    if (is_quoted) {
        if (*c != '`')
            return plm_fail(err, PLM_ARG, "column path '%.200s': a backtick is not closed", path);
        c++;
    }
    if ((*c && *c != '.') || n == 0 || (c[0] == '.' && !c[1]))
        return plm_fail(err, PLM_ARG, "column path '%.200s': a name is empty or badly quoted", path);
    name[n] = 0;
    *at = *c == '.' ? c + 1 : c;
    return PLM_OK;
}

static const struct plm_field *find_child(const struct plm_manifest *m, int32_t parent_id,
                                          const char *name)
{
    for (size_t i = 0; i < m->n_fields; i++) {
        if (m->fields[i].parent_id == parent_id && (!name || !strcmp(m->fields[i].name, name)))
            return &m->fields[i];
    }
    return NULL;
}

static const struct plm_field *find_id(const struct plm_manifest *m, int32_t id)
{
    for (size_t i = 0; i < m->n_fields; i++) {
        if (m->fields[i].id == id)
            return &m->fields[i];
    }
    return NULL;
}

static bool is_list(const struct plm_field *field)
{
    return strncmp(field->logical_type, "list", 4) == 0 ||
           strncmp(field->logical_type, "large_list", 10) == 0 ||
           strncmp(field->logical_type, "map", 3) == 0;
}

static enum plm_code add_quoted(struct plm_buf *buf, const char *name, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (!strpbrk(name, ".`") && *name)
        return plm_buf_add(buf, name, strlen(name), err);
    PLM_TRY(plm_buf_add(buf, "`", 1, err));
    for (const char *c = name; *c; c++) {
        PLM_TRY(plm_buf_add(buf, c, 1, err));
        if (*c == '`')
            PLM_TRY(plm_buf_add(buf, c, 1, err));
    }
    PLM_TRY(plm_buf_add(buf, "`", 1, err));
done:
    return rc;
}

/* From the leaf up to the top; the path is then read back to front. */
static enum plm_code collect_parents(const struct plm_manifest *m, int32_t field_id,
                                     const struct plm_field **chain, size_t *n_out,
                                     struct plm_err *err)
{
    size_t n = 0;

    for (int32_t id = field_id; id != TOP_LEVEL;) {
        const struct plm_field *field = find_id(m, id);

        if (!field)
            return plm_fail(err, n ? PLM_CORRUPT : PLM_NOT_FOUND,
                            "version %" PRIu64 " has no field with id %" PRId32, m->version, id);
        if (n == m->n_fields)
            return plm_fail(err, PLM_CORRUPT, "field %" PRId32 " is its own ancestor", field_id);
        chain[n++] = field;
        id = field->parent_id;
    }
    *n_out = n;
    return PLM_OK;
}

enum plm_code plm_manifest_field_path(const struct plm_manifest *manifest, int32_t field_id,
                                      char **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_field **chain = NULL;
    struct plm_buf text;
    size_t n = 0;

    plm_buf_init(&text, manifest->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_alloc(manifest->ctx, &chain, manifest->n_fields, sizeof *chain, err));
    PLM_TRY(collect_parents(manifest, field_id, chain, &n, err));
    while (n-- > 0) {
        PLM_TRY(add_quoted(&text, chain[n]->name, err));
        if (n)
            PLM_TRY(plm_buf_add(&text, ".", 1, err));
    }
    PLM_TRY(plm_strndup(manifest->ctx, (const char *)text.data, text.len, out, err));
done:
    plm_buf_reset(&text);
    plm_free(manifest->ctx, chain);
    return rc;
}

/* ---- messages ---------------------------------------------------------------------- */

/* Below plain structs only, so that a path can name it. */
static bool is_reachable(const struct plm_manifest *m, const struct plm_field *field)
{
    size_t n_steps = 0;

    while (field->parent_id != TOP_LEVEL) {
        field = find_id(m, field->parent_id);
        if (!field || field->is_packed || strcmp(field->logical_type, "struct") != 0 ||
            n_steps++ == m->n_fields)
            return false;
    }
    return true;
}

/* "id, s.vec, vec" as far as it fits. Structs and what lies in lists are left out. */
static enum plm_code list_columns(const struct plm_manifest *m, char names[NAMES_BYTES],
                                  struct plm_err *err)
{
    size_t len = 0;

    names[0] = 0;
    for (size_t i = 0; i < m->n_fields; i++) {
        const struct plm_field *field = &m->fields[i];
        char *path;

        if (strcmp(field->logical_type, "struct") == 0 || !is_reachable(m, field))
            continue;
        enum plm_code rc = plm_manifest_field_path(m, field->id, &path, err);
        if (rc != PLM_OK)
            return rc;
        size_t room = NAMES_BYTES - len, n = strlen(path) + 2;

        if (n + 4 < room) {
            len += (size_t)snprintf(names + len, room, "%s%s", len ? ", " : "", path);
        } else {
            snprintf(names + len, room, "%s...", len ? ", " : "");
            i = m->n_fields - 1; /* no room for more */
        }
        plm_free(m->ctx, path);
    }
    return PLM_OK;
}

static enum plm_code no_column(const struct plm_manifest *m, const char *path, struct plm_err *err)
{
    char names[NAMES_BYTES];
    enum plm_code rc = list_columns(m, names, err);

    if (rc != PLM_OK)
        return rc;
    return plm_fail(err, PLM_NOT_FOUND, "no column '%.200s'; there are: %s", path, names);
}

static enum plm_code not_vectors(const char *path, const struct plm_field *field,
                                 struct plm_err *err)
{
    return plm_fail(err, PLM_DATA, "column '%.200s' is %.60s, not a vector column", path,
                    field->logical_type);
}

/* A list: of vectors, or of anything else. */
static enum plm_code refuse_list(const struct plm_manifest *m, const char *path,
                                 const struct plm_field *field, struct plm_err *err)
{
    const struct plm_field *item = find_child(m, field->id, NULL);

    if (!item)
        return not_vectors(path, field, err);
    if (strncmp(item->logical_type, "fixed_size_list:", 16) == 0)
        return plm_fail(err, PLM_UNSUPPORTED,
                        "column '%.200s' holds several vectors a row (multivector),"
                        " which is not supported", path);
    return plm_fail(err, PLM_DATA,
                    "column '%.200s' is %.60s of %.60s, not a vector column: vectors need a fixed size",
                    path, field->logical_type, item->logical_type);
}

/* ---- types ------------------------------------------------------------------------- */

static bool element_is(const char *element, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(element, name, len) == 0;
}

/* false: a known element that holds no floats we read. */
static enum plm_code read_element(const char *path, const struct plm_field *field,
                                  const char *element, size_t len, enum plm_element *out,
                                  struct plm_err *err)
{
    static const char *const refused[] = {"uint8", "int8", "bfloat16", "lance.bfloat16"};

    if (element_is(element, len, "halffloat"))
        *out = PLM_F16;
    else if (element_is(element, len, "float"))
        *out = PLM_F32;
    else if (element_is(element, len, "double"))
        *out = PLM_F64;
    else {
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
            if (element_is(element, len, refused[i]))
                return plm_fail(err, PLM_UNSUPPORTED,
                                "column '%.200s' holds %s vectors, which are not supported"
                                " (float16, float32 and float64 are)",
                                path, strcmp(refused[i], "lance.bfloat16") ? refused[i] : "bfloat16");
        }
        return not_vectors(path, field, err);
    }
    return PLM_OK;
}

/* "fixed_size_list:<element>:<dimension>"; the element may have colons itself. */
static enum plm_code read_vector_type(const struct plm_manifest *m, const char *path,
                                      const struct plm_field *field, struct plm_column *out,
                                      struct plm_err *err)
{
    const char *element = field->logical_type + 16, *digits;
    uint64_t dim = 0;
    enum plm_code rc;

    if (is_list(field))
        return refuse_list(m, path, field, err);
    if (strncmp(field->logical_type, "fixed_size_list:", 16) != 0)
        return not_vectors(path, field, err);
    digits = strrchr(element, ':');
    if (!digits || !digits[1])
        return not_vectors(path, field, err);
    rc = read_element(path, field, element, (size_t)(digits - element), &out->element, err);
    if (rc != PLM_OK)
        return rc;
    for (const char *c = digits + 1; *c; c++) {
        if (*c < '0' || *c > '9')
            return not_vectors(path, field, err);
        dim = plm_min_u64(dim * 10 + (uint64_t)(*c - '0'), UINT32_MAX);
    }
    if (dim < 1)
        return plm_fail(err, PLM_DATA, "column '%.200s' has vectors of dimension 0", path);
    if (dim > DIM_MAX)
        return plm_fail(err, PLM_UNSUPPORTED,
                        "column '%.200s' has vectors of dimension %.20s, at most %u is supported",
                        path, digits + 1, DIM_MAX);
    out->dim = (uint32_t)dim;
    out->field_id = field->id;
    return PLM_OK;
}

/* A name follows `field` in the path: only a plain struct can be entered. */
static enum plm_code check_parent(const char *path, const struct plm_field *field,
                                  struct plm_err *err)
{
    if (is_list(field))
        return plm_fail(err, PLM_UNSUPPORTED,
                        "column '%.200s' lies inside '%.100s', which is a %.60s: not supported",
                        path, field->name, field->logical_type);
    return PLM_OK;
}

enum plm_code plm_manifest_find_column(const struct plm_manifest *manifest, const char *path,
                                       struct plm_column *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_column column = {0};
    const struct plm_field *field = NULL;
    const char *at = path;
    char *name = NULL;

    PLM_TRY(plm_alloc(manifest->ctx, &name, strlen(path) + 1, 1, err));
    do {
        PLM_TRY(next_name(path, &at, name, err));
        if (field)
            PLM_TRY(check_parent(path, field, err));
        if (field && field->is_packed && !column.is_packed) {
            column.is_packed = true;
            column.packed_id = field->id;
            column.packed_name = field->name;
        }
        field = find_child(manifest, field ? field->id : TOP_LEVEL, name);
        if (!field)
            PLM_TRY(no_column(manifest, path, err));
    } while (*at);
    PLM_TRY(read_vector_type(manifest, path, field, &column, err));
    *out = column;
done:
    plm_free(manifest->ctx, name);
    return rc;
}
