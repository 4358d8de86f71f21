"""DETR's outputs to detections, beside transformers' own post-processing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.pipeline.errors import ConfigError, FrameError
from splitrail.pipeline.packet import Packet
from splitrail.stages.detections import Detections
from splitrail.stages.postprocess import DetrPostprocess, detr_detections


def outputs(seed: int, num_queries: int = 30, num_classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (1, num_queries, num_classes + 1)).astype(np.float32)
    return logits, rng.uniform(0, 1, (1, num_queries, 4)).astype(np.float32)


def test_it_agrees_with_transformers() -> None:
    import torch

    from splitrail.models.operators import load_operators

    load_operators()  # transformers imports torchvision where it is installed
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

    torch.set_num_threads(1)
    for seed in range(5):
        logits, boxes = outputs(seed)
        reference = DetrImageProcessorPil().post_process_object_detection(
            DetrObjectDetectionOutput(logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(boxes)),
            threshold=0.5,
            target_sizes=[(431, 767)],
        )[0]
        ours = detr_detections(logits[0], boxes[0], (431, 767), 0.5)
        order = np.argsort(-reference["scores"].numpy(), kind="stable")
        assert len(ours) == len(order) > 0
        np.testing.assert_allclose(ours.scores, reference["scores"].numpy()[order], atol=1e-6)
        np.testing.assert_array_equal(ours.labels, reference["labels"].numpy()[order])
        clipped = np.clip(reference["boxes"].numpy()[order], 0, [767, 431, 767, 431])
        np.testing.assert_allclose(ours.boxes, clipped, atol=1e-3)


def test_boxes_are_in_source_pixels_whatever_was_padded() -> None:
    logits = np.array([[[9, 0, 0], [0, 0, 9], [0, 8, 0]]], np.float32)
    boxes = np.array([[[0.5, 0.5, 0.5, 1.0], [0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5]]], np.float32)
    packet = Packet(0, 0, 0, (100, 200), (64, 128), {"pred_logits": logits, "pred_boxes": boxes})
    DetrPostprocess(0.5).process(packet)
    found = Detections.from_tensors(packet.tensors)
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[50, 0, 150, 100], [0, 0, 50, 25]]
    assert found.scores[0] > found.scores[1] > 0.99
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int32)


def test_no_object_wins_and_the_threshold_counts_as_reached() -> None:
    logits = np.zeros((1, 2, 2), np.float32)
    boxes = np.full((1, 2, 4), 0.5, np.float32)
    assert len(detr_detections(logits[0], boxes[0], (10, 10), 0.5)) == 2
    assert len(detr_detections(logits[0], boxes[0], (10, 10), 0.500001)) == 0
    assert detr_detections(logits[0], boxes[0], (10, 10), 0.6).boxes.shape == (0, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_sorted_thresholded_and_inside_the_image(seed: int, threshold: float) -> None:
    logits, boxes = outputs(seed)
    found = detr_detections(logits[0] * 10, boxes[0], (48, 64), threshold)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= np.float32(threshold)).all()
    assert (found.scores <= 1).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 0::2] <= 64).all()
    assert (found.boxes[:, 1::2] <= 48).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


def test_equal_scores_keep_the_order_of_the_queries() -> None:
    logits = np.tile(np.array([5, 1, 0], np.float32), (20, 1))
    boxes = np.linspace(0.2, 0.8, 80, dtype=np.float32).reshape(20, 4)
    found = detr_detections(logits, boxes, (100, 100), 0.1)
    middles = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    assert (np.diff(middles) > 0).all()


@pytest.mark.parametrize("where", ["pred_logits", "pred_boxes"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_fails_the_frame(where: str, value: float) -> None:
    logits, boxes = outputs(0)
    tensors = {"pred_logits": logits, "pred_boxes": boxes}
    tensors[where][0, 3, 1] = value
    with pytest.raises(FrameError, match="not finite"):
        DetrPostprocess(0.5).process(Packet(0, 0, 0, (10, 10), tensors=dict(tensors)))


def test_a_missing_output_is_named() -> None:
    with pytest.raises(ConfigError, match="'pred_boxes'"):
        DetrPostprocess(0.5).process(Packet(0, 0, 0, (10, 10), tensors={"pred_logits": outputs(0)[0]}))


def test_the_receive_buffer_is_released() -> None:
    released = []
    logits, boxes = outputs(0)
    packet = Packet(0, 0, 0, (10, 10), tensors={"pred_logits": logits, "pred_boxes": boxes})
    packet.held = lambda: released.append(True)
    DetrPostprocess(0.1).process(packet)
    logits[:] = boxes[:] = np.nan
    assert released == [True]
    assert np.isfinite(packet.tensors["boxes"]).all()
