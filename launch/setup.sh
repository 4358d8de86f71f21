# Sourced by the scripts: makes .venv in the repository's root and installs the package with the extras named in $1.
# Sets PYTHON. Does nothing when that was done before and neither the project's requirements nor its folder have changed.
# Wants only python3 (>= 3.10, with venv).

_extras=$1
_root=$PWD
PYTHON=$_root/.venv/bin/python
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "splitrail: python3 (3.10 or newer, with venv) is needed; install it and start this script again" >&2
    exit 2
fi
_stamp=$_root/.venv/installed-$_extras
_state=$(cat pyproject.toml constraints.txt; echo "$_root")
if [ ! -f "$_stamp" ] || [ "$(cat "$_stamp")" != "$_state" ]; then
    [ -x "$PYTHON" ] || python3 -m venv .venv || {
        rm -rf .venv
        echo "splitrail: 'python3 -m venv' failed; install the venv package of your python3 (Debian: python3-venv)" >&2
        exit 2
    }
    echo "splitrail: installing into .venv (once)" >&2
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$_extras]" >&2
    printf '%s\n' "$_state" >"$_stamp"
fi
