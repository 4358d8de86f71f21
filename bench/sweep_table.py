"""A sweep's results: a row per cell, with the median of its repeats and their spread, as sweep.csv, sweep.json and text."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ..pipeline.errors import UsageError
from .sweep_cell import RANDOM_WEIGHTS, Cell
from .sweep_file import Sweep
from .sweep_formula import formula_delays_ms
from .sweep_row import VALUES, Row, Status

SCHEMA_VERSION = 1
CSV, JSON = "sweep.csv", "sweep.json"
_FACTS = ("weights", "engine_used", "metric", "metric_unit", "metric_note", "map_note")
_SPREAD = ("fps", "metric_value", "delay_mean_ms", "delay_p50_ms")
"""Columns whose least and greatest repeat are in the table, too."""
_WORST: tuple[Status, ...] = ("failed", "invalid", "valid")


@dataclass(frozen=True, slots=True)
class CellResult:
    """A cell of which at least one repeat was run."""

    cell: Cell
    rows: tuple[Row, ...]
    """Its repeats so far, in order."""
    rate_bit_per_s: float | None
    """Of the link; None where it is not limited."""
    formula_ms: float | None
    """The mean delay by formula; None where frames wait for others."""

    @property
    def status(self) -> Status:
        """The worst of its repeats."""
        return min((row.status for row in self.rows), key=_WORST.index)

    @property
    def reason(self) -> str:
        """Of the first repeat that has this status; which one, where there are several."""
        row = next(row for row in self.rows if row.status == self.status)
        where = f"repeat {row.trial.repeat}: " if len(self.rows) > 1 and row.reason else ""
        return where + row.reason

    @property
    def verdict(self) -> str:
        """valid, or invalid or failed with the reason."""
        return self.status if self.status == "valid" else f"{self.status}: {self.reason}"

    def values(self, name: str) -> list[float]:
        """Of the repeats that have one."""
        return [value for row in self.rows if (value := row.values[name]) is not None]

    def median(self, name: str) -> float | None:
        """Over the repeats; None where it was not measured."""
        values = self.values(name)
        return median(values) if values else None

    def fact(self, name: str) -> str:
        """The same in all repeats, or joined."""
        return "; ".join(dict.fromkeys(row.facts[name] for row in self.rows if row.facts.get(name)))


def collect(sweep: Sweep, rows: Sequence[Row], links: Mapping[Cell, tuple[float, float]]) -> list[CellResult]:
    """The cells in the file's order. `links` is that of `formula_delays_ms`."""
    formulas = formula_delays_ms(rows, links)
    results = []
    for cell in sweep.cells:
        own = sorted((row for row in rows if row.trial.cell == cell), key=lambda row: row.trial.repeat)
        if own:
            rate = links[cell][0]
            results.append(CellResult(cell, tuple(own), rate if math.isfinite(rate) else None, formulas.get(cell)))
    return results


def differing(cells: Sequence[Cell]) -> list[str]:
    """Settings by which cells differ; the placement at least."""
    settings = [cell.settings for cell in cells]
    return [name for name in Cell.model_fields if name == "placement" or len({str(one[name]) for one in settings}) > 1]


def write_tables(out: Path, sweep: Sweep, results: Sequence[CellResult], *, quick: bool, command: str) -> None:
    """`sweep.csv` and `sweep.json` in `out`, each as a whole. Raises UsageError."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": sweep.name,
        "quick": quick,
        "command": command,
        "seed": sweep.seed,
        "repeats": sweep.repeats,
        "num_cells": len(sweep.cells),
        "num_runs": len(sweep.cells) * sweep.repeats,
        "num_finished": sum(row.status != "failed" for result in results for row in result.rows),
        "num_failed": sum(row.status == "failed" for result in results for row in result.rows),
        "columns": VALUES,
        "cells": [_as_json(result) for result in results],
    }
    try:
        _replace(out / JSON, json.dumps(content, indent=1) + "\n")
        _replace(out / CSV, _as_csv(results))
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error


def print_results(sweep: Sweep, results: Sequence[CellResult], console: Console) -> None:
    """The table. A star marks numbers that lack a proof."""
    names = differing([result.cell for result in results]) if results else ["placement"]
    table = Table(title=f"sweep {sweep.name}")
    for name in names:
        table.add_column(name)
    with_map = any(result.median("map") is not None for result in results)
    headers = ["FPS", "delay mean ms", "formula ms", "metric", "bytes out", *(["mAP"] if with_map else []), "verdict"]
    for header in headers:
        table.add_column(header, justify="left" if header == "verdict" else "right")
    for result in results:
        star = "" if result.status == "valid" else "*"
        sent = result.median("bytes_out_per_frame")
        metric = _spread(result, "metric_value", star)
        cells = [
            _spread(result, "fps", star),
            _spread(result, "delay_mean_ms", star),
            "-" if result.formula_ms is None else f"{result.formula_ms:.1f}",
            f"{result.fact('metric')} {metric}" if metric != "-" else f"{result.fact('metric')} -",
            "-" if sent is None else f"{sent:,.0f}",
        ]
        if with_map:
            accuracy = result.median("map")
            cells.append("-" if accuracy is None else f"{accuracy:.3f}{star}")
        settings = [str(result.cell.settings[name]) for name in names]
        table.add_row(*("-" if value in ("", "None") else value for value in settings), *cells, result.verdict)
    console.print(table)
    if any(result.status != "valid" for result in results):
        console.print("* lacks a proof, so the numbers are no result")
    if any(RANDOM_WEIGHTS in result.fact("weights") for result in results):
        console.print("random weights: boxes mean nothing, so no mAP is given")


def _spread(result: CellResult, name: str, star: str) -> str:
    values = result.values(name)
    if not values:
        return "-"
    text = f"{median(values):.1f}{star}"
    return f"{text} ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else text


def _as_json(result: CellResult) -> dict[str, Any]:
    measured = {name: result.values(name) for name in VALUES}
    return {
        "folder": f"cells/{result.cell.folder}",
        "settings": result.cell.settings,
        "status": result.status,
        "reason": result.reason,
        "facts": {name: result.fact(name) for name in _FACTS},
        "link_rate_bit_per_s": result.rate_bit_per_s,
        "formula_delay_ms": result.formula_ms,
        "values": {
            name: {"median": median(values), "min": min(values), "max": max(values)} if values else None
            for name, values in measured.items()
        },
        "repeats": [
            {
                "repeat": row.trial.repeat,
                "folder": row.trial.folder.as_posix(),
                "status": row.status,
                "reason": row.reason,
                "values": dict(row.values),
            }
            for row in result.rows
        ],
    }


def _as_csv(results: Sequence[CellResult]) -> str:
    settings = list(Cell.model_fields)
    settings.remove("weights")  # the fact of the same name says what was really there
    spread = [f"{name}_{end}" for name in _SPREAD for end in ("min", "max")]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["status", "reason", *settings, *_FACTS, "num_repeats", *VALUES, *spread, "formula_delay_ms", "folder"]
    )
    for result in results:
        ends = [end for name in _SPREAD for end in (_least(result, name), _greatest(result, name))]
        numbers = [*(result.median(name) for name in VALUES), *ends, result.formula_ms]
        writer.writerow(
            [
                result.status,
                result.reason,
                *(_cell_text(result.cell.settings[name]) for name in settings),
                *(result.fact(name) for name in _FACTS),
                len(result.rows),
                *("" if number is None else repr(round(number, 4)) for number in numbers),
                f"cells/{result.cell.folder}",
            ]
        )
    return text.getvalue()


def _cell_text(value: object) -> str:
    return "" if value is None else str(value)


def _least(result: CellResult, name: str) -> float | None:
    return min(result.values(name), default=None)


def _greatest(result: CellResult, name: str) -> float | None:
    return max(result.values(name), default=None)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
