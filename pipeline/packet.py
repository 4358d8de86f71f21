"""One frame inside a rank. Between ranks it is a message (`message.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class Kind(IntEnum):
    """What a packet or message is."""

    FRAME = 1
    """A frame with its tensors."""
    EMPTY = 2
    """The neural filter found no object: the result is empty and no tensors follow."""
    FAILED = 3
    """This frame could not be done; the reason follows."""
    END = 4
    """The last message of an edge."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a tensor; a dimension of None is known only per frame."""

    name: str
    dtype: str
    """A NumPy dtype name: float32, float16, uint8, int8, int32, int64."""
    shape: tuple[int | None, ...]


@dataclass(slots=True, eq=False)
class Packet:
    """One frame on its way through a lane.

    `tensors` holds what the next stage reads. Stages change the packet in place. Arrays may be views of a channel's
    receive buffer; whoever takes the packet last calls `release` and the buffer may then be overwritten.
    """

    frame: int
    """Number of the captured frame, from 0, without gaps; dropped frames have numbers too."""
    capture_ns: int
    """Monotonic clock of the source's host when the frame was captured, ns."""
    pts_ns: int
    """Media time of the frame, ns."""
    source_size: tuple[int, int]
    """Height and width of the source image, pixels."""
    valid_size: tuple[int, int] = (0, 0)
    """Height and width of the part of the network input that shows the image, pixels; the rest is padding."""
    tensors: dict[str, Array] = field(default_factory=dict)
    kind: Kind = Kind.FRAME
    reason: str = ""
    """Why the frame is FAILED, else empty."""
    targets: Mapping[str, Array] | None = None
    """Where the lane's outbound would like the last stage's tensors, by name: its own send buffer. A stage that can
    write there does, and puts these very arrays into `tensors`; that saves the copy."""
    held: Callable[[], None] | None = None
    """Gives the receive buffer behind `tensors` back to its channel; None where there is none."""
    setting: int = 0
    """Which of several ways this frame is computed and sent, where a run has several: an index that all ranks know."""

    def fail(self, reason: str) -> None:
        """Turn this packet into a FAILED one: the tensors go, the reason stays."""
        self.kind = Kind.FAILED
        self.reason = reason
        self.tensors = {}

    def empty(self) -> None:
        """Turn this packet into an EMPTY one (the neural filter's verdict)."""
        self.kind = Kind.EMPTY
        self.tensors = {}

    def release(self) -> None:
        """Give the receive buffer back. Harmless when called twice; `tensors` must not be read afterwards."""
        held, self.held = self.held, None
        if held is not None:
            held()
