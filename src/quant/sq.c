/* sq.c - scalar quantization: distances as stock Lance reports them. */
#include "quant/quant.h"

#define CHUNK 32768 /* values of one integer sum: sq_l2 wants fewer than 2^16 */

static uint64_t code_l2(const struct plm_kernels *kernels, const uint8_t *a, const uint8_t *b,
                        size_t dim)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < dim; i += CHUNK)
        sum += kernels->sq_l2(a + i, b + i, plm_min_size(CHUNK, dim - i));
    return sum;
}

/* 1 - q.v with v = lo + s * code: the query is taken as it is. */
static float dot_distance(double lo, double s, const float *query, size_t dim, const uint8_t *code)
{
    double sum = 0, weighted = 0;

    for (size_t i = 0; i < dim; i++) {
        sum += (double)query[i];
        weighted += (double)query[i] * code[i];
    }
    return (float)(1 - (lo * sum + s * weighted));
}

void plm_sq_scan(const struct plm_kernels *kernels, const struct plm_sq *sq, const float *query,
                 size_t dim, enum plm_metric metric, const uint8_t *codes, size_t n,
                 uint8_t *query_codes, float *distances)
{
    float s = (float)(sq->hi - sq->lo) / 255.0f;

    if (metric == PLM_DOT) {
        for (size_t i = 0; i < n; i++)
            distances[i] = dot_distance(sq->lo, (double)s, query, dim, codes + i * dim);
        return;
    }
    kernels->sq_encode(query, dim, sq->lo, sq->hi, query_codes);
    for (size_t i = 0; i < n; i++)
        distances[i] = (float)code_l2(kernels, query_codes, codes + i * dim, dim) * (s * s);
}
