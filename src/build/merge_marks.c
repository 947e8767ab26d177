/* merge_marks.c - what a shared merge leaves for the driver that comes after one that was killed.
 *
 * merging-<segment>          the token of its auxiliary.idx
 * blocks-<segment>-<first>   magic, u64 xxh3 of the token, u64 first block, u64 n, u64 xxh3[n] of the
 *                            blocks written
 *
 * Blocks on a local disk are read back before they count: a power cut may have taken them and left
 * the mark. Parts that S3 has acknowledged are there.
 */
#include "build/merge_parts.h"
#include "build/segment_dir.h"

#define TOKEN_BYTES_MAX 4096

static const char magic[8] = "PLMBLKS1";

struct mark {
    char magic[8];
    uint64_t token_xxh3, first, n;
};

struct name {
    char text[64];
};

static struct name token_name(size_t segment)
{
    struct name name;
    snprintf(name.text, sizeof name.text, "merging-%zu", segment);
    return name;
}

static struct name mark_prefix(size_t segment)
{
    struct name name;
    snprintf(name.text, sizeof name.text, "blocks-%zu-", segment);
    return name;
}

/* ---- the token -------------------------------------------------------------------------------- */

enum plm_code plm_merge_token_load(struct plm_merge *m, char **token, struct plm_err *err)
{
    struct plm_buf text;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&text, m->job->ctx, TOKEN_BYTES_MAX);
    PLM_TRY(plm_store_get(m->job->work, token_name(m->segment).text, &text, err));
    PLM_TRY(plm_strndup(m->job->ctx, (const char *)text.data, text.len, token, err));
done:
    plm_buf_reset(&text);
    return rc;
}

enum plm_code plm_merge_token_save(struct plm_merge *m, const char *token, struct plm_err *err)
{
    return plm_store_put_if_absent(m->job->work, token_name(m->segment).text, token, strlen(token), err);
}

enum plm_code plm_merge_forget(struct plm_job *job, size_t segment, struct plm_err *err)
{
    struct plm_entries all = {0};
    struct name prefix = mark_prefix(segment);
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_store_delete(job->work, token_name(segment).text, err));
    PLM_TRY(plm_store_list(job->work, "", 0, &all, err));
    for (size_t i = 0; i < all.n; i++)
        if (strncmp(all.items[i].name, prefix.text, strlen(prefix.text)) == 0)
            PLM_TRY(plm_store_delete(job->work, all.items[i].name, err));
done:
    plm_entries_reset(&all);
    return rc;
}

/* ---- marks ------------------------------------------------------------------------------------ */

static enum plm_code need_done(struct plm_merge *m, struct plm_err *err)
{
    return m->done ? PLM_OK : plm_calloc(m->job->ctx, &m->done, (size_t)m->layout.n_blocks, sizeof *m->done, err);
}

enum plm_code plm_merge_mark(struct plm_merge *m, uint64_t first, uint64_t n, const uint64_t *hashes,
                             struct plm_err *err)
{
    struct mark mark = {.token_xxh3 = m->token_xxh3, .first = first, .n = n};
    struct name name = mark_prefix(m->segment);
    size_t at = strlen(name.text);
    struct plm_buf bytes;
    enum plm_code rc = PLM_OK;

    memcpy(mark.magic, magic, sizeof magic);
    snprintf(name.text + at, sizeof name.text - at, "%" PRIu64, first);
    plm_buf_init(&bytes, m->job->ctx, SIZE_MAX);
    PLM_TRY(plm_buf_add(&bytes, &mark, sizeof mark, err));
    PLM_TRY(plm_buf_add(&bytes, hashes, (size_t)n * sizeof *hashes, err));
    PLM_TRY(plm_store_put(m->job->work, name.text, bytes.data, bytes.len, err));
done:
    plm_buf_reset(&bytes);
    return rc;
}

/* A mark that is not one, of another upload, or of blocks that do not exist, counts for nothing. */
static void take_mark(struct plm_merge *m, const struct plm_buf *bytes)
{
    struct mark mark;

    if (bytes->len < sizeof mark)
        return;
    memcpy(&mark, bytes->data, sizeof mark);
    if (memcmp(mark.magic, magic, sizeof magic) != 0 || mark.token_xxh3 != m->token_xxh3 ||
        mark.n != (bytes->len - sizeof mark) / sizeof(uint64_t) || mark.first > m->layout.n_blocks ||
        mark.n > m->layout.n_blocks - mark.first)
        return;
    if (mark.n > 0)
        memcpy(m->done + mark.first, bytes->data + sizeof mark, (size_t)mark.n * sizeof(uint64_t));
}

enum plm_code plm_merge_marks_load(struct plm_merge *m, struct plm_err *err)
{
    struct plm_entries all = {0};
    struct name prefix = mark_prefix(m->segment);
    struct plm_buf bytes;
    enum plm_code rc = PLM_OK;

    plm_buf_init(&bytes, m->job->ctx, sizeof(struct mark) + (size_t)m->layout.n_blocks * sizeof(uint64_t));
    PLM_TRY(need_done(m, err));
    PLM_TRY(plm_store_list(m->job->work, "", 0, &all, err));
    for (size_t i = 0; i < all.n; i++) {
        if (strncmp(all.items[i].name, prefix.text, strlen(prefix.text)) != 0 ||
            all.items[i].size_bytes > bytes.max_bytes)
            continue;
        bytes.len = 0;
        PLM_TRY(plm_store_get(m->job->work, all.items[i].name, &bytes, err));
        take_mark(m, &bytes);
    }
done:
    plm_buf_reset(&bytes);
    plm_entries_reset(&all);
    return rc;
}

enum plm_code plm_merge_know(struct plm_merge *m, const uint8_t *hashes, uint64_t n, struct plm_err *err)
{
    if (n != m->layout.n_blocks)
        return plm_fail(err, PLM_CORRUPT, "merge: %" PRIu64 " hashes of %" PRIu64 " blocks", n, m->layout.n_blocks);
    enum plm_code rc = need_done(m, err);
    if (rc == PLM_OK && n > 0)
        memcpy(m->done, hashes, (size_t)n * sizeof *m->done);
    return rc;
}

const uint64_t *plm_merge_known(const struct plm_merge *m)
{
    return m->done;
}

/* ---- reading back ------------------------------------------------------------------------------ */

static enum plm_code open_written(struct plm_merge *m, struct plm_err *err)
{
    char *dir = NULL, *path = NULL;
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_segment_made_dir(m->job, m->segment, &dir, err));
    PLM_TRY(plm_format(m->job->ctx, &path, err, "%s/" PLM_AUX_FILE, dir));
    PLM_TRY(plm_file_open(m->job->root, path, 0, &m->written, err));
done:
    plm_free(m->job->ctx, dir);
    plm_free(m->job->ctx, path);
    return rc;
}

enum plm_code plm_merge_is_written(struct plm_merge *m, uint64_t block, bool *yes, struct plm_err *err)
{
    const struct plm_layout *l = &m->layout;
    uint64_t at = plm_layout_rowid_at(l, block);
    uint64_t end = block + 1 < l->n_blocks ? plm_layout_rowid_at(l, block + 1) : plm_layout_end(l) + m->tail.len;
    uint8_t *bytes = NULL;
    enum plm_code rc = PLM_OK;

    *yes = m->done && m->done[block];
    if (!*yes || !plm_store_is_local(m->job->root))
        return PLM_OK;
    if (!m->written)
        PLM_TRY(open_written(m, err));
    PLM_TRY(plm_alloc(m->job->ctx, &bytes, (size_t)(end - at), 1, err));
    PLM_TRY(plm_file_read(m->written, at, (size_t)(end - at), bytes, err));
    *yes = plm_xxh3(bytes, (size_t)(end - at)) == m->done[block];
done:
    plm_free(m->job->ctx, bytes);
    return rc;
}
