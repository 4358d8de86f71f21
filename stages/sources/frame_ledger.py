"""Which frames of a damaged video got lost: the book-keeping, without any decoder."""

from __future__ import annotations

import heapq

_MAX_MISSING = 1_000_000
"""A damaged header may promise anything."""
_MAX_REORDERED = 16
"""Frames that a decoder may hold back: where a file is cut, as many may lack others between them (H.264, A.3.1)."""
_REGULAR = 0.25
"""Timestamps are regular while no step is further than this from a whole number of frame durations."""


class FrameLedger:
    """Compares what a container announced with what a decoder showed. All times are in the stream's time base.

    A packet that has not become a picture when a later picture is shown is lost, but only once `damage` was reported:
    decoders of undamaged streams merge fields and swallow leading frames too. What the container promises and does not
    hold is lost as well: by its frame count, else by its duration as long as all timestamps were regular.
    """

    def __init__(self, step: float, *, promised: int = 0, end: float | None = None) -> None:
        """`step` is the nominal duration of a frame, `promised` the container's frame count (0: it has none), `end` the
        time at which its last frame ends (None: unknown)."""
        self._step = step
        self._promised = promised
        self._end = end
        self._waiting: list[int] = []
        self._num_packets = 0
        self._num_frames = 0
        self._timed = True
        self._damaged = False
        self._irregular_since: int | None = None
        self._last: float = -step
        self._first: float | None = None
        self._lost: set[int] = set()

    def packet(self, pts: int | None) -> None:
        """A packet that should become a picture went to the decoder."""
        self._num_packets += 1
        self._timed &= pts is not None
        if pts is not None and self._timed:
            heapq.heappush(self._waiting, pts)

    def discard(self) -> None:
        """A packet went to the decoder that the container counts and does not want shown (an edit list's)."""
        self._promised = max(0, self._promised - 1)

    def damage(self) -> None:
        """The demuxer or the decoder reported an error."""
        self._damaged = True

    def is_counted(self, pts: int) -> bool:
        """Whether the frame of this time was lost already: decoders show some damaged frames too late."""
        return pts in self._lost

    def shown(self, pts: int) -> list[int]:
        """A picture was decoded. Returns the times of the frames that were lost before it."""
        lost: list[int] = []
        while self._waiting and self._waiting[0] <= pts:
            waited = heapq.heappop(self._waiting)
            if waited < pts and self._timed and self._damaged:
                lost.append(waited)
        if self._first is None:
            self._first = float(lost[0] if lost else pts)
        elif not self._promised:
            lost = self._fill_hole(pts, lost)
        self._lost.update(lost)
        self._last = pts
        self._num_frames += len(lost) + 1
        return lost

    def finish(self) -> list[int]:
        """The stream ended. Returns the times of the frames that were lost after the last picture."""
        lost = sorted(self._waiting) if self._timed and self._damaged else []
        num_frames = self._num_frames + len(lost)
        last = float(lost[-1]) if lost else self._last
        if self._promised:
            missing = self._promised - num_frames
        elif not self._timed and self._damaged:
            missing = self._num_packets - num_frames
        elif self._end is not None and self._first is not None and self._is_regular(num_frames):
            is_cut = self._end - last > 1.5 * self._step
            missing = round((self._end - self._first) / self._step) - num_frames if is_cut else 0
        else:
            missing = 0
        return lost + [round(last + self._step * index) for index in range(1, min(missing, _MAX_MISSING) + 1)]

    def _fill_hole(self, pts: int, lost: list[int]) -> list[int]:
        """In a container without frame count: the lost frames between the last picture and this one."""
        steps = (pts - self._last) / self._step
        expected = round(steps) - 1
        on_grid = abs(steps - round(steps)) <= _REGULAR
        if self._irregular_since is not None or (on_grid and expected == len(lost)):
            return lost
        if on_grid and expected > len(lost) and self._damaged and self._end is not None and pts <= self._end:
            return [round(self._last + self._step * index) for index in range(1, expected + 1)]
        self._irregular_since = self._num_frames
        return lost

    def _is_regular(self, num_frames: int) -> bool:
        """Whether every frame had its place on the grid, but perhaps some of those around the cut."""
        if self._irregular_since is None:
            return True
        num_irregular = num_frames - self._irregular_since
        return num_irregular <= min(_MAX_REORDERED, self._irregular_since)
