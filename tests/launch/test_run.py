"""`splitrail run` from end to end: the same detections from every placement, every frame accounted for."""

import json

import cv2
import numpy as np
import pytest
from run_support import NUM_FRAMES, NUM_TIMED, splitrail

from splitrail.launch.config import CONFIGS, RunConfig, load_placement

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]


def detections(outcome):
    return [frame["detections"] for frame in outcome.frames]


def test_every_placement_gives_the_same_detections(splitrail_run, exact_run):
    outcomes = {name: splitrail_run(placement=name, wire="fp32", out=name) for name in ("full", "transformer")}
    outcomes["backbone"] = exact_run
    # The source on the far rank: its images and its video are there, and come home.
    outcomes["transformer, source on rank 1"] = splitrail_run(
        "--source-rank", "1", placement="transformer", wire="fp32", out="t1"
    )
    reference = detections(outcomes["full"])
    assert sum(map(len, reference)) > NUM_FRAMES  # there is something to compare
    for name, outcome in outcomes.items():
        assert outcome.code == 0, (name, outcome.err)
        assert detections(outcome) == reference, name
        counts = outcome.summary["counts"]
        assert (counts["captured"], counts["done"]) == (NUM_FRAMES, NUM_FRAMES), name
        assert counts["dropped"] == counts["failed"] == counts["empty"] == counts["unfinished"] == 0


@pytest.mark.parametrize(("wire", "bytes_per_element"), [("fp16", 2), ("uint8", 1)])
def test_narrower_wires_send_fewer_bytes_for_nearly_the_same_boxes(splitrail_run, exact_run, wire, bytes_per_element):
    narrow = splitrail_run(placement="backbone", wire=wire, out="narrow")
    assert (exact_run.code, narrow.code) == (0, 0)

    def feature_bytes(outcome):
        return next(edge["bytes_per_frame"] for edge in outcome.summary["edges"] if "features" in edge["name"])

    assert feature_bytes(narrow) == pytest.approx(feature_bytes(exact_run) * bytes_per_element / 4, abs=600)
    matched = 0
    for a, b in zip(detections(exact_run), detections(narrow), strict=True):
        for one in a:
            near = [other for other in b if other["label"] == one["label"]]
            gaps = [np.abs(np.subtract(one["box"], other["box"])).max() for other in near]
            matched += bool(gaps) and min(gaps) < 2.0
    assert matched >= 0.9 * sum(map(len, detections(exact_run)))


def test_what_a_run_leaves(splitrail_run):
    outcome = splitrail_run("--csv", "--coco", "--frames", placement="backbone")
    assert outcome.code == 0, outcome.err
    names = {path.name for path in outcome.folder.iterdir()}
    assert {"detections.jsonl", "summary.json", "journal-rank0.jsonl", "journal-rank1.jsonl"} <= names
    assert not [name for name in names if "partial" in name]
    first = outcome.frames[0]
    assert set(first) >= {"frame", "capture_ns", "pts_ns", "fate", "reason", "detections"}
    assert [frame["frame"] for frame in outcome.frames] == list(range(NUM_FRAMES))
    summary = outcome.summary
    assert [rank["rank"] for rank in summary["ranks"]] == [0, 1]
    for rank in summary["ranks"]:
        assert rank["engine"] == "onnxruntime"
        assert rank["resident_bytes"] > 10e6
        assert all(stage["num"] == NUM_TIMED for stage in rank["stages"])
    assert {stage["name"] for stage in summary["ranks"][0]["stages"]} >= {"preprocess", "backbone"}
    assert {stage["name"] for stage in summary["ranks"][1]["stages"]} >= {"transformer", "postprocess"}
    assert summary["delay"]["num"] == NUM_TIMED
    assert 0 < summary["delay"]["p50_ms"] < 60_000
    assert summary["fps"] > 0
    assert summary["wire_proof"]["payload_bytes"] > NUM_FRAMES * 300
    video = cv2.VideoCapture(str(outcome.folder / "detections.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == NUM_FRAMES
    assert "captured 40, done 40" in outcome.out


def test_json_is_the_summary(splitrail_run):
    outcome = splitrail_run("--json", placement="full")
    assert outcome.code == 0
    assert json.loads(outcome.out) == outcome.summary


def test_offload_sends_jpeg_of_the_native_image(splitrail_run):
    outcome = splitrail_run(placement="offload")
    assert outcome.code == 0, outcome.err
    edge = next(edge for edge in outcome.summary["edges"] if "jpeg" in edge["name"])
    assert 500 < edge["bytes_per_frame"] < 96 * 128 * 3
    assert outcome.summary["counts"]["done"] == NUM_FRAMES


def test_the_sink_on_the_far_rank_sends_its_files_home(splitrail_run):
    outcome = splitrail_run("--sink-rank", "1", "--csv", placement="backbone", wire="fp32")
    assert outcome.code == 0, outcome.err
    assert len(outcome.frames) == NUM_FRAMES
    assert (outcome.folder / "detections.csv").exists()
    assert outcome.summary["delay"]["num"] == NUM_TIMED


@pytest.mark.parametrize("overlap", ["naive", "blocking"])
def test_the_baselines_compute_the_same(splitrail_run, exact_run, overlap):
    other = splitrail_run(placement="backbone", wire="fp32", overlap=overlap, out=overlap)
    assert other.code == 0, other.err
    assert detections(other) == detections(exact_run)
    assert other.summary["overlap"] == overlap


def test_a_live_source_drops_frames_and_the_counts_add_up(splitrail_run):
    outcome = splitrail_run(
        "--loop", "--max-frames", "300", "--rate", "1500", "--no-video", placement="backbone", policy="drop-oldest"
    )
    assert outcome.code == 0, outcome.err
    counts = outcome.summary["counts"]
    assert counts["captured"] == 300
    assert counts["dropped"] > 0
    assert counts["done"] + counts["dropped"] + counts["failed"] + counts["empty"] == 300
    assert [frame["frame"] for frame in outcome.frames] == list(range(300))
    fates = [frame["fate"] for frame in outcome.frames]
    assert (fates.count("done"), fates.count("dropped")) == (counts["done"], counts["dropped"])


def test_frames_that_cannot_be_decoded_are_failed_frames(splitrail_run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 60, 3), 30 * number, np.uint8))
    (folder / "3.png").write_bytes(b"not a picture")
    outcome = splitrail_run(placement="backbone", source=folder)
    assert outcome.code == 0, outcome.err
    assert outcome.summary["counts"] == {
        "captured": 6,
        "done": 5,
        "empty": 0,
        "dropped": 0,
        "failed": 1,
        "unfinished": 0,
    }
    assert outcome.frames[3]["fate"] == "failed"
    assert "3.png" in outcome.frames[3]["reason"]


def test_a_truncated_video_gives_what_it_has(splitrail_run, clip, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    outcome = splitrail_run(placement="backbone", source=cut)
    assert outcome.code == 0, outcome.err
    counts = outcome.summary["counts"]
    assert 10 < counts["done"] < NUM_FRAMES
    assert counts["captured"] == counts["done"] + counts["failed"]


def test_three_ranks_follow_from_a_toml(splitrail_run, exact_run, tmp_path):
    placement = tmp_path / "three.toml"
    placement.write_text(
        'name = "three"\nsegments = [{ rank = 0, stages = ["source"] }, { rank = 1, stages = ["preprocess", "head"] },\n'
        '{ rank = 2, stages = ["tail", "postprocess"] }, { rank = 0, stages = ["sink"] }]\n'
    )
    outcome = splitrail_run(placement=placement, wire="fp32", out="three")
    assert outcome.code == 0, outcome.err
    assert detections(outcome) == detections(exact_run)
    assert len(outcome.summary["ranks"]) == 3


def test_a_placement_file_travels_with_the_configuration(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((CONFIGS / "offload.toml").read_text())
    config = RunConfig.check({"source": {"uri": "x"}, "out": "o", "placement": str(path)}, "here").with_placement()
    path.unlink()
    there = RunConfig.check(json.loads(config.model_dump_json()), "there")
    assert there.resolve_placement() == load_placement("offload")


def test_a_config_file_with_options_over_it(splitrail_run, bundle, clip, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'bundle = "{bundle}"\nout = "{tmp_path / "from-file"}"\nplacement = "full"\nengine = "onnxruntime"\n'
        f'[source]\nuri = "{clip}"\nmax_frames = 30\n'
    )
    result = splitrail("run", "--config", config, "--max-frames", 7)
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "from-file" / "summary.json").read_text())
    assert summary["placement"] == "full"
    assert summary["counts"]["captured"] == 7


def test_dry_run_prints_the_command_and_starts_nothing(splitrail_run):
    outcome = splitrail_run("--dry-run", placement="backbone")
    assert outcome.code == 0
    assert outcome.out.count("-np 1") == 2
    assert "--bind-to none" in outcome.out
    assert not outcome.folder.exists()
