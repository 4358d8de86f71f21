"""What a receiver tells its sender: how far it has come and how much more may come.

Credits count frames and bytes. Frames, because every message needs a posted buffer; bytes in flight, because a slow link
would otherwise fill with old frames: the window is what the link carries in one round trip and one frame, in whole frames.
"""

from __future__ import annotations

import itertools
import math
import statistics
import struct
import zlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from .errors import MessageError
from .message import HEADER_BYTES, Buffer

_CREDIT = struct.Struct("<4sqqqqqqqII")
_CRC = struct.Struct("<I")
_MAGIC = b"SPLC"
CREDIT_BYTES = _CREDIT.size + _CRC.size

_NEGLIGIBLE = 0.005
"""Share of the pace below which waiting one round trip per frame does not show."""
_POLLS_NS = 600_000
"""What two communication threads add to a round trip by sleeping between tests, ns."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Cumulative counts since the start of the edge, and the window."""

    granted_frames: int
    """So many messages may be sent in all."""
    arrived_frames: int
    arrived_bytes: int
    window_bytes: int
    """So many bytes may be under way; one message always may."""
    arrived_ns: int = field(default=0, compare=False)
    """When the last of these messages arrived, by the receiver's clock. This and what follows is what the receiver saw, and no
    reason to send another credit."""
    served_frames: int = field(default=0, compare=False)
    """So many frames the receiving lane has taken and is through with."""
    service_ns: int = field(default=0, compare=False)
    """From when it took the last of those until it asked for the next."""
    served_setting: int = field(default=0, compare=False)
    """The setting of the last of those."""
    queued_frames: int = field(default=0, compare=False)
    """Messages that have arrived and that the lane has not taken yet."""

    def pack(self) -> Buffer:
        """As bytes for the wire."""
        body = _CREDIT.pack(
            _MAGIC, self.granted_frames, self.arrived_frames, self.arrived_bytes, self.window_bytes,
            self.arrived_ns, self.served_frames, self.service_ns, self.served_setting, self.queued_frames,
        )  # fmt: skip
        raw: Buffer = np.frombuffer(body + _CRC.pack(zlib.crc32(body)), np.uint8)
        return raw

    @staticmethod
    def parse(buffer: Buffer, num_bytes: int, where: str) -> Credit:
        """From bytes; MessageError naming the edge when they are not a credit."""
        if num_bytes != CREDIT_BYTES:
            raise MessageError(f"{where}: a credit of {num_bytes} bytes, {CREDIT_BYTES} are expected")
        body = buffer[: _CREDIT.size].tobytes()
        magic, *values = _CREDIT.unpack(body)
        if magic != _MAGIC or _CRC.unpack_from(buffer.data, _CREDIT.size)[0] != zlib.crc32(body):
            raise MessageError(f"{where}: a credit's checksum does not match, its bytes were changed on the way")
        return Credit(*values)


class Depth:
    """How many frames an edge keeps under way: 1 + ceil(round trip / pace), from what is measured.

    The pace is the median time between the last arrivals. It settles from below: with too few frames under way the pace is
    slower than the link, the quotient still grows by at least one, and so does the depth until the link is full.
    """

    def __init__(
        self, round_trip_ns: int, eager_limit_bytes: int, max_depth: int, *, is_always_full: bool = False
    ) -> None:
        """With `is_always_full` the depth is `max_depth`, whatever is measured."""
        self._round_trip_ns = round_trip_ns + _POLLS_NS
        self._eager_limit_bytes = eager_limit_bytes
        self._max_depth = max_depth
        self._arrivals: deque[int] = deque(maxlen=9)
        self._full_arrivals: deque[int] = deque(maxlen=9)
        self._sizes: deque[int] = deque(maxlen=8)
        self._is_always_full = is_always_full
        self.frames = max_depth if is_always_full else 2
        """Messages that may be under way, at least 1."""
        self._full_frames = self.frames
        """The same, of those with a payload."""

    def arrived(self, num_bytes: int, time_ns: int) -> None:
        """A message of `num_bytes` arrived at `time_ns`."""
        self._arrivals.append(time_ns)
        if num_bytes > HEADER_BYTES:
            self._full_arrivals.append(time_ns)
            self._sizes.append(num_bytes)
        if not self._is_always_full:
            self.frames = self._depth(self._arrivals, self.frames)
            self._full_frames = self._depth(self._full_arrivals, self._full_frames)

    @property
    def window_bytes(self) -> int:
        """The window in bytes: so many of the largest recent messages; unlimited before the first. Empty frames come at the
        pace of the filter, which says nothing of the link's: a window by their pace would fill a slow link with old frames."""
        return self._full_frames * max(self._sizes) if self._sizes else 1 << 62

    def _depth(self, arrivals: deque[int], before: int) -> int:
        if len(arrivals) < 3:
            return before
        pace_ns = statistics.median(b - a for a, b in itertools.pairwise(arrivals))
        # Above the eager limit a message first asks and then sends: two round trips.
        round_trip_ns = self._round_trip_ns * (1 if max(self._sizes, default=0) <= self._eager_limit_bytes else 2)
        share = round_trip_ns / max(pace_ns, 1)
        return 1 if share < _NEGLIGIBLE else min(1 + math.ceil(share), self._max_depth)
