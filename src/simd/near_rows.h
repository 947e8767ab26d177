/* near_rows.h - part of the files that estimate distances of a row to four centroids at a time:
 * included once in each, behind its own FOUR, one_near() and four_near(), so that these are
 * compiled in for the target of that place.
 */
/* Two or three are done as four, one of them again. */
static inline void near(const float *row, const float *centroids, const uint32_t *ids, size_t n,
                        size_t dim, bool l2, float *out)
{
    for (size_t i = 0; i < n; i += FOUR) {
        const float *c[FOUR];
        float values[FOUR];

        if (i + 1 == n) {
            out[i] = one_near(row, centroids + ids[i] * dim, dim, l2);
            return;
        }
        for (size_t j = 0; j < FOUR; j++)
            c[j] = centroids + ids[i + j < n ? i + j : n - 1] * dim;
        four_near(row, c, dim, l2, values);
        for (size_t j = 0; j < FOUR && i + j < n; j++)
            out[i + j] = values[j];
    }
}
