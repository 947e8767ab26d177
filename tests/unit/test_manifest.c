/* test_manifest.c - versions, schemas, fragments and indexes of tables that stock Lance wrote,
 * and of manifests that nobody should have written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lance/manifest_impl.h"
#include "rows/source.h"
#include "support/table_copy.h"

#include <stdlib.h>

static struct plm_ctx *ctx;
static char *path;
static struct plm_store *store;

static int setup(void **state)
{
    (void)state;
    struct plm_ctx_options options;

    plm_ctx_options_default(&options);
    options.memory_budget_bytes = (uint64_t)1 << 30;
    return plm_ctx_create(&options, &ctx, NULL) != PLM_OK;
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

static void use(const char *table)
{
    path = table_copy(table);
    assert_int_equal(plm_store_open(ctx, path, NULL, &store, NULL), PLM_OK);
}

static struct plm_manifest open_version(uint64_t version)
{
    struct plm_manifest m = {0};
    struct plm_err err = {0};

    if (plm_manifest_open(store, NULL, version, &m, &err) != PLM_OK)
        fail_msg("%s", err.message);
    return m;
}

static void expect(enum plm_code rc, const struct plm_err *err, enum plm_code code,
                   const char *part)
{
    if (rc != code || err->code != code || !strstr(err->message, part))
        fail_msg("%s \"%s\", expected %s saying \"%s\"", plm_code_name(rc), err->message,
                 plm_code_name(code), part);
}

/* ---- manifests made from another's message and more ------------------------------------ */

static void finish_file(struct plm_buf *file, size_t message_at)
{
    uint8_t footer[16] = {[10] = 2, [12] = 'L', 'A', 'N', 'C'};

    plm_put_le32(file->data + message_at, (uint32_t)(file->len - message_at - 4));
    plm_put_le64(footer, message_at);
    assert_int_equal(plm_buf_add(file, footer, sizeof footer, NULL), PLM_OK);
}

/* A manifest file without sections: `base`'s message minus positions, then `more`. */
static struct plm_buf compose(const struct plm_manifest *base, const struct plm_buf *more)
{
    struct plm_buf file;
    struct plm_pb pb = plm_pb_of(base->message);
    struct plm_pb_field field;
    bool any;

    plm_buf_init(&file, ctx, PLM_MANIFEST_BYTES_MAX);
    assert_int_equal(plm_buf_add(&file, "\0\0\0\0", 4, NULL), PLM_OK);
    while (plm_pb_next(&pb, &field, &any, NULL) == PLM_OK && any) {
        if (field.number != 6 && field.number != 23)
            assert_int_equal(plm_buf_add(&file, field.whole.data, field.whole.len, NULL), PLM_OK);
    }
    assert_int_equal(plm_buf_add(&file, more->data, more->len, NULL), PLM_OK);
    finish_file(&file, 0);
    return file;
}

/* Parses the bare table's manifest with `more` behind it. */
static enum plm_code parse_with(const struct plm_buf *more, struct plm_manifest *out,
                                struct plm_err *err)
{
    struct plm_manifest base = open_version(0);
    struct plm_buf file = compose(&base, more);
    enum plm_code rc = plm_manifest_parse(ctx, NULL, &file, out, err);

    plm_buf_reset(&file);
    plm_manifest_reset(&base);
    return rc;
}

static struct plm_buf new_buf(void)
{
    struct plm_buf buf;

    plm_buf_init(&buf, ctx, 1 << 20);
    return buf;
}
#define OK(call) assert_int_equal(call, PLM_OK)

static void put_field(struct plm_buf *buf, int32_t id, int32_t parent, const char *name,
                      const char *type)
{
    struct plm_buf field = new_buf();

    OK(plm_pb_put_str(&field, 2, name, NULL));
    OK(plm_pb_put_u64(&field, 3, (uint64_t)(int64_t)id, NULL));
    OK(plm_pb_put_u64(&field, 4, (uint64_t)(int64_t)parent, NULL));
    OK(plm_pb_put_str(&field, 5, type, NULL));
    OK(plm_pb_put_message(buf, 1, &field, NULL));
    plm_buf_reset(&field);
}

static void refused(const struct plm_buf *more, enum plm_code code, const char *part)
{
    struct plm_manifest m = {0};
    struct plm_err err = {0};

    expect(parse_with(more, &m, &err), &err, code, part);
    assert_null(m.raw.data); /* out untouched */
}

/* ---- tables as stock Lance wrote them ---------------------------------------------------- */

static const struct plm_index_meta *index_named(const struct plm_manifest *m, const char *name)
{
    for (size_t i = 0; i < m->n_indices; i++) {
        if (strcmp(m->indices[i].name, name) == 0)
            return &m->indices[i];
    }
    fail_msg("no index %s", name);
    return NULL;
}

static void reads_fragments_and_deletions(void **state)
{
    (void)state;
    use("plain");
    struct plm_manifest m = open_version(0);

    assert_int_equal(m.version, 5);
    assert_false(m.is_v1_naming);
    assert_string_equal(m.file_name, "18446744073709551610.manifest");
    assert_int_equal(m.file_major, 2);
    assert_int_equal(m.file_minor, 2);
    assert_int_equal(m.reader_flags, PLM_FLAG_DELETIONS);
    assert_int_equal(m.n_fields, 2);
    assert_int_equal(m.n_fragments, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct plm_fragment *f = &m.fragments[i];

        assert_int_equal(f->id, i);
        assert_int_equal(f->n_physical_rows, 20);
        assert_int_equal(f->n_files, 1);
        assert_int_equal(f->files[0].n_columns, 2);
        assert_int_equal(f->files[0].field_ids[1], 1);
        assert_int_equal(f->files[0].column_indices[1], 1);
        assert_int_equal(f->files[0].major, 2);
        assert_int_equal(f->files[0].minor, 2);
        assert_int_equal(f->files[0].base_id, -1);
        assert_true(f->files[0].size_bytes > 100);
        assert_int_equal(f->deletion.present, i == 0);
    }
    assert_false(m.fragments[0].deletion.is_bitmap);
    assert_int_equal(m.fragments[0].deletion.n_deleted, 1);
    assert_int_equal(m.fragments[0].deletion.read_version, 3);
    assert_int_equal(m.fragments[0].deletion.base_id, -1);
    assert_true(m.fragments[0].raw.len > 50);
    assert_int_equal(m.xxh3, plm_xxh3(m.raw.data, m.raw.len));
    assert_non_null(m.transaction_file);
    assert_true(m.inline_txn_at > 0);
    assert_null(m.branch);
    plm_manifest_reset(&m);
    plm_manifest_reset(&m); /* twice is fine */
}

static void reads_indexes(void **state)
{
    (void)state;
    use("plain");
    struct plm_manifest m = open_version(0);
    const struct plm_index_meta *vec = index_named(&m, "vec_idx");
    const struct plm_index_meta *other = index_named(&m, "other");

    assert_int_equal(m.n_indices, 3);
    index_named(&m, "id_idx");
    assert_int_equal(vec->n_fields, 1);
    assert_int_equal(vec->field_ids[0], 1);
    assert_int_equal(vec->dataset_version, 1);
    assert_true(vec->has_bitmap);
    assert_int_equal(vec->n_fragments, 3);
    assert_int_equal(vec->fragments[2], 2);
    assert_string_equal(vec->details_url, "/lance.index.pb.VectorIndexDetails");
    assert_true(vec->details.len > 10);
    assert_int_equal(vec->index_version, 1);
    assert_true(vec->created_at_ms > 1700000000000);
    assert_int_equal(vec->base_id, -1);
    assert_int_equal(vec->n_files, 2);
    assert_string_equal(vec->files[0].path, "auxiliary.idx");
    assert_string_equal(vec->files[1].path, "index.idx");
    assert_true(vec->files[1].size_bytes > 100);
    assert_int_equal(other->dataset_version, 4);
    assert_memory_not_equal(vec->uuid, other->uuid, 16);
    plm_manifest_reset(&m);
}

static void opens_old_versions(void **state)
{
    (void)state;
    use("plain");
    struct plm_versions list = {0};
    struct plm_err err = {0};

    OK(plm_versions_list(store, &list, &err));
    assert_int_equal(list.n, 5);
    assert_false(list.is_v1_naming);
    for (size_t i = 0; i < list.n; i++) {
        struct plm_manifest m = open_version(list.items[i].version);

        assert_int_equal(list.items[i].version, i + 1);
        assert_string_equal(list.items[i].file_name, m.file_name);
        assert_int_equal(m.version, i + 1);
        assert_int_equal(m.n_indices, i == 0 ? 0 : i < 4 ? plm_min_size(i, 2) : 3);
        plm_manifest_reset(&m);
    }
    plm_versions_reset(&list);

    struct plm_manifest m = {0};
    expect(plm_manifest_open(store, NULL, 9, &m, &err), &err, PLM_NOT_FOUND,
           "has no version 9; there are 5, from 1 to 5");
    expect(plm_manifest_open(store, "nope", 0, &m, &err), &err, PLM_NOT_FOUND, "no branch 'nope'");
    expect(plm_manifest_open(store, "../x", 0, &m, &err), &err, PLM_ARG, "is no branch name");
    expect(plm_manifest_open(store, "a//b", 0, &m, &err), &err, PLM_ARG, "is no branch name");
    OK(plm_manifest_open(store, "main", 0, &m, &err));
    plm_manifest_reset(&m);
}

static void reads_the_older_names(void **state)
{
    (void)state;
    use("old_names");
    struct plm_manifest m = open_version(0);

    assert_int_equal(m.version, 2);
    assert_true(m.is_v1_naming);
    assert_string_equal(m.file_name, "2.manifest");
    assert_int_equal(m.file_minor, 0);
    assert_int_equal(m.fragments[0].files[0].major, 2);
    assert_int_equal(m.fragments[0].files[0].minor, 0);
    assert_int_equal(m.n_fragments, 2);
    plm_manifest_reset(&m);
    m = open_version(1);
    assert_int_equal(m.n_fragments, 1);
    plm_manifest_reset(&m);
}

static void reads_stable_row_ids(void **state)
{
    (void)state;
    use("stable_ids");
    struct plm_manifest m = open_version(0);

    assert_int_equal(m.reader_flags & PLM_FLAG_STABLE_ROW_IDS, PLM_FLAG_STABLE_ROW_IDS);
    assert_int_equal(m.n_fragments, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_true(m.fragments[i].row_ids_inline.len > 0);
        assert_null(m.fragments[i].row_ids_path);
    }
    plm_manifest_reset(&m);
}

static void ignores_what_is_no_version(void **state)
{
    (void)state;
    static const char *const names[] = {
        "_versions/18446744073709551600.manifest#1", "_versions/d9223372036854775900.manifest",
        "_versions/.tmp123.manifest", "_versions/18446744073709551599.manifest.tmp",
        "_versions/99999999999999999999.manifest", "_versions/00000000000000000000.manifest",
        "_versions/18446744073709551615.manifest", "_versions/.manifest",
        "_versions/007.manifest", "_versions/12x.manifest"};
    use("bare");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        OK(plm_store_put(store, names[i], "junk", 4, NULL));
    struct plm_manifest m = open_version(0);

    assert_int_equal(m.version, 1);
    plm_manifest_reset(&m);
}

static void names_versions_both_ways(void **state)
{
    (void)state;
    char name[40];

    plm_manifest_file_name(1, false, name);
    assert_string_equal(name, "18446744073709551614.manifest");
    plm_manifest_file_name(((uint64_t)1 << 63) - 1, false, name);
    assert_string_equal(name, "09223372036854775808.manifest");
    plm_manifest_file_name(12, true, name);
    assert_string_equal(name, "12.manifest");
}

static void says_what_is_no_table(void **state)
{
    (void)state;
    struct plm_manifest m = {0};
    struct plm_err err = {0};

    use(NULL);
    expect(plm_manifest_open(store, NULL, 0, &m, &err), &err, PLM_NOT_FOUND,
           "is not a Lance table (no _versions directory)");
    expect(plm_manifest_open(store, NULL, 3, &m, &err), &err, PLM_NOT_FOUND, "is not a Lance table");
    OK(plm_store_put(store, "_versions/readme", "x", 1, NULL));
    expect(plm_manifest_open(store, NULL, 0, &m, &err), &err, PLM_NOT_FOUND, "no manifest in its");
}

static void says_whose_bytes_are_wrong(void **state)
{
    (void)state;
    struct plm_manifest m = {0};
    struct plm_err err = {0};
    struct plm_buf raw = new_buf();

    use("bare");
    OK(plm_store_get(store, "_versions/18446744073709551614.manifest", &raw, NULL));
    OK(plm_store_put(store, "_versions/18446744073709551613.manifest", raw.data, raw.len, NULL));
    expect(plm_manifest_open(store, NULL, 0, &m, &err), &err, PLM_CORRUPT,
           "_versions/18446744073709551613.manifest: says it is version 1");
    OK(plm_store_put(store, "_versions/18446744073709551613.manifest", raw.data, raw.len - 1, NULL));
    expect(plm_manifest_open(store, NULL, 0, &m, &err), &err, PLM_CORRUPT, "no \"LANC\" at the end");
    plm_buf_reset(&raw);
}

static void resolves_tags(void **state)
{
    (void)state;
    uint64_t version = 0;
    char *branch = NULL;
    struct plm_err err = {0};

    use("plain");
    OK(plm_tag_resolve(store, "first", &version, &branch, &err));
    assert_int_equal(version, 1);
    assert_null(branch);
    expect(plm_tag_resolve(store, "second", &version, &branch, &err), &err, PLM_NOT_FOUND,
           "has no tag 'second'");
    expect(plm_tag_resolve(store, "../x", &version, &branch, &err), &err, PLM_ARG, "is no tag name");
    OK(plm_store_put(store, "_refs/tags/b.json", "{\"branch\":\"dev/x\",\"version\":3}", 30, NULL));
    OK(plm_tag_resolve(store, "b", &version, &branch, &err));
    assert_string_equal(branch, "dev/x");
    plm_free(ctx, branch);
    OK(plm_store_put(store, "_refs/tags/c.json", "{\"version\":", 11, NULL));
    expect(plm_tag_resolve(store, "c", &version, &branch, &err), &err, PLM_CORRUPT, "not JSON");
    OK(plm_store_put(store, "_refs/tags/d.json", "{\"version\":-1}", 14, NULL));
    expect(plm_tag_resolve(store, "d", &version, &branch, &err), &err, PLM_CORRUPT, "no version");
}

static void follows_branches_and_base_paths(void **state)
{
    (void)state;
    struct plm_buf more = new_buf(), base = new_buf();
    struct plm_store *at;
    const char *prefix;
    struct plm_err err = {0};

    use("bare");
    OK(plm_pb_put_u64(&base, 3, 1, NULL)); /* id 0 is left out, as stock Lance does */
    OK(plm_pb_put_str(&base, 4, path, NULL));
    OK(plm_pb_put_message(&more, 18, &base, NULL));
    base.len = 0;
    OK(plm_pb_put_u64(&base, 1, 7, NULL));
    OK(plm_pb_put_str(&base, 4, path, NULL));
    OK(plm_pb_put_message(&more, 18, &base, NULL));
    OK(plm_pb_put_str(&more, 20, "dev/x", NULL));
    OK(plm_pb_put_u64(&more, 9, 16, NULL));
    struct plm_manifest main_version = open_version(0), m = {0};
    struct plm_buf file = compose(&main_version, &more);
    OK(plm_store_put(store, "tree/dev/x/_versions/18446744073709551614.manifest", file.data,
                     file.len, NULL));

    OK(plm_manifest_open(store, "dev/x", 0, &m, &err));
    assert_string_equal(m.branch, "dev/x");
    assert_int_equal(m.n_bases, 2);
    OK(plm_manifest_base(&m, -1, "data/", &at, &prefix, &err));
    assert_ptr_equal(at, m.store);
    assert_string_equal(prefix, "data/");
    OK(plm_manifest_base(&m, 0, "data/", &at, &prefix, &err));
    assert_string_equal(plm_store_uri(at), path);
    assert_string_equal(prefix, "data/");
    OK(plm_manifest_base(&m, 7, "data/", &at, &prefix, &err));
    assert_string_equal(prefix, "");
    expect(plm_manifest_base(&m, 5, "data/", &at, &prefix, &err), &err, PLM_CORRUPT, "base path 5");
    plm_manifest_reset(&m);
    plm_manifest_reset(&main_version);
    plm_buf_reset(&file);
    plm_buf_reset(&more);
    plm_buf_reset(&base);
}

/* ---- columns -------------------------------------------------------------------------------- */

static void finds_vector_columns(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum plm_element element;
        uint32_t dim;
    } good[] = {{"f16", PLM_F16, 8},   {"f32", PLM_F32, 5},          {"f64", PLM_F64, 3},
                {"s.vec", PLM_F32, 4}, {"deep.in.vec", PLM_F32, 4},  {"`s`.`vec`", PLM_F32, 4},
                {"`f32`", PLM_F32, 5}, {"deep.`in`.vec", PLM_F32, 4}};
    use("types");
    struct plm_manifest m = open_version(0);

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct plm_column column = {0};
        struct plm_err err = {0};

        if (plm_manifest_find_column(&m, good[i].path, &column, &err) != PLM_OK)
            fail_msg("%s", err.message);
        assert_int_equal(column.element, good[i].element);
        assert_int_equal(column.dim, good[i].dim);
        assert_int_equal(atoi(strrchr(m.fields[column.field_id].logical_type, ':') + 1), good[i].dim);
    }
    plm_manifest_reset(&m);
}

static void refuses_other_columns(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum plm_code code;
        const char *part;
    } bad[] = {
        {"nope", PLM_NOT_FOUND, "no column 'nope'; there are: id, f16, f32, f64, u8, i8, i32, bf, "
                                "multi, list, text, rows, s.a, s.vec, deep.in.a, deep.in.vec"},
        {"s.nope", PLM_NOT_FOUND, "no column 's.nope'"},
        {"f32.x", PLM_NOT_FOUND, "no column 'f32.x'"},
        {"F32", PLM_NOT_FOUND, "no column 'F32'"},
        {"text", PLM_DATA, "column 'text' is string, not a vector column"},
        {"id", PLM_DATA, "column 'id' is int64, not a vector column"},
        {"s", PLM_DATA, "column 's' is struct, not a vector column"},
        {"i32", PLM_DATA, "column 'i32' is fixed_size_list:int32:4, not a vector column"},
        {"list", PLM_DATA, "column 'list' is list of float, not a vector column"},
        {"u8", PLM_UNSUPPORTED, "uint8"},
        {"i8", PLM_UNSUPPORTED, "int8"},
        {"bf", PLM_UNSUPPORTED, "holds bfloat16"},
        {"multi", PLM_UNSUPPORTED, "multivector"},
        {"rows.item.vec", PLM_UNSUPPORTED, "lies inside 'rows', which is a list"},
        {"multi.item", PLM_UNSUPPORTED, "lies inside 'multi'"},
        {"", PLM_ARG, "empty"},
        {".", PLM_ARG, "empty"},
        {"s.", PLM_ARG, "empty"},
        {"s..vec", PLM_ARG, "empty"},
        {"`s", PLM_ARG, "not closed"},
        {"`s`x", PLM_ARG, "badly quoted"},
        {"``", PLM_ARG, "empty"},
    };
    use("types");
    struct plm_manifest m = open_version(0);

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_column column = {.dim = 77};
        struct plm_err err = {0};

        expect(plm_manifest_find_column(&m, bad[i].path, &column, &err), &err, bad[i].code,
               bad[i].part);
        assert_int_equal(column.dim, 77);
    }
    plm_manifest_reset(&m);
}

/* Found, so that a copy of it can be read; the file has no such column. */
static void marks_columns_of_packed_structs(void **state)
{
    (void)state;
    use("types");
    struct plm_manifest m = open_version(0);
    struct plm_column column = {0}, plain = {0};
    struct plm_source source = {0};
    struct plm_err err = {0};

    OK(plm_manifest_find_column(&m, "packed.vec", &column, NULL));
    assert_true(column.is_packed);
    assert_string_equal(column.packed_name, "packed");
    OK(plm_manifest_find_column(&m, "s.vec", &plain, NULL));
    assert_false(plain.is_packed);
    expect(plm_source_open(&m, &column, NULL, 0, &source, &err), &err, PLM_UNSUPPORTED, "packed struct");
    plm_manifest_reset(&m);
}

static void reads_odd_names(void **state)
{
    (void)state;
    static const char type[] = "fixed_size_list:float:4";
    struct plm_buf more = new_buf();
    struct plm_manifest m = {0};
    struct plm_column column;
    struct plm_err err = {0};
    char *text;

    use("bare");
    put_field(&more, 10, -1, "odd.name", type);
    put_field(&more, 11, -1, "a`b", type);
    put_field(&more, 12, -1, "s", "struct");
    put_field(&more, 13, 12, "x.y`", type);
    OK(parse_with(&more, &m, &err));
    OK(plm_manifest_find_column(&m, "`odd.name`", &column, &err));
    assert_int_equal(column.field_id, 10);
    OK(plm_manifest_find_column(&m, "`a``b`", &column, &err));
    assert_int_equal(column.field_id, 11);
    OK(plm_manifest_find_column(&m, "s.`x.y```", &column, &err));
    assert_int_equal(column.field_id, 13);
    OK(plm_manifest_field_path(&m, 13, &text, &err));
    assert_string_equal(text, "s.`x.y```");
    plm_free(ctx, text);
    expect(plm_manifest_find_column(&m, "odd.name", &column, &err), &err, PLM_NOT_FOUND,
           "id, vec, `odd.name`, `a``b`, s.`x.y```");
    expect(plm_manifest_field_path(&m, 99, &text, &err), &err, PLM_NOT_FOUND, "no field with id 99");
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
}

static void refuses_hostile_schemas(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        enum plm_code code;
        const char *part;
    } bad[] = {{"fixed_size_list:float:0", PLM_DATA, "dimension 0"},
               {"fixed_size_list:float:65537", PLM_UNSUPPORTED, "dimension 65537, at most 65536"},
               {"fixed_size_list:float:99999999999999999999999", PLM_UNSUPPORTED, "at most"},
               {"fixed_size_list:float:-4", PLM_DATA, "not a vector"},
               {"fixed_size_list:float:", PLM_DATA, "not a vector"},
               {"fixed_size_list:float", PLM_DATA, "not a vector"},
               {"fixed_size_list:", PLM_DATA, "not a vector"},
               {"list", PLM_DATA, "not a vector"}};
    struct plm_column column;
    struct plm_err err = {0};
    char *text;

    use("bare");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_buf more = new_buf();
        struct plm_manifest m = {0};

        put_field(&more, 10, -1, "x", bad[i].type);
        OK(parse_with(&more, &m, &err));
        expect(plm_manifest_find_column(&m, "x", &column, &err), &err, bad[i].code, bad[i].part);
        plm_manifest_reset(&m);
        plm_buf_reset(&more);
    }
    struct plm_buf more = new_buf();
    struct plm_manifest m = {0};
    put_field(&more, 10, 11, "x", "struct"); /* each the other's parent */
    put_field(&more, 11, 10, "y", "struct");
    put_field(&more, 12, 99, "z", "struct"); /* no such parent */
    OK(parse_with(&more, &m, &err));
    expect(plm_manifest_field_path(&m, 10, &text, &err), &err, PLM_CORRUPT, "its own ancestor");
    expect(plm_manifest_field_path(&m, 12, &text, &err), &err, PLM_CORRUPT, "no field with id 99");
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
}

static void lists_many_columns_briefly(void **state)
{
    (void)state;
    struct plm_buf more = new_buf();
    struct plm_manifest m = {0};
    struct plm_column column;
    struct plm_err err = {0};

    use("bare");
    for (int i = 0; i < 500; i++) {
        char name[32];

        snprintf(name, sizeof name, "column_%d", i);
        put_field(&more, 100 + i, -1, name, "int64");
    }
    OK(parse_with(&more, &m, &err));
    expect(plm_manifest_find_column(&m, "x", &column, &err), &err, PLM_NOT_FOUND, "column_9, ");
    assert_string_equal(err.message + strlen(err.message) - 5, ", ...");
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
}

/* ---- refusals by name -------------------------------------------------------------------------- */

static void refuses_unknown_flags(void **state)
{
    (void)state;
    static const struct {
        uint64_t flags;
        const char *part;
    } bad[] = {{64, "reader feature flag 64 (data overlay files) is not supported"},
               {128, "reader feature flag 128 (covering columns in indexes)"},
               {512 | 1, "reader feature flag 512 (fragment-reuse index with stable row ids)"},
               {1024, "reader feature flag 1024 (tagged fragment-reuse index)"},
               {4096, "reader feature flag 4096 is not known"},
               {(uint64_t)1 << 63, "reader feature flag 9223372036854775808 is not known"}};
    use("bare");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_buf more = new_buf();

        OK(plm_pb_put_u64(&more, 9, bad[i].flags, NULL));
        refused(&more, PLM_UNSUPPORTED, bad[i].part);
        plm_buf_reset(&more);
    }
    struct plm_buf more = new_buf();
    struct plm_manifest m = {0};
    OK(plm_pb_put_u64(&more, 9, PLM_FLAGS_KNOWN, NULL));
    OK(plm_pb_put_u64(&more, 10, 64, NULL)); /* a writer flag is no reason not to read */
    OK(parse_with(&more, &m, NULL));
    plm_manifest_reset(&m);
    plm_buf_reset(&more);
}

/* Versions of files are noted; whether they can be read is asked when they are opened. */
static void judges_file_versions(void **state)
{
    struct plm_err err = {0};

    (void)state;
    for (uint32_t minor = 0; minor <= 2; minor++)
        assert_int_equal(plm_file_version_check(2, minor, &err), PLM_OK);
    assert_int_equal(plm_file_version_check(2, 3, &err), PLM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "data file version 2.3 is not supported (2.0, 2.1 and 2.2 are;"));
    assert_int_equal(plm_file_version_check(0, 1, &err), PLM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "0.1 is not supported: the legacy format"));
    assert_int_equal(plm_file_version_check(3, 0, &err), PLM_UNSUPPORTED);
}

static void refuses_file_versions(void **state)
{
    (void)state;
    static const struct {
        const char *format, *version, *part;
    } bad[] = {{"lance", "next", "data file version 'next' is not supported"},
               {"lance", "2.2x", "data file version '2.2x'"},
               {"lance", "", "data file version ''"},
               {"parquet", "2.2", "data file format 'parquet'"}};
    use("bare");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_buf more = new_buf(), format = new_buf();

        OK(plm_pb_put_str(&format, 1, bad[i].format, NULL));
        OK(plm_pb_put_str(&format, 2, bad[i].version, NULL));
        OK(plm_pb_put_message(&more, 15, &format, NULL));
        refused(&more, PLM_UNSUPPORTED, bad[i].part);
        plm_buf_reset(&more);
        plm_buf_reset(&format);
    }
}

/* A fragment of one data file; `minor` its file version, `n_columns` column numbers for one
 * field id, then `extra` behind it. */
static void put_fragment(struct plm_buf *more, uint64_t id, uint32_t minor, size_t n_columns,
                         uint64_t rows, const struct plm_buf *extra)
{
    static const uint64_t zeros[4];
    struct plm_buf fragment = new_buf(), file = new_buf();

    OK(plm_pb_put_str(&file, 1, "x.lance", NULL));
    OK(plm_pb_put_packed(&file, 2, zeros, 1, NULL));
    OK(plm_pb_put_packed(&file, 3, zeros, n_columns, NULL));
    OK(plm_pb_put_u64(&file, 4, 2, NULL));
    OK(plm_pb_put_u64(&file, 5, minor, NULL));
    OK(plm_pb_put_u64(&fragment, 1, id, NULL));
    OK(plm_pb_put_message(&fragment, 2, &file, NULL));
    OK(plm_pb_put_u64(&fragment, 4, rows, NULL));
    if (extra)
        OK(plm_buf_add(&fragment, extra->data, extra->len, NULL));
    OK(plm_pb_put_message(more, 2, &fragment, NULL));
    plm_buf_reset(&fragment);
    plm_buf_reset(&file);
}

static void refuses_fragments(void **state)
{
    (void)state;
    static const struct {
        uint64_t id;
        uint32_t minor;
        size_t n_columns;
        uint64_t rows;
        enum plm_code code;
        const char *part;
    } bad[] = {
        {5, 2, 2, 10, PLM_CORRUPT, "x.lance has 1 field ids and 2 column numbers"},
        {1, 2, 1, 10, PLM_CORRUPT, "fragment 1 is listed twice"},
        {(uint64_t)1 << 32, 2, 1, 10, PLM_CORRUPT, "do not fit 32 bits"},
        {5, 2, 1, ((uint64_t)1 << 32) + 1, PLM_CORRUPT, "do not fit 32 bits"},
    };
    use("bare");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_buf more = new_buf();

        put_fragment(&more, bad[i].id, bad[i].minor, bad[i].n_columns, bad[i].rows, NULL);
        refused(&more, bad[i].code, bad[i].part);
        plm_buf_reset(&more);
    }
    struct plm_buf more = new_buf(), extra = new_buf(), deletion = new_buf();
    OK(plm_pb_put_bytes(&extra, 11, "", 0, NULL));
    put_fragment(&more, 5, 2, 1, 10, &extra);
    refused(&more, PLM_UNSUPPORTED, "fragment 5: data overlay files are not supported");
    more.len = extra.len = 0;
    OK(plm_pb_put_u64(&deletion, 4, 11, NULL));
    OK(plm_pb_put_message(&extra, 3, &deletion, NULL));
    put_fragment(&more, 5, 2, 1, 10, &extra);
    refused(&more, PLM_CORRUPT, "11 of 10 rows deleted");
    more.len = extra.len = deletion.len = 0;
    OK(plm_pb_put_u64(&deletion, 1, 2, NULL));
    OK(plm_pb_put_message(&extra, 3, &deletion, NULL));
    put_fragment(&more, 5, 2, 1, 10, &extra);
    refused(&more, PLM_UNSUPPORTED, "deletion file of type 2");
    plm_buf_reset(&more);
    plm_buf_reset(&extra);
    plm_buf_reset(&deletion);
}

static void checks_positions(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {6, 21, 23};
    static const char *const parts[] = {"index section", "inline transaction", "inline transaction"};
    use("bare");
    for (size_t i = 0; i < 3; i++) {
        static const uint64_t positions[] = {1 << 20, UINT64_MAX - 1, UINT64_MAX - 3};

        for (size_t j = 0; j < 3; j++) {
            struct plm_buf more = new_buf();

            OK(plm_pb_put_u64(&more, numbers[i], positions[j], NULL));
            refused(&more, PLM_CORRUPT, parts[i]);
            plm_buf_reset(&more);
        }
    }
}

/* ---- hostile bytes -------------------------------------------------------------------------------- */

/* Parses an exact-size copy; whatever comes of it, nothing may be left behind. */
static enum plm_code parse_bytes(const uint8_t *bytes, size_t n)
{
    struct plm_manifest m = {0};
    struct plm_buf raw = new_buf();
    struct plm_err err = {0};
    uint64_t before = atomic_load(&ctx->memory_used);

    OK(plm_buf_add(&raw, bytes, n, NULL));
    enum plm_code rc = plm_manifest_parse(ctx, NULL, &raw, &m, &err);
    if (rc != PLM_OK) {
        assert_null(m.raw.data);
        assert_int_equal(rc, err.code);
        assert_true(err.message[0] != 0);
        assert_int_not_equal(rc, PLM_BUG);
    }
    plm_manifest_reset(&m);
    plm_buf_reset(&raw);
    assert_int_equal(atomic_load(&ctx->memory_used), before);
    return rc;
}

static void survives_truncation(void **state)
{
    (void)state;
    use("plain");
    struct plm_manifest m = open_version(0);

    for (size_t n = 0; n < m.raw.len; n++)
        assert_int_not_equal(parse_bytes(m.raw.data, n), PLM_OK);
    /* Cut in the middle of the message, with a footer that still fits. */
    for (size_t cut = 0; cut < m.message.len; cut++) {
        struct plm_buf file = new_buf();

        OK(plm_buf_add(&file, m.raw.data, (size_t)(m.message.data - m.raw.data) + cut, NULL));
        finish_file(&file, (size_t)(m.message.data - m.raw.data) - 4);
        parse_bytes(file.data, file.len);
        plm_buf_reset(&file);
    }
    plm_manifest_reset(&m);
}

static void survives_flipped_bits(void **state)
{
    (void)state;
    use("plain");
    struct plm_manifest m = open_version(0);
    uint8_t *copy = malloc(m.raw.len);

    assert_non_null(copy);
    memcpy(copy, m.raw.data, m.raw.len);
    for (size_t at = 0; at < m.raw.len; at++) {
        for (int bit = 0; bit < 8; bit++) {
            copy[at] ^= (uint8_t)(1 << bit);
            parse_bytes(copy, m.raw.len);
            copy[at] ^= (uint8_t)(1 << bit);
        }
        copy[at] = (uint8_t)~copy[at];
        parse_bytes(copy, m.raw.len);
        copy[at] = (uint8_t)~copy[at];
    }
    assert_int_equal(parse_bytes(copy, m.raw.len), PLM_OK);
    free(copy);
    plm_manifest_reset(&m);
}

static void survives_failed_allocations(void **state)
{
    (void)state;
    enum plm_code rc = PLM_NOMEM;
    use("plain");
    uint64_t before = atomic_load(&ctx->memory_used);
    long n;

    for (n = 1; rc != PLM_OK && n < 1000; n++) {
        struct plm_manifest m = {0};
        struct plm_err err = {0};

        atomic_store(&ctx->faults.alloc_countdown, n);
        rc = plm_manifest_open(store, NULL, 0, &m, &err);
        atomic_store(&ctx->faults.alloc_countdown, 0);
        if (rc != PLM_OK) {
            assert_int_equal(rc, PLM_NOMEM);
            assert_null(m.raw.data);
        }
        plm_manifest_reset(&m);
        assert_int_equal(atomic_load(&ctx->memory_used), before);
    }
    assert_int_equal(rc, PLM_OK);
    assert_true(n > 10);
}

static void keeps_within_the_budget(void **state)
{
    (void)state;
    struct plm_buf more = new_buf();
    struct plm_manifest m = {0};
    struct plm_err err = {0};

    use("bare");
    for (int i = 0; i < 100000; i++)
        OK(plm_pb_put_bytes(&more, 2, "", 0, NULL)); /* 2 bytes each, far more when parsed */
    ctx->memory_budget_bytes = 4 << 20;
    expect(parse_with(&more, &m, &err), &err, PLM_LIMIT, "memory budget");
    ctx->memory_budget_bytes = (uint64_t)1 << 30;
    plm_buf_reset(&more);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(reads_fragments_and_deletions),
        TEST(reads_indexes),
        TEST(opens_old_versions),
        TEST(reads_the_older_names),
        TEST(reads_stable_row_ids),
        TEST(ignores_what_is_no_version),
        TEST(names_versions_both_ways),
        TEST(says_what_is_no_table),
        TEST(says_whose_bytes_are_wrong),
        TEST(resolves_tags),
        TEST(follows_branches_and_base_paths),
        TEST(finds_vector_columns),
        TEST(refuses_other_columns),
        TEST(marks_columns_of_packed_structs),
        TEST(reads_odd_names),
        TEST(refuses_hostile_schemas),
        TEST(lists_many_columns_briefly),
        TEST(refuses_unknown_flags),
        TEST(judges_file_versions),
        TEST(refuses_file_versions),
        TEST(refuses_fragments),
        TEST(checks_positions),
        TEST(survives_truncation),
        TEST(survives_flipped_bits),
        TEST(survives_failed_allocations),
        TEST(keeps_within_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
