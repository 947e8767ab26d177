/* build_index.c - an IVF_PQ index through pilum.h.
 *
 *   cc build_index.c $(pkg-config --cflags --libs pilum) -o build_index
 *   ./build_index packages.lance vec
 */
#include <stdio.h>

#include <pilum/pilum.h>

static void show(void *user, const struct plm_progress *p)
{
    (void)user;
    fprintf(stderr, "\r%-8s %llu of %llu %s   ", p->phase, (unsigned long long)p->done,
            (unsigned long long)p->total, p->unit);
}

int main(int argc, char **argv)
{
    struct plm_table_ref table = {.uri = argc > 1 ? argv[1] : "packages.lance"};
    struct plm_ctx_options machine;
    struct plm_build_options build;
    struct plm_ctx *ctx = NULL;
    struct plm_err err = {0};
    char *report = NULL;

    plm_ctx_options_default(&machine);
    machine.progress = show;
    plm_build_options_default(&build);
    build.column = argc > 2 ? argv[2] : "vec";
    build.type = "IVF_PQ";
    build.metric = "cosine";

    if (plm_ctx_create(&machine, &ctx, &err) == PLM_OK &&
        plm_create_index(ctx, &table, &build, &report, &err) == PLM_OK)
        puts(report);
    else
        fprintf(stderr, "%s: %s\n", plm_code_text(err.code), err.message);

    plm_string_free(report);
    plm_ctx_destroy(ctx);
    return err.code == PLM_OK ? 0 : 1;
}
