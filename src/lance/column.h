/* column.h - the column of vectors of a table, found by its path.
 *
 * Owns     a column borrows from the manifest it was found in.
 */
#ifndef PLM_COLUMN_H
#define PLM_COLUMN_H

#include "lance/manifest.h"

/* A column of vectors, found by its path ("vec", "s.vec", "`odd.name`"). */
enum plm_element { PLM_F16 = 1, PLM_F32 = 2, PLM_F64 = 3, PLM_U8 = 4 };
static inline size_t plm_element_bytes(enum plm_element e)
{
    return e == PLM_F64 ? 8 : e == PLM_F32 ? 4 : e == PLM_F16 ? 2 : 1;
}
struct plm_column {
    int32_t field_id;
    enum plm_element element; /* F16, F32 or F64 */
    uint32_t dim;
    bool is_packed;           /* inside a packed struct: no file has it as a column of its own */
    int32_t packed_id;        /* field of that struct */
    const char *packed_name;  /* borrowed from the manifest */
};
/* PLM_NOT_FOUND names the columns there are; PLM_DATA for a column that holds no float
 * vectors (text: "column "t" is string, ..."); PLM_UNSUPPORTED for uint8, int8, bfloat16,
 * multivector by name. */
PLM_MUST_CHECK enum plm_code
plm_manifest_find_column(const struct plm_manifest *manifest, const char *path,
                         struct plm_column *out, struct plm_err *err);
/* Default index name of a column path is "<path>_idx"; path of a field id for messages
 * (plm_free). */
PLM_MUST_CHECK enum plm_code
plm_manifest_field_path(const struct plm_manifest *manifest, int32_t field_id, char **out,
                        struct plm_err *err);

#endif
