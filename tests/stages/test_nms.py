"""Suppression of overlaps, beside torchvision's `batched_nms`, and what a user may ask for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.pipeline.packet import Packet
from splitrail.stages.bundle import Bundle, PostProcess
from splitrail.stages.detections import Detections
from splitrail.stages.nms import class_nms
from splitrail.stages.nms_choice import parse_nms_iou, with_nms
from splitrail.stages.postprocess import detr_detections, golden_detections, open_postprocess
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


def crowd(seed: int, num: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes at whole pixels around a few places, best first, some with equal scores; torchvision then rounds as we do."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 60, (max(1, num // 6), 4)) + np.array([0, 0, 70, 70])
    boxes = (places[rng.integers(0, len(places), num)] + rng.integers(-6, 7, (num, 4))).astype(np.float32)
    scores = -np.sort(-rng.integers(0, max(2, num), num).astype(np.float32) / num)
    return boxes, scores, rng.integers(0, num_classes, num)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 120), st.integers(1, 6), st.sampled_from([0.125, 0.5, 0.6875, 0.9, 1.0]))
def test_what_stays_is_what_stays_in_torchvision(seed: int, num: int, num_classes: int, max_iou: float) -> None:
    import torch

    from splitrail.models.operators import load_operators

    load_operators()
    from torchvision.ops import batched_nms

    boxes, scores, labels = crowd(seed, num, num_classes)
    reference = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels), max_iou)
    np.testing.assert_array_equal(class_nms(boxes, labels, max_iou), np.sort(reference.numpy()))


def test_by_hand() -> None:
    # The second goes because of the first, so the third stays, which overlaps only the second; another class always stays.
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [0, 0, 10, 10]], np.float32)
    labels = np.array([1, 1, 1, 2])
    assert class_nms(boxes, labels, 0.3).tolist() == [0, 2, 3]
    assert class_nms(boxes, labels, 0.5).tolist() == [0, 1, 2, 3]
    assert class_nms(boxes[:2], labels[:2], 6 / 14).tolist() == [0, 1]
    assert class_nms(boxes[[0, 0]], labels[:2], 0.999).tolist() == [0]
    assert class_nms(boxes[[0, 0]], labels[:2], 1.0).tolist() == [0, 1]
    assert class_nms(np.zeros((3, 4), np.float32), np.zeros(3, np.int64), 0.5).tolist() == [0, 1, 2]
    assert class_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0.5).tolist() == []


def outputs(seed: int, num_queries: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Logits and boxes of a DETR that finds its few objects several times."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 6, num_queries)
    logits = rng.normal(0, 1, (6, 5))[of] * 3 + rng.normal(0, 0.3, (num_queries, 5))
    boxes = rng.uniform(0.2, 0.8, (6, 4))[of] + rng.normal(0, 0.01, (num_queries, 4))
    return logits.astype(np.float32), boxes.astype(np.float32)


def same(a: Detections, b: Detections) -> bool:
    return all(np.array_equal(x, y) for x, y in ((a.boxes, b.boxes), (a.scores, b.scores), (a.labels, b.labels)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.1, 0.5, 0.7]))
def test_the_score_threshold_may_come_before_or_after(seed: int, threshold: float, nms_iou: float) -> None:
    """So what a run reports is what an evaluation, which has no threshold, judges."""
    logits, boxes = outputs(seed)
    everything = detr_detections(logits, boxes, (240, 320), 0.0, nms_iou)
    assert same(detr_detections(logits, boxes, (240, 320), threshold, nms_iou), everything.above(threshold))


def test_objects_are_found_once_and_without_it_as_published() -> None:
    logits, boxes = outputs(3)
    published, once = (detr_detections(logits, boxes, (240, 320), 0.0, iou) for iou in (None, 0.5))
    assert len(published) == 40
    assert 0 < len(once) <= 20
    assert same(published, detr_detections(logits, boxes, (240, 320), 0.0))
    for a, b in itertools.combinations(range(len(once)), 2):
        pair = np.stack([once.boxes[a], once.boxes[b]])
        assert once.labels[a] != once.labels[b] or len(class_nms(pair, np.zeros(2, np.int64), 0.5)) == 2


def test_a_bundle_says_it_and_a_run_may_say_otherwise() -> None:
    logits, boxes = outputs(4)
    tensors = {"pred_logits": logits[None], "pred_boxes": boxes[None]}

    def found(spec: PostProcess) -> int:
        packet = Packet(0, 0, 0, (240, 320), tensors=dict(tensors))
        open_postprocess(spec, 0.0).process(packet)
        return len(packet.tensors["scores"])

    plain, suppressed = PostProcess(), PostProcess(nms_iou=0.5)
    assert found(plain) == 40 > found(suppressed)
    assert found(with_nms(plain, 0.5)) == found(suppressed)
    assert found(with_nms(suppressed, "off")) == 40
    assert with_nms(suppressed, None) is suppressed
    # Engines are compared with torch by everything that the network gives.
    assert len(golden_detections(suppressed, tensors, (240, 320))) == 40


def test_only_a_detr_takes_it() -> None:
    assert with_nms(PostProcess(), 0.5).nms_iou == 0.5
    for asked in (0.5, "off"):
        with pytest.raises(ConfigError, match="--nms-iou is for a DETR, and this detector"):
            with_nms(PostProcess(kind="rcnn", max_detections=10), asked)
    with pytest.raises(ValueError, match="nms_iou is for a DETR"):
        PostProcess(kind="rcnn", max_detections=10, nms_iou=0.5)


@pytest.mark.parametrize(("value", "expected"), [("off", "off"), ("0.7", 0.7), (1, 1.0), (0.001, 0.001)])
def test_a_number_or_off(value: object, expected: object) -> None:
    assert parse_nms_iou(value) == expected


@pytest.mark.parametrize("value", ["on", "", "0", "1.01", "nan", -0.1, True, None, [0.5]])
def test_anything_else_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ConfigError, match=r"neither in \(0, 1\] nor off; give for instance 0\.7"):
        parse_nms_iou(value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("nms_iou", 0, "postprocess.nms_iou"),
        ("nms_iou", 1.5, "postprocess.nms_iou"),
        ("max_detections", -1, "postprocess.max_detections"),
        ("kind", "rcnn", "max_detections is 0, and a detector of kind rcnn needs 1 or more"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(tmp_path_factory, key: str, value: object, text: str) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    bundle = make_synthetic_bundle(folder)
    spec = bundle.postprocess.model_copy(update={key: value})
    bundle.model_copy(update={"postprocess": spec}).save(folder)
    with pytest.raises(BundleError, match="export the bundle again") as caught:
        Bundle.load(folder)
    assert text in str(caught.value)
