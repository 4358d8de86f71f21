"""Whether a run had settled: its last three windows agree within 10 % in rate and in delay."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    fps: float
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


def judge_stability(times_ns: Sequence[int], delays_ms: Sequence[float] | None) -> Stability:
    """Judge results after the warm-up: when each came, ascending, and its capture-to-output delay.

    Windows end at the last result; each is a fifth of the results and at least 10. "Within 10 %": the largest is at most 1.1
    times the smallest.
    """
    num_intervals = len(times_ns) - 1
    size = max(MIN_WINDOW_FRAMES, num_intervals // _SHARE)
    if num_intervals < NUM_WINDOWS * size:
        return Stability(
            False, f"{len(times_ns)} results after the warm-up, {NUM_WINDOWS * size + 1} are needed to tell", ()
        )
    windows = []
    for number in range(NUM_WINDOWS, 0, -1):
        end = len(times_ns) - 1 - (number - 1) * size
        begin = end - size
        delays = None if delays_ms is None else delays_ms[begin + 1 : end + 1]
        length_ns = times_ns[end] - times_ns[begin]
        windows.append(
            Window(
                size,
                size * 1e9 / length_ns if length_ns > 0 else float("inf"),
                None if delays is None else statistics.median(delays),
            )
        )
    reasons = [
        f"the {what} of the last {NUM_WINDOWS} windows differs by {100 * spread:.0f} %"
        for what, spread in (
            ("rate", _spread([window.fps for window in windows])),
            ("delay", _spread([window.p50_ms for window in windows if window.p50_ms is not None])),
        )
        if spread > TOLERANCE
    ]
    return Stability(not reasons, "; ".join(reasons), tuple(windows))


def _spread(values: Sequence[float]) -> float:
    """Largest over smallest, minus 1."""
    if not values:
        return 0.0
    return max(values) / min(values) - 1 if min(values) > 0 else float("inf")
