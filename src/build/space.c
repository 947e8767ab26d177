/* space.c - is there room on the disks for what a build writes? Asked before any work. */
#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "build/plan_parts.h"
#include "cluster/train.h"

#define LITTLE_BYTES ((uint64_t)1 << 20) /* plan, report */

/* The device of a directory and its free bytes. A directory that is not there yet: of the one above. */
static bool look(const char *dir, dev_t *device, uint64_t *free_bytes)
{
    char path[4096];
    struct statvfs fs;
    struct stat st;

    if (strlen(dir) >= sizeof path)
        return false;
    strcpy(path, dir);
    while (stat(path, &st) != 0) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || !slash || slash == path)
            return false;
        *slash = 0;
    }
    if (statvfs(path, &fs) != 0 || fs.f_blocks == 0)
        return false;
    *device = st.st_dev;
    *free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

/* Rows that a FLAT build reads again are 4 bytes in its runs. The sample is gone before runs come. */
static uint64_t work_bytes(const struct plm_plan *p)
{
    uint64_t code = p->memory.gather_bytes ? sizeof(uint32_t) : plm_plan_code_bytes(p);
    uint64_t runs = p->n_live * (code + sizeof(uint64_t)) + p->n_tasks * (uint64_t)p->num_partitions * 4;
    uint64_t sample = p->sample_rows * p->column.dim * sizeof(float);
    uint64_t spilled = sample > p->memory.sample_bytes ? sample : 0;

    if (p->memory.spills_projected)
        spilled += plm_train_aside_bytes((size_t)p->sample_rows, p->column.dim);
    uint64_t model = 2 * (uint64_t)p->num_partitions * p->column.dim * sizeof(float); /* and a checkpoint */
    return plm_max_u64(runs, spilled) + model + LITTLE_BYTES;
}

static uint64_t index_bytes(const struct plm_plan *p)
{
    uint64_t model = (uint64_t)p->num_partitions * (p->column.dim * (uint64_t)plm_element_bytes(p->column.element) + 64);
    return p->n_live * (plm_plan_code_bytes(p) + sizeof(uint64_t)) + p->n_segments * (model + LITTLE_BYTES);
}

static enum plm_code refuse(const char *dir, uint64_t needed, uint64_t free_bytes, const char *what,
                            struct plm_err *err)
{
    return plm_fail(err, PLM_IO, "%s: %s needs %" PRIu64 " bytes of disk, %" PRIu64 " are free", dir, what, needed,
                    free_bytes);
}

enum plm_code plm_plan_check_space(const struct plm_plan *p, const struct plm_store *work,
                                   const struct plm_store *root, struct plm_err *err)
{
    uint64_t spilled = plm_store_is_local(work) ? work_bytes(p) : 0, free_there = 0, free_here = 0;
    uint64_t index = plm_store_is_local(root) ? index_bytes(p) : 0;
    dev_t here = 0, there = 0;
    bool knows_work = spilled && look(plm_store_uri(work), &here, &free_here);
    bool knows_root = index && look(plm_store_uri(root), &there, &free_there);

    if (knows_work && knows_root && here == there && spilled + index > free_here)
        return refuse(plm_store_uri(work), spilled + index, free_here, "the build, with the index,", err);
    if (knows_work && spilled > free_here)
        return refuse(plm_store_uri(work), spilled, free_here, "unfinished work (--work-dir)", err);
    if (knows_root && index > free_there)
        return refuse(plm_store_uri(root), index, free_there, "the index", err);
    return PLM_OK;
}
