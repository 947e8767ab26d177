#include "rows/half.h"

#include <string.h>

uint16_t plm_f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00); /* NaN */
    if (magnitude >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */

    uint32_t kept, rest, half_way;
    if (magnitude < 0x38800000) { /* below 2^-14: subnormal, unit 2^-24 */
        uint32_t exponent = magnitude >> 23;
        if (exponent < 102)
            return (uint16_t)sign; /* below 2^-25 */
        uint32_t shift = 126 - exponent, mantissa = (magnitude & 0x7fffff) | 0x800000;
        kept = mantissa >> shift;
        rest = mantissa & ((1u << shift) - 1);
        half_way = 1u << (shift - 1);
    } else {
        kept = (magnitude - 0x38000000) >> 13; /* rebias 127 to 15 */
        rest = magnitude & 0x1fff;
        half_way = 0x1000;
    }
    if (rest > half_way || (rest == half_way && (kept & 1)))
        kept++; /* may carry into the exponent: that is the right answer */
    return (uint16_t)(sign | kept);
}

float plm_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31;
    uint32_t mantissa = half & 0x3ff, bits;
    float value;

    if (exponent == 31) {
        bits = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else { /* zero or subnormal: mantissa * 2^-24 */
        value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}
