"""Two runs' detections: matched by class and overlap, differences by hand."""

import json

import pytest

from splitrail.bench.detection_difference import detection_difference
from splitrail.pipeline.errors import UsageError


def write(folder, frames):
    folder.mkdir()
    with (folder / "detections.jsonl").open("w") as file:
        for number, (fate, items) in enumerate(frames):
            found = [{"box": box, "score": score, "label": label} for box, score, label in items]
            file.write(json.dumps({"frame": number, "fate": fate, "detections": found}) + "\n")
    return folder


BOX = [10.0, 10.0, 50.0, 50.0]


def test_differences_are_of_matched_detections(tmp_path):
    a = write(
        tmp_path / "a",
        [
            ("done", [(BOX, 0.9, "mug"), ([100.0, 0.0, 140.0, 40.0], 0.8, "ball")]),
            ("done", [(BOX, 0.7, "mug"), (BOX, 0.3, "book")]),
            ("dropped", []),
        ],
    )
    b = write(
        tmp_path / "b",
        [
            ("done", [([10.0, 10.0, 50.0, 53.0], 0.88, "mug"), ([100.0, 0.0, 140.0, 40.0], 0.8, "mug")]),
            ("done", [([11.0, 10.0, 50.0, 50.0], 0.45, "mug")]),
            ("done", []),
        ],
    )
    result = detection_difference(a, b, 0.5)
    # The ball is a mug in B: no counterpart. The book is below the floor. B's second mug is below it and counts all the same.
    assert (result.num_frames, result.num_identical_frames) == (2, 0)
    assert (result.num_detections, result.num_matched) == (3, 2)
    assert result.mean_box_px == pytest.approx(2.0)
    assert result.worst_box_px == pytest.approx(3.0)
    assert result.mean_score == pytest.approx((0.02 + 0.25) / 2)
    assert result.worst_score == pytest.approx(0.25)


def test_a_counterpart_is_used_once_the_best_overlap_first(tmp_path):
    near, nearer = [10.0, 10.0, 50.0, 55.0], [10.0, 10.0, 50.0, 51.0]
    a = write(tmp_path / "a", [("done", [(BOX, 0.9, "mug"), (near, 0.8, "mug")])])
    b = write(tmp_path / "b", [("done", [(nearer, 0.9, "mug")])])
    result = detection_difference(a, b, 0.5)
    assert (result.num_detections, result.num_matched) == (2, 1)
    assert result.worst_box_px == pytest.approx(1.0)


def test_a_run_equals_itself(tmp_path):
    a = write(tmp_path / "a", [("done", [(BOX, 0.9, "mug")]), ("empty", [])])
    result = detection_difference(a, a, 0.0)
    assert result.num_identical_frames == result.num_frames == 2
    assert result.worst_box_px == result.worst_score == 0.0


def test_what_cannot_be_compared_is_named(tmp_path):
    a = write(tmp_path / "a", [("done", [])])
    none = write(tmp_path / "none", [("dropped", [])])
    with pytest.raises(UsageError, match="no frame with a result in common"):
        detection_difference(a, none, 0.5)
    with pytest.raises(UsageError, match="give the folder of a run"):
        detection_difference(a, tmp_path / "missing", 0.5)
