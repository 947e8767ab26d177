#!/usr/bin/env bash
# check.sh [--all]: every test. All parts run even if one fails; the status tells at the end,
# and the last words are the runners' own. A skipped test is a failed one.
set -uo pipefail
cd "$(dirname "$0")/.."

all=no
[ "${1:-}" = --all ] && all=yes
jobs=${JOBS:-$(nproc)}
failed=()

part() {
    local name=$1
    shift
    echo
    echo "== $name"
    "$@" || failed+=("$name")
}

# ctest in one build. A disabled or skipped test ("Not Run") fails the part.
run_ctest() {
    local dir=build/$1 log
    shift
    log=$dir/ctest.log
    (cd "$dir" && "${wrap[@]}" ctest --output-on-failure --no-tests=error -j "$jobs" "$@") | tee "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || return 1
    ! grep -qE '\*\*\*(Skipped|Not Run)' "$log"
}

build_and_test() {
    local preset=$1
    shift
    tools/build.sh "$preset" && run_ctest "$preset" "$@"
}

wrap=(env)
# ThreadSanitizer needs the address layout without much randomness on newer kernels.
tsan_wrap=(env)
if command -v setarch >/dev/null && setarch -R true 2>/dev/null; then
    tsan_wrap=(setarch -R)
fi
export UBSAN_OPTIONS=print_stacktrace=1
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export TSAN_OPTIONS=halt_on_error=1

part "release build" tools/build.sh release
[ $all = yes ] && wrap=(env PILUM_RACE_ROUNDS=1000)
part "C tests" build_and_test dev
wrap=(env)
part "C tests, unoptimised kernels" build_and_test unopt -L kernels
part "C tests, address and undefined behaviour sanitizers" build_and_test asan
wrap=("${tsan_wrap[@]}")
part "C tests, thread sanitizer" build_and_test tsan -L unit

select=(-m "not full")
[ $all = yes ] && select=()
export PILUM_NO_SKIP=1
part "Python tests, against stock pylance" \
    .venv/bin/python -m pytest -q -p no:cacheprovider "${select[@]}" tests/python tests/peer tests/ray

if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
