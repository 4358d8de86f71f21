"""How right a live run is at every moment, not only about the frames it has done: streaming accuracy.

At each output tick (when a frame was captured, done or dropped) the latest finished result is judged against the truth of that
moment. A result that comes late is judged against a world that has moved on, and before the first one nothing has been found.

Source: Li, Wang and Ramanan 2020, "Towards Streaming Perception", section 3: the streaming AP, over the frames of the camera.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..stages.detections import Detections
from .accuracy import Accuracy, Truth, evaluate_boxes
from .clock import rank_clocks
from .run_accuracy import read_detections


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment of a run."""

    frame: int
    """The frame that was captured then: its truth is the truth of this moment."""
    time_ns: int
    """By rank 0's clock."""
    result: int | None
    """The frame whose result was the latest then; None before the first."""


def ticks_of(journals: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Tick]:
    """Every captured frame that has a fate, in the order of their capture; empty where a clock is not known."""
    begin = next((line for lines in journals.values() for line in lines if line["e"] == "begin"), {})
    clocks = rank_clocks(journals)
    source, sink = begin.get("source_rank", 0), begin.get("sink_rank", 0)
    if source not in clocks or sink not in clocks:
        return []
    fates = [line for lines in journals.values() for line in lines if line["e"] == "fate"]
    captured = {line["f"]: clocks[source].to_rank0(line["c"]) for line in fates}
    results = sorted((clocks[sink].to_rank0(line["t"]), line["f"]) for line in fates if line["x"] in ("done", "empty"))
    times = [time_ns for time_ns, _ in results]
    ticks = []
    for frame, time_ns in sorted(captured.items(), key=lambda item: item[1]):
        number = bisect.bisect_right(times, time_ns)
        ticks.append(Tick(frame, time_ns, results[number - 1][1] if number else None))
    return ticks


def streaming_accuracy(
    out: Path, ticks: Sequence[Tick], classes: Sequence[str], truth_of: Callable[[int], Truth]
) -> Accuracy:
    """Judge what the run in `out` showed at each of `ticks`, by boxes. `truth_of` gives the truth of a captured frame, labels
    indexing `classes`.

    Raises AccuracyError as `accuracy.evaluate` does.
    """
    found = read_detections(out, classes)
    none = Detections.none()
    shown = [none if tick.result is None else found.get(tick.result, none) for tick in ticks]
    return evaluate_boxes([truth_of(tick.frame) for tick in ticks], shown, len(classes))
