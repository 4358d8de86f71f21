"""The same run over two hosts: what the far host lacks is sent, results come home, and the bytes crossed the link."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_support import NUM_FRAMES, NUM_TIMED, all_gone, descendants, splitrail, wait_for_results

from splitrail.launch.mpirun import RankSpec, build_command, detect_mpi
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

BUNDLE_PROGRAM = str(Path(__file__).with_name("bundle_program.py"))
pytestmark = [pytest.mark.mpi, pytest.mark.netns, pytest.mark.timeout(150)]


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    from splitrail.launch.netns import TwoHosts
    from splitrail.pipeline.errors import HostError

    try:
        with TwoHosts():
            pass
    except HostError as error:
        pytest.skip(str(error))


def test_two_hosts_give_what_one_gives_and_the_link_carried_it(splitrail_run, exact_run):
    there = splitrail_run("--netns", placement="backbone", wire="fp32", link_rate="100mbit", out="there")
    assert (exact_run.code, there.code) == (0, 0), there.err
    assert [f["detections"] for f in there.frames] == [f["detections"] for f in exact_run.frames]
    summary = there.summary
    assert [rank["host"] for rank in summary["ranks"]] == ["edge", "workstation"]
    proof = summary["wire_proof"]
    features = next(edge for edge in summary["edges"] if "features" in edge["name"])
    assert proof["payload_bytes"] >= NUM_FRAMES * features["bytes_per_frame"]
    assert proof["interface_bytes"] >= proof["payload_bytes"]
    assert exact_run.summary["wire_proof"]["interface_bytes"] is None
    assert summary["delay"]["num"] == NUM_TIMED
    assert (there.folder / "journal-rank1.jsonl").exists()


def test_a_bundle_the_far_host_lacks_is_sent(splitrail_run):
    outcome = splitrail_run("--netns", placement="backbone", out="sent")
    assert outcome.code == 0, outcome.err
    begins = [json.loads((outcome.folder / f"journal-rank{rank}.jsonl").read_text().splitlines()[0]) for rank in (0, 1)]
    assert [begin["bundle_was_sent"] for begin in begins] == [False, True]


def shared(folder, elsewhere):
    program = (sys.executable, "-m", "mpi4py", BUNDLE_PROGRAM, str(folder), str(elsewhere))
    command = build_command(detect_mpi(), [RankSpec(None, program)] * 2)
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0, result.stderr
    return sorted(line for line in result.stdout.splitlines() if line.startswith("rank "))


def test_another_version_of_the_bundle_on_the_far_host_is_refused_with_both_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    near, far, nothing = tmp_path / "near", tmp_path / "far", tmp_path / "nothing"
    make_synthetic_bundle(near)
    make_synthetic_bundle(far, filter_threshold=0.05)
    nothing.mkdir()
    ours, theirs = (Bundle.load(folder).checksum for folder in (near, far))
    first, second = shared(near, far)
    assert first == "rank 0: PeerError: rank 1 could not start"
    assert second.startswith(
        f"rank 1: BundleError: {near} is version {theirs[:12]} of the bundle here and {ours[:12]} on rank 0"
    )
    assert "remove the one here and it is sent" in second
    # With nothing there, or the same, the run begins; what was sent is in the cache from then on.
    assert shared(near, near) == [f"rank {rank}: {ours} False {near}" for rank in (0, 1)]
    kept = tmp_path / "cache" / "splitrail" / "bundles" / ours
    assert shared(near, nothing) == [f"rank 0: {ours} False {near}", f"rank 1: {ours} True {kept}"]
    assert shared(near, nothing)[1] == f"rank 1: {ours} False {kept}"


def test_the_source_and_the_sink_on_the_far_host_bring_their_files_home(splitrail_run, tmp_path, clip):
    outcome = splitrail_run("--netns", "--sink-rank", "1", "--csv", placement="backbone", out="far")
    assert outcome.code == 0, outcome.err
    assert len(outcome.frames) == NUM_FRAMES
    assert (outcome.folder / "detections.csv").stat().st_size > 0
    # Source and sink are on two clocks: the delay comes with the error of the offset between them.
    assert outcome.summary["delay"]["clock_error_ms"] > 0


def test_a_slow_link_sets_the_pace_and_holds_few_frames(splitrail_run):
    outcome = splitrail_run(
        "--netns", "--loop", "--max-frames", "60", "--rate", "60", "--no-video",
        placement="backbone", wire="fp32", link_rate="2mbit", policy="drop-oldest",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    summary = outcome.summary
    features = next(edge for edge in summary["edges"] if "features" in edge["name"])
    frame_ms = features["bytes_per_frame"] * 8 / 2e6 * 1e3
    counts = summary["counts"]
    assert counts["captured"] == 60
    assert counts["dropped"] > 0
    assert sum(counts[fate] for fate in ("done", "dropped", "failed", "empty")) == 60
    assert summary["fps"] <= 1.1e3 / frame_ms
    # Young results: what a frame waits for is bounded by a few transfers, however long the source has been playing.
    assert summary["delay"]["p50_ms"] < 6 * frame_ms + 100


@pytest.mark.slow
def test_a_link_that_is_down_for_a_while_is_survived(start_run, bundle, clip, tmp_path):
    """The cable is pulled for 20 s; nothing is lost and nothing is said."""
    from splitrail.launch import run as run_module
    from splitrail.launch.config import RunConfig
    from splitrail.launch.link import Link
    from splitrail.launch.netns import TwoHosts

    hosts = []

    class Pulled(TwoHosts):
        def __enter__(self):
            hosts.append(self)
            return super().__enter__()

    import threading

    config = RunConfig.check(
        {
            "source": {"uri": str(clip), "loop": True, "max_frames": 200, "rate_fps": 20},
            "sink": {"video": False},
            "out": str(tmp_path / "out"),
            "bundle": str(bundle),
            "placement": "backbone",
            "engine": "onnxruntime",
            "policy": "wait",
        },
        "test",
    )

    def pull():
        wait_for_results(tmp_path / "out", 20)
        hosts[0].set_link(False)
        time.sleep(20)
        hosts[0].set_link(True)

    cable = threading.Thread(target=pull)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "TwoHosts", Pulled)
        cable.start()
        code = run_module.start(config, link=Link(netns=True, rate="100mbit"))
        cable.join()
    assert code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"]["captured"] == summary["counts"]["done"] == 200


def test_a_killed_run_over_two_hosts_leaves_nothing(start_run):
    process, folder = start_run("--netns", "--loop", "--rate", "100", placement="backbone", policy="wait")
    wait_for_results(folder, 10)
    family = descendants(process.pid)
    assert len(family) > 4
    process.kill()
    process.wait()
    assert all_gone(family, timeout_s=15)


def test_link_options_without_the_link_are_refused(bundle, clip, tmp_path):
    result = splitrail("run", "--source", clip, "--bundle", bundle, "--out", tmp_path / "o", "--link-rate", "1mbit")
    assert result.code == 2
    assert "add --netns" in result.err
