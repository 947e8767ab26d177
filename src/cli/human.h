/* human.h - private to human.c and human_table.c: small texts and safe access to documents. */
#ifndef PLM_HUMAN_H
#define PLM_HUMAN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct plm_text {
    char s[48];
};
struct plm_text plm_text_count(double value);   /* 128,116 */
struct plm_text plm_text_of(double value, const char *thing); /* 1 row, 2,000 rows */
struct plm_text plm_text_bytes(double value);   /* 1.2 GiB */
struct plm_text plm_text_seconds(double value); /* 0.03 s, 12.3 s, 4 m 05 s */

/* A document of the library, for people: names come from tables and may hold anything, so control characters, which a
 * terminal would obey, become '?'. NULL when it is none; json_decref it. */
json_t *plm_human_load(const char *json);
/* Member at a path "rows.dropped.null"; NULL when a step is missing. */
const json_t *plm_at(const json_t *root, const char *path);
double plm_number_at(const json_t *root, const char *path);     /* 0 when missing */
bool plm_has_number(const json_t *root, const char *path);
const char *plm_string_at(const json_t *root, const char *path); /* "-" when missing */

/* Escape sequences on a terminal that wants them, else "". */
const char *plm_bold(FILE *to);
const char *plm_plain(FILE *to);

/* Partition sizes as a histogram of at most 8 bars, each line indented. */
void plm_print_histogram(FILE *to, const json_t *sizes);
void plm_print_recall(FILE *to, const json_t *points);

#endif
