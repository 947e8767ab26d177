#!/usr/bin/env bash
# build.sh PRESET [TARGET...]: configure if needed, then build. Quiet unless something is wrong.
# The whole release build has the Python extension, too, and .venv then imports python/pilum.
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
options=()
if [ "$preset" = release ] && [ $# -eq 0 ]; then
    options=(-DPILUM_PYTHON=ON "-DPython_EXECUTABLE=$PWD/.venv/bin/python")
fi
# The demo comes first on some machines and configures without Python.
if [ ! -f "$dir/CMakeCache.txt" ] ||
    { [ ${#options[@]} -gt 0 ] && ! grep -qx 'PILUM_PYTHON:BOOL=ON' "$dir/CMakeCache.txt"; }; then
    mkdir -p "$dir"
    cmake --preset "$preset" "${options[@]}" >"$dir/configure.log" 2>&1 || {
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

if [ ${#options[@]} -gt 0 ]; then
    for site in .venv/lib/python*/site-packages; do
        [ "$(cat "$site/pilum.pth" 2>/dev/null)" = "$PWD/python" ] || echo "$PWD/python" >"$site/pilum.pth"
    done
fi
