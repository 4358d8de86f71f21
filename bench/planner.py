"""Predicts throughput and delay of a chain of lanes over one link, from service times alone.

A lane l takes t_l ms a frame; between lanes lies a queue of the same rank, or the link. With S bytes (header included), rate R
(bit/s) and round trip RTT of the link:

    goodput          G = 0.955 R                            what TCP carries as payload (raw TCP between two hosts, measured)
    wire time        w = 8 S / G
    transfer time    x = w + RTT / 2 + poll                 up to the eager limit
                     x = w + 3 RTT / 2 + poll               above it: the sender asks, is answered, and sends

    period           P = max(t_l, W, C, x_e / d_e)
                     W   wire times of one direction together (full duplex) or of both (half duplex: the link is shared)
                     C   computing on one machine, all its lanes and threads, over its CPUs
                     d_e depth of edge e, as `pipeline/credit.py` decides it: 1 + ceil(round trips of a message / P)
    throughput       1 / P: the slowest lane, or the link, whichever is slower; all else is hidden behind it
    delay            D = sum of t_l + sum of x_e            a frame that meets nobody (camera below capacity)
    queued delay     of a source that is always ready: frames wait where the chain is full; `play` plays it through

A run without overlap has the period D. Matsubara and Levorato (2020, section VI) have the same D with RTT = 0:
local T_L, offload T_i + T_E, split T_H + T_o + T_T.

Hosts that share a machine slow each other down: a graph takes its co-load time in the share of time in which the other host
computes, its solo time in the rest,

    t = solo + (coload - solo) busy(other host),    busy(h) = sum of h's graph times / P

solved by repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..pipeline.communication import IDLE_POLL_S
from ..pipeline.credit import Depth
from ..pipeline.message import HEADER_BYTES
from ..pipeline.mpi_channel import MAX_DEPTH

TCP_SHARE = 0.955
"""Share of a link's rate that a TCP connection carries as payload."""
_POLL_MS = IDLE_POLL_S * 1e3 / 2
"""A message that nobody waited for actively is seen at the next test, half an interval later on average."""
_LEAST_MS = 1e-6
"""A chain that takes no time at all is given this."""
_NUM_ROUNDS = 50
_NUM_PLAYED = 80


@dataclass(frozen=True, slots=True)
class Link:
    """The connection between the two hosts."""

    rate_bit_per_s: float
    round_trip_ms: float = 0.0
    half_duplex: bool = False
    """Both directions share the rate (a radio channel)."""
    tcp_share: float = TCP_SHARE
    poll_ms: float = _POLL_MS
    """What a message waits until it is seen."""

    def wire_ms(self, num_bytes: int) -> float:
        """Time on the link of so many bytes, ms."""
        return 8e3 * num_bytes / (self.tcp_share * self.rate_bit_per_s)


@dataclass(frozen=True, slots=True)
class Crossing:
    """How a frame leaves a lane for another host."""

    name: str
    payload_bytes: int
    is_eager: bool = True
    """Whether it is sent without asking the receiver first."""
    carries_results: bool = False
    """Detections, whose depth is always the largest."""

    @property
    def num_bytes(self) -> int:
        """With the header."""
        return self.payload_bytes + HEADER_BYTES


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """One lane of the chain, in frame order."""

    name: str
    host: int
    solo_ms: float
    """Mean service time of all its stages together."""
    median_ms: float
    """The same by medians: what a typical frame's delay is made of."""
    first_ms: float = 0.0
    """Median of its first stage, after which what was received is no longer needed."""
    coload_ratio: float = 1.0
    """By what it takes longer while the other host computes on the same machine."""
    computes: bool = False
    """Whether it runs graphs."""
    crossing: Crossing | None = None
    """None: what follows is on the same host."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the lanes of hosts share."""

    hosts: tuple[int, ...]
    num_cpus: int
    threads: int
    """Of a lane that computes."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a chain will do."""

    fps: float
    delay_ms: float
    """From capture to output of a frame that meets no other."""
    queued_delay_ms: float
    """The same where the source is always ready and no frame is dropped."""
    bottleneck: str
    busy: tuple[float, ...]
    """By host, the share of time in which its graphs compute."""
    link_busy: float
    """Share of time in which the busiest direction of the link carries frames."""
    crossing_bytes: int
    """Per frame, headers included, both directions."""


def forecast(lanes: Sequence[LaneLoad], link: Link, machines: Sequence[Machine] = (), num_hosts: int = 2) -> Forecast:
    """Predict; `machines` are those whose CPU count is known."""
    shared = any(len(machine.hosts) > 1 for machine in machines)
    times = [lane.solo_ms for lane in lanes]
    bounds: dict[str, float] = {}
    busy = [0.0] * num_hosts
    for _ in range(_NUM_ROUNDS if shared else 1):
        bounds = _bounds(lanes, times, link, machines)
        period = max(*bounds.values(), _LEAST_MS)
        busy = [min(1.0, _graphs_ms(lanes, times, host) / period) for host in range(num_hosts)]
        if shared:
            times = [_beside(lane, busy) for lane in lanes]
    period = max(*bounds.values(), _LEAST_MS)
    bottleneck = max(bounds, key=lambda name: bounds[name])
    # Where CPUs are the bottleneck, all that compute there take longer.
    stretch = max(1.0, period / max(max(times), 1e-9)) if bottleneck.startswith("CPUs") else 1.0
    medians = [
        lane.median_ms * (time / lane.solo_ms if lane.solo_ms else 1.0) * (stretch if lane.computes else 1.0)
        for lane, time in zip(lanes, times, strict=True)
    ]
    transfers = [transfer_ms(lane.crossing, link) for lane in lanes if lane.crossing is not None]
    # A frame alone on its way computes on one host at a time.
    alone_ms = sum(lane.median_ms for lane in lanes) + sum(transfers)
    wires = _wires(lanes, link)
    late = play(lanes, medians, link, period)[-1]
    return Forecast(
        fps=1e3 / period,
        delay_ms=alone_ms,
        queued_delay_ms=late.output_ms - late.captured_ms,
        bottleneck=bottleneck,
        busy=tuple(busy),
        link_busy=max(wires.values(), default=0.0) / period,
        crossing_bytes=sum(lane.crossing.num_bytes for lane in lanes if lane.crossing is not None),
    )


def transfer_ms(crossing: Crossing, link: Link) -> float:
    """From posted to received on an idle link, ms."""
    trips = 0.5 if crossing.is_eager else 1.5
    return link.wire_ms(crossing.num_bytes) + trips * link.round_trip_ms + link.poll_ms


def depth(crossing: Crossing, link: Link, period_ms: float) -> int:
    """Frames that the edge keeps under way, as its receiver decides when they come at this pace."""
    limit = crossing.num_bytes if crossing.is_eager else 0
    measured = Depth(round(link.round_trip_ms * 1e6), limit, MAX_DEPTH, is_always_full=crossing.carries_results)
    for number in range(3):
        measured.arrived(crossing.num_bytes, round(number * period_ms * 1e6))
    return measured.frames


def _beside(lane: LaneLoad, busy: Sequence[float]) -> float:
    """Service time of a lane while the other hosts are as busy as that."""
    if not lane.computes:
        return lane.solo_ms
    other = min(1.0, sum(share for host, share in enumerate(busy) if host != lane.host))
    return lane.solo_ms * (1 + (lane.coload_ratio - 1) * other)


def _graphs_ms(lanes: Sequence[LaneLoad], times: Sequence[float], host: int) -> float:
    """What the graphs of a host take for a frame, ms."""
    return sum(time for lane, time in zip(lanes, times, strict=True) if lane.host == host and lane.computes)


def _bounds(
    lanes: Sequence[LaneLoad], times: Sequence[float], link: Link, machines: Sequence[Machine]
) -> dict[str, float]:
    """What each part alone would take per frame, ms, by its name."""
    bounds = {f"host {lane.host}: {lane.name}": time for lane, time in zip(lanes, times, strict=True)}
    bounds |= _wires(lanes, link)
    for machine in machines:
        work = sum(
            time * (machine.threads if lane.computes else 1)
            for lane, time in zip(lanes, times, strict=True)
            if lane.host in machine.hosts
        )
        bounds["CPUs of host " + "+".join(map(str, machine.hosts))] = work / machine.num_cpus
    period = max(bounds.values(), default=0.0)
    for lane in lanes:
        if lane.crossing is not None:
            trips = 1 if lane.crossing.is_eager else 2
            cycle = link.wire_ms(lane.crossing.num_bytes) + trips * link.round_trip_ms
            bounds[f"round trips of {lane.crossing.name}"] = cycle / depth(lane.crossing, link, period)
    return bounds


def _wires(lanes: Sequence[LaneLoad], link: Link) -> dict[str, float]:
    """Wire time of a frame by direction, ms; of both together on a half-duplex link."""
    wires: dict[str, float] = {}
    for lane in lanes:
        if lane.crossing is not None:
            name = "link" if link.half_duplex else f"link from host {lane.host}"
            wires[name] = wires.get(name, 0.0) + link.wire_ms(lane.crossing.num_bytes)
    return wires


@dataclass(frozen=True, slots=True)
class Played:
    """A frame of a chain that was played through, ms since the start."""

    captured_ms: float
    output_ms: float


def play(lanes: Sequence[LaneLoad], times: Sequence[float], link: Link, period_ms: float) -> list[Played]:
    """What becomes of the first frames where the source is always ready: every lane, queue and credit played through.
    `times` are the lanes' service times, ms, and `period_ms` the pace by which the depths are chosen.

    A lane takes a frame as soon as it has handed over the one before. Into a queue of its own rank it hands frame n when frame
    n-1 was taken out; onto the link when frame n-d has arrived and the first stage behind the link is through with frame n-d-1
    (its buffer is free), d the depth.
    """
    last = len(lanes) - 1
    got: list[list[float]] = [[] for _ in lanes]
    free: list[list[float]] = [[] for _ in lanes]
    handed: list[list[float]] = [[] for _ in lanes]
    arrived: list[list[float]] = [[] for _ in lanes]
    wires: dict[object, list[tuple[float, float]]] = {}
    for frame in range(_NUM_PLAYED):
        ready = 0.0
        for index, lane in enumerate(lanes):
            begin = max(ready, handed[index][-1] if frame else 0.0)
            end = begin + times[index]
            got[index].append(begin)
            share = lane.first_ms / lane.median_ms if lane.median_ms else 0.0
            free[index].append(begin + share * times[index])
            crossing = lane.crossing
            if index == last:
                out = ready = end
            elif crossing is None:
                out = ready = max(end, got[index + 1][-1] if frame else 0.0)
            else:
                d = depth(crossing, link, period_ms)
                out = end
                if frame >= d:
                    out = max(out, arrived[index][frame - d] + link.round_trip_ms / 2)
                if frame > d:
                    out = max(out, free[index + 1][frame - d - 1] + link.round_trip_ms / 2)
                wire_ms = link.wire_ms(crossing.num_bytes)
                way = wires.setdefault("both" if link.half_duplex else lane.host, [])
                ready = _book(way, out, wire_ms) + transfer_ms(crossing, link) - wire_ms
                arrived[index].append(ready)
            handed[index].append(out)
    return [Played(begin, end) for begin, end in zip(got[0], handed[last], strict=True)]


def _book(way: list[tuple[float, float]], begin: float, length: float) -> float:
    """Take the first gap from `begin` on in what is booked on a link; returns its end."""
    for index, (busy_from, busy_to) in enumerate(way):
        if begin + length <= busy_from:
            way.insert(index, (begin, begin + length))
            return begin + length
        begin = max(begin, busy_to)
    way.append((begin, begin + length))
    return begin + length
