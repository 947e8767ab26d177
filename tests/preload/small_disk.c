/* small_disk.c - preloaded: statvfs() of a path below $SMALL_DISK says that 2 MiB are free, so that a
 * test needs no file system of its own. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

__attribute__((visibility("default"))) int
statvfs(const char *restrict path, struct statvfs *restrict out)
{
    const char *small = getenv("SMALL_DISK");
    int fd = open(path, O_RDONLY | O_CLOEXEC), status;

    if (fd < 0)
        return -1;
    status = fstatvfs(fd, out);
    close(fd);
    if (status == 0 && small && strncmp(path, small, strlen(small)) == 0)
        out->f_bavail = (2u << 20) / out->f_frsize;
    return status;
}
