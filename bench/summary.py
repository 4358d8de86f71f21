"""The summary of a run, made from its journals alone: also of one that crashed."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ..pipeline.errors import SinkError
from ..pipeline.packet import Kind
from .adapt_summary import adapt_summary
from .clock import RankClock, rank_clocks
from .energy import energy_report
from .intervals import Span, overlap_share
from .journal import edge_ends, read_journal
from .percentile import percentiles
from .stability import judge_stability
from .waits import delay_breakdown, frame_parts, rank_time

SCHEMA_VERSION = 1
SUMMARY = "summary.json"
DETECTIONS = "detections.jsonl"
FATES = ("done", "empty", "dropped", "failed")
_RESULTS = ("done", "empty")
_NUM_WARM_UP = 5


def complete_outputs(
    out: Path, error: str | None = None, accuracy: Callable[[], dict[str, Any] | None] | None = None
) -> dict[str, Any]:
    """After the last frame, on the host of rank 0: a line for every dropped frame in `detections.jsonl`, in frame order,
    and `summary.json`. Returns the summary. `error` is the sentence the run ended with; `accuracy` judges the detections
    where their truth is known, else it returns None."""
    journals = load_journals(out)
    _complete_detections(out / DETECTIONS, journals)
    summary = summarize(journals, error)
    judged = accuracy() if accuracy is not None else None
    if judged is not None:
        summary["accuracy"] = judged
    _replace(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def load_journals(out: Path) -> dict[int, list[dict[str, Any]]]:
    """Rank -> lines of its journal."""
    journals = {}
    for path in sorted(out.glob("journal-rank*.jsonl")):
        journals[int(path.stem.removeprefix("journal-rank"))] = list(read_journal(path))
    return journals


def summarize(journals: Mapping[int, list[dict[str, Any]]], error: str | None = None) -> dict[str, Any]:
    """The summary as JSON values; times in ms, sizes in bytes. A value that could not be measured is None.

    All times and rates leave the warm-up out (`timed_results`); counts, bytes and `waited_ms` are of all frames.
    """
    begins = {rank: _first(lines, "begin") for rank, lines in journals.items()}
    begin = next((facts for facts in begins.values() if facts), {})
    clocks = rank_clocks(journals)
    fates = [line for lines in journals.values() for line in lines if line["e"] == "fate"]
    source_rank, sink_rank = begin.get("source_rank", 0), begin.get("sink_rank", 0)
    timed = timed_results(fates)
    delays = _delays(timed, source_rank, sink_rank, clocks)
    windows = _windows(timed, sink_rank, clocks)
    warm_up = {line["f"] for line in fates if line["x"] in _RESULTS} - {line["f"] for line in timed}
    parts = frame_parts(journals, clocks)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "error": error,
        "placement": begin.get("placement"),
        "wire": begin.get("wire"),
        "filter_threshold": next(
            (facts["filter_threshold"] for facts in begins.values() if facts.get("filter_threshold") is not None), None
        ),
        "overlap": begin.get("overlap"),
        "policy": begin.get("policy"),
        "adapt": adapt_summary(line for lines in journals.values() for line in lines),
        "source": begins.get(source_rank, {}).get("source"),
        "counts": _counts(journals, fates),
        "num_warm_up": len(warm_up),
        "ranks": [_rank(rank, journals[rank], begins[rank], windows.get(rank), warm_up) for rank in sorted(journals)],
        "fps": fps(fates),
        "delay": _delay(timed, delays, source_rank, sink_rank, clocks),
        "delay_parts": delay_breakdown({line["f"]: parts[line["f"]] for line in timed if line["f"] in parts}),
        "stability": judge_stability(
            [line["t"] for line in timed], delays or None, [line["x"] == "empty" for line in timed]
        ).to_json(),
        "energy": [
            {"rank": rank, "host": begins[rank].get("host"), **entry}
            for rank in sorted(journals)
            for entry in energy_report(journals[rank], windows.get(rank), len(timed) - 1)
        ],
        "clocks": {str(rank): _clock(clocks[rank], windows.get(rank)) for rank in sorted(set(clocks) & set(journals))},
        "edges": _edges(journals, begins, clocks, warm_up, {line["f"] for line in fates if line["x"] in _RESULTS}),
        "overlap_share": _overlap_share(journals, begins, clocks),
        "wire_proof": _wire_proof(journals),
        "environment": {str(rank): facts.get("environment") for rank, facts in begins.items()},
    }
    return summary


def fps(fates: Iterable[Mapping[str, Any]]) -> float | None:
    """Results per second between the first after the warm-up and the last; None with fewer than two."""
    times = [line["t"] for line in timed_results(fates)]
    if len(times) < 2 or times[-1] == times[0]:
        return None
    return round((len(times) - 1) * 1e9 / float(times[-1] - times[0]), 3)


def timed_results(fates: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results by time, without the warm-up: the first five, where there are more than twenty."""
    results = sorted((line for line in fates if line["x"] in _RESULTS), key=lambda line: int(line["t"]))
    return results[_NUM_WARM_UP:] if len(results) > 4 * _NUM_WARM_UP else results


def _windows(timed: Sequence[Mapping[str, Any]], sink_rank: int, clocks: Mapping[int, RankClock]) -> dict[int, Span]:
    """Rank -> from the first to the last timed result, by its own clock; empty with fewer than two."""
    if len(timed) < 2 or sink_rank not in clocks or timed[-1]["t"] == timed[0]["t"]:
        return {}
    begin, end = (clocks[sink_rank].to_rank0(timed[index]["t"]) for index in (0, -1))
    return {rank: (clock.from_rank0(begin), clock.from_rank0(end)) for rank, clock in clocks.items()}


def _clock(clock: RankClock, window: Span | None) -> dict[str, Any]:
    """How well a rank's clock is known to rank 0; `num_readings` is None where both have the same."""
    return {
        "num_readings": clock.num_readings,
        "drift_ppm": [None if model.drift_ppm is None else round(model.drift_ppm, 3) for model, _ in clock.hops],
        "error_ms": None if window is None else round(max(clock.error_ns(time) for time in window) / 1e6, 4),
    }


def _counts(journals: Mapping[int, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> dict[str, int]:
    """Captured frames by fate. `unfinished` were captured and have no fate: only after a crash."""
    captured = 0
    for lines in journals.values():
        for line in lines:
            if line["e"] == "end" and line.get("num_captured") is not None:
                captured = line["num_captured"]
            elif line["e"] in ("stage", "fate"):
                captured = max(captured, line["f"] + 1)
    counts = {"captured": captured}
    for fate in FATES:
        counts[fate] = sum(line["x"] == fate for line in fates)
    counts["unfinished"] = captured - len({line["f"] for line in fates})
    return counts


def _rank(
    rank: int, lines: list[dict[str, Any]], begin: Mapping[str, Any], window: Span | None, warm_up: Set[int]
) -> dict[str, Any]:
    services = defaultdict(list)
    for line in lines:
        if line["e"] == "stage" and line["f"] not in warm_up:
            services[line["n"]].append((line["t"] - line["b"]) / 1e6)
    waits: dict[str, float] = defaultdict(float)
    for line in lines:
        if line["e"] == "wait":
            waits[line["c"]] += (line["t"] - line["b"]) / 1e6
    stream, end = _first(lines, "stream"), _first(lines, "end")
    streamed_s = (end["t"] - stream["t"]) / 1e9 if stream and end else None
    cpu_s = end.get("communication_cpu_s")
    return {
        "rank": rank,
        "host": begin.get("host"),
        "lanes": begin.get("lanes"),
        "engine": begin.get("engine"),
        "precision": begin.get("precision"),
        "threads": begin.get("threads"),
        "engine_choice": begin.get("engine_choice"),
        "engine_disagreement": begin.get("engine_disagreement"),
        "graph_bytes": begin.get("graph_bytes"),
        "stages": [{"name": name, **percentiles(times)} for name, times in services.items()],
        "waited_ms": {cause: round(total, 1) for cause, total in waits.items()},
        "resident_bytes": end.get("resident_bytes"),
        "peak_resident_bytes": end.get("peak_resident_bytes"),
        "gpu_memory": end.get("gpu_memory"),
        "timed": None if window is None else rank_time(lines, begin.get("graphs") or (), window),
        "communication_cpu_share": round(cpu_s / streamed_s, 4) if cpu_s is not None and streamed_s else None,
        "error": _first(lines, "error").get("text"),
    }


def _delays(
    results: Iterable[Mapping[str, Any]], source_rank: int, sink_rank: int, clocks: Mapping[int, RankClock]
) -> list[float]:
    """Capture to output, ms; empty where a clock is not known."""
    if source_rank not in clocks or sink_rank not in clocks:
        return []
    source, sink = clocks[source_rank], clocks[sink_rank]
    if source == sink:
        return [(line["t"] - line["c"]) / 1e6 for line in results]
    return [(sink.to_rank0(line["t"]) - source.to_rank0(line["c"])) / 1e6 for line in results]


def _delay(
    timed: Sequence[Mapping[str, Any]],
    delays: list[float],
    source_rank: int,
    sink_rank: int,
    clocks: Mapping[int, RankClock],
) -> dict[str, Any]:
    """Capture to output, ms. Across hosts by the estimated offset between the clocks, with its error bound."""
    if source_rank not in clocks or sink_rank not in clocks:
        return {"num": 0, "reason": "no clock offset between source and sink is known"}
    source, sink = clocks[source_rank], clocks[sink_rank]
    errors = [source.error_ns(line["c"]) + sink.error_ns(line["t"]) for line in timed] if source != sink else []
    return {
        **percentiles(delays),
        "clock_error_ms": round(max(errors, default=0) / 1e6, 3),
    }


def _edges(
    journals: Mapping[int, list[dict[str, Any]]],
    begins: Mapping[int, Mapping[str, Any]],
    clocks: Mapping[int, RankClock],
    warm_up: Set[int],
    results: Set[int],
) -> list[dict[str, Any]]:
    """`bytes_per_frame` is that of a message with a frame in it; `bytes_per_result` is all that was sent for the frames with a
    result over their number, where one that the neural filter has ended costs a header only."""
    names = {name for facts in begins.values() for name in (facts.get("edges") or {}).values()}
    edges = []
    for name in sorted(names):
        sender, receiver = edge_ends(name)
        arrived = [
            line
            for line in journals.get(receiver, [])
            if line["e"] == "transfer" and line["n"] == name and line["k"] in (Kind.FRAME, Kind.EMPTY)
        ]
        messages = [line for line in arrived if line["k"] == Kind.FRAME]
        timed = [line for line in messages if line["f"] not in warm_up]
        transfers, errors = [], [0]
        if sender in clocks and receiver in clocks:
            near, far = clocks[sender], clocks[receiver]
            transfers = [(far.to_rank0(line["t"]) - near.to_rank0(line["b"])) / 1e6 for line in timed]
            errors += [near.error_ns(line["b"]) + far.error_ns(line["t"]) for line in timed if near != far]
        sizes = [line["s"] for line in messages]
        of_results = [line["s"] for line in arrived if line["f"] in results]
        edges.append(
            {
                "name": name,
                "num_messages": len(messages),
                "num_empty": len(arrived) - len(messages),
                "bytes_per_frame": round(sum(sizes) / len(sizes), 1) if sizes else None,
                "bytes_per_result": round(sum(of_results) / len(results), 1) if of_results else None,
                "transfer": {**percentiles(transfers), "clock_error_ms": round(max(errors) / 1e6, 3)},
            }
        )
    return edges


def _overlap_share(
    journals: Mapping[int, list[dict[str, Any]]],
    begins: Mapping[int, Mapping[str, Any]],
    clocks: Mapping[int, RankClock],
) -> float | None:
    """Share of the time from first to last result's computing in which two ranks or more compute at once."""
    busy = {}
    for rank, lines in journals.items():
        graphs = set(begins[rank].get("graphs") or ())
        spans = [
            (clocks[rank].to_rank0(line["b"]), clocks[rank].to_rank0(line["t"]))
            for line in lines
            if rank in clocks and line["e"] == "stage" and line["n"] in graphs
        ]
        if spans:
            busy[rank] = spans
    return overlap_share(list(busy.values())) if len(busy) > 1 else None


def _wire_proof(journals: Mapping[int, list[dict[str, Any]]]) -> dict[str, int | None]:
    """Bytes the interfaces sent while frames streamed, against the messages' own bytes. None: no network was named."""
    payload = 0
    interface: int | None = None
    for rank, lines in journals.items():
        payload += sum(line["s"] for line in lines if line["e"] == "transfer" and edge_ends(line["n"])[0] == rank)
        first, last = _first(lines, "stream").get("tx_bytes"), _first(lines, "end").get("tx_bytes")
        if first is not None and last is not None:
            interface = (interface or 0) + last - first
    return {"interface_bytes": interface, "payload_bytes": payload}


def _complete_detections(path: Path, journals: Mapping[int, list[dict[str, Any]]]) -> None:
    """Where the source is on another rank than the sink, only the journals know what became of dropped frames."""
    lines: dict[int, str] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines[int(json.loads(text)["frame"])] = text
            except (ValueError, KeyError):
                continue  # a line that a crash has cut off
    for journal in journals.values():
        for line in journal:
            if line["e"] == "fate" and line["x"] == "dropped":
                lines[line["f"]] = json.dumps(
                    {
                        "frame": line["f"],
                        "capture_ns": line["c"],
                        "pts_ns": line["p"],
                        "fate": "dropped",
                        "reason": line["r"],
                        "detections": [],
                    }
                )
    _replace(path, "".join(lines[frame] + "\n" for frame in sorted(lines)))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SinkError(f"{path} cannot be written ({error.strerror}); free space or give another --out") from error


def _first(lines: Iterable[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((line for line in lines if line["e"] == name), {})


def _host(begins: Mapping[int, Mapping[str, Any]], rank: int) -> object:
    return begins.get(rank, {}).get("host")
