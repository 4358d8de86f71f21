"""What an adaptive run did while the link changed: link, settings, rate and delay of the results, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...stages.target import Target
from ..finished_run import FinishedRun
from ..link_steps import link_steps
from ..setting_changes import rates_seen, setting_changes
from .style import GREY, SERIES_COLOURS, VERMILION, legend_above, new_figure, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WINDOW_S = 1.0
_HEIGHTS = (1.1, 1.3, 1.2, 1.2)
_STRIP_COLOURS = ("#dbe9f4", "#f7e3bd", "#d5eee4", "#f1dce8", "#e4e4e4", "#f6f1b8")


def draw_adapt(runs: Mapping[str, FinishedRun], target: Target | None) -> Figure:
    """The first of `runs`, by name, is the adaptive one: its settings are shown, beside the rate and delay of all. s, from the
    first captured frame."""
    first = next(iter(runs.values()))
    figure, whole = new_figure(7.0)
    whole.remove()
    grid = figure.add_gridspec(len(_HEIGHTS), 1, height_ratios=_HEIGHTS)
    delay = figure.add_subplot(grid[3])
    link, strip, rate = (figure.add_subplot(grid[row], sharex=delay) for row in range(3))
    for axes in (link, strip, rate, delay):
        axes.tick_params(labelbottom=axes is delay)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    end_s = max((_seconds(run, [output.output_ns for output in run.outputs])[-1:] or [0.0])[0] for run in runs.values())
    _draw_link(link, first, end_s)
    _draw_settings(strip, first, end_s)
    for (name, run), colour in zip(runs.items(), SERIES_COLOURS, strict=False):
        thickness, order = (1.8, 3) if run is first else (1.0, 2)
        times = np.array(_seconds(run, [output.output_ns for output in run.outputs]))
        moments = np.arange(_WINDOW_S, end_s, 0.1)
        counts = np.searchsorted(times, moments, "right") - np.searchsorted(times, moments - _WINDOW_S, "right")
        rate.plot(moments, counts / _WINDOW_S, label=name, color=colour, linewidth=thickness, zorder=order)
        delays = [(output.output_ns - output.captured_ns) / 1e6 for output in run.outputs]
        delay.plot(times, delays, ".", ms=2.5, color=colour, mew=0, zorder=order)
    if target is not None:
        for axes, aim, label in ((rate, target.fps, str(target)), (delay, target.delay_ms, None)):
            if aim is not None:
                axes.axhline(aim, color="black", linewidth=0.8, linestyle="--", label=label)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("results in the\nlast second (FPS)", fontsize=8)
    delay.set_yscale("log")
    plain_numbers(delay.yaxis, (1, 2, 5))
    delay.set_ylabel("capture-to-output\ndelay (ms)", fontsize=8)
    delay.set_xlabel("time since the first frame (s)", fontsize=8)
    delay.set_xlim(0, max(end_s, 1e-3))
    figure.align_ylabels()
    legend_above(figure)
    return figure


def _draw_link(axes: Axes, run: FinishedRun, end_s: float) -> None:
    steps = link_steps(run.folder)
    if steps:
        times = _seconds(run, [step.at_ns for step in steps])
        rates = [step.rate_bit_per_s / 1e6 for step in steps]
        axes.step([*times, end_s], [*rates, rates[-1]], where="post", color=GREY, linewidth=2, label="rate of the link")
    seen = rates_seen(run)
    if seen:
        axes.plot(
            _seconds(run, [time_ns for time_ns, _ in seen]),
            [rate / 1e6 for _, rate in seen],
            ".",
            ms=3,
            color=VERMILION,
            label="what the controller takes it to be",
        )
    axes.set_yscale("log")
    plain_numbers(axes.yaxis, (1, 3))
    axes.set_ylabel("link\n(Mbit/s)", fontsize=8)


def _draw_settings(axes: Axes, run: FinishedRun, end_s: float) -> None:
    changes = setting_changes(run)
    names = list(dict.fromkeys(change.name for change in changes))
    sizes = {change.name: change.bytes_per_frame or 0.0 for change in changes}
    rows = {name: row for row, name in enumerate(sorted(names, key=sizes.__getitem__))}
    times = _seconds(run, [change.time_ns for change in changes])
    for change, begin_s, until_s in zip(changes, times, [*times[1:], end_s], strict=False):
        row = rows[change.name]
        colour = _STRIP_COLOURS[row % len(_STRIP_COLOURS)]
        axes.broken_barh(
            [(begin_s, max(until_s - begin_s, 0.0))],
            (row - 0.4, 0.8),
            facecolor=colour,
            edgecolor="#555555",
            linewidth=0.6,
        )
    axes.set_yticks(range(len(rows)), [_told(name, sizes[name]) for name in rows], fontsize=7.5)
    axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    axes.set_ylabel("setting", fontsize=8)


def _told(name: str, num_bytes: float) -> str:
    return f"{name}, {num_bytes / 1e3:.1f} kB" if num_bytes else name


def _seconds(run: FinishedRun, times_ns: Sequence[int]) -> list[float]:
    """Since the first captured frame."""
    captured = [work.begin_ns for work in run.work if work.stage == "capture"]
    begin_ns = min(captured, default=times_ns[0] if times_ns else 0)
    return [(time_ns - begin_ns) / 1e9 for time_ns in times_ns]
