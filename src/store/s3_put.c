/* s3_put.c - whole objects: put, put under a condition, copied by the server, deleted.
 *
 * A commit needs conditional writes, which not every endpoint keeps although it takes the header:
 * they are tried out once before the first one counts.
 */
#ifdef PLM_WITH_S3

#include "store/s3.h"

/* One PUT may carry 5 GiB; the server's copy the same. */
#define PUT_BYTES_MAX ((uint64_t)5 << 30)

static enum plm_code put_request(struct plm_s3 *s3, const char *path, const void *bytes, size_t n,
                                 bool if_absent, struct plm_s3_request *q, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    *q = (struct plm_s3_request){.method = "PUT", .body = bytes, .body_bytes = n,
                                 .if_absent = if_absent};
    PLM_TRY(plm_s3_key(s3, path, q, err));
    if (n > PUT_BYTES_MAX)
        PLM_TRY(plm_fail(err, PLM_ARG, "s3://%s/%s: %zu bytes in one PUT, S3 takes 5 GiB",
                         s3->client.config.bucket, q->key, n));
    PLM_TRY(plm_s3_one(&s3->client, q, err));
done:
    return rc;
}

enum plm_code plm_s3_delete(struct plm_store *store, const char *path, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_s3_request q = {.method = "DELETE"};
    enum plm_code rc = plm_s3_key(s3, path, &q, err);

    if (rc == PLM_OK)
        rc = plm_s3_one(&s3->client, &q, err);
    return rc == PLM_NOT_FOUND && strcmp(q.reply.code, "NoSuchBucket") != 0 ? PLM_OK : rc;
}

static enum plm_code ignored_condition(struct plm_s3 *s3, const char *seen, struct plm_err *err)
{
    return plm_fail(err, PLM_UNSUPPORTED,
                    "s3://%s: this endpoint does not keep conditional writes (If-None-Match): %s; "
                    "committing there could lose another writer's version, so it is refused",
                    s3->client.config.bucket, seen);
}

/* Writes one fresh key twice under the condition: 200, then 412. */
static enum plm_code probe_key(struct plm_s3 *s3, const char *path, const void *bytes, size_t n,
                               struct plm_err *err)
{
    struct plm_err local;
    struct plm_s3_request q;
    enum plm_code rc = put_request(s3, path, bytes, n, true, &q, &local);

    if (rc == PLM_OK)
        rc = put_request(s3, path, bytes, n, true, &q, &local);
    else if (rc == PLM_CONFLICT)
        return ignored_condition(s3, "a key that is not there counts as present", err);
    else
        goto other;
    if (rc == PLM_OK)
        return ignored_condition(s3, "a key was written twice", err);
    if (rc == PLM_CONFLICT || (rc == PLM_RETRY && q.reply.status == 412))
        return PLM_OK;
other:
    if (q.reply.status == 501 || q.reply.status == 400)
        return ignored_condition(s3, local.message, err);
    if (err)
        *err = local;
    return rc;
}

static void remove_probe(struct plm_s3 *s3, const char *path)
{
    struct plm_err ignored;
    enum plm_code gone = plm_s3_delete(&s3->base, path, &ignored);

    if (gone != PLM_OK && gone != PLM_CANCELLED)
        plm_warn(s3->base.ctx, "the probe object stays behind: %s", ignored.message);
}

/* An unclear answer (reset, time-out) is asked again with another key. */
static enum plm_code probe(struct plm_s3 *s3, struct plm_err *err)
{
    static const char bytes[] = "pilum asks whether conditional writes work here\n";
    enum plm_code rc = PLM_OK;
    uint8_t uuid[16];
    char text[37], path[64];

    for (int i = 0; i < 4; i++) {
        rc = plm_uuid_random(uuid, err);
        if (rc)
            return rc;
        plm_uuid_text(uuid, text);
        snprintf(path, sizeof path, "_pilum/probe-%s", text);
        rc = probe_key(s3, path, bytes, sizeof bytes - 1, err);
        remove_probe(s3, path);
        if (rc != PLM_RETRY)
            break;
    }
    return rc ? plm_wrap(err, rc, "asking whether conditional writes work") : PLM_OK;
}

static enum plm_code make_sure_of_conditions(struct plm_s3 *s3, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    pthread_mutex_lock(&s3->probe_lock);
    if (!s3->conditional_works)
        rc = probe(s3, err);
    s3->conditional_works = s3->conditional_works || rc == PLM_OK;
    pthread_mutex_unlock(&s3->probe_lock);
    return rc;
}

/* An object there already (of an earlier try) or an unclear answer tells nothing: then it is put
 * without condition, and the next conditional write probes with a key of its own. */
enum plm_code plm_s3_put_probing(struct plm_store *store, const char *path, const void *bytes,
                                 size_t n, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_s3_request q;
    struct plm_err local;
    enum plm_code rc = PLM_RETRY;

    pthread_mutex_lock(&s3->probe_lock);
    if (!s3->conditional_works)
        rc = probe_key(s3, path, bytes, n, &local);
    s3->conditional_works = s3->conditional_works || rc == PLM_OK;
    pthread_mutex_unlock(&s3->probe_lock);
    if (rc == PLM_OK || rc == PLM_CANCELLED) {
        if (rc && err)
            *err = local;
        return rc;
    }
    /* Or a copy of an earlier process lies there: a fresh key will tell. */
    if (rc == PLM_UNSUPPORTED) {
        rc = make_sure_of_conditions(s3, err);
        if (rc != PLM_OK) {
            remove_probe(s3, path);
            return rc;
        }
    }
    return put_request(s3, path, bytes, n, false, &q, err);
}

enum plm_code plm_s3_put(struct plm_store *store, const char *path, const void *bytes, size_t n,
                         bool if_absent, struct plm_err *err)
{
    struct plm_s3 *s3 = plm_s3_of(store);
    struct plm_s3_request q;
    enum plm_code rc = if_absent ? make_sure_of_conditions(s3, err) : PLM_OK;

    return rc ? rc : put_request(s3, path, bytes, n, if_absent, &q, err);
}

#endif
