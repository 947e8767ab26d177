/* datafile.h - Lance files 2.0, 2.1, 2.2: read fixed-width columns, write index files.
 *
 * Owns     an open file owns its page tables, borrows the store.
 * Memory   metadata is bounded by the file's size; reading needs scratch for one read range
 *          (at most PLM_READ_BYTES) plus, for MiniBlock pages, one chunk.
 * Threads  after opening, reads of one file from several threads are fine.
 * Errors   PLM_CORRUPT (file, offset, seen, expected), PLM_UNSUPPORTED (file version 2.3,
 *          unknown layouts: named), and the store's.
 */
#ifndef PLM_DATAFILE_H
#define PLM_DATAFILE_H

#include "core/core.h"
#include "lance/manifest.h"
#include "store/store.h"

#define PLM_READ_BYTES ((size_t)8 << 20)

struct plm_datafile;

PLM_MUST_CHECK enum plm_code
plm_datafile_open(struct plm_store *store, const char *path, uint64_t size_bytes,
                  struct plm_datafile **out, struct plm_err *err);
/* The same for a file of which most will be read: a remote store fetches it in long requests. */
PLM_MUST_CHECK enum plm_code
plm_datafile_open_all(struct plm_store *store, const char *path, uint64_t size_bytes,
                      struct plm_datafile **out, struct plm_err *err);
void plm_datafile_close(struct plm_datafile *file);

uint32_t plm_datafile_n_columns(const struct plm_datafile *file);
uint64_t plm_datafile_n_rows(const struct plm_datafile *file);   /* of the descriptor */
/* (2,0), (2,1), (2,2): a footer of (0,3) reads as (2,0). */
void plm_datafile_version(const struct plm_datafile *file, uint32_t *major, uint32_t *minor);
/* Column number of a top-level field by name in the file's own schema; -1 = none. Its logical
 * type in *logical_type (borrowed, may be NULL). */
int32_t plm_datafile_find(const struct plm_datafile *file, const char *name,
                          const char **logical_type);
/* A value of the file's schema metadata (borrowed); len 0 and data NULL when missing. */
struct plm_view plm_datafile_metadata(const struct plm_datafile *file, const char *key);
uint32_t plm_datafile_n_buffers(const struct plm_datafile *file);
/* Global buffer `number` into buf (ceiling = limit). */
PLM_MUST_CHECK enum plm_code
plm_datafile_buffer(struct plm_datafile *file, uint32_t number, struct plm_buf *buf,
                    struct plm_err *err);

/* What a column must look like to be read: `items` values of `bits` bits per row (dim x
 * 8 * element bytes for vectors; items 1 and is_list false for scalars such as _rowid). */
struct plm_column_shape {
    uint32_t items;
    uint32_t bits;
    bool is_list; /* FixedSizeList */
};
/* Checks the column against the shape: every page's layout, sizes and row counts. (The chunk
 * tables of MiniBlock pages are looked at when they are first read.) Not while others read.
 * *n_rows = sum of its pages. *bytes_stored = bytes of its value buffers (for plans). */
PLM_MUST_CHECK enum plm_code
plm_datafile_check_column(struct plm_datafile *file, uint32_t column,
                          const struct plm_column_shape *shape, uint64_t *n_rows,
                          uint64_t *bytes_stored, struct plm_err *err);

/* Scratch of one reading thread; {0} is empty. */
struct plm_read_scratch {
    struct plm_ctx *ctx;
    uint8_t *bytes;
    size_t cap;
    bool in_region; /* `values` lie in a region (mem.h): those of a plain array may become views */
    void *state; /* last chunk decoded, so that sequential reads decode each chunk once */
};
void plm_read_scratch_reset(struct plm_read_scratch *scratch);
/* What scratch grows to, reading n rows at a time: more than nothing where pages are not plain arrays. */
struct plm_read_needs {
    uint64_t row_bytes, fixed_bytes;
};
uint64_t plm_read_scratch_bytes(const struct plm_read_needs *needs, uint64_t n_rows);
/* Raises them to those of a checked column. */
void plm_datafile_needs(const struct plm_datafile *file, uint32_t column, const struct plm_column_shape *shape,
                        struct plm_read_needs *needs);

/* Rows [first, first + n) of a checked column (PLM_BUG otherwise). values: n * items * bits/8
 * bytes, densely packed (64-byte aligned by the caller for speed, not needed). nulls: one byte a
 * row, nonzero = the row is null or has a null element; may be NULL only if the caller knows there
 * are none (then a null is PLM_CORRUPT). Values under a null are unspecified but initialised.
 * Reads in ranges of up to PLM_READ_BYTES, straight into `values` where a page is a plain array. */
PLM_MUST_CHECK enum plm_code
plm_datafile_read(struct plm_datafile *file, uint32_t column, const struct plm_column_shape *shape,
                  uint64_t first, size_t n, void *values, uint8_t *nulls,
                  struct plm_read_scratch *scratch, struct plm_err *err);

/* Are the rows of a checked column plain arrays that begin at pages of memory? Then they may be views. */
bool plm_datafile_is_aligned(const struct plm_datafile *file, uint32_t column,
                             const struct plm_column_shape *shape);

/* Rows of a checked column that are read soon (NULL = all of it), as plm_file_expect(). */
struct plm_row_range {
    uint64_t first, n;
};
void plm_datafile_expect(struct plm_datafile *file, uint32_t column,
                         const struct plm_column_shape *shape, const struct plm_row_range *rows,
                         size_t n);

/* The same of one range, as plm_file_ahead(). */
void plm_datafile_ahead(struct plm_datafile *file, uint32_t column, const struct plm_column_shape *shape,
                        struct plm_row_range rows);

/* ---- writing index files ------------------------------------------------------ */

/* The column pages are written by the build itself (build/merge.c): plain FullZip arrays at
 * known offsets. This makes everything behind them: global buffers, metadata, tables, footer. */
struct plm_page_plan {
    uint64_t offset, size_bytes, n_rows;
};
struct plm_column_plan {
    const char *name, *logical_type; /* "_rowid" "uint64"; "flat" "fixed_size_list:float:64" */
    bool nullable;
    struct plm_column_shape shape;
    const struct plm_page_plan *pages;
    size_t n_pages;
};
struct plm_file_plan {
    uint32_t major, minor;               /* 2.0 (footer 0,3), 2.1 or 2.2 */
    const struct plm_column_plan *columns;
    size_t n_columns;
    uint64_t n_rows;
    const struct plm_view *buffers;      /* global buffers 1..n (0 is the descriptor) */
    size_t n_buffers;
    const char *const *metadata;         /* schema metadata: key, value, ..., NULL */
};
/* Appends the tail of a file whose pages end at `tail_at` (the tail starts at the next multiple
 * of 64; the padding is part of the output). Pages of a 2.0 file are described as
 * ArrayEncoding, of 2.1/2.2 as FullZip. buf then holds the bytes from tail_at to the end of file. */
PLM_MUST_CHECK enum plm_code
plm_file_tail(const struct plm_file_plan *plan, uint64_t tail_at, struct plm_buf *buf,
              struct plm_err *err);

#endif
