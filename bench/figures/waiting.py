"""What each lane does with its time: computing, and waiting by cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..breakdown import lane_times
from ..finished_run import FinishedRun
from .bars import stacked_rows
from .style import BLUE, GREY, ORANGE, PURPLE, SKY, YELLOW, legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CAUSES = {
    "input": "waits for input",
    "credit": "waits for credit to send",
    "queue": "waits for room in the next queue",
    "sink": "waits for the writers",
}
_LOOKS = {
    "computes": (BLUE, ""),
    _CAUSES["input"]: (SKY, "///"),
    _CAUSES["credit"]: (ORANGE, "xxx"),
    _CAUSES["queue"]: (PURPLE, "..."),
    _CAUSES["sink"]: (YELLOW, "+++"),
    "rest": (GREY, ""),
}


def draw_waiting(run: FinishedRun) -> Figure:
    """Shares of the steady time of each lane, %. The rest is sending, receiving and the runtime."""
    rows = []
    for lane in lane_times(run):
        parts = {"computes": 100 * lane.computes}
        parts |= {_CAUSES[cause]: 100 * share for cause, share in lane.waits.items() if cause in _CAUSES}
        rows.append((lane.name, {**parts, "rest": max(0.0, 100 - sum(parts.values()))}))
    figure, axes = stacked_rows(rows or [(run.name, None)], _LOOKS, "share of the time (%)", digits=0)
    axes.set_xlim(0, 100)
    legend_above(figure)
    return figure
