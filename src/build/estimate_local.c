/* estimate_local.c - reads and writes of a build on a local disk, as its store counts them, and their bytes.
 *
 * Where rows are looked for that lie anywhere, what counts is how many reads are left when those near each other
 * are one: with rows a chance q away from being wanted, each, (1 - q)^(gap + 1) of the wanted ones end a read.
 */
#include <math.h>

#include "build/plan_parts.h"
#include "build/train_parts.h"
#include "cluster/sample.h"

#define MIB ((double)(1 << 20))
#define READ_BYTES (4 * MIB)     /* of a sample at once, */
#define PAGE_BYTES (8 * MIB)     /* as long as a data file's pages, as Lance writes them, are not crossed */
#define WRITE_BYTES MIB          /* of a run */
#define GATHER_GAP (8 * 1024.0)  /* merge_gather.c: read rather than skipped, */
#define GATHER_SPAN MIB          /* and read at once */
#define LOOK_GAP (128 * 1024.0)  /* check_look.c: the same */
#define LOOK_ROWS_MIN 32.0       /* check_rows.c: as many rows as this work allows */
#define LOOK_ROWS_MAX 1024.0
#define LOOK_WORK 2e9
#define SCAN_BYTES (4 * MIB)     /* check_recall_pass.c: windows of the index, */
#define SCANS 6                  /* of which each byte is in so many, about, codes and ids and partitions apart */
#define CHECK_READS 30           /* slices of the table, ends and models of the index files */
#define MODEL_READS 4            /* by merging, and as each file says it */
#define ID_PASSES 3              /* over the row ids, block by block */
#define AXES_ROWS 2000           /* read one by one */
#define PROJECT_ROWS 768         /* of a spilled sample at once, when they are projected, */
#define PASS_ROWS 960            /* and later */
#define LEVEL_PASSES 20          /* over rows on the axes: the tree */
#define LLOYD_PASSES 4           /* over the sample in full dimension */
#define TASK_READS 3             /* of a task: is its run there; is it whole */
#define RUN_READS 2              /* of a run that is merged, and so many for each group of blocks */

struct local {
    const struct plm_plan *p;
    double n, row, code, column, files; /* rows; bytes of one in the table, in the index; of the column; fragments */
    double sample, share;               /* rows, and of the table */
    double axes;                        /* values of a row on them */
    double left;                        /* share of the column that is read once the sample is there */
    double model;                       /* bytes */
};

static void add_read(struct plm_estimate *e, double calls, double bytes)
{
    e->get += (uint64_t)calls;
    e->bytes_read += (uint64_t)bytes;
}

static void add_write(struct plm_estimate *e, double calls, double bytes)
{
    e->put += (uint64_t)calls;
    e->bytes_written += (uint64_t)bytes;
}

/* A sample beyond the budget: written once, read back in passes. */
static void add_spilled(const struct local *l, double writes, struct plm_estimate *e)
{
    const struct plm_plan *p = l->p;
    double bytes = l->sample * p->column.dim * sizeof(float), groups = 0, pq_rows = 0;

    if (p->quantizer == PLM_PQ && p->codebook_xxh3 == 0) {
        groups = ceil((double)p->num_sub_vectors / (double)p->memory.pq_group);
        pq_rows = fmin(l->sample, (double)((uint64_t)PLM_PQ_SAMPLE_PER_CODE << p->num_bits));
    }
    add_write(e, writes, bytes);
    add_read(e, AXES_ROWS + l->sample / PROJECT_ROWS + LLOYD_PASSES * l->sample / PASS_ROWS, (1 + LLOYD_PASSES) * bytes);
    add_read(e, pq_rows + groups * l->sample / PLM_PQ_CHUNK_ROWS, pq_rows / l->sample * bytes + groups * bytes);
    if (p->memory.spills_projected) {
        double projected = l->sample * l->axes * sizeof(float);

        add_write(e, l->sample / PROJECT_ROWS, projected);
        add_read(e, (LEVEL_PASSES + LLOYD_PASSES) * l->sample / PROJECT_ROWS, (LEVEL_PASSES + LLOYD_PASSES) * projected);
    }
}

/* Whole stretches of the table, or slices of it. */
static void add_train(const struct local *l, struct plm_estimate *e)
{
    double bytes = l->column * l->share, slices = l->sample / PLM_SLICE_ROWS;
    double stretches = fmin(slices, (l->n - l->sample) / PLM_SLICE_ROWS);
    double reads = fmax(stretches, bytes / READ_BYTES + bytes / PAGE_BYTES / 2) + l->files;

    add_read(e, reads, bytes);
    if (l->p->memory.sample_bytes < l->sample * l->p->column.dim * sizeof(float))
        add_spilled(l, reads, e);
    add_write(e, 1, l->model);
}

static void add_encode(const struct local *l, struct plm_estimate *e)
{
    double bytes = l->column * l->left, tasks = (double)l->p->n_tasks;
    double run = l->n * (l->p->memory.gather_bytes > 0 ? 12 : l->code);

    add_read(e, TASK_READS * tasks, 0);
    if (l->left > 0)
        add_read(e, bytes / ((double)l->p->memory.batch_rows * l->row) + bytes / PAGE_BYTES + tasks, bytes);
    add_write(e, tasks * ceil(run / tasks / WRITE_BYTES), run);
}

/* Groups of blocks that are put together one after another (merge_groups.c). */
static double groups_of(const struct plm_plan *p, const struct plm_layout *l, double code)
{
    double block = (double)l->rows_per_block * code, blocks = (double)l->n_blocks;
    double room = (double)(p->memory.gather_bytes ? p->memory.gather_bytes : p->memory.merge_bytes);
    double step = ceil(blocks / ceil(blocks / fmax(1, floor(room / block))));

    return ceil(blocks / (step > 1 ? fmax(1, floor(room / block / 2)) : 1));
}

static void add_merge(const struct local *l, struct plm_estimate *e)
{
    const struct plm_plan *p = l->p;
    struct plm_layout layout = plm_layout_of(p->n_live, plm_plan_code_bytes(p));
    double groups = groups_of(p, &layout, l->code), tasks = (double)p->n_tasks, bytes = l->column * l->left;
    bool again = p->memory.gather_bytes > 0;

    add_write(e, (double)layout.n_blocks, l->n * l->code + l->model);
    add_read(e, tasks * (RUN_READS + RUN_READS * groups), l->n * (again ? 12 : l->code));
    if (!again || l->left <= 0)
        return;
    double q = 1 / groups, gap = floor(GATHER_GAP / l->row), apart = pow(1 - q, gap + 1);
    double seen = 1 - apart * (1 + gap * q); /* rows read, in each pass */
    add_read(e, groups * (l->n * l->left * q * apart + seen * bytes / GATHER_SPAN), groups * seen * bytes);
}

static void add_verify(const struct local *l, struct plm_estimate *e)
{
    const struct plm_plan *p = l->p;
    struct plm_layout layout = plm_layout_of(p->n_live, plm_plan_code_bytes(p));
    double codes = l->n * l->code, k = p->num_partitions, dim = p->column.dim;
    double rows = fmin(l->n, fmin(LOOK_ROWS_MAX, fmax(LOOK_ROWS_MIN, LOOK_WORK / (k * dim))));
    double apart = LOOK_GAP * rows / codes, alone = rows * exp(-apart), seen = 1 - exp(-apart) * (1 + apart);

    add_read(e, CHECK_READS + (double)layout.n_blocks * ID_PASSES, l->n * 8 + MODEL_READS * l->model);
    if (p->checks_all)
        add_read(e, l->column / READ_BYTES + l->column / PAGE_BYTES + codes / SCAN_BYTES, l->column + codes);
    if (p->quantizer == PLM_FLAT) /* distances are exact: neighbours are looked for by row id */
        add_read(e, 0, l->n * 8);
    else
        add_read(e, SCANS * codes / SCAN_BYTES, codes);
    if (p->quantizer == PLM_PQ) /* codes are transposed: partitions whole */
        add_read(e, 0, codes);
    else if (!p->checks_all)
        add_read(e, alone, seen * codes);
}

void plm_estimate_local(const struct plm_source *source, const struct plm_plan *p, double axes, bool verifies,
                        struct plm_estimate *e)
{
    double dim = p->column.dim, codewords = p->quantizer == PLM_PQ ? (double)(1u << p->num_bits) : 0;
    struct local l = {
        .p = p, .n = (double)p->n_live, .row = dim * (double)plm_element_bytes(p->column.element),
        .code = plm_plan_code_bytes(p) + 8.0, .column = (double)p->column_bytes, .files = (double)source->n_fragments,
        .sample = (double)p->sample_rows, .share = (double)p->sample_rows / (double)p->n_live,
        .axes = axes, .model = (p->num_partitions + codewords) * dim * sizeof(float),
    };

    l.left = p->memory.keeps_sample ? 1 - l.share : 1;
    e->list = 4;
    add_read(e, 6 + l.files, (double)source->manifest->raw.len);
    add_write(e, 5 + 2 * (double)p->n_segments, PLM_PROBE_QUERIES * dim * sizeof(float));
    add_train(&l, e);
    add_encode(&l, e);
    add_merge(&l, e);
    if (verifies)
        add_verify(&l, e);
}
