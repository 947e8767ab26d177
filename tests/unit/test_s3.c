/* test_s3.c - what S3 needs short of a network: signatures, URLs, settings, credentials, XML,
 * checksums. Signatures are those of AWS's published examples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_impl.h"

static struct plm_ctx *ctx;
static struct plm_err err;

static int setup(void **state)
{
    (void)state;
    struct plm_ctx_options options;

    plm_ctx_options_default(&options);
    options.threads = 2;
    options.memory_budget_bytes = (uint64_t)256 << 20;
    /* What the shell of the tests may hold must not be found. */
    static const char *const variables[] = {
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT", "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP", "AWS_SKIP_SIGNATURE", "AWS_CA_BUNDLE",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    setenv("HOME", "/nonexistent", 1);
    return plm_ctx_create(&options, &ctx, NULL) != PLM_OK;
}

static int teardown(void **state)
{
    (void)state;
    int leaked = atomic_load(&ctx->memory_used) != 0;

    plm_ctx_destroy(ctx);
    return leaked;
}

#ifndef PLM_WITH_S3

static void test_built_without_s3(void **state)
{
    (void)state;
    struct plm_store *store = NULL;

    assert_int_equal(plm_store_open(ctx, "s3://bucket/t", NULL, &store, &err), PLM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "built without S3"));
    assert_null(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_built_without_s3)};

    return cmocka_run_group_tests_name("s3", tests, setup, teardown);
}

#else

#include "store/s3.h"
#include "store/s3_slot.h"
#include "store/s3_xml.h"

/* ---- signatures --------------------------------------------------------------- */

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void assert_signature(const struct plm_s3_signing *what, const char *key_id,
                             const char *secret, const char *expected)
{
    struct plm_buf out;
    const char *signature;

    plm_buf_init(&out, ctx, 1 << 16);
    assert_int_equal(plm_s3_authorization(&out, what, key_id, secret, &err), PLM_OK);
    signature = strstr((const char *)out.data, "Signature=");
    assert_non_null(signature);
    assert_string_equal(signature + 10, expected);
    plm_buf_reset(&out);
}

/* The request that AWS's test suite builds on. */
static struct plm_s3_signing suite(const char *method, const char *path)
{
    static const struct plm_s3_pair headers[] = {{"host", "example.amazonaws.com"},
                                                 {"x-amz-date", "20150830T123600Z"}};

    return (struct plm_s3_signing){.method = method, .path = path, .headers = headers,
                                   .n_headers = 2, .payload_sha256 = EMPTY_SHA256,
                                   .date = "20150830T123600Z", .region = "us-east-1",
                                   .service = "service"};
}

static void assert_suite(const struct plm_s3_signing *what, const char *expected)
{
    assert_signature(what, "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", expected);
}

static void test_suite_of_aws(void **state)
{
    (void)state;
    struct plm_s3_signing what = suite("GET", "/");

    assert_suite(&what, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    what.method = "POST";
    assert_suite(&what, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    what = suite("GET", "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    assert_suite(&what, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f");
    what = suite("GET", "/%E1%88%B4");
    assert_suite(&what, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85");
}

static void test_suite_queries(void **state)
{
    (void)state;
    static const struct plm_s3_pair by_key[] = {{"Param2", "value2"}, {"Param1", "value1"}};
    static const struct plm_s3_pair by_value[] = {{"Param1", "value2"}, {"Param1", "value1"}};
    static const struct plm_s3_pair utf8[] = {{"\xE1\x88\xB4", "bar"}};
    struct plm_s3_signing what = suite("GET", "/");

    what.query = by_key;
    what.n_query = 2;
    assert_suite(&what, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
    what.query = by_value;
    assert_suite(&what, "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694");
    what.query = utf8;
    what.n_query = 1;
    assert_suite(&what, "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04");
}

static void test_suite_header_blanks(void **state)
{
    (void)state;
    static const struct plm_s3_pair headers[] = {{"my-header2", " \"a   b   c\" "},
                                                 {"my-header1", " value1"},
                                                 {"x-amz-date", "20150830T123600Z"},
                                                 {"host", "example.amazonaws.com"}};
    struct plm_s3_signing what = suite("GET", "/");

    what.headers = headers;
    what.n_headers = 4;
    assert_suite(&what, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
}

/* The worked examples of the S3 documentation. */
#define S3_DATE "20130524T000000Z"
static void assert_s3_example(const char *method, const char *path, const struct plm_s3_pair *query,
                              size_t n_query, const struct plm_s3_pair *extra, size_t n_extra,
                              const char *payload, const char *expected)
{
    struct plm_s3_pair headers[8] = {{"host", "examplebucket.s3.amazonaws.com"},
                                     {"x-amz-content-sha256", payload}, {"x-amz-date", S3_DATE}};
    struct plm_s3_signing what = {.method = method, .path = path, .query = query,
                                  .n_query = n_query, .headers = headers, .n_headers = 3 + n_extra,
                                  .payload_sha256 = payload, .date = S3_DATE,
                                  .region = "us-east-1", .service = "s3"};

    for (size_t i = 0; i < n_extra; i++)
        headers[3 + i] = extra[i];
    assert_signature(&what, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                     expected);
}

static void test_s3_examples(void **state)
{
    (void)state;
    static const struct plm_s3_pair range[] = {{"range", "bytes=0-9"}};
    static const struct plm_s3_pair put[] = {{"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                                             {"date", "Fri, 24 May 2013 00:00:00 GMT"}};
    static const struct plm_s3_pair lifecycle[] = {{"lifecycle", ""}};
    static const struct plm_s3_pair listing[] = {{"prefix", "J"}, {"max-keys", "2"}};
    uint8_t digest[32];
    char hex[65];

    assert_int_equal(plm_s3_sha256("Welcome to Amazon S3.", 21, digest, &err), PLM_OK);
    plm_s3_hex(digest, 32, hex);
    assert_string_equal(hex, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
    assert_s3_example("GET", "/test.txt", NULL, 0, range, 1, EMPTY_SHA256,
                      "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    assert_s3_example("PUT", "/test%24file.text", NULL, 0, put, 2, hex,
                      "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    assert_s3_example("GET", "/", lifecycle, 1, NULL, 0, EMPTY_SHA256,
                      "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    assert_s3_example("GET", "/", listing, 2, NULL, 0, EMPTY_SHA256,
                      "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_too_long_secret_is_no_signature(void **state)
{
    (void)state;
    struct plm_s3_signing what = suite("GET", "/");
    struct plm_buf out;
    char secret[600];

    memset(secret, 'x', sizeof secret);
    secret[599] = 0;
    plm_buf_init(&out, ctx, 1 << 16);
    assert_int_equal(plm_s3_authorization(&out, &what, "id", secret, &err), PLM_ARG);
    assert_null(strstr(err.message, "xxx"));
    plm_buf_reset(&out);
}

static void test_dates(void **state)
{
    (void)state;
    char date[17];

    plm_s3_date(1369353600000, date);
    assert_string_equal(date, S3_DATE);
    assert_int_equal(plm_s3_time("2013-05-24T00:00:00.125Z"), 1369353600125);
    assert_int_equal(plm_s3_time("Fri, 24 May 2013 00:00:00 GMT"), 1369353600000);
    assert_int_equal(plm_s3_time("2013-13-24T00:00:00Z"), -1);
    assert_int_equal(plm_s3_time("not a time"), -1);
    assert_int_equal(plm_s3_time(""), -1);
}

/* ---- where a request goes ------------------------------------------------------- */

static enum plm_code read_config(const char *uri, const char *const *options,
                                 struct plm_s3_config *config)
{
    struct plm_s3_secret *given = NULL;
    enum plm_code rc = plm_s3_config_read(ctx, uri, options, config, &given, &err);

    plm_s3_secret_release(given);
    return rc;
}

static void assert_target(const char *const *options, const char *key, const char *url,
                          const char *host, const char *path)
{
    static const struct plm_s3_pair query[] = {{"uploads", ""}, {"a b", "/+"}};
    struct plm_s3_config config;
    struct plm_s3_target target;

    assert_int_equal(read_config("s3://bucket/t", options, &config), PLM_OK);
    plm_s3_target_init(&target, ctx);
    assert_int_equal(plm_s3_target_make(&target, &config, config.region, key, NULL, 0, &err), PLM_OK);
    assert_string_equal((const char *)target.url.data, url);
    assert_string_equal((const char *)target.host.data, host);
    assert_string_equal((const char *)target.path.data, path);
    assert_int_equal(plm_s3_target_make(&target, &config, config.region, key, query, 2, &err), PLM_OK);
    assert_non_null(strstr((const char *)target.url.data, "?a%20b=%2F%2B&uploads="));
    plm_s3_target_reset(&target);
    plm_s3_config_reset(ctx, &config);
}

static void test_urls_of_aws(void **state)
{
    (void)state;
    const char *eu[] = {"region", "eu-west-1", NULL};
    const char *china[] = {"AWS_REGION", "cn-north-1", NULL};
    const char *path_style[] = {"virtual_hosted_style_request", "false", NULL};

    assert_target(eu, "t/a b+c%/\xC3\xA4", "https://bucket.s3.eu-west-1.amazonaws.com/t/a%20b%2Bc%25/%C3%A4",
                  "bucket.s3.eu-west-1.amazonaws.com", "/t/a%20b%2Bc%25/%C3%A4");
    assert_target(china, "", "https://bucket.s3.cn-north-1.amazonaws.com.cn/",
                  "bucket.s3.cn-north-1.amazonaws.com.cn", "/");
    assert_target(path_style, "k", "https://s3.us-east-1.amazonaws.com/bucket/k",
                  "s3.us-east-1.amazonaws.com", "/bucket/k");
    assert_target(path_style, "", "https://s3.us-east-1.amazonaws.com/bucket",
                  "s3.us-east-1.amazonaws.com", "/bucket");
}

static void test_urls_of_endpoints(void **state)
{
    (void)state;
    const char *own[] = {"endpoint", "https://store.example:9000/", NULL};
    const char *usual_port[] = {"endpoint", "https://store.example:443", NULL};
    const char *http[] = {"endpoint", "http://store.example:80/deep", "allow_http", "1", NULL};
    const char *hosted[] = {"endpoint", "https://store.example", "virtual_hosted_style_request",
                            "true", NULL};
    const char *named[] = {"endpoint", "https://bucket.store.example",
                           "aws_virtual_hosted_style_request", "TRUE", NULL};

    assert_target(own, "k", "https://store.example:9000/bucket/k", "store.example:9000", "/bucket/k");
    assert_target(usual_port, "k", "https://store.example/bucket/k", "store.example", "/bucket/k");
    assert_target(http, "k", "http://store.example/deep/bucket/k", "store.example", "/deep/bucket/k");
    assert_target(hosted, "k", "https://bucket.store.example/k", "bucket.store.example", "/k");
    assert_target(named, "k", "https://bucket.store.example/k", "bucket.store.example", "/k");
}

static void test_odd_bucket_stays_out_of_the_host(void **state)
{
    (void)state;
    struct plm_s3_config config;

    assert_int_equal(read_config("s3://my.bucket/t", NULL, &config), PLM_OK);
    assert_false(config.virtual_hosted);
    assert_string_equal(config.prefix, "t");
    plm_s3_config_reset(ctx, &config);
}

static void test_locations(void **state)
{
    (void)state;
    static const char *const bad[] = {"s3://", "s3://ab", "s3://-bucket/t", "s3://buck et/t",
                                      "s3://user:pw@bucket/t", "s3://bucket//t", "s3://bucket/t//u",
                                      "s3://bucket/./t", "s3://bucket/t/..", "s3://bucket/%00",
                                      "s3://bucket/t?x", "s3://bucket/t#x", "s3://bucket/%2E%2E/t"};
    static const char *const good[][2] = {{"s3://bucket", ""}, {"s3://bucket/", ""},
                                          {"s3://bucket/a/b/", "a/b"}, {"s3://bucket/a%20b", "a b"},
                                          {"s3://bucket/100%/a%zz", "100%/a%zz"}};
    struct plm_s3_config config = {0};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(read_config(bad[i], NULL, &config), PLM_ARG);
        assert_null(strstr(err.message, "pw"));
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(read_config(good[i][0], NULL, &config), PLM_OK);
        assert_string_equal(config.prefix, good[i][1]);
        assert_string_equal(config.bucket, "bucket");
        plm_s3_config_reset(ctx, &config);
    }
}

/* ---- settings ------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void test_options(void **state)
{
    (void)state;
    const char *options[] = {"Aws_Access_Key_Id", "id", "SECRET_access_key", "@s3-secret.txt",
                             "token", "tok", "client_retry_timeout", "2m", "connect_timeout",
                             "250ms", "timeout", "7 s", "something_else", "ignored", "region",
                             "old", "aws_default_region", "new", NULL};
    struct plm_s3_config config;
    struct plm_s3_secret *given = NULL;

    write_file("s3-secret.txt", "se/cret+\r\nsecond line\n");
    assert_int_equal(plm_s3_config_read(ctx, "s3://bucket/t", options, &config, &given, &err), PLM_OK);
    assert_string_equal(given->key_id, "id");
    assert_string_equal(given->key, "se/cret+");
    assert_string_equal(given->token, "tok");
    assert_true(config.retry_s == 120 && config.connect_s == 0.25 && config.attempt_s == 7);
    assert_string_equal(config.region, "new"); /* the last one given counts */
    assert_true(config.region_given && !config.anonymous && !config.allow_http);
    plm_s3_secret_release(given);
    plm_s3_config_reset(ctx, &config);
    assert_int_equal(unlink("s3-secret.txt"), 0);
    assert_int_equal(plm_s3_config_read(ctx, "s3://bucket/t", options, &config, &given, &err),
                     PLM_NOT_FOUND);
}

static void test_options_win_over_environment(void **state)
{
    (void)state;
    const char *options[] = {"aws_endpoint_url", "https://option", NULL};
    struct plm_s3_config config;

    setenv("AWS_ENDPOINT", "https://environment", 1);
    setenv("AWS_REGION", "env-region", 1);
    assert_int_equal(read_config("s3://bucket/t", options, &config), PLM_OK);
    assert_string_equal(config.endpoint, "https://option");
    assert_string_equal(config.region, "env-region");
    plm_s3_config_reset(ctx, &config);
    assert_int_equal(read_config("s3://bucket/t", NULL, &config), PLM_OK);
    assert_string_equal(config.endpoint, "https://environment");
    plm_s3_config_reset(ctx, &config);
    unsetenv("AWS_ENDPOINT");
    unsetenv("AWS_REGION");
}

static void test_wrong_options(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
        enum plm_code code;
    } cases[] = {{"endpoint", "http://x", PLM_ARG},
                 {"endpoint", "https://", PLM_ARG},
                 {"endpoint", "https://user@x", PLM_ARG},
                 {"endpoint", "store.example", PLM_ARG},
                 {"allow_http", "perhaps", PLM_ARG},
                 {"connect_timeout", "-3", PLM_ARG},
                 {"connect_timeout", "nan", PLM_ARG},
                 {"connect_timeout", "3 weeks", PLM_ARG},
                 {"pilum_retry_seconds", "0", PLM_ARG},
                 {"region", "a b", PLM_ARG},
                 {"secret_access_key", "only", PLM_ARG},
                 {"access_key_id", "only", PLM_ARG},
                 {"aws_sse_kms_key_id", "k", PLM_UNSUPPORTED},
                 {"aws_request_payer", "true", PLM_UNSUPPORTED},
                 {"conditional_put", "dynamo:t", PLM_UNSUPPORTED}};
    struct plm_s3_config config = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *options[] = {cases[i].key, cases[i].value, NULL};

        assert_int_equal(read_config("s3://bucket/t", options, &config), cases[i].code);
        assert_null(config.prefix);
    }
}

/* ---- credentials ---------------------------------------------------------------- */

static void assert_profile(const char *text, const char *profile, const char *key, const char *expected)
{
    struct plm_view value = {0};
    bool found = plm_s3_profile_value(text, strlen(text), profile, key, &value);

    assert_int_equal(found, expected != NULL);
    if (expected) {
        assert_int_equal(value.len, strlen(expected));
        assert_memory_equal(value.data, expected, value.len);
    }
}

static void test_profile_files(void **state)
{
    (void)state;
    static const char text[] = "key = outside\n[ default ]\r\nkey=one = 1\r\n# key2 = no\n"
                               "[profile  dev]\n  key = nested\n\tkey = nested\nkey =\n[dev2]\nkey = last";

    assert_profile(text, "default", "key", "one = 1");
    assert_profile(text, "default", "key2", NULL);
    assert_profile(text, "dev", "key", "");
    assert_profile(text, "dev2", "key", "last");
    assert_profile(text, "profile", "key", NULL);
    assert_profile(text, "none", "key", NULL);
    assert_profile("", "default", "key", NULL);
    assert_profile("[", "", "key", NULL);
    assert_profile("[default", "default", "key", NULL);
    assert_profile("[]\nkey=x", "", "key", "x");
}

static void test_credentials_json(void **state)
{
    (void)state;
    static const char good[] = "{\"AccessKeyId\": \"A\", \"SecretAccessKey\": \"S\", \"Token\": \"T\","
                               "\"Expiration\": \"2030-01-01T00:00:00Z\", \"More\": [1]}";
    static const char *const bad[] = {
        "", "{", "[]", "null", "{\"AccessKeyId\": \"A\"}", "{\"AccessKeyId\": 1, \"SecretAccessKey\": 2}",
        "{\"AccessKeyId\": \"A\", \"SecretAccessKey\": \"S\", \"Expiration\": \"soon\"}"};
    struct plm_s3_secret *secret = NULL;

    assert_int_equal(plm_s3_secret_new(&secret, &err), PLM_OK);
    assert_int_equal(plm_s3_secret_json(secret, good, strlen(good), &err), PLM_OK);
    assert_string_equal(secret->key_id, "A");
    assert_string_equal(secret->key, "S");
    assert_string_equal(secret->token, "T");
    assert_int_equal(secret->expires_ms, 1893456000000);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(plm_s3_secret_json(secret, bad[i], strlen(bad[i]), &err), PLM_CORRUPT);
    /* A line break in a secret would become a header of its own. */
    assert_int_equal(plm_s3_secret_set(secret->token, PLM_S3_TOKEN_MAX, "a\r\nb", 4, "token", &err),
                     PLM_ARG);
    plm_s3_secret_release(secret);
}

/* The flags of the mapping that holds `address`, from /proc/self/smaps. */
static bool has_flag(const void *address, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool inside = false, found = false;

    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;

        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = (uintptr_t)address >= from && (uintptr_t)address < to;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
    }
    fclose(f);
    return found;
}

static void test_secrets_stay_out_of_core_dumps(void **state)
{
    (void)state;
    struct plm_s3_secret *secret = NULL;

    assert_int_equal(plm_s3_secret_new(&secret, &err), PLM_OK);
    assert_true(has_flag(secret, " dd "));
    assert_true(has_flag(secret->token + PLM_S3_TOKEN_MAX, " dd "));
    assert_int_equal((uintptr_t)secret % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
    plm_s3_secret_release(secret);
}

static void test_chain(void **state)
{
    (void)state;
    struct plm_s3_creds creds;
    struct plm_s3_secret *a = NULL, *b = NULL;

    plm_s3_creds_init(&creds, ctx, NULL);
    assert_int_equal(plm_s3_creds_take(&creds, NULL, &a, &err), PLM_DENIED);
    write_file("s3-profile.txt", "[work]\naws_access_key_id=file\naws_secret_access_key=fs\n");
    setenv("AWS_SHARED_CREDENTIALS_FILE", "s3-profile.txt", 1);
    setenv("AWS_PROFILE", "work", 1);
    assert_int_equal(plm_s3_creds_take(&creds, NULL, &a, &err), PLM_OK);
    assert_string_equal(a->key_id, "file");
    setenv("AWS_ACCESS_KEY_ID", "env", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "es", 1);
    assert_int_equal(plm_s3_creds_take(&creds, NULL, &b, &err), PLM_OK);
    assert_ptr_equal(a, b); /* no expiry: asked once */
    plm_s3_secret_release(b);
    assert_int_equal(plm_s3_creds_take(&creds, a, &b, &err), PLM_OK);
    assert_string_equal(b->key_id, "env"); /* the server refused the old one */
    assert_string_equal(a->key, "fs");     /* which its users still hold */
    plm_s3_secret_release(a);
    plm_s3_secret_release(b);
    plm_s3_creds_reset(&creds);
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    unsetenv("AWS_PROFILE");
    unsetenv("AWS_SHARED_CREDENTIALS_FILE");
    unlink("s3-profile.txt");
}

static void test_unsupported_ways_are_named(void **state)
{
    (void)state;
    struct plm_s3_creds creds;
    struct plm_s3_secret *a = NULL;

    plm_s3_creds_init(&creds, ctx, NULL);
    write_file("s3-profile.txt", "[profile default]\nrole_arn = arn:x\n");
    setenv("AWS_CONFIG_FILE", "s3-profile.txt", 1);
    assert_int_equal(plm_s3_creds_take(&creds, NULL, &a, &err), PLM_UNSUPPORTED);
    assert_non_null(strstr(err.message, "role_arn"));
    unsetenv("AWS_CONFIG_FILE");
    setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "x", 1);
    assert_int_equal(plm_s3_creds_take(&creds, NULL, &a, &err), PLM_UNSUPPORTED);
    unsetenv("AWS_WEB_IDENTITY_TOKEN_FILE");
    plm_s3_creds_reset(&creds);
    unlink("s3-profile.txt");
}

/* ---- XML ------------------------------------------------------------------------ */

#define LIST(inside) "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"urn:x\">" inside "</ListBucketResult>"
#define OBJECT(key, size) "<Contents><Key>" key "</Key><Size>" size "</Size></Contents>"

static enum plm_code parse_list(const char *xml, const char *prefix, struct plm_entries *entries,
                                struct plm_s3_page *page)
{
    *entries = (struct plm_entries){.ctx = ctx};
    *page = (struct plm_s3_page){0};
    return plm_s3_xml_list(ctx, xml, strlen(xml), prefix, entries, page, &err);
}

static void test_xml_list(void **state)
{
    (void)state;
    static const char xml[] = LIST(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>"
        "<Contents><Key>p/</Key><Size>0</Size></Contents>"
        "<Contents><Key>p/a%2Fb+c%C3%A4</Key><LastModified>2013-05-24T00:00:00.000Z</LastModified>"
        "<Owner><ID>x</ID></Owner><Size>12345678901</Size></Contents>"
        "<CommonPrefixes><Prefix>p/dir/</Prefix></CommonPrefixes>"
        "<EncodingType>url</EncodingType><Prefix>p/</Prefix>");
    struct plm_entries entries;
    struct plm_s3_page page;

    assert_int_equal(parse_list(xml, "p/", &entries, &page), PLM_OK);
    assert_int_equal(entries.n, 2);
    assert_string_equal(entries.items[0].name, "a/b c\xC3\xA4");
    assert_int_equal(entries.items[0].size_bytes, 12345678901);
    assert_int_equal(entries.items[0].modified_ms, 1369353600000);
    assert_string_equal(entries.items[1].name, "dir");
    assert_true(entries.items[1].is_dir && page.truncated);
    assert_string_equal(page.next, "a&b");
    assert_string_equal(page.last, "p/dir/");
    plm_entries_reset(&entries);
    plm_s3_page_reset(ctx, &page);
}

static void test_xml_list_hostile(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "x", "<ListBucketResult>", "<Other></Other>", LIST(OBJECT("other/a", "1")),
        LIST(OBJECT("p/a", "-1")), LIST(OBJECT("p/a", "99999999999999999999")), LIST(OBJECT("p/a", "")),
        LIST("<Contents><Size>1</Size></Contents>"), LIST("<Contents><Key>p/a</Key></Contents>"),
        LIST("<IsTruncated>true</IsTruncated>"),
        LIST("<EncodingType>url</EncodingType>" OBJECT("p/%", "1")),
        LIST("<EncodingType>url</EncodingType>" OBJECT("p/%4", "1")),
        LIST("<EncodingType>url</EncodingType>" OBJECT("p/a%00b", "1")),
        LIST("<Contents><Key>p/a</Key><LastModified>x</LastModified><Size>1</Size></Contents>"),
        "<!DOCTYPE x [<!ENTITY a \"aaaa\">]>" LIST(OBJECT("p/&a;", "1")),
        LIST(OBJECT("p/&undefined;", "1")),
        "<a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a></a>"
        "</a></a></a></a></a></a></a>",
        LIST("") "trailing"};
    struct plm_entries entries;
    struct plm_s3_page page;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse_list(bad[i], "p/", &entries, &page), PLM_CORRUPT);
        assert_null(page.next);
        plm_entries_reset(&entries);
    }
}

static void test_xml_long_text(void **state)
{
    (void)state;
    static char xml[20000];
    struct plm_entries entries;
    struct plm_s3_page page;
    int n = snprintf(xml, sizeof xml, "<ListBucketResult><Contents><Key>");

    memset(xml + n, 'k', 9000);
    snprintf(xml + n + 9000, 100, "</Key><Size>1</Size></Contents></ListBucketResult>");
    assert_int_equal(parse_list(xml, "", &entries, &page), PLM_CORRUPT);
    plm_entries_reset(&entries);
}

static void test_xml_error(void **state)
{
    (void)state;
    static const char xml[] = "<Error><Code>SlowDown</Code><Message>one\ntwo\x7f</Message>"
                              "<Inner><Code>No</Code></Inner></Error>";
    struct plm_s3_reply reply = {0};

    assert_true(plm_s3_xml_error(ctx, xml, strlen(xml), &reply));
    assert_string_equal(reply.code, "SlowDown");
    assert_string_equal(reply.message, "one?two?");
    reply = (struct plm_s3_reply){0};
    assert_true(plm_s3_xml_error(ctx, xml, 40, &reply)); /* cut short */
    assert_string_equal(reply.code, "SlowDown");
    assert_false(plm_s3_xml_error(ctx, "<html>", 6, &reply));
    assert_false(plm_s3_xml_error(ctx, "", 0, &reply));
}

static void test_xml_upload(void **state)
{
    (void)state;
    static const char xml[] = "<InitiateMultipartUploadResult><UploadId>a.b</UploadId>"
                              "</InitiateMultipartUploadResult>";
    static const char none[] = "<InitiateMultipartUploadResult/>";
    char *id = NULL;

    assert_int_equal(plm_s3_xml_upload(ctx, xml, strlen(xml), &id, &err), PLM_OK);
    assert_string_equal(id, "a.b");
    plm_free(ctx, id);
    id = NULL;
    assert_int_equal(plm_s3_xml_upload(ctx, none, strlen(none), &id, &err), PLM_CORRUPT);
    assert_null(id);
}

#define PARTS(inside) "<ListPartsResult>" inside "</ListPartsResult>"
#define PART(number) "<Part><PartNumber>" number "</PartNumber><ETag>\"e\"</ETag><Size>7</Size></Part>"

static void test_xml_parts(void **state)
{
    (void)state;
    static const char first[] = PARTS("<IsTruncated>true</IsTruncated><NextPartNumberMarker>3"
                                      "</NextPartNumberMarker>" PART("1") PART("3"));
    static const char second[] = PARTS("<IsTruncated>false</IsTruncated>" PART("10000"));
    struct plm_s3_parts parts = {.ctx = ctx};

    assert_int_equal(plm_s3_xml_parts(first, strlen(first), &parts, &err), PLM_OK);
    assert_true(parts.truncated && parts.next_marker == 3 && parts.n == 2);
    assert_int_equal(plm_s3_xml_parts(second, strlen(second), &parts, &err), PLM_OK);
    assert_true(!parts.truncated && parts.n == 3);
    assert_int_equal(parts.items[2].number, 10000);
    assert_int_equal(parts.items[2].size_bytes, 7);
    assert_string_equal(parts.items[0].etag, "\"e\"");
    plm_free(ctx, parts.items);
}

static void test_xml_parts_hostile(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "<Other/>", PARTS(PART("0")), PARTS(PART("10001")), PARTS(PART("2") PART("2")),
        PARTS(PART("x")), PARTS("<Part><PartNumber>1</PartNumber><Size>7</Size></Part>"),
        PARTS("<Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>"),
        PARTS("<IsTruncated>true</IsTruncated>"),
        PARTS("<IsTruncated>true</IsTruncated><NextPartNumberMarker>0</NextPartNumberMarker>")};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plm_s3_parts parts = {.ctx = ctx};

        assert_int_equal(plm_s3_xml_parts(bad[i], strlen(bad[i]), &parts, &err), PLM_CORRUPT);
        plm_free(ctx, parts.items);
    }
}

/* Pages without parts that all name the same marker would be asked for forever. */
static void test_xml_parts_stand_still(void **state)
{
    (void)state;
    static const char page[] = PARTS("<IsTruncated>true</IsTruncated>"
                                     "<NextPartNumberMarker>5</NextPartNumberMarker>");
    struct plm_s3_parts parts = {.ctx = ctx};

    assert_int_equal(plm_s3_xml_parts(page, strlen(page), &parts, &err), PLM_OK);
    assert_int_equal(plm_s3_xml_parts(page, strlen(page), &parts, &err), PLM_CORRUPT);
    plm_free(ctx, parts.items);
}

/* ---- checksums ------------------------------------------------------------------ */

static void test_checksums(void **state)
{
    (void)state;
    /* The check values of the catalogues, for "123456789", in base64. */
    static const char *const known[][2] = {{"crc32", "y/Q5Jg=="},
                                           {"crc32c", "4waSgw=="},
                                           {"crc64nvme", "rosUhgp5mIg="},
                                           {"sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="}};

    for (size_t i = 0; i < 4; i++) {
        assert_true(plm_s3_checksum_fits(known[i][0], known[i][1], "123456789", 9));
        assert_false(plm_s3_checksum_fits(known[i][0], known[i][1], "123456780", 9));
    }
    assert_false(plm_s3_checksum_fits("sha256", "", "123456789", 9));
    assert_true(plm_s3_checksum_fits("crc32", "AAAAAA==", NULL, 0));
    assert_true(plm_s3_checksum_fits("of the future", "x", "123456789", 9));
    assert_true(plm_s3_checksum_fits("sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suite_of_aws),
        cmocka_unit_test(test_suite_queries),
        cmocka_unit_test(test_suite_header_blanks),
        cmocka_unit_test(test_s3_examples),
        cmocka_unit_test(test_too_long_secret_is_no_signature),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_urls_of_aws),
        cmocka_unit_test(test_urls_of_endpoints),
        cmocka_unit_test(test_odd_bucket_stays_out_of_the_host),
        cmocka_unit_test(test_locations),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_options_win_over_environment),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_profile_files),
        cmocka_unit_test(test_credentials_json),
        cmocka_unit_test(test_secrets_stay_out_of_core_dumps),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_unsupported_ways_are_named),
        cmocka_unit_test(test_xml_list),
        cmocka_unit_test(test_xml_list_hostile),
        cmocka_unit_test(test_xml_long_text),
        cmocka_unit_test(test_xml_error),
        cmocka_unit_test(test_xml_upload),
        cmocka_unit_test(test_xml_parts),
        cmocka_unit_test(test_xml_parts_hostile),
        cmocka_unit_test(test_xml_parts_stand_still),
        cmocka_unit_test(test_checksums),
    };

    return cmocka_run_group_tests_name("s3", tests, setup, teardown);
}

#endif
