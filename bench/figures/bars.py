"""Two kinds of bars: grouped upright ones with their repeats' spread, and stacked lying ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from .style import SERIES_COLOURS, SERIES_HATCHES, legend_above, new_figure, not_measured, row_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Groups = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Group on the axis -> series -> a value per repeat, None where it was not measured."""
_GAP = 0.8
"""Between two groups, in widths of a bar."""


def grouped_bars(groups: Groups, unit: str, starred: Collection[tuple[str, str]] = ()) -> Figure:
    """A group per key, a colour per series. A bar is the median of its repeats, its line their least and greatest.

    The numbers of `starred` (group, series) get a star.
    """
    figure, axes = new_figure(3.4)
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    num_bars = sum(map(len, groups.values()))
    unnamed = set(series)
    left, ticks = 0.0, []
    for title, group in groups.items():
        for place, (name, repeats) in enumerate(group.items()):
            x = left + place
            colour, hatch = _look(series.index(name))
            values = [value for value in repeats if value is not None]
            middle = median(values) if values else 0.0
            label = name if name in unnamed else None
            unnamed.discard(name)
            axes.bar(x, middle, 0.88, color=colour, hatch=hatch, edgecolor="white", label=label)
            if not values:
                not_measured(axes, x, 0, upright=True)
                continue
            if len(values) > 1:
                spread = [[middle - min(values)], [max(values) - middle]]
                axes.errorbar(x, middle, yerr=spread, color="black", capsize=3, linewidth=1)
            axes.annotate(
                f"{middle:.1f}" + ("*" if (title, name) in starred else ""),
                (x, max(values)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8 if num_bars <= 24 else 6,
            )
        ticks.append(left + (len(group) - 1) / 2)
        left += len(group) + _GAP
    axes.set_xticks(ticks, list(groups))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5 - _GAP, left - 0.5)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    legend_above(figure)
    return figure


def stacked_rows(
    rows: Sequence[tuple[str, Mapping[str, float] | None]],
    looks: Mapping[str, tuple[str, str]],
    unit: str,
    digits: int = 1,
) -> tuple[Figure, Axes]:
    """A bar per row from parts that add up; None is a row that was not measured. `looks`: part -> (colour, hatch).
    The caller may add to it, and then its legend with `legend_above`."""
    figure, axes = new_figure(0.9 + 0.36 * len(rows))
    total = max((sum(parts.values()) for _, parts in rows if parts), default=0.0)
    named: set[str] = set()
    for row, (_, parts) in enumerate(rows):
        if parts is None:
            not_measured(axes, 0, row)
            continue
        left = 0.0
        for part, value in parts.items():
            colour, hatch = looks[part]
            label = None if part in named else part
            named.add(part)
            axes.barh(row, value, 0.68, left=left, color=colour, hatch=hatch, edgecolor="white", label=label)
            if total and value / total > 0.055:
                _number(axes, left + value / 2, row, f"{value:.{digits}f}")
            left += value
    row_axis(axes, [name for name, _ in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    return figure, axes


def part_looks(rows: Sequence[Sequence[str]], without: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """A colour and hatch for each part by its place in its row, so that the first device has the same in all rows.

    `without`: colours that something else has.
    """
    return {part: _look(place, without) for row in rows for place, part in enumerate(row)}


def _look(number: int, without: Sequence[str] = ()) -> tuple[str, str]:
    # Where colours come round again, the hatches differ.
    colours = [colour for colour in SERIES_COLOURS if colour not in without]
    turn, place = divmod(number, len(colours))
    return colours[place], SERIES_HATCHES[turn % len(SERIES_HATCHES)]


def _number(axes: Axes, x: float, y: float, text: str) -> None:
    ground = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=ground)
