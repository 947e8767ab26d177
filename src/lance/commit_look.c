/* commit_look.c - can our commit still follow what the table has become? */
#include "lance/commit_impl.h"

#include <strings.h>

#define FRAGMENT_REUSE_INDEX "__lance_frag_reuse"

static const struct plm_field *field_of(const struct plm_manifest *m, int32_t id)
{
    for (size_t i = 0; i < m->n_fields; i++) {
        if (m->fields[i].id == id)
            return &m->fields[i];
    }
    return NULL;
}

static bool has_index_named(const struct plm_manifest *m, const char *name)
{
    for (size_t i = 0; i < m->n_indices; i++) {
        if (strcmp(m->indices[i].name, name) == 0)
            return true;
    }
    return false;
}

static bool has_uuid(const struct plm_manifest *m, const uint8_t uuid[16])
{
    for (size_t i = 0; i < m->n_indices; i++) {
        if (memcmp(m->indices[i].uuid, uuid, 16) == 0)
            return true;
    }
    return false;
}

/* The index is in, even if the version that brought it has been cleaned away since. */
static bool lists_our_segments(const struct plm_commit *c)
{
    for (size_t i = 0; i < c->request->n_segments; i++) {
        if (!has_uuid(&c->latest, c->request->segments[i].uuid))
            return false;
    }
    return true;
}

static enum plm_code check_txn(struct plm_commit *c, uint64_t version, struct plm_view manifest,
                               struct plm_err *err)
{
    char ours[37];
    struct plm_txn txn = {0};
    enum plm_code rc = plm_txn_of_manifest(c->latest.store, manifest, &txn, err);

    plm_uuid_text(c->request->transaction_uuid, ours);
    if (rc == PLM_NOT_FOUND)
        rc = plm_fail(err, PLM_CONFLICT,
                      "version %" PRIu64 " has no record of its transaction, so what it changed"
                      " is unknown; build again", version);
    else if (rc == PLM_OK && strcasecmp(txn.uuid, ours) == 0)
        c->done_version = version;
    else if (rc == PLM_OK)
        rc = plm_conflict_check(c->request, &c->cover, &txn, version,
                                has_index_named(&c->latest, FRAGMENT_REUSE_INDEX), err);
    plm_txn_reset(&txn);
    return rc == PLM_OK || rc == PLM_CONFLICT ? rc
                                              : plm_wrap(err, rc, "transaction of version %" PRIu64,
                                                         version);
}

static enum plm_code check_version(struct plm_commit *c, uint64_t version, struct plm_err *err)
{
    struct plm_buf raw = {0};
    enum plm_code rc = plm_check_cancel(c->ctx, err);

    if (rc != PLM_OK)
        return rc;
    if (version == c->latest.version)
        return check_txn(c, version, (struct plm_view){c->latest.raw.data, c->latest.raw.len}, err);
    rc = plm_manifest_get(c->latest.store, version, c->latest.is_v1_naming, &raw, err);
    if (rc == PLM_NOT_FOUND)
        rc = plm_fail(err, PLM_CONFLICT,
                      "version %" PRIu64 " has been removed, so what it changed is unknown;"
                      " build again", version);
    else if (rc == PLM_OK)
        rc = check_txn(c, version, (struct plm_view){raw.data, raw.len}, err);
    plm_buf_reset(&raw);
    return rc;
}

/* All versions not looked at yet. After the first conflict the search goes on for our own
 * transaction only. */
static enum plm_code check_history(struct plm_commit *c, struct plm_err *err)
{
    enum plm_code verdict = PLM_OK;
    struct plm_err first = {0};

    for (uint64_t v = c->checked_through + 1; v <= c->latest.version; v++) {
        struct plm_err why = {0};
        enum plm_code rc = check_version(c, v, &why);

        if (rc != PLM_OK && rc != PLM_CONFLICT) {
            if (err)
                *err = why;
            return rc;
        }
        if (c->done_version)
            return PLM_OK;
        if (rc == PLM_CONFLICT && verdict == PLM_OK) {
            verdict = rc;
            first = why;
        }
    }
    if (verdict == PLM_OK) {
        c->checked_through = c->latest.version;
    } else if (lists_our_segments(c)) {
        c->done_version = c->latest.version;
        return PLM_OK;
    } else if (err) {
        *err = first;
    }
    return verdict;
}

/* The version read may have been cleaned away; then the transactions alone must do. */
static enum plm_code load_before(struct plm_commit *c, struct plm_err *err)
{
    enum plm_code rc;

    if (c->knows_before || c->latest.version == c->request->read_version)
        return PLM_OK;
    rc = plm_manifest_open(c->store, c->branch, c->request->read_version, &c->before, err);
    if (rc != PLM_OK && rc != PLM_NOT_FOUND)
        return rc;
    c->has_before = rc == PLM_OK;
    c->knows_before = true;
    return PLM_OK;
}

static enum plm_code check_column(struct plm_commit *c, struct plm_err *err)
{
    const struct plm_field *now = field_of(&c->latest, c->request->field_id), *then;
    size_t n_rewritten = 0;
    enum plm_code rc;

    if (!now)
        return plm_fail(err, PLM_CONFLICT,
                        "version %" PRIu64 " no longer has the indexed column (field id %" PRId32 ")",
                        c->latest.version, c->request->field_id);
    if (c->has_before) {
        then = field_of(&c->before, c->request->field_id);
        if (!then || strcmp(then->logical_type, now->logical_type) != 0)
            return plm_fail(err, PLM_CONFLICT,
                            "column '%.200s' is %.60s in version %" PRIu64 ", it was %.60s when indexed",
                            now->name, now->logical_type, c->latest.version,
                            then ? then->logical_type : "missing");
        rc = plm_cover_compare(&c->cover, &c->before, &c->latest, c->request->field_id, err);
        if (rc != PLM_OK)
            return rc;
    }
    for (size_t i = 0; i < c->cover.n; i++)
        n_rewritten += c->cover.is_rewritten[i];
    if (n_rewritten == c->cover.n)
        return plm_fail(err, PLM_CONFLICT,
                        "the column has been rewritten in every fragment that the index covers;"
                        " build again");
    return PLM_OK;
}

static enum plm_code check_name(const struct plm_commit *c, struct plm_err *err)
{
    for (size_t i = 0; i < c->latest.n_indices; i++) {
        const struct plm_index_meta *index = &c->latest.indices[i];

        if (strcmp(index->name, c->request->index_name) != 0)
            continue;
        if (index->n_fields != 1 || index->field_ids[0] != c->request->field_id)
            return plm_fail(err, PLM_CONFLICT,
                            "an index '%.200s' exists on another column; choose another name",
                            index->name);
        if (!c->request->replace)
            return plm_fail(err, PLM_CONFLICT,
                            "an index '%.200s' exists; allow to replace it or choose another name",
                            index->name);
    }
    return PLM_OK;
}

enum plm_code plm_commit_look(struct plm_commit *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    plm_manifest_reset(&c->latest);
    PLM_TRY(plm_manifest_open_latest(c->store, c->branch, c->request->known, &c->latest, err));
    if (c->latest.version < c->checked_through)
        PLM_TRY(plm_fail(err, PLM_CONFLICT,
                         "the latest version is %" PRIu64 ", before %" PRIu64
                         ": the table has been replaced; build again",
                         c->latest.version, c->checked_through));
    PLM_TRY(check_history(c, err));
    if (c->done_version)
        return PLM_OK;
    PLM_TRY(load_before(c, err));
    PLM_TRY(check_column(c, err));
    PLM_TRY(check_name(c, err));
done:
    return rc;
}
