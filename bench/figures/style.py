"""How all figures look: colours that the colour-blind tell apart, sizes, and the way to PNG.

Colours: Okabe and Ito 2008, "Color Universal Design". Hatches and labels carry what colours carry, too.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...pipeline.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#999999"
SERIES_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)
SERIES_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---")
WIDTH_INCHES = 8.0
_DPI = 150
_ROW_NAME_CHARACTERS = 40


class FigureError(UsageError):
    """Figures cannot be drawn here."""


def new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """An empty figure and its axes. Raises FigureError: matplotlib is missing."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install 'splitrail[bench]'") from error
    with rc_context({"font.size": 9, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    # Without a date or a version in it, the same runs give the same file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def legend_above(figure: Figure, handles: Sequence[Artist] | None = None) -> None:
    """The legend above the axes, where it hides nothing, in as many columns as fit. By default of what has a label."""
    if handles is None:
        handles = [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), int(WIDTH_INCHES * 14 / (longest + 8))))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=8)


def not_measured(axes: Axes, x: float, y: float, *, upright: bool = False) -> None:
    """Say at a bar's place that there is no value."""
    axes.annotate(
        "not measured",
        (x, y),
        xytext=(0, 3) if upright else (3, 0),
        textcoords="offset points",
        rotation=90 if upright else 0,
        ha="center" if upright else "left",
        va="bottom" if upright else "center",
        fontsize=7.5,
        style="italic",
        color="#555555",
    )


def row_axis(axes: Axes, names: Sequence[str]) -> None:
    """One row per name, the first on top."""
    axes.set_yticks(range(len(names)), [_wrap(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.38, -0.62)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def _wrap(name: str) -> str:
    return "\n".join(textwrap.wrap(name, _ROW_NAME_CHARACTERS, break_long_words=False)) or name


def plain_numbers(axis: object, ticks: Sequence[float] = (1, 1.5, 2, 3, 5, 7)) -> None:
    """Of a logarithmic axis: `ticks` of every decade as plain numbers instead of powers of ten."""
    from matplotlib.axis import Axis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    assert isinstance(axis, Axis)
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
