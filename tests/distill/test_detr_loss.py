from __future__ import annotations

import numpy as np
import pytest
import torch

from splitrail.distill.detr_loss import detr_loss
from splitrail.distill.matcher import match
from splitrail.distill.targets import Targets
from splitrail.models.detr import Predictions
from splitrail.models.operators import load_operators

_NUM_CLASSES = 7


def _case(seed: int, num_objects: list[int], num_queries: int = 12) -> tuple[Predictions, Targets]:
    rng = np.random.default_rng(seed)
    boxes = [rng.uniform(0.1, 0.9, (num, 4)).astype(np.float32) * [1, 1, 0.5, 0.5] for num in num_objects]
    labels = [rng.integers(0, _NUM_CLASSES, num) for num in num_objects]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(num_objects), num_queries, _NUM_CLASSES + 1, generator=generator)
    predicted = torch.rand(len(num_objects), num_queries, 4, generator=generator) * 0.8 + 0.1
    return Predictions(logits, predicted), Targets.of(boxes, labels)


def _for_reference(targets: Targets) -> list[dict[str, torch.Tensor]]:
    return [
        {"class_labels": targets.labels[image][used], "boxes": targets.boxes[image][used]}
        for image, used in enumerate(targets.used)
    ]


@pytest.mark.parametrize("num_objects", [[3, 5], [0, 4, 1], [12], [2, 0]])
def test_matches_and_losses_equal_those_of_transformers(num_objects: list[int]) -> None:
    load_operators()
    reference = pytest.importorskip("transformers.loss.loss_for_object_detection")
    predictions, targets = _case(sum(num_objects), num_objects)
    matcher = reference.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = reference.ImageLoss(
        matcher=matcher, num_classes=_NUM_CLASSES, eos_coef=0.1, losses=["labels", "boxes", "cardinality"]
    )
    outputs = {"logits": predictions.logits, "pred_boxes": predictions.boxes}
    expected_pairs = matcher(outputs, _for_reference(targets))
    expected = criterion(outputs, _for_reference(targets))

    matches = match(predictions, targets)
    loss = detr_loss(predictions, targets, matches)

    found = {tuple(pair) for pair in torch.stack(matches, 1).tolist()}
    wanted = {
        (image, query, target)
        for image, (queries, objects) in enumerate(expected_pairs)
        for query, target in zip(queries.tolist(), objects.tolist(), strict=True)
    }
    assert found == wanted
    assert float(loss.classes) == pytest.approx(float(expected["loss_ce"]), abs=1e-6)
    assert float(loss.l1) == pytest.approx(float(expected["loss_bbox"]), abs=1e-6)
    assert float(loss.giou) == pytest.approx(float(expected["loss_giou"]), abs=1e-6)
    assert float(loss.total) == pytest.approx(float(loss.classes + 5 * loss.l1 + 2 * loss.giou))


def test_images_without_objects_only_ask_for_no_object() -> None:
    predictions, targets = _case(0, [0, 0])
    loss = detr_loss(predictions, targets, match(predictions, targets))
    no_object = torch.log_softmax(predictions.logits, dim=2)[..., -1]
    assert float(loss.classes) == pytest.approx(float(-no_object.mean()), abs=1e-6)
    assert float(loss.l1) == 0
    assert float(loss.giou) == 0


def test_every_object_gets_its_own_query_and_surplus_objects_get_none() -> None:
    predictions, targets = _case(3, [9], num_queries=6)
    matches = match(predictions, targets)
    assert sorted(matches.query.tolist()) == list(range(6))
    assert len(set(matches.target.tolist())) == 6


def test_perfect_predictions_cost_nothing() -> None:
    _, targets = _case(1, [4, 2])
    logits = torch.full((2, 8, _NUM_CLASSES + 1), -30.0)
    logits[..., -1] = 30
    boxes = torch.full((2, 8, 4), 0.5)
    for image, used in enumerate(targets.used):
        for slot in range(int(used.sum())):
            logits[image, 7 - slot, -1] = -30
            logits[image, 7 - slot, targets.labels[image, slot]] = 30
            boxes[image, 7 - slot] = targets.boxes[image, slot]
    predictions = Predictions(logits, boxes)
    matches = match(predictions, targets)
    assert sorted(zip(matches.query.tolist(), matches.target.tolist(), strict=True))[-1] == (7, 0)
    assert float(detr_loss(predictions, targets, matches).total) == pytest.approx(0, abs=1e-5)


def test_repeated_targets_keep_each_image_together() -> None:
    _, targets = _case(2, [1, 3])
    repeated = targets.repeated(2)
    assert repeated.used.sum(1).tolist() == [1, 1, 3, 3]
    assert torch.equal(repeated.boxes[2], repeated.boxes[3])
