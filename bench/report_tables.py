"""The tables of a report. A cell without a value says "not measured"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .adapt_summary import adapt_sentences
from .breakdown import edge_fps, lane_times
from .finished_run import FinishedRun
from .waits import CAUSES

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, first column left, the others right where they are numbers."""

    title: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def runs_table(runs: Sequence[FinishedRun]) -> Table:
    """A row per run: what a thesis would print of it."""
    headers = (
        "run",
        "FPS",
        "delay p50 (ms)",
        "delay p95 (ms)",
        "frames",
        "edge component (FPS)",
        "bytes per frame",
        "two ranks compute",
        "peak memory (MB)",
        "power (W)",
        "energy (J/frame)",
        "proofs",
    )
    return Table("Runs", headers, [_run_row(run) for run in runs])


def _run_row(run: FinishedRun) -> tuple[str, ...]:
    summary = run.summary
    counts = summary["counts"]
    frames = f"{counts['done'] + counts['empty']} of {counts['captured']}"
    frames += "".join(f", {counts[name]} {name}" for name in ("dropped", "failed", "unfinished") if counts[name])
    sizes = [edge["bytes_per_result"] for edge in summary["edges"]]
    bytes_per_frame = NOT_MEASURED if None in sizes else f"{sum(sizes):,.0f}" if sizes else "none sent"
    overlap = summary["overlap_share"]
    if len(summary["ranks"]) < 2 and not run.chain.edges():
        shared = "one rank"
    else:
        shared = NOT_MEASURED if overlap is None else f"{100 * overlap:.0f} %"
    peaks = [rank["peak_resident_bytes"] for rank in summary["ranks"]]
    energy = [entry for entry in summary.get("energy") or () if entry.get("mean_w") is not None]
    return (
        run.name,
        _number(summary["fps"]),
        _percentile(summary["delay"], "p50"),
        _percentile(summary["delay"], "p95"),
        frames,
        _number(edge_fps(run)),
        bytes_per_frame,
        shared,
        " + ".join(NOT_MEASURED if peak is None else f"{peak / 1e6:.0f}" for peak in peaks),
        " + ".join(f"{entry['mean_w']:.2f} ({entry['host']} {entry['scope']})" for entry in energy) or NOT_MEASURED,
        " + ".join(f"{entry['j_per_frame']:.3f}" for entry in energy) or NOT_MEASURED,
        str(run.verdict),
    )


def run_facts(run: FinishedRun) -> list[str]:
    """What there is to say of one run in sentences."""
    summary = run.summary
    sentences = [f"Folder: {run.folder}."]
    command = next(
        (found for begin in run.begins.values() if (found := (begin.get("environment") or {}).get("command"))), ""
    )
    if command:
        sentences.append(f"Command: {command}")
    if summary["error"]:
        sentences.append(f"The run failed: {summary['error']}. This is what its journals hold.")
    elif not all(any(line["e"] == "end" for line in run.journals[rank]) for rank in run.ranks):
        sentences.append(
            "The run did not come to its end: no end record from every rank. This is what its journals hold."
        )
    if run.num_cut_off:
        sentences.append(f"{run.num_cut_off} line(s) of the journals were cut off and are left out.")
    missing = sorted({lane.rank for lane in run.chain.lanes} - set(run.ranks))
    if missing:
        sentences.append(f"No journal came from rank {', '.join(map(str, missing))}: what it did is not measured.")
    if run.unknown_clocks:
        ranks = ", ".join(map(str, run.unknown_clocks))
        sentences.append(f"The clock of rank {ranks} is not known to rank 0: its events are in no figure.")
    sentences += [f"{_engine(run, rank)}." for rank in summary["ranks"]]
    error_ms = summary["delay"].get("clock_error_ms")
    if error_ms:
        sentences.append(
            f"Delays across hosts are known within {error_ms} ms, by the round trips between their clocks."
        )
    sentences += [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in adapt_sentences(summary["adapt"])]
    accuracy = summary.get("accuracy")
    if accuracy:
        value = accuracy.get("mAP")
        said = (
            f"mAP {value:.3f}" if value is not None else f"not measured ({accuracy.get('not_measured', 'no object')})"
        )
        sentences.append(f"Accuracy: {said}.")
    return sentences


def _engine(run: FinishedRun, rank: Mapping[str, Any]) -> str:
    text = f"Rank {rank['rank']} on {rank['host'] or 'an unknown host'}"
    if rank["engine"]:
        text += f": {rank['engine']} {rank['precision']}, {rank['threads']} thread(s)"
    gpu = {name: value for name, value in (rank.get("gpu_memory") or {}).items() if isinstance(value, int)}
    for name, value in gpu.items():
        text += f", GPU memory {value / 1e6:.0f} MB ({name.removesuffix('_bytes').replace('_', ' ')})"
    share = rank["communication_cpu_share"]
    return text if share is None else f"{text}, communication thread {100 * share:.0f} % of a core"


def stage_times(run: FinishedRun) -> Table:
    """Service time of every stage."""
    rows = []
    for rank in run.summary["ranks"]:
        for stage in rank["stages"]:
            cells = (_percentile(stage, "p50"), _percentile(stage, "p95"), _percentile(stage, "p99"))
            rows.append((stage["name"], run.rank_name(rank["rank"]), str(stage["num"]), *cells))
    return Table("Service times", ("stage", "host", "frames", "p50 (ms)", "p95 (ms)", "p99 (ms)"), rows)


def crossings(run: FinishedRun) -> list[Table]:
    """From posted to received, of every edge between ranks; none where there is one rank."""
    rows = []
    for edge in run.summary["edges"]:
        on_link = [
            (transfer.arrived_ns - transfer.on_wire_ns) / 1e6
            for transfer in run.transfers
            if transfer.edge == edge["name"] and not transfer.is_empty
        ]
        median = sorted(on_link)[len(on_link) // 2] if on_link else None
        size = edge["bytes_per_frame"]
        rows.append(
            (
                edge["name"],
                str(edge["num_messages"]),
                NOT_MEASURED if size is None else f"{size:,.0f}",
                _percentile(edge["transfer"], "p50"),
                _percentile(edge["transfer"], "p95"),
                _number(median, 2),
            )
        )
    headers = ("edge", "messages", "bytes of one", "p50 (ms)", "p95 (ms)", "of it on the link, p50 (ms)")
    return [Table("Transfers, posted to received", headers, rows)] if rows else []


def delay_parts(run: FinishedRun) -> list[Table]:
    """The delay in the order of a frame's way."""
    rows = [
        (part["name"], run.rank_name(part["rank"]), str(part["num"]), f"{part['mean_ms']:.2f}", f"{part['p50_ms']:.2f}")
        for part in run.summary.get("delay_parts") or ()
    ]
    headers = ("part", "host", "frames", "mean (ms)", "p50 (ms)")
    return [Table("Capture-to-output delay, part by part; the means add up", headers, rows)] if rows else []


def waits_table(run: FinishedRun) -> list[Table]:
    """Shares of the timed part by lane."""
    rows = []
    for lane in lane_times(run):
        shares = [f"{100 * lane.waits.get(cause, 0.0):.0f} %" for cause in CAUSES]
        rows.append((lane.name, f"{100 * lane.computes:.0f} %", *shares))
    headers = ("lane", "computes", *(f"waits: {words}" for words in CAUSES.values()))
    return [Table("Waiting by cause", headers, rows)] if rows else []


def prediction_table(runs: Sequence[FinishedRun]) -> Table:
    """Of the runs with a prediction in their folder."""
    rows = []
    for run in runs:
        for what, measured, predicted in run.predictions:
            ratio = NOT_MEASURED if measured is None or not predicted else f"{measured / predicted:.3f}"
            rows.append((run.name, what, _number(measured), _number(predicted), ratio))
    return Table("Measured against predicted", ("run", "what", "measured", "predicted", "measured / predicted"), rows)


def _number(value: float | None, digits: int = 1) -> str:
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def _percentile(row: Mapping[str, Any], name: str) -> str:
    """Not shown where it rests on too few frames."""
    value = row.get(f"{name}_ms")
    if value is None:
        return NOT_MEASURED
    return "too few frames" if name in (row.get("weak") or ()) else f"{value:.2f}"
