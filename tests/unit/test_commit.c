/* test_commit.c - the next version's bytes, what may come in between, and how a commit ends when
 * storage fails it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lance/commit_impl.h"
#include "lance/rowmap.h"
#include "store/store_impl.h"
#include "support/table_copy.h"

#include <pthread.h>
#include <stdlib.h>

static struct plm_ctx *ctx;
static char *path;
static struct plm_store *store;

static int setup(void **state)
{
    (void)state;
    return plm_ctx_create(NULL, &ctx, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    plm_store_close(store);
    store = NULL;
    table_remove(path);
    path = NULL;
    bool leaked = atomic_load(&ctx->memory_used) != 0;
    plm_ctx_destroy(ctx);
    return leaked;
}

#define OK(call) assert_int_equal(call, PLM_OK)

static void expect(enum plm_code rc, const struct plm_err *err, enum plm_code code,
                   const char *part)
{
    if (rc != code || err->code != code || !strstr(err->message, part))
        fail_msg("%s \"%s\", expected %s saying \"%s\"", plm_code_name(rc), err->message,
                 plm_code_name(code), part);
}

static struct plm_buf new_buf(void)
{
    struct plm_buf buf;

    plm_buf_init(&buf, ctx, 1 << 20);
    return buf;
}

/* ---- requests over fake index files --------------------------------------------------------- */

enum { AUXILIARY_BYTES = 100, INDEX_BYTES = 50 };
static const uint32_t both[] = {0, 1};

struct request {
    struct plm_new_segment segment;
    struct plm_commit_request r;
};

/* Number `n` decides the uuids. The files are put in place. */
static void make_request(struct request *q, struct plm_store *at, uint8_t n, const char *name)
{
    static const uint8_t zeros[AUXILIARY_BYTES];
    char uuid[37], file[96];

    *q = (struct request){0};
    memset(q->segment.uuid, n, 16);
    q->segment.fragments = both;
    q->segment.n_fragments = 2;
    q->segment.auxiliary_bytes = AUXILIARY_BYTES;
    q->segment.index_bytes = INDEX_BYTES;
    q->r.index_name = name;
    q->r.field_id = 1;
    q->r.read_version = 1;
    memset(q->r.transaction_uuid, 0x80 | n, 16);
    q->r.created_at_ms = 1700000000000 + n;
    q->r.segments = &q->segment;
    q->r.n_segments = 1;
    q->r.details = (struct plm_view){(const uint8_t *)"\x42\x00", 2};
    q->r.replace = true;
    plm_uuid_text(q->segment.uuid, uuid);
    snprintf(file, sizeof file, "_indices/%s/auxiliary.idx", uuid);
    OK(plm_store_put(at, file, zeros, AUXILIARY_BYTES, NULL));
    snprintf(file, sizeof file, "_indices/%s/index.idx", uuid);
    OK(plm_store_put(at, file, zeros, INDEX_BYTES, NULL));
}

static void use(const char *table, struct request *q)
{
    path = table_copy(table);
    OK(plm_store_open(ctx, path, NULL, &store, NULL));
    make_request(q, store, 1, "vec_idx");
}

static uint64_t commit(const struct request *q)
{
    struct plm_err err = {0};
    uint64_t version = 0;

    if (plm_commit_index(store, NULL, &q->r, &version, &err) != PLM_OK)
        fail_msg("%s", err.message);
    return version;
}

static struct plm_manifest latest(void)
{
    struct plm_manifest m = {0};
    struct plm_err err = {0};

    if (plm_manifest_open(store, NULL, 0, &m, &err) != PLM_OK)
        fail_msg("%s", err.message);
    return m;
}

static uint64_t latest_version(void)
{
    struct plm_manifest m = latest();
    uint64_t version = m.version;

    plm_manifest_reset(&m);
    return version;
}

static size_t n_transactions(void)
{
    struct plm_entries entries = {0};
    size_t n;

    OK(plm_store_list(store, "_transactions", 0, &entries, NULL));
    n = entries.n;
    plm_entries_reset(&entries);
    return n;
}

/* ---- versions that others made ----------------------------------------------------------------- */

/* What one writes over the last version; see add_version(). */
struct change {
    uint32_t operation;          /* 0: no transaction at all */
    const struct plm_buf *body;  /* NULL: empty */
    const struct plm_buf *more;  /* appended to the Manifest message */
    uint32_t dropped;            /* field number left out of the Manifest message; 0 = none */
    bool in_file;                /* transaction in its file only */
};

static void put_section(struct plm_buf *file, const struct plm_buf *message)
{
    uint8_t word[4];

    plm_put_le32(word, (uint32_t)message->len);
    OK(plm_buf_add(file, word, 4, NULL));
    OK(plm_buf_add(file, message->data, message->len, NULL));
}

static void make_txn(const struct change *change, struct plm_buf *txn)
{
    struct plm_buf empty = new_buf();

    OK(plm_pb_put_u64(txn, 1, 1, NULL));
    OK(plm_pb_put_str(txn, 2, "00112233-4455-6677-8899-aabbccddeeff", NULL));
    OK(plm_pb_put_message(txn, change->operation, change->body ? change->body : &empty, NULL));
}

/* The Manifest message of the version after `m`. */
static void make_message(const struct plm_manifest *m, const struct change *change,
                         uint64_t section_at, struct plm_buf *message)
{
    struct plm_pb pb = plm_pb_of(m->message);
    struct plm_pb_field field;
    bool any;

    while (plm_pb_next(&pb, &field, &any, NULL) == PLM_OK && any) {
        bool is_position = field.number == 3 || field.number == 6 || field.number == 12 ||
                           field.number == 21 || field.number == 23;

        if (!is_position && field.number != change->dropped)
            OK(plm_buf_add(message, field.whole.data, field.whole.len, NULL));
    }
    OK(plm_pb_put_u64(message, 3, m->version + 1, NULL));
    if (m->index_section.data)
        OK(plm_pb_put_u64(message, 6, section_at, NULL));
    if (change->more)
        OK(plm_buf_add(message, change->more->data, change->more->len, NULL));
}

/* A version as another writer would make it. Indexes are kept. */
static void add_version(const struct change *change)
{
    struct plm_manifest m = latest();
    struct plm_buf file = new_buf(), txn = new_buf(), message = new_buf(), section = new_buf();
    uint8_t footer[16] = {[10] = 2, [12] = 'L', 'A', 'N', 'C'};
    char name[40], at[64];

    if (m.index_section.data)
        OK(plm_buf_add(&section, m.index_section.data, m.index_section.len, NULL));
    put_section(&file, &section);
    make_message(&m, change, 0, &message);
    if (change->operation) {
        make_txn(change, &txn);
        if (change->in_file) {
            OK(plm_store_put(store, "_transactions/1-other.txn", txn.data, txn.len, NULL));
            OK(plm_pb_put_str(&message, 12, "1-other.txn", NULL));
        } else {
            OK(plm_pb_put_u64(&message, 23, file.len, NULL));
            put_section(&file, &txn);
        }
    }
    plm_put_le64(footer, file.len);
    put_section(&file, &message);
    OK(plm_buf_add(&file, footer, sizeof footer, NULL));
    plm_manifest_file_name(m.version + 1, m.is_v1_naming, name);
    snprintf(at, sizeof at, "_versions/%s", name);
    OK(plm_store_put_if_absent(store, at, file.data, file.len, NULL));
    plm_buf_reset(&file);
    plm_buf_reset(&txn);
    plm_buf_reset(&message);
    plm_buf_reset(&section);
    plm_manifest_reset(&m);
}

static void add_operation(uint32_t operation)
{
    add_version(&(struct change){.operation = operation});
}

/* {1: id} as a message in field `number`: a DataFragment with an id only. */
static void put_fragment(struct plm_buf *buf, uint32_t number, uint64_t id)
{
    struct plm_buf fragment = new_buf();

    if (id) /* proto3 leaves 0 out */
        OK(plm_pb_put_u64(&fragment, 1, id, NULL));
    OK(plm_pb_put_message(buf, number, &fragment, NULL));
    plm_buf_reset(&fragment);
}

/* ---- the bytes ----------------------------------------------------------------------------------- */

static bool is_rewritten_field(uint32_t n)
{
    return n == 3 || n == 6 || n == 7 || n == 12 || n == 21 || n == 23;
}

/* The messages agree in all that a commit has no business with. */
static void assert_kept(const struct plm_manifest *before, const struct plm_manifest *after)
{
    struct plm_pb a = plm_pb_of(before->message), b = plm_pb_of(after->message);
    struct plm_pb_field x, y;
    bool any;

    while (plm_pb_next(&a, &x, &any, NULL) == PLM_OK && any) {
        if (is_rewritten_field(x.number))
            continue;
        OK(plm_pb_next(&b, &y, &any, NULL));
        assert_true(any);
        assert_int_equal(x.whole.len, y.whole.len);
        assert_memory_equal(x.whole.data, y.whole.data, x.whole.len);
    }
    while (plm_pb_next(&b, &y, &any, NULL) == PLM_OK && any)
        assert_true(is_rewritten_field(y.number));
}

static void writes_a_version(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf file = new_buf();
    struct plm_txn txn = {0};
    struct plm_err err = {0};

    use("bare", &q);
    struct plm_manifest before = latest();
    assert_int_equal(commit(&q), 2);
    struct plm_manifest m = latest();

    assert_int_equal(m.version, 2);
    assert_kept(&before, &m);
    assert_int_equal(m.n_indices, 1);
    const struct plm_index_meta *index = &m.indices[0];
    assert_string_equal(index->name, "vec_idx");
    assert_memory_equal(index->uuid, q.segment.uuid, 16);
    assert_int_equal(index->n_fields, 1);
    assert_int_equal(index->field_ids[0], 1);
    assert_int_equal(index->dataset_version, 1);
    assert_int_equal(index->n_fragments, 2);
    assert_memory_equal(index->fragments, both, sizeof both);
    assert_string_equal(index->details_url, "/lance.index.pb.VectorIndexDetails");
    assert_int_equal(index->details.len, 2);
    assert_int_equal(index->index_version, 1);
    assert_int_equal(index->created_at_ms, 1700000000001);
    assert_string_equal(index->files[0].path, "auxiliary.idx");
    assert_int_equal(index->files[0].size_bytes, AUXILIARY_BYTES);
    assert_string_equal(index->files[1].path, "index.idx");
    assert_int_equal(index->files[1].size_bytes, INDEX_BYTES);

    /* the transaction: inline, and the same in its file */
    assert_string_equal(m.transaction_file, "1-81818181-8181-8181-8181-818181818181.txn");
    OK(plm_txn_of_manifest(store, (struct plm_view){m.raw.data, m.raw.len}, &txn, &err));
    assert_string_equal(txn.uuid, "81818181-8181-8181-8181-818181818181");
    assert_int_equal(txn.read_version, 1);
    assert_int_equal(txn.operation, 103);
    OK(plm_store_get(store, "_transactions/1-81818181-8181-8181-8181-818181818181.txn", &file, &err));
    assert_int_equal(plm_le32(m.raw.data + m.inline_txn_at), file.len);
    assert_memory_equal(m.raw.data + m.inline_txn_at + 4, file.data, file.len);
    file.len = 0;
    OK(plm_store_get(store, "_versions/latest_version_hint.json", &file, &err));
    assert_int_equal(file.len, 13);
    assert_memory_equal(file.data, "{\"version\":2}", 13);
    plm_buf_reset(&file);
    plm_manifest_reset(&before);
    plm_manifest_reset(&m);
}

/* Index section present though its offset is 0, version and positions once each. */
static void writes_positions_once(void **state)
{
    (void)state;
    struct request q;
    unsigned seen[32] = {0};

    use("plain", &q);
    q.r.read_version = 5;
    q.r.index_name = "new";
    assert_int_equal(commit(&q), 6);
    struct plm_manifest m = latest();
    struct plm_pb pb = plm_pb_of(m.message);
    struct plm_pb_field field;
    bool any;
    while (plm_pb_next(&pb, &field, &any, NULL) == PLM_OK && any) {
        assert_true(field.number < 32);
        seen[field.number]++;
        if (field.number == 6)
            assert_int_equal(field.value, 0);
        if (field.number == 3)
            assert_int_equal(field.value, 6);
    }
    assert_int_equal(seen[3], 1);
    assert_int_equal(seen[6], 1);
    assert_int_equal(seen[7], 1);
    assert_int_equal(seen[12], 1);
    assert_int_equal(seen[13], 1);
    assert_int_equal(seen[21], 0);
    assert_int_equal(seen[23], 1);
    plm_manifest_reset(&m);
}

static void copies_what_it_does_not_know(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf more = new_buf();

    use("plain", &q);
    OK(plm_pb_put_str(&more, 77, "from the future", NULL));
    OK(plm_pb_put_u64(&more, 21, 0, NULL)); /* an old position, to be dropped */
    add_version(&(struct change){.operation = 110, .more = &more});
    q.r.read_version = 6;
    q.r.index_name = "new";
    struct plm_manifest before = latest();
    commit(&q);
    struct plm_manifest m = latest();

    assert_kept(&before, &m);
    assert_int_equal(before.n_indices, 3);
    assert_int_equal(m.n_indices, 4);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(m.indices[i].raw.len, before.indices[i].raw.len);
        assert_memory_equal(m.indices[i].raw.data, before.indices[i].raw.data,
                            before.indices[i].raw.len);
    }
    plm_manifest_reset(&before);
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
}

static void replaces_an_index(void **state)
{
    (void)state;
    struct request q, again;
    struct plm_txn txn = {0};
    struct plm_err err = {0};
    uint64_t version = 0;

    use("plain", &q);
    q.r.read_version = 5;
    struct plm_manifest before = latest();
    q.r.replace = false;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "an index 'vec_idx' exists; allow to replace it");
    q.r.replace = true;
    q.r.index_name = "id_idx";
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "an index 'id_idx' exists on another column");
    assert_int_equal(latest_version(), 5);
    q.r.index_name = "vec_idx";
    assert_int_equal(commit(&q), 6);
    struct plm_manifest m = latest();
    assert_int_equal(m.n_indices, 3);
    assert_memory_equal(m.indices[2].uuid, q.segment.uuid, 16);
    /* the whole old message is in the transaction */
    OK(plm_txn_of_manifest(store, (struct plm_view){m.raw.data, m.raw.len}, &txn, &err));
    struct plm_pb pb = plm_pb_of(txn.body);
    struct plm_pb_field field;
    bool any;
    size_t n_removed = 0;
    while (plm_pb_next(&pb, &field, &any, NULL) == PLM_OK && any) {
        if (field.number == 2 && ++n_removed) {
            const struct plm_index_meta *old = NULL;

            for (size_t i = 0; i < before.n_indices; i++) {
                if (strcmp(before.indices[i].name, "vec_idx") == 0)
                    old = &before.indices[i];
            }
            assert_non_null(old);
            assert_int_equal(field.bytes.len, old->raw.len);
            assert_memory_equal(field.bytes.data, old->raw.data, old->raw.len);
        }
    }
    assert_int_equal(n_removed, 1);
    plm_manifest_reset(&before);
    plm_manifest_reset(&m);

    make_request(&again, store, 2, "vec_idx");
    again.r.read_version = 6;
    assert_int_equal(commit(&again), 7);
    m = latest();
    assert_int_equal(m.n_indices, 3);
    plm_manifest_reset(&m);
}

static void writes_several_segments(void **state)
{
    (void)state;
    struct request q, second;
    struct plm_new_segment segments[2];
    struct plm_err err = {0};
    uint64_t version = 0;

    use("bare", &q);
    make_request(&second, store, 2, "vec_idx");
    segments[0] = q.segment;
    segments[1] = second.segment;
    q.r.segments = segments;
    q.r.n_segments = 2;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_ARG,
           "fragment 0 is in two segments");
    segments[0].n_fragments = 1;
    segments[1].fragments = both + 1;
    segments[1].n_fragments = 1;
    assert_int_equal(commit(&q), 2);
    struct plm_manifest m = latest();
    assert_int_equal(m.n_indices, 2);
    assert_int_equal(m.indices[0].fragments[0], 0);
    assert_int_equal(m.indices[1].fragments[0], 1);
    plm_manifest_reset(&m);
}

static void keeps_the_older_names(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf file = new_buf();

    use("old_names", &q);
    q.r.read_version = 2;
    assert_int_equal(commit(&q), 3);
    OK(plm_store_get(store, "_versions/3.manifest", &file, NULL));
    plm_buf_reset(&file);
}

static void obeys_writer_flags(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf more = new_buf();
    struct plm_err err = {0};
    uint64_t version;
    enum plm_commit_outcome outcome;

    use("bare", &q);
    OK(plm_pb_put_u64(&more, 10, PLM_FLAG_NO_TXN_FILE, NULL));
    add_version(&(struct change){.operation = 110, .more = &more});
    size_t n = n_transactions();
    assert_int_equal(commit(&q), 3);
    assert_int_equal(n_transactions(), n);
    struct plm_manifest m = latest();
    assert_null(m.transaction_file);
    assert_true(m.inline_txn_at > 0);
    assert_int_equal(m.writer_flags, PLM_FLAG_NO_TXN_FILE);
    plm_manifest_reset(&m);

    more.len = 0;
    OK(plm_pb_put_u64(&more, 10, 64, NULL));
    add_version(&(struct change){.operation = 110, .more = &more});
    make_request(&q, store, 2, "two");
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_UNSUPPORTED,
           "writer feature flag 64 (data overlay files) is not supported");
    expect(plm_commit_check(store, NULL, &q.r, &outcome, &version, &err), &err, PLM_UNSUPPORTED,
           "writer feature flag 64");
    assert_int_equal(latest_version(), 4);
    plm_buf_reset(&more);
}

static void commits_on_a_branch(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf raw = new_buf();
    struct plm_store *branch;
    struct plm_err err = {0};
    uint64_t version = 0;

    use("bare", &q);
    OK(plm_store_get(store, "_versions/18446744073709551614.manifest", &raw, NULL));
    OK(plm_store_put(store, "tree/dev/x/_versions/18446744073709551614.manifest", raw.data, raw.len,
                     NULL));
    /* the index files are expected below the branch */
    expect(plm_commit_index(store, "dev/x", &q.r, &version, &err), &err, PLM_NOT_FOUND, "auxiliary.idx");
    OK(plm_store_open_at(store, "tree/dev/x", &branch, NULL));
    make_request(&q, branch, 1, "vec_idx");
    OK(plm_commit_index(store, "dev/x", &q.r, &version, &err));
    assert_int_equal(version, 2);
    assert_int_equal(latest_version(), 1); /* of main */
    plm_store_close(branch);
    plm_buf_reset(&raw);
}

/* ---- finding oneself again -------------------------------------------------------------------------- */

static void recognises_its_own_commit(void **state)
{
    (void)state;
    struct request q;
    enum plm_commit_outcome outcome = PLM_COMMIT_DONE_BEFORE;
    uint64_t version = 0;
    struct plm_err err = {0};

    use("bare", &q);
    OK(plm_commit_check(store, NULL, &q.r, &outcome, &version, &err));
    assert_int_equal(outcome, PLM_COMMIT_FREE);
    assert_int_equal(version, 1);
    assert_int_equal(n_transactions(), 1); /* nothing was written */
    assert_int_equal(commit(&q), 2);
    add_operation(100);
    q.r.replace = false; /* our own index is no obstacle */
    OK(plm_commit_check(store, NULL, &q.r, &outcome, &version, &err));
    assert_int_equal(outcome, PLM_COMMIT_DONE_BEFORE);
    assert_int_equal(version, 2);
    assert_int_equal(commit(&q), 2);
    assert_int_equal(latest_version(), 3);
    add_operation(102); /* what came after it does not undo it */
    assert_int_equal(commit(&q), 2);
    /* its version cleaned away, the index still listed */
    OK(plm_store_delete(store, "_versions/18446744073709551613.manifest", NULL));
    OK(plm_commit_check(store, NULL, &q.r, &outcome, &version, &err));
    assert_int_equal(outcome, PLM_COMMIT_DONE_BEFORE);
    assert_int_equal(version, 4);
}

/* ---- what came in between --------------------------------------------------------------------------- */

static void follows_harmless_operations(void **state)
{
    (void)state;
    static const uint32_t operations[] = {100, 101, 105, 107, 108, 109, 110, 113, 114};
    struct request q;
    struct plm_buf body = new_buf(), index = new_buf(), group = new_buf();

    use("bare", &q);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        add_operation(operations[i]);
    /* an index of another name; one of ours dropped */
    OK(plm_pb_put_str(&index, 3, "vec_idx2", NULL));
    OK(plm_pb_put_message(&body, 1, &index, NULL));
    index.len = 0;
    OK(plm_pb_put_str(&index, 3, "vec_idx", NULL));
    OK(plm_pb_put_message(&body, 2, &index, NULL));
    add_version(&(struct change){.operation = 103, .body = &body, .in_file = true});
    /* other fragments compacted: theirs may be old ones or new ones that reuse no number */
    body.len = 0;
    put_fragment(&group, 1, 7);
    put_fragment(&group, 2, 1);
    OK(plm_pb_put_message(&body, 3, &group, NULL));
    add_version(&(struct change){.operation = 104, .body = &body});
    assert_int_equal(commit(&q), 13);
    struct plm_manifest m = latest();
    assert_int_equal(m.indices[0].n_fragments, 2);
    assert_int_equal(m.indices[0].dataset_version, 1);
    assert_string_equal(m.transaction_file, "1-81818181-8181-8181-8181-818181818181.txn");
    plm_manifest_reset(&m);
    plm_buf_reset(&body);
    plm_buf_reset(&index);
    plm_buf_reset(&group);
}

/* One version with this operation ends our commit, and the table stays as it was. */
static void assert_conflict(uint32_t operation, const struct plm_buf *body, const char *part)
{
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;
    enum plm_commit_outcome outcome;

    use("bare", &q);
    add_operation(100);
    add_version(&(struct change){.operation = operation, .body = body});
    add_operation(100);
    size_t n = n_transactions();
    expect(plm_commit_check(store, NULL, &q.r, &outcome, &version, &err), &err, PLM_CONFLICT, part);
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT, part);
    assert_int_equal(version, 77);
    assert_int_equal(latest_version(), 4);
    assert_int_equal(n_transactions(), n);
    plm_store_close(store);
    store = NULL;
    table_remove(path);
    path = NULL;
}

static void refuses_after_these(void **state)
{
    (void)state;
    struct plm_buf body = new_buf(), part = new_buf(), file = new_buf();
    uint64_t fields[] = {0, 1};

    assert_conflict(102, NULL, "version 3 has overwritten the table");
    assert_conflict(106, NULL, "version 3 has restored an older version");
    assert_conflict(112, NULL, "version 3 has changed the state of a MemWAL");
    assert_conflict(115, NULL, "does not know (number 115)");
    assert_conflict(116, NULL, "does not know (number 116)");
    assert_conflict(200, NULL, "does not know (number 200)");
    assert_conflict(0, NULL, "version 3 has no record of its transaction");

    OK(plm_pb_put_str(&part, 3, "vec_idx", NULL));
    OK(plm_pb_put_message(&body, 1, &part, NULL));
    assert_conflict(103, &body, "version 3 has built the index 'vec_idx'");

    body.len = part.len = 0;
    put_fragment(&part, 1, 9);
    put_fragment(&part, 1, 0); /* id absent: fragment 0 */
    OK(plm_pb_put_message(&body, 3, &part, NULL));
    assert_conflict(104, &body, "version 3 has compacted fragment 0");
    body.len = 0;
    put_fragment(&body, 1, 1); /* the older form */
    assert_conflict(104, &body, "version 3 has compacted fragment 1");

    body.len = part.len = 0;
    OK(plm_pb_put_packed(&file, 2, fields, 2, NULL));
    OK(plm_pb_put_u64(&part, 1, 1, NULL));
    OK(plm_pb_put_message(&part, 2, &file, NULL));
    OK(plm_pb_put_message(&body, 1, &part, NULL));
    assert_conflict(111, &body, "version 3 has replaced the indexed column in fragment 1");
    plm_buf_reset(&body);
    plm_buf_reset(&part);
    plm_buf_reset(&file);
}

static void follows_replaced_data_elsewhere(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf body = new_buf(), part = new_buf(), file = new_buf();
    uint64_t fields[] = {1};

    use("bare", &q);
    OK(plm_pb_put_u64(&part, 1, 5, NULL)); /* the column, another fragment */
    OK(plm_pb_put_packed(&file, 2, fields, 1, NULL));
    OK(plm_pb_put_message(&part, 2, &file, NULL));
    OK(plm_pb_put_message(&body, 1, &part, NULL));
    part.len = file.len = 0;
    fields[0] = 0;
    OK(plm_pb_put_packed(&file, 2, fields, 1, NULL)); /* fragment 0, another column */
    OK(plm_pb_put_message(&part, 2, &file, NULL));
    OK(plm_pb_put_message(&body, 1, &part, NULL));
    add_version(&(struct change){.operation = 111, .body = &body});
    assert_int_equal(commit(&q), 3);
    plm_buf_reset(&body);
    plm_buf_reset(&part);
    plm_buf_reset(&file);
}

static void refuses_gaps(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version;

    use("bare", &q);
    add_operation(100);
    add_operation(100);
    OK(plm_store_delete(store, "_versions/18446744073709551613.manifest", NULL));
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "version 2 has been removed");
    q.r.read_version = 9;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "the latest version is 3, before 9");
    /* the version read may be gone: the transactions after it tell enough */
    q.r.read_version = 2;
    assert_int_equal(commit(&q), 4);
}

static void leaves_rewritten_fragments_out(void **state)
{
    (void)state;
    static const uint64_t ours[] = {1}, others[] = {0};
    struct request q;
    struct plm_buf body = new_buf();
    struct plm_err err = {0};
    uint64_t version;

    use("bare", &q);
    put_fragment(&body, 2, 1);
    OK(plm_pb_put_packed(&body, 4, others, 1, NULL)); /* another column */
    OK(plm_pb_put_u64(&body, 7, 1, NULL));
    add_version(&(struct change){.operation = 108, .body = &body});
    body.len = 0;
    put_fragment(&body, 2, 0);
    OK(plm_pb_put_packed(&body, 4, ours, 1, NULL)); /* as stock Lance: no mode */
    add_version(&(struct change){.operation = 108, .body = &body});
    assert_int_equal(commit(&q), 4);
    struct plm_manifest m = latest();
    assert_int_equal(m.indices[0].n_fragments, 1);
    assert_int_equal(m.indices[0].fragments[0], 1);
    plm_manifest_reset(&m);

    make_request(&q, store, 2, "two");
    body.len = 0;
    put_fragment(&body, 2, 1); /* in place, columns not told */
    OK(plm_pb_put_u64(&body, 7, 1, NULL));
    add_version(&(struct change){.operation = 108, .body = &body});
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "rewritten in every fragment");
    plm_buf_reset(&body);
}

/* Some operation put other files under our fragment without saying so. */
static void compares_data_files(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf more = new_buf(), fragment = new_buf(), file = new_buf();
    static const uint64_t fields[] = {0, 1};

    use("bare", &q);
    struct plm_manifest m = latest();
    OK(plm_buf_add(&more, "", 0, NULL));
    for (uint64_t id = 0; id < 2; id++) {
        struct plm_view raw = m.fragments[id].raw;

        if (id == 0) {
            OK(plm_pb_put_bytes(&more, 2, raw.data, raw.len, NULL));
            continue;
        }
        OK(plm_pb_put_str(&file, 1, "another.lance", NULL));
        OK(plm_pb_put_packed(&file, 2, fields, 2, NULL));
        OK(plm_pb_put_packed(&file, 3, fields, 2, NULL));
        OK(plm_pb_put_u64(&file, 4, 2, NULL));
        OK(plm_pb_put_u64(&file, 5, 2, NULL));
        OK(plm_pb_put_u64(&fragment, 1, id, NULL));
        OK(plm_pb_put_message(&fragment, 2, &file, NULL));
        OK(plm_pb_put_u64(&fragment, 4, 10, NULL));
        OK(plm_pb_put_message(&more, 2, &fragment, NULL));
    }
    plm_manifest_reset(&m);
    add_version(&(struct change){.operation = 105, .more = &more, .dropped = 2});
    assert_int_equal(commit(&q), 3);
    m = latest();
    assert_int_equal(m.indices[0].n_fragments, 1);
    assert_int_equal(m.indices[0].fragments[0], 0);
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
    plm_buf_reset(&fragment);
    plm_buf_reset(&file);
}

static void keeps_dead_fragments(void **state)
{
    (void)state;
    struct request q;

    use("bare", &q);
    add_version(&(struct change){.operation = 101, .dropped = 2}); /* all deleted */
    assert_int_equal(commit(&q), 3);
    struct plm_manifest m = latest();
    assert_int_equal(m.n_fragments, 0);
    assert_int_equal(m.indices[0].n_fragments, 2);
    plm_manifest_reset(&m);
}

static void refuses_a_dropped_or_changed_column(void **state)
{
    (void)state;
    struct request q;
    struct plm_buf more = new_buf(), field = new_buf();
    struct plm_err err = {0};
    uint64_t version;

    use("bare", &q);
    OK(plm_pb_put_str(&field, 2, "vec", NULL));
    OK(plm_pb_put_u64(&field, 3, 1, NULL));
    OK(plm_pb_put_u64(&field, 4, UINT64_MAX, NULL));
    OK(plm_pb_put_str(&field, 5, "fixed_size_list:float:8", NULL));
    OK(plm_pb_put_message(&more, 1, &field, NULL));
    add_version(&(struct change){.operation = 109, .dropped = 1, .more = &more});
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "is fixed_size_list:float:8 in version 2, it was fixed_size_list:float:4");
    add_version(&(struct change){.operation = 109, .dropped = 1});
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "version 3 no longer has the indexed column (field id 1)");
    plm_buf_reset(&more);
    plm_buf_reset(&field);
}

/* ---- wrong requests and files ------------------------------------------------------------------------ */

static void checks_index_files(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version;

    use("bare", &q);
    q.segment.index_bytes++;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CORRUPT,
           "index.idx is 50 bytes long, expected 51");
    q.segment.uuid[0]++;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_NOT_FOUND,
           "auxiliary.idx");
    assert_int_equal(latest_version(), 1);
    assert_int_equal(n_transactions(), 1);
}

static void checks_the_request(void **state)
{
    (void)state;
    static const uint32_t descending[] = {1, 0};
    struct request q;
    struct plm_err err = {0};
    uint64_t version;

    use("bare", &q);
    q.segment.fragments = descending;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_ARG, "not ascending");
    q.segment.n_fragments = 0;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_ARG, "covers no fragment");
    q.segment.fragments = both;
    q.segment.n_fragments = 2;
    q.r.index_name = "";
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_ARG, "no name");
    q.r.index_name = "x";
    q.r.n_segments = 0;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_ARG, "0 segments");
}

static void describes_indexes(void **state)
{
    (void)state;
    static const char flat[] = "\x08\x01\x42\x00"
                               "\x4a\x19\x0a\x13lance.ivf.max_iters\x12\x02" "50"
                               "\x4a\x1c\x0a\x15lance.ivf.sample_rate\x12\x03" "256";
    struct plm_buf buf = new_buf();
    struct plm_err err = {0};

    OK(plm_index_details('F', "cosine", 0, 0, 50, 256, &buf, &err));
    assert_int_equal(buf.len, sizeof flat - 1);
    assert_memory_equal(buf.data, flat, buf.len);
    buf.len = 0;
    OK(plm_index_details('P', "l2", 4, 16, 50, 256, &buf, &err));
    assert_memory_equal(buf.data, "\x22\x04\x08\x04\x10\x10\x4a", 7);
    buf.len = 0;
    OK(plm_index_details('S', "dot", 8, 0, 50, 256, &buf, &err));
    assert_memory_equal(buf.data, "\x08\x02\x2a\x02\x08\x08\x4a", 7);
    expect(plm_index_details('S', "hamming", 8, 0, 50, 256, &buf, &err), &err, PLM_ARG, "hamming");
    expect(plm_index_details('X', "l2", 8, 0, 50, 256, &buf, &err), &err, PLM_BUG, "quantizer");
    plm_buf_reset(&buf);
}

/* ---- storage that fails -------------------------------------------------------------------------------- */

/* A store whose conditional put lies: it may do its work and then claim not to know. */
static const struct plm_store_ops *true_ops;
static struct plm_store_ops lying_ops;
static int n_lies;
static bool lie_after_work;
static enum plm_code lie_code;
static void (*before_put)(void); /* called once, ahead of the next conditional put */

static enum plm_code lying_put(struct plm_store *at, const char *name, const void *bytes, size_t n,
                               bool if_absent, struct plm_err *err)
{
    if (if_absent && before_put) {
        void (*hook)(void) = before_put;

        before_put = NULL;
        at->ops = true_ops;
        hook();
        at->ops = &lying_ops;
    }
    if (!if_absent || n_lies == 0)
        return true_ops->put(at, name, bytes, n, if_absent, err);
    n_lies--;
    if (lie_after_work)
        OK(true_ops->put(at, name, bytes, n, if_absent, err));
    return plm_fail(err, lie_code, "no answer");
}

static void lie(int n, enum plm_code code, bool after_work)
{
    true_ops = store->ops;
    lying_ops = *true_ops;
    lying_ops.put = lying_put;
    store->ops = &lying_ops;
    n_lies = n;
    lie_code = code;
    lie_after_work = after_work;
}

static void settles_unknown_outcomes(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;

    use("bare", &q);
    lie(1, PLM_RETRY, true);
    assert_int_equal(commit(&q), 2); /* it was in */
    assert_int_equal(latest_version(), 2);

    make_request(&q, store, 2, "two");
    n_lies = 2;
    lie_after_work = false;
    assert_int_equal(commit(&q), 3); /* it was not: put again */
    assert_int_equal(latest_version(), 3);

    make_request(&q, store, 3, "three");
    n_lies = 1;
    lie_code = PLM_IO;
    lie_after_work = true;
    assert_int_equal(commit(&q), 4);

    make_request(&q, store, 4, "four");
    n_lies = 1000;
    lie_code = PLM_RETRY;
    lie_after_work = false;
    size_t n = n_transactions();
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_RETRY,
           "commit: outcome unknown, the index files are kept: no answer");
    assert_int_equal(1000 - n_lies, 5);
    assert_int_equal(version, 77);
    assert_int_equal(n_transactions(), n + 1); /* nothing is deleted */
    n_lies = 0;
    assert_int_equal(commit(&q), 5);
}

static void append_in_between(void) { add_operation(100); }
static void overwrite_in_between(void) { add_operation(102); }

static void rebases_after_a_lost_race(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;

    use("bare", &q);
    lie(0, PLM_RETRY, false);
    before_put = append_in_between;
    assert_int_equal(commit(&q), 3);
    assert_int_equal(n_transactions(), 2); /* the same file, reused */

    make_request(&q, store, 2, "two");
    before_put = overwrite_in_between;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "version 4 has overwritten the table");
    assert_int_equal(n_transactions(), 2); /* surely lost: the file is gone */
    assert_int_equal(latest_version(), 4);
}

/* A put without an answer that turns out to have lost. */
static void notices_an_unknown_loss(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;

    use("bare", &q);
    lie(1, PLM_RETRY, false);
    before_put = overwrite_in_between;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "version 2 has overwritten the table");
    assert_int_equal(n_transactions(), 2); /* not ours to delete, who knows */
}

static enum plm_code never_put(struct plm_store *at, const char *name, const void *bytes, size_t n,
                               bool if_absent, struct plm_err *err)
{
    if (if_absent)
        return plm_fail(err, PLM_CONFLICT, "taken");
    return true_ops->put(at, name, bytes, n, if_absent, err);
}

static void gives_up_in_the_end(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;

    use("bare", &q);
    lie(0, PLM_RETRY, false);
    lying_ops.put = never_put;
    expect(plm_commit_index(store, NULL, &q.r, &version, &err), &err, PLM_CONFLICT,
           "lost 100 races");
    assert_int_equal(n_transactions(), 1);
}

static void obeys_cancellation(void **state)
{
    (void)state;
    struct request q;
    struct plm_err err = {0};
    uint64_t version = 77;

    use("bare", &q);
    plm_ctx_cancel(ctx);
    assert_int_equal(plm_commit_index(store, NULL, &q.r, &version, &err), PLM_CANCELLED);
    atomic_store(&ctx->cancelled, false);
    assert_int_equal(latest_version(), 1);
    assert_int_equal(commit(&q), 2);
}

/* Fails each allocation and each I/O call in turn. Afterwards the table is as it was or holds
 * the index, and the same request carries on. */
static void survives_faults(atomic_long *countdown, enum plm_code expected, long limit)
{
    struct request q;
    enum plm_code rc = expected;
    uint64_t version, n_versions = 1;
    long n;

    use("bare", &q);
    for (n = 1; rc != PLM_OK && n < limit; n++) {
        struct plm_err err = {0};
        uint64_t before = atomic_load(&ctx->memory_used);

        atomic_store(countdown, n);
        rc = plm_commit_index(store, NULL, &q.r, &version, &err);
        atomic_store(countdown, 0);
        assert_int_equal(atomic_load(&ctx->memory_used), before);
        if (rc != PLM_OK)
            assert_int_equal(rc, expected);
        n_versions = latest_version();
        assert_true(n_versions <= 2);
    }
    assert_int_equal(rc, PLM_OK);
    assert_true(n > 10);
    assert_int_equal(n_versions, 2);
    assert_int_equal(commit(&q), 2);
}

static void survives_failed_allocations(void **state)
{
    (void)state;
    survives_faults(&ctx->faults.alloc_countdown, PLM_NOMEM, 1000);
}

static void survives_failed_io(void **state)
{
    (void)state;
    survives_faults(&ctx->faults.io_countdown, PLM_IO, 1000);
}

/* ---- several at once -------------------------------------------------------------------------------------- */

enum { N_WRITERS = 4, N_COMMITS = 5 };

struct writer {
    unsigned number;
    struct plm_err err;
};

static enum plm_code write_some(struct plm_ctx *own, unsigned number, struct plm_err *err)
{
    struct plm_store *at;
    enum plm_code rc = plm_store_open(own, path, NULL, &at, err);

    for (unsigned i = 0; rc == PLM_OK && i < N_COMMITS; i++) {
        struct request q;
        char name[32];
        uint64_t version;

        snprintf(name, sizeof name, "by_%u_%u", number, i);
        make_request(&q, at, (uint8_t)(number * N_COMMITS + i + 1), name);
        rc = plm_commit_index(at, NULL, &q.r, &version, err);
    }
    if (rc == PLM_OK)
        plm_store_close(at);
    return rc;
}

static void *run_writer(void *arg)
{
    struct writer *w = arg;
    struct plm_ctx *own;

    w->err.code = plm_ctx_create(NULL, &own, &w->err);
    if (w->err.code == PLM_OK) {
        w->err.code = write_some(own, w->number, &w->err);
        plm_ctx_destroy(own);
    }
    return NULL;
}

static void commits_from_many_writers(void **state)
{
    (void)state;
    struct request q;
    struct writer writers[N_WRITERS] = {0};
    pthread_t threads[N_WRITERS];

    use("bare", &q);
    for (unsigned i = 0; i < N_WRITERS; i++) {
        writers[i].number = i;
        assert_int_equal(pthread_create(&threads[i], NULL, run_writer, &writers[i]), 0);
    }
    for (unsigned i = 0; i < N_WRITERS; i++) {
        pthread_join(threads[i], NULL);
        if (writers[i].err.code != PLM_OK)
            fail_msg("%s", writers[i].err.message);
    }
    struct plm_manifest m = latest();
    assert_int_equal(m.version, 1 + N_WRITERS * N_COMMITS);
    assert_int_equal(m.n_indices, N_WRITERS * N_COMMITS);
    plm_manifest_reset(&m);
}

/* ---- two that race, again and again ----------------------------------------------------------------------- */

enum { ROUNDS_SHORT = 100 };

static unsigned n_rounds(void)
{
    const char *given = getenv("PILUM_RACE_ROUNDS");
    return given ? (unsigned)strtoul(given, NULL, 10) : ROUNDS_SHORT;
}

struct racer {
    unsigned number, round;
    pthread_barrier_t *start;
    uint64_t version;
    struct plm_err err;
};

/* A commit under the racer's own name, over the version that both began with. */
static enum plm_code race_once(struct plm_ctx *own, struct racer *r, struct plm_err *err)
{
    struct plm_store *at = NULL;
    struct request q;
    char name[32];
    enum plm_code rc = plm_store_open(own, path, NULL, &at, err);

    if (rc == PLM_OK) {
        snprintf(name, sizeof name, "racer_%u", r->number);
        make_request(&q, at, (uint8_t)(1 + r->number), name);
        memcpy(q.segment.uuid, &r->round, sizeof r->round); /* each round a commit of its own */
        memcpy(q.r.transaction_uuid, &r->round, sizeof r->round);
        q.r.read_version = 1 + 2 * (uint64_t)r->round;
        char uuid[37], file[96];
        static const uint8_t zeros[AUXILIARY_BYTES];
        plm_uuid_text(q.segment.uuid, uuid);
        snprintf(file, sizeof file, "_indices/%s/auxiliary.idx", uuid);
        OK(plm_store_put(at, file, zeros, AUXILIARY_BYTES, NULL));
        snprintf(file, sizeof file, "_indices/%s/index.idx", uuid);
        OK(plm_store_put(at, file, zeros, INDEX_BYTES, NULL));
        pthread_barrier_wait(r->start);
        rc = plm_commit_index(at, NULL, &q.r, &r->version, err);
    } else {
        pthread_barrier_wait(r->start);
    }
    plm_store_close(at);
    return rc;
}

static void *run_racer(void *arg)
{
    struct racer *r = arg;
    struct plm_ctx *own;

    if (plm_ctx_create(NULL, &own, &r->err) != PLM_OK)
        abort();
    r->err.code = race_once(own, r, &r->err);
    plm_ctx_destroy(own);
    return NULL;
}

/* Each round makes exactly two versions, one of each racer, and both indexes are in the last. */
static void races_lose_and_double_nothing(void **state)
{
    (void)state;
    struct request q;
    unsigned rounds = n_rounds();

    use("bare", &q);
    size_t before = n_transactions();
    for (unsigned round = 0; round < rounds; round++) {
        pthread_barrier_t start;
        struct racer racers[2];
        pthread_t threads[2];

        pthread_barrier_init(&start, NULL, 2);
        for (unsigned i = 0; i < 2; i++) {
            racers[i] = (struct racer){.number = i, .round = round, .start = &start};
            assert_int_equal(pthread_create(&threads[i], NULL, run_racer, &racers[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++) {
            pthread_join(threads[i], NULL);
            if (racers[i].err.code != PLM_OK)
                fail_msg("round %u, racer %u: %s", round, i, racers[i].err.message);
        }
        pthread_barrier_destroy(&start);
        uint64_t low = plm_min_u64(racers[0].version, racers[1].version);
        uint64_t high = plm_max_u64(racers[0].version, racers[1].version);
        assert_int_equal(low, 2 + 2 * (uint64_t)round);
        assert_int_equal(high, low + 1);
        struct plm_manifest m = latest();
        assert_int_equal(m.version, high);
        assert_int_equal(m.n_indices, 2);
        plm_manifest_reset(&m);
    }
    assert_int_equal(n_transactions(), before + 2 * rounds);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(writes_a_version),
        TEST(writes_positions_once),
        TEST(copies_what_it_does_not_know),
        TEST(replaces_an_index),
        TEST(writes_several_segments),
        TEST(keeps_the_older_names),
        TEST(obeys_writer_flags),
        TEST(commits_on_a_branch),
        TEST(recognises_its_own_commit),
        TEST(follows_harmless_operations),
        TEST(refuses_after_these),
        TEST(follows_replaced_data_elsewhere),
        TEST(refuses_gaps),
        TEST(leaves_rewritten_fragments_out),
        TEST(compares_data_files),
        TEST(keeps_dead_fragments),
        TEST(refuses_a_dropped_or_changed_column),
        TEST(checks_index_files),
        TEST(checks_the_request),
        TEST(describes_indexes),
        TEST(settles_unknown_outcomes),
        TEST(rebases_after_a_lost_race),
        TEST(notices_an_unknown_loss),
        TEST(gives_up_in_the_end),
        TEST(obeys_cancellation),
        TEST(survives_failed_allocations),
        TEST(survives_failed_io),
        TEST(commits_from_many_writers),
        TEST(races_lose_and_double_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
