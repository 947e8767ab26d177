/* s3_sign.c - canonical request, string to sign, signature. */
#ifdef PLM_WITH_S3

#include "store/s3_sign.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <time.h>

void plm_s3_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

enum plm_code plm_s3_sha256(const void *bytes, size_t n, uint8_t out[32], struct plm_err *err)
{
    if (EVP_Digest(n ? bytes : "", n, out, NULL, EVP_sha256(), NULL) != 1)
        return plm_fail(err, PLM_IO, "s3: OpenSSL refuses SHA-256");
    return PLM_OK;
}

void plm_s3_date(int64_t unix_ms, char out[17])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm = {0};

    gmtime_r(&seconds, &tm);
    if (strftime(out, 17, "%Y%m%dT%H%M%SZ", &tm) != 16)
        memcpy(out, "19700101T000000Z", 17); /* a year beyond 9999: the server will refuse it */
}

static bool is_unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

enum plm_code plm_s3_encode(struct plm_buf *out, const char *text, bool keep_slash,
                            struct plm_err *err)
{
    static const char digits[] = "0123456789ABCDEF";
    enum plm_code rc = PLM_OK;

    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        char escaped[3] = {'%', digits[*p >> 4], digits[*p & 15]};

        if (is_unreserved(*p) || (*p == '/' && keep_slash))
            PLM_TRY(plm_buf_add(out, p, 1, err));
        else
            PLM_TRY(plm_buf_add(out, escaped, 3, err));
    }
done:
    return rc;
}

static enum plm_code add_text(struct plm_buf *out, const char *text, struct plm_err *err)
{
    return plm_buf_add(out, text, strlen(text), err);
}

/* One encoded parameter inside a scratch buffer: name at `name`, value at `value`. */
struct parameter {
    const struct plm_buf *text;
    size_t name, value; /* offsets of NUL-terminated strings */
};

static int by_name_then_value(const void *a, const void *b)
{
    const struct parameter *x = a, *y = b;
    const char *text = (const char *)x->text->data;
    int order = strcmp(text + x->name, text + y->name);

    return order ? order : strcmp(text + x->value, text + y->value);
}

enum plm_code plm_s3_query(struct plm_buf *out, const struct plm_s3_pair *query, size_t n,
                           struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct parameter order[PLM_S3_PAIRS_MAX];
    struct plm_buf text;

    PLM_ASSERT(n <= PLM_S3_PAIRS_MAX);
    plm_buf_init(&text, out->ctx, out->max_bytes);
    for (size_t i = 0; i < n; i++) {
        order[i].text = &text;
        order[i].name = text.len;
        PLM_TRY(plm_s3_encode(&text, query[i].name, false, err));
        PLM_TRY(plm_buf_add(&text, "", 1, err));
        order[i].value = text.len;
        PLM_TRY(plm_s3_encode(&text, query[i].value, false, err));
        PLM_TRY(plm_buf_add(&text, "", 1, err));
    }
    if (n > 1)
        qsort(order, n, sizeof order[0], by_name_then_value);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            PLM_TRY(add_text(out, "&", err));
        PLM_TRY(add_text(out, (const char *)text.data + order[i].name, err));
        PLM_TRY(add_text(out, "=", err));
        PLM_TRY(add_text(out, (const char *)text.data + order[i].value, err));
    }
done:
    plm_buf_reset(&text);
    return rc;
}

/* The value without blanks at its ends and with inner runs of blanks made one. */
static enum plm_code add_trimmed(struct plm_buf *out, const char *value, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    bool blank = false, any = false;

    for (const char *p = value; *p; p++) {
        if (*p == ' ' || *p == '\t') {
            blank = true;
            continue;
        }
        if (blank && any)
            PLM_TRY(plm_buf_add(out, " ", 1, err));
        PLM_TRY(plm_buf_add(out, p, 1, err));
        blank = false;
        any = true;
    }
done:
    return rc;
}

static int by_header_name(const void *a, const void *b)
{
    const struct plm_s3_pair *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static void sort_headers(const struct plm_s3_signing *what, struct plm_s3_pair *sorted)
{
    PLM_ASSERT(what->n_headers <= PLM_S3_PAIRS_MAX);
    memcpy(sorted, what->headers, what->n_headers * sizeof *sorted);
    qsort(sorted, what->n_headers, sizeof *sorted, by_header_name);
}

static enum plm_code add_signed_names(struct plm_buf *out, const struct plm_s3_pair *sorted,
                                      size_t n, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            PLM_TRY(add_text(out, ";", err));
        PLM_TRY(add_text(out, sorted[i].name, err));
    }
done:
    return rc;
}

static enum plm_code add_canonical(struct plm_buf *out, const struct plm_s3_signing *what, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_pair sorted[PLM_S3_PAIRS_MAX];

    sort_headers(what, sorted);
    PLM_TRY(add_text(out, what->method, err));
    PLM_TRY(add_text(out, "\n", err));
    PLM_TRY(add_text(out, what->path, err));
    PLM_TRY(add_text(out, "\n", err));
    PLM_TRY(plm_s3_query(out, what->query, what->n_query, err));
    PLM_TRY(add_text(out, "\n", err));
    for (size_t i = 0; i < what->n_headers; i++) {
        PLM_TRY(add_text(out, sorted[i].name, err));
        PLM_TRY(add_text(out, ":", err));
        PLM_TRY(add_trimmed(out, sorted[i].value, err));
        PLM_TRY(add_text(out, "\n", err));
    }
    PLM_TRY(add_text(out, "\n", err));
    PLM_TRY(add_signed_names(out, sorted, what->n_headers, err));
    PLM_TRY(add_text(out, "\n", err));
    PLM_TRY(add_text(out, what->payload_sha256, err));
done:
    return rc;
}

/* key and out may be the same array. */
static bool hmac(const uint8_t *key, size_t key_len, const void *text, size_t n, uint8_t out[32])
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    bool ok = HMAC(EVP_sha256(), key, (int)key_len, text, n, mac, &len) != NULL && len == 32;

    if (ok)
        memcpy(out, mac, 32);
    OPENSSL_cleanse(mac, sizeof mac);
    return ok;
}

/* The day's key for one region and service, then the signature of `to_sign`. */
static bool sign_text(const struct plm_s3_signing *what, const char *secret, const char *to_sign,
                      size_t n, uint8_t out[32])
{
    uint8_t key[32];
    char first[4 + 512];
    int len = snprintf(first, sizeof first, "AWS4%s", secret);
    bool ok = len > 0 && (size_t)len < sizeof first;

    ok = ok && hmac((const uint8_t *)first, (size_t)len, what->date, 8, key) &&
         hmac(key, 32, what->region, strlen(what->region), key) &&
         hmac(key, 32, what->service, strlen(what->service), key) &&
         hmac(key, 32, "aws4_request", 12, key) && hmac(key, 32, to_sign, n, out);
    OPENSSL_cleanse(first, sizeof first);
    OPENSSL_cleanse(key, sizeof key);
    return ok;
}

static enum plm_code add_line(struct plm_buf *out, const char *a, const char *b,
                              struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(add_text(out, a, err));
    PLM_TRY(add_text(out, b, err));
done:
    return rc;
}

static enum plm_code add_scope(struct plm_buf *out, const struct plm_s3_signing *what,
                               struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_buf_add(out, what->date, 8, err));
    PLM_TRY(add_line(out, "/", what->region, err));
    PLM_TRY(add_line(out, "/", what->service, err));
    PLM_TRY(add_text(out, "/aws4_request", err));
done:
    return rc;
}

static enum plm_code add_string_to_sign(struct plm_buf *out, const struct plm_s3_signing *what,
                                        struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf canonical;
    uint8_t digest[32];
    char hex[65];

    plm_buf_init(&canonical, out->ctx, out->max_bytes);
    PLM_TRY(add_canonical(&canonical, what, err));
    PLM_TRY(plm_s3_sha256(canonical.data, canonical.len, digest, err));
    plm_s3_hex(digest, 32, hex);
    PLM_TRY(add_line(out, "AWS4-HMAC-SHA256\n", what->date, err));
    PLM_TRY(add_text(out, "\n", err));
    PLM_TRY(add_scope(out, what, err));
    PLM_TRY(add_line(out, "\n", hex, err));
done:
    if (canonical.data)
        OPENSSL_cleanse(canonical.data, canonical.len); /* holds the session token */
    plm_buf_reset(&canonical);
    return rc;
}

enum plm_code plm_s3_authorization(struct plm_buf *out, const struct plm_s3_signing *what,
                                   const char *key_id, const char *secret, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_s3_pair sorted[PLM_S3_PAIRS_MAX];
    struct plm_buf to_sign;
    uint8_t mac[32];
    char hex[65];

    plm_buf_init(&to_sign, out->ctx, out->max_bytes);
    PLM_TRY(add_string_to_sign(&to_sign, what, err));
    if (!sign_text(what, secret, (const char *)to_sign.data, to_sign.len, mac))
        PLM_TRY(plm_fail(err, PLM_ARG, "s3: cannot sign: the secret key is longer than 511 bytes "
                                       "or OpenSSL refuses HMAC-SHA256"));
    plm_s3_hex(mac, 32, hex);
    sort_headers(what, sorted);
    PLM_TRY(add_line(out, "AWS4-HMAC-SHA256 Credential=", key_id, err));
    PLM_TRY(add_text(out, "/", err));
    PLM_TRY(add_scope(out, what, err));
    PLM_TRY(add_text(out, ", SignedHeaders=", err));
    PLM_TRY(add_signed_names(out, sorted, what->n_headers, err));
    PLM_TRY(add_line(out, ", Signature=", hex, err));
    PLM_TRY(plm_buf_add(out, "", 1, err));
done:
    plm_buf_reset(&to_sign);
    return rc;
}

#endif
