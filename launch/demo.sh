#!/usr/bin/env bash
# The main job in one command: makes .venv (without torch), then streams the embedded clip through the embedded detector on
# two ranks. Leaves out/demo/: an annotated video, detections, journals and a summary. Arguments go to `splitrail demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh demo
exec "$PYTHON" -m splitrail demo "$@"
