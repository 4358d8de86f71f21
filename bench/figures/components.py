"""Time by component: edge device | MPI | workstation (the thesis's figures 3.3 and 3.5), and the whole delay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..breakdown import Breakdown
from ..finished_run import FinishedRun
from .bars import part_looks, stacked_rows
from .style import GREY, ORANGE, PURPLE, SKY, legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTURE, WIRE, BEHIND = "capture", "MPI, on the link", "MPI, behind earlier frames"
CREDIT, QUEUED, RUNTIME = "waits for credit to send", "waits in queues", "runtime"
_LOOKS = {
    CAPTURE: (SKY, ""),
    WIRE: (ORANGE, ""),
    BEHIND: (ORANGE, "////"),
    CREDIT: (PURPLE, "xxxx"),
    QUEUED: (GREY, "////"),
    RUNTIME: ("black", ""),
}


def draw_components(runs: list[FinishedRun]) -> Figure:
    """Mean time of a frame in each component, with the time between two results beside it: what overlap hides."""
    rows = [(run.name, _components(run)) for run in runs]
    figure, axes = stacked_rows(rows, _looks(rows), "time of a frame (ms)")
    label: str | None = "time between two results (1 / FPS)"
    for row, run in enumerate(runs):
        if run.summary["fps"]:
            axes.plot(1000 / run.summary["fps"], row + 0.44, "^", color="black", markersize=7, mec="white", label=label)
            label = None
    legend_above(figure)
    return figure


def draw_delay_components(runs: list[FinishedRun]) -> Figure:
    """Mean capture-to-output delay, by what the frame waits for or goes through."""
    rows: list[tuple[str, dict[str, float] | None]] = []
    for run in runs:
        found = Breakdown.of(run)
        parts = _components(run)
        if found is not None and parts is not None:
            parts = {
                CAPTURE: found.capture_ms,
                **parts,
                BEHIND: found.behind_ms,
                CREDIT: found.credit_ms,
                QUEUED: found.queued_ms,
                RUNTIME: found.runtime_ms,
            }
        rows.append((run.name, parts))
    figure, _ = stacked_rows(rows, _looks(rows), "capture-to-output delay (ms)")
    legend_above(figure)
    return figure


def draw_edge_time(runs: list[FinishedRun]) -> Figure:
    """Service times on the edge device, by stage."""
    rows: list[tuple[str, dict[str, float] | None]] = []
    for run in runs:
        found = Breakdown.of(run)
        parts: dict[str, float] = {}
        for rank in run.edge_host_ranks:
            for stage, time in (found.stages_ms.get(rank, {}) if found is not None else {}).items():
                parts[stage] = parts.get(stage, 0.0) + time
        rows.append((run.name, parts or None))
    stages = list(dict.fromkeys(stage for _, parts in rows for stage in parts or ()))
    figure, _ = stacked_rows(rows, part_looks([stages]), "service time on the edge device (ms)", digits=2)
    legend_above(figure)
    return figure


def _components(run: FinishedRun) -> dict[str, float] | None:
    found = Breakdown.of(run)
    if found is None:
        return None
    devices = list(found.compute_ms)
    parts = {devices[0]: found.compute_ms[devices[0]]}
    if run.chain.edges():
        parts[WIRE] = found.wire_ms
    return {**parts, **{device: found.compute_ms[device] for device in devices[1:]}}


def _looks(rows: list[tuple[str, dict[str, float] | None]]) -> dict[str, tuple[str, str]]:
    devices = [[part for part in parts if part not in _LOOKS] for _, parts in rows if parts]
    # What is not a device has its colour for itself.
    return {**part_looks(devices, without=[colour for colour, _ in _LOOKS.values()]), **_LOOKS}
