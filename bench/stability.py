"""Whether a run had settled: its last three windows agree within 10 % in rate and in delay.

Frames that the neural filter ends say nothing of that: they are done in a fraction of the time, so that rate and median delay of
a window follow how many of them happen to be in it, however even the machine is. Done frames alone are judged: their delays, and
the time from one to the next where no empty one is in between. Where there are only empty ones, they are alike, and are judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

NUM_WINDOWS = 3
TOLERANCE = 0.10
MIN_WINDOW_FRAMES = 10
_SHARE = 5
"""A window is at least this part of all results."""


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive results."""

    num: int
    fps: float | None
    """None where no two of them follow each other without an empty one in between."""
    p50_ms: float | None
    """Median delay; None where delays are not known."""


@dataclass(frozen=True, slots=True)
class Stability:
    """The verdict and what it rests on."""

    stable: bool
    reason: str
    """Why it is not stable, else empty."""
    windows: tuple[Window, ...]
    """The last ones, in order; empty with too few results."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"stable": self.stable, "reason": self.reason, "windows": [asdict(window) for window in self.windows]}


def judge_stability(
    times_ns: Sequence[int], delays_ms: Sequence[float] | None, are_empty: Sequence[bool] = ()
) -> Stability:
    """Judge results after the warm-up: when each came, ascending, its capture-to-output delay, and whether it is empty (none is
    where nothing is given).

    Windows end at the last result; each is a fifth of the results and at least 10. "Within 10 %": the largest is at most 1.1
    times the smallest.
    """
    judged = [index for index in range(len(times_ns)) if not (are_empty and are_empty[index])]
    what = "results" if len(judged) == len(times_ns) else "done frames"
    if not judged:
        judged, what = list(range(len(times_ns))), "results"
    num_intervals = len(judged) - 1
    size = max(MIN_WINDOW_FRAMES, num_intervals // _SHARE)
    if num_intervals < NUM_WINDOWS * size:
        return Stability(
            False, f"{len(judged)} {what} after the warm-up, {NUM_WINDOWS * size + 1} are needed to tell", ()
        )
    windows = []
    for number in range(NUM_WINDOWS, 0, -1):
        end = len(judged) - 1 - (number - 1) * size
        inside = judged[end - size : end + 1]
        intervals_ns = [times_ns[index] - times_ns[before] for before, index in pairwise(inside) if index == before + 1]
        delays = None if delays_ms is None else [delays_ms[index] for index in inside[1:]]
        windows.append(Window(size, _rate(intervals_ns), None if delays is None else statistics.median(delays)))
    if delays_ms is None and any(window.fps is None for window in windows):
        return Stability(False, "no delays are known, and empty frames are between all done ones", tuple(windows))
    reasons = [
        f"the {what} of the last {NUM_WINDOWS} windows differs by {100 * spread:.0f} %"
        for what, spread in (
            ("rate", _spread([window.fps for window in windows if window.fps is not None])),
            ("delay", _spread([window.p50_ms for window in windows if window.p50_ms is not None])),
        )
        if spread > TOLERANCE
    ]
    return Stability(not reasons, "; ".join(reasons), tuple(windows))


def _rate(intervals_ns: Sequence[int]) -> float | None:
    """Results per second."""
    if not intervals_ns:
        return None
    return len(intervals_ns) * 1e9 / sum(intervals_ns) if sum(intervals_ns) > 0 else float("inf")


def _spread(values: Sequence[float]) -> float:
    """Largest over smallest, minus 1."""
    if not values:
        return 0.0
    return max(values) / min(values) - 1 if min(values) > 0 else float("inf")
