"""Where the time of a frame goes, from capture to output."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .finished_run import FinishedRun
from .intervals import Span, merge
from .waits import frame_parts

_QUEUED, _CREDIT = ("queued", "queue"), "credit"
_NOT_COMPUTED = (*_QUEUED, _CREDIT, "runtime")


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Means over the steady frames, ms; the parts add up to the capture-to-output delay (`waits.frame_parts`)."""

    num_frames: int
    compute_ms: dict[str, float]
    """By host, or by rank where ranks share one: all stages there, the frame's capture left out."""
    stages_ms: dict[int, dict[str, float]]
    """Rank -> stage -> service time, without capture and output."""
    capture_ms: float
    """From the picture's own time until it was there: decoding."""
    wire_ms: float
    """On the link: from posted, or from when the message before it had arrived, to arrived; all crossings of a frame."""
    behind_ms: float
    """Posted, and behind earlier messages of the same edge."""
    queued_ms: float
    """In queues and receive buffers, for a lane that is busy with an earlier frame."""
    credit_ms: float
    """For room on the receiving side."""
    runtime_ms: float
    """The rest: packing, hand-over, waking up."""
    delay_ms: float

    @staticmethod
    def of(run: FinishedRun) -> Breakdown | None:
        """None where the journals have no frame complete with a result and every crossing before it."""
        edges = set(run.chain.edges())
        behind: dict[int, dict[str, int]] = defaultdict(dict)
        for transfer in run.transfers:
            behind[transfer.frame][transfer.edge] = transfer.on_wire_ns - transfer.posted_ns
        outputs = [output for output in run.steady if set(behind[output.frame]) >= edges]
        if not outputs or not run.chain.lanes:
            return None
        parts = frame_parts(run.journals, run.clocks)
        totals: dict[tuple[int, str], float] = defaultdict(float)
        for output in outputs:
            for part in parts[output.frame]:
                totals[part.rank, part.name.split(" ")[0]] += (part.end_ns - part.begin_ns) / len(outputs) / 1e6
        stages: dict[int, dict[str, float]] = defaultdict(dict)
        compute = dict.fromkeys((host_or_rank(run, rank) for rank in run.ranks), 0.0)
        other: dict[str, float] = defaultdict(float)
        for (rank, name), time_ms in totals.items():
            if name in (*_NOT_COMPUTED, "transfer", "capture"):
                other[name] += time_ms
            else:
                stages[rank][name] = time_ms
                compute[host_or_rank(run, rank)] += time_ms
        behind_ms = sum(sum(behind[output.frame].values()) for output in outputs) / len(outputs) / 1e6
        return Breakdown(
            num_frames=len(outputs),
            compute_ms=compute,
            stages_ms=dict(stages),
            capture_ms=other["capture"],
            wire_ms=max(0.0, other["transfer"] - behind_ms),
            behind_ms=min(behind_ms, other["transfer"]),
            queued_ms=sum(other[name] for name in _QUEUED),
            credit_ms=other[_CREDIT],
            runtime_ms=other["runtime"],
            delay_ms=sum(output.output_ns - output.captured_ns for output in outputs) / len(outputs) / 1e6,
        )


@dataclass(frozen=True, slots=True)
class LaneTime:
    """What a lane did in the steady part of a run, as shares of that time; the rest is neither."""

    name: str
    computes: float
    waits: dict[str, float]
    """Cause -> share: input, credit, queue, sink."""


def lane_times(run: FinishedRun) -> list[LaneTime]:
    """One per lane in frame order; empty where the journals do not tell the lanes or the time is zero."""
    begin, end = run.steady_span
    if end <= begin:
        return []
    times = []
    for lane in run.chain.lanes:
        if lane.rank not in run.clocks or lane.rank not in run.journals:
            continue
        busy = [
            (work.begin_ns, work.end_ns)
            for work in run.work
            if work.rank == lane.rank and run.chain.of_stage(work.rank, work.stage) == lane
        ]
        waits: dict[str, list[Span]] = {"input": [], "credit": [], "queue": [], "sink": []}
        for wait in run.waits:
            if wait.rank == lane.rank and run.chain.of_wait(wait.rank, wait.cause, wait.where) == lane:
                waits.setdefault(wait.cause, []).append((wait.begin_ns, wait.end_ns))
        shares = {cause: _share(spans, begin, end) for cause, spans in waits.items()}
        # The wait for the writers is part of the output's span.
        computes = max(0.0, _share(busy, begin, end) - shares["sink"])
        times.append(LaneTime(f"{run.rank_name(lane.rank)}: {lane.name}", computes, shares))
    return times


def edge_fps(run: FinishedRun) -> float | None:
    """What the edge device's graphs alone would reach; None when it runs none or they were not measured."""
    found = Breakdown.of(run)
    if found is None:
        return None
    graphs_ms = sum(
        time
        for rank in run.edge_host_ranks
        for stage, time in found.stages_ms.get(rank, {}).items()
        if stage in run.graphs
    )
    return 1000 / graphs_ms if graphs_ms > 0 else None


def host_or_rank(run: FinishedRun, rank: int) -> str:
    """Name of the device a rank is: its host, or the rank itself where all ranks are on one machine."""
    hosts = {facts.get("host") for facts in run.begins.values()}
    return run.rank_name(rank) if len(hosts) < 2 else str(run.begins.get(rank, {}).get("host") or f"rank {rank}")


def _share(spans: list[Span], begin: int, end: int) -> float:
    inside = sum(max(0, min(last, end) - max(first, begin)) for first, last in merge(spans))
    return inside / (end - begin)
