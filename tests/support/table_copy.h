/* table_copy.h - a throw-away copy of one of the tables in tests/format/good.
 *
 * Owns     the caller owns the path; table_remove() deletes the copy and frees it.
 * Errors   any failure ends the test program: nothing can be tested without its table.
 */
#ifndef PLM_TEST_TABLE_COPY_H
#define PLM_TEST_TABLE_COPY_H

/* name NULL: an empty directory. */
char *table_copy(const char *name);
void table_remove(char *path);

#endif
