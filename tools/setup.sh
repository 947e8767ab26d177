#!/usr/bin/env bash
# setup.sh WHAT: install what is missing for `build`, `demo`, `fuzz`, `neon` or `all`.
#
# Debian packages go in by name with apt-get, as root; without root the one line that is
# missing is printed and the exit status is 1. Python packages go into .venv. When nothing
# is missing it takes a moment and needs neither root nor a network.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
python=${PYTHON:-python3}

packages=(gcc libc6-dev cmake ninja-build pkg-config ca-certificates
    libjansson-dev libxxhash-dev libzstd-dev liblz4-dev libroaring-dev
    libcurl4-openssl-dev libssl-dev libexpat1-dev)
requirements=
case $what in
build)
    packages+=(python3-dev)
    requirements=tools/requirements-build.txt
    ;;
demo) requirements=tools/requirements-demo.txt ;;
fuzz) packages+=(libcmocka-dev clang) ;;
neon) packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user) ;;
all)
    packages+=(libcmocka-dev python3-dev)
    requirements=tools/requirements.txt
    ;;
*)
    echo "setup.sh: unknown set '$what'; expected build, demo, fuzz, neon or all" >&2
    exit 2
    ;;
esac

# A venv needs ensurepip, which Debian keeps in python3-venv.
if [ -n "$requirements" ] && [ ! -x .venv/bin/python ] &&
    ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    packages+=(python3-venv)
fi

# The packages of the list that dpkg does not know as installed. No process substitution here:
# its /dev/fd is missing where /proc is, as in a bare chroot.
missing_packages() {
    local installed package
    installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p' | tr '\n' ' ')" || true
    for package in "${packages[@]}"; do
        [[ $installed == *" $package "* ]] || printf '%s ' "$package"
    done
}

install_packages() {
    local missing=("$@")
    local lists
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: these Debian packages are missing; as root, run:" >&2
        echo "apt-get install -y --no-install-recommends ${missing[*]}"
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "setup: installing ${missing[*]}"
    lists=$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null || true)
    if [ -z "$lists" ]; then
        apt-get update -q
    fi
    # Old lists name files that are gone: refresh them once.
    apt-get install -y -q --no-install-recommends "${missing[@]}" || {
        apt-get update -q
        apt-get install -y -q --no-install-recommends "${missing[@]}"
    }
}

if ! command -v dpkg-query >/dev/null; then
    echo "setup: not a Debian system; these packages, or what your system calls them, are needed:" >&2
    echo "  ${packages[*]}" >&2
else
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        read -ra missing_list <<<"$missing"
        install_packages "${missing_list[@]}"
    fi
fi

[ -n "$requirements" ] || exit 0

# The stamp holds the requirements it was installed from. demo < build < all: a larger set serves.
if [ ! -x .venv/bin/python ]; then
    rm -rf .venv
    "$python" -m venv .venv
fi
lists=(tools/requirements-demo.txt tools/requirements-build.txt tools/requirements.txt)
stamp=.venv/pilum-requirements
wanted=
for n in 1 2 3; do
    set_n=$(cat "${lists[@]:0:n}")
    [ -n "$wanted" ] || [ "${lists[n - 1]}" != "$requirements" ] || wanted=$set_n
    if [ -n "$wanted" ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$set_n" ]; then
        exit 0
    fi
done
echo "setup: installing the Python packages of $requirements into .venv"
.venv/bin/python -m pip install -q --disable-pip-version-check -r "$requirements"
printf '%s\n' "$wanted" >$stamp
