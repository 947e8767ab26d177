/* segment_dir.h - where the files of a segment are while a build goes on.
 *
 * Local: assembled in <root>/_pilum/<job>/<uuid>/ and renamed to <root>/_indices/<uuid>/ just
 * before the commit, because stock Lance's cleanup may remove index directories that no version
 * names. S3 has no rename: they are written in place.
 */
#ifndef PLM_SEGMENT_DIR_H
#define PLM_SEGMENT_DIR_H

#include "build/build.h"

/* Both are paths below job->root; plm_free(). */
PLM_MUST_CHECK enum plm_code
plm_segment_made_dir(struct plm_job *job, size_t segment, char **out, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_segment_final_dir(struct plm_job *job, size_t segment, char **out, struct plm_err *err);
/* The one of the two that holds auxiliary.idx now. PLM_NOT_FOUND: neither. */
PLM_MUST_CHECK enum plm_code
plm_segment_current_dir(struct plm_job *job, size_t segment, char **out, struct plm_err *err);
/* The same for a segment that has been merged, with the sizes of its files: on remote storage without a
 * request when this process wrote it, else with one. Keeps them in job->sizes. */
PLM_MUST_CHECK enum plm_code
plm_segment_merged_dir(struct plm_job *job, size_t segment, char **out, struct plm_err *err);
/* Notes the sizes of a segment just written: of index.idx, or of auxiliary.idx. */
PLM_MUST_CHECK enum plm_code
plm_segment_note_size(struct plm_job *job, size_t segment, bool is_aux, uint64_t size_bytes,
                      struct plm_err *err);

/* Aborts the uploads that an earlier, killed process of this job left; only where no other can be at work
 * on it. Nothing for a job begun here and now. */
PLM_MUST_CHECK enum plm_code
plm_segment_clear_uploads(struct plm_job *job, size_t segment, struct plm_err *err);

#define PLM_AUX_FILE "auxiliary.idx"
#define PLM_INDEX_FILE "index.idx"

#endif
