"""What a report says: sections of sentences, tables and figures, made from runs. `report_page` and `report_markdown` print it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .compare import NUM_RESAMPLES, Change, changed_settings, compare_runs
from .figures.adapt import draw_adapt
from .figures.components import draw_components, draw_delay_components, draw_edge_time
from .figures.delay import draw_delay
from .figures.memory import draw_memory
from .figures.power import draw_power
from .figures.prediction import draw_predictions
from .figures.style import to_png
from .figures.throughput import draw_edge_throughput, draw_throughput
from .figures.timeline import draw_timeline
from .figures.waiting import draw_waiting
from .finished_run import FinishedRun
from .report_sweep import representatives, sweep_drawings, sweep_sentences, sweep_table
from .report_tables import (
    Table,
    crossings,
    delay_parts,
    prediction_table,
    run_facts,
    runs_table,
    stage_times,
    waits_table,
)
from .run_set import series_of
from .setting_changes import SettingChange, setting_changes
from .sweep_results import SweepResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A drawn figure."""

    name: str
    """For a file name: lower case, digits and hyphens."""
    title: str
    caption: str
    png: bytes


@dataclass(slots=True)
class Section:
    """A part of the report. `sentences` come first, then tables and figures."""

    title: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[ReportFigure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """All sections, the overview first; `runs` are one section each."""

    title: str
    sections: list[Section]
    runs: list[Section]


_MANY_RUNS = 16
"""With more runs than this, repeats share a row, and single runs have no figures of their own."""
_MANY_SERIES = 12
"""Bars of more series than this side by side cannot be told apart."""
_MAX_RATES = 3
"""Rates of the link whose runs are drawn one by one; curves have them all."""
_BARS = ("throughput", "edge-throughput")

_OVERVIEW: tuple[tuple[str, str, str, Callable[[list[FinishedRun]], Figure]], ...] = (
    (
        "throughput",
        "Throughput by placement and detector",
        "Results per second after the warm-up. With repeats: their median, the line from the least to the greatest.",
        draw_throughput,
    ),
    (
        "components",
        "Time by component: edge device, MPI, workstation",
        "Mean time of a frame in each component. Where the triangle (the time between two results) is left of a bar's end, "
        "components overlap; with perfect overlap it stands at the length of the longest one. "
        "Capture is not part of it.",
        draw_components,
    ),
    (
        "delay-components",
        "Components of the capture-to-output delay",
        "Means over the steady frames; the parts add up to the delay. MPI behind earlier frames: posted, while the link still "
        "carried the frames before. Runtime: packing, hand-over, waking up.",
        draw_delay_components,
    ),
    (
        "delay",
        "Distribution of the capture-to-output delay",
        "Every steady frame is a dot (its height means nothing). p95 is shown from 130 frames on.",
        draw_delay,
    ),
    (
        "edge-throughput",
        "Throughput of the edge device's component",
        "1 / mean service time of the graphs that run on the host of rank 0: what it would reach with nothing else to wait for.",
        draw_edge_throughput,
    ),
    (
        "edge-time",
        "Time of the edge device's component",
        "Mean service time of each stage on the host of rank 0.",
        draw_edge_time,
    ),
    (
        "memory",
        "Memory",
        "Greatest resident memory of the ranks' processes, whole run, by host.",
        draw_memory,
    ),
)


def make_report(
    runs: Sequence[FinishedRun],
    compared: tuple[Sequence[FinishedRun], Sequence[FinishedRun]] | None = None,
    missing: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    sweeps: Sequence[SweepResults] = (),
) -> Report:
    """The report of `runs`, and where asked for what changed from the first to the second side of `compared`.

    `missing` are folders of runs that left no journal, `sweeps` what these runs are cells of. `progress` hears how many of
    all figures are drawn.

    Raises FigureError: matplotlib is missing.
    """
    series = series_of(list(runs))
    repeats = [group for of_detector in series.values() for group in of_detector.values()]
    shown = representatives(repeats) if len(runs) > _MANY_RUNS else list(runs)
    rows = _at_some_rates(shown, sweeps)
    total = len(_OVERVIEW) + 2 + 2 * len(shown) + sum(bool(setting_changes(run)) for run in shown)
    done = 0

    def draw(name: str, title: str, caption: str, figure: Figure) -> ReportFigure:
        nonlocal done
        done += 1
        drawn = ReportFigure(name, title, caption, to_png(figure))
        progress(done, total)
        return drawn

    overview = Section("Overview", _about(runs), [runs_table(runs)])
    if len(shown) < len(runs):
        overview.sentences.append(
            "Figures by row, and the sections below, show of each series of repeats the median one."
        )
    if len(rows) < len(shown):
        overview.sentences.append("Figures by row leave out some rates of the link; the curves have them all.")
    if not all(run.verdict.valid for run in runs):
        overview.sentences.append("* lacks a proof, so its numbers are no result: the last column says which.")
    if missing:
        names = ", ".join(str(folder) for folder in missing)
        overview.sentences.append(
            f"Without a journal, so not here: {names}. These runs ended before their first frame."
        )
    for name, title, caption, function in _OVERVIEW:
        if name in _BARS and max(map(len, series.values())) > _MANY_SERIES:
            continue
        overview.figures.append(draw(name, title, caption, function(list(runs) if name in _BARS else rows)))
    if any(entry.get("mean_w") is not None for run in runs for entry in run.summary.get("energy") or ()):
        caption = "Mean over the timed part, per meter; what each meter covers is in its name."
        overview.figures.append(draw("power", "Power", caption, draw_power(rows)))
    else:
        overview.sentences.append(f"Power: not measured ({_why_no_power(runs)}).")
    if any(run.predictions for run in runs):
        caption = "Left of 1 the run was slower, or its delay shorter, than predicted."
        overview.tables.append(prediction_table(runs))
        overview.figures.append(draw("prediction", "Measured against predicted", caption, draw_predictions(rows)))
    sections = [_comparison(*compared)] if compared is not None else []
    sections += [_sweep(sweep, draw) for sweep in sweeps]
    sections.append(overview)
    details = [_one_run(run, number, draw, with_figures=len(shown) <= _MANY_RUNS) for number, run in enumerate(shown)]
    progress(total, total)
    title = f"splitrail: {runs[0].name.removesuffix(' *')}" if len(runs) == 1 else f"splitrail: {len(runs)} runs"
    return Report(title, sections, details)


def _about(runs: Sequence[FinishedRun]) -> list[str]:
    hosts = list(
        dict.fromkeys(str(begin["host"]) for run in runs for begin in run.begins.values() if begin.get("host"))
    )
    sentences = [f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {', '.join(hosts) or 'unknown hosts'}."]
    same = {
        key: value for key, value in runs[0].settings.items() if all(run.settings.get(key) == value for run in runs)
    }
    if same:
        sentences.append("The same in all: " + ", ".join(f"{key} {value}" for key, value in same.items()) + ".")
    machines = {
        str((begin.get("environment") or {}).get("machine_id")) for run in runs for begin in run.begins.values()
    }
    if len(hosts) > 1 and len(machines) == 1 and machines != {"None"}:
        sentences.append(
            "All hosts are one machine: its cores and caches are shared, and the link between them is emulated."
        )
    return sentences


def _why_no_power(runs: Sequence[FinishedRun]) -> str:
    reasons = dict.fromkeys(
        str(entry["not_measured"])
        for run in runs
        for entry in run.summary.get("energy") or ()
        if entry.get("not_measured")
    )
    return "; ".join(reasons) or "the runs were not asked to"


def _sweep(sweep: SweepResults, draw: Callable[[str, str, str, Figure], ReportFigure]) -> Section:
    section = Section(f"Sweep {sweep.facts['name']}", sweep_sentences(sweep), [sweep_table(sweep)])
    section.figures += [draw(*drawing) for drawing in sweep_drawings(sweep)]
    return section


def _at_some_rates(runs: list[FinishedRun], sweeps: Sequence[SweepResults]) -> list[FinishedRun]:
    """The runs at the least, the middle and the greatest rate where a sweep has more, and those without a link."""
    rates = {
        str(cell.settings["link_rate"]): cell.rate_bit_per_s
        for sweep in sweeps
        for cell in sweep.cells
        if cell.rate_bit_per_s is not None
    }
    if len(rates) <= _MAX_RATES:
        return runs
    ordered = sorted(rates, key=lambda rate: rates[rate] or 0.0)
    kept = {ordered[0], ordered[len(ordered) // 2], ordered[-1]}
    return [run for run in runs if run.settings.get("link rate") in (None, *kept)]


def _one_run(
    run: FinishedRun, number: int, draw: Callable[[str, str, str, Figure], ReportFigure], *, with_figures: bool
) -> Section:
    section = Section(run.name, run_facts(run))
    section.tables += [stage_times(run), *crossings(run), *delay_parts(run), *waits_table(run)]
    if not run.chain.lanes:
        section.sentences.append("Timeline and waiting: not measured, no journal reached its first line.")
        return section
    if not with_figures:
        section.sentences.append(f"For its timeline: splitrail report {run.folder}")
        return section
    which = "The last frames before the run ended." if run.summary["error"] else "From the middle of the run."
    section.figures.append(
        draw(
            f"timeline-{number}",
            "Timeline",
            f"{which} A row per lane and link, numbers are frames. Solid: a stage at work, or a frame on the link; "
            "outlined: posted while the link still carries earlier ones; hatched: a lane that waits.",
            draw_timeline(run),
        )
    )
    if changes := setting_changes(run):
        section.tables.append(_decisions(changes))
        section.figures.append(
            draw(
                f"adapt-{number}",
                "What was chosen, and why it had to be",
                "The rate of the link where it was emulated, and what the controller took it to be; the setting of the frames; "
                "the results of the last second; the delay of each result.",
                draw_adapt({run.name: run}, None),
            )
        )
    section.figures.append(
        draw(
            f"waiting-{number}",
            "What each lane did with its time",
            "Shares of the time from the first to the last timed result. Rest: sending, receiving and the runtime; waits of less "
            "than 0.1 ms are in it.",
            draw_waiting(run),
        )
    )
    return section


def _decisions(changes: Sequence[SettingChange]) -> Table:
    """Of an adaptive run."""
    begin_ns = changes[0].time_ns
    rows = [(f"{(each.time_ns - begin_ns) / 1e9:.2f}", str(each.frame), each.name, each.why) for each in changes]
    return Table("Settings", ("s", "from frame", "setting", "why"), rows)


def _comparison(a: Sequence[FinishedRun], b: Sequence[FinishedRun]) -> Section:
    changes = compare_runs(a, b)
    settings = changed_settings(a[0], b[0])
    sentences = [
        f"A: {', '.join(str(run.folder) for run in a)}. B: {', '.join(str(run.folder) for run in b)}.",
        f"More or less: the 95 % interval of the difference does not hold 0, by {NUM_RESAMPLES} bootstrap resamples of blocks of "
        "consecutive frames" + (" and of the repeats." if len(a) + len(b) > 2 else "."),
    ]
    if min(len(a), len(b)) < 2:
        sentences.append(
            "A side with a single run says nothing of how much repeats differ: give folders with several runs to judge that."
        )
    tables = [
        Table("What was measured", ("quantity", "A", "B", "B against A", "95 % interval", "verdict"), _rows(changes))
    ]
    if settings:
        tables.append(Table("What was different", ("setting", "A", "B"), settings))
    else:
        sentences.append("Settings, hosts and versions are the same.")
    return Section("Comparison", sentences, tables)


def _rows(changes: Sequence[Change]) -> list[tuple[str, ...]]:
    rows = []
    for change in changes:
        values = ["not measured" if value is None else f"{value:.2f} {change.unit}" for value in (change.a, change.b)]
        difference = "" if change.difference is None else f"{100 * change.difference:+.1f} %"
        known = change.low is not None and change.high is not None
        interval = f"{100 * change.low:+.1f} to {100 * change.high:+.1f} %" if known else ""  # type: ignore[operator]
        rows.append((change.name, *values, difference, interval, change.verdict))
    return rows
