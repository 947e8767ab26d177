/* storage.c - the --storage-option values. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define VALUE_BYTES_MAX 65536

/* A secret from a file: its text without the line end. */
static enum plm_code read_value(const char *key, int key_len, const char *path, char **out,
                                struct plm_err *err)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(VALUE_BYTES_MAX + 1);
    size_t n = 0;
    enum plm_code rc = PLM_OK;

    if (!text)
        rc = plm_cli_fail(err, PLM_NOMEM, "out of memory");
    else if (!file)
        rc = plm_cli_fail(err, errno == ENOENT ? PLM_NOT_FOUND : PLM_IO,
                          "--storage-option %.*s: cannot read %s: %s", key_len, key, path,
                          strerror(errno));
    else if ((n = fread(text, 1, VALUE_BYTES_MAX + 1, file)) > VALUE_BYTES_MAX)
        rc = plm_cli_fail(err, PLM_DATA, "--storage-option %.*s: %s is longer than %d bytes",
                          key_len, key, path, VALUE_BYTES_MAX);
    else if (ferror(file))
        rc = plm_cli_fail(err, PLM_IO, "--storage-option %.*s: cannot read %s", key_len, key, path);
    if (file)
        fclose(file);
    if (rc != PLM_OK) {
        free(text);
        return rc;
    }
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    text[n] = '\0';
    *out = text;
    return PLM_OK;
}

static enum plm_code parse_one(const char *text, char **key, char **value, struct plm_err *err)
{
    const char *equals = strchr(text, '=');

    /* The text itself is not shown: it may be a secret with its key forgotten. */
    if (!equals || equals == text)
        return plm_cli_fail(err, PLM_ARG, "--storage-option: expected KEY=VALUE or KEY=@FILE");
    int key_len = (int)(equals - text);
    if (equals[1] == '@') {
        enum plm_code rc = read_value(text, key_len, equals + 2, value, err);
        if (rc != PLM_OK)
            return rc;
    } else {
        *value = strdup(equals + 1);
    }
    *key = strndup(text, (size_t)key_len);
    return *key && *value ? PLM_OK : plm_cli_fail(err, PLM_NOMEM, "out of memory");
}

enum plm_code plm_storage_parse(const struct plm_cli_list *given, char ***out, struct plm_err *err)
{
    char **pairs = calloc(given->n * 2 + 1, sizeof(*pairs));

    if (!pairs)
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    for (size_t i = 0; i < given->n; i++) {
        enum plm_code rc = parse_one(given->items[i], &pairs[2 * i], &pairs[2 * i + 1], err);
        if (rc != PLM_OK) {
            if (!pairs[2 * i]) /* the list ends at the first NULL key */
                free(pairs[2 * i + 1]);
            plm_storage_reset(pairs);
            return rc;
        }
    }
    *out = pairs;
    return PLM_OK;
}

void plm_storage_reset(char **storage)
{
    for (char **p = storage; p && *p; p += 2) {
        if (p[1])
            explicit_bzero(p[1], strlen(p[1]));
        free(p[0]);
        free(p[1]);
    }
    free(storage);
}
