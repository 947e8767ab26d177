/* check_rowids.c - the row ids of a segment: their hash, and the ids sorted. */
#include <stdlib.h>

#include "build/check.h"
#include "ivf/window.h"

#define IDS_OF_WINDOW ((size_t)1 << 18)

static int by_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

enum plm_code plm_check_rowids_of(struct plm_segment *s, uint32_t first_partition, uint32_t end,
                                  uint64_t *hash_low, uint64_t *hash_high, uint64_t *sorted,
                                  struct plm_err *err)
{
    size_t n_sorted = 0, n_windows = 0;
    struct plm_read_scratch read = {.ctx = s->ctx};
    struct plm_window *windows = NULL;
    uint64_t *ids = NULL, low = 0, high = 0;
    size_t n_ids = plm_window_bytes(s->ctx, IDS_OF_WINDOW * sizeof *ids) / sizeof *ids;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(s->ctx, &ids, (size_t)plm_min_u64(n_ids, s->n_rows), sizeof *ids, err));
    PLM_TRY(plm_windows_make(s, NULL, first_partition, end, n_ids, 0, &windows, &n_windows, err));
    for (size_t w = 0; w < n_windows; w++) {
        PLM_TRY(plm_check_cancel(s->ctx, err));
        PLM_TRY(plm_window_read(s, &windows[w], ids, NULL, &read, err));
        for (size_t i = 0; i < windows[w].n; i++) {
            low += plm_mix64(1, ids[i]);
            high += plm_mix64(2, ids[i]);
            if (sorted)
                sorted[n_sorted++] = ids[i];
        }
    }
    if (sorted)
        qsort(sorted, n_sorted, sizeof *sorted, by_u64);
    *hash_low = low;
    *hash_high = high;
done:
    plm_free(s->ctx, ids);
    plm_free(s->ctx, windows);
    plm_read_scratch_reset(&read);
    return rc;
}

enum plm_code plm_check_rowids(struct plm_segment *s, uint64_t *hash_low, uint64_t *hash_high,
                               uint64_t *sorted, struct plm_err *err)
{
    return plm_check_rowids_of(s, 0, s->model.k, hash_low, hash_high, sorted, err);
}
