#!/usr/bin/env bash
# Pass the tests: makes .venv, installs what they need, then lint, types and pytest.
#
#   ./tests/run.sh            everything
#   ./tests/run.sh -k wire    arguments go to pytest; lint and types are left out
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh dev

if [ $# -eq 0 ] || [ "$1" = --all ]; then
    shift || true
    "$PYTHON" -m ruff check .
    "$PYTHON" -m ruff format --check .
    # A clone may have any name: mypy finds the package through a link called splitrail.
    link=$(mktemp -d)
    trap 'rm -rf "$link"' EXIT
    ln -s "$PWD" "$link/splitrail"
    (cd "$link" && "$PYTHON" -m mypy --config-file splitrail/setup.cfg -p splitrail)
fi
"$PYTHON" -m pytest "$@"
