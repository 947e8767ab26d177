#!/usr/bin/env bash
# fuzz.sh: each libFuzzer target for FUZZ_SECONDS over its corpus. New inputs go to
# build/fuzz/corpus/; a crash stays in build/fuzz/ and belongs into tests/fuzz/corpus/.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/build.sh fuzz
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    seeds=tests/fuzz/corpus/${name#fuzz_}
    found=build/fuzz/corpus/${name#fuzz_}
    mkdir -p "$found"
    [ -d "$seeds" ] || seeds=
    echo "== $name"
    "build/fuzz/tests/$name" -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 \
        -artifact_prefix=build/fuzz/ "$found" $seeds
done
