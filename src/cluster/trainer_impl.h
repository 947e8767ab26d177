/* trainer_impl.h - the trainer's state and what each answer leads to; inside the cluster room. */
#ifndef PLM_TRAINER_IMPL_H
#define PLM_TRAINER_IMPL_H

#include "cluster/train_math.h"

#define PLM_FEW_CENTROIDS 256 /* so few are cheap to better: more rounds, for smaller gains */
#define PLM_LLOYD_MAX 10 /* two to four are the rule; skewed data gains from more */

/* All that is large lies in the step: a checkpoint is these few numbers and the message. */
struct plm_trainer {
    struct plm_ctx *ctx;
    struct plm_train_options options; /* metric is L2 or DOT */
    uint32_t n_absorbed, round; /* round: of the loop in work */
    uint32_t n_requotas;        /* of this level */
    bool done;
    double loss_before;         /* mean loss of the round before */
    double losses[PLM_LLOYD_MAX + 1];
    size_t n_losses;
    struct plm_buf step;
    char what[64];
};
/* What each answer leads to; `step` is the trainer's, parsed. They replace or change it. */
PLM_MUST_CHECK enum plm_code
plm_trainer_take_rows(struct plm_trainer *t, const struct plm_step *step,
                      const struct plm_partial *picks, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_seeds(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *picks, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_split(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *sums, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_leaves(struct plm_trainer *t, const struct plm_step *step,
                        const struct plm_partial *sums, struct plm_err *err);
PLM_MUST_CHECK enum plm_code
plm_trainer_take_lloyd(struct plm_trainer *t, const struct plm_step *step,
                       const struct plm_partial *sums, struct plm_err *err);
/* The head of the step after `step`: the same but for number and kind. */
struct plm_step_head plm_step_after(const struct plm_step *step, enum plm_step_kind kind);
/* Mean loss of a round, and whether it is hardly below the one before (a part `least` of it; for
 * dot, of the mean product). */
double plm_mean_loss(const struct plm_step *step, const int64_t *losses, size_t n);
bool plm_gain_is_small(uint32_t metric, double before, double now, double least);
/* Puts *next in the place of the step. */
void plm_trainer_replace(struct plm_trainer *t, struct plm_buf *next);
void plm_trainer_describe(struct plm_trainer *t); /* fills `what` */

#endif
