/* biases.c - what keeps the children of a node to sizes that are alike.
 * Source: Ahalt, Krishnamurthy, Chen, Melton, Competitive learning algorithms for vector quantization (1990). */
#include <math.h>

#include "cluster/train_math.h"

#define BALANCE 0.7   /* of what a split is worth: the bias of a child of average size */
#define PACE 0.3      /* at 1, large and small children would change places in each round */
#define BIAS_MAX 1e38 /* a float */

/* Children [first, first + n) of one node. */
struct family {
    size_t first, n;
    double rows;
    double *middle; /* [r] mean of the rows; for dot its direction, or 0 */
};

static void find_middle(struct family *f, const struct plm_partial *sums, bool dot)
{
    size_t r = sums->head->dim;
    double norm2 = 0, scale;

    f->rows = 0;
    memset(f->middle, 0, r * sizeof *f->middle);
    for (size_t i = f->first; i < f->first + f->n; i++) {
        f->rows += (double)sums->sizes[i];
        for (size_t d = 0; d < r; d++)
            f->middle[d] += sums->sums[i * r + d];
    }
    for (size_t d = 0; d < r; d++)
        norm2 += f->middle[d] * f->middle[d];
    scale = dot ? sqrt(norm2) : f->rows;
    for (size_t d = 0; d < r && scale > 0; d++)
        f->middle[d] /= scale;
}

/* What a row of child i gains by its own mean, against the middle; for dot, of its product. */
static double gain_of(const struct family *f, const struct plm_partial *sums, size_t i, bool dot)
{
    size_t r = sums->head->dim;
    double n = (double)sums->sizes[i], moved = 0, norm2 = 0, product = 0;

    for (size_t d = 0; d < r; d++) {
        double mean = sums->sums[i * r + d] / n, move = mean - f->middle[d];

        moved += move * move;
        norm2 += mean * mean;
        product += mean * f->middle[d];
    }
    return dot ? fmax(0, sqrt(norm2) - product) : moved / 2;
}

/* Of a row on average: its gain, or what is left of its loss where that is less. The mean is of square roots: a few
 * outliers do not decide it. */
static double worth_of(const struct family *f, const struct plm_step *step, const struct plm_partial *sums)
{
    bool dot = step->head.metric == PLM_DOT;
    double roots = 0;

    for (size_t i = f->first; i < f->first + f->n; i++) {
        double n = (double)sums->sizes[i], left;

        if (sums->sizes[i] == 0)
            continue;
        left = fabs((double)sums->losses[i]) / step->head.loss_scale / n;
        roots += n * sqrt(fmin(gain_of(f, sums, i, dot), dot ? left : left / 2));
    }
    return roots / f->rows * (roots / f->rows);
}

enum plm_code plm_take_biases(struct plm_ctx *ctx, const struct plm_step *step, const struct plm_partial *sums,
                              float *biases, struct plm_err *err)
{
    const struct plm_level *level = &step->levels[step->head.n_levels - 1];
    struct family f = {0};
    enum plm_code rc = PLM_OK;

    PLM_TRY(plm_alloc(ctx, &f.middle, sums->head->dim, sizeof *f.middle, err));
    for (size_t node = 0; node < level->n_nodes; f.first += level->fan[node++]) {
        f.n = level->fan[node];
        find_middle(&f, sums, step->head.metric == PLM_DOT);
        if (f.rows == 0)
            continue;
        double each = BALANCE * worth_of(&f, step, sums) * (double)f.n / f.rows; /* for each row of a child */

        for (size_t i = f.first; i < f.first + f.n; i++)
            biases[i] += (float)(PACE * (fmin(each * (double)sums->sizes[i], BIAS_MAX) - (double)biases[i]));
    }
done:
    plm_free(ctx, f.middle);
    return rc;
}
