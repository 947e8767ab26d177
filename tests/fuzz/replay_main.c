/* replay_main.c - runs a fuzz harness over files and folders without a fuzzer, so that the
 * corpus is checked in every build. It also feeds each input cut at several lengths and
 * with single bytes changed: cheap mutations that find most missing bounds checks. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_BYTES_MAX = 8 << 20, CUTS = 64, FLIPS = 256 };

static size_t n_inputs;

/* A block of exactly `size` bytes, so that a sanitizer sees the first byte past it. */
static void run_copy(const uint8_t *data, size_t size, size_t flip_at, uint8_t flip)
{
    uint8_t *copy = malloc(size ? size : 1);

    if (!copy)
        abort();
    if (size)
        memcpy(copy, data, size);
    if (flip_at < size)
        copy[flip_at] ^= flip;
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    n_inputs++;
}

static void run_variants(const uint8_t *data, size_t size)
{
    size_t cut_step = size / CUTS + 1, flip_step = size / FLIPS + 1;

    run_copy(data, size, SIZE_MAX, 0);
    for (size_t cut = 0; cut < size; cut += cut_step)
        run_copy(data, cut, SIZE_MAX, 0);
    for (size_t at = 0; at < size; at += flip_step) {
        run_copy(data, size, at, 0x01);
        run_copy(data, size, at, 0xff);
    }
}

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    size_t size;

    if (!file || !data) {
        fprintf(stderr, "%s: cannot read\n", path);
        if (file)
            fclose(file);
        free(data);
        return 1;
    }
    size = fread(data, 1, INPUT_BYTES_MAX, file);
    fclose(file);
    run_variants(data, size);
    free(data);
    return 0;
}

static int run_path(const char *path)
{
    struct stat st;
    struct dirent *entry;
    DIR *dir;
    int failed = 0;

    if (stat(path, &st) != 0) {
        perror(path);
        return 1;
    }
    if (!S_ISDIR(st.st_mode))
        return run_file(path);
    dir = opendir(path);
    if (!dir) {
        perror(path);
        return 1;
    }
    while ((entry = readdir(dir)) != NULL) {
        char child[4096];

        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        failed |= run_path(child);
    }
    closedir(dir);
    return failed;
}

int main(int argc, char **argv)
{
    static const uint8_t zeros[256];
    int failed = 0;

    run_variants(zeros, sizeof zeros);
    for (int i = 1; i < argc; i++)
        failed |= run_path(argv[i]);
    printf("replayed %zu inputs\n", n_inputs);
    return failed;
}
