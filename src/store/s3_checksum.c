/* s3_checksum.c - the checksums S3 keeps with an object, computed anew. */
#ifdef PLM_WITH_S3

#include "store/s3_slot.h"

#include <openssl/evp.h>

/* Reflected polynomials; the two short ones sit in the low bits. */
#define CRC32 0xEDB88320u
#define CRC32C 0x82F63B78u
#define CRC64NVME 0x9A6C9329AC4BC9B5u

static uint64_t crc(uint64_t polynomial, uint64_t ones, const uint8_t *bytes, size_t n)
{
    uint64_t table[256], c = ones;

    for (uint64_t i = 0; i < 256; i++) {
        uint64_t v = i;

        for (int bit = 0; bit < 8; bit++)
            v = v & 1 ? (v >> 1) ^ polynomial : v >> 1;
        table[i] = v;
    }
    for (size_t i = 0; i < n; i++)
        c = table[(c ^ bytes[i]) & 255] ^ (c >> 8);
    return c ^ ones;
}

static size_t big_endian(uint64_t value, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(value >> (8 * (n - 1 - i)));
    return n;
}

bool plm_s3_checksum_fits(const char *kind, const char *base64, const void *bytes, size_t n)
{
    uint8_t raw[32];
    unsigned char text[64];
    size_t len;

    bytes = bytes ? bytes : "";
    if (strcmp(kind, "crc32") == 0)
        len = big_endian(crc(CRC32, UINT32_MAX, bytes, n), 4, raw);
    else if (strcmp(kind, "crc32c") == 0)
        len = big_endian(crc(CRC32C, UINT32_MAX, bytes, n), 4, raw);
    else if (strcmp(kind, "crc64nvme") == 0)
        len = big_endian(crc(CRC64NVME, UINT64_MAX, bytes, n), 8, raw);
    else if (strcmp(kind, "sha256") == 0 && plm_s3_sha256(bytes, n, raw, NULL) == PLM_OK)
        len = 32;
    else
        return true;
    EVP_EncodeBlock(text, raw, (int)len);
    return strcmp((const char *)text, base64) == 0;
}

#endif
