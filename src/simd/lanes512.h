/* lanes512.h - part of the files that look for a least value in sixteen lanes: included once in each,
 * within its target region.
 */
/* The running result of sixteen lanes: whichever comes first of equal values stays. */
struct lanes {
    __m512 best, second;
    __m512i ids;
};

/* Four instructions: where the value is no new least, it may be the second; elsewhere the old least
 * is. */
static inline void keep_least(struct lanes *lanes, __m512 value, __m512i ids)
{
    __mmask16 stays = _mm512_cmp_ps_mask(value, lanes->best, _CMP_NLT_UQ);

    lanes->second = _mm512_mask_min_ps(lanes->best, stays, value, lanes->second);
    lanes->best = _mm512_min_ps(value, lanes->best);
    lanes->ids = _mm512_mask_mov_epi32(ids, stays, lanes->ids);
}
