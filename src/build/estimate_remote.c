/* estimate_remote.c - what a build asks of remote storage: docs/object-stores.md says why so much. */
#include <math.h>

#include "build/plan_parts.h"
#include "cluster/sample.h"
#include "store/store.h"

/* As src/store/s3_window.h cuts what is read in one stretch. */
#define PIECE_BYTES ((double)((uint64_t)8 << 20))
#define FOOTER_BYTES ((uint64_t)64 << 10)
#define KEEP_BYTES ((uint64_t)64 << 20) /* for each thread */
#define CHECK_SLICES 16                 /* stretches of rows that verify looks up */
#define JOIN_REQUESTS 4                 /* of a worker that opens the table and the job, footers aside */
#define MODEL_REQUESTS 6                /* of a process that reads the model */
#define RUN_OPENS 3                     /* of each run, beside those that merge it; each takes RUN_REQUESTS */
#define RUN_REQUESTS 3
#define JOB_PUTS 9                      /* plan, model, markers, the report; probes of what the store can do */
#define GROUPS_EACH 4                   /* groups of sub-vectors that PQ trains, for each worker */

uint64_t plm_plan_keep_bytes(const struct plm_plan *p)
{
    uint64_t left = p->budget_bytes - plm_min_u64(p->budget_bytes, p->memory.expected_bytes);

    return plm_min_u64(left, p->ctx->threads * KEEP_BYTES);
}

static double pieces(double bytes)
{
    return fmax(1, floor(bytes / PIECE_BYTES));
}

/* Reading the column: for the sample, for all rows, and for what is checked. */
static void add_column(const struct plm_source *source, const struct plm_plan *p, bool verifies, struct plm_estimate *e)
{
    double files = (double)plm_max_size(1, source->n_fragments), share = (double)p->sample_rows / (double)p->n_live;
    double column = (double)p->column_bytes, keep = (double)plm_plan_keep_bytes(p), kept = fmin(1, keep / column);
    double all = files * pieces(column / files), slices = ceil((double)p->sample_rows / PLM_SLICE_ROWS);
    double places = files * ceil(column / files / PIECE_BYTES);
    double hit = fmin(slices, places * (1 - exp(-slices / places)));
    bool is_whole = p->sample_rows >= p->n_live, again = p->memory.gather_bytes > 0;
    bool trains = p->centroids_xxh3 == 0 || p->codebook_xxh3 == 0;
    double stays = p->n_workers > 0 ? 1.0 / p->n_workers : 1; /* of what was sampled, with who encodes it */
    double passes = (is_whole && trains && column <= keep ? 1 - stays : 1) + (again && column > keep);

    if (p->n_workers > 0) /* ranges of shards and tasks, each for itself */
        all = fmax(all, files + (double)p->n_tasks);

    if (trains) {
        e->get += (uint64_t)(is_whole ? all : fmax(1, hit));
        e->bytes_read += (uint64_t)(is_whole ? column : fmin(1, share * PIECE_BYTES / fmax(share * PIECE_BYTES,
                                                              (1 - share) * column / fmax(slices, 1))) * column);
    }
    e->get += (uint64_t)(passes * all + (verifies && kept < 1 ? (1 - kept) * CHECK_SLICES : 0));
    e->bytes_read += (uint64_t)(passes * column);
}

/* The files of the index: written, and read back to be checked. */
static void add_index(const struct plm_plan *p, bool verifies, struct plm_estimate *e)
{
    double model = (double)p->num_partitions * p->column.dim * plm_element_bytes(p->column.element);

    for (size_t s = 0; s < p->n_segments; s++) {
        struct plm_layout l = plm_layout_of(p->segments[s].n_rows, plm_plan_code_bytes(p));
        double codebook = p->quantizer == PLM_PQ ? (double)p->column.dim * (1u << p->num_bits) * 4 : 0;
        double bytes = (double)plm_layout_end(&l) + codebook;

        e->put += 1 + (l.n_blocks > 1 ? l.n_blocks + 2 : 1);
        e->list += 1;
        e->bytes_written += (uint64_t)(bytes + model);
        if (verifies) {
            e->get += 1 + (uint64_t)pieces(bytes);
            e->bytes_read += (uint64_t)(bytes + model);
        }
    }
}

/* Workers open the table each for itself, and leave with it their runs and the columns PQ is trained from. */
static void add_workers(const struct plm_source *source, const struct plm_plan *p, struct plm_estimate *e)
{
    double runs = (double)p->n_live * (p->memory.gather_bytes ? 12 : plm_plan_code_bytes(p) + 8), columns = 0;
    uint64_t workers = p->n_workers, mergers = 0, groups = 0;

    for (size_t i = 0; i < p->n_segments; i++)
        mergers += plm_layout_of(p->segments[i].n_rows, plm_plan_code_bytes(p)).n_blocks;
    mergers = plm_min_u64(mergers, workers);
    if (p->quantizer == PLM_PQ && p->codebook_xxh3 == 0) {
        groups = plm_min_u64(p->num_sub_vectors, GROUPS_EACH * workers);
        columns = (double)plm_min_u64(p->sample_rows, (uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits) * p->column.dim * 4;
    }
    e->get += workers * (JOIN_REQUESTS + source->n_fragments) + (workers + 1) * MODEL_REQUESTS + groups * (workers + 1) +
              p->n_tasks * (RUN_REQUESTS * (RUN_OPENS + mergers) + mergers + 1);
    e->put += p->n_tasks + JOB_PUTS + mergers + groups + (groups ? workers : 0);
    e->list += workers + 4;
    e->deleted += p->n_tasks + JOB_PUTS + mergers + groups + (groups ? workers : 0);
    e->bytes_read += (uint64_t)(runs + columns) + workers * source->n_fragments * FOOTER_BYTES;
    e->bytes_written += (uint64_t)(runs + columns);
}

void plm_estimate_remote(const struct plm_source *source, const struct plm_plan *p, bool verifies, struct plm_estimate *e)
{
    uint64_t n_deletions = 0;

    for (size_t i = 0; i < source->manifest->n_fragments; i++)
        n_deletions += source->manifest->fragments[i].deletion.present;
    e->get = 1 + source->n_fragments + n_deletions; /* manifest, footers, deletions */
    e->put = 3;                                     /* transaction twice, manifest */
    e->list = 2;                                    /* versions, before and after */
    e->deleted = 0;
    e->bytes_read = source->n_fragments * FOOTER_BYTES + source->manifest->raw.len;
    e->bytes_written = source->manifest->raw.len;
    add_column(source, p, verifies, e);
    add_index(p, verifies, e);
    if (p->n_workers > 0)
        add_workers(source, p, e);
}
