/* fastlanes.c - blocks of 1024 values packed to `width` bits in the FastLanes order.
 *
 * A block of T-bit values has L = 1024/T lanes. Lane l is a bit string cut into T-bit words
 * L apart; its T values stand in it row by row. Row r of lane l is element
 * 16 * order[r / 8] + 128 * (r % 8) + l of the block.
 */
#include "lance/page.h"
#include "lance/wire.h"

static uint64_t load(const uint8_t *p, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *p;
    case 2:
        return plm_le16(p);
    case 4:
        return plm_le32(p);
    default:
        return plm_le64(p);
    }
}

static void store(uint8_t *p, unsigned bytes, uint64_t v)
{
    switch (bytes) {
    case 1:
        *p = (uint8_t)v;
        break;
    case 2:
        plm_put_le16(p, (uint16_t)v);
        break;
    case 4:
        plm_put_le32(p, (uint32_t)v);
        break;
    default:
        plm_put_le64(p, v);
    }
}

void plm_fastlanes_unpack(unsigned bits, unsigned width, const uint8_t *packed, uint8_t *out)
{
    static const uint8_t order[8] = {0, 4, 2, 6, 1, 5, 3, 7};
    unsigned bytes = bits / 8, n_lanes = 1024 / bits;

    PLM_ASSERT(width <= bits);
    if (width == 0) {
        memset(out, 0, (size_t)128 * bits);
        return;
    }
    uint64_t mask = width == 64 ? UINT64_MAX : (UINT64_C(1) << width) - 1;
    for (unsigned row = 0; row < bits; row++) {
        unsigned at_bit = row * width, shift = at_bit % bits;
        const uint8_t *low = packed + (size_t)(at_bit / bits) * n_lanes * bytes;
        const uint8_t *high = low + (size_t)n_lanes * bytes;
        uint8_t *to = out + (size_t)(16 * order[row / 8] + 128 * (row % 8)) * bytes;

        for (unsigned lane = 0; lane < n_lanes; lane++) {
            uint64_t v = load(low + lane * bytes, bytes) >> shift;
            if (shift + width > bits)
                v |= load(high + lane * bytes, bytes) << (bits - shift);
            store(to + lane * bytes, bytes, v & mask);
        }
    }
}
