#!/usr/bin/env bash
# Pass the tests: makes .venv, installs what they need, then lint, types and pytest.
#
#   ./tests/run.sh            all but the slow ones
#   ./tests/run.sh --all      all, as continuous integration does
#   ./tests/run.sh -k wire    any other arguments go to pytest; lint and types are left out
#
# At the end it says what each part took: wall time, and the processors' time in user and system.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh dev

if [ $# -gt 0 ] && [ "$1" != --all ]; then
    exec "$PYTHON" -m pytest "$@"
fi
choice=(-m "not slow")
[ "${1:-}" = --all ] && choice=()

scratch=$(mktemp -d)
beside=
trap '[ -z "$beside" ] || kill "$beside" 2>/dev/null || true; rm -rf "$scratch"' EXIT
TIMEFORMAT='%R %U %S'
begin=$SECONDS
exec 3>&2

# timed NAME COMMAND...: run it, and keep what it took under that name.
timed() {
    local name=$1 code=0 mark
    mark=$(mktemp "$scratch/mark.XXXXXX")
    shift
    { time "$@" 2>&3; } 2>"$mark" || code=$?
    printf '%-26s %7.1f s wall %7.1f s user %6.1f s system\n' "$name" $(tail -n 1 "$mark") >>"$scratch/took"
    return $code
}

timed "ruff check" "$PYTHON" -m ruff check .
timed "ruff format" "$PYTHON" -m ruff format --check .
# A clone may have any name: mypy finds the package through a link called splitrail.
ln -s "$PWD" "$scratch/splitrail"
types() (
    cd "$scratch"
    "$PYTHON" -m mypy --config-file splitrail/setup.cfg -p splitrail
)
timed mypy types

# An aarch64 host under emulation, for the test of two architectures; where it cannot be made, that test says so and is skipped.
if [ "${1:-}" = --all ]; then
    ./tests/arch/prepare.sh || echo "splitrail: the edge of another architecture is not there; its test will be skipped" >&2
fi

# look FOLDER [NAME] [OPTION...]: its tests; a folder that fails is noted with its exit code.
look() {
    local folder=$1 name=${2:-$1} code=0
    shift $(($# < 2 ? 1 : 2))
    timed "$name" "$PYTHON" -m pytest -q -o cache_dir="$scratch/cache/${folder//\//-}" ${choice[@]+"${choice[@]}"} "$@" "$folder" ||
        code=$?
    [ $code -eq 0 ] || echo "$folder $code" >>"$scratch/failed"
}

# A process per folder, so that a library that damages its process takes one folder along. What only computes, the verbs that
# train too, goes on beside the rest, on a core of its own, before ranks and links have the machine.
: >"$scratch/failed"
(
    export OMP_NUM_THREADS=1
    for folder in tests/models tests/distill; do look "$folder"; done
) >"$scratch/beside" 2>&1 3>&1 &
beside=$!
for folder in tests/test_boundaries.py tests/stages tests/pipeline tests/bench tests/launch/test_distill.py; do look "$folder"; done
wait "$beside"
beside=
cat "$scratch/beside"
# Ranks, links and namespaces have the machine to themselves.
look tests/launch tests/launch --ignore tests/launch/test_distill.py

# Tests of processes and links depend on the clock: what fails gets a second look, in plain sight, and has failed when it
# fails again.
mv "$scratch/failed" "$scratch/first"
: >"$scratch/failed"
while read -r folder code <&4; do
    again=()
    [ "$code" -eq 1 ] && again=(--last-failed --last-failed-no-failures none)
    echo "splitrail: $folder ended with $code; once more what failed" >&2
    [ "$folder" != tests/launch ] || again+=(--ignore tests/launch/test_distill.py)
    look "$folder" "$folder, again" ${again[@]+"${again[@]}"}
done 4<"$scratch/first"
cat "$scratch/took"
echo "all of it $((SECONDS - begin)) s"
if [ -s "$scratch/failed" ]; then
    echo "splitrail: failed: $(cut -d' ' -f1 "$scratch/failed" | paste -sd' ')" >&2
    exit 1
fi
echo "splitrail: all tests passed"
