"""The bundles that a sweep's cells need: each exported once, into a cache that later sweeps use too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..bench.sweep_cell import Cell
from ..pipeline.errors import BundleError, UsageError
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.engine_choice import choose_engine
from .config import bundle_folder
from .sweep_run import PreparedCell

_DEFAULT_CUT, _DEFAULT_SIZE = "projection", "480x640"
_OWN = "splitrail: "


def prepare_cells(cells: Sequence[Cell], say: Callable[[str], None]) -> dict[Cell, PreparedCell]:
    """Every cell with its bundle, exported where it is not there yet, and its engine decided. `say` hears what is done now.

    Raises UsageError: a bundle that is missing or cannot be exported, or no engine that agrees.
    """
    found: dict[Path, Bundle] = {}
    engines: dict[Path, str] = {}
    prepared = {}
    for cell in cells:
        folder = bundle_folder(cell.bundle) if cell.bundle else _exported(cell, _with_torch(cell, cells), say)
        if folder not in found:
            found[folder] = Bundle.load(folder)
        engine = cell.engine
        if engine == "auto":
            if folder not in engines:
                engines[folder] = _choose(folder, found[folder], say)
            engine = engines[folder]
        prepared[cell] = PreparedCell(cell, folder, engine, found[folder].trained)
    return prepared


def _choose(folder: Path, bundle: Bundle, say: Callable[[str], None]) -> str:
    """As `--engine auto` in a run; decided here, because a far host that forgets its cache would try again in every run."""
    choice = choose_engine(
        folder,
        bundle,
        threads=os.cpu_count() or 1,
        cache=cache_folder(),
        on_trial=lambda engine, precision: say(f"trying {engine} {precision} on {bundle.detector}"),
    )
    return f"{choice.engine}:{choice.precision}"


def _exported(cell: Cell, with_torch: bool, say: Callable[[str], None]) -> Path:
    cut, size = cell.cut or _DEFAULT_CUT, cell.size or _DEFAULT_SIZE
    key = [cell.detector, cut, size, cell.weights, _stamp(cell.weights), with_torch, __version__]
    checksum = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{Path(cell.detector).name}-{cut}-{size}")
    folder = cache_folder() / "exported" / f"{name}-{checksum}"
    try:
        Bundle.load(folder)
    except BundleError:
        _export(cell, cut, size, with_torch, folder, say)
    return folder


def _export(cell: Cell, cut: str, size: str, with_torch: bool, folder: Path, say: Callable[[str], None]) -> None:
    """By the verb, in a process of its own: torch would stay in this one's memory beside every run."""
    say(f"exporting {cell.detector}, cut {cut}, {size}, {cell.weights or 'random weights'}")
    command = [sys.executable, "-m", "splitrail", "export", cell.detector, "--cut", cut, "--size", size]
    command += ["--out", str(folder)]
    command += ["--weights", cell.weights] if cell.weights else []
    command += ["--torch"] if with_torch else []
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["it said nothing"]
        own = [line.removeprefix(_OWN) for line in lines if line.startswith(_OWN)]
        raise UsageError(f"{cell.detector} could not be exported: {(own or lines)[-1]}")


def _with_torch(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether any cell runs this detector by torch, which needs its weights in the bundle."""
    same = (other for other in cells if other.detector == cell.detector and other.size == cell.size)
    return any(other.engine.partition(":")[0] == "torch" for other in same)


def _stamp(weights: str) -> tuple[int, int] | None:
    """Another file of the same name is another export."""
    try:
        status = os.stat(weights)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
