"""Where the time of a frame and of a rank goes, from the journals alone.

A frame's delay is cut into parts that follow each other and add up to it exactly, all by rank 0's clock:

    capture | runtime | preprocess | queued | backbone | credit | transfer | queued | transformer | postprocess | runtime
    ^ capture_ns                                       ^ posted ^ received                                   output_ns ^

    queued    waits in a queue or a receive buffer for a lane that is busy with an earlier frame
    credit    waits for the receiver to grant room
    queue     waits for room in the queue behind its lane: the next lane is the slower one
    runtime   the rest: packing, hand-over, waking up

A lane's own waiting has the causes `input` (none there), `credit` (the receiver or the link is slow), `queue` (the next lane is
slow) and `sink` (writing pictures is slow).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pipeline.packet import Kind
from .clock import RankClock
from .intervals import Span, merge
from .journal import edge_ends

Journals = Mapping[int, Sequence[Mapping[str, Any]]]
CAUSES = {"input": "no input", "credit": "no credit", "queue": "next lane is slow", "sink": "sink is slow"}
OUTPUT = "output"
"""The stage that hands a result to its writers: it begins where the delay ends."""
_FRAME_KINDS = (Kind.FRAME, Kind.EMPTY)
"""A frame, and one that the neural filter has ended: its header crosses, too."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a frame's delay."""

    rank: int
    """On which rank, of a transfer the receiving one."""
    name: str
    """Of a stage, `transfer EDGE`, or queued, credit, queue, runtime."""
    begin_ns: int
    end_ns: int
    """By rank 0's clock."""


def frame_parts(journals: Journals, clocks: Mapping[int, RankClock]) -> dict[int, list[Part]]:
    """Frame -> its parts in order, of the frames that have a result and whose ranks' clocks are known."""
    begins = {rank: next((line for line in lines if line["e"] == "begin"), {}) for rank, lines in journals.items()}
    lanes = {rank: _lanes(begin) for rank, begin in begins.items()}
    source = next((begin["source_rank"] for begin in begins.values() if "source_rank" in begin), 0)
    work: dict[int, list[Part]] = defaultdict(list)
    waits: dict[tuple[int, int], list[tuple[str, int, int]]] = defaultdict(list)
    ends: dict[int, tuple[int, int, int]] = {}
    for rank, lines in journals.items():
        if rank not in clocks:
            continue
        by0 = clocks[rank].to_rank0
        for line in lines:
            if line["e"] == "stage" and line["n"] != OUTPUT:
                work[line["f"]].append(Part(rank, line["n"], by0(line["b"]), by0(line["t"])))
            elif line["e"] == "transfer" and line["k"] in _FRAME_KINDS:
                sender, receiver = edge_ends(line["n"])
                if receiver == rank and sender in clocks:
                    posted = clocks[sender].to_rank0(line["b"])
                    work[line["f"]].append(Part(rank, f"transfer {line['n']}", posted, by0(line["t"])))
            elif line["e"] == "wait" and line["c"] in ("credit", "queue"):
                waits[rank, line["f"]].append((line["c"], by0(line["b"]), by0(line["t"])))
            elif line["e"] == "fate" and line["x"] in ("done", "empty") and source in clocks:
                ends[line["f"]] = (rank, clocks[source].to_rank0(line["c"]), by0(line["t"]))
    return {
        frame: _timeline(sorted(work[frame], key=lambda part: part.begin_ns), frame, source, end, waits, lanes)
        for frame, end in sorted(ends.items())
    }


def _timeline(
    work: Sequence[Part],
    frame: int,
    source: int,
    end: tuple[int, int, int],
    waits: Mapping[tuple[int, int], Sequence[tuple[str, int, int]]],
    lanes: Mapping[int, Mapping[str, str]],
) -> list[Part]:
    sink, at, output_ns = end
    parts: list[Part] = []
    before: Part | None = None
    for part in [*work, Part(sink, OUTPUT, output_ns, output_ns)]:
        begin, stop = min(max(part.begin_ns, at), output_ns), min(part.end_ns, output_ns)
        if begin > at:
            rank = source if before is None else before.rank
            rest = "queued" if _changes_lane(before, part, lanes) else "runtime"
            known = waits.get((rank, frame), ())
            if part.rank != rank:
                known = [*known, *waits.get((part.rank, frame), ())]
            parts += _gap(rank if rest == "runtime" else part.rank, at, begin, known, rest)
            at = begin
        if stop > at:
            parts.append(Part(part.rank, part.name, at, stop))
            at = stop
        before = part
    return parts


def _gap(rank: int, begin: int, end: int, known: Sequence[tuple[str, int, int]], rest: str) -> list[Part]:
    """Between two pieces of work: the waits that the journal names, and `rest` for what it does not."""
    parts = []
    for cause, wait_begin, wait_end in sorted(known, key=lambda wait: wait[1]):
        wait_begin, wait_end = max(wait_begin, begin), min(wait_end, end)
        if wait_end <= wait_begin:
            continue
        if wait_begin > begin:
            parts.append(Part(rank, rest, begin, wait_begin))
        parts.append(Part(rank, cause, wait_begin, wait_end))
        begin = wait_end
    if end > begin:
        parts.append(Part(rank, rest, begin, end))
    return parts


def _changes_lane(before: Part | None, part: Part, lanes: Mapping[int, Mapping[str, str]]) -> bool:
    """Whether a lane had to pick the frame up in between: after an arrival, or where the next stage is another lane's."""
    if before is None or part.name.startswith("transfer "):
        return False
    if before.name.startswith("transfer "):
        return True
    here = lanes.get(part.rank, {})
    one, other = here.get(before.name), here.get(part.name)
    # Stages that a lane adds by itself (decode, jpeg) are in no plan; nothing waits beside them.
    return one is not None and other is not None and one != other


def _lanes(begin: Mapping[str, Any]) -> dict[str, str]:
    """Stage -> lane, of a rank. The journal knows the source as `capture` and the sink as `output`."""
    names = {"source": "capture", "sink": OUTPUT, "encode-jpeg": "jpeg_encode", "decode-jpeg": "jpeg_decode"}
    return {names.get(stage, stage): lane for lane in begin.get("lanes") or () for stage in lane.split("+")}


def delay_breakdown(frames: Mapping[int, Sequence[Part]]) -> list[dict[str, Any]]:
    """Per rank and part, in the order of a frame's way: mean and median over all frames, ms. The means add up to the mean delay.

    A frame without a part counts with 0 ms of it."""
    totals: dict[tuple[int, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    order: list[tuple[int, str]] = []
    for frame, parts in frames.items():
        place = 0
        for part in parts:
            key = part.rank, part.name
            if key not in totals:
                order.insert(place, key)  # not every frame has every part: it comes after the one before it
            place = max(place, order.index(key) + 1)
            totals[key][frame] += part.end_ns - part.begin_ns
    rows = []
    for rank, name in order:
        values = np.array([totals[rank, name].get(frame, 0) for frame in frames]) / 1e6
        mean, median = round(float(values.mean()), 4), round(float(np.median(values)), 4)
        rows.append({"rank": rank, "name": name, "mean_ms": mean, "p50_ms": median, "num": len(totals[rank, name])})
    return rows


def rank_time(lines: Sequence[Mapping[str, Any]], graphs: Sequence[str], window: Span) -> dict[str, Any]:
    """Of one rank within a window of its own clock: the share in which a graph computes, and each lane's waiting by cause.

    Waits of less than 0.1 ms are not in the journal."""
    begin, end = window
    busy = merge([_clip(line, window) for line in lines if line["e"] == "stage" and line["n"] in graphs])
    waited: dict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        if line["e"] == "wait":
            from_ns, to_ns = _clip(line, window)
            waited[line["n"], line["c"]] += to_ns - from_ns
    return {
        "busy_share": round(sum(t - b for b, t in busy) / (end - begin), 4) if graphs else None,
        "waits": [
            {
                "where": where,
                "cause": CAUSES.get(cause, cause),
                "ms": round(total / 1e6, 1),
                "share": round(total / (end - begin), 4),
            }
            for (where, cause), total in sorted(waited.items(), key=lambda item: -item[1])
            if total > 0
        ],
    }


def _clip(line: Mapping[str, Any], window: Span) -> Span:
    """The part of a line's span that lies in the window; an empty span where none does."""
    begin = min(max(line["b"], window[0]), window[1])
    return begin, min(max(line["t"], begin), window[1])
