"""Several processes that train one detector: each takes its share of every batch, and their gradients are averaged."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from ..pipeline.errors import ConfigError, SplitrailError

_PRIME = 1_000_003
_PATIENCE = timedelta(days=7)
"""For how long the others wait while the first evaluates. One that ended is noticed at once."""


class CrewError(SplitrailError):
    """A process of the training ended before the others."""


@dataclass(frozen=True)
class Crew:
    """The processes of a training, and which of them this one is.

    On a CPU, processes of one thread each are faster than threads of one process on a small network. The first
    evaluates and writes; its normalisation statistics are the detector's.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written."""
        return self.rank == 0

    def seed_step(self, seed: int, step: int) -> None:
        """Other noise in each process, the same after a resumption. A process alone keeps its generator's own state."""
        if self.size > 1:
            torch.manual_seed((seed * _PRIME + step) * _PRIME + self.rank)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every process's gradients the mean of all. Raises CrewError when one of them is gone."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        try:
            torch.distributed.all_reduce(flat)
        except RuntimeError as error:
            raise CrewError(
                "another process of the training ended; resume from the last checkpoint, with fewer --processes if "
                "memory was short"
            ) from error
        flat /= self.size
        begin = 0
        for gradient in gradients:
            gradient.copy_(flat[begin : begin + gradient.numel()].view_as(gradient))
            begin += gradient.numel()


@contextmanager
def crew_of(size: int, member: Callable[[Crew], None]) -> Iterator[Crew]:
    """This process as the first of `size`; `member(crew)` runs in each of the others, which end with it.

    `member` must be importable by a new process (a function of a module, or a `partial` of one). Raises ConfigError for a
    size below 1.
    """
    if size < 1:
        raise ConfigError(f"{size} processes train nothing; give --processes 1 or more")
    if size == 1:
        yield Crew()
        return
    with tempfile.TemporaryDirectory(prefix="splitrail-train-") as folder:
        meeting = Path(folder, "meeting").as_uri()
        context = multiprocessing.get_context("spawn")
        arrivals = [context.Event() for _ in range(1, size)]
        others = [
            context.Process(target=_join, args=(meeting, Crew(rank, size), member, arrived))
            for rank, arrived in enumerate(arrivals, start=1)
        ]
        for process in others:
            process.start()
        try:
            # Gloo would wait for a process that could not begin.
            for process, arrived in zip(others, arrivals, strict=True):
                while not arrived.wait(0.2):
                    if not process.is_alive():
                        raise CrewError("a further process of the training could not begin; train with --processes 1")
            _meet(meeting, Crew(0, size))
            yield Crew(0, size)
            for process in others:
                process.join()
        finally:
            for process in others:
                process.terminate()
                process.join()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _meet(meeting: str, crew: Crew) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=meeting, rank=crew.rank, world_size=crew.size, timeout=_PATIENCE
    )


def _join(meeting: str, crew: Crew, member: Callable[[Crew], None], arrived: Event) -> None:
    arrived.set()
    try:
        _meet(meeting, crew)
        member(crew)
    except (CrewError, KeyboardInterrupt):
        # The first process says what happened.
        raise SystemExit(1) from None
