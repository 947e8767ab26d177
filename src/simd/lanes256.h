/* lanes256.h - part of the files that look for a least value in eight lanes: included once in each,
 * within its target region.
 */
/* The running result of eight lanes of one row: centroid j belongs to lane j % 8. */
struct lanes {
    __m256 best, second;
    __m256i ids;
};

/* The old least or the new value, whichever is greater, is a candidate for second place. */
static inline void keep_least(struct lanes *lanes, __m256 value, __m256i ids)
{
    __m256 less = _mm256_cmp_ps(value, lanes->best, _CMP_LT_OQ);

    lanes->second = _mm256_min_ps(lanes->second, _mm256_max_ps(lanes->best, value));
    lanes->best = _mm256_min_ps(lanes->best, value);
    lanes->ids = _mm256_blendv_epi8(lanes->ids, ids, _mm256_castps_si256(less));
}
