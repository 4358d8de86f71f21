"""The first steps of a run: every rank gets the configuration, and the ranks make sure that they fit together."""

from __future__ import annotations

import json

from mpi4py import MPI

from .. import __version__
from ..pipeline.errors import ConfigError, HostError, PeerError
from ..pipeline.placement import Placement
from .config import RunConfig
from .exchange import broadcast_bytes, gather_json


def share_config(comm: MPI.Comm, path: str | None) -> RunConfig:
    """The configuration in rank 0's file `path`, on every rank.

    Raises ConfigError on rank 0 and PeerError on the others where rank 0 has none or one that does not fit.
    """
    text: bytes | None = None
    if comm.rank == 0:
        try:
            if path is None:
                raise ConfigError("rank 0 needs --config FILE; the other ranks get it from there")
            text = RunConfig.load(path).with_placement().model_dump_json().encode()
        except BaseException:
            broadcast_bytes(comm, b"")
            raise
    text = broadcast_bytes(comm, text)
    if not text:
        error = PeerError("rank 0 has no configuration")
        error.exit_code = ConfigError.exit_code
        raise error
    return RunConfig.check(json.loads(text), "the configuration from rank 0")


def check_world(comm: MPI.Comm, config: RunConfig, placement: Placement, host: str) -> None:
    """Raise where the number of ranks, a version or a host is not the one the run needs. All ranks call it together."""
    if comm.size != placement.num_ranks:
        raise ConfigError(
            f"placement {placement.name} needs {placement.num_ranks} ranks and mpirun started {comm.size}; "
            f"start it with -n {placement.num_ranks}"
        )
    for other, hello in enumerate(gather_json(comm, {"host": host, "version": __version__})):
        if hello["version"] != __version__:
            raise HostError(
                f"{hello['host']} has splitrail {hello['version']} and {host} has {__version__}; "
                "install the same version on all hosts"
            )
        if config.hosts and config.hosts[other] != hello["host"]:
            raise HostError(
                f"rank {other} runs on {hello['host']} and should run on {config.hosts[other]}; "
                "start each rank with its own '-np 1 --host' part of the mpirun line"
            )
