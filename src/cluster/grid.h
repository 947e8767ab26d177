/* grid.h - sums that do not depend on their order or grouping.
 *
 * Values are rounded to multiples of one power of two, chosen so that no sum leaves the range in
 * which doubles (or 64-bit integers) add without rounding. Both bounds below cover the sum of
 * ALL rows of the training sample, so partial sums may be merged in any order.
 */
#ifndef PLM_GRID_H
#define PLM_GRID_H

#include <math.h>
#include <stdint.h>

/* bound <= 2^e for some e; e of 1 for a bound that says nothing (0, NaN, infinite). */
static inline int plm_grid_exponent(double bound)
{
    int e = 1;
    if (bound > 0 && isfinite(bound))
        (void)frexp(bound, &e);
    return e;
}

/* `magic` for plm_kernels.grid_add when the absolute values add up to at most `bound`:
 * grid = 2^(e-51), hence |value| <= 2^51 grid and |sum| < 2^52 grid. */
static inline double plm_grid_magic(double bound)
{
    return ldexp(1.5, plm_grid_exponent(bound) + 1);
}

/* Scale of an integer sum whose absolute values add up to at most `bound`. */
static inline double plm_fixed_scale(double bound)
{
    return ldexp(1.0, 62 - plm_grid_exponent(bound));
}

/* value * scale as an integer, with |value| cut to `limit` (a NaN becomes limit). */
static inline int64_t plm_fixed(double value, double limit, double scale)
{
    if (!(value < limit))
        value = limit;
    if (value < -limit)
        value = -limit;
    return (int64_t)llrint(value * scale);
}

#endif
