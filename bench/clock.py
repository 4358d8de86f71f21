"""Clocks of several hosts: readings by ping-pong before and after a run, and what lies between them.

    near   --- ping ---->   far reads its clock   --- pong --->   near
    offset = far - (begin + end) / 2,  error <= (end - begin) / 2     (Cristian 1989)

Between two readings the offset is taken to change evenly (the hosts' quartzes differ by a constant rate); its error is then
at most the larger of the two. Outside of them, and with a single reading, the error grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .journal import edge_ends

MAX_DRIFT = 500e-6
"""How fast two hosts' clocks may drift apart: the most by which Linux lets NTP steer a clock (MAXFREQ in its timex.h)."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One ping-pong: the fastest of several."""

    at_ns: int
    """When, by the near clock."""
    offset_ns: int
    """Far clock minus near clock."""
    error_ns: int
    """Half the round trip."""


@dataclass(frozen=True, slots=True)
class ClockModel:
    """Converts times between a near and a far clock; exact integers, so that ns survive."""

    readings: tuple[ClockReading, ...]
    """One or more, by time; the first and the last count."""

    def near(self, far_ns: int) -> int:
        """A time of the far clock, by the near one."""
        first, last = self.readings[0], self.readings[-1]
        begin, end = first.at_ns + first.offset_ns, last.at_ns + last.offset_ns
        return far_ns - _between(far_ns, begin, end, first.offset_ns, last.offset_ns)

    def far(self, near_ns: int) -> int:
        """A time of the near clock, by the far one."""
        first, last = self.readings[0], self.readings[-1]
        return near_ns + _between(near_ns, first.at_ns, last.at_ns, first.offset_ns, last.offset_ns)

    def error_ns(self, near_ns: int) -> int:
        """Bound of the error of a conversion at this time of the near clock, ns."""
        first, last = self.readings[0], self.readings[-1]
        outside = max(0, first.at_ns - near_ns, near_ns - last.at_ns)
        if len(self.readings) == 1:
            return first.error_ns + round(MAX_DRIFT * outside)
        span = last.at_ns - first.at_ns
        return max(first.error_ns, last.error_ns) + (first.error_ns + last.error_ns) * outside // max(span, 1)

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the far clock runs, parts per million; None with a single reading."""
        first, last = self.readings[0], self.readings[-1]
        span = last.at_ns - first.at_ns
        return (last.offset_ns - first.offset_ns) / span * 1e6 if span > 0 else None


@dataclass(frozen=True, slots=True)
class RankClock:
    """The way from a rank's clock to rank 0's, along the edges between hosts."""

    hops: tuple[tuple[ClockModel, bool], ...] = ()
    """From the rank to rank 0: the model, and whether the rank's side is its far one. Empty on rank 0's host."""

    def to_rank0(self, time_ns: int) -> int:
        """A time of this rank's clock, by rank 0's."""
        for model, is_far in self.hops:
            time_ns = model.near(time_ns) if is_far else model.far(time_ns)
        return time_ns

    def from_rank0(self, time_ns: int) -> int:
        """A time of rank 0's clock, by this rank's."""
        for model, is_far in reversed(self.hops):
            time_ns = model.far(time_ns) if is_far else model.near(time_ns)
        return time_ns

    def error_ns(self, time_ns: int) -> int:
        """Bound of the error of `to_rank0`, ns."""
        error = 0
        for model, is_far in self.hops:
            near_ns = model.near(time_ns) if is_far else time_ns
            error += model.error_ns(near_ns)
            time_ns = near_ns if is_far else model.far(time_ns)
        return error

    @property
    def num_readings(self) -> int | None:
        """The fewest readings that a hop rests on; None where nothing had to be read."""
        return min((len(model.readings) for model, _ in self.hops), default=None)


def rank_clocks(journals: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[int, RankClock]:
    """Rank -> its clock, for each rank that edges connect to rank 0. Ranks of one host share a clock."""
    begins = {rank: next((line for line in lines if line["e"] == "begin"), {}) for rank, lines in journals.items()}
    hops: dict[tuple[int, int], tuple[tuple[ClockModel, bool], ...]] = {}
    for rank, begin in begins.items():
        for index in begin.get("clocks") or {}:
            sender, receiver = edge_ends(begin["edges"][index])
            if begins.get(sender, {}).get("host") == begins.get(receiver, {}).get("host"):
                hops[sender, receiver] = hops[receiver, sender] = ()
            elif (sender, receiver) not in hops or rank == sender:
                model = ClockModel(_readings(journals[rank], begin, index, is_far=rank == receiver))
                hops[receiver, sender] = ((model, True),)
                hops[sender, receiver] = ((model, False),)
    clocks = {0: RankClock()}
    grown = True
    while grown:
        grown = False
        for (rank, other), way in hops.items():
            if other in clocks and rank not in clocks:
                clocks[rank] = RankClock(way + clocks[other].hops)
                grown = True
    return clocks


def _readings(
    lines: Sequence[Mapping[str, Any]], begin: Mapping[str, Any], index: str, *, is_far: bool
) -> tuple[ClockReading, ...]:
    """Of the edge `index`: the one before the run and, where the rank got so far, the one after it."""
    round_trip, offset, *at = begin["clocks"][index]
    raw = [(round_trip, offset, at[0] if at else begin.get("t", 0))]
    raw += [
        (line["round_trip_ns"], line["offset_ns"], line["at_ns"])
        for line in lines
        if line["e"] == "clock" and str(line["edge"]) == index
    ]
    return tuple(
        ClockReading(at_ns - offset_ns if is_far else at_ns, offset_ns, (round_trip_ns + 1) // 2)
        for round_trip_ns, offset_ns, at_ns in raw
    )


def _between(x: int, begin: int, end: int, at_begin: int, at_end: int) -> int:
    if end <= begin:
        return at_begin
    return at_begin + (at_end - at_begin) * (x - begin) // (end - begin)
