"""The tables of results as Markdown, JSON and figures, from the rows that there are."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from ..bench.figures.results import Line, Point, draw_accuracy_over_bytes
from ..bench.figures.style import FigureError, to_png
from ..pipeline.errors import UsageError
from .published import PUBLISHED, Part
from .result_row import Row, write_text

TABLE, ROWS, FIGURE = "table.md", "table.json", "accuracy.png"
_COLUMNS = ("detector", "width", "seed", "wire", "mAP", "mAP@50", "bytes per frame", "edge MMAC", "parameters", "note")


@dataclass(frozen=True)
class Results:
    """What one part of the table has."""

    part: Part
    rows: Sequence[Row]
    missing: Sequence[str]
    """Experiments that were not run or not finished, and why, a line each."""


TITLES: Mapping[Part, str] = {
    "distillation": "Distillation",
    "slimmable": "One slimmable set of weights against widths trained one by one",
}
SLIMMABLE, COMPUTATION, TAKEN_ANEW = "slimmable", "slimmable, encoder too", "slimmable, statistics taken anew"
ONE_BY_ONE, TEACHER, RIVALS = "trained one by one", "naive split", ("naive split", "JPEG offload", "raw offload")
"""Families of rows that the figures know by name."""


def write_table(every: Sequence[Results], out: Path, heading: Sequence[str]) -> str:
    """`table.md` below the lines of `heading`, `table.json`, and the figures where matplotlib is installed; gives the Markdown.

    Raises UsageError where they cannot be written.
    """
    lines = [*heading, ""]
    for results in every:
        lines += [f"## {TITLES[results.part]}", "", *_table(results.rows), *_over_seeds(results.rows), ""]
        lines += [f"Not there: {missing}" for missing in results.missing]
        lines += [""] if results.missing else []
        lines += ["As published (COCO; not measured here):", "", "| | | |", "|---|---|---|"]
        lines += [f"| {each.what} | {each.values} | {each.source} |" for each in PUBLISHED[results.part]]
        lines.append("")
    text = "\n".join(lines)
    write_text(out / TABLE, text)
    values = {
        results.part: {
            "rows": [dataclasses.asdict(row) for row in results.rows],
            "missing": list(results.missing),
            "published": [each._asdict() for each in PUBLISHED[results.part]],
        }
        for results in every
    }
    write_text(out / ROWS, json.dumps(values, indent=1) + "\n")
    for results in every:
        _draw(results, out)
    return text


def _table(rows: Iterable[Row]) -> list[str]:
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|--:|--:|---|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        cells = (
            row.name,
            f"{row.width:g}",
            str(row.seed),
            row.wire,
            percent(row.mean_precision),
            percent(row.mean_precision_50),
            f"{row.bytes_per_frame:,.0f}",
            f"{row.edge_macs / 1e6:,.1f}",
            f"{row.num_parameters:,}",
            row.note,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _over_seeds(rows: Sequence[Row]) -> list[str]:
    """Means and standard deviations of what was trained with several seeds."""
    lines = []
    for same in _by_setting(rows).values():
        values = [row.mean_precision for row in same if row.mean_precision is not None]
        if len(values) > 1:
            spread = f"{100 * fmean(values):.1f} | {100 * stdev(values):.1f} | {len(values)}"
            lines.append(f"| {same[0].name} | {same[0].wire} | {spread} |")
    if not lines:
        return []
    return ["", "| over the seeds | wire | mAP | standard deviation | seeds |", "|---|---|--:|--:|--:|", *lines]


def _by_setting(rows: Iterable[Row]) -> dict[tuple[str, str, str, float], list[Row]]:
    """Rows that differ in nothing but the seed."""
    found: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row.family, row.name, row.wire, row.width), []).append(row)
    return found


def _line(name: str, rows: Iterable[Row], *, is_rival: bool = False) -> Line:
    """A point per setting, the mean over its seeds."""
    settings = []
    for same in _by_setting(rows).values():
        known = [row.mean_precision for row in same if row.mean_precision is not None]
        num_bytes = fmean(row.bytes_per_frame for row in same)
        if known and num_bytes:
            settings.append(Point(num_bytes, fmean(known), same[0].edge_macs))
    return Line(name, settings, is_rival)


def _draw(results: Results, out: Path) -> None:
    rows = results.rows
    precise = [row.mean_precision for row in rows if row.family == TEACHER and row.mean_precision is not None]
    teacher = max(precise, default=None)
    if results.part == "distillation":
        families = dict.fromkeys(row.family for row in rows)
        lines = [
            _line(family, [row for row in rows if row.family == family], is_rival=family in RIVALS)
            for family in families
        ]
        _save(lines, out / FIGURE, teacher, only_best=True)
        return

    def of(family: str, chosen: Callable[[Row], bool]) -> list[Row]:
        return [row for row in rows if row.family == family and chosen(row)]

    def of_wire(family: str, wire: str, name: str = "") -> Line:
        found = of(family, lambda row: row.wire == wire)
        return _line(name or f"{family}, {wire}", found, is_rival=family == ONE_BY_ONE)

    _save([of_wire(SLIMMABLE, "uint8"), of_wire(ONE_BY_ONE, "uint8")], out / "slimmable-widths.png", teacher)
    wires = dict.fromkeys(row.wire for row in rows if row.family == SLIMMABLE)
    bits = [of_wire(family, wire) for wire in wires for family in (SLIMMABLE, ONE_BY_ONE)]
    _save(bits, out / "slimmable-bits.png", teacher)
    both = [of_wire(SLIMMABLE, "uint8", "next to the wire only"), of_wire(COMPUTATION, "uint8", "the encoder too")]
    _save(both, out / "slimmable-computation.png", teacher, with_macs=True)
    again = [
        of_wire(family, "uint8", name)
        for family, name in ((SLIMMABLE, "statistics as trained"), (TAKEN_ANEW, "statistics taken anew"))
    ]
    _save(again, out / "slimmable-recalibration.png", teacher)


def _save(
    lines: Sequence[Line], path: Path, teacher: float | None, *, with_macs: bool = False, only_best: bool = False
) -> None:
    """A figure, unless it would have no line."""
    shown = [line for line in lines if line.points]
    if not shown:
        return
    try:
        figure = draw_accuracy_over_bytes(shown, teacher=teacher, with_macs=with_macs, only_best=only_best)
    except FigureError:
        return  # the tables need no matplotlib
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(to_png(figure))
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); make room and try again") from error


def percent(value: float | None) -> str:
    """In per cent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"
