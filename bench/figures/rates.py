"""What the rate of the link does: delay of every method, and what splitting gains (figures 5 and 6 of Matsubara et al. 2020),
and the accuracy beside the bytes that it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..sweep_results import SweepCell, methods_of
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, legend_above, new_figure, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)
_MARKERS = "os^vDPX*"


def draw_delay_over_rate(cells: Sequence[SweepCell]) -> Figure:
    """Mean capture-to-output delay over the link's rate, a line per method; by formula dashed. Hollow: lacks a proof."""
    figure, axes = new_figure(4.6)
    looks = _looks(cells)
    for method, own in methods_of(cells).items():
        local = [cell for cell in own if cell.is_local]
        delay = local[0].value("delay_mean_ms") if local else None
        if delay is not None:
            axes.axhline(delay, color="black", linewidth=1.2, linestyle=":", label=f"{method} (no link)")
            continue
        points = [
            (cell.rate_bit_per_s / 1e6, delay, cell.status == "valid")
            for cell in own
            if cell.rate_bit_per_s and (delay := cell.value("delay_mean_ms")) is not None
        ]
        _line(axes, points, method, looks[method])
        formula = [
            (cell.rate_bit_per_s / 1e6, cell.formula_ms) for cell in own if cell.rate_bit_per_s and cell.formula_ms
        ]
        if formula:
            axes.plot(*zip(*formula, strict=True), "--", color=looks[method][0], linewidth=1, alpha=0.8)
    axes.plot([], [], "--", color=GREY, linewidth=1, label="the same by formula")
    axes.set_yscale("log")
    _rate_axis(axes, cells)
    axes.set_ylabel("capture-to-output delay, mean (ms)")
    plain_numbers(axes.yaxis)
    legend_above(figure)
    return figure


def draw_gain(cells: Sequence[SweepCell]) -> Figure | None:
    """Delay of the others over that of splitting, by rate: above 1 splitting is faster. None without a split to compare."""
    rivals: dict[str, dict[float | None, list[SweepCell]]] = {
        "local": {None: [cell for cell in cells if cell.is_local]},
        "fastest offload": _by_rate([cell for cell in cells if cell.is_offload]),
    }
    splits = [
        (method, own)
        for method, own in methods_of(cells).items()
        if not own[0].is_offload and not any(cell.is_local for cell in own)
    ]
    figure, axes = new_figure(4.2)
    num_lines = 0
    looks = _looks(cells)
    for method, own in splits:
        for (rival, found), style in zip(rivals.items(), ("-", "--"), strict=True):
            points = []
            for cell in own:
                others = [
                    (delay, other.status == "valid")
                    for other in found.get(cell.rate_bit_per_s, found.get(None, []))
                    if (delay := other.value("delay_mean_ms"))
                ]
                mine = cell.value("delay_mean_ms")
                if others and mine and cell.rate_bit_per_s:
                    delay, is_valid = min(others)
                    points.append((cell.rate_bit_per_s / 1e6, delay / mine, is_valid and cell.status == "valid"))
            if points:
                _line(axes, points, f"{rival} / ({method})", looks[method], style)
                num_lines += 1
    if not num_lines:
        return None
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    _rate_axis(axes, cells)
    axes.set_ylabel("gain: other delay / split delay")
    plain_numbers(axes.yaxis)
    legend_above(figure)
    return figure


def draw_accuracy_over_bytes(cells: Sequence[SweepCell]) -> Figure | None:
    """mAP over the bytes that the edge device sends for a frame, a dot per method; None where no accuracy is known."""
    dots = []
    for method, own in methods_of(cells).items():
        known = [
            cell for cell in own if cell.value("map") is not None and cell.value("bytes_out_per_frame") is not None
        ]
        if known:
            # The rate changes neither, but for a camera's drops: the fastest link has the most frames.
            dots.append((method, known[-1].value("bytes_out_per_frame") or 0.0, known[-1].value("map") or 0.0))
    sent = [dot for dot in dots if dot[1] > 0]
    if not sent:
        return None
    figure, axes = new_figure(4.0)
    looks = _looks(cells)
    for method, num_bytes, accuracy in sent:
        colour, marker = looks[method]
        axes.plot(num_bytes / 1e3, accuracy, marker, color=colour, ms=9, label=f"{method}: {num_bytes / 1e3:.1f} kB")
    for method, num_bytes, accuracy in dots:
        if num_bytes == 0:
            axes.axhline(accuracy, color="black", linewidth=1.2, linestyle=":", label=f"{method}: nothing sent")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.15 * max(accuracy for _, _, accuracy in dots) or 1)
    plain_numbers(axes.xaxis)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_xlabel("sent by the edge device for a frame (kB)")
    axes.set_ylabel("mAP@[.5:.95]")
    legend_above(figure)
    return figure


def _line(
    axes: Axes, points: Sequence[tuple[float, float, bool]], label: str, look: tuple[str, str], style: str = "-"
) -> None:
    """Points (x, y, whether valid); those that are not are hollow."""
    if not points:
        return
    colour, marker = look
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], style, color=colour, linewidth=1.2)
    for is_valid in (True, False):
        some = [(x, y) for x, y, valid in points if valid == is_valid]
        if some:
            face = colour if is_valid else "white"
            axes.plot(*zip(*some, strict=True), marker, color=colour, markerfacecolor=face, ms=6, linestyle="none")
    axes.plot([], [], style, marker=marker, color=colour, label=label)


def _looks(cells: Sequence[SweepCell]) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker, the same in all figures; what needs no link is drawn in black."""
    methods = [method for method, own in methods_of(cells).items() if not any(cell.is_local for cell in own)]
    return {
        method: (_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, method in enumerate(methods)
    }


def _by_rate(cells: Sequence[SweepCell]) -> dict[float | None, list[SweepCell]]:
    found: dict[float | None, list[SweepCell]] = {}
    for cell in cells:
        found.setdefault(cell.rate_bit_per_s, []).append(cell)
    return found


def _rate_axis(axes: Axes, cells: Sequence[SweepCell]) -> None:
    rates = sorted({cell.rate_bit_per_s / 1e6 for cell in cells if cell.rate_bit_per_s})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_xlabel("rate of the link (Mbit/s)")
