"""Memory (the thesis's figure 3.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..breakdown import host_or_rank
from ..finished_run import FinishedRun
from .bars import part_looks, stacked_rows
from .style import legend_above, not_measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_memory(runs: list[FinishedRun]) -> Figure:
    """Peak resident memory of the ranks' processes by host, MB; the edge device first, on the left."""
    rows = [(run.name, _by_host(run) or None) for run in runs]
    hosts = [list(parts) for _, parts in rows if parts]
    figure, axes = stacked_rows(rows, part_looks(hosts), "peak resident memory (MB)", digits=0)
    for row, (run, (_, parts)) in enumerate(zip(runs, rows, strict=True)):
        if parts and any(rank["peak_resident_bytes"] is None for rank in run.summary["ranks"]):
            not_measured(axes, sum(parts.values()), row)
    legend_above(figure)
    return figure


def _by_host(run: FinishedRun) -> dict[str, float]:
    found: dict[str, float] = {}
    for rank in run.summary["ranks"]:
        if rank["peak_resident_bytes"] is not None:
            host = host_or_rank(run, rank["rank"])
            found[host] = found.get(host, 0.0) + rank["peak_resident_bytes"] / 1e6
    return found
