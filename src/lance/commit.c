/* commit.c - look at what came since, write the next version, look again if someone was faster.
 *
 * Every round begins by reading the versions that are there. So the answers "the name is taken",
 * "the outcome is unknown" and "another process of this job was faster" need no special
 * treatment: the next look finds our transaction, or a newer version to build on.
 */
#include "lance/commit_impl.h"
#include "lance/rowmap.h"

#include <strings.h>
#include <time.h>

#define ROUNDS_MAX 100u
#define UNKNOWN_MAX 5u     /* rounds that may end with an unknown outcome */
#define SLEEP_STEP_US 5000u /* a lost race waits up to this times the round, at most 8 rounds */
#define PATH_BYTES 96u
#define FRAGMENT_REUSE_INDEX "__lance_frag_reuse"

struct commit {
    struct plm_ctx *ctx;
    struct plm_store *store;
    const char *branch;
    const struct plm_commit_request *request;
    struct plm_manifest latest;
    struct plm_manifest before; /* the version read, once something came after it */
    bool knows_before, has_before;
    struct plm_cover cover;
    uint64_t checked_through;   /* versions up to this one are compatible */
    uint64_t done_version;      /* the version with our transaction; 0 = not in yet */
    bool wrote_txn_file;
    bool asked_for_manifest;    /* a put of the manifest was sent in this round */
    bool is_unknown;            /* one of those puts did not say how it ended */
    char txn_file[64];          /* {read_version}-{uuid}.txn */
};

/* ---- looking ------------------------------------------------------------------------- */

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
static bool lists_our_segments(const struct commit *c)
{
    for (size_t i = 0; i < c->request->n_segments; i++) {
        if (!has_uuid(&c->latest, c->request->segments[i].uuid))
            return false;
    }
    return true;
}

static enum plm_code check_txn(struct commit *c, uint64_t version, struct plm_view manifest,
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

static enum plm_code check_version(struct commit *c, uint64_t version, struct plm_err *err)
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
static enum plm_code check_history(struct commit *c, struct plm_err *err)
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
static enum plm_code load_before(struct commit *c, struct plm_err *err)
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

static enum plm_code check_column(struct commit *c, struct plm_err *err)
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

static enum plm_code check_name(const struct commit *c, struct plm_err *err)
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

/* One look at the table as it is now. Afterwards either done_version is set or the commit could
 * follow `latest`. */
static enum plm_code look(struct commit *c, struct plm_err *err)
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

/* ---- writing ------------------------------------------------------------------------- */

static enum plm_code check_file(struct commit *c, const struct plm_entries *files, const char *dir,
                                const char *name, uint64_t expected_bytes, struct plm_err *err)
{
    const char *root = plm_store_uri(c->latest.store);

    for (size_t i = 0; i < files->n; i++) {
        const struct plm_entry *file = &files->items[i];

        if (file->is_dir || strcmp(file->name, name) != 0)
            continue;
        if (file->size_bytes == expected_bytes)
            return PLM_OK;
        return plm_fail(err, PLM_CORRUPT, "%s/%s/%s is %" PRIu64 " bytes long, expected %" PRIu64, root,
                        dir, name, file->size_bytes, expected_bytes);
    }
    return plm_fail(err, PLM_NOT_FOUND, "%s/%s/%s is not there", root, dir, name);
}

/* The index files are there and as long as they should be: one listing for each segment. */
static enum plm_code check_segment(struct commit *c, const struct plm_new_segment *segment,
                                   struct plm_err *err)
{
    char uuid[37], dir[PATH_BYTES];
    struct plm_entries files = {0};
    enum plm_code rc = PLM_OK;

    plm_uuid_text(segment->uuid, uuid);
    snprintf(dir, sizeof dir, "_indices/%s", uuid);
    PLM_TRY(plm_store_list(c->latest.store, dir, 0, &files, err));
    PLM_TRY(check_file(c, &files, dir, "auxiliary.idx", segment->auxiliary_bytes, err));
    PLM_TRY(check_file(c, &files, dir, "index.idx", segment->index_bytes, err));
done:
    plm_entries_reset(&files);
    return rc;
}

static enum plm_code check_files(struct commit *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < c->request->n_segments; i++)
        PLM_TRY(check_segment(c, &c->request->segments[i], err));
done:
    return rc;
}

/* The fragments of the segment whose vectors are still the ones indexed. Dead fragments stay. */
static enum plm_code put_bitmap(struct commit *c, const struct plm_new_segment *segment,
                                struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf bitmap;
    uint32_t *ids = NULL;
    size_t n = 0;

    plm_buf_init(&bitmap, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_alloc(c->ctx, &ids, segment->n_fragments, sizeof *ids, err));
    for (size_t i = 0; i < segment->n_fragments; i++) {
        if (!c->cover.is_rewritten[plm_cover_find(&c->cover, segment->fragments[i])])
            ids[n++] = segment->fragments[i];
    }
    PLM_TRY(plm_bitmap_encode(ids, n, &bitmap, err));
    PLM_TRY(plm_pb_put_bytes(buf, 5, bitmap.data, bitmap.len, err));
done:
    plm_free(c->ctx, ids);
    plm_buf_reset(&bitmap);
    return rc;
}

static enum plm_code put_file(struct plm_buf *buf, const char *name, uint64_t size_bytes,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf message;

    plm_buf_init(&message, buf->ctx, 256);
    PLM_TRY(plm_pb_put_str(&message, 1, name, err));
    PLM_TRY(plm_pb_put_u64(&message, 2, size_bytes, err));
    PLM_TRY(plm_pb_put_message(buf, 10, &message, err));
done:
    plm_buf_reset(&message);
    return rc;
}

/* The IndexMetadata of a segment. */
static enum plm_code put_index_meta(struct commit *c, const struct plm_new_segment *segment,
                                    struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    const struct plm_commit_request *r = c->request;
    uint64_t field_id = (uint64_t)r->field_id;
    struct plm_buf message;

    plm_buf_init(&message, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_pb_put_bytes(&message, 1, segment->uuid, 16, err));
    PLM_TRY(plm_pb_put_message(buf, 1, &message, err));
    PLM_TRY(plm_pb_put_packed(buf, 2, &field_id, 1, err));
    PLM_TRY(plm_pb_put_str(buf, 3, r->index_name, err));
    PLM_TRY(plm_pb_put_u64(buf, 4, r->read_version, err));
    PLM_TRY(put_bitmap(c, segment, buf, err));
    message.len = 0;
    PLM_TRY(plm_pb_put_str(&message, 1, "/lance.index.pb.VectorIndexDetails", err));
    PLM_TRY(plm_pb_put_bytes(&message, 2, r->details.data, r->details.len, err));
    PLM_TRY(plm_pb_put_message(buf, 6, &message, err));
    PLM_TRY(plm_pb_put_u64(buf, 7, 1, err));
    PLM_TRY(plm_pb_put_u64(buf, 8, r->created_at_ms, err));
    PLM_TRY(put_file(buf, "auxiliary.idx", segment->auxiliary_bytes, err));
    PLM_TRY(put_file(buf, "index.idx", segment->index_bytes, err));
done:
    plm_buf_reset(&message);
    return rc;
}

/* Puts the next version's two objects; the first is only a record until the second is in. */
static enum plm_code put_version(struct commit *c, const struct plm_view *added,
                                 const struct plm_buf *txn, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *store = c->latest.store;
    bool has_file = !(c->latest.writer_flags & PLM_FLAG_NO_TXN_FILE);
    char name[40], path[PATH_BYTES];
    struct plm_buf manifest;

    plm_buf_init(&manifest, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_manifest_next(&c->latest, c->request->index_name, added, c->request->n_segments,
                              (struct plm_view){txn->data, txn->len},
                              has_file ? c->txn_file : NULL, &manifest, err));
    if (has_file) {
        snprintf(path, sizeof path, PLM_TRANSACTIONS_DIR "/%s", c->txn_file);
        c->wrote_txn_file = true; /* even if the answer is lost */
        PLM_TRY(plm_store_put_probing(store, path, txn->data, txn->len, err));
    }
    plm_manifest_file_name(c->latest.version + 1, c->latest.is_v1_naming, name);
    snprintf(path, sizeof path, PLM_VERSIONS_DIR "/%s", name);
    c->asked_for_manifest = true;
    PLM_TRY(plm_store_put_if_absent(store, path, manifest.data, manifest.len, err));
done:
    plm_buf_reset(&manifest);
    return rc;
}

/* One attempt at latest + 1, with the index list as `latest` has it. */
static enum plm_code attempt(struct commit *c, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t n_segments = c->request->n_segments, n_removed = 0;
    struct plm_buf *metas = NULL, txn;
    struct plm_view *added = NULL, *removed = NULL;

    plm_buf_init(&txn, c->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(plm_flags_check(c->latest.writer_flags, "writer", err));
    PLM_TRY(plm_alloc(c->ctx, &added, n_segments, sizeof *added, err));
    PLM_TRY(plm_alloc(c->ctx, &removed, c->latest.n_indices, sizeof *removed, err));
    PLM_TRY(plm_calloc(c->ctx, &metas, n_segments, sizeof *metas, err));
    for (size_t i = 0; i < n_segments; i++) {
        plm_buf_init(&metas[i], c->ctx, PLM_MANIFEST_BYTES_MAX);
        PLM_TRY(put_index_meta(c, &c->request->segments[i], &metas[i], err));
        added[i] = (struct plm_view){metas[i].data, metas[i].len};
    }
    for (size_t i = 0; i < c->latest.n_indices; i++) {
        if (strcmp(c->latest.indices[i].name, c->request->index_name) == 0)
            removed[n_removed++] = c->latest.indices[i].raw;
    }
    PLM_TRY(plm_txn_write(c->request, added, n_segments, removed, n_removed, &txn, err));
    PLM_TRY(put_version(c, added, &txn, err));
done:
    for (size_t i = 0; metas && i < n_segments; i++)
        plm_buf_reset(&metas[i]);
    plm_free(c->ctx, metas);
    plm_free(c->ctx, removed);
    plm_free(c->ctx, added);
    plm_buf_reset(&txn);
    return rc;
}

/* ---- the rounds ------------------------------------------------------------------------ */

static void sleep_a_little(const struct commit *c, unsigned round)
{
    uint64_t seed = plm_le64(c->request->transaction_uuid) ^ plm_unix_millis();
    uint64_t most_us = SLEEP_STEP_US * plm_min_u64(round + 1, 8);
    struct timespec pause = {.tv_nsec = (long)(plm_mix64(seed, round) % most_us * 1000)};

    nanosleep(&pause, NULL); /* cut short by a signal is fine: the round is bounded */
}

/* Readers on local disk may look at it first; stale or missing does no harm. */
static void leave_hint(struct commit *c)
{
    char text[48];
    int n = snprintf(text, sizeof text, "{\"version\":%" PRIu64 "}", c->done_version);

    if (plm_store_is_local(c->latest.store) &&
        plm_store_put(c->latest.store, PLM_VERSIONS_DIR "/latest_version_hint.json", text, (size_t)n,
                      NULL) != PLM_OK)
        return;
}

/* Ours is in no version, and none will ever come: what we recorded for it can go. */
static void forget_txn_file(struct commit *c)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, PLM_TRANSACTIONS_DIR "/%s", c->txn_file);
    if (plm_store_delete(c->latest.store, path, NULL) != PLM_OK)
        return; /* stock Lance's cleanup takes it later */
}

/* After a failed attempt: was it the race (PLM_CONFLICT: another round), did the manifest get
 * in nevertheless (PLM_OK), or does the failure stand? A put that did not say how it ended may
 * still take effect later, so another round for the same version is safe: one of the two puts
 * finds the name taken, and the next look finds our transaction. */
static enum plm_code settle(struct commit *c, enum plm_code failure, unsigned *n_unknown,
                            struct plm_err *err)
{
    struct plm_err why = {0};
    enum plm_code rc;

    if (!c->asked_for_manifest || (failure != PLM_RETRY && failure != PLM_IO))
        return failure;
    c->is_unknown = true;
    rc = look(c, &why);
    if (rc == PLM_OK && c->done_version)
        return PLM_OK;
    if (failure == PLM_RETRY && ++*n_unknown < UNKNOWN_MAX && (rc == PLM_OK || rc == PLM_CONFLICT))
        return PLM_CONFLICT;
    return plm_wrap(err, failure, "commit: outcome unknown, the index files are kept");
}

static enum plm_code one_round(struct commit *c, bool is_first, unsigned *n_unknown,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    c->asked_for_manifest = false;
    PLM_TRY(plm_check_cancel(c->ctx, err));
    PLM_TRY(look(c, err));
    if (c->done_version)
        return PLM_OK;
    if (is_first)
        PLM_TRY(check_files(c, err));
    rc = attempt(c, err);
    if (rc != PLM_OK)
        return settle(c, rc, n_unknown, err);
    c->done_version = c->latest.version + 1;
    leave_hint(c);
done:
    return rc;
}

static enum plm_code run_rounds(struct commit *c, struct plm_err *err)
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

static enum plm_code commit_init(struct commit *c, struct plm_store *store, const char *branch,
                                 const struct plm_commit_request *request, struct plm_err *err)
{
    char uuid[37];
    enum plm_code rc = check_request(request, err);

    if (rc != PLM_OK)
        return rc;
    *c = (struct commit){.ctx = plm_store_ctx(store), .store = store, .branch = branch,
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

static void commit_reset(struct commit *c)
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
    struct commit c;
    enum plm_code rc = commit_init(&c, store, branch, request, err);

    if (rc != PLM_OK)
        return rc;
    rc = look(&c, err);
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
    struct commit c;
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
