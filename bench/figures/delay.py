"""How the capture-to-output delay is distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..finished_run import FinishedRun
from ..percentile import MIN_COUNTS
from .style import BLUE, SKY, VERMILION, legend_above, new_figure, not_measured, row_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_delay(runs: list[FinishedRun]) -> Figure:
    """A row per run: every steady frame, the middle half of them, p50, and p95 where the count allows it; ms."""
    figure, axes = new_figure(0.9 + 0.42 * len(runs))
    labels = {"frame": "a frame", "half": "middle half of the frames", "p50": "p50", "p95": "p95"}
    random = np.random.default_rng(0)
    largest, smallest = 0.0, np.inf
    for row, run in enumerate(runs):
        delays = np.array([(output.output_ns - output.captured_ns) / 1e6 for output in run.steady])
        if not len(delays):
            not_measured(axes, 0.5, row)
            continue
        largest, smallest = max(largest, float(delays.max())), min(smallest, float(delays.min()))
        heights = row + random.uniform(-0.28, 0.28, len(delays))
        axes.plot(
            delays, heights, ".", ms=2.5, color=SKY, alpha=0.6, mew=0, label=labels.pop("frame", None), rasterized=True
        )
        low, middle, high = np.percentile(delays, (25, 50, 75))
        axes.plot(
            [low, high], [row, row], color=BLUE, linewidth=4, solid_capstyle="butt", label=labels.pop("half", None)
        )
        axes.plot(middle, row, "o", color="black", mec="white", ms=7, label=labels.pop("p50", None))
        if len(delays) >= MIN_COUNTS[95]:
            p95 = np.percentile(delays, 95)
            axes.plot(p95, row, "|", color=VERMILION, ms=15, mew=2, label=labels.pop("p95", None))
    row_axis(axes, [run.name for run in runs])
    if largest > 20 * smallest > 0:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("capture-to-output delay (ms)")
    legend_above(figure)
    return figure
