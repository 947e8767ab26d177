/* manifest_parse.c - the Manifest message: one function per message, no recursion.
 *
 * Two walks: the first reads flags, counts and scalars, so that a table from the future is
 * refused by name before anything unknown can look like damage; the second fills arrays whose
 * sizes are then known.
 */
#include "lance/manifest_impl.h"

enum plm_code plm_parse_alloc(struct plm_parse *p, void *out, size_t n, size_t each,
                              struct plm_err *err)
{
    return plm_arena_alloc(p->m->ctx, &p->m->arena, out, n, each, err);
}

static enum plm_code read_base_path(struct plm_parse *p, struct plm_view message,
                                    struct plm_base_path *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 1: PLM_TRY(plm_pb_get_u32(&field, &out->id, err)); break;
        case 3: PLM_TRY(plm_pb_get_bool(&field, &out->is_dataset_root, err)); break;
        case 4: PLM_TRY(plm_pb_get_text(p->m, &field, &out->path, err)); break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (!out->path)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "base path %" PRIu32 " is empty", out->id));
done:
    return rc;
}

/* Numbers of repeated messages, positions of the sections. */
struct outline {
    size_t n_fields, n_fragments, n_bases;
    uint64_t index_section_at, inline_txn_old_at, inline_txn_at; /* UINT64_MAX = none */
};

static enum plm_code read_scalar(struct plm_manifest *m, struct outline *o,
                                 const struct plm_pb_field *field, struct plm_err *err)
{
    switch (field->number) {
    case 1: o->n_fields++; return PLM_OK;
    case 2: o->n_fragments++; return PLM_OK;
    case 3: return plm_pb_get_u64(field, &m->version, err);
    case 6: return plm_pb_get_u64(field, &o->index_section_at, err);
    case 9: return plm_pb_get_u64(field, &m->reader_flags, err);
    case 10: return plm_pb_get_u64(field, &m->writer_flags, err);
    case 12: return plm_pb_get_text(m, field, &m->transaction_file, err);
    case 18: o->n_bases++; return PLM_OK;
    case 20: return plm_pb_get_text(m, field, &m->branch, err);
    case 21: return plm_pb_get_u64(field, &o->inline_txn_old_at, err);
    case 23: return plm_pb_get_u64(field, &o->inline_txn_at, err);
    default: return PLM_OK;
    }
}

static enum plm_code read_outline(struct plm_manifest *m, struct outline *o, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view file = {m->raw.data, m->raw.len}, section;

    o->index_section_at = o->inline_txn_old_at = o->inline_txn_at = UINT64_MAX;
    PLM_PB_EACH(m->message)
        PLM_TRY(read_scalar(m, o, &field, err));
    PLM_TRY(rc);
    PLM_TRY(plm_flags_check(m->reader_flags, "reader", err));
    if (m->transaction_file && !*m->transaction_file)
        m->transaction_file = NULL;
    if (o->inline_txn_at == UINT64_MAX)
        o->inline_txn_at = o->inline_txn_old_at;
    if (o->inline_txn_at != UINT64_MAX) {
        PLM_TRY(plm_manifest_section(file, o->inline_txn_at, "inline transaction", &section, err));
        m->inline_txn_at = (int64_t)o->inline_txn_at;
    }
    if (o->index_section_at != UINT64_MAX)
        PLM_TRY(plm_manifest_section(file, o->index_section_at, "index section", &m->index_section,
                                     err));
done:
    return rc;
}

static enum plm_code read_repeated(struct plm_parse *p, const struct plm_pb_field *field,
                                   struct plm_err *err)
{
    struct plm_manifest *m = p->m;
    struct plm_view view = {0};
    enum plm_code rc = PLM_OK;

    if (field->number != 1 && field->number != 2 && field->number != 15 && field->number != 18)
        return PLM_OK;
    PLM_TRY(plm_pb_get_view(field, &view, err));
    switch (field->number) {
    case 1: return plm_parse_field(p, view, &m->fields[m->n_fields++], err);
    case 2: return plm_parse_fragment(p, view, &m->fragments[m->n_fragments++], err);
    case 15: return plm_parse_storage_format(p, view, err);
    default: return read_base_path(p, view, &m->bases[m->n_bases++], err);
    }
done:
    return rc;
}

/* Before there was a storage format in the manifest, the files alone told it. */
static void settle_storage_format(struct plm_parse *p)
{
    struct plm_manifest *m = p->m;

    if (p->has_storage_format)
        return;
    m->file_major = 2;
    for (size_t i = 0; i < m->n_fragments; i++) {
        if (m->fragments[i].n_files) {
            m->file_major = m->fragments[i].files[0].major;
            m->file_minor = m->fragments[i].files[0].minor;
            return;
        }
    }
}

static enum plm_code parse_all(struct plm_manifest *m, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct outline outline = {0};
    struct plm_parse p = {.m = m};
    struct plm_view file = {m->raw.data, m->raw.len};

    PLM_TRY(plm_manifest_split(file, &m->message, err));
    PLM_TRY(read_outline(m, &outline, err));
    PLM_TRY(plm_parse_alloc(&p, &m->fields, outline.n_fields, sizeof *m->fields, err));
    PLM_TRY(plm_parse_alloc(&p, &m->fragments, outline.n_fragments, sizeof *m->fragments, err));
    PLM_TRY(plm_parse_alloc(&p, &m->bases, outline.n_bases, sizeof *m->bases, err));
    PLM_PB_EACH(m->message)
        PLM_TRY(read_repeated(&p, &field, err));
    PLM_TRY(rc);
    settle_storage_format(&p);
    PLM_TRY(plm_check_fragment_ids(m, err));
    PLM_TRY(plm_index_section_read(m, err));
    m->xxh3 = plm_xxh3(m->raw.data, m->raw.len);
done:
    plm_u64s_reset(m->ctx, &p.fields);
    plm_u64s_reset(m->ctx, &p.columns);
    return rc;
}

enum plm_code plm_manifest_parse(struct plm_ctx *ctx, struct plm_store *store, struct plm_buf *raw,
                                 struct plm_manifest *out, struct plm_err *err)
{
    struct plm_manifest m = {.ctx = ctx, .store = store, .inline_txn_at = -1, .raw = *raw};
    enum plm_code rc = parse_all(&m, err);

    if (rc != PLM_OK) {
        m.raw = (struct plm_buf){0}; /* still the caller's */
        plm_manifest_reset(&m);
        return rc;
    }
    plm_buf_init(raw, ctx, raw->max_bytes);
    *out = m;
    return PLM_OK;
}
