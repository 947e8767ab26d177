/* kernel_bench.h - the parts of kernel_bench. */
#ifndef KERNEL_BENCH_H
#define KERNEL_BENCH_H

#include <stdbool.h>
#include <stddef.h>

/* n bytes aligned to 64, or the end of the program. */
void *bench_bytes(size_t n);

/* kernel_bench_tables.c: every kernel of every table. 0 when all agree with scalar. */
int bench_kernels(bool quick);

#endif
