/* calibrate_disk.c - how fast the table is read, how its rows spread, and how fast files are written.
 *
 * Reading what is in memory is timed by the processor time of the thread, devices by the clock.
 */
#include <fcntl.h>
#include <math.h>
#include <sys/resource.h>
#include <unistd.h>

#include "build/calibrate_impl.h"
#include "simd/simd.h"
#include "store/writer.h"

#define READ_PLACES 4
#define READ_BYTES_MAX ((size_t)4 << 20)
#define READ_BYTES_MIN ((size_t)64 << 10)
#define WRITE_BYTES_MAX ((size_t)4 << 20)
#define WRITE_BYTES_MIN ((size_t)512 << 10) /* with less, only the wait would be measured */
#define WRITES 3
#define SPREAD_ROWS 32 /* of each place */

/* ---- the table --------------------------------------------------------------------------- */

/* Reads of this thread that went to a device. */
static long device_reads(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_inblock : 0;
}

/* Over pairs of rows less their mean, E|x|^2 is the sum of the eigenvalues of their covariance and
 * E(x.y)^2 the sum of their squares. */
struct spread {
    double norms, products;
    uint64_t n_norms, n_products;
};

static void add_pairs(const struct plm_kernels *kernels, float *rows, size_t n, size_t dim,
                      struct spread *s)
{
    for (size_t d = 0; d < dim; d++) {
        double mean = 0;
        for (size_t i = 0; i < n; i++)
            mean += (double)rows[i * dim + d] / (double)n;
        for (size_t i = 0; i < n; i++)
            rows[i * dim + d] -= (float)mean;
    }
    for (size_t i = 0; i < n; i++) {
        s->norms += kernels->norm2(rows + i * dim, dim);
        for (size_t j = 0; j < i; j++) {
            double product = kernels->dot_exact(rows + i * dim, rows + j * dim, dim);
            s->products += product * product;
        }
    }
    s->n_norms += n;
    s->n_products += n * (n - 1) / 2;
}

/* Seconds that it takes; of the clock when a device was waited for, else of the processor. */
static enum plm_code time_read(const struct plm_calibration *c, uint64_t first, size_t n,
                               struct plm_batch *batch, double *seconds, bool *waited)
{
    double began = plm_now_seconds(), worked = plm_thread_seconds();
    long reads = device_reads();
    enum plm_code rc = plm_source_read(c->source, c->plan->metric, first, n, batch, NULL);

    *waited = device_reads() != reads;
    *seconds = *waited ? plm_now_seconds() - began : plm_thread_seconds() - worked;
    return rc;
}

enum plm_code plm_calibrate_rows(const struct plm_calibration *c, struct plm_rates *out)
{
    const struct plm_plan *p = c->plan;
    size_t row_bytes = p->column.dim * (size_t)plm_element_bytes(p->column.element);
    size_t bytes = plm_max_size(READ_BYTES_MIN, plm_min_size(READ_BYTES_MAX, (size_t)p->column_bytes / 32));
    size_t n = plm_max_size(1, (size_t)plm_min_u64(p->n_live / READ_PLACES, bytes / READ_PLACES / row_bytes));
    struct plm_batch batch = {0};
    struct spread spread = {0};
    double seconds, again, least = INFINITY, least_again = INFINITY; /* for a place: the best, as others use the machine too */
    bool waited, waited_ever = false;
    enum plm_code rc = PLM_OK;

    for (size_t i = 0; i < READ_PLACES && p->n_live >= READ_PLACES * n; i++) {
        PLM_TRY(time_read(c, p->n_live / READ_PLACES * i, n, &batch, &seconds, &waited));
        again = seconds;
        waited_ever = waited_ever || (i > 0 && waited);
        if (waited)
            PLM_TRY(time_read(c, p->n_live / READ_PLACES * i, n, &batch, &again, &waited));
        if (i > 0) { /* the first also allocates */
            least = fmin(least, seconds);
            least_again = fmin(least_again, again);
        }
        if (p->num_partitions >= 64 && batch.n > 1)
            add_pairs(c->source->ctx->kernels, batch.rows, plm_min_size(batch.n, SPREAD_ROWS), batch.dim, &spread);
    }
    if (isfinite(least) && least > 0) {
        out->read = (double)(n * row_bytes) / least;
        out->again = (double)(n * row_bytes) / fmax(least_again, 1e-9);
        out->read_scales = !waited_ever;
    }
    if (spread.products > 0) {
        double norm = spread.norms / (double)spread.n_norms;
        out->spread = norm * norm / (spread.products / (double)spread.n_products);
    }
done:
    plm_batch_reset(&batch);
    return rc;
}

/* ---- writing ----------------------------------------------------------------------------- */

static bool write_all(int file, const uint8_t *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t done = pwrite(file, bytes + at, n - at, (off_t)at);
        if (done <= 0)
            return false;
        at += (size_t)done;
    }
    return true;
}

/* Past the page cache, as a large index is written. */
static bool goes_direct(int file, size_t n)
{
#ifdef O_DIRECT
    return fallocate(file, 0, 0, (off_t)n) == 0 && fcntl(file, F_SETFL, O_DIRECT) == 0;
#else
    (void)file, (void)n;
    return false;
#endif
}

/* A little and a lot, in turn: seconds until it is on stable storage, or, of the lot past the cache, until it is written. */
static bool time_writes(int file, bool is_direct, const uint8_t *bytes, size_t n, double *little, double *lot)
{
    *little = *lot = INFINITY;
    for (int i = 0; i < 2 * WRITES; i++) {
        double began = plm_now_seconds(), written;

        if (!write_all(file, bytes, i % 2 ? n : PLM_DIRECT_ALIGN))
            return false;
        written = plm_now_seconds();
        if (fdatasync(file) != 0)
            return false;
        if (i % 2 && is_direct)
            *lot = fmin(*lot, written - began);
        else
            *(i % 2 ? lot : little) = fmin(*(i % 2 ? lot : little), plm_now_seconds() - began);
    }
    return true;
}

/* The file has no name: nobody sees it, and it is gone when it is closed. */
enum plm_code plm_calibrate_writes(const struct plm_calibration *c, const char *dir, struct plm_rates *out)
{
    enum plm_code rc = PLM_OK;
#ifdef O_TMPFILE
    size_t n = plm_min_size(WRITE_BYTES_MAX, (size_t)plm_min_u64(c->plan->column_bytes / 64, c->plan->budget_bytes / 16));
    double little, lot;
    uint8_t *room = NULL, *bytes;
    bool is_direct;
    int file = -1;

    n = plm_max_size(n, WRITE_BYTES_MIN) / PLM_DIRECT_ALIGN * PLM_DIRECT_ALIGN;
    PLM_TRY(plm_alloc(c->source->ctx, &room, n + PLM_DIRECT_ALIGN - 1, 1, NULL));
    bytes = room + -(uintptr_t)room % PLM_DIRECT_ALIGN;
    memset(bytes, 1, n);
    file = open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (file < 0)
        goto done;
    is_direct = plm_plan_is_large(c->plan) && goes_direct(file, n);
    if (!time_writes(file, is_direct, bytes, n, &little, &lot))
        goto done;
    out->sync = little;
    if (!is_direct)
        lot = fmax(lot - little, lot / 2);
    out->write = (double)n / fmax(lot, (double)n / out->copy);
done:
    if (file >= 0)
        close(file);
    plm_free(c->source->ctx, room);
#else
    (void)c, (void)dir, (void)out;
#endif
    return rc;
}
