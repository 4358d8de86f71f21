#!/usr/bin/env bash
# Placement Full by hand: one rank on this machine. What `splitrail run --placement full` starts, to be changed at will.
#
#   launch/full.sh run.toml       the keys of run.toml: docs/running.md
set -euo pipefail
config=${1:?usage: launch/full.sh RUN.toml}
exec mpirun --bind-to none --mca pml ob1 --mca btl self,sm \
    -np 1 splitrail rank --config "$config"
