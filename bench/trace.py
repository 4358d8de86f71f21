"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

Format: "Trace Event Format", Duffy and Nduca, Google 2016. Ranks are processes, their lanes threads; every link is a process of
its own, with as many threads as messages were under way at once. Arrows lead from the sender's lane over the link to the
receiver's lane. Times are us of rank 0's clock from the first event on.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .breakdown import host_or_rank
from .chain import ChainLane
from .finished_run import FinishedRun, Transfer

Event = dict[str, Any]
FIRST_LINK_PID = 1000
"""Process number of edge 0's link; ranks have their own numbers."""


def write_trace(run: FinishedRun, path: Path) -> None:
    """Write the trace of a run; a file of that name is replaced as a whole."""
    trace = {
        "traceEvents": trace_events(run),
        "displayTimeUnit": "ms",
        "otherData": {"run": run.name, **run.settings},
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")
    os.replace(partial, path)


def trace_events(run: FinishedRun) -> list[Event]:
    """All events, names first. Lanes that the journals do not tell, and ranks without a known clock, have none."""
    lanes = {lane: index + 1 for index, lane in enumerate(run.chain.lanes) if lane.rank in run.clocks}
    slices: dict[ChainLane, list[Event]] = defaultdict(list)
    for work in run.work:
        if (lane := run.chain.of_stage(work.rank, work.stage)) in lanes:
            slices[lane].append(_slice(work.stage, "stage", work.begin_ns, work.end_ns, frame=work.frame))
    for wait in run.waits:
        if (lane := run.chain.of_wait(wait.rank, wait.cause, wait.where)) in lanes:
            name = f"wait: {wait.cause}"
            slices[lane].append(_slice(name, "wait", wait.begin_ns, wait.end_ns, frame=wait.frame, at=wait.where))
    for lane, events in slices.items():
        slices[lane] = [{**event, "pid": lane.rank, "tid": lanes[lane]} for event in _nested(events)]
    links: list[Event] = []
    for number, edge in enumerate(run.chain.edges()):
        for slot, transfers in enumerate(share_slots(t for t in run.transfers if t.edge == edge)):
            links += [_link_slice(transfer, FIRST_LINK_PID + number, slot) for transfer in transfers]
    events = [event for lane in lanes for event in slices[lane]] + links
    frames = {lane: _first_and_last(slices[lane]) for lane in lanes}
    events += [arrow for link in links for arrow in _arrows(run, link, frames)]
    start = min((event["ts"] for event in events), default=0)
    return _names(run, lanes, links) + [
        {
            key: (value - start) / 1e3 if key == "ts" else value / 1e3 if key == "dur" else value
            for key, value in event.items()
        }
        for event in sorted(events, key=lambda event: int(event["ts"]))
    ]


def share_slots(transfers: Iterable[Transfer]) -> list[list[Transfer]]:
    """Messages of one edge spread over rows, so that none covers another: the first row that is free when one is posted."""
    slots: list[list[Transfer]] = []
    for transfer in sorted(transfers, key=lambda transfer: transfer.posted_ns):
        free = next((slot for slot in slots if slot[-1].arrived_ns <= transfer.posted_ns), None)
        if free is None:
            slots.append([transfer])
        else:
            free.append(transfer)
    return slots


def _slice(name: str, category: str, begin_ns: int, end_ns: int, **facts: object) -> Event:
    return {"ph": "X", "name": name, "cat": category, "ts": begin_ns, "dur": max(0, end_ns - begin_ns), "args": facts}


def _link_slice(transfer: Transfer, pid: int, slot: int) -> Event:
    facts = {
        "frame": transfer.frame,
        "edge": transfer.edge,
        "bytes": transfer.num_bytes,
        "behind_earlier_ms": (transfer.on_wire_ns - transfer.posted_ns) / 1e6,
        "on_link_ms": (transfer.arrived_ns - transfer.on_wire_ns) / 1e6,
    }
    event = _slice("transfer", "transfer", transfer.posted_ns, transfer.arrived_ns, **facts)
    return {**event, "pid": pid, "tid": slot + 1}


def _nested(events: list[Event]) -> list[Event]:
    """Slices of one thread by time. One that would end within another and begin before it is cut to what lies between them:
    viewers take only slices that are nested."""
    result: list[Event] = []
    open_ends: list[int] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        begin, end = event["ts"], event["ts"] + event["dur"]
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
        while open_ends and open_ends[-1] < end:
            begin = open_ends.pop()
        open_ends.append(end)
        result.append({**event, "ts": begin, "dur": end - begin})
    return result


def _first_and_last(events: list[Event]) -> dict[int, tuple[Event, Event]]:
    """Frame -> its first and last stage in a lane; a wait where the lane computes nothing."""
    found: dict[int, tuple[Event, Event]] = {}
    for category in ("wait", "stage"):
        these: dict[int, tuple[Event, Event]] = {}
        for event in events:
            if event["cat"] == category:
                frame = event["args"]["frame"]
                these[frame] = (these[frame][0] if frame in these else event, event)
        found |= these
    return found


def _arrows(run: FinishedRun, link: Event, frames: dict[ChainLane, dict[int, tuple[Event, Event]]]) -> list[Event]:
    """From the sender's last slice of the frame to the link, and from there to the receiver's first one."""
    edge, frame = link["args"]["edge"], link["args"]["frame"]
    sender, receiver = run.chain.sender(edge), run.chain.receiver(edge)
    before = frames[sender].get(frame) if sender in frames else None
    after = frames[receiver].get(frame) if receiver in frames else None
    number = f"{edge} {frame}"
    steps = []
    if before is not None:
        steps.append((before[1], link, f"{number} sent"))
    if after is not None:
        steps.append((link, after[0], f"{number} received"))
    arrows = []
    for begin, end, name in steps:
        # An arrow belongs to the slice around its time, so it starts where that one ends, and just inside.
        inside = begin["ts"] + max(0, begin["dur"] - 1)
        flow = {"name": "frame", "cat": "transfer", "id": name, "args": {"frame": frame}}
        arrows.append({**flow, "ph": "s", "ts": inside, "pid": begin["pid"], "tid": begin["tid"]})
        arrows.append({**flow, "ph": "f", "bp": "e", "ts": end["ts"], "pid": end["pid"], "tid": end["tid"]})
    return arrows


def _names(run: FinishedRun, lanes: dict[ChainLane, int], links: list[Event]) -> list[Event]:
    events: list[Event] = []

    def name(kind: str, pid: int, tid: int, **facts: object) -> None:
        events.append({"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": facts})

    for rank in sorted({lane.rank for lane in lanes}):
        where = host_or_rank(run, rank)
        name("process_name", rank, 0, name=where if "rank" in where else f"{where}, rank {rank}")
        name("process_sort_index", rank, 0, sort_index=2 * rank)
    for lane, tid in lanes.items():
        name("thread_name", lane.rank, tid, name=lane.name)
        name("thread_sort_index", lane.rank, tid, sort_index=tid)
    for number, edge in enumerate(run.chain.edges()):
        pid = FIRST_LINK_PID + number
        slots = sorted({link["tid"] for link in links if link["pid"] == pid})
        if slots:
            name("process_name", pid, 0, name=f"link {edge}")
            name(
                "process_sort_index", pid, 0, sort_index=2 * min(int(end) for end in edge.split(" ")[0].split("->")) + 1
            )
        for slot in slots:
            name("thread_name", pid, slot, name=f"message under way {slot}")
    return events
