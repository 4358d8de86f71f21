"""What a report says of a sweep as a whole: a table of its cells, what failed, and curves where the link's rate varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figures.rates import draw_accuracy_over_bytes, draw_delay_over_rate, draw_gain
from .finished_run import FinishedRun
from .report_tables import NOT_MEASURED, Table
from .sweep_cell import RANDOM_WEIGHTS
from .sweep_results import SweepCell, SweepResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_RATES = 3
"""From so many rates on there are curves."""
Drawing = tuple[str, str, str, "Figure"]
"""Name, title, caption and figure."""


def sweep_sentences(sweep: SweepResults) -> list[str]:
    """How it was made, and what it lacks."""
    facts = sweep.facts
    sentences = [
        f"{len(sweep.cells)} of {facts['num_cells']} cells, {facts['repeats']} repeat(s) each in an order shuffled by seed "
        f"{facts['seed']}: {facts['num_finished']} of {facts['num_runs']} runs finished, {facts['num_failed']} failed.",
        f"Command: {facts['command']}",
    ]
    if facts["quick"]:
        sentences.append("A quick form: few frames, to try the sweep out.")
    if any(cell.status != "valid" for cell in sweep.cells):
        sentences.append("* lacks a proof, so its numbers are no result: the last column says which.")
    if any(cell.facts["weights"] == RANDOM_WEIGHTS for cell in sweep.cells):
        sentences.append(
            "Random weights: boxes mean nothing, so no mAP is given; times and bytes are those of trained ones."
        )
    cheaper = _cheapest(sweep.cells)
    return sentences + cheaper


def sweep_table(sweep: SweepResults) -> Table:
    """A row per cell."""
    headers = (
        "detector",
        "method",
        "link (Mbit/s)",
        "FPS",
        "delay mean (ms)",
        "by formula (ms)",
        "measured / formula",
        "metric",
        "bytes out",
        "mAP",
        "weights",
        "proofs",
    )
    return Table(f"Cells of {sweep.facts['name']}", headers, [_row(cell) for cell in sweep.cells])


def sweep_drawings(sweep: SweepResults) -> list[Drawing]:
    """Curves over the rate and accuracy over bytes, per detector; none where too few rates vary."""
    drawings: list[Drawing] = []
    for number, (detector, cells) in enumerate(sweep.figures.items()):
        if len({cell.rate_bit_per_s for cell in cells if cell.rate_bit_per_s}) >= MIN_RATES:
            drawings.append(
                (
                    f"delay-over-rate-{number}",
                    f"Delay over the link's rate, {detector}",
                    "Measured, one frame at a time; dashed: capture and computing plus 8 x bytes / rate. Hollow: lacks a proof.",
                    draw_delay_over_rate(cells),
                )
            )
            gain = draw_gain(cells)
            if gain is not None:
                caption = (
                    "Above 1 splitting has the shorter delay. Solid: against local; dashed: against the fastest offload. "
                    "Hollow: lacks a proof."
                )
                drawings.append((f"gain-{number}", f"Gain of splitting, {detector}", caption, gain))
        accuracy = draw_accuracy_over_bytes(cells)
        if accuracy is not None:
            caption = "Further left costs fewer bytes, higher is more accurate. Of the fastest link of each method."
            drawings.append((f"accuracy-over-bytes-{number}", f"Accuracy beside bytes, {detector}", caption, accuracy))
    return drawings


def representatives(series: Sequence[Sequence[FinishedRun]]) -> list[FinishedRun]:
    """Of each series of repeats the one with the median throughput."""
    return [sorted(repeats, key=_throughput)[(len(repeats) - 1) // 2] for repeats in series]


def _throughput(run: FinishedRun) -> float:
    return run.summary["fps"] or 0.0


def _cheapest(cells: Sequence[SweepCell]) -> list[str]:
    """Whether JPEG sends fewer bytes than features: said, because splitting is often sold by its bytes."""
    sentences = []
    for detector in dict.fromkeys(cell.figure for cell in cells):
        own = [cell for cell in cells if cell.figure == detector and (cell.value("bytes_out_per_frame") or 0) > 0]
        least: list[tuple[float, SweepCell]] = []
        for kind in (True, False):
            sizes = [
                (cell.value("bytes_out_per_frame") or 0.0, cell)
                for cell in own
                if cell.is_offload == kind and (not kind or cell.settings["encoding"] != "raw")
            ]
            if sizes:
                least.append(min(sizes, key=lambda pair: pair[0]))
        if len(least) == 2:
            (jpeg, by_jpeg), (features, by_features) = least
            first, second = (by_jpeg, by_features) if jpeg < features else (by_features, by_jpeg)
            sentences.append(
                f"Bytes, {detector}: {first.method} sends the fewest ({min(jpeg, features):,.0f} a frame), "
                f"{second.method} {max(jpeg, features):,.0f}."
            )
    return sentences


def _row(cell: SweepCell) -> tuple[str, ...]:
    star = "" if cell.status == "valid" else " *"
    delay, formula = cell.value("delay_mean_ms"), cell.formula_ms
    sent = cell.value("bytes_out_per_frame")
    metric = cell.facts["metric"]
    value = _spread(cell, "metric_value", star)
    if metric:
        unit = f" {cell.facts['metric_unit']}" if value != NOT_MEASURED else f" ({cell.facts['metric_note']})"
        metric = f"{metric}: {value}{unit}"
    return (
        cell.detector,
        cell.method,
        f"{cell.rate_bit_per_s / 1e6:g}" if cell.rate_bit_per_s else "no limit",
        _spread(cell, "fps", star),
        _spread(cell, "delay_mean_ms", star),
        "" if formula is None else f"{formula:.1f}",
        "" if formula is None or delay is None else f"{delay / formula:.3f}",
        metric,
        NOT_MEASURED if sent is None else f"{sent:,.0f}",
        _accuracy(cell, star),
        cell.facts["weights"],
        cell.status if cell.status == "valid" else f"{cell.status}: {cell.reason}",
    )


def _accuracy(cell: SweepCell, star: str) -> str:
    value = cell.value("map")
    return NOT_MEASURED if value is None else f"{value:.3f}{star}"


def _spread(cell: SweepCell, name: str, star: str) -> str:
    middle = cell.value(name)
    if middle is None:
        return NOT_MEASURED
    text = f"{middle:.1f}{star}"
    if cell.num_repeats < 2:
        return text
    return f"{text} ({cell.value(name, 'min'):.1f} to {cell.value(name, 'max'):.1f})"
