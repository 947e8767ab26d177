/* details.c - the VectorIndexDetails message of an index. */
#include "lance/commit.h"
#include "lance/wire.h"

static enum plm_code put_hint(struct plm_buf *buf, const char *key, uint64_t value,
                              struct plm_err *err)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu64, value);

    return plm_pb_put_map(buf, 9, key, text, (size_t)n, err);
}

/* Default values are left out, as stock Lance does. */
static enum plm_code put_metric(struct plm_buf *buf, const char *metric, struct plm_err *err)
{
    if (strcmp(metric, "l2") == 0)
        return PLM_OK;
    if (strcmp(metric, "cosine") == 0)
        return plm_pb_put_u64(buf, 1, 1, err);
    if (strcmp(metric, "dot") == 0)
        return plm_pb_put_u64(buf, 1, 2, err);
    return plm_fail(err, PLM_ARG, "metric '%.40s', expected l2, cosine or dot", metric);
}

static enum plm_code put_quantizer(struct plm_buf *buf, char quantizer, uint32_t num_bits,
                                   uint32_t num_sub_vectors, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf message;
    uint32_t number = 8; /* flat: an empty message */

    plm_buf_init(&message, buf->ctx, 64);
    if (quantizer == 'S') {
        number = 5;
        PLM_TRY(plm_pb_put_u64(&message, 1, num_bits, err));
    } else if (quantizer == 'P') {
        number = 4;
        PLM_TRY(plm_pb_put_u64(&message, 1, num_bits, err));
        PLM_TRY(plm_pb_put_u64(&message, 2, num_sub_vectors, err));
    } else if (quantizer != 'F') {
        PLM_TRY(plm_fail(err, PLM_BUG, "quantizer '%c'", quantizer));
    }
    PLM_TRY(plm_pb_put_message(buf, number, &message, err));
done:
    plm_buf_reset(&message);
    return rc;
}

enum plm_code plm_index_details(char quantizer, const char *metric, uint32_t num_bits,
                                uint32_t num_sub_vectors, uint32_t max_iters, uint64_t sample_rate,
                                struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(put_metric(buf, metric, err));
    PLM_TRY(put_quantizer(buf, quantizer, num_bits, num_sub_vectors, err));
    PLM_TRY(put_hint(buf, "lance.ivf.max_iters", max_iters, err));
    PLM_TRY(put_hint(buf, "lance.ivf.sample_rate", sample_rate, err));
done:
    return rc;
}
