/* s3_profile.c - small files: whole, and the INI dialect of AWS profiles. */
#ifdef PLM_WITH_S3

#include "store/s3_creds.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum plm_code plm_s3_read_file(const char *path, struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return plm_fail_errno(err, errno, "%s", path);
    /* Room from the start: growing would leave a copy of a secret behind. */
    PLM_TRY(plm_buf_reserve(buf, plm_min_size(buf->max_bytes - buf->len, (size_t)64 << 10), err));
    for (;;) {
        ssize_t n;

        PLM_TRY(plm_buf_reserve(buf, 4096, err));
        n = read(fd, buf->data + buf->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            PLM_TRY(plm_fail_errno(err, errno, "%s", path));
        if (n == 0)
            break;
        buf->len += (size_t)n;
    }
done:
    close(fd);
    return rc;
}

static struct plm_view trim(const char *from, const char *to)
{
    while (from < to && (*from == ' ' || *from == '\t' || *from == '\r'))
        from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t' || to[-1] == '\r'))
        to--;
    return (struct plm_view){(const uint8_t *)from, (size_t)(to - from)};
}

static bool view_is(struct plm_view view, const char *text)
{
    return view.len == strlen(text) && memcmp(view.data, text, view.len) == 0;
}

/* "[name]" or "[profile name]". */
static bool is_section(struct plm_view line, const char *profile)
{
    struct plm_view name;
    static const char word[] = "profile";
    size_t n = sizeof word - 1;

    if (line.len < 2 || line.data[line.len - 1] != ']')
        return false;
    name = trim((const char *)line.data + 1, (const char *)line.data + line.len - 1);
    if (view_is(name, profile))
        return true;
    return name.len > n && memcmp(name.data, word, n) == 0 &&
           (name.data[n] == ' ' || name.data[n] == '\t') &&
           view_is(trim((const char *)name.data + n, (const char *)name.data + name.len), profile);
}

/* Indented lines belong to a nested setting (s3 = ...) and are passed over. */
bool plm_s3_profile_value(const char *text, size_t n, const char *profile, const char *key,
                          struct plm_view *value)
{
    const char *end = text + n, *line = text;
    bool inside = false;

    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        const char *equals;
        struct plm_view all;

        stop = stop ? stop : end;
        all = trim(line, stop);
        equals = all.len ? memchr(all.data, '=', all.len) : NULL;
        if (all.len > 0 && all.data[0] == '[')
            inside = is_section(all, profile);
        else if (inside && equals && *line != ' ' && *line != '\t' && *line != '#' && *line != ';' &&
                 view_is(trim((const char *)all.data, equals), key)) {
            *value = trim(equals + 1, (const char *)all.data + all.len);
            return true;
        }
        line = stop + 1;
    }
    return false;
}

#endif
