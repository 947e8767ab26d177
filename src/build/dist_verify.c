/* dist_verify.c - the checks before a commit, cut into tasks that any worker can do.
 *
 * The driver cuts: rows of the table by ranges, row ids by ranges of partitions, one look at the
 * model of each segment, one at the recall. It adds up the answers and decides.
 */
#include <jansson.h>
#include <stdlib.h>

#include "build/dist_parts.h"

#define ROWS_OF_TASK ((uint64_t)1 << 19)
#define IDS_OF_TASK ((uint64_t)1 << 23)
#define PROBLEMS_BYTES_MAX ((uint64_t)1 << 20)

enum check_kind { CHECK_SAMPLE = 1, CHECK_ROWS, CHECK_IDS, CHECK_MODEL, CHECK_RECALL };

static const char check_magic[8] = "PLMCHEK1", found_magic[8] = "PLMFOUN1";

struct wire_found {
    struct plm_dist_check check;
    struct plm_id_sum ids;
    uint64_t checked_rows, misfiled, n_problems, refine_factor, n_recall, json_bytes;
    struct plm_recall recall[PLM_RECALL_POINTS];
};

void plm_dist_segments_reset(struct plm_dist *d)
{
    for (size_t i = 0; i < d->n_segments; i++)
        plm_segment_close(&d->segments[i]);
    plm_free(d->ctx, d->segments);
    d->segments = NULL;
    d->n_segments = 0;
}

/* ---- the driver cuts ----------------------------------------------------------------------- */

static enum plm_code add_check(struct plm_dist *d, enum check_kind kind, uint64_t segment, uint64_t first,
                               uint64_t end, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    if ((d->n_checks & (d->n_checks - 1)) == 0) /* room for a power of two */
        PLM_TRY(plm_realloc(d->ctx, &d->checks, plm_max_size(1, 2 * d->n_checks), sizeof *d->checks, err));
    d->checks[d->n_checks++] = (struct plm_dist_check){kind, segment, first, end};
done:
    return rc;
}

static enum plm_code add_ids(struct plm_dist *d, uint64_t segment, struct plm_err *err)
{
    const uint32_t *lengths = d->job.lengths[segment];
    uint32_t k = d->job.model.k, first = 0;
    uint64_t n = 0;
    enum plm_code rc = PLM_OK;

    for (uint32_t p = 0; p < k; p++) {
        n += lengths[p];
        if (n < IDS_OF_TASK && p + 1 < k)
            continue;
        PLM_TRY(add_check(d, CHECK_IDS, segment, first, p + 1, err));
        first = p + 1;
        n = 0;
    }
done:
    return rc;
}

static enum plm_code add_segment(struct plm_dist *d, uint64_t segment, bool full, struct plm_err *err)
{
    const struct plm_segment_plan *s = &d->job.plan.segments[segment];
    uint64_t end = s->first_row + s->n_rows;
    enum plm_code rc = PLM_OK;

    if (!full)
        PLM_TRY(add_check(d, CHECK_SAMPLE, segment, s->first_row, end, err));
    PLM_TRY(add_check(d, CHECK_MODEL, segment, 0, 0, err));
    for (uint64_t at = s->first_row; full && at < end; at += ROWS_OF_TASK)
        PLM_TRY(add_check(d, CHECK_ROWS, segment, at, plm_min_u64(end, at + ROWS_OF_TASK), err));
    PLM_TRY(add_ids(d, segment, err));
done:
    return rc;
}

static enum plm_code call_verify_begin(struct plm_dist *d, const struct plm_dist_args *args,
                                       struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    d->n_checks = 0;
    d->ids = (struct plm_id_sum){0};
    plm_job_findings_reset(&d->job);
    PLM_TRY(plm_dist_need_model(d, err));
    if (!d->job.truth)
        return plm_fail(err, PLM_ARG, "verify_begin: encode_begin comes first");
    PLM_TRY(add_check(d, CHECK_RECALL, 0, 0, 0, err)); /* the longest comes first */
    for (uint64_t i = 0; i < d->job.plan.n_segments; i++) {
        if (!d->job.lengths[i])
            PLM_TRY(plm_fail(err, PLM_ARG, "verify_begin: segment %" PRIu64 " is not merged", i));
        PLM_TRY(add_segment(d, i, args->numbers[0] != 0, err));
    }
    plm_free(d->ctx, d->checked);
    d->checked = NULL;
    PLM_TRY(plm_calloc(d->ctx, &d->checked, d->n_checks, 1, err));
    PLM_TRY(plm_put_u64(answer, d->n_checks, err));
done:
    return rc;
}

static enum plm_code call_verify_message(struct plm_dist *d, const struct plm_dist_args *args,
                                         struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (args->numbers[0] >= d->n_checks)
        return plm_fail(err, PLM_ARG, "verify_message: %" PRIu64 " of %zu", args->numbers[0], d->n_checks);
    const struct plm_dist_check *c = &d->checks[args->numbers[0]];
    PLM_TRY(plm_buf_add(answer, check_magic, 8, err));
    PLM_TRY(plm_buf_add(answer, c, sizeof *c, err));
    if (c->kind == CHECK_MODEL)
        PLM_TRY(plm_buf_add(answer, d->job.lengths[c->segment], d->job.model.k * sizeof(uint32_t), err));
    if (c->kind == CHECK_RECALL)
        PLM_TRY(plm_buf_add(answer, d->job.truth, d->job.probes.n * PLM_PROBE_K * sizeof *d->job.truth, err));
done:
    return rc;
}

/* ---- workers check ---------------------------------------------------------------------------- */

static enum plm_code need_segments(struct plm_dist *d, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_dist_need_model(d, err));
    plm_dist_work_reset(d);
    if (d->segments)
        return PLM_OK;
    PLM_TRY(plm_calloc(d->ctx, &d->segments, d->job.plan.n_segments, sizeof *d->segments, err));
    for (; d->n_segments < d->job.plan.n_segments; d->n_segments++)
        PLM_TRY(plm_verify_open(&d->job, d->n_segments, &d->segments[d->n_segments], err));
done:
    if (rc != PLM_OK)
        plm_dist_segments_reset(d);
    return rc;
}

static enum plm_code check_ids(struct plm_dist *d, const struct plm_dist_check *c, struct plm_id_sum *sum,
                               struct plm_err *err)
{
    struct plm_segment *s = &d->segments[c->segment];
    enum plm_code rc = PLM_OK;

    if (c->first > c->end || c->end > s->model.k)
        return plm_fail(err, PLM_CORRUPT, "message: partitions %" PRIu64 " to %" PRIu64 " of %u", c->first,
                        c->end, s->model.k);
    PLM_TRY(plm_check_rowids_of(s, (uint32_t)c->first, (uint32_t)c->end, &sum->hash_low, &sum->hash_high,
                                NULL, err));
    for (uint64_t p = c->first; p < c->end; p++)
        sum->n += s->lengths[p];
done:
    return rc;
}

static enum plm_code check_rows(struct plm_dist *d, const struct plm_dist_check *c, struct plm_err *err)
{
    const struct plm_segment_plan *s = &d->job.plan.segments[c->segment];
    if (c->first < s->first_row || c->first > c->end || c->end > s->first_row + s->n_rows)
        return plm_fail(err, PLM_CORRUPT, "message: rows %" PRIu64 " to %" PRIu64 " of segment %" PRIu64,
                        c->first, c->end, c->segment);
    return plm_verify_rows(&d->job, &d->segments[c->segment], c->first, c->end - c->first,
                           c->kind == CHECK_ROWS, err);
}

/* lengths [k], copied because messages are not aligned. */
static enum plm_code check_model(struct plm_dist *d, const struct plm_dist_check *c, struct plm_reader *r,
                                 struct plm_err *err)
{
    uint32_t *lengths = NULL, k = d->job.model.k;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(d->ctx, &lengths, k, sizeof *lengths, err));
    PLM_TRY(plm_reader_copy(r, lengths, k * sizeof *lengths, err));
    PLM_TRY(plm_verify_model(&d->job, (size_t)c->segment, &d->segments[c->segment], lengths, err));
done:
    plm_free(d->ctx, lengths);
    return rc;
}

static enum plm_code check_recall(struct plm_dist *d, struct plm_reader *r, struct plm_err *err)
{
    struct plm_neighbour *truth = NULL;
    size_t n = d->job.probes.n * PLM_PROBE_K;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(d->ctx, &truth, n, sizeof *truth, err));
    PLM_TRY(plm_reader_copy(r, truth, n * sizeof *truth, err));
    PLM_TRY(plm_check_recall(d->ctx, d->segments, d->n_segments, &d->job.probes, truth, &d->job.findings, err));
done:
    plm_free(d->ctx, truth);
    return rc;
}

static enum plm_code put_found(struct plm_dist *d, struct wire_found *found, struct plm_buf *answer,
                               struct plm_err *err)
{
    const struct plm_findings *f = &d->job.findings;
    char *text = f->problems ? json_dumps(f->problems, JSON_COMPACT) : NULL;
    enum plm_code rc = PLM_OK;

    if (f->problems && !text)
        return plm_fail(err, PLM_NOMEM, "verify: out of memory");
    found->checked_rows = f->checked_rows;
    found->misfiled = f->misfiled;
    found->n_problems = f->n_problems;
    found->refine_factor = f->refine_factor;
    found->n_recall = f->n_recall;
    found->json_bytes = text ? strlen(text) : 0;
    memcpy(found->recall, f->recall, sizeof found->recall);
    PLM_TRY(plm_buf_add(answer, found_magic, 8, err));
    PLM_TRY(plm_buf_add(answer, found, sizeof *found, err));
    PLM_TRY(plm_buf_add(answer, text, found->json_bytes, err));
done:
    free(text);
    return rc;
}

static enum plm_code call_verify(struct plm_dist *d, const struct plm_dist_args *args,
                                 struct plm_buf *answer, struct plm_err *err)
{
    struct plm_reader r;
    struct wire_found found;
    enum plm_code rc = PLM_OK;

    memset(&found, 0, sizeof found);
    plm_job_findings_reset(&d->job);
    PLM_TRY(plm_reader_open(args->messages[0], check_magic, "a check", &r, err));
    PLM_TRY(plm_reader_copy(&r, &found.check, sizeof found.check, err));
    const struct plm_dist_check *c = &found.check;
    PLM_TRY(plm_dist_check_segment(d, c->segment, err));
    PLM_TRY(need_segments(d, err));
    plm_progress_begin(d->ctx, "verify", 0, "rows");
    if (c->kind == CHECK_SAMPLE || c->kind == CHECK_ROWS)
        PLM_TRY(check_rows(d, c, err));
    else if (c->kind == CHECK_IDS)
        PLM_TRY(check_ids(d, c, &found.ids, err));
    else if (c->kind == CHECK_MODEL)
        PLM_TRY(check_model(d, c, &r, err));
    else if (c->kind == CHECK_RECALL)
        PLM_TRY(check_recall(d, &r, err));
    else
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "message: check of kind %" PRIu64, c->kind));
    PLM_TRY(plm_reader_end(&r, err));
    PLM_TRY(put_found(d, &found, answer, err));
done:
    return rc;
}

/* ---- the driver adds up --------------------------------------------------------------------------- */

static enum plm_code take_problems(struct plm_findings *f, struct plm_reader *r, size_t n,
                                   struct plm_err *err)
{
    const uint8_t *text = NULL;
    json_error_t where;
    enum plm_code rc = PLM_OK;

    if (n == 0)
        return PLM_OK;
    PLM_TRY(plm_reader_take(r, n, 1, &text, err));
    json_t *list = json_loadb((const char *)text, n, 0, &where);
    if (!json_is_array(list)) {
        json_decref(list);
        return plm_fail(err, PLM_CORRUPT, "message: problems at byte %d", where.position);
    }
    if (!f->problems)
        f->problems = json_array();
    for (size_t i = 0; i < json_array_size(list) && json_array_size(f->problems) < PLM_PROBLEMS_MAX; i++)
        json_array_append(f->problems, json_array_get(list, i));
    json_decref(list);
done:
    return rc;
}

static enum plm_code read_found(struct plm_dist *d, struct plm_reader *r, struct wire_found *found,
                                size_t *check, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_reader_copy(r, found, sizeof *found, err));
    for (*check = 0; *check < d->n_checks; ++*check)
        if (memcmp(&d->checks[*check], &found->check, sizeof found->check) == 0)
            break;
    if (*check == d->n_checks || found->n_recall > PLM_RECALL_POINTS || found->refine_factor > UINT32_MAX ||
        found->json_bytes > PROBLEMS_BYTES_MAX)
        rc = plm_fail(err, PLM_CORRUPT, "message: answers no check of this build");
done:
    return rc;
}

static enum plm_code call_verify_answer(struct plm_dist *d, const struct plm_dist_args *args,
                                        struct plm_buf *answer, struct plm_err *err)
{
    struct plm_findings *f = &d->job.findings;
    struct plm_reader r;
    struct wire_found found;
    size_t check = 0;
    enum plm_code rc = PLM_OK;
    (void)answer;

    PLM_TRY(plm_reader_open(args->messages[0], found_magic, "what a check found", &r, err));
    PLM_TRY(read_found(d, &r, &found, &check, err));
    if (d->checked[check])
        goto done; /* done twice, counted once */
    PLM_TRY(take_problems(f, &r, (size_t)found.json_bytes, err));
    PLM_TRY(plm_reader_end(&r, err));
    d->checked[check] = 1;
    d->ids.n += found.ids.n;
    d->ids.hash_low += found.ids.hash_low;
    d->ids.hash_high += found.ids.hash_high;
    f->checked_rows += found.checked_rows;
    f->misfiled += found.misfiled;
    f->n_problems += found.n_problems;
    if (found.check.kind == CHECK_RECALL) {
        f->refine_factor = (uint32_t)found.refine_factor;
        f->n_recall = (size_t)found.n_recall;
        memcpy(f->recall, found.recall, sizeof f->recall);
    }
done:
    return rc;
}

static enum plm_code call_verify_end(struct plm_dist *d, const struct plm_dist_args *args,
                                     struct plm_buf *answer, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    (void)args, (void)answer;

    for (size_t i = 0; i < d->n_checks; i++)
        if (!d->checked[i])
            return plm_fail(err, PLM_ARG, "verify_end: check %zu of %zu is not done", i, d->n_checks);
    PLM_TRY(plm_verify_ids(&d->job, &d->ids, err));
    PLM_TRY(plm_verify_findings(&d->job, err));
done:
    return rc == PLM_OK ? rc : plm_wrap(err, rc, "verify");
}

const struct plm_dist_entry plm_dist_verify_calls[] = {
    {"verify_begin", call_verify_begin, 1, 0},
    {"verify_message", call_verify_message, 1, 0},
    {"verify", call_verify, 0, 1},
    {"verify_answer", call_verify_answer, 0, 1},
    {"verify_end", call_verify_end, 0, 0},
    {NULL, NULL, 0, 0},
};
