"""The timeline of a stretch of frames: lanes of ranks and links as rows, like the clock table in `pipeline/lane.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ..breakdown import host_or_rank
from ..chain import ChainLane
from ..finished_run import FinishedRun, Transfer
from ..setting_changes import setting_changes
from ..trace import share_slots
from .style import BLUE, GREY, ORANGE, legend_above, new_figure, row_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_FRAMES = 6
_SETTINGS = "settings"
_MAX_LINK_ROWS = 3
_CHARACTER = 0.012
"""Width of a digit, as a share of the figure's time."""
_PARITY = (BLUE, ORANGE)
_HATCHES = {"input": "////", "credit": "xxxx", "queue": "....", "sink": "++++"}
_CAUSES = {
    "input": "waits for input",
    "credit": "waits for credit",
    "queue": "waits for room in the queue",
    "sink": "waits for the writers",
}


def draw_timeline(run: FinishedRun, num_frames: int = _NUM_FRAMES) -> Figure:
    """About `num_frames` frames from the middle of the steady part, or the last ones of a run that failed; ms."""
    begin, end = stretch(run, num_frames)
    slots = {edge: _slots(run, edge, begin, end) for edge in run.chain.edges()}
    rows: list[tuple[str, ChainLane | tuple[str, int]]] = []
    if setting_changes(run):
        rows.append(("setting of the next frame", (_SETTINGS, 0)))
    for lane in run.chain.lanes:
        if lane.rank in run.clocks and lane.rank in run.journals:
            rows.append((f"{host_or_rank(run, lane.rank)}: {lane.name}", lane))
        if lane.outbound_edge is not None:
            short = _short(lane.outbound_edge)
            for slot in range(min(_MAX_LINK_ROWS, max(1, len(slots[lane.outbound_edge])))):
                rows.append((f"link {short}" if slot == 0 else "", (lane.outbound_edge, slot)))
    figure, axes = new_figure(1.1 + 0.34 * max(1, len(rows)))
    for row, (_, what) in enumerate(rows):
        if isinstance(what, ChainLane):
            _draw_lane(axes, run, what, row, begin, end)
        elif what[0] == _SETTINGS:
            _draw_settings(axes, run, row, begin, end)
        else:
            edge, slot = what
            for transfer in slots[edge][slot] if slot < len(slots[edge]) else ():
                _draw_transfer(axes, transfer, row, begin, end)
    row_axis(axes, [name for name, _ in rows] or ["the journals do not tell the lanes"])
    axes.set_xlim(0, max((end - begin) / 1e6, 1e-3))
    axes.set_xlabel("time (ms)")
    shown = {wait.cause for wait in run.waits if wait.end_ns > begin and wait.begin_ns < end}
    _legend(figure, [cause for cause in _CAUSES if cause in shown])
    return figure


def stretch(run: FinishedRun, num_frames: int) -> tuple[int, int]:
    """Begin and end of what is shown, ns: `num_frames` times the median time between results."""
    times = [output.output_ns for output in run.steady]
    if len(times) < 2:
        return run.steady_span
    period = median(after - before for before, after in pairwise(times))
    length = round(max(period, (times[-1] - times[0]) / (len(times) - 1)) * num_frames)
    if run.summary["error"]:
        last = max([times[-1], *(work.end_ns for work in run.work)])
        return last - length, last
    middle = times[len(times) // 2]
    return middle - length // 2, middle + length // 2


def _slots(run: FinishedRun, edge: str, begin: int, end: int) -> list[list[Transfer]]:
    """Messages of an edge that are under way in the stretch, in rows."""
    return share_slots(
        transfer
        for transfer in run.transfers
        if transfer.edge == edge and transfer.arrived_ns >= begin and transfer.posted_ns <= end
    )


def _draw_settings(axes: Axes, run: FinishedRun, row: int, begin: int, end: int) -> None:
    """A strip of what an adaptive run had chosen."""
    changes = setting_changes(run)
    for number, change in enumerate(changes):
        until_ns = changes[number + 1].time_ns if number + 1 < len(changes) else end
        if until_ns > begin and change.time_ns < end:
            first, last = max(change.time_ns, begin), min(until_ns, end)
            _bar(axes, first, last, row, begin, 0.6, facecolor="#eeeeee", edgecolor="#555555")
            if last - first > _CHARACTER * len(change.name) * (end - begin):
                middle_ms = ((first + last) / 2 - begin) / 1e6
                axes.text(middle_ms, row, change.name, ha="center", va="center", fontsize=7)


def _draw_lane(axes: Axes, run: FinishedRun, lane: ChainLane, row: int, begin: int, end: int) -> None:
    for wait in run.waits:
        if (
            wait.rank == lane.rank
            and wait.end_ns > begin
            and wait.begin_ns < end
            and run.chain.of_wait(wait.rank, wait.cause, wait.where) == lane
        ):
            hatch = _HATCHES.get(wait.cause, "")
            _bar(axes, wait.begin_ns, wait.end_ns, row, begin, 0.4, facecolor="white", hatch=hatch, edgecolor="#aaaaaa")
    for work in run.work:
        if (
            work.rank == lane.rank
            and work.end_ns > begin
            and work.begin_ns < end
            and run.chain.of_stage(work.rank, work.stage) == lane
        ):
            colour = _PARITY[work.frame % 2]
            _bar(axes, work.begin_ns, work.end_ns, row, begin, 0.74, facecolor=colour, edgecolor="white")
            _number(
                axes, work.frame, work.begin_ns, work.end_ns, row, begin, end, "white" if colour == BLUE else "black"
            )


def _draw_transfer(axes: Axes, transfer: Transfer, row: int, begin: int, end: int) -> None:
    colour = _PARITY[transfer.frame % 2]
    if transfer.on_wire_ns > transfer.posted_ns:
        _bar(axes, transfer.posted_ns, transfer.on_wire_ns, row, begin, 0.5, facecolor="none", edgecolor=colour)
    _bar(
        axes, transfer.on_wire_ns, transfer.arrived_ns, row, begin, 0.5, facecolor=colour, edgecolor="white", alpha=0.55
    )
    _number(axes, transfer.frame, transfer.on_wire_ns, transfer.arrived_ns, row, begin, end)


def _bar(axes: Axes, first: int, last: int, row: int, begin: int, height: float, **look: object) -> None:
    span = ((first - begin) / 1e6, (last - first) / 1e6)
    axes.broken_barh([span], (row - height / 2, height), linewidth=0.6, **look)  # type: ignore[arg-type]


def _number(
    axes: Axes, frame: int, first: int, last: int, row: int, begin: int, end: int, colour: str = "black"
) -> None:
    """The frame's number, where there is room for it in what is shown of the bar."""
    first, last = max(first, begin), min(last, end)
    if last - first > _CHARACTER * len(str(frame)) * (end - begin):
        axes.text(
            ((first + last) / 2 - begin) / 1e6, row, str(frame), ha="center", va="center", fontsize=7, color=colour
        )


def _legend(figure: Figure, causes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=_PARITY[0], label="even frame"),
        Patch(facecolor=_PARITY[1], label="odd frame"),
        Patch(facecolor="none", edgecolor=GREY, label="posted, behind earlier frames"),
        *(
            Patch(facecolor="white", edgecolor="#888888", hatch=_HATCHES[cause], label=_CAUSES[cause])
            for cause in causes
        ),
    ]
    legend_above(figure, patches)


def _short(edge: str) -> str:
    """An edge's name that fits beside a row."""
    ends, _, tensors = edge.partition(" ")
    names = tensors.split("+")
    return f"{ends} {names[0]}" + (" ..." if len(names) > 1 else "")
