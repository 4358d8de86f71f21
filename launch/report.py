"""The verb `report`: a page, a Markdown file and traces from runs' folders."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..bench.compare import compare_runs
from ..bench.finished_run import FinishedRun, ReportError
from ..bench.report import Report, make_report
from ..bench.report_markdown import to_markdown
from ..bench.report_page import to_html
from ..bench.run_set import find_runs, without_journal
from ..bench.sweep_results import SweepResults
from ..bench.trace import write_trace

PAGE = "report.html"
TRACE = "trace.json"


def report_verb(
    folders: Sequence[Path],
    compare: tuple[Path, Path] | None,
    out: Path | None,
    *,
    figures: bool = False,
    as_json: bool = False,
) -> int:
    """Write the page `out`, the same as Markdown beside it, and `trace.json` into each run's folder; returns 0.

    `out` is DIR/report.html for one folder and report.html here for several. Raises ReportError: nothing to report of, or
    nowhere to write.
    """
    sides = None if compare is None else (find_runs([compare[0]]), find_runs([compare[1]]))
    given = [*folders, *(compare or ())]
    if not given:
        raise ReportError("no folder to report of; give the folders that 'splitrail run --out' wrote, or --compare A B")
    runs = find_runs(given)
    sweeps = [sweep for folder in folders if (sweep := SweepResults.load(folder)) is not None]
    page = out or (given[0] / PAGE if len(given) == 1 else Path(PAGE))
    if page.suffix == ".md":
        raise ReportError(
            f"--out {page} is the page, so its name ends in .html; the Markdown file is written beside it"
        )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error, page) from error
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json) as progress:
        task = progress.add_task("drawing", total=None)
        report = make_report(
            runs,
            sides,
            without_journal(given),
            lambda done, total: progress.update(task, completed=done, total=total),
            sweeps,
        )
    written = _write(report, runs, page, figures)
    if as_json:
        found = {
            "runs": [{"name": run.name, "folder": str(run.folder), "summary": run.summary} for run in runs],
            "comparison": None if sides is None else [asdict(change) for change in compare_runs(*sides)],
            "files": [str(path) for path in written],
        }
        print(json.dumps(found, indent=1))
    else:
        for path in written:
            console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _write(report: Report, runs: Sequence[FinishedRun], page: Path, figures: bool) -> list[Path]:
    """The files written, in order."""
    markdown = page.with_suffix(".md")
    folder = page.with_name(page.stem + "-figures")
    try:
        _replace(page, to_html(report).encode())
        _replace(markdown, to_markdown(report, folder.name if figures else None).encode())
        written = [page, markdown]
        if figures:
            folder.mkdir(exist_ok=True)
            for section in [*report.sections, *report.runs]:
                for figure in section.figures:
                    _replace(folder / f"{figure.name}.png", figure.png)
            written.append(folder)
        for run in runs:
            write_trace(run, run.folder / TRACE)
            written.append(run.folder / TRACE)
    except OSError as error:
        raise _unwritable(error, page) from error
    return written


def _unwritable(error: OSError, page: Path) -> ReportError:
    return ReportError(f"{error.filename or page} cannot be written ({error.strerror}); give another place with --out")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
