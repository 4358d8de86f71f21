"""Lanes over local channels: order, policies, failures and the end."""

import threading
import time

import pytest

from splitrail.pipeline.errors import FrameError, PeerError
from splitrail.pipeline.halt import Halt
from splitrail.pipeline.lane import Lane
from splitrail.pipeline.local_channel import LocalChannel
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Kind, Packet
from splitrail.pipeline.stage import Chain


class Numbers:
    """Inbound: frames 0 .. num-1, one every `period_s`."""

    def __init__(self, num, period_s=0.0):
        self.left = list(range(num))
        self.period_s = period_s

    def receive(self):
        if not self.left:
            return None
        time.sleep(self.period_s)
        return Packet(self.left.pop(0), 0, 0, (1, 1))

    def close(self):
        pass


class Collect:
    """Outbound: keeps what it gets."""

    def __init__(self):
        self.packets = []
        self.closed = False

    def reserve(self, packet, specs):
        return None

    def send(self, packet):
        packet.release()
        self.packets.append(packet)

    def close(self):
        self.closed = True


class Step:
    """A stage made of a function."""

    def __init__(self, work, name="step"):
        self.name = name
        self.process = work
        self.closed = False

    def close(self):
        self.closed = True


def run(num, *steps, policy="wait", capacity=1, period_s=0.0, drops=None):
    halt, watcher = Halt(), NullObserver()
    inbound, outbound = Numbers(num, period_s), Collect()
    on_drop = None if drops is None else lambda packet, why: drops.append((packet.frame, why))
    stages = [Step(step) for step in steps]
    lanes = []
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        after = (
            outbound
            if last
            else LocalChannel(f"q{index}", halt, watcher, capacity=capacity, policy=policy, on_drop=on_drop)
        )
        lanes.append(Lane(f"lane{index}", inbound, Chain([stage], watcher), after, halt))
        inbound = after
    for lane in lanes:
        lane.start()
    assert all(lane.join(10) for lane in lanes)
    assert outbound.closed
    assert all(stage.closed for stage in stages)
    return outbound.packets, halt


def nothing(packet):
    pass


def test_every_frame_arrives_once_and_in_order():
    packets, halt = run(200, nothing, nothing, nothing)
    assert [packet.frame for packet in packets] == list(range(200))
    assert halt.error is None


def test_two_lanes_overlap_their_work():
    """The second lane ends frame n only when the first has begun n+1: without overlap that never comes."""
    begun = [threading.Event() for _ in range(20)]
    alone = []

    def first(packet):
        begun[packet.frame].set()

    def second(packet):
        if packet.frame + 1 < len(begun) and not begun[packet.frame + 1].wait(5):
            alone.append(packet.frame)

    packets, _ = run(20, first, second)
    assert len(packets) == 20
    assert alone == []


def test_a_frame_that_fails_goes_on_as_failed_and_skips_later_stages():
    seen = []

    def fail_odd(packet):
        if packet.frame % 2:
            raise FrameError(f"odd {packet.frame}")

    packets, halt = run(6, fail_odd, lambda packet: seen.append(packet.frame))
    assert halt.error is None
    assert [(packet.frame, packet.kind, packet.reason) for packet in packets if packet.frame % 2] == [
        (1, Kind.FAILED, "odd 1"),
        (3, Kind.FAILED, "odd 3"),
        (5, Kind.FAILED, "odd 5"),
    ]
    assert seen == [0, 2, 4]


def test_any_other_error_ends_all_lanes_and_is_kept_once():
    def break_at_three(packet):
        if packet.frame == 3:
            raise ZeroDivisionError("three")

    packets, halt = run(1000, nothing, break_at_three, nothing)
    assert isinstance(halt.error, ZeroDivisionError)
    assert [packet.frame for packet in packets] == [0, 1, 2]


def test_drop_oldest_keeps_the_newest_frame_and_loses_none_silently():
    drops = []
    packets, _ = run(60, nothing, lambda packet: time.sleep(0.02), policy="drop-oldest", period_s=0.005, drops=drops)
    done = [packet.frame for packet in packets]
    assert sorted(done + [frame for frame, _ in drops]) == list(range(60))
    assert done == sorted(done)
    assert done[-1] == 59  # the newest frame is never the one to go
    assert len(drops) > 20
    assert {why for _, why in drops} == {"drop-oldest"}


def test_drop_newest_refuses_while_one_waits():
    drops = []
    gate = threading.Event()
    packets, _ = run(
        10,
        lambda packet: gate.set() if packet.frame == 9 else None,
        lambda packet: gate.wait(5),
        policy="drop-newest",
        drops=drops,
    )
    done = [packet.frame for packet in packets]
    assert sorted(done + [frame for frame, _ in drops]) == list(range(10))
    assert done[0] == 0
    assert 9 not in done  # one was waiting, so the newest was refused
    assert {why for _, why in drops} == {"drop-newest"}


def test_failed_frames_are_never_dropped():
    def fail_all(packet):
        raise FrameError("no")

    drops = []
    packets, _ = run(50, fail_all, lambda packet: None, policy="drop-oldest", drops=drops)
    assert [packet.frame for packet in packets] == list(range(50))
    assert drops == []


def test_dropping_gives_the_receive_buffer_back():
    halt = Halt()
    channel = LocalChannel("q", halt, NullObserver(), policy="drop-oldest")
    released = []
    for frame in range(3):
        packet = Packet(frame, 0, 0, (1, 1))
        packet.held = lambda frame=frame: released.append(frame)
        channel.send(packet)
    assert released == [0, 1]
    assert channel.receive().frame == 2


def test_a_waiting_lane_ends_when_the_run_halts():
    halt = Halt()
    channel = LocalChannel("q", halt, NullObserver())
    threading.Timer(0.1, halt.stop, [RuntimeError("elsewhere")]).start()
    with pytest.raises(PeerError):
        channel.receive()


def test_a_lane_says_what_it_does():
    halt = Halt()
    release = threading.Event()
    lane = Lane(
        "head", Numbers(1), Chain([Step(lambda packet: release.wait(5), "backbone")], NullObserver()), Collect(), halt
    )
    lane.start()
    time.sleep(0.05)
    assert "lane head computes stage backbone" in lane.state()
    release.set()
    assert lane.join(5)


def test_a_lane_tells_how_long_it_has_held_a_frame():
    halt, go = Halt(), threading.Event()
    chain = Chain([Step(lambda packet: go.wait(10))], NullObserver())
    lane = Lane("one", Numbers(1, period_s=0.3), chain, Collect(), halt)
    lane.start()
    time.sleep(0.1)
    assert lane.held_s() == 0  # it waits for input, and the source may take its time
    time.sleep(0.6)
    assert 0.2 < lane.held_s() < 5
    go.set()
    assert lane.join(5)
    assert lane.held_s() == 0


def test_listeners_hear_of_the_first_error_before_any_lane_sees_it():
    halt, heard = Halt(), []
    halt.listen(lambda error: heard.append((error, halt.error)))
    first = ValueError("first")
    halt.stop(first)
    halt.stop(ValueError("second"))
    assert heard == [(first, None)]
    assert halt.error is first
