/* parallel.c - a loop over tasks on several threads. */
#include <pthread.h>
#include <stdlib.h>

#include "core/core.h"

struct loop {
    struct plm_ctx *ctx;
    plm_task_fn *fn;
    void *arg;
    size_t n_tasks;
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock; /* guards what follows */
    size_t failed_task;
    enum plm_code rc;
    struct plm_err err;
};

struct worker {
    struct loop *loop;
    unsigned number;
};

static _Thread_local bool inside_parallel;

static void keep_lowest_error(struct loop *loop, size_t task, enum plm_code rc,
                              const struct plm_err *err)
{
    pthread_mutex_lock(&loop->lock);
    if (loop->rc == PLM_OK || task < loop->failed_task) {
        loop->rc = rc;
        loop->failed_task = task;
        loop->err = *err;
    }
    pthread_mutex_unlock(&loop->lock);
    atomic_store(&loop->failed, true);
}

static void *run_tasks(void *arg)
{
    struct worker *w = arg;
    struct loop *loop = w->loop;
    bool outer = inside_parallel;

    inside_parallel = true;
    while (!atomic_load(&loop->failed)) {
        size_t task = atomic_fetch_add(&loop->next, 1);
        struct plm_err err = {0};
        if (task >= loop->n_tasks)
            break;
        enum plm_code rc = plm_check_cancel(loop->ctx, &err);
        if (rc == PLM_OK)
            rc = loop->fn(loop->arg, task, w->number, &err);
        if (rc != PLM_OK)
            keep_lowest_error(loop, task, rc, &err);
    }
    inside_parallel = outer;
    return NULL;
}

enum plm_code plm_parallel(struct plm_ctx *ctx, size_t n_tasks, plm_task_fn *fn, void *arg,
                           struct plm_err *err)
{
    struct loop loop = {.ctx = ctx, .fn = fn, .arg = arg, .n_tasks = n_tasks};
    size_t n_threads = inside_parallel ? 1 : plm_min_size(ctx->threads, n_tasks);
    pthread_t *threads = NULL;
    struct worker *workers = NULL;
    size_t n_started = 0;
    enum plm_code rc = PLM_OK;

    pthread_mutex_init(&loop.lock, NULL);
    if (n_threads > 1) {
        PLM_TRY(plm_alloc(ctx, &threads, n_threads, sizeof *threads, err));
        PLM_TRY(plm_alloc(ctx, &workers, n_threads, sizeof *workers, err));
        /* Worker 0 is the calling thread. Fewer threads than wanted is fine. */
        for (size_t i = 1; i < n_threads; i++) {
            workers[i] = (struct worker){&loop, (unsigned)i};
            if (pthread_create(&threads[i], NULL, run_tasks, &workers[i]) != 0)
                break;
            n_started = i;
        }
    }
    run_tasks(&(struct worker){&loop, 0});
    for (size_t i = 1; i <= n_started; i++)
        pthread_join(threads[i], NULL);
    rc = loop.rc;
    if (rc != PLM_OK && err)
        *err = loop.err;
done:
    pthread_mutex_destroy(&loop.lock);
    plm_free(ctx, threads);
    plm_free(ctx, workers);
    return rc;
}
