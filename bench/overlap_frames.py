"""The frames of the overlap bench on their way: taken at the edge, counted at the tail, checked at the end."""

from __future__ import annotations

import itertools
import statistics
import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from ..pipeline.clock import now_ns
from ..pipeline.observer import Observer
from ..pipeline.packet import Array, Kind, Packet, TensorSpec


class Services:
    """Observer of one lane: keeps what its stages and its waits take per frame; tells another observer everything."""

    def __init__(self, inner: Observer, num_frames: int) -> None:
        self._inner = inner
        # As long as they will ever be: what is kept must not look like memory that grows.
        self._stages_ns = array("q", bytes(8 * num_frames))
        self._waits_ns = array("q", bytes(8 * num_frames))

    @property
    def median_ms(self) -> float:
        """All stages of a frame together, ms."""
        return statistics.median(self._stages_ns) / 1e6

    def own_ms(self, turns_ns: Mapping[int, int]) -> list[float]:
        """What the runtime itself took of each frame's turn in the lane: neither stages nor waits, ms."""
        return [(turn_ns - self._stages_ns[frame] - self._waits_ns[frame]) / 1e6 for frame, turn_ns in turns_ns.items()]

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """Kept and handed on."""
        self._stages_ns[frame] += end_ns - begin_ns
        self._inner.stage(name, frame, begin_ns, end_ns)

    def wait(self, cause: str, lane: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """Kept and handed on."""
        if frame >= 0:  # the message that ends the stream is none
            self._waits_ns[frame] += end_ns - begin_ns
        self._inner.wait(cause, lane, frame, begin_ns, end_ns)

    def transfer(self, edge: str, frame: int, kind: int, num_bytes: int, begin_ns: int, end_ns: int) -> None:
        """Handed on."""
        self._inner.transfer(edge, frame, kind, num_bytes, begin_ns, end_ns)

    def fate(self, frame: int, fate: str, reason: str, capture_ns: int, pts_ns: int, output_ns: int) -> None:
        """Handed on."""
        self._inner.fate(frame, fate, reason, capture_ns, pts_ns, output_ns)

    def event(self, name: str, **facts: int | float | str | None) -> None:
        """Handed on."""
        self._inner.event(name, **facts)


class Frames:
    """Inbound of the edge's lane: numbers, or pictures that were decoded beforehand, one after the other."""

    def __init__(self, num_frames: int, pictures: Sequence[Array]) -> None:
        self._next = 0
        self._num_frames = num_frames
        self._pictures = pictures
        self.resident_bytes: list[int] = []
        """Of this process when a fifth of the frames was taken, and when all were."""
        self.times_ns = array("q", bytes(8 * (num_frames + 1)))
        """When the lane came for each frame, and for the one after the last."""

    def receive(self) -> Packet | None:
        """The next frame; None after the last."""
        frame = self._next
        self.times_ns[frame] = now_ns()
        if frame in (self._num_frames // 5, self._num_frames):
            self.resident_bytes.append(_resident_bytes())
        if frame == self._num_frames:
            return None
        self._next += 1
        if not self._pictures:
            return Packet(frame, now_ns(), 0, (1, 1))
        picture = self._pictures[frame % len(self._pictures)]
        return Packet(frame, now_ns(), 0, picture.shape[:2], tensors={"image": picture})

    def turns_ns(self) -> dict[int, int]:
        """How long the lane had each frame in its hands."""
        return dict(enumerate(_differences(self.times_ns)))

    def close(self) -> None:
        """Nothing to free."""


class Results:
    """Outbound of the tail's lane: checks that no frame is lost, doubled or out of order, and keeps what came when."""

    def __init__(self, observer: Observer, num_frames: int) -> None:
        self._observer = observer
        self._num_frames = num_frames
        self.num_results = 0
        self.times_ns = array("q", bytes(8 * num_frames))
        self.delays_ns = array("q", bytes(8 * num_frames))
        self.digest = 0
        """CRC-32 over all detections."""
        self.resident_bytes: list[int] = []
        """As in `Frames`."""

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> None:
        """Results stay here."""
        return

    def send(self, packet: Packet) -> None:
        """Raises RuntimeError for a frame out of turn or one that could not be done."""
        if packet.kind is not Kind.FRAME:
            raise RuntimeError(f"frame {packet.frame} could not be done: {packet.reason}")
        if packet.frame != self.num_results or packet.frame == self._num_frames:
            raise RuntimeError(f"frame {packet.frame} came where {self.num_results} of {self._num_frames} was due")
        for name in sorted(packet.tensors):
            self.digest = zlib.crc32(np.ascontiguousarray(packet.tensors[name]).view(np.uint8).data, self.digest)
        packet.release()
        end_ns = now_ns()
        self.times_ns[packet.frame] = end_ns
        self.delays_ns[packet.frame] = end_ns - packet.capture_ns
        self.num_results += 1
        self._observer.fate(packet.frame, "done", "", packet.capture_ns, packet.pts_ns, end_ns)
        if self.num_results in (self._num_frames // 5, self._num_frames):
            self.resident_bytes.append(_resident_bytes())

    def turns_ns(self) -> dict[int, int]:
        """How long the lane took from one result to the next, by the latter."""
        return dict(enumerate(_differences(self.times_ns), start=1))

    def close(self) -> None:
        """Nothing to free."""


class Arrivals:
    """First stage of the tail: counts the bytes that came."""

    name = "arrivals"

    def __init__(self) -> None:
        self.num_bytes = 0

    def process(self, packet: Packet) -> None:
        """Leaves the packet as it is."""
        self.num_bytes += sum(tensor.nbytes for tensor in packet.tensors.values())

    def close(self) -> None:
        """Nothing to free."""


def facts_of(packet: Packet) -> list[int]:
    """What a hand-written program sends beside the tensors. Raises RuntimeError for a frame that could not be done."""
    if packet.kind is not Kind.FRAME:
        raise RuntimeError(f"frame {packet.frame} could not be done: {packet.reason}")
    return [packet.frame, packet.capture_ns, *packet.source_size, *packet.valid_size]


def packet_of(facts: Sequence[int], tensors: Mapping[str, Array]) -> Packet:
    """The packet again, from `facts_of` and its tensors."""
    frame, capture_ns, *sizes = facts
    return Packet(frame, capture_ns, 0, (sizes[0], sizes[1]), (sizes[2], sizes[3]), dict(tensors))


def _differences(times_ns: Sequence[int]) -> list[int]:
    return [later - earlier for earlier, later in itertools.pairwise(times_ns)]


def _resident_bytes() -> int:
    size: Any = psutil.Process().memory_info().rss
    return int(size)
