"""The summary of a run as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from .adapt_summary import adapt_sentences


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Per-stage service times, transfers, rate, delay, memory and counts. A * marks a percentile of too few frames."""
    table = Table(title=f"placement {summary['placement']}, wire {summary['wire']}, overlap {summary['overlap']}")
    for name in ("rank", "host", "what"):
        table.add_column(name)
    for name in ("frames", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right")
    for rank in summary["ranks"]:
        for stage in rank["stages"]:
            table.add_row(str(rank["rank"]), rank["host"], f"service {stage['name']}", *_cells(stage))
    for edge in summary["edges"]:
        size = edge["bytes_per_frame"]
        what = f"transfer {edge['name'].split(' ', 1)[1]}" + (f", {_bytes(size)} a frame" if size else "")
        if edge["num_empty"]:
            what += f", {edge['num_empty']} empty ones a header"
        table.add_row(edge["name"].split(" ")[0], "", what, *_cells(edge["transfer"]))
    table.add_row("", "", "capture to output", *_cells(summary["delay"]))
    console.print(table)
    counts = summary["counts"]
    text = ", ".join(f"{name} {counts[name]}" for name in ("captured", "done", "empty", "dropped", "failed"))
    if counts["unfinished"]:
        text += f", unfinished {counts['unfinished']}"
    console.print(f"frames: {text}")
    fps = summary["fps"]
    console.print(
        f"throughput: {fps:.1f} FPS" if fps is not None else "throughput: not measured (fewer than two results)"
    )
    for sentence in adapt_sentences(summary["adapt"]):
        console.print(sentence, highlight=False)
    if summary["overlap_share"] is not None:
        console.print(f"overlap: both ranks compute during {100 * summary['overlap_share']:.0f} % of the time")
    for rank in summary["ranks"]:
        console.print(_rank_line(rank))
    choices = {rank["host"]: rank["engine_choice"] for rank in summary["ranks"] if rank["engine_choice"]}
    for host, choice in choices.items():
        console.print(f"engines on {host}, by this bundle's golden frames:\n{choice}", highlight=False)
    for rank in summary["ranks"]:
        if rank["engine_disagreement"]:
            console.print(
                f"warning: rank {rank['rank']}: {rank['engine']} {rank['precision']} {rank['engine_disagreement']}"
            )
    proof = summary["wire_proof"]
    if proof["interface_bytes"] is not None:
        console.print(
            f"wire: the interfaces sent {_bytes(proof['interface_bytes'])}, the messages have {_bytes(proof['payload_bytes'])}"
        )
    for entry in summary["energy"]:
        console.print(_energy_line(entry))
    if "accuracy" in summary:
        console.print(_accuracy_line(summary["accuracy"]))
    if summary["num_warm_up"]:
        console.print(f"times leave the first {summary['num_warm_up']} results out, the warm-up")
    if any(row.get("weak") for row in _rows(summary)):
        console.print("* fewer frames than this percentile needs (p95: 130, p99: 662)")


def _accuracy_line(accuracy: Mapping[str, Any]) -> str:
    if "not_measured" in accuracy:
        return f"accuracy: not measured, {accuracy['not_measured']}"
    figures = ", ".join(f"{name} {accuracy[name]:.3f}" for name in ("mAP@50", "mAP") if accuracy[name] is not None)
    text = f"accuracy: {figures or 'no object to find'} over {accuracy['num_images']} frames, {accuracy['num_objects']} objects"
    streaming = accuracy.get("streaming")
    if streaming is None or streaming["mAP@50"] is None:
        return text
    return (
        f"{text}; streaming (the latest result at each of {streaming['num_ticks']} moments): mAP@50 "
        f"{streaming['mAP@50']:.3f}, mAP {streaming['mAP']:.3f}"
    )


def _energy_line(entry: Mapping[str, Any]) -> str:
    where = f"energy on {entry['host']}" + (f", {entry['scope']} by {entry['meter']}" if "meter" in entry else "")
    if "not_measured" in entry:
        return f"{where}: not measured, {entry['not_measured']}"
    text = f"{where}: {entry['mean_w']:.2f} W, {entry['j_per_frame']:.3f} J a frame"
    if entry["idle_w"] is None:
        return f"{text}; above idle not measured, {entry['idle_not_measured']}"
    return f"{text}, {entry['above_idle_j_per_frame']:.3f} J above the {entry['idle_w']:.2f} W of idle"


def _rank_line(rank: Mapping[str, Any]) -> str:
    parts = [f"rank {rank['rank']} on {rank['host']}:"]
    if rank["engine"]:
        parts.append(f"{rank['engine']} {rank['precision']}, {rank['threads']} thread(s),")
    if rank["resident_bytes"] is not None:
        parts.append(f"resident memory {_bytes(rank['resident_bytes'])}, peak {_bytes(rank['peak_resident_bytes'])},")
        parts.append(f"graphs {_bytes(rank['graph_bytes'])}")
    if rank["communication_cpu_share"] is not None:
        parts.append(f", communication thread {100 * rank['communication_cpu_share']:.0f} % of a core")
    return " ".join(parts).replace(" ,", ",")


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    weak = row.get("weak") or ()
    return str(row["num"]), *(
        "-" if row.get(f"{name}_ms") is None else f"{row[f'{name}_ms']:.2f}{'*' if name in weak else ''}"
        for name in ("p50", "p95")
    )  # type: ignore[return-value]


def _rows(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = [stage for rank in summary["ranks"] for stage in rank["stages"]]
    return [*stages, *(edge["transfer"] for edge in summary["edges"]), summary["delay"]]


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
