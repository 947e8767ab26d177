/* half.h - float16 <-> float32, one value at a time, the same on every machine.
 *
 * Wide work goes through the kernels (simd.h f16_to_f32); these are for narrowing, which is
 * rare, and for single values. IEEE 754 binary16, round to nearest even.
 */
#ifndef PLM_HALF_H
#define PLM_HALF_H

#include <stddef.h>
#include <stdint.h>

uint16_t plm_f16_from_f32(float value);
float plm_f16_to_f32(uint16_t half);

#endif
