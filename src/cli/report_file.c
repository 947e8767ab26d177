/* report_file.c - see cli.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

static enum plm_code cannot_write(const char *path, struct plm_err *err)
{
    int e = errno;
    return plm_cli_fail(err, e == EACCES ? PLM_DENIED : PLM_IO, "--report: cannot write %s: %s", path,
                        strerror(e));
}

/* Where the report really goes: behind symbolic links, and into what is no regular file (a pipe, a device, which a
 * rename would take away) without a temporary file. */
static enum plm_code settle(const char *path, struct plm_report_file *report, struct plm_err *err)
{
    struct stat st;
    bool exists = stat(path, &st) == 0;

    if (exists && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        return cannot_write(path, err);
    }
    report->path = exists && S_ISREG(st.st_mode) ? realpath(path, NULL) : strdup(path);
    if (!report->path)
        return cannot_write(path, err);
    if (exists && !S_ISREG(st.st_mode))
        return PLM_OK;
    size_t n = strlen(report->path) + 32;
    report->temporary = malloc(n);
    if (!report->temporary)
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    snprintf(report->temporary, n, "%s.tmp.%ld", report->path, (long)getpid());
    return PLM_OK;
}

enum plm_code plm_report_open(const char *path, struct plm_report_file *out, struct plm_err *err)
{
    struct plm_report_file report = {0};

    if (!path) {
        *out = report;
        return PLM_OK;
    }
    enum plm_code rc = settle(path, &report, err);
    if (rc == PLM_OK) {
        report.file = report.temporary ? fopen(report.temporary, "wxb") : fopen(path, "wb");
        if (!report.file) {
            rc = cannot_write(report.path, err);
            free(report.temporary); /* not ours to unlink */
            report.temporary = NULL;
        }
    }
    if (rc != PLM_OK) {
        plm_report_abandon(&report);
        return rc;
    }
    *out = report;
    return PLM_OK;
}

enum plm_code plm_report_finish(struct plm_report_file *report, const char *json,
                                struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    if (!report->file)
        return PLM_OK;
    bool is_fine = fprintf(report->file, "%s\n", json) > 0 && fflush(report->file) == 0;
    if (is_fine && report->temporary)
        is_fine = fsync(fileno(report->file)) == 0 && rename(report->temporary, report->path) == 0;
    if (!is_fine) {
        rc = cannot_write(report->path, err);
    } else {
        free(report->temporary);
        report->temporary = NULL;
    }
    plm_report_abandon(report);
    return rc;
}

void plm_report_abandon(struct plm_report_file *report)
{
    if (report->file)
        fclose(report->file);
    if (report->temporary)
        unlink(report->temporary);
    free(report->temporary);
    free(report->path);
    memset(report, 0, sizeof(*report));
}
