"""A sweep as a TOML file: which cells, how often, in which order.

name = "example"                    # of the sweep's folder
seed = 0                            # of the order
repeats = 3

[base]                              # holds for every cell; the keys are those of `Cell`
bundle = "demo"
frames = 200

[[grid]]                            # a list is an axis; a grid is all combinations of its axes
placement = "backbone"
wire = ["fp32", "fp16", "uint8"]
link_rate = ["10mbit", "100mbit"]

[[grid]]                            # grids add up; a cell that comes twice is run once
placement = "full"

[weights]                           # by detector: a file, a folder or hub; others have random ones
detr-resnet-50 = "hub"

[quick]                             # with --quick these replace the same keys wherever the file gives them
repeats = 1
frames = 40
"""

from __future__ import annotations

import difflib
import itertools
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from ..pipeline.errors import UsageError
from .sweep_cell import Cell

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = ("name", "seed", "repeats", "base", "grid", "weights", "quick")
_CELL_KEYS = tuple(name for name in Cell.model_fields if name != "weights")
_NUMBERS = ("seed", "repeats")


class SweepError(UsageError):
    """A sweep's file that does not fit, or a folder that holds no sweep."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the sweep: a cell, and which of its repeats, from 1."""

    cell: Cell
    repeat: int

    @property
    def folder(self) -> Path:
        """Relative to the sweep's folder."""
        return Path("cells") / self.cell.folder / f"repeat-{self.repeat}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a file asks for."""

    name: str
    seed: int
    repeats: int
    cells: tuple[Cell, ...]

    @staticmethod
    def load(path: Path, *, quick: bool = False, source: str = "") -> Sweep:
        """Read the file; `quick` applies its table [quick], `source` takes the place of every source.

        Raises SweepError naming the file, the key, and for an unknown key the nearest one.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SweepError(f"{path} cannot be read ({error.strerror}); give the right file with --sweep") from error
        except ValueError as error:
            raise SweepError(f"{path} does not parse: {error}") from error
        return Sweep.check(raw, str(path), quick=quick, source=source, name=path.stem)

    @staticmethod
    def check(raw: Mapping[str, Any], where: str, *, quick: bool = False, source: str = "", name: str = "") -> Sweep:
        """From a mapping; `where` names it in errors, `name` is the default of its key."""
        _known(raw, _KEYS, where)
        base, weights = _table(raw, "base", where), _table(raw, "weights", where)
        changes = _table(raw, "quick", where)
        _known(base, _CELL_KEYS, f"{where}: [base]")
        _known(changes, (*_NUMBERS, *_CELL_KEYS), f"{where}: [quick]")
        grids = raw.get("grid", [{}])
        if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
            raise SweepError(f"{where}: 'grid' must be one or more tables; write them as [[grid]]")
        for number, grid in enumerate(grids, 1):
            _known(grid, _CELL_KEYS, f"{where}: grid {number}")
        if not quick:
            changes = {}
        numbers = {
            key: _number(changes.get(key, raw.get(key, least)), key, where, least)
            for key, least in (("seed", 0), ("repeats", 1))
        }
        given = {key: value for key, value in changes.items() if key not in _NUMBERS}
        if source:
            given["source"] = source
        anywhere = {key for key in given if any(key in grid for grid in grids)}
        base = {**base, **{key: value for key, value in given.items() if key in base or key not in anywhere}}
        cells: dict[Cell, None] = {}
        for number, grid in enumerate(grids, 1):
            grid = {key: given.get(key, value) for key, value in grid.items()}
            settings = {key: value for key, value in base.items() if key not in _replaced(grid)} | grid
            cells.update(dict.fromkeys(_product(settings, weights, f"{where}: grid {number}")))
        title = raw.get("name", name)
        if not isinstance(title, str) or not title or "/" in title:
            raise SweepError(f"{where}: 'name' must be a word without '/', not {title!r}")
        return Sweep(title, numbers["seed"], numbers["repeats"], tuple(cells))

    def trials(self) -> list[Trial]:
        """All runs in the order they are made: every repeat is a round over all cells, each round in an order of its own.

        So a slow quarter of an hour of the machine meets one repeat of many cells and not all repeats of one.
        """
        found = []
        for repeat in range(1, self.repeats + 1):
            cells = list(self.cells)
            random.Random(f"{self.seed} {repeat}").shuffle(cells)
            found += [Trial(cell, repeat) for cell in cells]
        return found


def _replaced(grid: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the base that a grid's own detector or bundle does away with."""
    if "bundle" in grid:
        return ("detector", "cut", "size")
    return ("bundle",) if "detector" in grid else ()


def _product(settings: Mapping[str, Any], weights: Mapping[str, Any], where: str) -> Iterable[Cell]:
    """A cell per combination; the last key varies fastest."""
    axes = [value if isinstance(value, list) else [value] for value in settings.values()]
    empty = [key for key, axis in zip(settings, axes, strict=True) if not axis]
    if empty:
        raise SweepError(f"{where}: '{empty[0]}' is an empty list; give it values or leave it out")
    for values in itertools.product(*axes):
        chosen = dict(zip(settings, values, strict=True))
        # A detector that is no text is refused below, with the key's name.
        if isinstance(chosen.get("detector"), str) and chosen["detector"] in weights:
            chosen["weights"] = weights[chosen["detector"]]
        try:
            yield Cell.model_validate(chosen)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            text = first["msg"].removeprefix("Value error, ")
            raise SweepError(f"{where}: {f'{key!r}: ' if key else ''}{text[0].lower()}{text[1:]}") from error


def _known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise SweepError(f"{where}: unknown key '{key}'; did you mean '{near}'? The keys are {', '.join(known)}")


def _table(raw: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = raw.get(key, {})
    if not isinstance(table, dict):
        raise SweepError(f"{where}: '{key}' must be a table; write it as [{key}]")
    return dict(table)


def _number(value: object, key: str, where: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SweepError(f"{where}: '{key}' must be a whole number from {least}, not {value!r}")
    return value
