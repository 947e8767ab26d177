#include "support/table_copy.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef PLM_TEST_SOURCE_DIR
#define PLM_TEST_SOURCE_DIR "."
#endif
#ifndef PLM_TEST_BINARY_DIR
#define PLM_TEST_BINARY_DIR "."
#endif
enum { PATH_BYTES = 4096, OPEN_MAX_DIRS = 16 };

static void give_up(const char *what)
{
    perror(what);
    exit(99);
}

static void copy_file(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char block[8192];
    size_t n;

    if (!in || !out)
        give_up(from);
    while ((n = fread(block, 1, sizeof block, in)) > 0) {
        if (fwrite(block, 1, n, out) != n)
            give_up(to);
    }
    fclose(in);
    if (fclose(out) != 0)
        give_up(to);
}

static void copy_tree(const char *from, const char *to)
{
    DIR *dir = opendir(from);
    struct dirent *entry;

    if (!dir)
        give_up(from);
    while ((entry = readdir(dir)) != NULL) {
        char source[PATH_BYTES], target[PATH_BYTES];
        struct stat st;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
        snprintf(target, sizeof target, "%s/%s", to, entry->d_name);
        if (stat(source, &st) != 0)
            give_up(source);
        if (!S_ISDIR(st.st_mode)) {
            copy_file(source, target);
            continue;
        }
        if (mkdir(target, 0777) != 0)
            give_up(target);
        copy_tree(source, target);
    }
    closedir(dir);
}

char *table_copy(const char *name)
{
    char source[PATH_BYTES], made[] = PLM_TEST_BINARY_DIR "/table-XXXXXX";
    char *path, *absolute;

    path = mkdtemp(made);
    if (!path)
        give_up(made);
    absolute = realpath(path, NULL);
    if (!absolute)
        give_up(made);
    if (name) {
        snprintf(source, sizeof source, "%s/tests/format/good/%s", PLM_TEST_SOURCE_DIR, name);
        copy_tree(source, absolute);
    }
    return absolute;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

void table_remove(char *path)
{
    if (path && nftw(path, remove_one, OPEN_MAX_DIRS, FTW_DEPTH | FTW_PHYS) != 0)
        give_up(path);
    free(path);
}
