"""What each module of a detector would send and has cost so far: figures 2 to 4 of Matsubara and Levorato 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .style import BLUE, GREEN, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_census(result: Mapping[str, Any]) -> Figure:
    """Three panels from the JSON of `splitrail inspect`: elements relative to the input, cumulative parameters and MACs."""
    figure, only = new_figure(7.0)
    only.remove()
    modules = result["modules"]
    names = [row["name"] for row in modules]
    panels = figure.subplots(3, 1, sharex=True)
    values = (
        ([row["relative_elements"] for row in modules], "sent if cut here,\nparts of the input", BLUE),
        ([row["cumulative_parameters"] / 1e6 for row in modules], "parameters up to\nhere (million)", GREEN),
        ([row["cumulative_macs"] / 1e9 for row in modules], "multiply-accumulates\nup to here (G)", ORANGE),
    )
    for axes, (heights, label, colour) in zip(panels, values, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        bars = axes.bar(names, heights, color=colour, width=0.6)
        axes.bar_label(bars, [f"{height:.3g}" for height in heights], fontsize=7, padding=1)
        axes.set_ylabel(label)
        axes.margins(y=0.15)
    panels[0].axhline(1, color=GREY, linewidth=1, linestyle="--")
    # Where several modules can be cut with one tensor, their names say so.
    panels[-1].set_xticks(range(len(names)), [f"{row['name']}*" if row["cut"] else row["name"] for row in modules])
    panels[-1].tick_params(axis="x", rotation=30)
    height, width = result["size"]
    bottleneck = f", bottleneck of {result['bottleneck']} channels" if result["bottleneck"] else ""
    panels[0].set_title(
        f"{result['detector']}{bottleneck}, {height}x{width} (*: can be split here)", loc="left", fontsize=9
    )
    return figure
