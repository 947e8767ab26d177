/* npy.c - NumPy's array files: little-endian floats in C order, 1 to 3 dimensions.
 *
 * Format: magic, version, length of the header, then a Python dict literal with exactly
 * 'descr', 'fortran_order' and 'shape', then the values. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

#define HEADER_BYTES_MAX 65536

struct scanner {
    const char *at, *end;
};

static void skip_space(struct scanner *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n'))
        s->at++;
}

static bool take(struct scanner *s, char c)
{
    skip_space(s);
    if (s->at >= s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

/* 'text' or "text" of at most 19 characters. */
static bool take_string(struct scanner *s, char out[20])
{
    size_t n = 0;

    skip_space(s);
    if (s->at >= s->end || (*s->at != '\'' && *s->at != '"'))
        return false;
    char quote = *s->at++;
    while (s->at < s->end && *s->at != quote && n < 19)
        out[n++] = *s->at++;
    out[n] = '\0';
    return s->at < s->end && *s->at++ == quote;
}

static bool take_word(struct scanner *s, const char *word)
{
    size_t n = strlen(word);

    skip_space(s);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0)
        return false;
    s->at += n;
    return true;
}

static bool take_number(struct scanner *s, size_t *out)
{
    size_t value = 0;
    const char *begin;

    skip_space(s);
    for (begin = s->at; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (size_t)(*s->at - '0'), &value))
            return false;
    *out = value;
    return s->at != begin;
}

/* (3,) or (3, 4); n_dims counts on beyond 3. */
static bool take_shape(struct scanner *s, struct plm_npy *out)
{
    size_t length;

    if (!take(s, '('))
        return false;
    while (!take(s, ')')) {
        if (!take_number(s, &length))
            return false;
        if (out->n_dims < 3)
            out->shape[out->n_dims] = length;
        out->n_dims++;
        if (!take(s, ',')) {
            if (!take(s, ')'))
                return false;
            break;
        }
    }
    return true;
}

struct header {
    char descr[20];
    bool has_descr, has_order, has_shape, is_fortran;
};

static bool take_entry(struct scanner *s, struct header *h, struct plm_npy *out)
{
    char key[20];

    if (!take_string(s, key) || !take(s, ':'))
        return false;
    if (strcmp(key, "descr") == 0 && !h->has_descr)
        return h->has_descr = take_string(s, h->descr);
    if (strcmp(key, "fortran_order") == 0 && !h->has_order) {
        h->is_fortran = take_word(s, "True");
        return h->has_order = h->is_fortran || take_word(s, "False");
    }
    if (strcmp(key, "shape") == 0 && !h->has_shape)
        return h->has_shape = take_shape(s, out);
    return false;
}

static bool take_header(struct scanner *s, struct header *h, struct plm_npy *out)
{
    if (!take(s, '{'))
        return false;
    while (!take(s, '}')) {
        if (!take_entry(s, h, out))
            return false;
        if (!take(s, ',')) {
            if (!take(s, '}'))
                return false;
            break;
        }
    }
    skip_space(s);
    return s->at == s->end && h->has_descr && h->has_order && h->has_shape;
}

static enum plm_code check_header(const struct header *h, struct plm_npy *npy, size_t n,
                                  struct plm_err *err)
{
    static const char *const types[] = {"<f2", "<f4", "<f8"};
    size_t bytes;

    for (int i = 0; i < 3; i++)
        if (strcmp(h->descr, types[i]) == 0)
            npy->element = 2 << i;
    if (!npy->element)
        return plm_cli_fail(err, PLM_ARG, "values of type '%s', expected little-endian float16, "
                            "float32 or float64", h->descr);
    if (npy->n_dims < 1 || npy->n_dims > 3)
        return plm_cli_fail(err, PLM_ARG, "%zu dimensions, expected 1 to 3", npy->n_dims);
    if (h->is_fortran && npy->n_dims > 1)
        return plm_cli_fail(err, PLM_ARG, "values in Fortran order, expected C order");
    bytes = (size_t)npy->element;
    for (size_t i = 0; i < npy->n_dims; i++)
        if (__builtin_mul_overflow(bytes, npy->shape[i], &bytes))
            return plm_cli_fail(err, PLM_ARG, "the shape overflows");
    if (bytes != n - npy->data_at)
        return plm_cli_fail(err, PLM_ARG, "%zu bytes of values, expected %zu for the shape",
                            n - npy->data_at, bytes);
    npy->data_bytes = bytes;
    return PLM_OK;
}

enum plm_code plm_npy_parse(const uint8_t *bytes, size_t n, struct plm_npy *out,
                            struct plm_err *err)
{
    struct plm_npy npy = {0};
    struct header header = {0};
    size_t length, at;

    if (n < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0 || bytes[6] < 1 || bytes[6] > 3)
        return plm_cli_fail(err, PLM_ARG, "not a NumPy .npy file");
    length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    at = 10;
    if (bytes[6] > 1) {
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
        at = 12;
    }
    if (length > HEADER_BYTES_MAX || length > n - at)
        return plm_cli_fail(err, PLM_ARG, "header of %zu bytes in a file of %zu", length, n);
    struct scanner s = {(const char *)bytes + at, (const char *)bytes + at + length};
    if (!take_header(&s, &header, &npy))
        return plm_cli_fail(err, PLM_ARG, "the header at byte %zu is not a dict of descr, "
                            "fortran_order and shape", (size_t)((const uint8_t *)s.at - bytes));
    npy.data_at = at + length;
    enum plm_code rc = check_header(&header, &npy, n, err);
    if (rc == PLM_OK)
        *out = npy;
    return rc;
}

static enum plm_code read_file(const char *path, uint8_t **out, size_t *n, struct plm_err *err)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    uint8_t *bytes = NULL;
    enum plm_code rc = PLM_OK;

    if (!file || fstat(fileno(file), &st) != 0)
        rc = plm_cli_fail(err, errno == ENOENT ? PLM_NOT_FOUND : PLM_IO, "%s: %s", path,
                          strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = plm_cli_fail(err, PLM_IO, "%s: not a regular file", path);
    else if (!(bytes = malloc((size_t)st.st_size + 1)))
        rc = plm_cli_fail(err, PLM_NOMEM, "%s: out of memory for %lld bytes", path,
                          (long long)st.st_size);
    else if (fread(bytes, 1, (size_t)st.st_size, file) != (size_t)st.st_size)
        rc = plm_cli_fail(err, PLM_IO, "%s: cannot be read to its end", path);
    if (file)
        fclose(file);
    if (rc != PLM_OK) {
        free(bytes);
        return rc;
    }
    *out = bytes;
    *n = (size_t)st.st_size;
    return PLM_OK;
}

enum plm_code plm_npy_read(const char *path, struct plm_npy *out, struct plm_err *err)
{
    struct plm_npy npy = {0};
    struct plm_err inner = {0};
    uint8_t *bytes = NULL;
    size_t n = 0;
    enum plm_code rc = read_file(path, &bytes, &n, err);

    if (rc != PLM_OK)
        return rc;
    rc = plm_npy_parse(bytes, n, &npy, &inner);
    if (rc != PLM_OK) {
        free(bytes);
        return plm_cli_fail(err, rc, "%s: %.800s", path, inner.message);
    }
    memmove(bytes, bytes + npy.data_at, npy.data_bytes); /* aligned, wherever the header ends */
    npy.data_at = 0;
    npy.file = bytes;
    *out = npy;
    return PLM_OK;
}
