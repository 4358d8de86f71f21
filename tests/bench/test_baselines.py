"""Every baseline runs the user's own detector and finds the same as the channel."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from run_support import splitrail

from splitrail.bench.baseline_zeromq import _compute_and_send, _receive_and_compute, import_zeromq
from splitrail.bench.overlap_frames import Frames, Results
from splitrail.launch.bench_presets import PRESETS, Bar, presets_of
from splitrail.launch.netns import TwoHosts
from splitrail.pipeline.errors import ConfigError, HostError
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.stage import Chain
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

OVERLAPS = ("full", "naive", "blocking", "pickle", "zeromq", "single")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Options that name a tiny bundle and three pictures."""
    folder = tmp_path_factory.mktemp("detector")
    make_synthetic_bundle(folder / "tiny", size=(64, 96), num_classes=3, num_queries=5)
    (folder / "images").mkdir()
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield ["--bundle", str(folder / "tiny"), "--source", str(folder / "images"), "--engine", "onnxruntime"]


def bench(*arguments):
    return splitrail("bench", "overlap", *arguments)


@pytest.mark.mpi
@pytest.mark.parametrize("wire", ["fp32", "uint8"])
def test_all_give_the_same_detections(detector, wire):
    result = bench(*detector, "--wire", wire, "--num-frames", "7", "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    assert [row["overlap"] for row in rows] == list(OVERLAPS)
    assert len({row["digest"] for row in rows}) == 1
    assert rows[0]["digest"] != "00000000"
    assert all(row["same_results"] for row in rows)
    assert len({row["frame_bytes"] for row in rows}) == 1
    # Without solo times of their own, a bundle's rows claim none.
    assert all(row["solo_efficiency"] is None for row in rows)


@pytest.mark.mpi
@pytest.mark.netns
def test_all_cross_the_link_but_the_single_process(detector):
    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))
    result = bench(*detector, "--wire", "fp32", "--num-frames", "10", "--netns", "--link-rate", "100mbit", "--json")
    assert result.code == 0, result.err
    for row in json.loads(result.out):
        if row["overlap"] != "single":
            assert row["interface_bytes"] >= 10 * row["frame_bytes"]


@pytest.mark.mpi
def test_the_table_is_whole_in_a_narrow_terminal(detector):
    result = bench(*detector, "--num-frames", "5", "--overlaps", "single")
    assert result.code == 0, result.err
    for text in ("frames by", "measured ms", "single", "all rows gave the same detections"):
        assert text in result.out


def test_zeromq_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(ConfigError, match=r"pip install 'splitrail\[bench\]'"):
        import_zeromq()


def test_presets_are_found_by_name():
    assert [preset.name for preset in presets_of("slow,loop")] == ["slow", "loop"]
    assert presets_of("all") == tuple(PRESETS.values())
    with pytest.raises(ConfigError, match="'quick' is unknown"):
        presets_of("slow,quick")


def test_a_bar_judges_only_its_row():
    bar = Bar("sleep", "full", {"efficiency": 0.9})
    row = {"engine": "sleep", "overlap": "full", "efficiency": 0.9}
    assert bar.judge(row) is True
    assert bar.judge({**row, "efficiency": 0.89}) is False
    assert bar.judge({**row, "overlap": "naive"}) is None
    both = Bar("none", "full", {"own_p50_ms": 0.3, "own_p99_ms": 1.0})
    row = {"engine": "none", "overlap": "full", "own_p50_ms": 0.3, "own_p99_ms": 0.9}
    assert both.judge(row) is True
    assert both.judge({**row, "own_p99_ms": 1.1}) is False
    assert str(both) == "<= 0.3, <= 1"
    cost = Bar("sleep", "measured", {"cost": 0.01})
    row = {"engine": "sleep", "overlap": "measured", "cost": 0.008}
    assert cost.judge(row) is True
    # A run that is faster for being measured shows how noisy the machine is, not that measuring is free.
    assert cost.judge({**row, "cost": -0.05}) is False


class _Stretch:
    """A rank's part of a stretch of frames, without MPI."""

    def __init__(self, num_frames):
        self.frames = Frames(num_frames, [])
        self.results = Results(NullObserver(), num_frames)

    def edge_chain(self):
        return Chain([], NullObserver())

    tail_chain = edge_chain


class _Broken:
    """A socket that does its job twice, and then no more."""

    linger = -1
    num_messages = 0

    def send_multipart(self, parts, copy=True):
        self._count()

    def recv_multipart(self, copy=True):
        self._count()
        facts = [self.num_messages - 1, 0, 1, 1, 1, 1]
        x = np.zeros(1, np.uint8)
        return [SimpleNamespace(bytes=json.dumps([facts, [["x", "uint8", [1]]]]).encode()), SimpleNamespace(buffer=x)]

    def _count(self):
        self.num_messages += 1
        if self.num_messages > 2:
            raise OSError("the cable is gone")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("num_frames", [3, 30])
def test_a_zeromq_thread_that_fails_ends_the_bench(num_frames):
    near, far = _Broken(), _Broken()
    with pytest.raises(OSError, match="the cable is gone"):
        _compute_and_send(_Stretch(num_frames), near)
    assert near.num_messages == 3
    assert near.linger == 0  # what nobody takes any more does not keep the process
    stretch = _Stretch(num_frames)
    with pytest.raises(OSError, match="the cable is gone"):
        _receive_and_compute(stretch, far)
    assert stretch.results.num_results == 2
