"""A link, an edge and a far side in simulated time, around the real flow, controller and policies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from splitrail.pipeline.credit import Credit
from splitrail.pipeline.flow import Flow
from splitrail.pipeline.packet import Packet
from splitrail.stages.controller import Controller
from splitrail.stages.policy import open_policy
from splitrail.stages.service_times import ServiceTimes
from splitrail.stages.setting import Setting
from splitrail.stages.target import Target

MS, S = 1_000_000, 1_000_000_000

LADDER = (
    Setting("split", 1.0, "fp16", accuracy=0.40, bytes_per_frame=80_000),
    Setting("split", 1.0, "uint8", accuracy=0.39, bytes_per_frame=40_000),
    Setting("split", 0.5, "uint8", accuracy=0.36, bytes_per_frame=20_000),
    Setting("split", 0.25, "uint8", accuracy=0.33, bytes_per_frame=10_000),
    Setting("split", 0.25, "uint4", accuracy=0.30, bytes_per_frame=5_000),
)


class Events:
    """An observer that keeps what is told."""

    def __init__(self):
        self.events = []

    def event(self, name, **facts):
        self.events.append((name, facts))

    def stage(self, *_): ...

    def wait(self, *_): ...

    def transfer(self, *_): ...

    def fate(self, *_): ...

    def of(self, name):
        return [facts for event, facts in self.events if event == name]


@dataclass
class Link:
    """Carries messages one after the other at a rate that depends on the time, bit/s."""

    rate: object
    round_trip_ns: int = 2 * MS
    jitter_ns: int = 0
    free_ns: int = 0
    dice: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def carry(self, num_bytes, time_ns):
        """When a message that is posted at `time_ns` has arrived."""
        at = max(time_ns, self.free_ns)
        left = 8.0 * num_bytes
        while left > 1e-3:  # in slices, since the rate may change on the way
            step_ns = min(10 * MS, float(left / self.rate(at) * S))
            left -= self.rate(at) * step_ns / S
            at += step_ns
        self.free_ns = round(at)
        jitter = int(self.dice.integers(0, self.jitter_ns + 1))
        return self.free_ns + self.round_trip_ns // 2 + jitter


@dataclass
class Result:
    frame: int
    setting: int
    captured_ns: int
    picked_ns: int
    sent_ns: int
    output_ns: int


class _Source:
    """Hands the controller the packet that the simulation has made."""

    def __init__(self):
        self.packet = None

    def receive(self):
        return self.packet

    def close(self):
        pass


def simulate(
    policy="model",
    target=None,
    rate=lambda ns: 100e6,
    seconds=20.0,
    settings=LADDER,
    fps=15.0,
    edge_ms=lambda setting: 20.0,
    far_ms=lambda setting: 15.0,
    measured_edge_ms=None,
    jitter_ms=0.0,
    edge_jitter=0.0,
    monkeypatch=None,
):
    """Results of a live source of `fps` whose newest frame replaces the waiting one, what was told, and the controller."""
    target = target or Target(fps=15.0)
    link = Link(rate, jitter_ns=round(jitter_ms * MS))
    flow = Flow(link.round_trip_ns, len(settings))
    events, told = Events(), []
    indices = range(len(settings))
    source = _Source()
    edge = ServiceTimes([(measured_edge_ms or edge_ms)(index) / 1e3 for index in indices])
    controller = Controller(
        source,
        settings,
        open_policy(policy, settings, target),
        flow,
        edge,
        ServiceTimes([far_ms(index) / 1e3 for index in indices]),
        events,
        is_live=True,
        knows_age=True,
        target=target,
        tell=told.append,
    )
    clock = [S]
    monkeypatch.setattr("splitrail.stages.controller.now_ns", lambda: clock[0])
    dice = np.random.default_rng(1)
    period_ns = round(S / fps)
    results, credits_ = [], []
    arrived_frames = arrived_bytes = sent_bytes = 0
    far_free_ns = 0
    now = S
    end = S + round(seconds * S)

    def settle(time_ns):
        """Hand over the credits that are back by then."""
        nonlocal arrived_frames, arrived_bytes
        while credits_ and credits_[0][0] <= time_ns:
            back_ns, arrived_ns, num_bytes = credits_.pop(0)
            arrived_frames += 1
            arrived_bytes += num_bytes
            credit = Credit(1 << 40, arrived_frames, arrived_bytes, 1 << 62, arrived_ns)
            flow.credited(credit, back_ns)

    while now < end:
        # The newest captured frame.
        frame = (now - S) // period_ns
        if results and frame <= results[-1].frame:
            frame = results[-1].frame + 1
            now = S + frame * period_ns
        captured_ns = S + frame * period_ns
        clock[0] = now
        settle(now)
        source.packet = Packet(int(frame), captured_ns, 0, (1, 1))
        packet = controller.receive()
        picked_ns = now
        took_ns = round(edge_ms(packet.setting) * MS * (1 + dice.uniform(0, edge_jitter)))
        edge.served(packet.setting, took_ns)
        now += took_ns
        size = round(settings[packet.setting].bytes_per_frame) + 320
        while True:
            settle(now)
            under_way = sent_bytes - arrived_bytes
            if under_way == 0 or under_way + size <= flow.window_bytes(size, now):
                break
            now = credits_[0][0] if credits_ else now + MS
        flow.posted(packet.setting, size, now, is_frame=True)
        sent_bytes += size
        arrived_ns = link.carry(size, now)
        credits_.append((arrived_ns + link.round_trip_ns // 2, arrived_ns, size))
        far_free_ns = max(far_free_ns, arrived_ns) + round(far_ms(packet.setting) * MS)
        results.append(
            Result(packet.frame, packet.setting, captured_ns, picked_ns, now, far_free_ns + link.round_trip_ns // 2)
        )
    missed = [facts["why"] for facts in events.of("target_missed")]
    assert told == [facts["why"] for name, facts in events.events if name in ("target_missed", "source_slow")]
    return results, events, controller, missed


def steps(*pairs):
    """A rate by time from (bit/s, second) pairs."""

    def rate(time_ns):
        second = (time_ns - S) / S
        return [bits for bits, since in pairs if since <= second][-1]

    return rate


def fps_between(results, begin_s, end_s):
    return sum(S + begin_s * S <= r.output_ns < S + end_s * S for r in results) / (end_s - begin_s)
