from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splitrail.bench.accuracy import AccuracyError, Truth, accuracies_json, evaluate, evaluate_all, evaluate_boxes
from splitrail.bench.pictures import masks_of
from splitrail.stages.detections import Detections

_NUM_CLASSES = 4


def _detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int32)
    )


def _truth(boxes: list[list[float]], labels: list[int]) -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32))


def _noisy(seed: int, num_images: int = 30) -> tuple[list[Truth], list[Detections]]:
    """Truth, and detections that are near it, missing, doubled, of a wrong class, or of nothing."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(num_images):
        num = int(rng.integers(0, 6))
        corner, sides = rng.uniform(0, 200, (num, 2)), rng.uniform(8, 120, (num, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        labels = rng.integers(0, _NUM_CLASSES - 1, num).astype(np.int32)
        truths.append(Truth(boxes, labels))
        kept = rng.random(num) < 0.8
        near = boxes[kept] + rng.normal(0, 4, (int(kept.sum()), 4)).astype(np.float32)
        guessed = np.where(rng.random(len(near)) < 0.9, labels[kept], 2)
        doubled = np.concatenate([near, near[:1], [[10, 10, 40, 60]]]).astype(np.float32)
        classes = np.concatenate([guessed, guessed[:1], [1]]).astype(np.int32)
        found.append(Detections(doubled, rng.random(len(doubled)).astype(np.float32), classes))
    return truths, found


def test_figures_equal_those_of_pycocotools_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = _noisy(1)
    annotations = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
            "iscrowd": 0,
        }
        for image, each in enumerate(truth)
        for box, label in zip(each.boxes, each.labels, strict=True)
    ]
    content = {
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": label, "name": str(label)} for label in range(_NUM_CLASSES)],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, 1)],
    }
    results = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
        }
        for image, each in enumerate(found)
        for box, label, score in zip(each.boxes, each.labels, each.scores, strict=True)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(results))
    reference = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()

    ours = evaluate_boxes(truth, found, _NUM_CLASSES)
    assert (ours.map, ours.map_50, ours.map_75) == pytest.approx(tuple(evaluation.stats[:3]), abs=1e-9)
    assert 0.1 < ours.map < 0.9
    assert sorted(ours.per_class) == [0, 1, 2]
    assert float(np.mean(list(ours.per_class.values()))) == pytest.approx(ours.map)
    assert capsys.readouterr().out == ""


def test_a_known_case_by_hand() -> None:
    # Of two objects one is found at an IoU of 0.8, above a false alarm: precision 1 up to recall 0.5, then nothing.
    truth = [_truth([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])]
    found = [_detections([[0, 0, 10, 8], [80, 80, 90, 90]], [0.9, 0.5], [0, 0])]
    accuracy = evaluate_boxes(truth, found, 1)
    assert accuracy.map_50 == pytest.approx(51 / 101)
    assert accuracy.map == pytest.approx(7 / 10 * 51 / 101)
    assert accuracy.num_objects == 2


def test_the_truth_itself_is_perfect_and_nothing_found_is_zero() -> None:
    truth, _ = _noisy(2)
    perfect = [Detections(each.boxes, np.ones(len(each.labels), np.float32), each.labels) for each in truth]
    assert evaluate_boxes(truth, perfect, _NUM_CLASSES).map == pytest.approx(1)
    nothing = evaluate_boxes(truth, [Detections.none() for _ in truth], _NUM_CLASSES)
    assert (nothing.map, nothing.map_50) == (0, 0)


def test_ignored_objects_need_not_be_found_and_do_no_harm_when_found() -> None:
    boxes, labels = np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, np.int32)
    ignored = np.array([[50, 50, 60, 60]], np.float32)
    truth = [Truth(boxes, labels, ignored, labels)]
    at_ignored = [_detections([[50, 50, 60, 60], [0, 0, 10, 10]], [0.9, 0.5], [0, 0])]
    assert evaluate_boxes(truth, at_ignored, 1).map == pytest.approx(1)
    elsewhere = [_detections([[70, 70, 80, 80], [0, 0, 10, 10]], [0.9, 0.5], [0, 0])]
    assert evaluate_boxes(truth, elsewhere, 1).map == pytest.approx(0.5)


def test_without_any_object_there_is_no_figure() -> None:
    accuracy = evaluate_boxes([_truth([], [])], [_detections([[0, 0, 1, 1]], [0.5], [0])], 2)
    assert accuracy.map is None
    assert accuracy.to_json(("a", "b"))["mAP@50"] is None


def test_json_names_the_classes() -> None:
    truth = [_truth([[0, 0, 10, 10]], [1])]
    result = evaluate_boxes(truth, [_detections([[0, 0, 10, 10]], [0.9], [1])], 2).to_json(("a", "b"))
    assert result["per_class"] == {"b": {"AP": 1.0, "AP@50": 1.0}}


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([], [Detections.none()], "0 images have a truth and 1 have detections"),
        ([_truth([[0, 0, 1, 1]], [5])], [Detections.none()], "label 5 where there are 4 classes"),
        ([_truth([], [])], [_detections([[0, 0, 1, 1]], [0.5], [-1])], "label -1 where there are 4 classes"),
        ([_truth([], [])], [_detections([[0, 0, float("nan"), 1]], [0.5], [0])], "not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(truth: list[Truth], found: list[Detections], message: str) -> None:
    with pytest.raises(AccuracyError, match=message):
        evaluate_boxes(truth, found, _NUM_CLASSES)


SIZE = (60, 80)


def _squares(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Masks bool [N, 60, 80] of filled boxes."""
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def _with_masks(found: Detections, masks: np.ndarray) -> Detections:
    return Detections(found.boxes, found.scores, found.labels, masks_of(masks))


def test_masks_are_judged_by_themselves() -> None:
    # Both boxes are perfect. One mask is perfect, the other covers 62 % of its object: an IoU that counts up to 0.60.
    boxes = [(0, 0, 10, 10), (30, 30, 40, 40)]
    truth = Truth(np.array(boxes, np.float32), np.zeros(2, np.int32), masks=masks_of(_squares(*boxes)))
    masks = _squares(*boxes)
    masks[1, 30:34, 30:39] = False
    masks[1, 34, 30:32] = False
    found = _with_masks(_detections([list(box) for box in boxes], [0.9, 0.8], [0, 0]), masks)
    accuracies = evaluate_all([truth], [found], 1)
    assert set(accuracies) == {"bbox", "segm"}
    assert accuracies["bbox"].map == pytest.approx(1)
    # 3 thresholds with both, 7 with the better one alone, which is found first: precision 1 up to recall 0.5.
    assert accuracies["segm"].map == pytest.approx((3 + 7 * 51 / 101) / 10)
    assert accuracies["segm"].map_50 == pytest.approx(1)
    assert accuracies["segm"].map_75 == pytest.approx(51 / 101)
    result = accuracies_json(accuracies, ("a",))
    assert result["mAP"] == 1
    assert result["masks"]["mAP@75"] == pytest.approx(51 / 101, abs=1e-5)
    assert "keypoints" not in result


def test_masks_of_ignored_objects_do_no_harm() -> None:
    boxes, labels = np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, np.int32)
    ignored = np.array([[50, 40, 70, 60]], np.float32)
    found = _with_masks(
        _detections([[50, 40, 70, 60], [0, 0, 10, 10]], [0.9, 0.5], [0, 0]), _squares((50, 40, 70, 60), (0, 0, 10, 10))
    )
    for ignored_masks in (None, masks_of(_squares((50, 40, 70, 60)))):
        truth = Truth(boxes, labels, ignored, labels, masks_of(_squares((0, 0, 10, 10))), ignored_masks)
        assert evaluate([truth], [found], 1, "segm").map == pytest.approx(1)


def _points(*points: tuple[float, float, float]) -> np.ndarray:
    return np.array([points], np.float32)


def test_keypoints_are_judged_by_their_similarity() -> None:
    # Two visible keypoints out of three, an object of 400 pixels. Object keypoint similarity by hand: the mean over the
    # labelled ones of exp(-d^2 / (2 s^2 k^2)) with s^2 the area and k twice COCO's mean constant.
    box, label = np.array([[10, 10, 40, 40]], np.float32), np.zeros(1, np.int32)
    truth = Truth(box, label, keypoints=_points((10, 10, 2), (30, 30, 1), (0, 0, 0)), areas=np.array([400], np.float32))
    constants = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    for shift in (0.0, 1.0, 2.0, 3.0, 5.0):
        similarity = (1 + np.exp(-(shift**2) / (2 * 400 * (2 * constants.mean()) ** 2))) / 2
        found = Detections(
            box + 3, np.array([0.9], np.float32), label, None, _points((10, 10, 3), (30 + shift, 30, 3), (70, 50, 3))
        )
        accuracy = evaluate([truth], [found], 1, "keypoints")
        expected = sum(similarity >= threshold for threshold in np.arange(0.5, 1, 0.05)) / 10
        assert accuracy.map == pytest.approx(expected), shift
    assert set(evaluate_all([truth], [found], 1)) == {"bbox", "keypoints"}


def test_seventeen_keypoints_have_cocos_own_constants() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 60, (1, 17, 2)), np.full((1, 17, 1), 2)], axis=2).astype(np.float32)
    box, label = np.array([[0, 0, 60, 60]], np.float32), np.zeros(1, np.int32)
    truth = Truth(box, label, keypoints=points, areas=np.array([900], np.float32))
    moved = points.copy()
    moved[0, 0, 0] += 4  # the nose, whose constant is 0.026, counts as lost; all others are exact
    found = Detections(box, np.array([0.9], np.float32), label, None, moved)
    similarity = (16 + np.exp(-16 / (2 * 900 * (2 * 0.026) ** 2))) / 17
    accuracy = evaluate([truth], [found], 1, "keypoints")
    assert accuracy.map == pytest.approx(sum(similarity >= each for each in np.arange(0.5, 1, 0.05)) / 10)


def test_an_object_without_labelled_keypoints_need_not_be_found() -> None:
    boxes = np.array([[0, 0, 10, 10], [30, 30, 50, 50]], np.float32)
    points = np.array([[[2, 2, 2], [8, 8, 2]], [[0, 0, 0], [0, 0, 0]]], np.float32)
    truth = Truth(boxes, np.zeros(2, np.int32), keypoints=points)
    found = Detections(boxes[:1], np.array([0.9], np.float32), np.zeros(1, np.int32), None, points[:1])
    accuracy = evaluate([truth], [found], 1, "keypoints")
    assert (accuracy.map, accuracy.num_objects) == (pytest.approx(1), 1)


def test_shapes_that_are_not_there_are_named() -> None:
    truth, found = _truth([[0, 0, 9, 9]], [0]), _detections([[0, 0, 9, 9]], [0.5], [0])
    assert set(evaluate_all([truth], [found], 1)) == {"bbox"}
    with pytest.raises(AccuracyError, match="truth of image 0 has 1 objects and 0 masks"):
        evaluate([truth], [found], 1, "segm")
    points = np.zeros((1, 5, 3), np.float32) + 2
    with pytest.raises(AccuracyError, match="finds 4 keypoints of an object and the truth has 5"):
        evaluate(
            [Truth(truth.boxes, truth.labels, keypoints=points)],
            [Detections(found.boxes, found.scores, found.labels, None, points[:, :4])],
            1,
            "keypoints",
        )
