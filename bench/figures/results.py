"""Accuracy over bytes per frame: lines of settings, what the teacher reaches, and what a single setting reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .style import GREY, SERIES_COLOURS, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "os^vDP<>pX*h"
_SMALLEST, _LARGEST = 20.0, 320.0
"""Areas of points, in square points, of no and of the most edge compute."""


@dataclass(frozen=True)
class Point:
    """A point."""

    num_bytes: float
    """Per frame, above 0."""
    mean_precision: float
    """mAP@50:95 in [0, 1]."""
    edge_macs: int = 0
    """Multiply-accumulates of the head."""


@dataclass(frozen=True)
class Line:
    """Points of one kind."""

    name: str
    points: Sequence[Point]
    is_rival: bool = False
    """Drawn in grey, dashed: what the others are compared with."""


def draw_accuracy_over_bytes(
    lines: Sequence[Line], *, teacher: float | None = None, with_macs: bool = False, only_best: bool = False
) -> Figure:
    """A line per kind, by bytes; `teacher` is a mAP, drawn dotted across.

    With `with_macs` the area of a point grows with the edge's multiply-accumulates, and the ends of each line say them. With
    `only_best` a line joins only those of its points to which none with fewer bytes is equal.
    """
    figure, axes = new_figure(4.4)
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if teacher is not None:
        axes.axhline(
            100 * teacher, color="black", linewidth=1.0, linestyle=":", label="teacher, nothing lost on the way"
        )
    most = max((point.edge_macs for line in lines for point in line.points), default=0)
    colours = iter(SERIES_COLOURS * len(lines))
    for number, line in enumerate(line for line in lines if line.points):
        points = sorted(line.points, key=lambda point: point.num_bytes)
        colour = GREY if line.is_rival else next(colours)
        bytes_of = [point.num_bytes for point in points]
        precision_of = [100 * point.mean_precision for point in points]
        style, marker = "--" if line.is_rival else "-", _MARKERS[number % len(_MARKERS)]
        joined = best_points(points) if only_best else points
        axes.plot(
            [point.num_bytes for point in joined],
            [100 * point.mean_precision for point in joined],
            style,
            color=colour,
            linewidth=1.1,
            zorder=2,
        )
        areas = [
            _SMALLEST + (_LARGEST - _SMALLEST) * point.edge_macs / most if with_macs and most else 28.0
            for point in points
        ]
        axes.scatter(bytes_of, precision_of, areas, color=colour, marker=marker, alpha=0.85, zorder=3)
        axes.plot([], [], style, color=colour, marker=marker, markersize=5, label=line.name)
        for point in {points[0], points[-1]} if with_macs else ():
            axes.annotate(
                f"{point.edge_macs / 1e6:,.1f} MMAC",
                (point.num_bytes, 100 * point.mean_precision),
                xytext=(0, -14),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=colour,
            )
    if teacher is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(low, max(high, 100 * teacher + 2))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_xlabel("bytes per frame on the wire")
    axes.set_ylabel("mAP@[.5:.95] on the images held out, %")
    legend_above(figure)
    return figure


def best_points(points: Sequence[Point]) -> list[Point]:
    """Those that are more precise than every other with as few bytes or fewer, by bytes."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.num_bytes, -each.mean_precision)):
        if not best or point.mean_precision > best[-1].mean_precision:
            best.append(point)
    return best
