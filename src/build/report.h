/* report.h - a job as JSON: the report, and the plan alone. */
#ifndef PLM_REPORT_H
#define PLM_REPORT_H

#include <jansson.h>

#include "build/build.h"

/* {"plan": ..., "rows": ..., "index": ..., "tasks": n, "notes": [...]}. */
PLM_MUST_CHECK enum plm_code
plm_plan_report(const struct plm_source *source, const struct plm_plan *plan,
                const struct plm_estimate *estimate, char **json, struct plm_err *err);
/* [{"nprobes", "rows_scanned", "recall"}]. NULL when memory is out. */
json_t *plm_recall_json(const struct plm_findings *findings);
/* Dumps and releases root (NULL: PLM_NOMEM) into a string for plm_string_free(). */
PLM_MUST_CHECK enum plm_code plm_json_string(json_t *root, char **out, struct plm_err *err);

#endif
