"""A long real run, and a camera that is twice too fast."""

import json
import signal
import subprocess
import time

import psutil
import pytest
from run_support import NUM_FRAMES, all_gone, command, descendants, ranks_of, splitrail

from splitrail.launch.bench_soak import Soak, _growth
from splitrail.pipeline.errors import ConfigError, SplitrailError


def soak(bundle, clip, num_frames):
    words = ("--source", clip, "--bundle", bundle, "--engine", "onnxruntime", "--json", "--num-frames", num_frames)
    return splitrail("bench", "soak", *words)


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_ten_thousand_frames_of_a_real_run(bundle, clip):
    result = soak(bundle, clip, 10_000)
    told = json.loads(result.out)
    assert result.code == 0, told
    lossless, camera = told["lossless"], told["camera"]
    assert lossless["in_order_once_each"]
    assert lossless["no_growth"]
    assert set(lossless["resident"]) == {"0", "1"}
    for memory in lossless["resident"].values():
        assert memory["early_frame"] >= 2_000
        assert memory["late_frame"] >= 8_000
    assert camera["counts"]["captured"] == 10_000
    assert camera["counts_add_up"]
    assert camera["counts"]["dropped"] > 0
    assert camera["age_is_flat"]


@pytest.mark.mpi
def test_terminated_it_ends_the_run_that_it_started(bundle, clip):
    words = ("--source", clip, "--bundle", bundle, "--engine", "onnxruntime", "--num-frames", 1_000_000)
    process = subprocess.Popen(
        command("bench", "soak", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while len(ranks_of(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert all_gone(started)
    finally:
        for each in started:
            if each.is_running():
                each.kill()
        process.kill()


@pytest.mark.mpi
def test_results_repeat_with_the_clip(splitrail_run):
    """Frame n and the same picture one round later: whatever was mixed up on the way would differ."""
    outcome = splitrail_run(
        "--loop", "--max-frames", 3 * NUM_FRAMES, "--no-video", "--payload-crc", placement="backbone"
    )
    assert outcome.code == 0, outcome.err
    found = [frame["detections"] for frame in outcome.frames]
    assert len(found) == 3 * NUM_FRAMES
    assert found[:NUM_FRAMES] == found[NUM_FRAMES : 2 * NUM_FRAMES] == found[2 * NUM_FRAMES :]
    assert any(found[0] != other for other in found[:NUM_FRAMES])


def test_growth_is_read_from_a_fifth_of_the_frames_on():
    samples = [(0, {0: 1, 1: 1}), (30, {0: 10, 1: 20}), (40, {0: 15}), (90, {0: 12, 1: 18}), (100, {0: 99, 1: 99})]
    ranks = _growth(samples, 100)
    assert ranks["0"] == {
        "early_frame": 30,
        "early_bytes": 10,
        "late_frame": 90,
        "late_bytes": 12,
        "growth_bytes": 2,
    }
    assert ranks["1"]["growth_bytes"] == -2
    with pytest.raises(SplitrailError, match="too short"):
        _growth(samples[:2], 100)


def test_too_few_frames_are_refused(bundle, clip):
    with pytest.raises(ConfigError, match="at least 50"):
        Soak(str(clip), 10, ())
    result = soak(bundle, "nowhere.mp4", 100)
    assert result.code == 2
    assert "'nowhere.mp4' does not exist" in result.err
