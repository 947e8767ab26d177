#!/bin/sh
# exports.sh LIBRARY LIST: the symbols a shared library defines are exactly those of LIST.
set -eu
nm -D --defined-only "$1" | awk '{print $3}' | LC_ALL=C sort | diff -u "$2" - || {
    echo "exported symbols differ from $2 (- missing, + not in the list)" >&2
    exit 1
}
