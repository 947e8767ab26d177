/* s3_slot.h - one request on its way, for s3_client.c and s3_slot.c only.
 *
 * A slot goes round: cleared, filled, started, judged, perhaps started again.
 */
#ifndef PLM_S3_SLOT_H
#define PLM_S3_SLOT_H

#include "store/s3.h"

enum plm_s3_slot_state { PLM_S3_SLOT_FREE, PLM_S3_SLOT_WAITING, PLM_S3_SLOT_FLYING };

struct plm_s3_slot {
    struct plm_s3_client *client;
    struct plm_s3_request request;
    size_t index;
    enum plm_s3_slot_state state;
    double began, ready_at;
    bool paced; /* ready_at is a slot of the shared rate */
    bool skew_corrected, credentials_renewed, region_followed; /* each once */
    bool renew;   /* the secret of the last try has expired */
    bool corrupt; /* the last try came complete, but its checksum differs */
    /* this try */
    struct plm_http_call call;
    struct plm_s3_target target;
    struct plm_s3_secret *secret; /* NULL = unsigned */
    struct plm_buf authorization, error_body;
    char region[64], date[17], range[64], payload_sha256[65];
    bool accepted; /* the answer's head suits the request */
    enum plm_code failed; /* a check of ours; failure tells more */
    struct plm_err failure;
    char problem[200];
    /* the object, over several tries */
    size_t into_base; /* request.into->len before the first byte */
    size_t piece;     /* the first piece that is not complete */
    char etag[160];   /* of what we have bytes of; strong ones only */
    char checksum[80], checksum_kind[16];
};

void plm_s3_slot_init(struct plm_s3_slot *slot, struct plm_s3_client *client);
/* Ready for another request. */
void plm_s3_slot_clear(struct plm_s3_slot *slot);
/* Drops a call in flight (http NULL: none is). */
void plm_s3_slot_reset(struct plm_s3_slot *slot, struct plm_http *http);
/* Signs and sends the next try. */
PLM_MUST_CHECK enum plm_code plm_s3_slot_start(struct plm_s3_slot *slot, struct plm_http *http,
                                               struct plm_err *err);
/* After the call finished: the verdict, with the body's length and checksum looked at. */
enum plm_s3_verdict plm_s3_slot_judge(struct plm_s3_slot *slot);
/* Whether `bytes` have the checksum that a server sent in base64; an unknown kind passes. */
bool plm_s3_checksum_fits(const char *kind, const char *base64, const void *bytes, size_t n);

#endif
