"""FPS by placement and detector, whole pipeline and the edge device's component (the thesis's figures 3.2 and 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..breakdown import edge_fps
from ..finished_run import FinishedRun
from ..run_set import series_of
from .bars import grouped_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_throughput(runs: list[FinishedRun]) -> Figure:
    """FPS of the whole pipeline."""
    return _draw(runs, lambda run: run.summary["fps"], "throughput (FPS)")


def draw_edge_throughput(runs: list[FinishedRun]) -> Figure:
    """1 / service time of the graphs that the edge device runs, FPS."""
    return _draw(runs, edge_fps, "edge component (FPS)")


def _draw(runs: list[FinishedRun], value: Callable[[FinishedRun], float | None], unit: str) -> Figure:
    found = series_of(runs)
    groups = {
        detector: {name: [value(run) for run in repeats] for name, repeats in series.items()}
        for detector, series in found.items()
    }
    starred = {
        (detector, name)
        for detector, series in found.items()
        for name, repeats in series.items()
        if not all(run.verdict.valid for run in repeats)
    }
    return grouped_bars(groups, unit, starred)
