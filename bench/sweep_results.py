"""A sweep's results as `sweep.json` has them, for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .finished_run import ReportError
from .sweep_table import JSON, SCHEMA_VERSION

_IMAGES_ONLY = ("offload", "offload-raw")
_LINK = ("link_rate", "link_delay")
_TOLD = ("placement", "wire", "encoding", "detector", "bundle", "filter", "figure", *_LINK)
"""Settings that a label tells in its own way, or not at all."""


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One configuration: medians over its repeats."""

    settings: Mapping[str, Any]
    status: str
    reason: str
    facts: Mapping[str, str]
    rate_bit_per_s: float | None
    formula_ms: float | None
    method: str
    """What it is but for its detector and link: placement, encoding, and whatever else differs in the sweep."""
    num_repeats: int
    _values: Mapping[str, Mapping[str, float] | None]

    def value(self, name: str, which: str = "median") -> float | None:
        """Median, min or max of its repeats; None where it was not measured."""
        found = self._values.get(name)
        return None if found is None else found[which]

    @property
    def detector(self) -> str:
        """Name of the detector, or of the bundle."""
        return _detector(self.settings)

    @property
    def figure(self) -> str:
        """Whose figures it is in: the name that cells are given, else the detector's."""
        return str(self.settings.get("figure") or self.detector)

    @property
    def is_local(self) -> bool:
        """Whether nothing crosses a link."""
        return self.value("bytes_out_per_frame") == 0

    @property
    def is_offload(self) -> bool:
        """Whether the image itself crosses, and all graphs run on the other side."""
        return self.settings["placement"] in _IMAGES_ONLY


@dataclass(frozen=True, slots=True)
class SweepResults:
    """What a sweep's folder says."""

    folder: Path
    facts: Mapping[str, Any]
    """name, quick, command, seed, repeats, num_cells, num_runs, num_finished, num_failed."""
    cells: tuple[SweepCell, ...]

    @staticmethod
    def load(folder: Path) -> SweepResults | None:
        """None where the folder holds no sweep. Raises ReportError for one of another version, or damaged."""
        path = folder / JSON
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ReportError(
                    f"{path} has schema version {raw['schema_version']} and this splitrail reads {SCHEMA_VERSION}; "
                    "run the sweep again with the same --out, which keeps its finished runs"
                )
            return SweepResults(folder, raw, tuple(_cells(raw["cells"])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReportError(
                f"{path} cannot be read ({error!r}); run the sweep again with the same --out, which keeps its finished runs"
            ) from error

    @property
    def figures(self) -> dict[str, list[SweepCell]]:
        """Name of a set of figures -> its cells, in order."""
        found: dict[str, list[SweepCell]] = {}
        for cell in self.cells:
            found.setdefault(cell.figure, []).append(cell)
        return found


def methods_of(cells: Sequence[SweepCell]) -> dict[str, list[SweepCell]]:
    """Method -> its cells by rate, the unlimited ones last."""
    found: dict[str, list[SweepCell]] = {}
    for cell in cells:
        found.setdefault(cell.method, []).append(cell)
    for own in found.values():
        own.sort(key=lambda cell: cell.rate_bit_per_s or float("inf"))
    return found


def _cells(raw: Sequence[Mapping[str, Any]]) -> list[SweepCell]:
    settings = [one["settings"] for one in raw]
    differing = [
        name
        for name in (settings[0] if raw else ())
        if len({str(one[name]) for one in settings}) > 1 and name not in _TOLD
    ]
    return [
        SweepCell(
            settings=one["settings"],
            status=one["status"],
            reason=one["reason"],
            facts=one["facts"],
            rate_bit_per_s=one["link_rate_bit_per_s"],
            formula_ms=one["formula_delay_ms"],
            method=_method(one["settings"], one["values"].get("bytes_out_per_frame"), differing),
            num_repeats=len(one["repeats"]),
            _values=one["values"],
        )
        for one in raw
    ]


def _detector(settings: Mapping[str, Any]) -> str:
    return str(settings["detector"] or Path(settings["bundle"]).name)


def _method(settings: Mapping[str, Any], sent: Mapping[str, float] | None, differing: Sequence[str]) -> str:
    words = [str(settings["placement"])]
    encoding = str(settings["encoding"]).replace("jpeg:", "JPEG q")
    splits = settings["placement"] not in _IMAGES_ONLY and (sent is None or sent["median"] > 0)
    if splits:
        words.append(str(settings["wire"]))
        if settings["placement"] == "transformer" and encoding != "raw":
            words.append(f"images {encoding}")
    elif settings["placement"] in _IMAGES_ONLY:
        words.append(encoding)
    if settings.get("figure"):
        words.append(_detector(settings))
    if settings.get("filter") is not None:
        words.append("filter" if settings["filter"] else "no filter")
    for name in differing:
        if settings[name] in ("", None) or (name == "cut" and not splits):
            continue
        words.append(f"cut {settings[name]}" if name == "cut" else str(settings[name]))
    return ", ".join(words)
