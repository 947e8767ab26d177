/* source.c - opening a column: its fragments, files, deletions and row ids. */
#include "rows/source.h"

#include "rows/source_impl.h"

const char *plm_metric_name(enum plm_metric metric)
{
    static const char *const names[] = {"l2", "cosine", "dot"};
    return names[metric];
}

/* ---- ranks: live rows among physical rows -------------------------------------- */

static uint64_t count_live(const struct plm_row_map *map, uint64_t from, uint64_t to)
{
    uint64_t n = 0;
    for (uint64_t row = from; row < to; row++)
        n += !plm_row_is_deleted(map, row);
    return n;
}

static enum plm_code make_ranks(struct plm_ctx *ctx, struct plm_source_fragment *f,
                                struct plm_err *err)
{
    f->n_live = f->n_rows;
    if (!f->map.deleted)
        return PLM_OK;
    size_t n = (size_t)(f->n_rows / PLM_RANK_ROWS + 1);
    enum plm_code rc = plm_alloc(ctx, &f->live_before, n, sizeof *f->live_before, err);
    if (rc != PLM_OK)
        return rc;
    uint64_t live = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t from = (uint64_t)i * PLM_RANK_ROWS;
        f->live_before[i] = live;
        live += count_live(&f->map, from, plm_min_u64(from + PLM_RANK_ROWS, f->n_rows));
    }
    f->n_live = live;
    return PLM_OK;
}

uint64_t plm_source_select(const struct plm_source_fragment *f, uint64_t rank)
{
    if (!f->live_before)
        return rank;
    size_t low = 0, high = (size_t)(f->n_rows / PLM_RANK_ROWS + 1);
    while (high - low > 1) { /* last entry with live_before <= rank */
        size_t middle = low + (high - low) / 2;
        if (f->live_before[middle] <= rank)
            low = middle;
        else
            high = middle;
    }
    uint64_t row = (uint64_t)low * PLM_RANK_ROWS, left = rank - f->live_before[low];
    while (row < f->n_rows && (plm_row_is_deleted(&f->map, row) || left > 0)) {
        left -= !plm_row_is_deleted(&f->map, row);
        row++;
    }
    return row;
}

/* How many live rows are before this one. */
static uint64_t rank_of(const struct plm_source_fragment *f, uint64_t row)
{
    if (!f->live_before)
        return row;
    uint64_t block = row / PLM_RANK_ROWS;
    return f->live_before[block] + count_live(&f->map, block * PLM_RANK_ROWS, row);
}

/* ---- opening --------------------------------------------------------------------- */

/* The data file of `fragment` that holds the column; NULL when none does. */
static const struct plm_data_file *find_data_file(const struct plm_fragment *fragment,
                                                  int32_t field_id, bool needs_column,
                                                  uint32_t *column)
{
    for (size_t i = 0; i < fragment->n_files; i++) {
        const struct plm_data_file *file = &fragment->files[i];
        for (size_t j = 0; j < file->n_columns; j++)
            if (file->field_ids[j] == field_id && (file->column_indices[j] >= 0 || !needs_column)) {
                *column = (uint32_t)file->column_indices[j];
                return file;
            }
    }
    return NULL;
}

/* The file of the copy that has the column of this fragment. */
static enum plm_code locate_copy(struct plm_source *source, struct plm_source_fragment *f,
                                 const struct plm_fragment *fragment, struct plm_err *err)
{
    const struct plm_column *c = &source->column;
    const struct plm_data_file *file =
        find_data_file(fragment, c->is_packed ? c->packed_id : c->field_id, false, &f->column);

    if (!file)
        return PLM_OK;
    f->column = 0;
    f->store = source->copy;
    f->bytes_stored = f->n_rows * c->dim * plm_element_bytes(c->element);
    return source->copy ? plm_strdup(source->ctx, file->path, &f->path, err) : PLM_OK;
}

static enum plm_code check_readable(const struct plm_source *source, const struct plm_source_fragment *f,
                                    const struct plm_data_file *file, struct plm_err *err)
{
    enum plm_code rc = plm_file_version_check(file->major, file->minor, err);
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "%s: fragment %" PRIu64, source->manifest->file_name, f->id);
}

/* Everything that touches the manifest's stores, in one thread. */
static enum plm_code locate(struct plm_source *source, struct plm_source_fragment *f,
                            struct plm_err *err)
{
    struct plm_manifest *m = source->manifest;
    const struct plm_fragment *fragment = &m->fragments[f->manifest_index];
    struct plm_store *store;
    const char *prefix;
    enum plm_code rc = PLM_OK;

    f->id = fragment->id;
    f->n_rows = fragment->n_physical_rows;
    if (fragment->deletion.present)
        PLM_TRY(plm_manifest_base(m, fragment->deletion.base_id, "_deletions/", &store, &prefix, err));
    if (source->is_copy)
        return locate_copy(source, f, fragment, err);
    const struct plm_data_file *file =
        find_data_file(fragment, source->column.field_id, true, &f->column);
    if (!file)
        return PLM_OK;
    PLM_TRY(check_readable(source, f, file, err));
    PLM_TRY(plm_manifest_base(m, file->base_id, "data/", &store, &prefix, err));
    f->store = store;
    f->size_bytes = file->size_bytes;
    PLM_TRY(plm_format(source->ctx, &f->path, err, "%s%s", prefix, file->path));
done:
    return rc;
}

static struct plm_column_shape column_shape(const struct plm_column *column)
{
    return (struct plm_column_shape){.items = column->dim,
                                     .bits = 8 * (uint32_t)plm_element_bytes(column->element),
                                     .is_list = true};
}

static enum plm_code open_fragment(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct plm_source *source = arg;
    struct plm_source_fragment *f = &source->fragments[task];
    struct plm_column_shape shape = column_shape(&source->column);
    uint64_t n_rows;
    enum plm_code rc = PLM_OK;
    (void)worker;

    PLM_TRY(plm_row_map_load(source->manifest, f->manifest_index, &f->map, err));
    PLM_TRY(make_ranks(source->ctx, f, err));
    if (!f->path)
        return PLM_OK;
    PLM_TRY(plm_datafile_open(f->store, f->path, f->size_bytes, &f->file, err));
    PLM_TRY(plm_datafile_check_column(f->file, f->column, &shape, &n_rows, &f->bytes_stored, err));
    if (n_rows != f->n_rows)
        rc = plm_fail(err, PLM_CORRUPT, "%s: column %u has %" PRIu64 " rows, the manifest says %" PRIu64,
                      f->path, f->column, n_rows, f->n_rows);
done:
    if (rc != PLM_OK)
        return plm_wrap(err, rc, "fragment %" PRIu64, f->id);
    return rc;
}

static bool is_chosen(const uint64_t *fragments, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++)
        if (fragments[i] == id)
            return true;
    return !fragments;
}

static enum plm_code choose_fragments(struct plm_source *source, const uint64_t *fragments, size_t n,
                                      struct plm_err *err)
{
    const struct plm_manifest *m = source->manifest;
    enum plm_code rc = plm_calloc(source->ctx, &source->fragments, m->n_fragments,
                                  sizeof *source->fragments, err);
    if (rc != PLM_OK)
        return rc;
    for (size_t i = 0; i < m->n_fragments; i++)
        if (is_chosen(fragments, n, m->fragments[i].id))
            source->fragments[source->n_fragments++].manifest_index = i;
    for (size_t i = 0; fragments && i < n; i++) {
        bool found = false;
        for (size_t j = 0; j < m->n_fragments && !found; j++)
            found = m->fragments[j].id == fragments[i];
        if (!found)
            return plm_fail(err, PLM_NOT_FOUND,
                            "fragment %" PRIu64 " is not in version %" PRIu64
                            " of the table (it has %zu fragments)",
                            fragments[i], m->version, m->n_fragments);
    }
    return PLM_OK;
}

/* Takes over what `s` says of manifest, column and copy. */
static enum plm_code open_source(struct plm_source s, const uint64_t *fragments, size_t n_fragments,
                                 struct plm_source *out, struct plm_err *err)
{
    struct plm_column_shape shape = column_shape(&s.column);
    enum plm_code rc = PLM_OK;

    PLM_TRY(choose_fragments(&s, fragments, n_fragments, err));
    for (size_t i = 0; i < s.n_fragments; i++)
        PLM_TRY(locate(&s, &s.fragments[i], err));
    PLM_TRY(plm_parallel(s.ctx, s.n_fragments, open_fragment, &s, err));
    for (size_t i = 0; i < s.n_fragments; i++) {
        struct plm_source_fragment *f = &s.fragments[i];
        f->first_ordinal = s.n_live;
        s.n_live += f->n_live;
        s.n_deleted += f->n_rows - f->n_live;
        s.column_bytes += f->bytes_stored;
        if (f->file)
            plm_datafile_needs(f->file, f->column, &shape, &s.needs);
    }
    *out = s;
    s = (struct plm_source){.ctx = s.ctx};
done:
    plm_source_close(&s);
    return rc;
}

enum plm_code plm_source_open(struct plm_manifest *manifest, const struct plm_column *column,
                              const uint64_t *fragments, size_t n_fragments, struct plm_source *out,
                              struct plm_err *err)
{
    struct plm_source s = {.ctx = manifest->ctx, .manifest = manifest, .column = *column};

    if (column->is_packed)
        return plm_fail(err, PLM_UNSUPPORTED, "the column lies inside '%.100s', a packed struct: not supported",
                        column->packed_name);
    return open_source(s, fragments, n_fragments, out, err);
}

enum plm_code plm_source_open_copy(struct plm_manifest *manifest, const struct plm_column *column,
                                   const uint64_t *fragments, size_t n_fragments,
                                   struct plm_store *copy, struct plm_source *out,
                                   struct plm_err *err)
{
    struct plm_source s = {
        .ctx = manifest->ctx, .manifest = manifest, .column = *column, .is_copy = true, .copy = copy};
    return open_source(s, fragments, n_fragments, out, err);
}

void plm_source_close(struct plm_source *source)
{
    for (size_t i = 0; i < source->n_fragments; i++) {
        struct plm_source_fragment *f = &source->fragments[i];
        plm_datafile_close(f->file);
        plm_row_map_reset(&f->map);
        plm_free(source->ctx, f->live_before);
        plm_free(source->ctx, f->path);
    }
    if (source->ctx)
        plm_free(source->ctx, source->fragments);
    *source = (struct plm_source){0};
}

enum plm_code plm_source_find(struct plm_source *source, uint64_t rowid, uint64_t *ordinal,
                              struct plm_err *err)
{
    for (size_t i = 0; i < source->n_fragments; i++) {
        const struct plm_source_fragment *f = &source->fragments[i];
        uint64_t row = 0;

        if (!f->map.ids) {
            if (rowid >> 32 != f->id || (row = rowid & 0xffffffffu) >= f->n_rows)
                continue;
        } else {
            while (row < f->n_rows && (f->map.ids[row] != rowid || plm_row_is_deleted(&f->map, row)))
                row++;
        }
        if (row < f->n_rows && !plm_row_is_deleted(&f->map, row)) {
            *ordinal = f->first_ordinal + rank_of(f, row);
            return PLM_OK;
        }
    }
    return plm_fail(err, PLM_NOT_FOUND, "no live row has the row id %" PRIu64, rowid);
}
