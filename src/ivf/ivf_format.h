/* ivf_format.h - private to the room: the messages and JSON inside index files.
 *
 * Owns     parsed messages own their arrays and borrow the bytes they came from.
 * Errors   PLM_CORRUPT (what, seen, expected), PLM_UNSUPPORTED naming the type.
 * Source   lance-format.md 4.1 to 4.3.
 */
#ifndef PLM_IVF_FORMAT_H
#define PLM_IVF_FORMAT_H

#include "ivf/index.h"
#include "lance/wire_get.h"

/* Names in the files. */
#define PLM_COLUMN_ROWID "_rowid"
const char *plm_code_column(enum plm_quantizer q); /* "flat", "__sq_code", "__pq_code" */
/* Type of the code column ("fixed_size_list:uint8:32") and of a column element. */
struct plm_type_name {
    char text[64];
};
struct plm_type_name plm_list_type(enum plm_element element, uint32_t items);

/* A Tensor; data is borrowed. */
struct plm_tensor {
    bool present;
    enum plm_element element;
    uint64_t n_rows, n_columns; /* of a matrix */
    struct plm_view data;       /* n_rows * n_columns elements */
};

/* An IVF message; offsets and lengths are checked by the caller. */
struct plm_ivf_message {
    struct plm_ctx *ctx;
    struct plm_u64s offsets, lengths;
    struct plm_tensor centroids;
    bool has_loss;
    double loss;
};
PLM_MUST_CHECK enum plm_code
plm_ivf_message_parse(struct plm_ctx *ctx, struct plm_view bytes, struct plm_ivf_message *out,
                      struct plm_err *err);
void plm_ivf_message_reset(struct plm_ivf_message *message);
PLM_MUST_CHECK enum plm_code
plm_tensor_parse(struct plm_ctx *ctx, struct plm_view bytes, struct plm_tensor *out,
                 struct plm_err *err);
/* All values as float32 (plm_free). */
PLM_MUST_CHECK enum plm_code
plm_tensor_floats(struct plm_ctx *ctx, const struct plm_tensor *tensor, float **out,
                  struct plm_err *err);

/* `lance:index` of index.idx: type and metric. */
PLM_MUST_CHECK enum plm_code
plm_index_kind_parse(struct plm_view json, enum plm_quantizer *quantizer, enum plm_metric *metric,
                     struct plm_err *err);
/* "l2", "cosine", "dot". */
PLM_MUST_CHECK enum plm_code
plm_metric_parse(const char *name, size_t len, enum plm_metric *out, struct plm_err *err);
/* `lance:flat`: how many strings the array has. */
PLM_MUST_CHECK enum plm_code
plm_sub_index_count(struct plm_view json, size_t *n, struct plm_err *err);

/* `storage_metadata` of auxiliary.idx; fields of other quantizers stay 0. */
struct plm_storage_info {
    uint32_t dim;
    double lo, hi;                             /* SQ */
    uint32_t n_bits, m, codebook_buffer;       /* PQ */
    bool transposed;                           /* PQ */
};
PLM_MUST_CHECK enum plm_code
plm_storage_info_parse(struct plm_view json, enum plm_quantizer quantizer,
                       struct plm_storage_info *out, struct plm_err *err);
/* A decimal number of a global buffer. */
PLM_MUST_CHECK enum plm_code
plm_buffer_number_parse(struct plm_view text, uint32_t *out, struct plm_err *err);

/* n values stored as `element` -> float32. */
void plm_floats_of_element(const struct plm_kernels *kernels, const void *src, size_t n,
                           enum plm_element element, float *dst);

struct plm_column_shape plm_segment_code_shape(const struct plm_segment *segment);

/* Codes of rows [first, first + n) of a partition in the order they are stored: PQ codes of a
 * transposed segment come as [code_bytes][n], all others row-major. spare: n + 2 * code_bytes
 * bytes, needed for transposed segments when the rows are not the whole partition. */
PLM_MUST_CHECK enum plm_code
plm_segment_read_stored(struct plm_segment *segment, uint32_t partition, uint64_t first, size_t n,
                        uint64_t *rowids, uint8_t *codes, uint8_t *spare,
                        struct plm_read_scratch *scratch, struct plm_err *err);

#endif
