/* report_file.c - see cli.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static enum plm_code cannot_write(const char *path, struct plm_err *err)
{
    int e = errno;
    return plm_cli_fail(err, e == EACCES ? PLM_DENIED : PLM_IO, "--report: cannot write %s: %s", path,
                        strerror(e));
}

enum plm_code plm_report_open(const char *path, struct plm_report_file *out, struct plm_err *err)
{
    struct plm_report_file report = {0};

    if (!path) {
        *out = report;
        return PLM_OK;
    }
    size_t n = strlen(path) + 32;
    report.path = strdup(path);
    report.temporary = malloc(n);
    if (!report.path || !report.temporary) {
        plm_report_abandon(&report);
        return plm_cli_fail(err, PLM_NOMEM, "out of memory");
    }
    snprintf(report.temporary, n, "%s.tmp.%ld", path, (long)getpid());
    report.file = fopen(report.temporary, "wxb");
    if (!report.file) {
        enum plm_code rc = cannot_write(report.temporary, err);
        free(report.temporary);
        report.temporary = NULL;
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
    bool is_fine = fprintf(report->file, "%s\n", json) > 0 && fflush(report->file) == 0 &&
                   fsync(fileno(report->file)) == 0;
    if (!is_fine || rename(report->temporary, report->path) != 0)
        rc = cannot_write(report->path, err);
    else {
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
