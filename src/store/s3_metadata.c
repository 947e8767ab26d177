/* s3_metadata.c - credentials from the container's or the instance's metadata endpoint. */
#ifdef PLM_WITH_S3

#include "store/s3_creds.h"
#include "store/s3_retry.h"

#include <stdlib.h>
#include <strings.h>

#define ANSWER_MAX ((size_t)64 << 10)
#define TRIES 3
#define ATTEMPT_S 5.0
#define CONNECT_S 1.0

struct answer {
    struct plm_buf body;
    long status;
};

static void on_status(void *user, long status)
{
    ((struct answer *)user)->status = status;
    ((struct answer *)user)->body.len = 0;
}

static void on_header(void *user, const char *name, const char *value)
{
    (void)user, (void)name, (void)value;
}

static bool on_bytes(void *user, const uint8_t *bytes, size_t n)
{
    return plm_buf_add(&((struct answer *)user)->body, bytes, n, NULL) == PLM_OK;
}

static enum plm_code one_try(struct plm_ctx *ctx, struct plm_http *http, struct plm_http_call *call,
                             struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(http->start(http, call, err));
    while (http->wait(http, 0.1) == NULL) {
        rc = plm_check_cancel(ctx, err);
        if (rc) {
            http->drop(http, call);
            return rc;
        }
    }
done:
    return rc;
}

/* A few quick tries. *out: 200 with a body, another status, or 0 when nobody answered. */
static enum plm_code ask(struct plm_s3_creds *creds, struct plm_http_call *call, struct answer *out,
                         struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_http *http = NULL;
    struct plm_http_options options = {.connect_s = CONNECT_S, .direct = true, .allow_http = true};

    PLM_TRY(plm_http_open(creds->ctx, &options, &http, err));
    /* Room from the start: growing would leave a copy of a secret behind. */
    PLM_TRY(plm_buf_reserve(&out->body, 16 << 10, err));
    call->attempt_s = ATTEMPT_S;
    call->stall_s = ATTEMPT_S;
    call->status = on_status;
    call->header = on_header;
    call->take = on_bytes;
    call->user = out;
    for (int i = 0; i < TRIES; i++) {
        out->status = 0;
        PLM_TRY(one_try(creds->ctx, http, call, err));
        if (call->fate != PLM_HTTP_ANSWERED)
            out->status = 0;
        else if (out->status < 500 && out->status != 429)
            break;
    }
done:
    if (http)
        http->close(http);
    return rc;
}

/* Plain http carries the secret in the clear: only to this machine or the link-local
 * addresses of ECS and EKS. */
static bool is_safe_url(const char *url)
{
    static const char *const hosts[] = {"localhost",      "127.0.0.1",  "[::1]",
                                        "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};

    if (strncmp(url, "https://", 8) == 0)
        return true;
    if (strncmp(url, "http://", 7) != 0)
        return false;
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        size_t n = strlen(hosts[i]);

        if (strncasecmp(url + 7, hosts[i], n) == 0 &&
            (url[7 + n] == 0 || url[7 + n] == ':' || url[7 + n] == '/'))
            return true;
    }
    return false;
}

static enum plm_code container_token(struct plm_s3_creds *creds, struct plm_buf *token,
                                     struct plm_err *err)
{
    const char *file = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *value = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    enum plm_code rc = PLM_OK;

    (void)creds;
    if (file && *file)
        PLM_TRY(plm_s3_read_file(file, token, err));
    else if (value && *value)
        PLM_TRY(plm_buf_add(token, value, strlen(value), err));
    while (token->len > 0 && token->data[token->len - 1] <= ' ')
        token->len--;
    PLM_TRY(plm_buf_add(token, "", 1, err));
    if (strpbrk((const char *)token->data, "\r\n"))
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: the container authorization token has a line break"));
done:
    return rc;
}

static enum plm_code take_json(struct answer *answer, struct plm_s3_secret *into, const char *where,
                               struct plm_err *err)
{
    enum plm_code rc;

    if (answer->status != 200)
        return plm_fail(err, PLM_DENIED, "s3: %s: credentials refused, HTTP status %ld (0 = no answer)",
                        where, answer->status);
    rc = plm_s3_secret_json(into, answer->body.data, answer->body.len, err);
    return rc ? plm_wrap(err, rc, "s3: %s", where) : PLM_OK;
}

enum plm_code plm_s3_from_container(struct plm_s3_creds *creds, struct plm_s3_secret *into,
                                    bool *found, struct plm_err *err)
{
    const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    enum plm_code rc = PLM_OK;
    struct answer answer = {0};
    struct plm_buf token;
    char *url = NULL;
    struct plm_http_call call = {.method = "GET"};

    plm_buf_init(&answer.body, creds->ctx, ANSWER_MAX);
    plm_buf_init(&token, creds->ctx, ANSWER_MAX);
    if (relative && *relative)
        PLM_TRY(plm_format(creds->ctx, &url, err, "http://169.254.170.2%s", relative));
    else if (full && *full)
        PLM_TRY(plm_strdup(creds->ctx, full, &url, err));
    else
        goto done;
    if (!is_safe_url(url))
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or http "
                                       "on this machine or 169.254.170.2 or .23"));
    PLM_TRY(container_token(creds, &token, err));
    call.url = url;
    if (token.len > 1)
        call.headers[call.n_headers++] =
            (struct plm_s3_pair){"authorization", (const char *)token.data};
    PLM_TRY(ask(creds, &call, &answer, err));
    PLM_TRY(take_json(&answer, into, "container endpoint", err));
    *found = true;
done:
    plm_s3_wipe_buf(&answer.body);
    plm_buf_reset(&answer.body);
    plm_s3_wipe_buf(&token);
    plm_buf_reset(&token);
    plm_free(creds->ctx, url);
    return rc;
}

/* One request to the instance metadata; the answer as text in answer->body. */
static enum plm_code ask_instance(struct plm_s3_creds *creds, const char *method, const char *path,
                                  const char *name, struct plm_s3_pair header,
                                  struct answer *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *url = NULL;
    struct plm_http_call call = {.method = method, .headers = {header}, .n_headers = 1};

    answer->body.len = 0;
    PLM_TRY(plm_format(creds->ctx, &url, err, "%s%s%s", creds->metadata, path, name));
    call.url = url;
    PLM_TRY(ask(creds, &call, answer, err));
    PLM_TRY(plm_buf_add(&answer->body, "", 1, err));
    answer->body.len--;
done:
    plm_free(creds->ctx, url);
    return rc;
}

/* The role's name goes into a URL: one line of harmless characters. */
static bool is_role_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+=,.@_-");

    return n > 0 && n < 200 && text[n] == 0;
}

static void metadata_base(struct plm_s3_creds *creds)
{
    static const char *const variables[] = {"AWS_EC2_METADATA_SERVICE_ENDPOINT",
                                            "AWS_METADATA_ENDPOINT"};

    for (size_t i = 0; i < 2 && !creds->metadata[0]; i++) {
        const char *value = getenv(variables[i]);

        if (value && *value && strlen(value) < sizeof creds->metadata)
            memcpy(creds->metadata, value, strlen(value) + 1);
    }
    if (!creds->metadata[0])
        memcpy(creds->metadata, "http://169.254.169.254", 23);
    for (size_t n = strlen(creds->metadata); n > 0 && creds->metadata[n - 1] == '/'; n--)
        creds->metadata[n - 1] = 0;
}

enum plm_code plm_s3_from_instance(struct plm_s3_creds *creds, struct plm_s3_secret *into,
                                   bool *found, struct plm_err *err)
{
    static const char roles[] = "/latest/meta-data/iam/security-credentials/";
    const char *disabled = getenv("AWS_EC2_METADATA_DISABLED");
    enum plm_code rc = PLM_OK;
    struct answer answer = {0}, token = {0};
    struct plm_s3_pair with_token = {"x-aws-ec2-metadata-token", ""};
    struct plm_s3_pair ttl = {"x-aws-ec2-metadata-token-ttl-seconds", "21600"};
    char role[256];

    if (disabled && strcasecmp(disabled, "true") == 0)
        return PLM_OK;
    metadata_base(creds);
    plm_buf_init(&answer.body, creds->ctx, ANSWER_MAX);
    plm_buf_init(&token.body, creds->ctx, ANSWER_MAX);
    PLM_TRY(ask_instance(creds, "PUT", "/latest/api/token", "", ttl, &token, err));
    if (token.status != 200 || token.body.len == 0 ||
        strpbrk((const char *)token.body.data, "\r\n"))
        goto done; /* not an instance, or one that keeps to itself */
    with_token.value = (const char *)token.body.data;
    PLM_TRY(ask_instance(creds, "GET", roles, "", with_token, &answer, err));
    if (answer.status != 200 || !is_role_name((const char *)answer.body.data))
        goto done; /* no role attached */
    memcpy(role, answer.body.data, answer.body.len + 1);
    PLM_TRY(ask_instance(creds, "GET", roles, role, with_token, &answer, err));
    PLM_TRY(take_json(&answer, into, "instance metadata", err));
    *found = true;
done:
    plm_s3_wipe_buf(&answer.body);
    plm_buf_reset(&answer.body);
    plm_s3_wipe_buf(&token.body);
    plm_buf_reset(&token.body);
    return rc;
}

#endif
