/* limits.c - how much memory this process may have, and how much it has. */
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/core.h"

#define LINE_BYTES 4096

/* ---- cgroups ------------------------------------------------------------------------ */

/* A number alone in a file; UINT64_MAX for "max", for none and for no file. */
static uint64_t read_limit(const char *path)
{
    char text[64];
    FILE *f = fopen(path, "re");
    uint64_t value = UINT64_MAX;

    if (!f)
        return value;
    if (fgets(text, sizeof text, f) && text[0] >= '0' && text[0] <= '9')
        value = strtoull(text, NULL, 10);
    fclose(f);
    return value > 0 ? value : UINT64_MAX;
}

/* The least limit of a group and those above it. In a container the group's path may be the host's:
 * then only the mount's root is there. */
static uint64_t least_of_group(const char *mount, const char *group, const char *name)
{
    char path[2 * LINE_BYTES], dir[LINE_BYTES];
    uint64_t least = UINT64_MAX;

    snprintf(dir, sizeof dir, "%s", strcmp(group, "/") == 0 ? "" : group);
    for (;;) {
        char *slash = strrchr(dir, '/');

        snprintf(path, sizeof path, "%s%s/%s", mount, dir, name);
        least = plm_min_u64(least, read_limit(path));
        if (!slash)
            return least;
        *slash = 0;
    }
}

static bool has_controller(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = list; (at = strstr(at, name)) != NULL; at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == 0))
            return true;
    return false;
}

/* "ID:CONTROLLERS:PATH": ID 0 is v2. */
static uint64_t limit_of_line(const char *root, char *line)
{
    char mount[LINE_BYTES], *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;

    if (!group)
        return UINT64_MAX;
    *list++ = *group++ = 0;
    group[strcspn(group, "\n")] = 0;
    if (strcmp(line, "0") == 0) {
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
        return plm_min_u64(least_of_group(mount, group, "memory.max"),
                           least_of_group(mount, group, "memory.high"));
    }
    if (!has_controller(list, "memory"))
        return UINT64_MAX;
    snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/memory", root);
    return least_of_group(mount, group, "memory.limit_in_bytes");
}

uint64_t plm_memory_limit(const char *root)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
    uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : (uint64_t)2 << 30;
    char line[LINE_BYTES];

    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *f = fopen(line, "re");
    while (f && fgets(line, sizeof line, f))
        bytes = plm_min_u64(bytes, limit_of_line(root, line));
    if (f)
        fclose(f);
    return bytes;
}

/* ---- residence ---------------------------------------------------------------------- */

/* "VmRSS:   1234 kB" */
static uint64_t read_status(const char *name)
{
    char line[256];
    size_t n = strlen(name);
    uint64_t kib = 0;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0 && line[n] == ':')
            kib = strtoull(line + n + 1, NULL, 10);
    if (f)
        fclose(f);
    return kib * 1024;
}

uint64_t plm_resident_bytes(void) { return read_status("VmRSS"); }

/* ru_maxrss counts what this process was forked from, too: only where there is no better. */
uint64_t plm_resident_peak_bytes(void)
{
    uint64_t peak = read_status("VmHWM");
    struct rusage usage;

    return peak || getrusage(RUSAGE_SELF, &usage) != 0 ? peak : (uint64_t)usage.ru_maxrss * 1024;
}
