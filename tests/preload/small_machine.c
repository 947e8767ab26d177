/* small_machine.c - preloaded, so that a test needs neither a file system nor a machine of its own: statvfs() of
 * a path below $SMALL_DISK says that 2 MiB are free, sysconf() that there are $SMALL_MEMORY MiB of memory.
 */
#include <dlfcn.h>
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

__attribute__((visibility("default"))) long sysconf(int name)
{
    const char *small = getenv("SMALL_MEMORY");
    long (*real)(int);

    *(void **)&real = dlsym(RTLD_NEXT, "sysconf");
    if (name == _SC_PHYS_PAGES && small)
        return strtol(small, NULL, 10) * (1 << 20) / real(_SC_PAGE_SIZE);
    return real(name);
}
