#!/usr/bin/env bash
# Placement Backbone by hand, on two hosts: rank 0 on the edge device (here), rank 1 on the workstation. What
# `splitrail run --placement backbone --hostfile ...` starts, to be changed at will.
#
#   launch/backbone.sh run.toml EDGE WORKSTATION NETWORK
#   launch/backbone.sh run.toml tx2 workstation 192.168.55.0/24
#
# run.toml says placement = "backbone" (its keys: docs/running.md) and is only read here: rank 0 sends it on. Both hosts need
# the same Open MPI and splitrail in the same folders; --prefix and a path before splitrail say otherwise.
#
#   --bind-to none        else all threads of a rank share one core
#   btl_tcp_if_include    else MPI also tries docker0 or l4tbr0 and hangs
#   eager_limit ...       messages up to 1 MB are sent without asking first, which saves a round trip
#   yield, nanosleep      a blocking call sleeps instead of spinning
set -euo pipefail
usage="usage: launch/backbone.sh RUN.toml EDGE WORKSTATION NETWORK"
config=${1:?$usage} edge=${2:?$usage} workstation=${3:?$usage} network=${4:?$usage}
exec mpirun --bind-to none --map-by :OVERSUBSCRIBE \
    --prtemca prte_if_include "$network" --mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include "$network" \
    --mca btl_tcp_eager_limit 1048576 --mca btl_tcp_rndv_eager_limit 1048576 --mca btl_tcp_max_send_size 1048576 \
    --mca mpi_yield_when_idle 1 --mca threads_pthreads_yield_strategy nanosleep \
    --mca threads_pthreads_nanosleep_time 100000 \
    -np 1 --host "$edge" splitrail rank --config "$config" : \
    -np 1 --host "$workstation" splitrail rank
