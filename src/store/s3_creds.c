/* s3_creds.c - secrets and the chain of places they come from. */
#ifdef PLM_WITH_S3

#include "store/s3_creds.h"
#include "store/s3_retry.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Renewed this long before they expire. */
#define RENEW_AHEAD_MS (5 * 60 * 1000)
#define RENEW_AGAIN_S 15.0

/* ---- secrets ------------------------------------------------------------------ */

enum plm_code plm_s3_secret_new(struct plm_s3_secret **out, struct plm_err *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t n = (sizeof(struct plm_s3_secret) + page - 1) / page * page;
    struct plm_s3_secret *secret =
        mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (secret == MAP_FAILED)
        return plm_fail(err, PLM_NOMEM, "out of memory for %zu bytes of credentials", n);
    (void)!madvise(secret, n, MADV_DONTDUMP);
    (void)!mlock(secret, n); /* where allowed, not swapped out either */
    secret->mapped_bytes = n;
    atomic_init(&secret->n_users, 1);
    *out = secret;
    return PLM_OK;
}

void plm_s3_secret_release(struct plm_s3_secret *secret)
{
    size_t n;

    if (secret == NULL || atomic_fetch_sub(&secret->n_users, 1) != 1)
        return;
    n = secret->mapped_bytes;
    OPENSSL_cleanse(secret, n);
    munmap(secret, n);
}

enum plm_code plm_s3_secret_set(char *field, size_t max, const char *text, size_t n,
                                const char *what, struct plm_err *err)
{
    if (n > max)
        return plm_fail(err, PLM_ARG, "s3: %s is %zu bytes long, expected at most %zu", what, n, max);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= 32 || (unsigned char)text[i] >= 127)
            return plm_fail(err, PLM_ARG, "s3: %s has a character that cannot be in it, at byte %zu",
                            what, i);
    if (n > 0)
        memcpy(field, text, n);
    field[n] = 0;
    return PLM_OK;
}

static enum plm_code set_all(struct plm_s3_secret *into, struct plm_view id, struct plm_view key,
                             struct plm_view token, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_s3_secret_set(into->key_id, PLM_S3_KEY_ID_MAX, (const char *)id.data, id.len,
                              "access key id", err));
    PLM_TRY(plm_s3_secret_set(into->key, PLM_S3_KEY_MAX, (const char *)key.data, key.len,
                              "secret access key", err));
    PLM_TRY(plm_s3_secret_set(into->token, PLM_S3_TOKEN_MAX, (const char *)token.data, token.len,
                              "session token", err));
done:
    return rc;
}

static struct plm_view view_of(const char *text)
{
    return (struct plm_view){(const uint8_t *)(text ? text : ""), text ? strlen(text) : 0};
}

void plm_s3_wipe_buf(struct plm_buf *buf)
{
    if (buf->data)
        OPENSSL_cleanse(buf->data, buf->cap);
}

/* ---- JSON answers ------------------------------------------------------------- */

static const char *json_text(json_t *doc, const char *name)
{
    const char *text = json_string_value(json_object_get(doc, name));

    return text ? text : "";
}

/* jansson keeps its own copies; those of the secrets are wiped before they are freed. */
static void wipe_json(json_t *doc)
{
    static const char *const secrets[] = {"AccessKeyId", "SecretAccessKey", "Token"};

    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        const char *text = json_text(doc, secrets[i]);

        if (*text)
            OPENSSL_cleanse((char *)(uintptr_t)text, strlen(text));
    }
    json_decref(doc);
}

enum plm_code plm_s3_secret_json(struct plm_s3_secret *secret, const void *json, size_t n,
                                 struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    json_error_t where;
    json_t *doc = json_loadb(json, n, JSON_REJECT_DUPLICATES, &where);

    if (doc == NULL) /* the text near the error could be a secret: only its place is told */
        return plm_fail(err, PLM_CORRUPT, "credentials answer is no JSON (byte %d)", where.position);
    if (!*json_text(doc, "AccessKeyId") || !*json_text(doc, "SecretAccessKey"))
        PLM_TRY(plm_fail(err, PLM_CORRUPT,
                         "credentials answer lacks AccessKeyId or SecretAccessKey"));
    PLM_TRY(set_all(secret, view_of(json_text(doc, "AccessKeyId")),
                    view_of(json_text(doc, "SecretAccessKey")), view_of(json_text(doc, "Token")),
                    err));
    if (*json_text(doc, "Expiration")) {
        secret->expires_ms = plm_s3_time(json_text(doc, "Expiration"));
        if (secret->expires_ms <= 0)
            PLM_TRY(plm_fail(err, PLM_CORRUPT, "credentials answer has a bad Expiration"));
    }
done:
    wipe_json(doc);
    return rc;
}

/* ---- the chain ---------------------------------------------------------------- */

static enum plm_code from_environment(struct plm_s3_secret *into, bool *found, struct plm_err *err)
{
    const char *id = getenv("AWS_ACCESS_KEY_ID"), *key = getenv("AWS_SECRET_ACCESS_KEY");
    enum plm_code rc;

    if (id == NULL || key == NULL || !*id || !*key)
        return PLM_OK;
    rc = set_all(into, view_of(id), view_of(key), view_of(getenv("AWS_SESSION_TOKEN")), err);
    if (rc)
        return plm_wrap(err, rc, "environment");
    *found = true;
    return PLM_OK;
}

/* Settings that mean "get credentials in a way that is not built". */
static enum plm_code refuse_other_ways(const struct plm_buf *file, const char *profile,
                                       const char *path, struct plm_err *err)
{
    static const char *const others[] = {"role_arn", "credential_process", "sso_session",
                                         "sso_start_url", "web_identity_token_file"};
    struct plm_view value;

    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (plm_s3_profile_value((const char *)file->data, file->len, profile, others[i], &value))
            return plm_fail(err, PLM_UNSUPPORTED,
                            "%s: profile \"%.100s\" uses %s, which is not supported; give the keys "
                            "by options or environment",
                            path, profile, others[i]);
    return PLM_OK;
}

static enum plm_code from_profile_file(struct plm_s3_creds *creds, const char *profile,
                                       const char *path, struct plm_s3_secret *into, bool *found,
                                       struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf file;
    struct plm_view id = {0}, key = {0}, token = {0};
    const char *text;

    plm_buf_init(&file, creds->ctx, (size_t)1 << 20);
    rc = plm_s3_read_file(path, &file, err);
    if (rc == PLM_NOT_FOUND) {
        rc = PLM_OK;
        goto done;
    }
    PLM_TRY(rc);
    text = (const char *)file.data;
    if (plm_s3_profile_value(text, file.len, profile, "aws_access_key_id", &id) &&
        plm_s3_profile_value(text, file.len, profile, "aws_secret_access_key", &key)) {
        (void)plm_s3_profile_value(text, file.len, profile, "aws_session_token", &token);
        rc = set_all(into, id, key, token, err);
        if (rc)
            PLM_TRY(plm_wrap(err, rc, "%s, profile \"%.100s\"", path, profile));
        *found = true;
    } else {
        PLM_TRY(refuse_other_ways(&file, profile, path, err));
    }
done:
    plm_s3_wipe_buf(&file);
    plm_buf_reset(&file);
    return rc;
}

/* NULL: there is no home directory and no variable. */
static enum plm_code profile_path(struct plm_ctx *ctx, const char *variable, const char *name,
                                  char **out, struct plm_err *err)
{
    const char *given = getenv(variable), *home = getenv("HOME");

    if (given && *given)
        return plm_strdup(ctx, given, out, err);
    *out = NULL;
    return home && *home ? plm_format(ctx, out, err, "%s/.aws/%s", home, name) : PLM_OK;
}

static const char *const profile_files[2][2] = {{"AWS_SHARED_CREDENTIALS_FILE", "credentials"},
                                                {"AWS_CONFIG_FILE", "config"}};

static const char *profile_in_use(void)
{
    const char *name = getenv("AWS_PROFILE");

    return name && *name ? name : "default";
}

static enum plm_code from_profile(struct plm_s3_creds *creds, struct plm_s3_secret *into,
                                  bool *found, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *path = NULL;

    for (int i = 0; i < 2 && !*found; i++) {
        PLM_TRY(profile_path(creds->ctx, profile_files[i][0], profile_files[i][1], &path, err));
        if (path)
            PLM_TRY(from_profile_file(creds, profile_in_use(), path, into, found, err));
        plm_free(creds->ctx, path);
        path = NULL;
    }
done:
    plm_free(creds->ctx, path);
    return rc;
}

enum plm_code plm_s3_profile_setting(struct plm_ctx *ctx, const char *key, char *out, size_t room,
                                     struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *path = NULL;
    struct plm_buf file;
    struct plm_view value;

    plm_buf_init(&file, ctx, (size_t)1 << 20);
    out[0] = 0;
    for (int i = 1; i >= 0 && !out[0]; i--) {
        PLM_TRY(profile_path(ctx, profile_files[i][0], profile_files[i][1], &path, err));
        file.len = 0;
        if (path && (rc = plm_s3_read_file(path, &file, err)) != PLM_NOT_FOUND) {
            PLM_TRY(rc);
            if (plm_s3_profile_value((const char *)file.data, file.len, profile_in_use(), key,
                                     &value) &&
                value.len < room) {
                memcpy(out, value.data, value.len);
                out[value.len] = 0;
            }
        }
        rc = PLM_OK;
        plm_free(ctx, path);
        path = NULL;
    }
done:
    plm_free(ctx, path);
    plm_s3_wipe_buf(&file);
    plm_buf_reset(&file);
    return rc;
}

static enum plm_code fetch(struct plm_s3_creds *creds, struct plm_s3_secret **out,
                           struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_secret *fresh = NULL;
    const char *web = getenv("AWS_WEB_IDENTITY_TOKEN_FILE");
    bool found = false;

    PLM_TRY(plm_s3_secret_new(&fresh, err));
    PLM_TRY(from_environment(fresh, &found, err));
    if (!found)
        PLM_TRY(from_profile(creds, fresh, &found, err));
    if (!found && web && *web)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED,
                         "s3: AWS_WEB_IDENTITY_TOKEN_FILE is set, but web identity is not supported; "
                         "give the keys by options or environment, or use container credentials"));
    if (!found)
        PLM_TRY(plm_s3_from_container(creds, fresh, &found, err));
    if (!found)
        PLM_TRY(plm_s3_from_instance(creds, fresh, &found, err));
    if (!found)
        PLM_TRY(plm_fail(err, PLM_DENIED,
                         "s3: no credentials in the storage options, the environment, the profile "
                         "\"%.100s\", the container or the instance metadata; for public data give "
                         "aws_skip_signature=true",
                         profile_in_use()));
    *out = fresh;
    fresh = NULL;
done:
    plm_s3_secret_release(fresh);
    return rc;
}

void plm_s3_creds_init(struct plm_s3_creds *creds, struct plm_ctx *ctx, struct plm_s3_secret *given)
{
    *creds = (struct plm_s3_creds){.ctx = ctx, .given = given};
    pthread_mutex_init(&creds->lock, NULL);
}

void plm_s3_creds_reset(struct plm_s3_creds *creds)
{
    plm_s3_secret_release(creds->now);
    plm_s3_secret_release(creds->given);
    creds->now = creds->given = NULL;
    pthread_mutex_destroy(&creds->lock);
}

static bool wants_renewal(const struct plm_s3_creds *creds, const struct plm_s3_secret *stale)
{
    if (creds->now == NULL || creds->now == stale)
        return true;
    return creds->now->expires_ms > 0 && plm_now_seconds() >= creds->next_try_s &&
           (int64_t)plm_unix_millis() > creds->now->expires_ms - RENEW_AHEAD_MS;
}

/* Under the lock: creds->now is good for a request afterwards, or an error says why not. A
 * renewal that fails is no harm while the old secret still lives. */
static enum plm_code renew(struct plm_s3_creds *creds, const struct plm_s3_secret *stale,
                           struct plm_err *err)
{
    struct plm_s3_secret *fresh = NULL;
    enum plm_code rc = fetch(creds, &fresh, err);

    if (rc == PLM_OK) {
        plm_s3_secret_release(creds->now);
        creds->now = fresh;
        creds->next_try_s = plm_now_seconds() + RENEW_AGAIN_S;
        return PLM_OK;
    }
    creds->next_try_s = plm_now_seconds() + RENEW_AGAIN_S;
    if (rc != PLM_CANCELLED && creds->now && creds->now != stale &&
        creds->now->expires_ms > (int64_t)plm_unix_millis())
        return PLM_OK;
    return rc;
}

enum plm_code plm_s3_creds_take(struct plm_s3_creds *creds, const struct plm_s3_secret *stale,
                                struct plm_s3_secret **out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_secret *use = creds->given;

    pthread_mutex_lock(&creds->lock);
    if (use == NULL && wants_renewal(creds, stale))
        rc = renew(creds, stale, err);
    if (rc == PLM_OK) {
        use = use ? use : creds->now;
        atomic_fetch_add(&use->n_users, 1);
        *out = use;
    }
    pthread_mutex_unlock(&creds->lock);
    return rc;
}

#endif
