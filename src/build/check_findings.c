/* check_findings.c - problems as verify lists them. */
#include <jansson.h>

#include "build/check.h"

void plm_problem(struct plm_findings *f, const char *kind, uint64_t rowid, const char *where,
                 const char *seen_fmt, double seen, double expected)
{
    char text[120];
    if (f->n_problems++ >= PLM_PROBLEMS_MAX)
        return;
    if (!f->problems)
        f->problems = json_array();
    snprintf(text, sizeof text, seen_fmt, seen);
    json_t *problem = json_pack("{s:s, s:o, s:s, s:s, s:f}", "kind", kind, "rowid",
                                rowid == UINT64_MAX ? json_null() : json_integer((json_int_t)rowid), "where",
                                where, "seen", text, "expected", expected);
    if (f->problems && problem)
        json_array_append_new(f->problems, problem);
}

void plm_findings_reset(struct plm_findings *f)
{
    json_decref(f->problems);
    *f = (struct plm_findings){0};
}
