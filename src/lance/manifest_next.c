/* manifest_next.c - the next version's manifest, made from the latest one's bytes.
 *
 * Whatever is not ours to change is copied as it is, in order, unknown fields too: a newer
 * Lance may have put things there that we have never heard of (lance-format.md 1.7).
 */
#include "lance/commit_impl.h"

/* Written anew, or an offset into the old file. */
static bool is_replaced(uint32_t number)
{
    return number == 3 || number == 6 || number == 7 || number == 12 || number == 21 || number == 23;
}

/* A message behind its length word; its place in the file goes to *at. */
static enum plm_code add_section(struct plm_buf *buf, const struct plm_buf *message, uint64_t *at,
                                 struct plm_err *err)
{
    uint8_t word[4];
    enum plm_code rc;

    *at = buf->len;
    plm_put_le32(word, (uint32_t)message->len); /* PLM_MANIFEST_BYTES_MAX fits */
    rc = plm_buf_add(buf, word, sizeof word, err);
    return rc != PLM_OK ? rc : plm_buf_add(buf, message->data, message->len, err);
}

static enum plm_code put_index_section(const struct plm_manifest *latest, const char *index_name,
                                       const struct plm_view *added, size_t n_added,
                                       struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    size_t at = 0; /* of the index in latest->indices */

    if (latest->index_section.data) {
        PLM_PB_EACH(latest->index_section) {
            if (field.number == 1 && strcmp(latest->indices[at++].name, index_name) == 0)
                continue;
            PLM_TRY(plm_buf_add(buf, field.whole.data, field.whole.len, err));
        }
        PLM_TRY(rc);
    }
    for (size_t i = 0; i < n_added; i++)
        PLM_TRY(plm_pb_put_bytes(buf, 1, added[i].data, added[i].len, err));
done:
    return rc;
}

static enum plm_code put_timestamp(struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    uint64_t now_ms = plm_unix_millis();
    struct plm_buf message;

    plm_buf_init(&message, buf->ctx, 64);
    PLM_TRY(plm_pb_put_u64(&message, 1, now_ms / 1000, err));
    PLM_TRY(plm_pb_put_u64(&message, 2, now_ms % 1000 * 1000000, err));
    PLM_TRY(plm_pb_put_message(buf, 7, &message, err));
done:
    plm_buf_reset(&message);
    return rc;
}

static enum plm_code put_manifest(const struct plm_manifest *latest, uint64_t index_section_at,
                                  uint64_t transaction_at, const char *transaction_file,
                                  struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;

    PLM_PB_EACH(latest->message) {
        if (!is_replaced(field.number))
            PLM_TRY(plm_buf_add(buf, field.whole.data, field.whole.len, err));
    }
    PLM_TRY(rc);
    PLM_TRY(plm_pb_put_u64(buf, 3, latest->version + 1, err));
    PLM_TRY(plm_pb_put_u64(buf, 6, index_section_at, err)); /* also when it is 0 */
    PLM_TRY(put_timestamp(buf, err));
    if (transaction_file)
        PLM_TRY(plm_pb_put_str(buf, 12, transaction_file, err));
    PLM_TRY(plm_pb_put_u64(buf, 23, transaction_at, err));
done:
    return rc;
}

static enum plm_code put_footer(struct plm_buf *buf, uint64_t manifest_at, struct plm_err *err)
{
    uint8_t footer[16] = {[12] = 'L', 'A', 'N', 'C'};

    plm_put_le64(footer, manifest_at);
    plm_put_le16(footer + 10, 2); /* major 0, minor 2 */
    return plm_buf_add(buf, footer, sizeof footer, err);
}

enum plm_code plm_manifest_next(const struct plm_manifest *latest, const char *index_name,
                                const struct plm_view *added, size_t n_added,
                                struct plm_view transaction, const char *transaction_file,
                                struct plm_buf *buf, struct plm_err *err)
{
    enum plm_code rc = PLM_OK;
    struct plm_buf section;
    struct plm_buf borrowed = {.data = (uint8_t *)transaction.data, .len = transaction.len};
    uint64_t index_section_at, transaction_at, manifest_at;

    plm_buf_init(&section, buf->ctx, PLM_MANIFEST_BYTES_MAX);
    PLM_TRY(put_index_section(latest, index_name, added, n_added, &section, err));
    PLM_TRY(add_section(buf, &section, &index_section_at, err));
    PLM_TRY(add_section(buf, &borrowed, &transaction_at, err));
    section.len = 0;
    PLM_TRY(put_manifest(latest, index_section_at, transaction_at, transaction_file, &section, err));
    PLM_TRY(add_section(buf, &section, &manifest_at, err));
    PLM_TRY(put_footer(buf, manifest_at, err));
done:
    plm_buf_reset(&section);
    return rc;
}
