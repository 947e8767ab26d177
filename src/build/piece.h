/* piece.h - a file of a job written from its beginning to its end: runs, the model, columns.
 *
 * Whole    readers see the finished piece or none: local, it has another name until it is
 *          finished; on S3 it is one multipart upload.
 * Twins    several processes may write one piece at once; all of them write the same bytes.
 * Memory   1 MiB, on S3 8 MiB.
 */
#ifndef PLM_PIECE_H
#define PLM_PIECE_H

#include <xxhash.h>

#include "build/build.h"

struct plm_piece {
    struct plm_job *job;
    struct plm_writer *writer;
    char name[64], part_name[112];
    uint8_t *room, *buffer; /* buffer: bytes not written yet, [used] of [cap]; at a page boundary in room */
    size_t used, cap;
    size_t hashed;   /* of these */
    uint64_t at;
    unsigned part;
    XXH3_state_t *hash;
};

/* size: of all that will be put. */
PLM_MUST_CHECK enum plm_code
plm_piece_open(struct plm_job *job, const char *name, uint64_t size, struct plm_piece *out,
               struct plm_err *err);
void plm_piece_set_direct(struct plm_piece *piece); /* as plm_writer_set_direct() */
PLM_MUST_CHECK enum plm_code
plm_piece_put(struct plm_piece *piece, const void *bytes, size_t n, struct plm_err *err);
/* Writes the buffer; for those who fill it themselves, when it is full. */
PLM_MUST_CHECK enum plm_code plm_piece_flush(struct plm_piece *piece, struct plm_err *err);
/* xxh3 of everything put so far. */
uint64_t plm_piece_digest(struct plm_piece *piece);
/* durable false: a piece that a power cut damages is found out by its checksum and made again. */
PLM_MUST_CHECK enum plm_code
plm_piece_finish(struct plm_piece *piece, bool durable, struct plm_err *err);
void plm_piece_reset(struct plm_piece *piece); /* removes what is not finished; {0} is fine */

#endif
