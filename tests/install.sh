#!/bin/sh
# install.sh BUILD_DIR SOURCE_DIR: the installed tree can be moved, and then still serves a
# program built with pkg-config and one built with the CMake package, shared and static. One of
# them builds an index, searches it and has it checked.
set -eu
build=$1
source=$2
work=$build/tests/install
rm -rf "$work"
mkdir -p "$work/project"

cmake --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved"
for unwanted in core store lance; do
    if [ -e "$work/moved/include/$unwanted" ]; then
        echo "an inner header was installed" >&2
        exit 1
    fi
done

pc=$(find "$work/moved" -name pilum.pc)
libdir=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir"
# shellcheck disable=SC2046 # the flags are words
cc -std=c11 "$source/examples/build_index.c" $(pkg-config --cflags --libs pilum) -o "$work/by_pkg_config"
# shellcheck disable=SC2046
cc -std=c11 -Wall -Wextra -Werror "$source/tests/user_program.c" $(pkg-config --cflags --libs pilum) \
    -o "$work/user_program"
cp -r "$source/tests/format/good/bare" "$work/table.lance"
"$work/user_program" "$work/table.lance"

cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.21)
project(user C)
find_package(pilum 0.1 REQUIRED)
add_executable(with_shared ${EXAMPLE})
target_link_libraries(with_shared pilum::pilum)
add_executable(with_static ${EXAMPLE})
target_link_libraries(with_static pilum::pilum_static)
END
cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$work/moved" \
    -DEXAMPLE="$source/examples/build_index.c" >"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/project/build" >"$work/build.log" || { cat "$work/build.log"; exit 1; }

# Each one starts, reaches the library and comes back with its error.
for program in "$work/by_pkg_config" "$work/project/build/with_shared" "$work/project/build/with_static"; do
    said=$("$program" "$work/no-such.lance" 2>&1) && { echo "$program found a table that is not there" >&2; exit 1; }
    case $said in
    *no-such.lance*) ;;
    *)
        echo "$program said: $said" >&2
        exit 1
        ;;
    esac
done
