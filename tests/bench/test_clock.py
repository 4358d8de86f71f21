"""Clocks that are skewed and drift: a simulated ping-pong, before and after, and times carried between hosts."""

import random

import pytest

from splitrail.bench.clock import MAX_DRIFT, ClockModel, ClockReading, RankClock, rank_clocks

S = 1_000_000_000
SKEW = 123_456_789_012_345
"""Far clock ahead of the near one at near time 0, ns: the hosts booted days apart."""


def far_clock(near_ns, ppm):
    return near_ns + SKEW + round(near_ns * ppm * 1e-6)


def ping_pong(near_ns, ppm, rng, fastest_ns=200_000, spread_ns=400_000, num=20):
    """(round trip, offset, when) of the fastest of `num` pings; both ways differ, as in a real network."""
    best = None
    for _ in range(num):
        out, back = (fastest_ns // 2 + rng.randrange(spread_ns) for _ in range(2))
        begin, end = near_ns, near_ns + out + back
        reading = (end - begin, far_clock(near_ns + out, ppm) - (begin + end) // 2, end)
        best = min(best or reading, reading)
        near_ns = end + 1000
    return best


def model(ppm, duration_s, rng):
    readings = []
    for at in (5 * S, round((5 + duration_s) * S)):
        round_trip, offset, when = ping_pong(at, ppm, rng)
        readings.append(ClockReading(when, offset, (round_trip + 1) // 2))
    return ClockModel(tuple(readings))


@pytest.mark.parametrize("ppm", [0, 40, -85, 300])
@pytest.mark.parametrize("duration_s", [3, 600])
def test_times_of_a_drifting_clock_lie_within_the_error(ppm, duration_s):
    rng = random.Random(f"{ppm} {duration_s}")
    clock = model(ppm, duration_s, rng)
    for _ in range(200):
        near = rng.randrange(5 * S, round((5 + duration_s) * S))
        far = far_clock(near, ppm)
        assert abs(clock.near(far) - near) <= clock.error_ns(near) + 1
        assert abs(clock.far(near) - far) <= clock.error_ns(near) + 1
    assert clock.error_ns(10 * S) < 600_000
    if duration_s == 600:
        assert clock.drift_ppm == pytest.approx(ppm, abs=2)


def test_one_offset_for_the_whole_run_would_be_wrong():
    rng = random.Random(1)
    clock = model(40, 600, rng)
    far = far_clock(605 * S, 40)
    constant = far - clock.readings[0].offset_ns
    assert abs(constant - 605 * S) > 20_000_000  # 40 ppm in 600 s are 24 ms
    assert abs(clock.near(far) - 605 * S) < 1_000_000


def test_there_and_back_is_the_same_time():
    clock = model(-85, 600, random.Random(2))
    for near in (0, 5 * S, 123_456_789_123, 2000 * S):
        assert abs(clock.near(clock.far(near)) - near) <= 1


def test_the_error_grows_away_from_the_readings():
    one = ClockModel((ClockReading(10 * S, SKEW, 50_000),))
    assert one.drift_ppm is None
    assert one.error_ns(10 * S) == 50_000
    assert one.error_ns(20 * S) == 50_000 + round(MAX_DRIFT * 10 * S)
    two = ClockModel((ClockReading(10 * S, SKEW, 50_000), ClockReading(20 * S, SKEW, 70_000)))
    assert two.error_ns(15 * S) == 70_000
    assert two.error_ns(25 * S) == 70_000 + 60_000
    assert two.error_ns(0) == 70_000 + 120_000


def begin(rank, host, edges, clocks):
    return {"e": "begin", "t": S, "rank": rank, "host": host, "edges": edges, "clocks": clocks}


def after(edge, round_trip, offset, at):
    return {"e": "clock", "edge": int(edge), "round_trip_ns": round_trip, "offset_ns": offset, "at_ns": at}


def test_a_chain_of_hosts_adds_offsets_and_errors():
    """Ranks 0 and 1 on a, rank 2 on b, rank 3 on c; b is ahead of a by 10 s, c behind b by 3 s. Rank 3 left no journal."""
    edges = {"0": "0->1 pixels", "1": "1->2 features", "2": "2->3 memory", "3": "3->0 boxes"}
    a_b, b_c = 10 * S, -3 * S
    journals = {
        0: [begin(0, "a", edges, {"0": [800, 5, 1 * S]}), after("0", 900, -4, 9 * S)],
        1: [begin(1, "a", edges, {"0": [800, 5, S], "1": [2000, a_b, S]}), after("1", 4000, a_b + 8, 9 * S)],
        2: [begin(2, "b", edges, {"1": [2000, a_b, S + a_b], "2": [600, b_c, S + a_b]})],
        3: [begin(3, "c", edges, {"2": [600, b_c, S + a_b + b_c]}), after("2", 600, b_c, 9 * S + a_b + b_c)],
    }
    clocks = rank_clocks(journals)
    assert set(clocks) == {0, 1, 2, 3}
    # One host, one clock: what a ping-pong over shared memory says is noise.
    assert clocks[1] == RankClock()
    assert clocks[1].num_readings is None
    # Halfway between the readings the offset has grown by half of 8 ns.
    assert clocks[2].to_rank0(5 * S + a_b + 4) == 5 * S
    assert clocks[2].from_rank0(5 * S) == 5 * S + a_b + 4
    assert clocks[2].error_ns(5 * S + a_b) == 2000
    assert clocks[2].num_readings == 2
    # Rank 2, the near end, read the clock of rank 3 once only, so the error grows from there.
    assert clocks[3].to_rank0(5 * S + a_b + 4 + b_c) == 5 * S
    assert clocks[3].num_readings == 1
    assert clocks[3].error_ns(5 * S + a_b + 4 + b_c) == 2000 + 300 + round(MAX_DRIFT * (4 * S + 4))


def test_a_rank_that_only_left_the_far_end_of_the_reading_is_known_too():
    edges = {"0": "0->1 features"}
    journals = {
        0: [{"e": "stage", "n": "x", "f": 0, "b": 0, "t": 1}],
        1: [begin(1, "b", edges, {"0": [2000, 7 * S, 8 * S]}), after("0", 2000, 7 * S, 18 * S)],
    }
    clock = rank_clocks(journals)[1]
    assert clock.to_rank0(9 * S) == 2 * S
    assert clock.error_ns(9 * S) == 1000


def test_a_rank_without_an_edge_to_the_others_has_no_clock():
    assert set(rank_clocks({0: [begin(0, "a", {}, {})], 1: [begin(1, "b", {}, {})]})) == {0}
