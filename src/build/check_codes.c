/* check_codes.c - a row's code in the index against that of encoding it again.
 *
 * An index built just now has equal codes; one of another builder may differ by float32 rounding, and by
 * another codeword that is as near.
 */
#include <math.h>
#include <stdlib.h>

#include "build/check_rows_impl.h"
#include "rows/half.h"

#define ROUNDING 1e-3 /* of a unit vector's value in float16 */

/* A stored FLAT value. */
static double value_of(const struct plm_model *m, const uint8_t *code, uint32_t d)
{
    uint16_t half;
    float single;
    double value;
    switch (m->element) {
    case PLM_F16:
        memcpy(&half, code + d * sizeof half, sizeof half);
        return plm_f16_to_f32(half);
    case PLM_F64:
        memcpy(&value, code + d * sizeof value, sizeof value);
        return value;
    default:
        memcpy(&single, code + d * sizeof single, sizeof single);
        return single;
    }
}

static double decoded_error(const struct plm_check_chunk *c, const struct plm_check_row *row,
                            const uint8_t *code, float *decoded)
{
    const struct plm_model *m = &c->check->segment->model;
    const float *vector = c->vectors + row->at * c->dim;
    const float *centroid = m->centroids + (size_t)row->partition * c->dim;
    double error = 0;

    plm_pq_decode(&m->pq, code, decoded);
    for (size_t d = 0; d < c->dim; d++) {
        double from = m->metric == PLM_DOT ? vector[d] : (double)(vector[d] - centroid[d]);
        error += (from - decoded[d]) * (from - decoded[d]);
    }
    return error;
}

/* Other builders normalize in float32: a value may differ by rounding, an SQ code by one. */
static bool is_nearly_equal(const struct plm_model *m, const uint8_t *seen, const uint8_t *expected)
{
    if (m->metric != PLM_COSINE)
        return false;
    for (uint32_t d = 0; d < m->dim; d++) {
        if (m->quantizer == PLM_SQ ? abs(seen[d] - expected[d]) > 1
                                   : fabs(value_of(m, seen, d) - value_of(m, expected, d)) > ROUNDING)
            return false;
    }
    return true;
}

enum plm_code plm_check_compare(struct plm_check_chunk *c, const struct plm_check_row *row,
                                const uint8_t *seen, struct plm_err *err)
{
    const struct plm_model *m = &c->check->segment->model;
    const uint8_t *expected = c->codes + row->at * c->code_bytes;
    char where[64];
    size_t at = 0;

    if (memcmp(seen, expected, c->code_bytes) == 0)
        return PLM_OK;
    if (!c->check->is_ours && m->quantizer != PLM_PQ && is_nearly_equal(m, seen, expected))
        return PLM_OK;
    while (seen[at] == expected[at])
        at++;
    snprintf(where, sizeof where, "partition %u, byte %zu of the code", row->partition, at);
    if (m->quantizer != PLM_PQ) {
        plm_problem(c->check->findings, "code", row->rowid, where, "%.0f", seen[at], expected[at]);
        return PLM_OK;
    }
    float *decoded;
    enum plm_code rc = plm_alloc(c->check->ctx, &decoded, c->dim, sizeof(float), err);
    if (rc != PLM_OK)
        return rc;
    double error = decoded_error(c, row, seen, decoded), least = decoded_error(c, row, expected, decoded);
    if (error > least * (1 + PLM_CHECK_NEARLY) + 1e-30)
        plm_problem(c->check->findings, "code", row->rowid, where, "squared error %.9g", error, least);
    plm_free(c->check->ctx, decoded);
    return PLM_OK;
}
