from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.distill.boxes import generalised_iou, to_centre, to_corners
from splitrail.models.operators import load_operators

_SIDE = st.floats(0.01, 1.0)
_BOX = st.tuples(st.floats(0, 1), st.floats(0, 1), _SIDE, _SIDE)


@given(_BOX)
def test_conversions_undo_each_other(box: tuple[float, ...]) -> None:
    centred = torch.tensor(box, dtype=torch.float64)
    assert torch.allclose(to_centre(to_corners(centred)), centred, atol=1e-12)


def test_corners_of_a_known_box() -> None:
    assert to_corners(torch.tensor([0.5, 0.4, 0.2, 0.6])).tolist() == pytest.approx([0.4, 0.1, 0.6, 0.7])


@settings(deadline=None)
@given(_BOX, _BOX)
def test_generalised_iou_equals_transformers(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    load_operators()
    reference = pytest.importorskip("transformers.loss.loss_for_object_detection")
    first, second = (to_corners(torch.tensor([box], dtype=torch.float64)) for box in (a, b))
    expected = reference.generalized_box_iou(first, second)
    assert torch.allclose(generalised_iou(first[:, None], second[None]), expected, atol=1e-9)


def test_generalised_iou_of_the_same_box_is_one_and_of_far_ones_negative() -> None:
    box = torch.tensor([0.1, 0.1, 0.3, 0.2])
    far = torch.tensor([0.8, 0.8, 0.9, 0.9])
    assert float(generalised_iou(box, box)) == pytest.approx(1)
    assert float(generalised_iou(box, far)) == pytest.approx(0.03 / 0.64 - 1)


def test_boxes_without_area_give_numbers_and_gradients() -> None:
    point = torch.tensor([0.2, 0.2, 0.2, 0.2], requires_grad=True)
    overlap = generalised_iou(point, torch.tensor([0.2, 0.2, 0.2, 0.2]))
    overlap.backward()
    assert torch.isfinite(overlap)
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()
