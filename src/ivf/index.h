/* index.h - the files of an IVF index: what is in them, written and read.
 *
 * Owns     a model owns its arrays; an open segment owns its files and model.
 * Source   lance-format.md section 4.
 */
#ifndef PLM_INDEX_H
#define PLM_INDEX_H

#include "lance/column.h"
#include "lance/datafile.h"
#include "quant/quant.h"
#include "rows/source.h"

enum plm_quantizer { PLM_FLAT, PLM_SQ, PLM_PQ };
const char *plm_quantizer_type(enum plm_quantizer q); /* "IVF_FLAT", "IVF_SQ", "IVF_PQ" */

/* Everything needed to place and encode a vector. */
struct plm_model {
    struct plm_ctx *ctx;
    enum plm_quantizer quantizer;
    enum plm_metric metric;
    enum plm_element element; /* of the column; centroids and codebook are stored in it */
    uint32_t dim;
    uint32_t k;
    float *centroids;         /* [k][dim]; every value is representable in `element` */
    struct plm_pq pq;
    struct plm_sq sq;
};
void plm_model_reset(struct plm_model *model);
uint32_t plm_model_code_bytes(const struct plm_model *model); /* per row, without the row id */
/* Round values to what `element` can hold (float16: to nearest even). */
void plm_round_to_element(float *values, size_t n, enum plm_element element);

/* ---- file layout: fixed by the number of rows alone --------------------------- */

/* Blocks of equal row counts: a `_rowid` page, then a code page, each at a multiple of 64. */
struct plm_layout {
    uint64_t n_rows, rows_per_block, n_blocks;
    uint32_t code_bytes;
};
struct plm_layout plm_layout_of(uint64_t n_rows, uint32_t code_bytes);
uint64_t plm_layout_block_rows(const struct plm_layout *l, uint64_t block);
uint64_t plm_layout_rowid_at(const struct plm_layout *l, uint64_t block);
uint64_t plm_layout_code_at(const struct plm_layout *l, uint64_t block);
uint64_t plm_layout_end(const struct plm_layout *l); /* of the last block */

/* Tail of auxiliary.idx (everything from plm_layout_end()) and the whole index.idx.
 * lengths [k]: rows of each partition. loss: sum over rows. */
PLM_MUST_CHECK enum plm_code
plm_index_aux_tail(const struct plm_model *model, const struct plm_layout *layout,
                   const uint32_t *lengths, uint32_t file_major, uint32_t file_minor,
                   struct plm_buf *buf, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_index_main(const struct plm_model *model, double loss, uint32_t file_major,
               uint32_t file_minor, struct plm_buf *buf, struct plm_err *err);

/* ---- reading: ours and stock Lance's ------------------------------------------- */

struct plm_segment {
    struct plm_ctx *ctx;
    struct plm_model model;
    double loss;
    bool has_loss;
    bool pq_transposed;
    uint64_t *offsets;   /* [k] first row of each partition */
    uint32_t *lengths;   /* [k] */
    uint64_t n_rows;
    struct plm_datafile *aux;
    uint32_t rowid_column, code_column;
};
/* PLM_UNSUPPORTED names other index types (IVF_RQ, HNSW, ...). */
PLM_MUST_CHECK enum plm_code
plm_segment_open(struct plm_manifest *manifest, const struct plm_index_meta *meta,
                 struct plm_segment *out, struct plm_err *err);
/* Files directly, without an IndexMetadata: dir is below `store`. */
PLM_MUST_CHECK enum plm_code
plm_segment_open_dir(struct plm_store *store, const char *dir, struct plm_segment *out,
                     struct plm_err *err);
/* The same to read most of it, with the sizes of index.idx and auxiliary.idx (0 = ask). */
PLM_MUST_CHECK enum plm_code
plm_segment_open_all(struct plm_store *store, const char *dir, const uint64_t sizes[2],
                     struct plm_segment *out, struct plm_err *err);
void plm_segment_close(struct plm_segment *segment);

/* ---- searching ------------------------------------------------------------------ */

/* The nprobes partitions nearest to a query (already normalized for cosine), nearest first.
 * ids: [min(nprobes, k)]; returns how many. PLM_L2 distance by centroids, or 1 - q.c. */
PLM_MUST_CHECK enum plm_code
plm_probe(struct plm_ctx *ctx, const struct plm_model *model, const float *query, size_t nprobes,
          uint32_t *ids, size_t *n, struct plm_err *err);

/* The k best so far: a bounded heap ordered by (distance, row id). */
struct plm_top {
    size_t k, n;
    float *distances; /* [k] */
    uint64_t *rowids; /* [k] */
};
void plm_top_offer(struct plm_top *top, float distance, uint64_t rowid);
void plm_top_sort(struct plm_top *top); /* nearest first; no more offers after it */

/* The exact distance of two vectors as stock Lance reports it: squared L2, 1 - cos, 1 - q.v.
 * Nothing needs to be normalized; NaN for a zero vector under cosine. */
float plm_exact_distance(const struct plm_kernels *kernels, enum plm_metric metric,
                         const float *query, const float *row, size_t dim);

/* One query against one partition: every row is offered that `allow` (may be NULL) lets pass. */
typedef bool plm_allow_fn(void *arg, uint64_t rowid);
struct plm_scan_scratch {
    struct plm_ctx *ctx;
    struct plm_read_scratch read;
    uint64_t *rowids;
    uint8_t *codes, *query_codes, *spare;
    float *distances, *table, *query, *rows;
    struct {
        size_t rowids, codes, query_codes, spare, distances, table, query, rows;
    } cap; /* bytes each has room for */
};
void plm_scan_scratch_reset(struct plm_scan_scratch *scratch);
PLM_MUST_CHECK enum plm_code
plm_scan_partition(struct plm_segment *segment, uint32_t partition, const float *query,
                   plm_allow_fn *allow, void *arg, struct plm_top *top,
                   struct plm_scan_scratch *scratch, struct plm_err *err);

#endif
