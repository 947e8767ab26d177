#!/usr/bin/env bash
# check_neon.sh: the kernels and exact assignment, compiled for AArch64 and run in an emulator, with and
# without the dot product instructions. Nothing else is built, so no library for AArch64 is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

cc=${NEON_CC:-aarch64-linux-gnu-gcc}
emulator=${NEON_RUN:-qemu-aarch64}
dir=build/neon
mkdir -p "$dir/xxhash"
cp /usr/include/xxhash.h "$dir/xxhash/" # the same on every processor
flags=(-std=c11 -D_GNU_SOURCE -DXXH_INLINE_ALL -O2 -ffp-contract=off -Wall -Wextra -Wshadow
    -Wno-format-truncation -Werror -Iinclude -Isrc -Itests -Itests/cross -I"$dir/xxhash")
sources=(src/simd/*.c src/core/*.c src/cluster/assign*.c src/cluster/basis.c src/cluster/panels.c)

for test in tests/kernels/test_kernels.c tests/kernels/test_filters.c tests/unit/test_assign.c; do
    program=$dir/$(basename "$test" .c)
    "$cc" "${flags[@]}" -static "$test" "${sources[@]}" -o "$program" -lm -pthread
    cpus=(max cortex-a53) # with dot products, without
    [[ $test == *assign* ]] && cpus=(max) # minutes each
    for cpu in "${cpus[@]}"; do
        echo "== $(basename "$test" .c) on $cpu"
        "$emulator" -cpu "$cpu" "$program"
    done
done
echo "check-neon: all passed"
