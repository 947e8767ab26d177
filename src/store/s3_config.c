/* s3_config.c - the location, the storage options and the environment, made into settings. */
#ifdef PLM_WITH_S3

#include "store/s3.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <strings.h>

/* ---- the location ------------------------------------------------------------- */

static bool is_bucket(const char *name, size_t n)
{
    if (n < 3 || n > 63)
        return false;
    for (size_t i = 0; i < n; i++)
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", name[i]) == NULL)
            return false;
    return name[0] != '.' && name[0] != '-' && name[n - 1] != '.' && name[n - 1] != '-';
}

static bool is_plain_path(const char *path)
{
    for (const char *part = path; *part;) {
        size_t n = strcspn(part, "/");

        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && memcmp(part, "..", 2) == 0))
            return false;
        part += n;
        if (*part == '/' && part[1])
            part++;
        else if (*part)
            return false;
    }
    return true;
}

/* s3://bucket/prefix. The location is not repeated in messages: it could hold a password. */
static enum plm_code read_location(struct plm_ctx *ctx, const char *uri, struct plm_s3_config *out,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const char *name = uri + strlen("s3://");
    size_t n = strcspn(name, "/"), len;
    const char *rest = name + n;

    if (strncmp(uri, "s3://", 5) != 0 || !is_bucket(name, n))
        return plm_fail(err, PLM_ARG, "location \"s3://...\": expected s3://bucket/key with a bucket "
                                      "name of 3 to 63 letters, digits, dots and dashes");
    memcpy(out->bucket, name, n);
    out->bucket[n] = 0;
    if (strpbrk(rest, "?#"))
        return plm_fail(err, PLM_ARG, "location \"s3://%s/...\": '?' and '#' cannot be in it",
                        out->bucket);
    rest += *rest == '/';
    for (len = strlen(rest); len > 0 && rest[len - 1] == '/'; len--)
        ;
    PLM_TRY(plm_strndup(ctx, rest, len, &out->prefix, err));
    if (plm_percent_decode(out->prefix, false) || !is_plain_path(out->prefix))
        PLM_TRY(plm_fail(err, PLM_ARG, "location \"s3://%s/...\": its key has an empty, \".\" or "
                                       "\"..\" part or a zero byte", out->bucket));
done:
    return rc;
}

/* ---- values ------------------------------------------------------------------- */

struct settings {
    struct plm_ctx *ctx;
    const char *const *options;
    struct plm_buf text; /* the value found, NUL-terminated; may be a secret */
};

/* Names as Lance knows them, without "aws_", which may stand in front. */
static bool is_named(const char *given, const char *name)
{
    if (strncasecmp(given, "aws_", 4) == 0 && strcasecmp(given + 4, name) == 0)
        return true;
    return strcasecmp(given, name) == 0;
}

static const char *option(const char *const *options, const char *const *names)
{
    const char *value = NULL;

    for (size_t i = 0; options && options[i]; i += 2)
        for (size_t k = 0; names[k]; k++)
            if (is_named(options[i], names[k]))
                value = options[i + 1];
    return value;
}

/* "@FILE" stands for the file's first line. */
static enum plm_code load(struct settings *s, const char *value, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint8_t *end;

    plm_s3_wipe_buf(&s->text);
    s->text.len = 0;
    PLM_TRY(plm_buf_reserve(&s->text, 16 << 10, err));
    if (value[0] == '@') {
        PLM_TRY(plm_s3_read_file(value + 1, &s->text, err));
        end = s->text.len ? memchr(s->text.data, '\n', s->text.len) : NULL;
        s->text.len = end ? (size_t)(end - s->text.data) : s->text.len;
        if (s->text.len > 0 && s->text.data[s->text.len - 1] == '\r')
            s->text.len--;
    } else {
        PLM_TRY(plm_buf_add(&s->text, value, strlen(value), err));
    }
    PLM_TRY(plm_buf_add(&s->text, "", 1, err));
    s->text.len--;
done:
    return rc;
}

/* The option, else the environment variable; *found false leaves the default. */
static enum plm_code look_up(struct settings *s, const char *const *names,
                             const char *const *variables, bool *found, struct plm_err *err)
{
    const char *value = option(s->options, names);

    *found = false;
    for (size_t i = 0; variables[i] && !(value && *value); i++) {
        value = getenv(variables[i]);
        if (value && *value) {
            *found = true;
            plm_s3_wipe_buf(&s->text);
            s->text.len = 0;
            enum plm_code rc = plm_buf_add(&s->text, value, strlen(value) + 1, err);

            s->text.len -= rc == PLM_OK;
            return rc;
        }
    }
    if (value == NULL || !*value)
        return PLM_OK;
    *found = true;
    enum plm_code rc = load(s, value, err);
    return rc ? plm_wrap(err, rc, "s3: storage option \"%s\"", names[0]) : PLM_OK;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_VARIABLES ((const char *const[]){NULL})

static const char *text_of(const struct settings *s)
{
    return (const char *)s->text.data;
}

static enum plm_code read_bool(struct settings *s, const char *const *names,
                               const char *const *variables, bool *out, struct plm_err *err)
{
    static const char *const yes[] = {"true", "1", "yes", "on", "y", "t"};
    static const char *const no[] = {"false", "0", "no", "off", "n", "f"};
    bool found;
    enum plm_code rc = look_up(s, names, variables, &found, err);

    if (rc || !found)
        return rc;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (strcasecmp(text_of(s), yes[i]) == 0 || strcasecmp(text_of(s), no[i]) == 0) {
            *out = strcasecmp(text_of(s), yes[i]) == 0;
            return PLM_OK;
        }
    return plm_fail(err, PLM_ARG, "s3: storage option \"%s\" is neither true nor false", names[0]);
}

/* "30", "30s", "500ms", "2m". */
static enum plm_code read_seconds(struct settings *s, const char *const *names, double *out,
                                  struct plm_err *err)
{
    bool found;
    enum plm_code rc = look_up(s, names, NO_VARIABLES, &found, err);
    char *unit;
    double value, scale;

    if (rc || !found)
        return rc;
    value = strtod(text_of(s), &unit);
    unit += strspn(unit, " ");
    scale = strcmp(unit, "ms") == 0                                              ? 0.001
            : *unit == 0 || strcmp(unit, "s") == 0 || strcmp(unit, "seconds") == 0 ? 1
            : strcmp(unit, "m") == 0 || strcmp(unit, "min") == 0                   ? 60
                                                                                   : 0;
    if (unit == text_of(s) || scale == 0 || !(value * scale > 0 && value * scale <= 86400))
        return plm_fail(err, PLM_ARG,
                        "s3: storage option \"%s\" is \"%.40s\", expected a time such as 30s, up to "
                        "one day",
                        names[0], text_of(s));
    *out = value * scale;
    return PLM_OK;
}

/* ---- settings ----------------------------------------------------------------- */

/* What would change what is stored or who pays must not be passed over in silence. */
static enum plm_code refuse_unsupported(const char *const *options, struct plm_err *err)
{
    static const char *const names[] = {
        "server_side_encryption", "sse_kms_key_id", "sse_bucket_key_enabled",
        "sse_customer_key_base64", "s3_express", "request_payer", "web_identity_token_file",
        "role_arn"};
    const char *conditional = option(options, NAMES("conditional_put"));

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = option(options, NAMES(names[i]));

        if (value && *value && strcasecmp(value, "false") != 0)
            return plm_fail(err, PLM_UNSUPPORTED, "s3: storage option \"%s\" is not supported", names[i]);
    }
    if (conditional && strcasecmp(conditional, "etag") != 0)
        return plm_fail(err, PLM_UNSUPPORTED,
                        "s3: storage option \"conditional_put\" is not supported but as \"etag\"");
    return PLM_OK;
}

static enum plm_code read_region(struct settings *s, struct plm_s3_config *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char from_profile[64];
    const char *name = "us-east-1";
    bool found;

    PLM_TRY(look_up(s, NAMES("region", "default_region"), NAMES("AWS_REGION", "AWS_DEFAULT_REGION"),
                    &found, err));
    if (found) {
        name = text_of(s);
    } else {
        PLM_TRY(plm_s3_profile_setting(s->ctx, "region", from_profile, sizeof from_profile, err));
        found = from_profile[0] != 0;
        name = found ? from_profile : name;
    }
    if (strlen(name) >= sizeof out->region ||
        name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")] != 0)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: region \"%.60s\" is no name of a region", name));
    memcpy(out->region, name, strlen(name) + 1);
    out->region_given = found;
done:
    return rc;
}

static enum plm_code read_endpoint(struct settings *s, struct plm_s3_config *out,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char from_profile[256];
    const char *url, *host;
    size_t n;
    bool found;

    PLM_TRY(look_up(s, NAMES("endpoint", "endpoint_url", "endpoint_url_s3"),
                    NAMES("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"), &found, err));
    PLM_TRY(plm_s3_profile_setting(s->ctx, "endpoint_url", from_profile, sizeof from_profile, err));
    if (!found && !from_profile[0])
        goto done;
    url = found ? text_of(s) : from_profile;
    host = strstr(url, "://");
    host = host ? host + 3 : "";
    if ((strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0) || *host == 0 ||
        host[strcspn(host, " @?#\\\"<>\r\n\t%")] != 0)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: the endpoint is no URL, expected https://host[:port]"));
    if (url[4] == ':' && !out->allow_http)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: the endpoint is plain http: give allow_http=true if that "
                                       "is meant"));
    for (n = strlen(url); n > 0 && url[n - 1] == '/'; n--)
        ;
    PLM_TRY(plm_strndup(s->ctx, url, n, &out->endpoint, err));
done:
    return rc;
}

/* A bucket whose name is a host label goes into the host on AWS; elsewhere only if asked. */
static bool fits_host(const char *bucket)
{
    return bucket[strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-")] == 0;
}

static enum plm_code read_given(struct settings *s, struct plm_s3_secret **given,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_secret *secret = NULL;
    bool id, key, token;

    PLM_TRY(plm_s3_secret_new(&secret, err));
    PLM_TRY(look_up(s, NAMES("access_key_id"), NO_VARIABLES, &id, err));
    if (id)
        PLM_TRY(plm_s3_secret_set(secret->key_id, PLM_S3_KEY_ID_MAX, text_of(s), s->text.len,
                                  "aws_access_key_id", err));
    PLM_TRY(look_up(s, NAMES("secret_access_key"), NO_VARIABLES, &key, err));
    if (key)
        PLM_TRY(plm_s3_secret_set(secret->key, PLM_S3_KEY_MAX, text_of(s), s->text.len,
                                  "aws_secret_access_key", err));
    PLM_TRY(look_up(s, NAMES("session_token", "token"), NO_VARIABLES, &token, err));
    if (token)
        PLM_TRY(plm_s3_secret_set(secret->token, PLM_S3_TOKEN_MAX, text_of(s), s->text.len,
                                  "aws_session_token", err));
    if (id != key)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: aws_access_key_id and aws_secret_access_key go together, "
                                       "only one of them is given"));
    if (id) {
        *given = secret;
        secret = NULL;
    }
done:
    plm_s3_secret_release(secret);
    return rc;
}

static enum plm_code read_texts(struct settings *s, struct plm_s3_config *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    bool found;

    PLM_TRY(look_up(s, NAMES("ca_bundle"), NAMES("AWS_CA_BUNDLE"), &found, err));
    if (found)
        PLM_TRY(plm_strdup(s->ctx, text_of(s), &out->ca_file, err));
    PLM_TRY(look_up(s, NAMES("metadata_endpoint"), NO_VARIABLES, &found, err));
    if (found && s->text.len < sizeof out->metadata)
        memcpy(out->metadata, text_of(s), s->text.len + 1);
done:
    return rc;
}

static enum plm_code read_settings(struct settings *s, struct plm_s3_config *out,
                                   struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *out = (struct plm_s3_config){.prefix = out->prefix, .connect_s = 5, .stall_s = 20,
                                  .retry_s = 180, .connections = 16};
    PLM_TRY(refuse_unsupported(s->options, err));
    PLM_TRY(read_bool(s, NAMES("allow_http"), NAMES("AWS_ALLOW_HTTP"), &out->allow_http, err));
    PLM_TRY(read_bool(s, NAMES("skip_signature"), NAMES("AWS_SKIP_SIGNATURE"), &out->anonymous, err));
    PLM_TRY(read_region(s, out, err));
    PLM_TRY(read_endpoint(s, out, err));
    out->virtual_hosted = out->endpoint == NULL;
    PLM_TRY(read_bool(s, NAMES("virtual_hosted_style_request"),
                      NAMES("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"), &out->virtual_hosted, err));
    PLM_TRY(read_texts(s, out, err));
    PLM_TRY(read_seconds(s, NAMES("connect_timeout"), &out->connect_s, err));
    PLM_TRY(read_seconds(s, NAMES("request_timeout", "timeout"), &out->attempt_s, err));
    PLM_TRY(read_seconds(s, NAMES("pilum_retry_seconds", "client_retry_timeout"), &out->retry_s, err));
    PLM_TRY(read_seconds(s, NAMES("pilum_stall_seconds"), &out->stall_s, err));
done:
    return rc;
}

enum plm_code plm_s3_config_read(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                 struct plm_s3_config *out, struct plm_s3_secret **given,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_config got = {0};
    struct plm_s3_secret *secret = NULL;
    struct settings s = {.ctx = ctx, .options = options};

    plm_buf_init(&s.text, ctx, (size_t)1 << 20);
    PLM_TRY(read_settings(&s, &got, err));
    PLM_TRY(read_location(ctx, uri, &got, err));
    got.virtual_hosted = got.virtual_hosted && (got.endpoint || fits_host(got.bucket));
    if (!got.anonymous)
        PLM_TRY(read_given(&s, &secret, err));
    *out = got;
    *given = secret;
    got = (struct plm_s3_config){0};
    secret = NULL;
done:
    plm_s3_wipe_buf(&s.text);
    plm_buf_reset(&s.text);
    plm_s3_config_reset(ctx, &got);
    plm_s3_secret_release(secret);
    return rc;
}

void plm_s3_config_reset(struct plm_ctx *ctx, struct plm_s3_config *config)
{
    plm_free(ctx, config->prefix);
    plm_free(ctx, config->endpoint);
    plm_free(ctx, config->ca_file);
    *config = (struct plm_s3_config){0};
}

#endif
