/* commit_impl.h - a commit in progress, and the transactions that may stand in its way.
 * For src/lance only.
 *
 * commit.c          the rounds                     transaction.c     Transaction messages
 * commit_look.c     what came since                conflict.c        what they do to our index
 * commit_attempt.c  the next version               manifest_next.c   its manifest
 */
#ifndef PLM_COMMIT_IMPL_H
#define PLM_COMMIT_IMPL_H

#include "lance/commit.h"
#include "lance/manifest_impl.h"

/* ---- transactions ------------------------------------------------------------------ */

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

/* ---- what a transaction does to our index ------------------------------------------ */

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

/* ---- a commit in progress -------------------------------------------------------- */

#define PLM_COMMIT_PATH_BYTES 96u

struct plm_commit {
    struct plm_ctx *ctx;
    struct plm_store *store;
    const char *branch;
    const struct plm_commit_request *request;
    struct plm_manifest latest;
    struct plm_manifest before; /* the version read, once something came after it */
    bool knows_before, has_before;
    struct plm_cover cover;
    uint64_t checked_through;   /* versions up to this one are compatible */
    uint64_t done_version;      /* the version with our transaction; 0 = not in yet */
    bool wrote_txn_file;
    bool asked_for_manifest;    /* a put of the manifest was sent in this round */
    bool is_unknown;            /* one of those puts did not say how it ended */
    char txn_file[64];          /* {read_version}-{uuid}.txn */
};

/* One look at the table as it is now. Afterwards either done_version is set or the commit could
 * follow `latest`. */
PLM_MUST_CHECK enum plm_code
plm_commit_look(struct plm_commit *c, struct plm_err *err);
/* The index files are there and as long as they should be. */
PLM_MUST_CHECK enum plm_code
plm_commit_check_files(struct plm_commit *c, struct plm_err *err);
/* One attempt at latest + 1, with the index list as `latest` has it. */
PLM_MUST_CHECK enum plm_code
plm_commit_attempt(struct plm_commit *c, struct plm_err *err);

/* Bytes of version latest+1: latest with `added` put into and the indexes named index_name taken
 * out of its index list. */
PLM_MUST_CHECK enum plm_code
plm_manifest_next(const struct plm_manifest *latest, const char *index_name,
                  const struct plm_view *added, size_t n_added, struct plm_view transaction,
                  const char *transaction_file, struct plm_buf *buf, struct plm_err *err);

#endif
