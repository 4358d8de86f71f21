"""When a chain of engines is near enough to the golden frames."""

from pathlib import Path

import numpy as np
import pytest

from splitrail.pipeline.packet import Array
from splitrail.stages.agreement import TOLERANCES, Agreement, agreement_of
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_synthetic_bundle(tmp_path_factory.mktemp("bundle"))


def frame_of(*detections: tuple[int, float, float]) -> dict[str, Array]:
    """A frame with one detection per (label, logit, width of its box) and one query without any."""
    logits = np.zeros((1, len(detections) + 1, 4), np.float32)
    boxes = np.full((1, len(detections) + 1, 4), 0.5, np.float32)
    logits[0, -1, 3] = 9
    for query, (label, logit, width) in enumerate(detections):
        logits[0, query, label] = logit
        boxes[0, query] = (0.3, 0.4, width, 0.4)
    features = np.linspace(-1, 1, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    return {"features": features, "pred_logits": logits, "pred_boxes": boxes}


def compare(bundle: Bundle, golden: dict[str, Array], actual: dict[str, Array], precision: str = "fp32") -> Agreement:
    return agreement_of(bundle, [golden, golden], [golden, actual], precision)


def test_the_same_agrees(bundle: Bundle) -> None:
    golden = frame_of((0, 5, 0.2), (1, 4, 0.4))
    seen = compare(bundle, golden, golden)
    assert seen == Agreement(
        wire_error=0, logits_error=0, box_error=0, num_detections=8, num_matched=8, disagreement=""
    )


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_the_wire_tensor_may_be_off_as_far_as_the_precision_allows(bundle: Bundle, precision: str) -> None:
    golden = frame_of((0, 5, 0.2))
    for factor, agrees in ((0.9, True), (1.1, False)):
        actual = golden | {"features": golden["features"] * np.float32(1 + factor * TOLERANCES[precision])}
        seen = compare(bundle, golden, actual, precision)
        assert seen.wire_error == pytest.approx(factor * TOLERANCES[precision], rel=1e-3)
        assert (seen.disagreement == "") is agrees
        assert agrees or "[features] is off by" in seen.disagreement


@pytest.mark.parametrize(
    ("change", "num_detections", "num_matched"),
    [
        ((0, 5.2, 0.205), 8, 8),
        ((1, 5, 0.2), 8, 6),
        ((0, 5, 0.25), 8, 6),
        ((0, 1.5, 0.2), 8, 6),
        ((0, 0.0, 0.2), 7, 6),
    ],
)
def test_every_detection_needs_its_counterpart(
    bundle: Bundle, change: tuple[int, float, float], num_detections: int, num_matched: int
) -> None:
    seen = compare(bundle, frame_of((0, 5, 0.2), (2, 4, 0.4)), frame_of(change, (2, 4, 0.4)))
    assert (seen.num_detections, seen.num_matched) == (num_detections, num_matched)
    assert bool(seen.disagreement) is (num_matched < num_detections)


def test_a_detection_too_many_is_a_disagreement(bundle: Bundle) -> None:
    golden, more = frame_of((0, 5, 0.2), (0, 0, 0.9)), frame_of((0, 5, 0.2), (0, 6, 0.9))
    assert "no counterpart" in compare(bundle, golden, more).disagreement


def test_a_score_that_crosses_the_threshold_by_little_is_matched(bundle: Bundle) -> None:
    golden, actual = frame_of((0, 1.15, 0.2)), frame_of((0, 1.05, 0.2))
    seen = compare(bundle, golden, actual)
    assert (seen.num_detections, seen.num_matched) == (3, 3)
    assert seen.disagreement == ""


@pytest.mark.parametrize(("name", "change"), [("pred_logits", 0.05), ("pred_boxes", 0.02)])
def test_without_detections_logits_and_boxes_decide(bundle: Bundle, name: str, change: float) -> None:
    golden = frame_of((0, 0.5, 0.2))
    nearly = compare(bundle, golden, golden | {name: golden[name] * np.float32(1.0001)})
    assert (nearly.num_detections, nearly.disagreement) == (0, "")
    off = compare(bundle, golden, golden | {name: golden[name] + np.float32(change)})
    assert off.num_detections == 0
    assert f"[{name}] is off by" in off.disagreement


@pytest.mark.parametrize("name", ["features", "pred_logits", "pred_boxes"])
def test_what_is_not_finite_never_agrees(bundle: Bundle, name: str) -> None:
    golden = frame_of((0, 5, 0.2))
    actual = golden | {name: golden[name].copy()}
    actual[name].reshape(-1)[0] = np.nan
    seen = compare(bundle, golden, actual)
    assert seen.disagreement == "its output is not finite"
    assert Agreement.model_validate_json(seen.model_dump_json()) == seen


def test_a_bundle_of_one_graph_has_no_wire(tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path, cuts=0)
    golden = bundle.golden_frames(tmp_path)
    seen = agreement_of(bundle, golden, golden, "fp32")
    assert (seen.wire_error, seen.disagreement) == (0, "")
