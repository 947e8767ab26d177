#include "build/model_file.h"

#include "build/piece.h"

#define MAGIC "PLMMODL1"
#define HISTORY_MAX 100000 /* iterations remembered; far above any max_iters that ends */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pieces are written as they lie in memory");

struct header {
    char magic[8];
    char job[40];
    uint32_t k, dim, m, dsub, n_bits, element;
    double lo, hi, loss_unit;
    uint64_t trained_rows, n_probes, n_ivf_loss, n_pq_error;
};

/* One part after another, hashed as they pass. */
struct parts {
    struct plm_job *job;
    struct plm_piece *piece; /* either */
    struct plm_file *file;   /* or */
    XXH3_state_t *hash;
    uint64_t at;
};

static enum plm_code pass(struct parts *p, void *bytes, size_t n, struct plm_err *err)
{
    enum plm_code rc = n == 0 ? PLM_OK
                       : p->piece ? plm_piece_put(p->piece, bytes, n, err)
                                  : plm_file_read(p->file, p->at, n, bytes, err);
    if (rc == PLM_OK && n)
        XXH3_64bits_update(p->hash, bytes, n);
    p->at += n;
    return rc;
}

static size_t codebook_floats(const struct header *h)
{
    return (size_t)h->m * h->dsub << (h->m ? h->n_bits : 0);
}

/* All parts in file order; the job's arrays are there already. */
static enum plm_code pass_all(struct parts *p, const struct header *h, struct plm_err *err)
{
    struct plm_job *job = p->job;
    enum plm_code rc = PLM_OK;

    PLM_TRY(pass(p, job->model.centroids, (size_t)h->k * h->dim * sizeof(float), err));
    if (h->m)
        PLM_TRY(pass(p, job->model.pq.codebook, codebook_floats(h) * sizeof(float), err));
    PLM_TRY(pass(p, job->ivf_loss, h->n_ivf_loss * sizeof(double), err));
    PLM_TRY(pass(p, job->pq_error, h->n_pq_error * sizeof(double), err));
    PLM_TRY(pass(p, job->probes.vectors, h->n_probes * h->dim * sizeof(float), err));
    PLM_TRY(pass(p, job->probes.rowids, h->n_probes * sizeof(uint64_t), err));
done:
    return rc;
}

static uint64_t file_bytes(const struct header *h)
{
    uint64_t floats = (uint64_t)h->k * h->dim + codebook_floats(h) + h->n_probes * h->dim;
    return sizeof *h + floats * sizeof(float) + (h->n_ivf_loss + h->n_pq_error + h->n_probes + 1) * 8;
}

static enum plm_code begin(struct plm_job *job, struct parts *p, struct plm_err *err)
{
    p->job = job;
    p->hash = XXH3_createState();
    if (!p->hash)
        return plm_fail(err, PLM_NOMEM, "model: out of memory");
    XXH3_64bits_reset(p->hash);
    return PLM_OK;
}

enum plm_code plm_model_save(struct plm_job *job, struct plm_err *err)
{
    struct parts p = {0};
    struct plm_piece piece = {0};
    struct header h = {
        .magic = MAGIC,
        .k = job->model.k,
        .dim = job->model.dim,
        .m = job->model.pq.m,
        .dsub = job->model.pq.dsub,
        .n_bits = job->model.pq.n_bits,
        .element = job->model.element,
        .lo = job->model.sq.lo,
        .hi = job->model.sq.hi,
        .loss_unit = job->loss_unit,
        .trained_rows = job->trained_rows,
        .n_probes = job->probes.n,
        .n_ivf_loss = job->n_ivf_loss,
        .n_pq_error = job->n_pq_error,
    };
    enum plm_code rc = PLM_OK;

    memcpy(h.job, job->plan.id, sizeof job->plan.id);
    PLM_TRY(begin(job, &p, err));
    PLM_TRY(plm_piece_open(job, "model", file_bytes(&h), &piece, err));
    p.piece = &piece;
    PLM_TRY(pass(&p, &h, sizeof h, err));
    PLM_TRY(pass_all(&p, &h, err));
    uint64_t digest = XXH3_64bits_digest(p.hash);
    PLM_TRY(pass(&p, &digest, sizeof digest, err));
    PLM_TRY(plm_piece_finish(&piece, true, err));
done:
    plm_piece_reset(&piece);
    XXH3_freeState(p.hash);
    return rc;
}

static enum plm_code check_header(const struct plm_job *job, const struct header *h, uint64_t size,
                                  struct plm_err *err)
{
    const struct plm_plan *p = &job->plan;
    bool is_pq = p->quantizer == PLM_PQ;
    if (memcmp(h->magic, MAGIC, 8) != 0 || memcmp(h->job, p->id, sizeof p->id) != 0 ||
        h->dim != p->column.dim || h->element != p->column.element || h->k == 0 ||
        h->k > p->num_partitions || h->n_probes > PLM_PROBE_QUERIES || h->n_ivf_loss > HISTORY_MAX ||
        h->n_pq_error > HISTORY_MAX || h->m != (is_pq ? p->num_sub_vectors : 0) ||
        (is_pq && (h->n_bits != p->num_bits || (uint64_t)h->m * h->dsub != h->dim)))
        return plm_fail(err, PLM_CORRUPT, "model: of another job");
    if (size != file_bytes(h))
        return plm_fail(err, PLM_CORRUPT, "model: %" PRIu64 " bytes, expected %" PRIu64, size, file_bytes(h));
    return PLM_OK;
}

static enum plm_code make_room(struct plm_job *job, const struct header *h, float **codebook,
                               struct plm_err *err)
{
    struct plm_ctx *ctx = job->ctx;
    enum plm_code rc = PLM_OK;

    plm_job_model_init(job, h->k);
    PLM_TRY(plm_job_model_room(job, err));
    PLM_TRY(plm_alloc(ctx, &job->ivf_loss, h->n_ivf_loss, sizeof(double), err));
    PLM_TRY(plm_alloc(ctx, &job->pq_error, h->n_pq_error, sizeof(double), err));
    PLM_TRY(plm_alloc(ctx, &job->probes.vectors, h->n_probes * h->dim, sizeof(float), err));
    PLM_TRY(plm_alloc(ctx, &job->probes.rowids, h->n_probes, sizeof(uint64_t), err));
    if (h->m) {
        PLM_TRY(plm_calloc(ctx, codebook, codebook_floats(h), sizeof(float), err));
        PLM_TRY(plm_pq_init(ctx, h->m, h->dsub, h->n_bits, *codebook, &job->model.pq, err));
    }
    job->n_ivf_loss = h->n_ivf_loss;
    job->n_pq_error = h->n_pq_error;
    job->probes.n = h->n_probes;
    job->model.sq = (struct plm_sq){h->lo, h->hi};
    job->loss_unit = h->loss_unit;
    job->trained_rows = h->trained_rows;
done:
    return rc;
}

enum plm_code plm_model_load(struct plm_job *job, struct plm_err *err)
{
    struct parts p = {0};
    struct header h;
    uint64_t stored = 0;
    float *codebook = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(begin(job, &p, err));
    PLM_TRY(plm_file_open(job->work, "model", 0, &p.file, err));
    PLM_TRY(pass(&p, &h, sizeof h, err));
    PLM_TRY(check_header(job, &h, plm_file_size(p.file), err));
    PLM_TRY(make_room(job, &h, &codebook, err));
    PLM_TRY(pass_all(&p, &h, err));
    uint64_t digest = XXH3_64bits_digest(p.hash);
    PLM_TRY(pass(&p, &stored, sizeof stored, err));
    if (digest != stored) {
        rc = plm_fail(err, PLM_CORRUPT, "model: damaged (checksum %016" PRIx64 ", expected %016" PRIx64 ")",
                      digest, stored);
        goto done;
    }
    if (h.m) { /* once more, with the values there: init derives the norms */
        memcpy(codebook, job->model.pq.codebook, codebook_floats(&h) * sizeof(float));
        plm_pq_reset(&job->model.pq);
        PLM_TRY(plm_pq_init(job->ctx, h.m, h.dsub, h.n_bits, codebook, &job->model.pq, err));
    }
done:
    plm_free(job->ctx, codebook);
    plm_file_close(p.file);
    XXH3_freeState(p.hash);
    if (rc != PLM_OK)
        plm_job_model_reset(job);
    return rc;
}
