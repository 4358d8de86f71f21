"""What a rank computes on one packet: the stage contract, and a chain of stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .clock import now_ns
from .errors import FrameError
from .observer import Observer
from .packet import Kind, Packet, TensorSpec


class Stage(Protocol):
    """One step on one frame, called by one thread only, in frame order."""

    name: str

    def process(self, packet: Packet) -> None:
        """Change the packet in place. Raise `FrameError` when this one frame cannot be done; any other error ends
        the run. Only packets of kind FRAME come here."""

    def close(self) -> None:
        """Free what the stage holds. Called once, by the thread that called `process`."""


@runtime_checkable
class BindableStage(Stage, Protocol):
    """A stage that can write its tensors into buffers it is given (`packet.targets`)."""

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """What `process` leaves in `packet.tensors`, in order; None when the shapes vary by frame."""


class Chain:
    """Stages one after the other, each timed."""

    def __init__(self, stages: Sequence[Stage], observer: Observer) -> None:
        self.stages = tuple(stages)
        self._observer = observer
        self._specs: tuple[TensorSpec, ...] | None = None
        if self.stages and isinstance(self.stages[-1], BindableStage):
            self._specs = self.stages[-1].output_specs()
        self.current = ""
        """Name of the stage that is at work now, for the message of a stall; empty between frames."""

    def process(self, packet: Packet) -> None:
        """Run the packet through all stages; a frame that fails on the way skips the rest."""
        for stage in self.stages:
            if packet.kind is not Kind.FRAME:
                break
            self.current = stage.name
            begin = now_ns()
            try:
                stage.process(packet)
            except FrameError as error:
                packet.fail(str(error))
            self._observer.stage(stage.name, packet.frame, begin, now_ns())
        self.current = ""

    def specs_of(self, setting: int) -> tuple[TensorSpec, ...] | None:
        """What the last stage can write straight into a send buffer, or None. The same for every setting."""
        return self._specs

    def close(self) -> None:
        """Close every stage, the last one first."""
        for stage in reversed(self.stages):
            stage.close()
