/* store_no_s3.c - s3:// in a build without S3. */
#ifndef PLM_WITH_S3

#include "store/store_impl.h"

enum plm_code plm_store_open_s3(struct plm_ctx *ctx, const char *uri, const char *const *options,
                                struct plm_store **out, struct plm_err *err)
{
    (void)ctx, (void)uri, (void)options, (void)out;
    return plm_fail(err, PLM_UNSUPPORTED, "storage \"s3://\" is not supported: built without S3");
}

#endif
