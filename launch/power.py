"""Who measures power in a run, and the idle baseline before it."""

from __future__ import annotations

import time
from collections.abc import Callable

from mpi4py import MPI

from ..bench.energy import IDLE_S, SETTLE_S, EnergySampler
from ..bench.environment import machine_id
from ..bench.meters.choice import choose_meters
from .exchange import gather_json, together


def start_meters(comm: MPI.Comm, host: str, event: Callable[..., None]) -> EnergySampler | None:
    """Called by all ranks together before frames stream. The first rank of each machine measures it; the others get None.
    Hosts may share a machine, as network namespaces do.

    All keep still for the idle baseline, so that it is one."""
    machines = gather_json(comm, [machine_id() or host, host])
    first = next(rank for rank, (machine, _) in enumerate(machines) if machine == machines[comm.rank][0])
    choice = together(comm, lambda: choose_meters() if first == comm.rank else None)
    if choice is None and machines[first][1] != host:
        event("meter_missing", m="this machine", reason=f"rank {first} measures it for all its hosts")
    sampler = EnergySampler(choice, event) if choice is not None else None
    comm.Barrier()
    if sampler is None:
        time.sleep(SETTLE_S + IDLE_S)  # a rank that waits in MPI keeps a core busy
    else:
        sampler.start()
        sampler.idle()
    return sampler
