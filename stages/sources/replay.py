"""A source that plays what a reader reads: numbering, stride, loop and pace."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

from ...pipeline.clock import now_ns
from ...pipeline.packet import Packet
from .picture_reader import PictureReader

if TYPE_CHECKING:
    from ..source import SourceOptions


class ReplaySource:
    """Plays a reader's pictures, as fast as they are asked for, or at `options.rate` as a camera would.

    `capture_ns` is read before the picture is decoded, so decoding counts as part of the delay. At a rate, picture n is due
    one period after picture n-1; a late one is given at once, and only one period of lateness is ever caught up.
    """

    def __init__(self, reader: PictureReader, options: SourceOptions) -> None:
        self._reader = reader
        self._options = options
        self.fps = reader.fps / options.stride
        self.live = options.rate is not None
        self.description = reader.description
        self._per_pass = None if reader.num_pictures is None else -(-reader.num_pictures // options.stride)
        num_frames = None if options.loop else self._per_pass
        bounds = [bound for bound in (num_frames, options.max_frames) if bound is not None]
        self.num_frames = min(bounds) if bounds else None
        self._frame = 0
        self._taken_in_pass = 0
        self._pass_begin_ns = 0
        self._pass_end_ns = 0
        self._due_ns: int | None = None
        self._size = (0, 0)
        self._stopped = Event()

    def receive(self) -> Packet | None:
        if self._frame == self._options.max_frames or not self._skip_to_next() or not self._wait_until_due():
            return None
        capture_ns = now_ns()
        picture = self._reader.read()
        if picture is None and self._options.loop and self._taken_in_pass:
            self._reader.rewind()
            self._taken_in_pass = 0
            self._pass_begin_ns = self._pass_end_ns
            picture = self._reader.read()
        if picture is None:
            return None
        pts_ns = self._pass_begin_ns + picture.pts_ns
        self._pass_end_ns = max(self._pass_end_ns, pts_ns + round(1e9 / self.fps))
        self._size = picture.size if picture.size != (0, 0) else self._size
        packet = Packet(self._frame, capture_ns, pts_ns, self._size)
        if picture.image is None:
            packet.fail(picture.reason)
        else:
            packet.tensors["image"] = picture.image
        self._frame += 1
        self._taken_in_pass += 1
        return packet

    def name_of(self, frame: int) -> str:
        within_pass = frame % self._per_pass if self._per_pass else frame
        return self._reader.name_of(within_pass * self._options.stride)

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        self._reader.close()

    def _skip_to_next(self) -> bool:
        """Pass over the pictures between the last one taken and the next; False when the source was stopped."""
        if self._taken_in_pass:
            for _ in range(self._options.stride - 1):
                if self._stopped.is_set() or not self._reader.skip():
                    break
        return not self._stopped.is_set()

    def _wait_until_due(self) -> bool:
        """Keep the pace; False when the source was stopped meanwhile."""
        if self._options.rate is None:
            return True
        period_ns = round(1e9 / self._options.rate)
        now = now_ns()
        self._due_ns = now if self._due_ns is None else max(self._due_ns + period_ns, now - period_ns)
        return not self._stopped.wait(max(0, self._due_ns - now) / 1e9)
