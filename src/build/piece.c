/* piece.c - files of a job, written in one go under a name of their own. */
#include "build/piece.h"
#include "store/writer.h"

#define WRITE_BYTES ((size_t)1 << 20)
#define PART_BYTES ((size_t)8 << 20) /* on S3, where parts have a least size of 5 MiB */

static enum plm_code name_part(struct plm_piece *p, struct plm_err *err)
{
    uint8_t uuid[16];
    char text[37];
    enum plm_code rc = plm_uuid_random(uuid, err);

    if (rc != PLM_OK)
        return rc;
    plm_uuid_text(uuid, text);
    if (plm_store_is_local(p->job->work))
        snprintf(p->part_name, sizeof p->part_name, "%s.part-%s", p->name, text);
    else
        snprintf(p->part_name, sizeof p->part_name, "%s", p->name); /* no name before its end */
    return PLM_OK;
}

enum plm_code plm_piece_open(struct plm_job *job, const char *name, uint64_t size,
                             struct plm_piece *out, struct plm_err *err)
{
    struct plm_piece p = {.job = job, .hash = XXH3_createState()};
    enum plm_code rc = PLM_OK;

    if (!p.hash)
        return plm_fail(err, PLM_NOMEM, "%s: out of memory", name);
    XXH3_64bits_reset(p.hash);
    p.cap = plm_store_is_local(job->work) ? WRITE_BYTES : PART_BYTES;
    snprintf(p.name, sizeof p.name, "%s", name);
    PLM_TRY(name_part(&p, err));
    PLM_TRY(plm_alloc(job->ctx, &p.room, p.cap + PLM_DIRECT_ALIGN - 1, 1, err));
    p.buffer = p.room + -(uintptr_t)p.room % PLM_DIRECT_ALIGN;
    PLM_TRY(plm_writer_open(job->work, p.part_name, size, NULL, NULL, &p.writer, err));
    *out = p;
    p = (struct plm_piece){0};
done:
    plm_piece_reset(&p);
    return rc;
}

void plm_piece_set_direct(struct plm_piece *p)
{
    plm_writer_set_direct(p->writer);
}

static void hash_buffer(struct plm_piece *p)
{
    XXH3_64bits_update(p->hash, p->buffer + p->hashed, p->used - p->hashed);
    p->hashed = p->used;
}

enum plm_code plm_piece_flush(struct plm_piece *p, struct plm_err *err)
{
    if (p->used == 0)
        return PLM_OK;
    hash_buffer(p);
    enum plm_code rc = plm_writer_write(p->writer, ++p->part, p->at, p->buffer, p->used, err);
    p->at += p->used;
    p->used = p->hashed = 0;
    return rc;
}

enum plm_code plm_piece_put(struct plm_piece *p, const void *bytes, size_t n, struct plm_err *err)
{
    const uint8_t *from = bytes;
    while (n > 0) {
        size_t now = plm_min_size(n, p->cap - p->used);
        memcpy(p->buffer + p->used, from, now);
        p->used += now;
        from += now;
        n -= now;
        if (p->used == p->cap) {
            enum plm_code rc = plm_piece_flush(p, err);
            if (rc != PLM_OK)
                return rc;
        }
    }
    return PLM_OK;
}

uint64_t plm_piece_digest(struct plm_piece *p)
{
    hash_buffer(p);
    return XXH3_64bits_digest(p->hash);
}

enum plm_code plm_piece_finish(struct plm_piece *p, bool durable, struct plm_err *err)
{
    bool is_local = plm_store_is_local(p->job->work);
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_piece_flush(p, err));
    PLM_TRY(durable ? plm_writer_finish(p->writer, err) : plm_writer_finish_scratch(p->writer, err));
    p->writer = NULL;
    if (is_local)
        PLM_TRY(plm_store_rename(p->job->work, p->part_name, p->name, err));
done:
    return rc;
}

void plm_piece_reset(struct plm_piece *p)
{
    if (p->writer)
        plm_writer_abort(p->writer);
    if (p->job)
        plm_free(p->job->ctx, p->room);
    XXH3_freeState(p->hash);
    *p = (struct plm_piece){0};
}
