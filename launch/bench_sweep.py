"""`splitrail bench --sweep`: every cell of a grid as a real run, resumable, with one table at the end."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..bench.finished_run import ReportError
from ..bench.record import RecordError
from ..bench.sweep_cell import Cell
from ..bench.sweep_file import Sweep, SweepError, Trial
from ..bench.sweep_row import Row, is_finished, read_row
from ..bench.sweep_table import JSON, CellResult, collect, differing, print_results, write_tables
from .config import CONFIGS
from .netns import TwoHosts
from .sweep_bundles import prepare_cells
from .sweep_run import PreparedCell, link_numbers, run_config

OUT = Path("out/bench")
_LOCK = ".lock"
_SPEED_PERIOD_S = 24 * 3600.0
"""The remaining time is estimated from all runs so far: the last few may be all slow or all fast."""


def sweep_verb(file: Path, out: Path | None, source: str, command: str, *, quick: bool, as_json: bool) -> int:
    """Run what is missing of the sweep and print its table; returns 0, or 1 where a run failed.

    Finished runs in `out` are kept, others are made again. Raises UsageError for what can be known before the first run, and
    KeyboardInterrupt after the tables of what is finished were written.
    """
    sweep = Sweep.load(_file(file), quick=quick, source=source)
    folder = (out or OUT / (f"{sweep.name}-quick" if quick else sweep.name)).absolute()
    # The file itself: while a run is at work, sys.stderr is its log.
    console = Console(file=sys.stderr)
    links = {cell: link_numbers(cell) for cell in sweep.cells}
    for cell in sweep.cells:
        run_config(PreparedCell(cell, Path(cell.bundle or cell.detector), cell.engine, ""), folder).resolve_placement()
    if any(cell.has_link for cell in sweep.cells):
        with TwoHosts():
            pass  # every such cell would fail for the same reason
    with _locked(folder), _bar(console) as bar:
        task = bar.add_task("preparing", total=len(sweep.trials()), start=False)
        prepared = prepare_cells(sweep.cells, lambda text: bar.update(task, description=text))
        rows: list[Row] = []

        def write() -> list[CellResult]:
            results = collect(sweep, rows, links)
            write_tables(folder, sweep, results, quick=quick, command=command)
            return results

        missing = _missing(sweep, folder, prepared, rows)
        if rows:
            console.print(f"{len(rows)} of {len(sweep.trials())} runs are finished and kept", highlight=False)
        results = write()
        bar.reset(task, total=len(missing), description="runs")
        names = differing(sweep.cells)
        for number, trial in enumerate(missing, 1):
            told = f"{_told(trial.cell, names)}, repeat {trial.repeat}"
            bar.update(task, description=told)
            begin = time.monotonic()
            try:
                row = _run(trial, folder / trial.folder, prepared[trial.cell])
            except KeyboardInterrupt:
                console.print("interrupted: the same command goes on from here", highlight=False)
                raise
            rows.append(row)
            results = write()
            verdict = row.status if not row.reason else f"{row.status}: {row.reason}"
            seconds = time.monotonic() - begin
            console.print(
                f"{number}/{len(missing)} {told}: {seconds:.0f} s, {verdict}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            bar.advance(task)
    if as_json:
        print((folder / JSON).read_text(encoding="utf-8"), end="")
    else:
        # A table is as wide as its columns need where nobody looks at it on a screen.
        screen = Console()
        print_results(sweep, results, screen if screen.is_terminal else Console(width=220))
        screen.print(f"results in {folder}; 'splitrail report {folder}' draws them", highlight=False, soft_wrap=True)
    return 1 if any(row.status == "failed" for row in rows) else 0


def _missing(sweep: Sweep, folder: Path, prepared: dict[Cell, PreparedCell], rows: list[Row]) -> list[Trial]:
    """What is to be run, in order; the rows of what was finished before go to `rows`."""
    missing = []
    for trial in sweep.trials():
        place = folder / trial.folder
        try:
            if is_finished(place):
                rows.append(read_row(place, trial, prepared[trial.cell].trained))
                continue
        except (RecordError, ReportError):
            pass  # damaged: made again
        missing.append(trial)
    return missing


def _run(trial: Trial, out: Path, prepared: PreparedCell) -> Row:
    failure = prepared.run(trial, out)
    if failure:
        return Row(trial, "failed", failure)
    return read_row(out, trial, prepared.trained)


def _told(cell: Cell, names: list[str]) -> str:
    return ", ".join(str(value) for name in names if (value := cell.settings[name]) not in ("", None))


def _file(file: Path) -> Path:
    """The file, or the shipped one of that name."""
    shipped = CONFIGS / f"{file.name.removesuffix('.toml')}.toml"
    return shipped if not file.exists() and file.parent == Path() and shipped.exists() else file


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=_SPEED_PERIOD_S,
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One sweep at a time in a folder; the lock goes with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SweepError(f"another sweep is at work in {folder}; wait for it, or give another --out") from error
            yield
    except OSError as error:
        raise SweepError(f"{folder} cannot be written ({error.strerror}); give another folder with --out") from error
