/* estimate.c - what a build will cost, from its shape.
 *
 * Rates are per thread and rough: medians of builds on 2-core AVX2 and AVX-512 machines. A
 * calibration on the machine at hand is a later step.
 */
#include "build/plan_parts.h"

#define MULTIPLY_ADDS_PER_S 25e9 /* kernels, per thread */
#define READ_BYTES_PER_S 1.0e9
#define WRITE_BYTES_PER_S 0.6e9
#define TREE_PASSES 24  /* k-means iterations over projected rows, both levels */
#define FULL_PASSES 3   /* means and refinement in full dimension */
#define PQ_PASSES 18    /* over the training rows, growing sample counted in */

static double over(double work, double rate)
{
    return work / rate;
}

void plm_plan_estimate(const struct plm_source *source, const struct plm_plan *p,
                       struct plm_estimate *out)
{
    double n = (double)p->n_live, d = p->column.dim, k = p->num_partitions;
    double sample = (double)p->sample_rows, threads = source->ctx->threads;
    double rate = MULTIPLY_ADDS_PER_S * threads, code = plm_plan_code_bytes(p) + 8.0;
    double projected = d < 96 ? d : d <= 256 ? 64 : 128;
    double stored = (double)p->column_bytes, index_bytes = n * code + k * d * 4;
    double fan = 2;
    while (fan * fan < k)
        fan++;

    double train = over(sample * (d * projected + TREE_PASSES * fan * projected + FULL_PASSES * k * d), rate);
    train += over(sample * d * 4, READ_BYTES_PER_S);
    double encode = over(n * d * (k + PLM_PROBE_QUERIES), rate) + over(stored, READ_BYTES_PER_S * threads);
    if (p->quantizer == PLM_PQ) {
        double codewords = (double)(1u << p->num_bits), rows = codewords * PLM_PQ_SAMPLE_PER_CODE;
        rows = rows < sample ? rows : sample;
        train += over(rows * PQ_PASSES * codewords * d, rate);
        encode += over(n * codewords * d, rate);
    }
    encode += over(n * code, WRITE_BYTES_PER_S);

    *out = (struct plm_estimate){
        .plan = 0.01 + 0.0005 * (double)source->n_fragments,
        .train = train,
        .encode = encode,
        .merge = over(n * code, READ_BYTES_PER_S) + over(index_bytes, WRITE_BYTES_PER_S),
        .verify = 0.1 + over(n * 8, READ_BYTES_PER_S),
        .commit = 0.05,
        .peak_rss_bytes = p->memory.expected_bytes,
        .bytes_read = (uint64_t)(stored + stored * sample / n + 2 * n * code),
        .bytes_written = (uint64_t)(n * code + index_bytes),
    };
    out->total = out->plan + out->train + out->encode + out->merge + out->verify + out->commit;
    /* Requests as local I/O counts them: footers, batches, runs and their slices. */
    uint64_t batches = p->n_live / p->memory.batch_rows + p->n_tasks;
    out->get = 3 + 2 * source->n_fragments + batches + p->sample_rows / PLM_SLICE_ROWS + p->n_tasks;
    out->put = p->n_tasks + 2 * p->n_segments + 4;
    out->list = 2;
}
