/* commit_impl.h - transactions, and what they do to an index being committed.
 * For src/lance only.
 */
#ifndef PLM_COMMIT_IMPL_H
#define PLM_COMMIT_IMPL_H

#include "lance/commit.h"
#include "lance/manifest_impl.h"

/* What made a version: the Transaction message. */
struct plm_txn {
    uint64_t read_version;
    char uuid[37];
    uint32_t operation;   /* field number of the oneof; 0 = none, or more than one */
    struct plm_view body; /* the operation's message */
    struct plm_buf file;  /* owns the bytes when they came from a file of their own */
};

/* The message; `out` borrows it. */
PLM_MUST_CHECK enum plm_code
plm_txn_parse(struct plm_view message, struct plm_txn *out, struct plm_err *err);
/* The transaction of the version whose manifest file is `manifest`: the inline copy, else the
 * file in _transactions/. PLM_NOT_FOUND when there is neither. `out` borrows `manifest`. */
PLM_MUST_CHECK enum plm_code
plm_txn_of_manifest(struct plm_store *store, struct plm_view manifest, struct plm_txn *out,
                    struct plm_err *err);
void plm_txn_reset(struct plm_txn *txn);
/* The Transaction message of our commit; the index messages are made already. */
PLM_MUST_CHECK enum plm_code
plm_txn_write(const struct plm_commit_request *request, const struct plm_view *added,
              size_t n_added, const struct plm_view *removed, size_t n_removed,
              struct plm_buf *buf, struct plm_err *err);

/* The fragments of all our segments, ascending; `is_rewritten` once the vectors we indexed
 * are no longer the ones there. */
struct plm_cover {
    struct plm_ctx *ctx;
    uint32_t *ids;
    bool *is_rewritten;
    size_t n;
};
/* PLM_ARG unless the segments' lists are ascending and disjoint. */
PLM_MUST_CHECK enum plm_code
plm_cover_init(struct plm_ctx *ctx, const struct plm_commit_request *request,
               struct plm_cover *out, struct plm_err *err);
void plm_cover_reset(struct plm_cover *cover);
/* Index in ids, or SIZE_MAX. */
size_t plm_cover_find(const struct plm_cover *cover, uint64_t fragment_id);
/* Marks fragments whose file for the field differs between the two versions. */
PLM_MUST_CHECK enum plm_code
plm_cover_compare(struct plm_cover *cover, const struct plm_manifest *before,
                  const struct plm_manifest *after, int32_t field_id, struct plm_err *err);

/* Can our commit follow `txn`, which made `version`? PLM_CONFLICT says why not. Marks what
 * it rewrote in place. has_fragment_reuse: the table has such an index (for the message). */
PLM_MUST_CHECK enum plm_code
plm_conflict_check(const struct plm_commit_request *request, struct plm_cover *cover,
                   const struct plm_txn *txn, uint64_t version, bool has_fragment_reuse,
                   struct plm_err *err);

/* Bytes of version latest+1: latest with `added` put into and the indexes named index_name taken
 * out of its index list. */
PLM_MUST_CHECK enum plm_code
plm_manifest_next(const struct plm_manifest *latest, const char *index_name,
                  const struct plm_view *added, size_t n_added, struct plm_view transaction,
                  const char *transaction_file, struct plm_buf *buf, struct plm_err *err);

#endif
