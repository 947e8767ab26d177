#!/usr/bin/env bash
# build.sh PRESET [TARGET...]: configure if needed, then build. Quiet unless something is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
shift
jobs=${JOBS:-$(nproc)}
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then
    export CMAKE_GENERATOR=Ninja
fi
dir=build
[ "$preset" = release ] || dir=build/$preset

# A CMake cache remembers absolute paths: a tree that was moved starts afresh.
if [ -f "$dir/CMakeCache.txt" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$dir/CMakeCache.txt"; then
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
fi
if [ ! -f "$dir/CMakeCache.txt" ]; then
    mkdir -p "$dir"
    cmake --preset "$preset" >"$dir/configure.log" 2>&1 || {
        cat "$dir/configure.log"
        exit 1
    }
fi
echo "building $preset"
targets=()
for target in "$@"; do
    targets+=(--target "$target")
done
cmake --build "$dir" -j "$jobs" "${targets[@]}"
