"""Whether a row of results has the proofs it needs; without one it is printed as `invalid: reason`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .journal import edge_ends
from .percentile import MIN_COUNTS

MAX_CLOCK_ERROR = 0.10
"""A delay between hosts is known when its clock error is at most this part of the median."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Valid when no proof is missing."""

    reasons: tuple[str, ...] = ()
    """`proof: what is missing`, of the proofs wire, affinity, stability, count, clock and end."""

    @property
    def valid(self) -> bool:
        """Whether the row may be printed as a result."""
        return not self.reasons

    def __str__(self) -> str:
        return "valid" if self.valid else f"invalid: {'; '.join(self.reasons)}"


def judge_row(summary: Mapping[str, Any], shown: Sequence[float] = (50,)) -> Verdict:
    """Judge the summary of a run (`summarize`) that will be shown with these percentiles of the delay."""
    proofs = (_end, _wire, _affinity, _stability, lambda row: _count(row, shown), _clock)
    return Verdict(tuple(reason for proof in proofs if (reason := proof(summary)) is not None))


def _end(summary: Mapping[str, Any]) -> str | None:
    return f"end: {summary['error']}" if summary["error"] else None


def _wire(summary: Mapping[str, Any]) -> str | None:
    """What crossed hosts must have gone through the interfaces."""
    hosts = _hosts(summary)
    payload = 0.0
    for edge in summary["edges"]:
        sender, receiver = edge_ends(edge["name"])
        if hosts.get(sender) != hosts.get(receiver):
            payload += edge["num_messages"] * (edge["bytes_per_frame"] or 0)
    if payload == 0:
        return None
    sent = summary["wire_proof"]["interface_bytes"]
    if sent is None:
        return "wire: no interface was watched; name the network that carries the messages"
    if sent < payload:
        return f"wire: the interfaces sent {sent} bytes, less than the {payload:.0f} of the frames"
    return None


def _affinity(summary: Mapping[str, Any]) -> str | None:
    """Each rank may use as many CPUs as it has threads, and the ranks of a machine are not pinned onto the same few."""
    used: dict[object, set[int]] = {}
    wanted: dict[object, int] = {}
    num_cpus: dict[object, int] = {}
    for rank in summary["ranks"]:
        environment = summary["environment"].get(str(rank["rank"])) or {}
        affinity, machine = environment.get("affinity"), environment.get("machine_id")
        if affinity is None or not environment.get("num_cpus"):
            return f"affinity: rank {rank['rank']} does not say which CPUs it may use"
        threads = rank["threads"] or 0
        if len(affinity) < threads:
            return f"affinity: rank {rank['rank']} has {threads} threads on {len(affinity)} CPU(s); bind it to none"
        used.setdefault(machine, set()).update(affinity)
        wanted[machine] = wanted.get(machine, 0) + max(1, threads)
        num_cpus[machine] = environment["num_cpus"]
    for machine, cpus in used.items():
        if len(cpus) < min(wanted[machine], num_cpus[machine]):
            return f"affinity: the ranks of one machine share {len(cpus)} of its {num_cpus[machine]} CPUs; bind to none"
    return None


def _stability(summary: Mapping[str, Any]) -> str | None:
    stability = summary["stability"]
    return None if stability["stable"] else f"stability: {stability['reason']}"


def _count(summary: Mapping[str, Any], shown: Sequence[float]) -> str | None:
    counts = summary["counts"]
    ended = counts["done"] + counts["empty"] + counts["dropped"] + counts["failed"]
    if counts["unfinished"] or ended != counts["captured"]:
        return f"count: {counts['captured']} frames were captured and {ended} ended"
    num = summary["delay"]["num"]
    weak = [percentile for percentile in shown if num < MIN_COUNTS[percentile]]
    if weak:
        return f"count: p{weak[-1]:g} needs {MIN_COUNTS[weak[-1]]} results and there are {num}"
    return None


def _clock(summary: Mapping[str, Any]) -> str | None:
    delay = summary["delay"]
    if delay.get("reason"):
        return f"clock: {delay['reason']}"
    for rank, clock in summary["clocks"].items():
        if clock["num_readings"] is not None and clock["num_readings"] < 2:
            return f"clock: the clock of rank {rank} was not read again after the run"
    error, median = delay["clock_error_ms"], delay["p50_ms"]
    if median is not None and error > MAX_CLOCK_ERROR * median:
        return f"clock: the delay of {median:.2f} ms is known to {error:.2f} ms only"
    return None


def _hosts(summary: Mapping[str, Any]) -> dict[int, object]:
    return {rank["rank"]: rank["host"] for rank in summary["ranks"]}
