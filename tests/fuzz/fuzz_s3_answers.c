/* fuzz_s3_answers.c - any bytes as what an S3 endpoint sends back: listings, parts, errors,
 * credentials, headers. In a build without S3 there is nothing to feed. */
#include "store/store.h"

#ifdef PLM_WITH_S3
#include "store/s3.h"
#include "store/s3_xml.h"

#include <stdlib.h>

enum { BUDGET_BYTES = 64 << 20 };

static struct plm_ctx *ctx;

static void feed_xml(const uint8_t *data, size_t size)
{
    struct plm_entries entries = {.ctx = ctx};
    struct plm_s3_parts parts = {.ctx = ctx};
    struct plm_s3_page page = {0};
    struct plm_s3_reply reply = {0};
    struct plm_uploads uploads = {.ctx = ctx};
    struct plm_s3_upload_page upload_page = {0};
    char *id = NULL;

    if (plm_s3_xml_uploads(data, size, "p/", "p/", &uploads, &upload_page, NULL) == PLM_OK)
        for (size_t i = 0; i < uploads.n; i++)
            if (uploads.items[i].path[0] == 0 || uploads.items[i].token[0] == 0)
                abort(); /* both always have a name */
    plm_uploads_reset(&uploads);
    plm_s3_upload_page_reset(ctx, &upload_page);
    if (plm_s3_xml_list(ctx, data, size, "p/", &entries, &page, NULL) == PLM_OK)
        for (size_t i = 0; i < entries.n; i++)
            if (entries.items[i].name[0] == 0)
                abort(); /* an entry always has a name */
    plm_entries_reset(&entries);
    plm_s3_page_reset(ctx, &page);
    if (plm_s3_xml_parts(data, size, &parts, NULL) == PLM_OK)
        for (size_t i = 1; i < parts.n; i++)
            if (parts.items[i].number <= parts.items[i - 1].number)
                abort();
    plm_free(ctx, parts.items);
    if (plm_s3_xml_upload(ctx, data, size, &id, NULL) == PLM_OK)
        plm_free(ctx, id);
    (void)plm_s3_xml_error(ctx, data, size, &reply);
}

/* Each line as the value of each header that is looked at. */
static void feed_headers(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"content-range", "content-length", "etag", "date",
                                        "retry-after", "x-amz-checksum-crc32"};
    struct plm_s3_reply reply = {0};
    char line[256];

    for (size_t at = 0; at < size && at < 4096;) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t n = end ? (size_t)(end - data) - at : size - at;

        snprintf(line, sizeof line, "%.*s", (int)plm_min_size(n, 255), (const char *)data + at);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            plm_s3_reply_header(&reply, names[i], line);
        if (plm_s3_backoff(1, line, 0, 0) > PLM_S3_RETRY_AFTER_MAX_S)
            abort();
        (void)plm_s3_time(line);
        at += n + 1;
    }
}

static void feed_credentials(const uint8_t *data, size_t size)
{
    struct plm_s3_secret *secret = NULL;
    struct plm_view value;

    if (plm_s3_secret_new(&secret, NULL) == PLM_OK)
        (void)!plm_s3_secret_json(secret, data, size, NULL);
    plm_s3_secret_release(secret);
    if (plm_s3_profile_value((const char *)data, size, "default", "key", &value) &&
        (value.data < data || value.data + value.len > data + size))
        abort(); /* a view into the text, always */
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
#ifdef PLM_WITH_S3
    struct plm_ctx_options options;

    if (!ctx) {
        plm_ctx_options_default(&options);
        options.threads = 1;
        options.memory_budget_bytes = BUDGET_BYTES;
        if (plm_ctx_create(&options, &ctx, NULL) != PLM_OK)
            abort();
    }
    feed_xml(data, size);
    feed_headers(data, size);
    feed_credentials(data, size);
    if (atomic_load(&ctx->memory_used) != 0)
        abort(); /* a leak */
#else
    (void)data, (void)size;
#endif
    return 0;
}
