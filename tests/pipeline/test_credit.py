"""Credits on the wire, and the depth that follows from pace and round trip."""

import pytest

from splitrail.pipeline.credit import Credit, Depth
from splitrail.pipeline.errors import MessageError

MS = 1_000_000


def test_a_credit_survives_the_wire_and_a_damaged_one_is_refused():
    credit = Credit(7, 5, 123_456_789_012, 1 << 62)
    raw = credit.pack()
    assert Credit.parse(raw, raw.size, "0->1") == credit
    for position in range(raw.size):
        damaged = raw.copy()
        damaged[position] ^= 8
        with pytest.raises(MessageError, match="0->1"):
            Credit.parse(damaged, raw.size, "0->1")
    with pytest.raises(MessageError, match="bytes"):
        Credit.parse(raw, raw.size - 1, "0->1")


def settle(depth, transfer_ms, round_trip_ms, num_bytes, num=60):
    """Arrivals as a link would make them: it carries one message in `transfer_ms` and a credit takes the round trip."""
    time_ms = 0.0
    for _ in range(num):
        time_ms += max(transfer_ms, (transfer_ms + round_trip_ms) / depth.frames)
        depth.arrived(num_bytes, round(time_ms * MS))
    return depth.frames


@pytest.mark.parametrize(
    ("transfer_ms", "round_trip_ms", "least"),
    [(12.3, 20.0, 3), (12.3, 100.0, 10), (58.0, 0.2, 2), (1.0, 0.1, 2)],
)
def test_the_depth_settles_where_the_link_is_full(transfer_ms, round_trip_ms, least):
    depth = Depth(round(round_trip_ms * MS), 1 << 20, 16)
    frames = settle(depth, transfer_ms, round_trip_ms, 154_000)
    assert frames >= least
    # Full: what is under way covers one transfer and one round trip. And no more than needed by one frame or two.
    assert frames * transfer_ms >= transfer_ms + round_trip_ms or frames == 16
    assert frames <= least + 2


def test_a_slow_link_holds_one_frame_so_that_results_are_young():
    depth = Depth(round(0.2 * MS), 1 << 20, 16)
    assert settle(depth, 616.0, 0.2, 77_000) == 1
    assert depth.window_bytes == 77_000


def test_messages_above_the_eager_limit_count_two_round_trips():
    eager, asked = Depth(20 * MS, 1 << 20, 16), Depth(20 * MS, 65_536, 16)
    assert settle(asked, 12.3, 40.0, 154_000) > settle(eager, 12.3, 20.0, 154_000)


def test_an_edge_of_results_never_holds_up_the_frames_ahead():
    depth = Depth(0, 65_536, 16, is_always_full=True)
    assert depth.frames == 16
    assert settle(depth, 50.0, 0.1, 532) == 16
    assert depth.window_bytes == 16 * 532


def test_small_messages_do_not_open_the_window_of_other_edges():
    assert settle(Depth(0, 65_536, 16), 50.0, 0.1, 320) <= 2


def test_the_depth_never_exceeds_the_buffers():
    assert settle(Depth(1000 * MS, 65_536, 4), 1.0, 1000.0, 1 << 20) == 4


def test_empty_frames_do_not_open_the_window_of_a_slow_link():
    depth, alone = Depth(20 * MS, 1 << 20, 16), Depth(20 * MS, 1 << 20, 16)
    for number in range(60):
        # A message of 100 ms, and three empty frames that the filter ends right behind it.
        alone.arrived(125_000, number * 100 * MS)
        depth.arrived(125_000, number * 100 * MS)
        for empty in range(3):
            depth.arrived(320, number * 100 * MS + (empty + 1) * MS)
    assert depth.window_bytes == alone.window_bytes == 2 * 125_000
    assert depth.frames > alone.frames  # headers may follow each other quickly
