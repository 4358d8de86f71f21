"""Which frames count as lost, without a decoder."""

from __future__ import annotations

from splitrail.stages.sources.frame_ledger import FrameLedger


def feed(ledger: FrameLedger, packets: list[int]) -> None:
    for pts in packets:
        ledger.packet(pts)


def test_nothing_is_lost_without_damage() -> None:
    ledger = FrameLedger(10)
    feed(ledger, [0, 10, 20, 30])
    # Two fields in two packets make one picture.
    assert ledger.shown(10) == []
    assert ledger.shown(30) == []
    assert ledger.finish() == []


def test_packets_that_were_passed_over_after_damage_are_lost() -> None:
    ledger = FrameLedger(10, promised=5)
    feed(ledger, [0, 30, 10, 20, 40])
    assert ledger.shown(0) == []
    ledger.damage()
    assert ledger.shown(30) == [10, 20]
    assert ledger.is_counted(20)
    assert not ledger.is_counted(30)
    assert ledger.finish() == [40]


def test_the_promised_rest_is_lost_at_the_end() -> None:
    ledger = FrameLedger(10, promised=4)
    feed(ledger, [0, 10])
    ledger.shown(0)
    ledger.shown(10)
    assert ledger.finish() == [20, 30]


def test_discarded_packets_are_not_promised() -> None:
    ledger = FrameLedger(10, promised=3)
    ledger.discard()
    ledger.packet(10)
    ledger.shown(10)
    assert ledger.finish() == [20]


def test_duration_promises_only_while_timestamps_are_regular() -> None:
    regular = FrameLedger(10, end=50)
    irregular = FrameLedger(10, end=50)
    for ledger, times in ((regular, [0, 10, 20]), (irregular, [0, 14, 20])):
        for pts in times:
            ledger.packet(pts)
            ledger.shown(pts)
    assert regular.finish() == [30, 40]
    assert irregular.finish() == []


def test_a_hole_counts_only_after_damage() -> None:
    damaged, whole = FrameLedger(10, end=60), FrameLedger(10, end=60)
    for ledger in (damaged, whole):
        ledger.shown(0)
        ledger.shown(10)
    damaged.damage()
    assert damaged.shown(50) == [20, 30, 40]
    assert damaged.finish() == []
    assert whole.shown(50) == []
    assert whole.finish() == []


def test_reordered_frames_at_a_cut_do_not_make_timestamps_irregular() -> None:
    ledger = FrameLedger(10, end=200)
    for pts in [0, 10, 20, 30, 40, 50, 80]:
        ledger.shown(pts)
    assert len(ledger.finish()) == 20 - 7


def test_untimed_packets_are_counted() -> None:
    ledger = FrameLedger(10)
    for _ in range(4):
        ledger.packet(None)
    ledger.damage()
    ledger.shown(0)
    ledger.shown(10)
    assert ledger.finish() == [20, 30]


def test_an_absurd_promise_is_bounded() -> None:
    ledger = FrameLedger(1, promised=2**62)
    ledger.shown(0)
    assert len(ledger.finish()) == 1_000_000
