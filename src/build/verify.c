/* verify.c - checks an index before it is committed, and refuses one that is not right. */
#include "build/verify.h"

#include "build/segment_dir.h"

/* ---- pieces ---------------------------------------------------------------------------- */

enum plm_code plm_verify_open(struct plm_job *job, size_t segment, struct plm_segment *out,
                              struct plm_err *err)
{
    char *dir = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_segment_merged_dir(job, segment, &dir, err));
    const uint64_t sizes[] = {job->sizes[segment].index, job->sizes[segment].auxiliary};
    PLM_TRY(plm_segment_open_all(job->root, dir, sizes, out, err));
done:
    plm_free(job->ctx, dir);
    return rc;
}

enum plm_code plm_verify_model(struct plm_job *job, size_t i, const struct plm_segment *s,
                               const uint32_t *lengths, struct plm_err *err)
{
    const struct plm_model *mine = &job->model, *theirs = &s->model;
    size_t words = (size_t)mine->k * mine->dim * sizeof(float);

    if (theirs->k != mine->k || theirs->dim != mine->dim || theirs->quantizer != mine->quantizer ||
        theirs->metric != mine->metric || memcmp(mine->centroids, theirs->centroids, words) != 0)
        return plm_fail(err, PLM_CORRUPT, "segment %zu: the model read back is not the one written", i);
    if (memcmp(lengths, s->lengths, (size_t)mine->k * sizeof(uint32_t)) != 0)
        return plm_fail(err, PLM_CORRUPT, "segment %zu: the partition lengths read back differ", i);
    if (mine->quantizer == PLM_PQ &&
        memcmp(mine->pq.codebook, theirs->pq.codebook,
               (size_t)mine->dim * plm_pq_n_codes(&mine->pq) * sizeof(float)) != 0)
        return plm_fail(err, PLM_CORRUPT, "segment %zu: the codebook read back differs", i);
    return PLM_OK;
}

enum plm_code plm_verify_rows(struct plm_job *job, struct plm_segment *segment, uint64_t first, uint64_t n,
                              bool full, struct plm_err *err)
{
    struct plm_check check = {
        .ctx = job->ctx,
        .source = &job->source,
        .segment = segment,
        .first = first,
        .n = n,
        .seed = job->plan.seed,
        .is_ours = true,
        .findings = &job->findings,
    };
    return plm_check_rows(&check, full, err);
}

enum plm_code plm_verify_ids(const struct plm_job *job, const struct plm_id_sum *sum, struct plm_err *err)
{
    const struct plm_run_stats *t = &job->totals;
    if (sum->n != t->n || sum->hash_low != t->hash_low || sum->hash_high != t->hash_high)
        return plm_fail(err, PLM_CORRUPT,
                        "the index has %" PRIu64 " row ids (hash %016" PRIx64 "), encoding saw %" PRIu64
                        " (hash %016" PRIx64 ")",
                        sum->n, sum->hash_low, t->n, t->hash_low);
    return PLM_OK;
}

enum plm_code plm_verify_findings(const struct plm_job *job, struct plm_err *err)
{
    const struct plm_findings *f = &job->findings;
    if (f->n_problems > 0)
        return plm_fail(err, PLM_CORRUPT,
                        "%" PRIu64 " problems in %" PRIu64 " rows checked, %" PRIu64
                        " of them in the wrong partition; nothing was committed",
                        f->n_problems, f->checked_rows, f->misfiled);
    return PLM_OK;
}

/* ---- all of it on this machine ----------------------------------------------------------- */

struct opened {
    struct plm_segment *segments;
    size_t n;
};

static enum plm_code open_segments(struct plm_job *job, struct opened *o, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_calloc(job->ctx, &o->segments, job->plan.n_segments, sizeof *o->segments, err));
    for (; o->n < job->plan.n_segments; o->n++)
        PLM_TRY(plm_verify_open(job, o->n, &o->segments[o->n], err));
done:
    return rc;
}

/* Every usable row is in the index once: as many ids as encode saw, with the same hash. */
static enum plm_code check_ids(struct plm_job *job, struct opened *o, struct plm_err *err)
{
    struct plm_id_sum sum = {0};
    for (size_t i = 0; i < o->n; i++) {
        uint64_t low, high;
        enum plm_code rc = plm_check_rowids(&o->segments[i], &low, &high, NULL, err);
        if (rc != PLM_OK)
            return rc;
        sum.n += o->segments[i].n_rows;
        sum.hash_low += low;
        sum.hash_high += high;
    }
    return plm_verify_ids(job, &sum, err);
}

static enum plm_code verify_all(struct plm_job *job, struct opened *o, bool full, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(open_segments(job, o, err));
    PLM_TRY(check_ids(job, o, err));
    for (size_t i = 0; i < o->n; i++) {
        const struct plm_segment_plan *planned = &job->plan.segments[i];
        PLM_TRY(plm_verify_model(job, i, &o->segments[i], job->lengths[i], err));
        PLM_TRY(plm_verify_rows(job, &o->segments[i], planned->first_row, planned->n_rows, full, err));
    }
    PLM_TRY(plm_verify_findings(job, err));
    plm_progress_detail(job->ctx, "recall");
    PLM_TRY(plm_check_recall(job->ctx, o->segments, o->n, &job->probes, job->truth, &job->findings, err));
done:
    return rc;
}

enum plm_code plm_build_verify(struct plm_job *job, const char *level, struct plm_err *err)
{
    double began = plm_now_seconds();
    struct opened o = {0};
    bool full = level && strcmp(level, "full") == 0;
    enum plm_code rc = PLM_OK;

    if (level && strcmp(level, "none") == 0)
        return PLM_OK;
    plm_progress_begin(job->ctx, "verify", full ? job->plan.n_live : 0, "rows");
    rc = verify_all(job, &o, full, err);
    if (rc == PLM_OK) {
        if (!full) /* a sample: its size is known now */
            plm_progress_add(job->ctx, job->findings.checked_rows);
        plm_progress_end(job->ctx);
    } else {
        rc = plm_wrap(err, rc, "verify");
    }
    for (size_t i = 0; i < o.n; i++)
        plm_segment_close(&o.segments[i]);
    plm_free(job->ctx, o.segments);
    job->seconds.verify = plm_now_seconds() - began;
    return rc;
}

void plm_job_findings_reset(struct plm_job *job)
{
    plm_findings_reset(&job->findings);
}
