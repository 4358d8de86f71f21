from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splitrail.bench.accuracy import AccuracyError, Truth, evaluate_boxes
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
