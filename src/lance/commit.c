/* commit.c - look at what came since, write the next version, look again if someone was faster.
 *
 * Every round begins by reading the versions that are there. So the answers "the name is taken",
 * "the outcome is unknown" and "another process of this job was faster" need no special
 * treatment: the next look finds our transaction, or a newer version to build on.
 */
#include "lance/commit_impl.h"

#include <time.h>

#define ROUNDS_MAX 100u
#define UNKNOWN_MAX 5u      /* rounds that may end with an unknown outcome */
#define SLEEP_STEP_US 5000u /* a lost race waits up to this times the round, at most 8 rounds */

static void sleep_a_little(const struct plm_commit *c, unsigned round)
{
    uint64_t seed = plm_le64(c->request->transaction_uuid) ^ plm_unix_millis();
    uint64_t most_us = SLEEP_STEP_US * plm_min_u64(round + 1, 8);
    struct timespec pause = {.tv_nsec = (long)(plm_mix64(seed, round) % most_us * 1000)};

    nanosleep(&pause, NULL); /* cut short by a signal is fine: the round is bounded */
}

/* Readers on local disk may look at it first; stale or missing does no harm. */
static void leave_hint(struct plm_commit *c)
{
    char text[48];
    int n = snprintf(text, sizeof text, "{\"version\":%" PRIu64 "}", c->done_version);

    if (plm_store_is_local(c->latest.store) &&
        plm_store_put(c->latest.store, PLM_VERSIONS_DIR "/latest_version_hint.json", text, (size_t)n,
                      NULL) != PLM_OK)
        return;
}

/* Ours is in no version, and none will ever come: what we recorded for it can go. */
static void forget_txn_file(struct plm_commit *c)
{
    char path[PLM_COMMIT_PATH_BYTES];

    snprintf(path, sizeof path, PLM_TRANSACTIONS_DIR "/%s", c->txn_file);
    if (plm_store_delete(c->latest.store, path, NULL) != PLM_OK)
        return; /* stock Lance's cleanup takes it later */
}

/* After a failed attempt: was it the race (PLM_CONFLICT: another round), did the manifest get
 * in nevertheless (PLM_OK), or does the failure stand? A put that did not say how it ended may
 * still take effect later, so another round for the same version is safe: one of the two puts
 * finds the name taken, and the next look finds our transaction. */
static enum plm_code settle(struct plm_commit *c, enum plm_code failure, unsigned *n_unknown,
                            struct plm_err *err)
{
    struct plm_err why = {0};
    enum plm_code rc;

    if (!c->asked_for_manifest || (failure != PLM_RETRY && failure != PLM_IO))
        return failure;
    c->is_unknown = true;
    rc = plm_commit_look(c, &why);
    if (rc == PLM_OK && c->done_version)
        return PLM_OK;
    if (failure == PLM_RETRY && ++*n_unknown < UNKNOWN_MAX && (rc == PLM_OK || rc == PLM_CONFLICT))
        return PLM_CONFLICT;
    return plm_wrap(err, failure, "commit: outcome unknown, the index files are kept");
}

static enum plm_code one_round(struct plm_commit *c, bool is_first, unsigned *n_unknown,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    c->asked_for_manifest = false;
    PLM_TRY(plm_check_cancel(c->ctx, err));
    PLM_TRY(plm_commit_look(c, err));
    if (c->done_version)
        return PLM_OK;
    if (is_first)
        PLM_TRY(plm_commit_check_files(c, err));
    rc = plm_commit_attempt(c, err);
    if (rc != PLM_OK)
        return settle(c, rc, n_unknown, err);
    c->done_version = c->latest.version + 1;
    leave_hint(c);
done:
    return rc;
}

static enum plm_code run_rounds(struct plm_commit *c, struct plm_err *err)
{
    unsigned n_unknown = 0;

    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        enum plm_code rc = one_round(c, round == 0, &n_unknown, err);

        /* A conflict without an answered put is the verdict of the look. */
        if (rc != PLM_CONFLICT || !c->asked_for_manifest)
            return rc;
        sleep_a_little(c, round);
    }
    return plm_fail(err, PLM_CONFLICT, "lost %u races for the next version in a row; run again",
                    ROUNDS_MAX);
}

static enum plm_code check_request(const struct plm_commit_request *r, struct plm_err *err)
{
    if (!r->index_name || !*r->index_name)
        return plm_fail(err, PLM_ARG, "commit: the index has no name");
    if (r->n_segments == 0 || r->read_version == 0 || r->field_id < 0)
        return plm_fail(err, PLM_ARG,
                        "commit: %zu segments, version %" PRIu64 ", field %" PRId32
                        ", expected at least 1, 1, 0", r->n_segments, r->read_version, r->field_id);
    return PLM_OK;
}

static enum plm_code commit_init(struct plm_commit *c, struct plm_store *store, const char *branch,
                                 const struct plm_commit_request *request, struct plm_err *err)
{
    char uuid[37];
    enum plm_code rc = check_request(request, err);

    if (rc != PLM_OK)
        return rc;
    *c = (struct plm_commit){.ctx = plm_store_ctx(store), .store = store, .branch = branch,
                         .request = request, .checked_through = request->read_version};
    plm_uuid_text(request->transaction_uuid, uuid);
    snprintf(c->txn_file, sizeof c->txn_file, "%" PRIu64 "-%s.txn", request->read_version, uuid);
    rc = plm_cover_init(c->ctx, request, &c->cover, err);
    if (rc == PLM_OK && c->cover.n == 0) {
        plm_cover_reset(&c->cover);
        rc = plm_fail(err, PLM_ARG, "commit: the index covers no fragment");
    }
    return rc;
}

static void commit_reset(struct plm_commit *c)
{
    plm_manifest_reset(&c->latest);
    plm_manifest_reset(&c->before);
    plm_cover_reset(&c->cover);
}

enum plm_code plm_commit_check(struct plm_store *store, const char *branch,
                               const struct plm_commit_request *request,
                               enum plm_commit_outcome *outcome, uint64_t *version,
                               struct plm_err *err)
{
    struct plm_commit c;
    enum plm_code rc = commit_init(&c, store, branch, request, err);

    if (rc != PLM_OK)
        return rc;
    rc = plm_commit_look(&c, err);
    if (rc == PLM_OK && !c.done_version)
        rc = plm_flags_check(c.latest.writer_flags, "writer", err);
    if (rc == PLM_OK) {
        *outcome = c.done_version ? PLM_COMMIT_DONE_BEFORE : PLM_COMMIT_FREE;
        *version = c.done_version ? c.done_version : c.latest.version;
    }
    commit_reset(&c);
    return rc;
}

enum plm_code plm_commit_index(struct plm_store *store, const char *branch,
                               const struct plm_commit_request *request, uint64_t *version,
                               struct plm_err *err)
{
    struct plm_commit c;
    enum plm_code rc = commit_init(&c, store, branch, request, err);

    if (rc != PLM_OK)
        return rc;
    rc = run_rounds(&c, err);
    if (rc == PLM_OK)
        *version = c.done_version;
    else if (rc == PLM_CONFLICT && c.wrote_txn_file && !c.is_unknown)
        forget_txn_file(&c);
    commit_reset(&c);
    return rc;
}
