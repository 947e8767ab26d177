/* commit.h - put new index segments into a table: transaction, manifest, rebase.
 *
 * Owns     nothing kept; borrows the manifest it was built from.
 * Errors   PLM_CONFLICT says what was committed in between and whether to build again;
 *          PLM_UNSUPPORTED writer flags; PLM_RETRY outcome unknown (never deletes anything).
 * Source   lance-format.md sections 1.4, 1.7, 1.8.
 */
#ifndef PLM_COMMIT_H
#define PLM_COMMIT_H

#include "lance/manifest.h"

/* A segment to be added. */
struct plm_new_segment {
    uint8_t uuid[16];
    const uint32_t *fragments; /* ascending */
    size_t n_fragments;
    uint64_t auxiliary_bytes, index_bytes; /* sizes of the two files, already in _indices/<uuid>/ */
};

struct plm_commit_request {
    const char *index_name;
    int32_t field_id;
    uint64_t read_version;       /* what the index was built from */
    uint8_t transaction_uuid[16];/* chosen by the plan: recognises our own commit */
    uint64_t created_at_ms;
    const struct plm_new_segment *segments;
    size_t n_segments;
    struct plm_view details;     /* VectorIndexDetails message */
    const struct plm_manifest *known; /* a version opened as the latest before, or NULL */
    bool replace;                /* false: PLM_CONFLICT if the name is taken */
};

/* Where a rebase stands. */
enum plm_commit_outcome { PLM_COMMIT_FREE, PLM_COMMIT_DONE_BEFORE };

/* Could the request be committed on top of the latest version? Reads the versions after
 * read_version. *outcome = DONE_BEFORE when our transaction is already in; *version = that
 * version, else the latest. PLM_CONFLICT when it never could. */
PLM_MUST_CHECK enum plm_code
plm_commit_check(struct plm_store *store, const char *branch,
                 const struct plm_commit_request *request, enum plm_commit_outcome *outcome,
                 uint64_t *version, struct plm_err *err);

/* Commit; *version = the version that holds the index. Checks that the files are present with
 * their sizes, writes the transaction file, puts the manifest if absent and rebases until it is
 * in (bounded). A removed segment set is what the latest version lists under the name. */
PLM_MUST_CHECK enum plm_code
plm_commit_index(struct plm_store *store, const char *branch,
                 const struct plm_commit_request *request, uint64_t *version,
                 struct plm_err *err);

/* VectorIndexDetails for the three types we build. quantizer: 'F', 'S', 'P'. */
PLM_MUST_CHECK enum plm_code
plm_index_details(char quantizer, const char *metric, uint32_t num_bits, uint32_t num_sub_vectors,
                  uint32_t max_iters, uint64_t sample_rate, struct plm_buf *buf,
                  struct plm_err *err);

#endif
