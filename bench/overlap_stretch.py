"""One stretch of frames from rank 0 to rank 1, whatever carries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mpi4py import MPI

from ..pipeline.communication import Communication
from ..pipeline.halt import Halt
from ..pipeline.observer import Observer
from ..pipeline.stage import Chain
from .overlap_config import OverlapConfig
from .overlap_frames import Frames, Results, Services
from .overlap_job import Job


class Watch(Protocol):
    """All that a real run measures while frames stream: one per rank, made and ended by all ranks together."""

    @property
    def observer(self) -> Observer:
        """Hears of everything."""

    def begin(self) -> None:
        """Before the first frame and before the communication starts."""

    def stop(self) -> None:
        """After the last frame of this rank; the communication still runs."""

    def end(self) -> None:
        """The communication has ended."""


MakeWatch = Callable[[MPI.Comm, Communication, Halt], Watch]


@dataclass(frozen=True)
class Stretch:
    """What a rank has in hand before the first frame."""

    config: OverlapConfig
    comm: MPI.Comm
    edge: Job | None
    """The edge's part; None on rank 1."""
    tail: Job | None
    """The tail's part: on rank 1, or beside the edge's where one process does all."""
    round_trip_ns: int
    frames: Frames
    results: Results
    edge_services: Services
    tail_services: Services
    watch: Watch | None
    halt: Halt
    communication: Communication

    def edge_chain(self) -> Chain:
        """The edge's stages, watched."""
        assert self.edge is not None
        return Chain(self.edge.stages, self.edge_services)

    def tail_chain(self) -> Chain:
        """The tail's stages, watched."""
        assert self.tail is not None
        return Chain(self.tail.stages, self.tail_services)
