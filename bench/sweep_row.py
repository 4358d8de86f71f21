"""What one run of a sweep measured, as numbers: from its record and journals alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from .breakdown import Breakdown, edge_fps
from .finished_run import FinishedRun
from .journal import edge_ends
from .record import Record
from .scenario import dropped_share, metric_of, percentile, steady_delays_ms
from .sweep_cell import RANDOM_WEIGHTS
from .sweep_file import Trial

RECORD = "record.json"
"""Written last: a run's folder that has it is finished."""
VALUES: dict[str, str] = {
    "fps": "throughput, results per second after the warm-up",
    "metric_value": "the scenario's own metric",
    "delay_mean_ms": "capture to output, mean after the warm-up",
    "delay_p50_ms": "the same, median",
    "delay_p90_ms": "the same, 90th percentile; empty with fewer than 64 results",
    "delay_p95_ms": "the same, 95th percentile; empty with fewer than 130 results",
    "dropped_share": "dropped of captured frames, 0 to 1",
    "num_captured": "frames captured",
    "num_results": "frames with a result (done or empty)",
    "num_empty": "of them those that the neural filter ended",
    "num_timed": "results that the numbers rest on: those after the warm-up",
    "num_failed": "frames that failed",
    "bytes_out_per_frame": "sent by rank 0 over the frames with a result, an empty one's header too; not headers of MPI and TCP",
    "bytes_back_per_frame": "sent to rank 0, likewise",
    "capture_ms": "mean time from the picture's own time until it was there: decoding",
    "edge_ms": "mean service time of a frame on rank 0's host, all stages",
    "link_ms": "mean time of a frame on the link, all crossings",
    "far_ms": "mean service time on the other hosts",
    "waiting_ms": "mean of the rest of the delay: queues, credit, behind earlier frames, runtime",
    "edge_fps": "1 / service time of the graphs on rank 0's host",
    "edge_memory_mb": "peak resident memory of the ranks on rank 0's host",
    "far_memory_mb": "the same on the other hosts",
    "edge_power_w": "mean power of rank 0's host; empty where it has no meter",
    "edge_j_per_frame": "energy a frame on rank 0's host",
    "far_power_w": "mean power of the other hosts",
    "map": "mAP@[.5:.95] on a source that knows the truth; empty for random weights",
    "map_50": "the same at IoU 0.5",
}
"""Column -> what it is."""
Status = Literal["valid", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class Row:
    """One run; `values` has every key of VALUES, None where nothing was measured."""

    trial: Trial
    status: Status
    reason: str = ""
    """Of an invalid or failed one."""
    values: Mapping[str, float | None] = field(default_factory=lambda: dict.fromkeys(VALUES))
    facts: Mapping[str, str] = field(default_factory=dict)
    """weights, engine, metric, metric_unit, metric_note, map_note."""


def read_row(folder: Path, trial: Trial, trained: str) -> Row:
    """The row of a finished run in `folder`. `trained` says where the detector's weights come from, empty for random ones.

    Raises RecordError or ReportError where the run is not finished.
    """
    record = Record.load(folder / RECORD)
    run = FinishedRun.load(folder)
    delays = steady_delays_ms(run)
    metric = metric_of(trial.cell.scenario, run)
    counts = run.summary["counts"]
    values: dict[str, float | None] = dict.fromkeys(VALUES)
    values |= {
        "fps": run.summary["fps"],
        "metric_value": metric.value,
        "delay_mean_ms": fmean(delays) if delays else None,
        "delay_p50_ms": percentile(delays, 50),
        "delay_p90_ms": percentile(delays, 90),
        "delay_p95_ms": percentile(delays, 95),
        "dropped_share": dropped_share(counts),
        "num_captured": counts["captured"],
        "num_results": counts["done"] + counts["empty"],
        "num_empty": counts["empty"],
        "num_timed": len(delays),
        "num_failed": counts["failed"],
        "edge_fps": edge_fps(run),
        **_bytes(run),
        **_times(run),
        **_memory(run),
        **_power(run),
    }
    accuracy, note = _accuracy(run, trained)
    engines = [f"{rank['engine']}:{rank['precision']}" for rank in run.summary["ranks"] if rank["engine"]]
    facts = {
        "weights": trained or RANDOM_WEIGHTS,
        "engine_used": ", ".join(dict.fromkeys(engines)),
        "metric": metric.name,
        "metric_unit": metric.unit,
        "metric_note": metric.note,
        "map_note": note,
    }
    status: Status = "valid" if record.valid else "invalid"
    return Row(
        trial,
        status,
        record.verdict.removeprefix("invalid: ") if not record.valid else "",
        {**values, **accuracy},
        facts,
    )


def is_finished(folder: Path) -> bool:
    """Whether a run was completed in `folder`; what a killed sweep left half-written was not."""
    return (folder / RECORD).is_file()


def _bytes(run: FinishedRun) -> dict[str, float | None]:
    totals: dict[str, float | None] = {"bytes_out_per_frame": 0.0, "bytes_back_per_frame": 0.0}
    for edge in run.summary["edges"]:
        sender, receiver = edge_ends(edge["name"])
        for key, ours in (("bytes_out_per_frame", sender == 0), ("bytes_back_per_frame", receiver == 0)):
            if ours:
                before, size = totals[key], edge["bytes_per_result"]
                totals[key] = None if before is None or size is None else before + size
    return totals


def _times(run: FinishedRun) -> dict[str, float | None]:
    found = Breakdown.of(run)
    if found is None:
        return {}
    edge, *far = found.compute_ms.values()
    return {
        "capture_ms": found.capture_ms,
        "edge_ms": edge,
        "link_ms": found.wire_ms if run.chain.edges() else 0.0,
        "far_ms": sum(far),
        "waiting_ms": found.behind_ms + found.queued_ms + found.credit_ms + found.runtime_ms,
    }


def _memory(run: FinishedRun) -> dict[str, float | None]:
    totals: dict[str, float | None] = {}
    for rank in run.summary["ranks"]:
        key = "edge_memory_mb" if rank["rank"] in run.edge_host_ranks else "far_memory_mb"
        peak, before = rank["peak_resident_bytes"], totals.get(key, 0.0)
        totals[key] = None if peak is None or before is None else before + peak / 1e6
    return totals


def _power(run: FinishedRun) -> dict[str, float | None]:
    """The scopes of a host's meters are disjoint, so they add up."""
    totals: dict[str, float | None] = {}
    for entry in run.summary.get("energy") or ():
        if entry.get("mean_w") is None:
            continue
        side = "edge" if entry["rank"] in run.edge_host_ranks else "far"
        totals[f"{side}_power_w"] = (totals.get(f"{side}_power_w") or 0.0) + entry["mean_w"]
        if side == "edge":
            totals["edge_j_per_frame"] = (totals.get("edge_j_per_frame") or 0.0) + entry["j_per_frame"]
    return totals


def _accuracy(run: FinishedRun, trained: str) -> tuple[dict[str, float | None], str]:
    if not trained:
        return {}, RANDOM_WEIGHTS
    found = run.summary.get("accuracy")
    if found is None:
        return {}, "the source knows no truth"
    if "not_measured" in found:
        return {}, str(found["not_measured"])
    return {"map": found["mAP"], "map_50": found["mAP@50"]}, f"over {found['num_images']} frames"
