/* local_view.c - parts of files as they lie in the page cache, in place of memory.
 *
 * Saves copying them, and the pages for the copy. What is mapped counts as resident, as the copy would.
 */
#include "store/local_impl.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define VIEW_BYTES_MIN ((size_t)64 << 10) /* less is copied as fast as it is mapped */

/* File systems whose pages cannot go away while the file is open: a server's can. */
static bool is_on_own_disk(int fd)
{
    static const long types[] = {0xEF53 /* ext */, 0x58465342 /* xfs */, 0x9123683E /* btrfs */,
                                 0xF2F52010 /* f2fs */, 0x2FC12FC1 /* zfs */, 0x794C7630 /* overlay */,
                                 0x01021994 /* tmpfs */};
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0)
        return false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if ((long)fs.f_type == types[i])
            return true;
    return false;
}

/* Whole pages of the file in place of the memory there, all present. Otherwise the memory is as it
 * was, empty, and *is_view is false; PLM_NOMEM when not even that could be had. */
static enum plm_code map_pages(int fd, const struct plm_range *r, bool *is_view, struct plm_err *err)
{
    int access = PROT_READ | PROT_WRITE;

    *is_view = false;
#ifdef MADV_POPULATE_READ
    if (mmap(r->dst, r->len, access, MAP_PRIVATE | MAP_FIXED, fd, (off_t)r->offset) != MAP_FAILED) {
        plm_local_read_ahead(fd, r->offset, r->len);
        (void)madvise(r->dst, r->len, MADV_RANDOM);
        *is_view = madvise(r->dst, r->len, MADV_POPULATE_READ) == 0; /* an error here, not a signal later */
        (void)madvise(r->dst, r->len, MADV_NORMAL);
    }
#endif
    if (!*is_view && mmap(r->dst, r->len, access, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        return plm_fail_errno(err, errno, "%zu bytes could not be mapped", r->len);
    return PLM_OK;
}

/* Cuts the range: what is before the first page boundary, whole pages, what is behind the last. */
static void cut_pages(const struct plm_range *range, struct plm_range parts[3])
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    size_t before = (size_t)plm_min_u64(range->len, (page - range->offset % page) % page);
    size_t whole = (size_t)((range->len - before) / page * page), after = range->len - before - whole;
    uint8_t *dst = range->dst;

    parts[0] = (struct plm_range){range->offset, before, dst};
    parts[1] = (struct plm_range){range->offset + before, whole, dst + before};
    parts[2] = (struct plm_range){range->offset + before + whole, after, dst + before + whole};
}

enum plm_code plm_local_file_view(struct plm_file *base, const struct plm_range *range,
                                  struct plm_err *err)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct plm_range parts[3];
    bool is_view = false;
    int fd = -1;
    enum plm_code rc;

    if (!base->store->ctx->map_files || range->len < VIEW_BYTES_MIN ||
        range->offset % page != (uint64_t)(uintptr_t)range->dst % page)
        return plm_local_read_ranges(base, range, 1, err);
    PLM_TRY(plm_local_begin_reading(base, &fd, err));
    cut_pages(range, parts);
    rc = plm_check_io_fault(base->store->ctx, err);
    double began = plm_now_seconds();
    if (rc == PLM_OK && is_on_own_disk(fd))
        rc = map_pages(fd, &parts[1], &is_view, err);
    plm_local_note_speed(base->store->ctx, is_view ? parts[1].len : 0, plm_now_seconds() - began);
    plm_local_end_reading(base);
    PLM_TRY(rc);
    if (is_view) {
        plm_local_count(base->store, &base->store->ctx->n_get, 1);
        plm_local_count(base->store, &base->store->ctx->bytes_read, parts[1].len);
    }
    for (size_t i = 0; i < 3; i++)
        if (parts[i].len > 0 && !(i == 1 && is_view))
            PLM_TRY(plm_local_read_ranges(base, &parts[i], 1, err));
done:
    return rc;
}
