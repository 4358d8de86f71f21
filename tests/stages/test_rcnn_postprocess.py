"""Masks and keypoints in the source image, beside torchvision's own post-processing."""

from __future__ import annotations

import numpy as np
import pytest

from splitrail.pipeline.errors import ConfigError, FrameError
from splitrail.pipeline.packet import Packet
from splitrail.stages import rcnn_postprocess
from splitrail.stages.bundle import PostProcess
from splitrail.stages.detections import Detections, detection_tensors
from splitrail.stages.postprocess import open_postprocess
from splitrail.stages.rcnn_postprocess import RcnnOutputs, RcnnPostprocess, rcnn_detections

VALID, SOURCE = (120, 160), (431, 767)


def outputs(seed: int, num: int = 12) -> RcnnOutputs:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, (150, 110), (num, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(0.3, 90, (num, 2)), VALID[::-1])], axis=1)
    soft = rng.random((num, 7, 7)).astype(np.float32)
    masks = np.repeat(np.repeat(soft, 4, axis=1), 4, axis=2)
    return RcnnOutputs(
        boxes.astype(np.float32),
        np.sort(rng.random(num).astype(np.float32))[::-1],
        rng.integers(1, 91, num),
        masks,
        rng.normal(size=(num, 17, 56, 56)).astype(np.float32),
    )


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_torchvision(seed: int) -> None:
    import torch

    from splitrail.models.operators import load_operators

    load_operators()
    from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, paste_masks_in_image
    from torchvision.models.detection.transform import resize_boxes, resize_keypoints

    torch.set_num_threads(1)
    given = outputs(seed)
    assert given.masks is not None
    assert given.heatmaps is not None
    boxes = torch.from_numpy(given.boxes)
    scaled = resize_boxes(boxes, list(VALID), list(SOURCE))
    pasted = paste_masks_in_image(torch.from_numpy(given.masks)[:, None], scaled, SOURCE)[:, 0].numpy()
    points, scores = heatmaps_to_keypoints(torch.from_numpy(given.heatmaps), boxes)
    points = resize_keypoints(points, list(VALID), list(SOURCE))

    ours = rcnn_detections(given, SOURCE, VALID, 0.0)
    np.testing.assert_allclose(ours.boxes, scaled.numpy(), atol=1e-3)
    np.testing.assert_array_equal(ours.scores, given.scores)
    assert ours.masks is not None
    assert ours.keypoints is not None
    for index in range(len(ours)):
        clear = np.abs(pasted[index] - 0.5) > 1e-5
        np.testing.assert_array_equal(ours.masks.decode(index)[clear], (pasted[index] > 0.5)[clear])
    np.testing.assert_allclose(ours.keypoints[:, :, 2], scores.numpy(), atol=1e-4)
    near = np.abs(ours.keypoints[:, :, :2] - points[:, :, :2].numpy()).max(axis=2) < 1e-2
    assert near.mean() > 0.99  # two peaks of the same height may swap


def test_the_stage_makes_the_tensors_that_it_promises() -> None:
    given = outputs(0)
    packet = Packet(3, 0, 0, SOURCE)
    packet.valid_size = VALID
    packet.tensors = dict(
        zip(("det_boxes", "det_scores", "det_labels", "det_masks", "det_heatmaps"), given, strict=True)
    )  # type: ignore[arg-type]
    stage = open_postprocess(
        PostProcess(kind="rcnn", max_detections=100, masks=True, num_keypoints=17, score_threshold=0.5)
    )
    assert isinstance(stage, RcnnPostprocess)
    stage.process(packet)
    spec = PostProcess(kind="rcnn", max_detections=100, masks=True, num_keypoints=17)
    assert tuple(packet.tensors) == detection_tensors(spec)
    found = Detections.from_tensors(packet.tensors)
    assert len(found) == (given.scores >= 0.5).sum() > 0
    assert found.masks is not None
    assert found.keypoints is not None
    assert len(found.masks) == len(found.keypoints) == len(found)
    more = found.above(float(found.scores[1]))
    assert len(more) == len(more.masks or ()) == 2
    entry = found.to_json([f"c{label}" for label in range(91)])[0]
    assert set(entry) == {"box", "score", "label", "mask", "keypoints"}
    assert len(entry["keypoints"]) == 17  # type: ignore[arg-type]
    assert entry["mask"]["size"] == list(SOURCE)  # type: ignore[index]


def test_nothing_found_is_empty() -> None:
    given = outputs(0)
    found = rcnn_detections(given, SOURCE, VALID, 1.0)
    assert len(found) == 0
    again = Detections.from_tensors(found.to_tensors())
    assert again.masks == found.masks
    assert again.keypoints is not None
    assert again.keypoints.shape == (0, 17, 3)


def test_faults_fail_the_frame_or_name_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    given = outputs(0)
    bad = given._replace(scores=given.scores * np.float32(np.nan))
    with pytest.raises(FrameError, match="not finite"):
        rcnn_detections(bad, SOURCE, VALID, 0.5)
    with pytest.raises(ConfigError, match="det_boxes"):
        RcnnOutputs.from_tensors({"boxes": given.boxes})
    monkeypatch.setattr(rcnn_postprocess, "MAX_MASK_BYTES", 10)
    packet = Packet(3, 0, 0, SOURCE)
    packet.valid_size = VALID
    packet.tensors = {
        "det_boxes": given.boxes, "det_scores": given.scores, "det_labels": given.labels, "det_masks": given.masks,
    }  # type: ignore[dict-item]  # fmt: skip
    with pytest.raises(FrameError, match="masks of frame 3"):
        RcnnPostprocess(0.0).process(packet)


def test_they_are_drawn() -> None:
    from splitrail.stages.draw import draw_detections

    given = outputs(1, num=3)
    found = rcnn_detections(given, SOURCE, VALID, 0.0)
    plain = np.zeros((*SOURCE, 3), np.uint8)
    draw_detections(plain, Detections(found.boxes, found.scores, found.labels), ["x"] * 91)
    masked = np.zeros((*SOURCE, 3), np.uint8)
    draw_detections(masked, Detections(found.boxes, found.scores, found.labels, found.masks), ["x"] * 91)
    pointed = np.zeros((*SOURCE, 3), np.uint8)
    draw_detections(pointed, Detections(found.boxes, found.scores, found.labels, None, found.keypoints), ["x"] * 91)
    assert found.masks is not None
    inside = found.masks.decode(0)
    assert (masked[inside] > 0).any(axis=1).mean() > 0.99
    assert (pointed != plain).any(axis=2).sum() > 100
    # What lies outside of every mask, box and label stays as it was.
    corner = masked[-5:, -5:]
    assert (corner == plain[-5:, -5:]).all()


def test_coco_results_have_them(tmp_path) -> None:
    import json

    from pycocotools import mask as coco

    from splitrail.stages.writers.coco import CocoWriter
    from splitrail.stages.writers.result import Result

    found = rcnn_detections(outputs(2), SOURCE, VALID, 0.0)
    writer = CocoWriter(tmp_path, ["x"] * 91)
    writer.write(Result(0, "done", 0, 0, "", found, "000000000139.jpg", SOURCE))
    writer.close(False)
    entries = json.loads((tmp_path / "coco_results.json").read_text())
    assert len(entries) == len(found)
    assert found.masks is not None
    for index, entry in enumerate(entries):
        np.testing.assert_array_equal(coco.decode(entry["segmentation"]).astype(bool), found.masks.decode(index))
        assert len(entry["keypoints"]) == 51
