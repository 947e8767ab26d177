/* fuzz_npy.c - any bytes as a .npy file. */
#include <stdlib.h>

#include "cli/args.c"
#include "cli/npy.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plm_npy npy = {0};
    struct plm_err err;

    if (plm_npy_parse(data, size, &npy, &err) != PLM_OK)
        return 0;
    if (npy.n_dims < 1 || npy.n_dims > 3 || npy.data_at > size ||
        npy.data_bytes != size - npy.data_at)
        abort();
    return 0;
}
