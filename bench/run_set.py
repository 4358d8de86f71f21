"""The runs of one report: found, named, and put in order."""

from __future__ import annotations

import re
from pathlib import Path

from .finished_run import FinishedRun

_PLACEMENTS = ("full", "backbone", "transformer", "offload", "offload-raw")
_MAY_LACK = ("wire", "cut", "images", "size", "scenario")
"""Settings whose absence tells no runs apart: a placement has them or not, the last two only a finished run of a sweep has."""
_WORDS = {
    "wire": "wire {}",
    "cut": "cut {}",
    "rate": "{} FPS",
    "overlap": "overlap {}",
    "policy": "policy {}",
    "threads": "threads {}",
    "link rate": "link {}",
    "link delay": "link delay {}",
}
"""How a setting is told where its value alone would not say what it is."""
_DEFAULTS = {"overlap": "full", "policy": "wait", "scenario": "offline"}
"""Not told."""


def find_runs(folders: list[Path]) -> list[FinishedRun]:
    """The runs in `folders`: each is a run's folder or holds such folders. Named, and ordered by detector and placement.

    Raises ReportError: a folder that has neither journals nor folders with journals.
    """
    found: list[Path] = []
    for folder in folders:
        inner = sorted({path.parent for path in folder.glob("**/journal-rank*.jsonl")}, key=_natural)
        found += [folder] if list(folder.glob("journal-rank*.jsonl")) or not inner else inner
    runs = [FinishedRun.load(folder) for folder in dict.fromkeys(found)]
    runs.sort(key=_order)
    _name(runs)
    return runs


def without_journal(folders: list[Path]) -> list[Path]:
    """Folders of runs that ended before their first frame: what was started is there and no journal."""
    started = {path.parent for folder in folders for path in folder.glob("**/mpirun.log")}
    return sorted((folder for folder in started if not list(folder.glob("journal-rank*.jsonl"))), key=_natural)


def series_of(runs: list[FinishedRun]) -> dict[str, dict[str, list[FinishedRun]]]:
    """Detector -> series -> its repeats. A series is a placement, with what else differs among the runs."""
    keys = _keys(runs, "detector")
    groups: dict[str, dict[str, list[FinishedRun]]] = {}
    for run in runs:
        series = _told(run, keys) or run.folder.name
        groups.setdefault(run.settings.get("detector", "unknown detector"), {}).setdefault(series, []).append(run)
    return groups


def _name(runs: list[FinishedRun]) -> None:
    """Give each run its `name`: placement and whatever else differs among them; the folder's name where nothing does.

    One whose numbers lack a proof gets a star.
    """
    keys = _keys(runs)
    for run in runs:
        run.name = _told(run, keys) or run.folder.name
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = f"{run.name} ({run.folder.name})"
        if not run.verdict.valid:
            run.name += " *"


def _keys(runs: list[FinishedRun], *without: str) -> list[str]:
    """Settings by which these runs are told apart: the placement and what differs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: {run.settings.get(key) for run in runs} for key in keys}
    differing = [key for key in keys if len(values[key] - ({None} if key in _MAY_LACK else set())) > 1]
    return ["placement", *(key for key in differing if key not in ("placement", *without))]


def _told(run: FinishedRun, keys: list[str]) -> str:
    told = [key for key in keys if key in run.settings and run.settings[key] != _DEFAULTS.get(key)]
    return ", ".join(_WORDS.get(key, "{}").format(run.settings[key]) for key in told)


def _order(run: FinishedRun) -> tuple[list[tuple[int, str]], int]:
    placement = run.settings.get("placement", "")
    place = _PLACEMENTS.index(placement) if placement in _PLACEMENTS else len(_PLACEMENTS)
    return _natural(run.settings.get("detector", "")), place


def _natural(text: object) -> list[tuple[int, str]]:
    """So that 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(text))]
