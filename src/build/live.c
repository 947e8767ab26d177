/* live.c - see live.h. */
#include "build/live.h"

#include <stdlib.h>

/* ---- loading ---------------------------------------------------------------------- */

struct loading {
    struct plm_live *live;
    struct plm_manifest *manifest;
};

static enum plm_code load_map(void *arg, size_t task, unsigned worker, struct plm_err *err)
{
    struct loading *loading = arg;
    struct plm_live_fragment *f = &loading->live->fragments[task];
    (void)worker;

    return plm_row_map_load(loading->manifest, f->manifest_index, &f->map, err);
}

static int by_id(const void *a, const void *b)
{
    const struct plm_live_fragment *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool is_listed(const uint32_t *fragments, size_t n, uint64_t id)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fragments[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && fragments[low] == id;
}

/* Chooses the fragments; opens their base paths, which is for one thread only. */
static enum plm_code choose(struct plm_manifest *m, const uint32_t *fragments, size_t n,
                            struct plm_live *live, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_store *store;
    const char *prefix;

    PLM_TRY(plm_calloc(live->ctx, &live->fragments, m->n_fragments, sizeof(*live->fragments), err));
    for (size_t i = 0; i < m->n_fragments; i++) {
        const struct plm_fragment *f = &m->fragments[i];
        if (!is_listed(fragments, n, f->id))
            continue;
        live->fragments[live->n_fragments++] = (struct plm_live_fragment){
            .id = f->id, .n_rows = f->n_physical_rows, .manifest_index = i};
        if (f->deletion.present)
            PLM_TRY(plm_manifest_base(m, f->deletion.base_id, "_deletions/", &store, &prefix, err));
    }
    qsort(live->fragments, live->n_fragments, sizeof(*live->fragments), by_id);
done:
    return rc;
}

/* ---- stable row ids ----------------------------------------------------------------- */

static void measure_ids(struct plm_live *live)
{
    live->first_id = UINT64_MAX;
    for (size_t i = 0; i < live->n_fragments; i++) {
        const struct plm_row_map *map = &live->fragments[i].map;
        for (uint64_t row = 0; row < map->n_rows; row++) {
            if (plm_row_is_deleted(map, row))
                continue;
            uint64_t id = plm_row_id(map, row);
            live->first_id = plm_min_u64(live->first_id, id);
            live->last_id = plm_max_u64(live->last_id, id);
            live->n_ids++;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void collect_ids(struct plm_live *live)
{
    uint64_t n = 0;

    for (size_t i = 0; i < live->n_fragments; i++) {
        const struct plm_row_map *map = &live->fragments[i].map;
        for (uint64_t row = 0; row < map->n_rows; row++) {
            if (plm_row_is_deleted(map, row))
                continue;
            uint64_t id = plm_row_id(map, row), bit = id - live->first_id;
            if (live->bits)
                live->bits[bit >> 3] |= (uint8_t)(1u << (bit & 7));
            else
                live->ids[n++] = id;
        }
    }
    if (live->ids)
        qsort(live->ids, n, sizeof(*live->ids), by_value);
}

static enum plm_code gather_ids(struct plm_live *live, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    measure_ids(live);
    if (live->n_ids == 0)
        return PLM_OK;
    uint64_t bytes = (live->last_id - live->first_id) / 8 + 1;
    if (bytes / 8 <= live->n_ids)
        PLM_TRY(plm_calloc(live->ctx, &live->bits, (size_t)bytes, 1, err));
    else
        PLM_TRY(plm_alloc(live->ctx, &live->ids, (size_t)live->n_ids, sizeof(*live->ids), err));
    collect_ids(live);
    for (size_t i = 0; i < live->n_fragments; i++) /* no longer needed */
        plm_row_map_reset(&live->fragments[i].map);
done:
    return rc;
}

/* ---- the set ------------------------------------------------------------------------- */

enum plm_code plm_live_open(struct plm_manifest *manifest, const uint32_t *fragments,
                            size_t n_fragments, struct plm_live *out, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_live live = {.ctx = manifest->ctx};
    struct loading loading = {&live, manifest};

    live.is_stable = manifest->reader_flags & PLM_FLAG_STABLE_ROW_IDS;
    PLM_TRY(choose(manifest, fragments, n_fragments, &live, err));
    PLM_TRY(plm_parallel(manifest->ctx, live.n_fragments, load_map, &loading, err));
    if (live.is_stable)
        PLM_TRY(gather_ids(&live, err));
    *out = live;
    live.fragments = NULL, live.n_fragments = 0;
    live.bits = NULL, live.ids = NULL;
done:
    plm_live_close(&live);
    return rc;
}

void plm_live_close(struct plm_live *live)
{
    for (size_t i = 0; i < live->n_fragments; i++)
        plm_row_map_reset(&live->fragments[i].map);
    if (live->ctx) {
        plm_free(live->ctx, live->fragments);
        plm_free(live->ctx, live->bits);
        plm_free(live->ctx, live->ids);
    }
    memset(live, 0, sizeof(*live));
}

static bool allow_stable(const struct plm_live *live, uint64_t rowid)
{
    if (live->n_ids == 0 || rowid < live->first_id || rowid > live->last_id)
        return false;
    if (live->bits) {
        uint64_t bit = rowid - live->first_id;
        return live->bits[bit >> 3] >> (bit & 7) & 1;
    }
    return bsearch(&rowid, live->ids, (size_t)live->n_ids, sizeof(rowid), by_value) != NULL;
}

static size_t find_fragment(const struct plm_live *live, uint64_t id)
{
    size_t low = 0, high = live->n_fragments;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (live->fragments[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool plm_live_allow(void *arg, uint64_t rowid)
{
    struct plm_live_cursor *cursor = arg;
    const struct plm_live *live = cursor->live;
    uint64_t id = rowid >> 32, row = rowid & UINT32_MAX;

    if (live->is_stable)
        return allow_stable(live, rowid);
    if (cursor->at >= live->n_fragments || live->fragments[cursor->at].id != id)
        cursor->at = find_fragment(live, id);
    if (cursor->at >= live->n_fragments || live->fragments[cursor->at].id != id)
        return false;
    const struct plm_live_fragment *f = &live->fragments[cursor->at];
    return row < f->n_rows && !plm_row_is_deleted(&f->map, row);
}
