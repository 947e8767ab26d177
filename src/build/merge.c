/* merge.c - runs to one auxiliary.idx for each segment.
 *
 * The partition lengths of all runs fix where every row goes: partition by partition, inside a
 * partition run by run, inside a run in row order. The file is cut into blocks of equal row
 * counts (plm_layout_of), so a block may begin and end inside a partition. Any process can write any
 * of them.
 */
#include <stdlib.h>

#include "build/merge_parts.h"
#include "build/segment_dir.h"

/* ---- a segment ----------------------------------------------------------------------------------------- */

static enum plm_code open_run(void *arg, size_t i, unsigned worker, struct plm_err *err)
{
    struct plm_merge *m = arg;
    size_t task = m->job->plan.segments[m->segment].first_task + i;
    enum plm_code rc = plm_run_open(m->job, task, false, &m->runs[i], NULL, err);
    (void)worker;
    if (rc == PLM_OK && plm_plan_is_large(&m->job->plan))
        plm_file_set_direct(m->runs[i].file);
    return rc;
}

static enum plm_code open_runs(struct plm_merge *m, struct plm_err *err)
{
    struct plm_job *job = m->job;
    const struct plm_segment_plan *segment = &job->plan.segments[m->segment];
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &m->runs, segment->n_tasks, sizeof *m->runs, err));
    m->n_runs = segment->n_tasks; /* those that are not open are empty */
    PLM_TRY(plm_parallel(job->ctx, m->n_runs, open_run, m, err)); /* a round trip or two each, on S3 */
    PLM_TRY(plm_alloc(job->ctx, &m->starts, (size_t)m->k + 1, sizeof *m->starts, err));
    PLM_TRY(plm_calloc(job->ctx, &m->lengths, m->k, sizeof *m->lengths, err));
    m->starts[0] = 0;
    for (uint32_t p = 0; p < m->k; p++) {
        uint64_t n = 0;
        for (size_t r = 0; r < m->n_runs; r++)
            n += m->runs[r].starts[p + 1] - m->runs[r].starts[p];
        if (n > UINT32_MAX)
            return plm_fail(err, PLM_UNSUPPORTED, "partition %u has %" PRIu64 " rows, at most 2^32-1 fit", p, n);
        m->lengths[p] = (uint32_t)n;
        m->starts[p + 1] = m->starts[p] + n;
    }
    m->layout = plm_layout_of(m->starts[m->k], m->code_bytes);
done:
    return rc;
}

enum plm_code plm_merge_open(struct plm_job *job, size_t segment, struct plm_merge **out,
                             struct plm_err *err)
{
    struct plm_merge *m = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &m, 1, sizeof *m, err));
    m->job = job;
    m->segment = segment;
    m->k = job->model.k;
    m->code_bytes = plm_model_code_bytes(&job->model);
    m->transposed = job->model.quantizer == PLM_PQ;
    plm_buf_init(&m->tail, job->ctx, SIZE_MAX);
    PLM_TRY(open_runs(m, err));
    *out = m;
    m = NULL;
done:
    plm_merge_close(m);
    return rc;
}

void plm_merge_close(struct plm_merge *m)
{
    if (!m)
        return;
    struct plm_ctx *ctx = m->job->ctx;
    if (m->writer && m->is_shared)
        plm_writer_detach(m->writer);
    else if (m->writer)
        plm_writer_abort(m->writer);
    for (size_t r = 0; r < m->n_runs; r++)
        plm_run_close(&m->runs[r]);
    plm_merge_group_reset(m);
    plm_free(ctx, m->done);
    plm_file_close(m->written);
    plm_free(ctx, m->runs);
    plm_free(ctx, m->starts);
    plm_free(ctx, m->lengths);
    plm_buf_reset(&m->tail);
    plm_free(ctx, m);
}

size_t plm_merge_segment(const struct plm_merge *m)
{
    return m->segment;
}

uint64_t plm_merge_blocks(const struct plm_merge *m)
{
    return m->layout.n_blocks;
}

const uint32_t *plm_merge_lengths(const struct plm_merge *m)
{
    return m->lengths;
}

/* ---- the files ---------------------------------------------------------------------------------------- */

static enum plm_code write_index_file(struct plm_merge *m, struct plm_err *err)
{
    struct plm_job *job = m->job;
    struct plm_buf file;
    char *dir = NULL, *path = NULL;
    __int128 units = 0;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&file, job->ctx, SIZE_MAX);
    for (size_t r = 0; r < m->n_runs; r++)
        units += m->runs[r].stats.loss;
    PLM_TRY(plm_index_main(&job->model, (double)units * job->loss_unit, job->plan.file_major,
                           job->plan.file_minor, &file, err));
    PLM_TRY(plm_segment_made_dir(job, m->segment, &dir, err));
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/" PLM_INDEX_FILE, dir));
    PLM_TRY(plm_store_put(job->root, path, file.data, file.len, err));
    PLM_TRY(plm_segment_note_size(job, m->segment, false, file.len, err));
done:
    plm_free(job->ctx, dir);
    plm_free(job->ctx, path);
    plm_buf_reset(&file);
    return rc;
}

static enum plm_code open_writer(struct plm_merge *m, const char *token, char **token_out,
                                 struct plm_err *err)
{
    struct plm_job *job = m->job;
    char *dir = NULL, *path = NULL;
    enum plm_code rc = PLM_OK;

    m->tail.len = 0;
    PLM_TRY(plm_index_aux_tail(&job->model, &m->layout, m->lengths, job->plan.file_major,
                               job->plan.file_minor, &m->tail, err));
    PLM_TRY(plm_segment_made_dir(job, m->segment, &dir, err));
    PLM_TRY(plm_format(job->ctx, &path, err, "%s/" PLM_AUX_FILE, dir));
    PLM_TRY(plm_writer_open(job->root, path, plm_layout_end(&m->layout) + m->tail.len, token, token_out,
                            &m->writer, err));
    if (plm_plan_is_large(&job->plan))
        plm_writer_set_direct(m->writer);
    m->is_shared = token || token_out;
    if (m->is_shared) {
        const char *name = token ? token : *token_out;
        m->token_xxh3 = plm_xxh3(name, strlen(name));
    }
done:
    plm_free(job->ctx, dir);
    plm_free(job->ctx, path);
    return rc;
}

/* What an earlier driver began, or one beside this one. */
static enum plm_code carry_on(struct plm_merge *m, char **token, struct plm_err *err)
{
    char *found = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_merge_token_load(m, &found, err));
    PLM_TRY(open_writer(m, found, NULL, err));
    PLM_TRY(plm_merge_marks_load(m, err));
    *token = found;
    found = NULL;
done:
    plm_free(m->job->ctx, found);
    return rc;
}

static enum plm_code begin_shared(struct plm_merge *m, char **token, struct plm_err *err)
{
    char *fresh = NULL;
    enum plm_code rc = PLM_OK;

    if (m->writer) /* of what cannot be carried on */
        plm_writer_detach(m->writer);
    m->writer = NULL;
    plm_free(m->job->ctx, m->done);
    m->done = NULL;
    PLM_TRY(plm_merge_forget(m->job, m->segment, err));
    PLM_TRY(open_writer(m, NULL, &fresh, err));
    rc = plm_merge_token_save(m, fresh, err);
    if (rc == PLM_CONFLICT || rc == PLM_RETRY) {
        plm_writer_abort(m->writer);
        m->writer = NULL;
        rc = carry_on(m, token, err);
    } else if (rc == PLM_OK) {
        *token = fresh;
        fresh = NULL;
    }
done:
    plm_free(m->job->ctx, fresh);
    return rc;
}

enum plm_code plm_merge_begin(struct plm_merge *m, char **token, struct plm_err *err)
{
    struct plm_err why = {0};
    if (!token)
        return open_writer(m, NULL, NULL, err);
    enum plm_code rc = carry_on(m, token, &why);
    if (rc == PLM_NOT_FOUND || rc == PLM_CORRUPT || rc == PLM_ARG)
        return begin_shared(m, token, err);
    if (rc != PLM_OK && err)
        *err = why;
    return rc;
}

enum plm_code plm_merge_join(struct plm_merge *m, const char *token, struct plm_err *err)
{
    return open_writer(m, token, NULL, err);
}

enum plm_code plm_merge_write(struct plm_merge *m, uint64_t first, uint64_t end, struct plm_err *err)
{
    PLM_ASSERT(first <= end && end <= m->layout.n_blocks);
    return plm_merge_groups(m, first, end, err);
}

enum plm_code plm_merge_finish(struct plm_merge *m, struct plm_err *err)
{
    char marker[40];
    enum plm_code rc = PLM_OK;

    if (m->layout.n_blocks == 0)
        PLM_TRY(plm_writer_write(m->writer, 1, 0, m->tail.data, m->tail.len, err));
    PLM_TRY(plm_writer_finish(m->writer, err));
    m->writer = NULL;
    PLM_TRY(plm_segment_note_size(m->job, m->segment, true, plm_layout_end(&m->layout) + m->tail.len, err));
    PLM_TRY(write_index_file(m, err));
    snprintf(marker, sizeof marker, "merged-%zu", m->segment);
    PLM_TRY(plm_store_put(m->job->work, marker, "", 0, err));
done:
    return rc;
}

enum plm_code plm_merge_is_done(struct plm_job *job, size_t segment, bool *yes, struct plm_err *err)
{
    char marker[40], *dir = NULL;
    uint64_t size;
    enum plm_code rc;

    *yes = false;
    snprintf(marker, sizeof marker, "merged-%zu", segment);
    rc = plm_store_size(job->work, marker, &size, err);
    if (rc == PLM_OK)
        rc = plm_segment_current_dir(job, segment, &dir, err);
    if (rc == PLM_OK)
        *yes = true;
    plm_free(job->ctx, dir);
    return rc == PLM_NOT_FOUND ? PLM_OK : rc;
}

/* ---- all of it on this machine --------------------------------------------------------------------------- */

static enum plm_code merge_segment(struct plm_job *job, size_t segment, struct plm_err *err)
{
    struct plm_merge *m = NULL;
    bool is_done = false;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_merge_open(job, segment, &m, err));
    PLM_TRY(plm_merge_is_done(job, segment, &is_done, err));
    if (!is_done) {
        PLM_TRY(plm_segment_clear_uploads(job, segment, err));
        PLM_TRY(plm_merge_begin(m, NULL, err));
        PLM_TRY(plm_merge_write(m, 0, m->layout.n_blocks, err));
        PLM_TRY(plm_merge_finish(m, err));
    }
    job->lengths[segment] = m->lengths;
    m->lengths = NULL;
done:
    plm_merge_close(m);
    return rc;
}

enum plm_code plm_build_merge(struct plm_job *job, struct plm_err *err)
{
    double began = plm_now_seconds();
    uint64_t row_bytes = plm_model_code_bytes(&job->model) + sizeof(uint64_t);
    enum plm_code rc = PLM_OK;

    plm_progress_begin(job->ctx, "merge", job->totals.n * row_bytes, "bytes");
    PLM_TRY(plm_calloc(job->ctx, &job->lengths, job->plan.n_segments, sizeof *job->lengths, err));
    for (size_t s = 0; s < job->plan.n_segments; s++)
        PLM_TRY(merge_segment(job, s, err));
    plm_progress_end(job->ctx);
done:
    plm_job_drop_sample(job);
    job->seconds.merge = plm_now_seconds() - began;
    return rc;
}
