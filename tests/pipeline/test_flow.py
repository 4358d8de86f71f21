"""What a sender makes of its messages and the credits for them: the rate, and how much may be under way."""

import pytest

from splitrail.pipeline.credit import Credit
from splitrail.pipeline.flow import UNLIMITED, Flow

MS, S = 1_000_000, 1_000_000_000
POLLS_NS = 600_000
SKEW = 5 * S
"""The receiver's clock is ahead by this."""


class Wire:
    """Carries messages one after the other; the credit for each is back a round trip after its end."""

    def __init__(self, flow, round_trip_ns=2 * MS):
        self.flow, self.round_trip_ns = flow, round_trip_ns
        self.free_ns = self.frames = self.bytes = 0

    def send(self, num_bytes, time_ns, rate, *, credit=True):
        """Returns when its credit is back."""
        self.flow.posted(0, num_bytes, time_ns, is_frame=True)
        self.free_ns = max(time_ns, self.free_ns) + round(8e9 * num_bytes / rate)
        self.frames += 1
        self.bytes += num_bytes
        arrived_ns = self.free_ns + self.round_trip_ns // 2
        back_ns = arrived_ns + self.round_trip_ns // 2
        if credit:
            self.flow.credited(Credit(99, self.frames, self.bytes, 0, arrived_ns + SKEW), back_ns)
        return back_ns


def rate_of(flow, time_ns):
    rate = flow.look(time_ns).rate_bytes_per_s
    return None if rate is None else 8 * rate


@pytest.mark.parametrize("rate", [1e6, 8e6, 100e6])
@pytest.mark.parametrize("gap_ms", [0, 66])
def test_the_rate_of_a_steady_link_is_found_be_it_full_or_not(rate, gap_ms):
    flow = Flow(2 * MS - POLLS_NS, 1)
    wire, now = Wire(flow), S
    assert rate_of(flow, now) is None
    for _ in range(20):
        back = wire.send(40_000, now, rate)
        now = max(now + gap_ms * MS, wire.free_ns)
    assert rate_of(flow, back) == pytest.approx(rate, rel=0.02)


def test_one_message_is_enough_to_believe_that_a_link_has_faded():
    flow = Flow(2 * MS - POLLS_NS, 1)
    wire, now = Wire(flow), S
    for _ in range(30):
        wire.send(40_000, now, 100e6)
        now += 66 * MS
    back = wire.send(40_000, now, 2e6)
    assert rate_of(flow, back) == pytest.approx(2e6, rel=0.1)


def test_a_message_that_is_late_says_so_before_it_arrives():
    flow = Flow(2 * MS - POLLS_NS, 1)
    wire, now = Wire(flow), S
    for _ in range(30):
        wire.send(40_000, now, 100e6)
        now += 66 * MS
    wire.send(40_000, now, 1e5, credit=False)
    assert rate_of(flow, now + 10 * MS) == pytest.approx(100e6, rel=0.05)
    assert rate_of(flow, now + 102 * MS) == pytest.approx(8 * 40_000 / 0.1, rel=0.05)
    assert rate_of(flow, now + 1002 * MS) == pytest.approx(8 * 40_000 / 1.0, rel=0.05)
    view = flow.look(now + 50 * MS)
    assert view.under_way_bytes == 40_000
    assert view.under_way_ns == 50 * MS


def test_a_link_that_is_fast_again_is_believed_within_a_second():
    flow = Flow(2 * MS - POLLS_NS, 1)
    wire, now = Wire(flow), S
    for _ in range(30):
        wire.send(5_000, now, 1e6)
        now += 66 * MS
    since = now
    while rate_of(flow, now) < 15e6:
        wire.send(5_000, now, 20e6)
        now += 66 * MS
        assert now - since < 1.2 * S


def test_one_hiccup_on_a_fast_link_does_not_make_it_a_slow_one():
    flow = Flow(2 * MS - POLLS_NS, 1)
    wire, now = Wire(flow), S
    for _ in range(30):
        wire.send(40_000, now, 20e6)
        now += 66 * MS
    back = wire.send(40_000, now, 20e6 / 3)
    assert rate_of(flow, back) > 10e6


@pytest.mark.parametrize("round_trip_ms", [1, 20, 100])
def test_the_window_is_one_round_trip_and_one_message_at_the_present_rate(round_trip_ms):
    flow = Flow(round_trip_ms * MS - POLLS_NS, 1)
    assert flow.window_bytes(1000, S) == UNLIMITED
    wire, now = Wire(flow, round_trip_ms * MS), S
    for rate in (50e6, 2e6):
        for _ in range(30):
            back = wire.send(40_000, now, rate)
            now = max(now + 66 * MS, wire.free_ns)
        for size in (40_000, 5_000):
            window = flow.window_bytes(size, back)
            wanted = rate / 8 * round_trip_ms / 1e3 + size
            assert window % size == 0
            assert 0.9 * wanted - 0.06 * size <= window <= 1.1 * wanted + size, (rate, size)


def test_a_window_shrinks_as_soon_as_a_message_is_late():
    flow = Flow(20 * MS - POLLS_NS, 1)
    wire, now = Wire(flow, 20 * MS), S
    for _ in range(30):
        wire.send(40_000, now, 100e6)
        now += 66 * MS
    wide = flow.window_bytes(5_000, now)
    wire.send(40_000, now, 1e5, credit=False)
    assert flow.window_bytes(5_000, now + 500 * MS) < wide / 4


def test_credits_that_overtake_each_other_change_nothing():
    flow = Flow(2 * MS - POLLS_NS, 1)
    for number in range(3):
        flow.posted(0, 1000, S + number * MS, is_frame=True)
    flow.credited(Credit(9, 3, 3000, 0, S + 10 * MS, 2, 7 * MS, 0, 1), S + 11 * MS)
    before = flow.look(S + 12 * MS)
    flow.credited(Credit(9, 1, 1000, 0, S + 5 * MS, 1, 5 * MS, 0, 0), S + 12 * MS)
    assert flow.look(S + 12 * MS) == before
    assert (before.under_way_bytes, before.served_frames, before.service_ns, before.queued_frames) == (0, 2, 7 * MS, 1)


def test_sizes_are_learned_by_setting_and_of_frames_alone():
    flow = Flow(2 * MS, 2)
    assert flow.num_bytes(0) is None
    flow.posted(0, 320, 1, is_frame=False)
    assert flow.num_bytes(0) is None
    flow.posted(1, 1000, 2, is_frame=True)
    flow.posted(1, 2000, 3, is_frame=True)
    assert flow.num_bytes(0) is None
    assert 1000 < flow.num_bytes(1) < 2000
