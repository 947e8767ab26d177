/* cut.c - fragments into segments, rows into tasks. */
#include "build/plan_parts.h"
#include "rows/source_impl.h"

uint32_t plm_plan_code_bytes(const struct plm_plan *p)
{
    if (p->quantizer == PLM_PQ)
        return p->num_bits == 4 ? p->num_sub_vectors / 2 : p->num_sub_vectors;
    return p->column.dim * (p->quantizer == PLM_SQ ? 1 : (uint32_t)plm_element_bytes(p->column.element));
}

#define LARGE_BYTES ((uint64_t)64 << 20) /* smaller ones are cheap to cache, and searched soon */

bool plm_plan_is_large(const struct plm_plan *p)
{
    return p->n_live >= LARGE_BYTES / (sizeof(uint64_t) + plm_plan_code_bytes(p));
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Segment s takes fragments [from, to) of the source. */
static enum plm_code fill_segment(const struct plm_source *source, size_t from, size_t to,
                                  struct plm_plan *p, struct plm_segment_plan *s, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    PLM_TRY(plm_uuid_random(s->uuid, err));
    PLM_TRY(plm_alloc(p->ctx, &s->fragments, to - from, sizeof *s->fragments, err));
    s->first_row = source->fragments[from].first_ordinal;
    for (size_t i = from; i < to; i++) {
        if (source->fragments[i].id > UINT32_MAX)
            return plm_fail(err, PLM_CORRUPT, "fragment id %" PRIu64 " does not fit 32 bits",
                            source->fragments[i].id);
        s->fragments[s->n_fragments++] = (uint32_t)source->fragments[i].id;
        s->n_rows += source->fragments[i].n_live;
    }
    qsort(s->fragments, s->n_fragments, sizeof *s->fragments, by_id);
done:
    return rc;
}

/* Whole fragments, in order, each segment as near to its share of the rows as it gets. */
enum plm_code plm_plan_segments(const struct plm_source *source, uint64_t n_segments, struct plm_plan *p,
                                struct plm_err *err)
{
    size_t from = 0, n = (size_t)plm_min_u64(n_segments, source->n_fragments);
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < p->n_segments; i++) /* of an earlier plan */
        plm_free(p->ctx, p->segments[i].fragments);
    plm_free(p->ctx, p->segments);
    p->segments = NULL;
    p->n_segments = 0;
    PLM_TRY(plm_calloc(p->ctx, &p->segments, n, sizeof *p->segments, err));
    for (size_t s = 0; s < n; s++) {
        uint64_t goal = (uint64_t)((__uint128_t)source->n_live * (s + 1) / n);
        size_t to = from + 1, last = source->n_fragments - (n - 1 - s);
        while (to < last && (s == n - 1 || source->fragments[to].first_ordinal +
                                               source->fragments[to].n_live / 2 < goal))
            to++;
        p->n_segments++; /* counted first: reset frees what was made of it */
        PLM_TRY(fill_segment(source, from, to, p, &p->segments[s], err));
        from = to;
    }
done:
    return rc;
}

static size_t tasks_of(const struct plm_segment_plan *s, uint64_t task_rows)
{
    return (size_t)((s->n_rows + task_rows - 1) / task_rows);
}

enum plm_code plm_plan_tasks(struct plm_plan *p, struct plm_err *err)
{
    size_t n = 0;
    enum plm_code rc = PLM_OK;

    plm_free(p->ctx, p->tasks);
    p->tasks = NULL;
    p->n_tasks = 0;
    for (size_t s = 0; s < p->n_segments; s++)
        n += tasks_of(&p->segments[s], p->memory.task_rows);
    PLM_TRY(plm_alloc(p->ctx, &p->tasks, n, sizeof *p->tasks, err));
    for (size_t s = 0; s < p->n_segments; s++) {
        struct plm_segment_plan *segment = &p->segments[s];
        segment->first_task = p->n_tasks;
        segment->n_tasks = tasks_of(segment, p->memory.task_rows);
        for (size_t t = 0; t < segment->n_tasks; t++) {
            uint64_t first = t * p->memory.task_rows;
            p->tasks[p->n_tasks++] = (struct plm_task){
                .first = segment->first_row + first,
                .n = plm_min_u64(p->memory.task_rows, segment->n_rows - first),
                .segment = (uint32_t)s,
            };
        }
    }
done:
    return rc;
}
