"""R-CNN bundles through whole runs: masks and keypoints cross ranks and are written, the same from every placement."""

from __future__ import annotations

import pytest
from pycocotools import mask as coco

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

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
