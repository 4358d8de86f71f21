"""The channel overlaps on a real link, and what one writes without it does not: ratios within one run."""

import json
import tempfile
from array import array

import numpy as np
import pytest
from run_support import splitrail

from splitrail.bench.overlap_config import OverlapConfig
from splitrail.bench.overlap_engine import TestEngine
from splitrail.bench.overlap_frames import Frames, Results, Services, facts_of, packet_of
from splitrail.bench.overlap_rank import ideal_frame_ms
from splitrail.launch.netns import TwoHosts
from splitrail.pipeline.errors import HostError
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Packet


def bench(*arguments):
    return splitrail("bench", "overlap", "--json", *arguments)


@pytest.mark.mpi
@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_full_is_much_faster_than_naive_on_a_gigabit_link():
    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    result = bench("--netns", "--engines", "sleep", "--overlaps", "full,naive", "--num-frames", "40", "--repeats", "3")
    assert result.code == 0, result.err
    rows = {row["overlap"]: row for row in json.loads(result.out)}
    assert rows["full"]["times_naive"] >= 1.6
    for row in rows.values():
        # Balanced, and over the wire: else the ratio says nothing.
        assert row["wire_ms"] == pytest.approx(row["edge_ms"], rel=0.15)
        assert row["interface_bytes"] >= 40 * row["frame_bytes"]
        # By construction nothing beats the ideal, but for the error of the wire's measurement.
        assert row["efficiency"] <= 1.05


@pytest.mark.mpi
@pytest.mark.timeout(160)
@pytest.mark.parametrize(
    ("engines", "overlaps"),
    [("sleep", "full,naive,blocking,pickle,zeromq,single"), ("native,mix,none", "full")],
)
def test_every_engine_and_channel_runs_without_a_network(engines, overlaps):
    options = ["--engines", engines, "--overlaps", overlaps, "--num-frames", "8", "--stage-ms", "10"]
    result = bench(*options, "--frame-bytes", "100000")
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    assert [(row["engine"], row["overlap"]) for row in rows] == [
        (engine, overlap) for engine in engines.split(",") for overlap in overlaps.split(",")
    ]
    for row in rows:
        ideal = ideal_frame_ms(row["edge_ms"], row["wire_ms"], row["tail_ms"], 8)
        assert row["ideal_ms"] == pytest.approx(ideal, rel=1e-3, abs=2e-3)
        assert row["efficiency"] == pytest.approx(row["ideal_ms"] / row["measured_ms"], rel=1e-2)
        assert row["frame_bytes"] == 100_000
        # Without credits a larger eager limit would let a fast sender flood the other rank.
        assert row["eager_limit_bytes"] == (1 << 20 if row["overlap"] == "full" else 65_536)


@pytest.mark.mpi
@pytest.mark.timeout(100)
def test_all_that_a_run_measures_goes_on_in_the_row_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # or it knows where it was
    result = bench("--preset", "cost", "--engines", "sleep", "--num-frames", "20", "--repeats", "1")
    assert result.code == 0, result.err
    full, measured = json.loads(result.out)
    assert (full["cost"], measured["overlap"]) == (0, "measured")
    assert measured["cost"] == pytest.approx(measured["measured_ms"] / full["measured_ms"] - 1, abs=1e-4)
    # Its journals are thrown away with it.
    assert not list(tmp_path.glob("splitrail-*"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engines=warp"], "--engines 'warp' is unknown"),
        (["--overlaps=half"], "'half'"),
        (["--num-frames=0"], "at least 1"),
        (["--num-frames=3"], "5 or more"),
        (["--preset=fast"], "--preset 'fast' is unknown; choose among gigabit"),
        (["--preset=gigabit", "--netns"], "leave out --netns"),
        (["--preset=gigabit", "--link-rate=10mbit"], "leave out --netns"),
        (["--link-delay=10ms"], "add --netns"),
        (["--link-rate=10mbit"], "add --netns"),
        (["--bundle=nowhere", "--source=scenes"], "no bundle at"),
        (["--bundle=demo"], "--source is missing"),
        (["--bundle=demo", "--source=scenes", "--wire=fp8"], "--wire 'fp8'"),
        (["--bundle=demo", "--source=scenes", "--engine=onnxruntime", "--engines=sleep"], "--engines 'sleep'"),
    ],
)
def test_bad_options_are_named(options, text):
    result = bench(*options)
    assert result.code == 2
    assert text in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_the_ideal_is_the_slowest_step_and_one_passage_of_the_others():
    assert ideal_frame_ms(10, 10, 10, 10) == 12
    assert ideal_frame_ms(10, 40, 5, 1) == 55
    assert ideal_frame_ms(10, 40, 5, 10**9) == pytest.approx(40)


def sent(frame, num_bytes=200_000):
    edge = TestEngine("edge", "none", 0, num_bytes)
    packet = Packet(frame, 5, 0, (3, 4), (1, 2))
    edge.process(packet)
    return packet


def test_a_payload_of_another_frame_is_noticed():
    tail = TestEngine("tail", "none", 0, 0)
    tail.process(sent(7))
    for changed in (0, 65_536, -1):
        packet = sent(7)
        packet.tensors["payload"][changed] = 8
        with pytest.raises(RuntimeError, match="frame 7 arrived with the payload of another"):
            tail.process(packet)


@pytest.mark.parametrize(("numbers", "text"), [((0, 2), "frame 2 came where 1"), ((0, 0), "0 came where 1")])
def test_a_frame_lost_or_doubled_is_noticed(numbers, text):
    results = Results(NullObserver(), 3)
    first, second = (Packet(number, 0, 0, (1, 1)) for number in numbers)
    results.send(first)
    with pytest.raises(RuntimeError, match=text):
        results.send(second)


def test_a_frame_too_many_is_noticed():
    results = Results(NullObserver(), 1)
    results.send(Packet(0, 0, 0, (1, 1)))
    with pytest.raises(RuntimeError, match="came where 1 of 1"):
        results.send(Packet(1, 0, 0, (1, 1)))


def test_own_time_is_what_neither_stages_nor_waits_took():
    services = Services(NullObserver(), 2)
    services.stage("a", 1, 100, 400)
    services.stage("b", 1, 500, 600)
    services.wait("credit", "0->1 x", 1, 600, 1600)
    services.wait("input", "0->1 x", -1, 0, 10**9)
    assert services.own_ms({1: 2_400}) == [pytest.approx(1e-3)]
    frames = Frames(2, [])
    frames.times_ns = array("q", [10, 40, 100])
    assert frames.turns_ns() == {0: 30, 1: 60}
    results = Results(NullObserver(), 3)
    results.times_ns = array("q", [10, 40, 100])
    assert results.turns_ns() == {1: 30, 2: 60}


def test_what_a_hand_written_program_sends_makes_the_same_packet():
    packet = sent(9, 100)
    again = packet_of(json.loads(json.dumps(facts_of(packet))), packet.tensors)
    assert (again.frame, again.capture_ns, again.source_size, again.valid_size) == (9, 5, (3, 4), (1, 2))
    np.testing.assert_array_equal(again.tensors["payload"], packet.tensors["payload"])
    packet.fail("no light")
    with pytest.raises(RuntimeError, match="frame 9 could not be done: no light"):
        facts_of(packet)


def test_pictures_go_round():
    pictures = [np.zeros((2, 3, 3), np.uint8), np.ones((4, 5, 3), np.uint8)]
    frames = Frames(5, pictures)
    packets = [frames.receive() for _ in range(6)]
    assert [packet.source_size for packet in packets[:5]] == [(2, 3), (4, 5), (2, 3), (4, 5), (2, 3)]
    assert packets[5] is None
    assert len(frames.resident_bytes) == 2


def test_a_config_travels_as_json():
    config = OverlapConfig(overlap="pickle", num_frames=7)
    assert OverlapConfig(**json.loads(json.dumps(vars(config)))) == config
