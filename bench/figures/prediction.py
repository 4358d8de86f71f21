"""Measured against predicted, where a run's folder has a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..finished_run import FinishedRun
from .style import BLUE, GREY, ORANGE, legend_above, new_figure, not_measured, row_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_predictions(runs: list[FinishedRun]) -> Figure:
    """Measured / predicted per run; 1 is a perfect prediction, the grey band is 5 % to each side."""
    rows = [run for run in runs if run.predictions]
    figure, axes = new_figure(1.0 + 0.36 * len(rows))
    axes.axvspan(0.95, 1.05, color=GREY, alpha=0.25, label="within 5 %", linewidth=0)
    axes.axvline(1, color="black", linewidth=0.8)
    looks = {"throughput (FPS)": (BLUE, "o"), "delay p50 (ms)": (ORANGE, "s")}
    named: set[str] = set()
    for row, run in enumerate(rows):
        for what, measured, predicted in run.predictions:
            if measured is None or not predicted:
                not_measured(axes, 1, row)
                continue
            colour, marker = looks[what]
            axes.plot(measured / predicted, row, marker, color=colour, ms=8, label=None if what in named else what)
            named.add(what)
    row_axis(axes, [run.name for run in rows])
    axes.set_xlabel("measured / predicted")
    legend_above(figure)
    return figure
