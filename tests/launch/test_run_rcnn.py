"""R-CNN bundles through whole runs: masks and keypoints cross ranks and are written, the same from every placement."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from run_support import ranks_of

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

FOOTAGE = Path(__file__).resolve().parents[3] / "shared" / "data" / "bottle-detection.mp4"
"""Of Intel's sample-videos (CC BY 4.0), 640x360; it is no part of the project."""
MAX_GROWTH_BYTES = 16_000_000
"""Little more than one input of the network of 800x1344 pixels: a rank that kept one of each frame would be far beyond."""
SMALL = {"width": 8, "fpn": 16, "box_head": 24}


@pytest.fixture(scope="module", params=["mask", "keypoint"])
def rcnn_bundle(request, tmp_path_factory):
    from splitrail.models.export import export_bundle

    folder = tmp_path_factory.mktemp("rcnn") / request.param
    export_bundle(f"{request.param}-rcnn-resnet18", folder, size=(64, 96), bottleneck=3, overrides=SMALL)
    return folder


def test_what_is_found_crosses_ranks(splitrail_run, rcnn_bundle):
    outcomes = [
        splitrail_run(
            "--max-frames", "6", "--coco", bundle=rcnn_bundle, placement=placement, wire="fp32", score_threshold=0.05,
            out=placement,
        )
        for placement in ("full", "split")
    ]  # fmt: skip
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
        assert outcome.summary["counts"]["done"] == 6
    one, other = ([frame["detections"] for frame in outcome.frames] for outcome in outcomes)
    assert one == other
    found = [detection for frame in one for detection in frame]
    assert found
    edges = {edge["name"]: edge["bytes_per_frame"] for edge in outcomes[1].summary["edges"]}
    assert any("bottleneck" in name for name in edges)
    if rcnn_bundle.name == "mask":
        assert any("mask_rle" in name for name in edges)
        for detection in found:
            assert detection["mask"]["size"] == [96, 128]
            assert coco.decode(detection["mask"]).shape == (96, 128)
    else:
        assert any("keypoints" in name for name in edges)
        assert all(len(detection["keypoints"]) == 17 for detection in found)


@pytest.fixture
def footage(tmp_path):
    """Real footage where it lies beside the clone, else noise of its size, as hard to keep in memory."""
    if FOOTAGE.is_file():
        return FOOTAGE
    path = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 360))
    rng = np.random.default_rng(0)
    for _ in range(10):
        writer.write(rng.integers(0, 256, (360, 640, 3), np.uint8))
    writer.release()
    return path


def peak_bytes(process):
    """What the kernel has seen at most so far; a sample of the present size would miss what a frame needs in between."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel tells no peak of process {process.pid}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_as_it_is_at_800_pixels(start_run, footage, tmp_path):
    """A whole Faster R-CNN on real footage: every frame is done, and late frames need no more memory than early ones."""
    from splitrail.models.export import export_bundle

    num_frames, early_frame = 8, 3
    folder = tmp_path / "bundle"
    export_bundle("faster-rcnn-resnet50", folder, size=(800, 1333), bottleneck=3, num_golden=1)
    process, out = start_run(
        "--no-video", bundle=folder, source=footage, placement="split", wire="uint8", max_frames=num_frames,
        stall_timeout=600,
    )  # fmt: skip
    results, early = out / "detections.jsonl", {}
    while process.poll() is None:
        if not early and results.exists() and results.read_bytes().count(b"\n") >= early_frame:
            early = {rank: peak_bytes(each) for rank, each in ranks_of(process.pid).items()}
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 0, err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"] == {
        "captured": num_frames, "done": num_frames, "empty": 0, "dropped": 0, "failed": 0, "unfinished": 0
    }  # fmt: skip
    assert [json.loads(line)["frame"] for line in results.read_text().splitlines()] == list(range(num_frames))
    (edge,) = (edge for edge in summary["edges"] if "bottleneck" in edge["name"])
    assert edge["bytes_per_frame"] == pytest.approx(3 * (800 // 4 + 4) * (1344 // 4 + 4), abs=1024)
    assert set(early) == {0, 1}
    for rank in summary["ranks"]:
        before, growth = early[rank["rank"]], rank["peak_resident_bytes"] - early[rank["rank"]]
        print(f"rank {rank['rank']}: {before / 1e6:.1f} MB after {early_frame} frames, then {growth / 1e6:+.2f} MB")
        assert growth <= MAX_GROWTH_BYTES
