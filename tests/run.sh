#!/usr/bin/env bash
# Pass the tests: makes .venv, installs what they need, then lint, types and pytest.
#
#   ./tests/run.sh            all but the slow ones
#   ./tests/run.sh --all      all, as continuous integration does
#   ./tests/run.sh -k wire    any other arguments go to pytest; lint and types are left out
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh dev

if [ $# -gt 0 ] && [ "$1" != --all ]; then
    exec "$PYTHON" -m pytest "$@"
fi
choice=(-m "not slow")
[ "${1:-}" = --all ] && choice=()

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# A clone may have any name: mypy finds the package through a link called splitrail.
link=$(mktemp -d)
trap 'rm -rf "$link"' EXIT
ln -s "$PWD" "$link/splitrail"
(cd "$link" && "$PYTHON" -m mypy --config-file splitrail/setup.cfg -p splitrail)

# An aarch64 host under emulation, for the test of two architectures; where it cannot be made, that test says so and is skipped.
if [ "${1:-}" = --all ]; then
    ./tests/arch/prepare.sh || echo "splitrail: the edge of another architecture is not there; its test will be skipped" >&2
fi

# A process per folder: torch, OpenVINO, ONNX Runtime and MPI's libraries loaded into one process have crashed it, and no user
# of the package loads them together. Tests of processes and links depend on the clock: what fails gets a second look, in
# plain sight, and has failed when it fails again.
failed=()
for folder in tests/test_boundaries.py tests/pipeline tests/stages tests/bench tests/launch tests/models tests/distill; do
    code=0
    "$PYTHON" -m pytest -q ${choice[@]+"${choice[@]}"} "$folder" || code=$?
    if [ $code -ne 0 ]; then
        again=()
        [ $code -eq 1 ] && again=(--last-failed --last-failed-no-failures none)
        echo "splitrail: $folder ended with $code; once more what failed" >&2
        "$PYTHON" -m pytest -q ${choice[@]+"${choice[@]}"} ${again[@]+"${again[@]}"} "$folder" || failed+=("$folder")
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "splitrail: failed: ${failed[*]}" >&2
    exit 1
fi
echo "splitrail: all tests passed"
