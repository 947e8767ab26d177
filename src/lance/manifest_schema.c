/* manifest_schema.c - what a table needs of its readers: flags, file versions, fields. */
#include "lance/manifest_impl.h"

#include <strings.h>

enum plm_code plm_flags_check(uint64_t flags, const char *kind, struct plm_err *err)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } names[] = {{64, "data overlay files"},
                 {128, "covering columns in indexes"},
                 {512, "fragment-reuse index with stable row ids"},
                 {1024, "tagged fragment-reuse index"}};
    uint64_t unknown = flags & ~(uint64_t)PLM_FLAGS_KNOWN;
    uint64_t bit = unknown & (~unknown + 1);

    if (!unknown)
        return PLM_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].bit == bit)
            return plm_fail(err, PLM_UNSUPPORTED, "%s feature flag %" PRIu64 " (%s) is not supported",
                            kind, bit, names[i].name);
    }
    return plm_fail(err, PLM_UNSUPPORTED,
                    "%s feature flag %" PRIu64 " is not known; the table was written by a newer Lance",
                    kind, bit);
}

void plm_settle_file_version(uint32_t *major, uint32_t *minor)
{
    if (*major == 0 && *minor == 3) {
        *major = 2;
        *minor = 0;
    }
}

enum plm_code plm_file_version_check(uint32_t major, uint32_t minor, struct plm_err *err)
{
    if (major == 2 && minor <= 2)
        return PLM_OK;
    return plm_fail(err, PLM_UNSUPPORTED,
                    "data file version %" PRIu32 ".%" PRIu32
                    " is not supported%s (2.0, 2.1 and 2.2 are; from Python, pilum has pylance read others)",
                    major, minor, major < 2 ? ": the legacy format" : "");
}

enum plm_code plm_parse_storage_format(struct plm_parse *p, struct plm_view message,
                                       struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    char *format = NULL, *version = NULL, end;
    uint32_t major, minor;

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_text(p->m, &field, &format, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_text(p->m, &field, &version, err));
    }
    PLM_TRY(rc);
    if (format && *format && strcmp(format, "lance") != 0)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "data file format '%.40s' is not supported", format));
    if (!version || sscanf(version, "%4" SCNu32 ".%4" SCNu32 "%c", &major, &minor, &end) != 2)
        PLM_TRY(plm_fail(err, PLM_UNSUPPORTED, "data file version '%.40s' is not supported",
                         version ? version : ""));
    plm_settle_file_version(&major, &minor);
    p->m->file_major = major;
    p->m->file_minor = minor;
    p->has_storage_format = true;
done:
    return rc;
}

/* {key, value}: is it the mark of a struct that is stored as one column? */
static enum plm_code read_field_metadata(struct plm_view message, bool *is_packed,
                                         struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view key = {0}, value = {0};

    PLM_PB_EACH(message) {
        if (field.number == 1)
            PLM_TRY(plm_pb_get_view(&field, &key, err));
        else if (field.number == 2)
            PLM_TRY(plm_pb_get_view(&field, &value, err));
    }
    PLM_TRY(rc);
    bool is_key = (key.len == 6 && memcmp(key.data, "packed", 6) == 0) ||
                  (key.len == 21 && memcmp(key.data, "lance-encoding:packed", 21) == 0);
    if (is_key && value.len == 4 && strncasecmp((const char *)value.data, "true", 4) == 0)
        *is_packed = true;
done:
    return rc;
}

enum plm_code plm_parse_field(struct plm_parse *p, struct plm_view message, struct plm_field *out,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_view entry;

    PLM_PB_EACH(message) {
        switch (field.number) {
        case 2: PLM_TRY(plm_pb_get_text(p->m, &field, &out->name, err)); break;
        case 3: PLM_TRY(plm_pb_get_i32(&field, &out->id, err)); break;
        case 4: PLM_TRY(plm_pb_get_i32(&field, &out->parent_id, err)); break;
        case 5: PLM_TRY(plm_pb_get_text(p->m, &field, &out->logical_type, err)); break;
        case 6: PLM_TRY(plm_pb_get_bool(&field, &out->nullable, err)); break;
        case 10:
            PLM_TRY(plm_pb_get_view(&field, &entry, err));
            PLM_TRY(read_field_metadata(entry, &out->is_packed, err));
            break;
        default: break;
        }
    }
    PLM_TRY(rc);
    if (!out->name || !out->logical_type)
        PLM_TRY(plm_fail(err, PLM_CORRUPT, "field %" PRId32 " has no %s", out->id,
                         out->name ? "type" : "name"));
done:
    return rc;
}
