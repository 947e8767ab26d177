/* datafile_impl.h - an open data file, as the files that read it see it.
 *
 * file_footer.c      the end of the file           page_read.c    rows of checked pages
 * file_descriptor.c  its own schema                miniblock.c    rows of MiniBlock pages
 * page_list.c        the pages of a column         page_expect.c  what is read soon
 * page_scratch.c     memory of reads
 *
 * Threads  only plm_datafile_check_column() changes an open file; the rest may run side by side.
 */
#ifndef PLM_DATAFILE_IMPL_H
#define PLM_DATAFILE_IMPL_H

#include "lance/page.h"

struct plm_file_field {
    struct plm_view name, logical_type; /* into `descriptor`, NUL behind */
    int32_t id, parent_id;
    uint32_t column;
    bool has_column;
};

struct plm_file_entry {
    struct plm_view key, value; /* into `descriptor` */
};

struct plm_datafile {
    struct plm_ctx *ctx;
    struct plm_file *file;
    uint64_t serial; /* tells files apart in scratch that outlives them */
    uint64_t size_bytes;
    uint32_t major, minor;
    uint64_t column_table_at, buffer_table_at;
    uint32_t n_columns, n_buffers;
    uint64_t n_rows;
    uint8_t *tail; /* the last bytes of the file, until the first column is checked */
    uint64_t tail_at;
    uint8_t *descriptor; /* the FileDescriptor; names in it are cut off with a NUL */
    struct plm_file_field *fields;
    size_t n_fields;
    struct plm_file_entry *metadata;
    size_t n_metadata;
    struct plm_pages *checked; /* one per checked column */
    size_t n_checked;
};

/* ---- opening -------------------------------------------------------------------- */

/* Reads the end of the file and what its footer says; checks the version and that both tables lie
 * inside. *meta_at is where the metadata of the columns begins. */
PLM_MUST_CHECK enum plm_code
plm_footer_read(struct plm_datafile *file, uint64_t *meta_at, struct plm_err *err);
/* Where entry `number` of a table points to, inside the file. `what` names it in messages. */
PLM_MUST_CHECK enum plm_code
plm_footer_entry(struct plm_datafile *file, uint64_t table_at, uint32_t number, const char *what,
                 struct plm_span *out, struct plm_err *err);
/* `len` bytes at a checked place, from the copied end when it has all of them. */
PLM_MUST_CHECK enum plm_code
plm_footer_meta(struct plm_datafile *file, uint64_t offset, size_t len, void *dst,
                struct plm_err *err);
/* Keeps only the metadata of the copied end: pages that happened to be in it can go. */
PLM_MUST_CHECK enum plm_code
plm_footer_trim(struct plm_datafile *file, uint64_t meta_at, struct plm_err *err);
/* Global buffer 0: fields, their columns, metadata, number of rows. */
PLM_MUST_CHECK enum plm_code
plm_descriptor_read(struct plm_datafile *file, struct plm_err *err);

/* ---- reading -------------------------------------------------------------------- */

/* The pages of a checked column, NULL if it has not been checked with this shape. */
const struct plm_pages *plm_datafile_pages(const struct plm_datafile *file, uint32_t column,
                                           const struct plm_column_shape *shape);

/* Ranges on their way: each at most PLM_READ_BYTES, handed to the store several at a time. */
#define PLM_QUEUE_RANGES 16
struct plm_queue {
    struct plm_range items[PLM_QUEUE_RANGES];
    size_t n;
};
/* dst is filled at the latest by the flush. The bytes must lie inside the file. */
PLM_MUST_CHECK enum plm_code
plm_queue_add(struct plm_datafile *file, struct plm_queue *queue, uint64_t offset, size_t len,
              void *dst, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_queue_flush(struct plm_datafile *file, struct plm_queue *queue, struct plm_err *err);

/* At least n bytes at scratch->bytes; what was there is lost. */
PLM_MUST_CHECK enum plm_code
plm_scratch_room(struct plm_read_scratch *scratch, size_t n, struct plm_err *err);

/* Rows [first, first + n) of a MiniBlock page; `nulls` as in plm_datafile_read(). */
PLM_MUST_CHECK enum plm_code
plm_chunks_read(struct plm_datafile *file, const struct plm_page *page,
                const struct plm_column_shape *shape, uint64_t first, size_t n, uint8_t *values,
                uint8_t *nulls, struct plm_read_scratch *scratch, struct plm_err *err);
size_t plm_chunks_state_bytes(void); /* of scratch->state, tables and chunks aside */
void plm_chunks_state_free(struct plm_ctx *ctx, void *state);

#endif
