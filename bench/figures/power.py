"""Power (the thesis's figure 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..finished_run import FinishedRun
from .style import BLUE, legend_above, new_figure, not_measured, row_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_power(runs: list[FinishedRun]) -> Figure:
    """Mean power of each meter over the timed part, W, with the idle power before it; a row per host and meter."""
    rows = [(run, entry) for run in runs for entry in (run.summary.get("energy") or [{}])]
    figure, axes = new_figure(0.9 + 0.36 * len(rows))
    labels = {"mean": "while frames stream", "idle": "idle, before the run"}
    for row, (_, entry) in enumerate(rows):
        if entry.get("mean_w") is None:
            not_measured(axes, 0, row)
            continue
        axes.barh(row, entry["mean_w"], 0.68, color=BLUE, label=labels.pop("mean", None))
        axes.annotate(
            f"{entry['mean_w']:.2f}",
            (entry["mean_w"], row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if entry.get("idle_w") is not None:
            idle = [entry["idle_w"]] * 2
            axes.plot(idle, [row - 0.4, row + 0.4], color="black", linewidth=2, label=labels.pop("idle", None))
    row_axis(axes, [_row_name(run, entry) for run, entry in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("power (W)")
    legend_above(figure)
    return figure


def _row_name(run: FinishedRun, entry: dict[str, Any]) -> str:
    where = " ".join(str(entry[key]) for key in ("host", "name", "scope") if entry.get(key))
    return f"{run.name}: {where}" if where else run.name
