from __future__ import annotations

import numpy as np
import pytest
import torch

from splitrail.bench.pictures import Picture
from splitrail.distill.background import BackgroundFirst, labelled_for
from splitrail.distill.learner import Batch
from splitrail.distill.rcnn_learner import RcnnLearner, truth_of
from splitrail.distill.targets import Targets
from splitrail.models.rcnn import Rcnn
from splitrail.models.rcnn_config import RcnnConfig

LOSSES = {"objectness", "rpn_box_reg", "classifier", "box_reg"}
_SIZE = (96, 128)
_NOTHING = np.zeros((0, 4), np.float32)


def _config(finest_level: int = 3) -> RcnnConfig:
    return RcnnConfig(
        depth=18,
        num_classes=4,
        width=4,
        fpn=8,
        box_head=8,
        anchor=16,
        num_proposals=20,
        finest_level=finest_level,
        norm="batch",
        short_side=96,
        max_long_side=160,
    )


def _learner(finest_level: int = 3, num_anchors: int = 16) -> RcnnLearner:
    torch.manual_seed(2)
    return RcnnLearner(Rcnn(_config(finest_level)), num_anchors, num_regions=16).train()


def _batch(boxes: list[np.ndarray], labels: list[list[int]], valid: tuple[int, int] = _SIZE) -> Batch:
    pixels = np.zeros((len(boxes), *_SIZE, 3), np.float32)
    pixels[:, : valid[0], : valid[1]] = np.random.default_rng(3).uniform(0, 255, (len(boxes), *valid, 3))
    targets = Targets.of(boxes, [np.array(each, np.int64) for each in labels])
    return Batch(torch.from_numpy(pixels), torch.tensor([valid] * len(boxes)), targets)


def _two_images(valid: tuple[int, int] = _SIZE) -> Batch:
    boxes = np.array([[0.3, 0.4, 0.3, 0.4], [0.7, 0.6, 0.25, 0.5]], np.float32)
    return _batch([boxes, boxes[:1]], [[1, 3], [2]], valid)


@pytest.mark.parametrize("finest_level", [2, 3])
@pytest.mark.parametrize("valid", [_SIZE, (96, 112)])
def test_the_losses_are_those_of_torchvisions_forward(finest_level: int, valid: tuple[int, int]) -> None:
    """On images that its transform neither scales nor, but for the padding, changes."""
    learner, batch = _learner(finest_level), _two_images(valid)
    learner.rcnn.transform._skip_resize = True  # it would draw a random number for the size
    torch.manual_seed(7)
    ours = learner(batch)
    images = [image[: valid[0], : valid[1]].permute(2, 0, 1) / 255 for image in batch.pixels]
    scale = torch.tensor([valid[1], valid[0]] * 2)
    targets = [
        {
            "boxes": torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1) * scale,
            "labels": labels,
        }
        for boxes, labels in (
            (batch.targets.boxes[0], batch.targets.labels[0]),
            (batch.targets.boxes[1, :1], batch.targets.labels[1, :1]),
        )
    ]
    torch.manual_seed(7)
    theirs = learner.rcnn(images, targets)
    assert set(ours) == {"loss", *LOSSES}
    for name in LOSSES:
        assert float(ours[name]) == pytest.approx(float(theirs[f"loss_{name}"].detach()), rel=1e-3), name
    assert float(ours["loss"].detach()) == pytest.approx(sum(float(ours[name]) for name in LOSSES), rel=1e-5)


def test_every_parameter_learns() -> None:
    learner = _learner(num_anchors=5000)  # all there are, those of the coarsest level too
    learner(_two_images())["loss"].backward()
    still = [name for name, value in learner.named_parameters() if value.grad is None or not value.grad.abs().max()]
    assert still == []


def test_images_without_objects_give_gradients_too() -> None:
    # Processes that train together average them in the order of the parameters, so none may be missing.
    learner = _learner()
    losses = learner(_batch([_NOTHING, _NOTHING], [[], []]))
    assert float(losses["rpn_box_reg"]) == float(losses["box_reg"]) == 0
    losses["loss"].backward()
    assert [name for name, value in learner.named_parameters() if value.grad is None] == []
    assert all(torch.isfinite(value.grad).all() for value in learner.parameters() if value.grad is not None)


def test_half_precision_is_for_the_layers_only() -> None:
    learner, batch = _learner(), _two_images()
    torch.manual_seed(7)
    full = learner(batch)
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        half = learner(batch)
    assert half["loss"].dtype == torch.float32
    assert float(half["loss"].detach()) == pytest.approx(float(full["loss"].detach()), rel=0.1)


def test_boxes_become_pixels_of_what_shows_the_image() -> None:
    boxes = np.array([[0.5, 0.5, 1.0, 0.5], [0.25, 0.75, 0.5, 0.0]], np.float32)  # the second one has no height
    targets = Targets.of([boxes, _NOTHING], [np.array([3, 1]), np.array([], np.int64)])
    first, second = truth_of(targets, torch.tensor([[40, 100], [80, 60]]))
    assert first["boxes"].tolist() == [[0, 10, 100, 30]]
    assert first["labels"].tolist() == [3]
    assert second["boxes"].shape == (0, 4)
    assert second["labels"].shape == (0,)


class _Labelled:
    def __init__(self, *classes: str) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 1

    def picture(self, index: int, epoch: int) -> Picture:
        boxes = np.array([[0, 0, 4, 4]], np.float32)
        return Picture(np.zeros((8, 8, 3), np.uint8), boxes, np.array([1], np.int32), boxes, np.array([1], np.int32))


@pytest.mark.parametrize(
    ("classes", "expected", "label"),
    [
        (("mug", "ball"), ("background", "mug", "ball"), 2),
        # COCO's ids begin at 1, so that the background takes the place of nobody.
        (("N/A", "person", "N/A", "car"), ("background", "person", "N/A", "car"), 1),
    ],
)
def test_labels_are_shifted_where_they_begin_with_an_object(
    classes: tuple[str, ...], expected: tuple[str, ...], label: int
) -> None:
    shifted = BackgroundFirst(_Labelled(*classes))
    picture = shifted.picture(0, 0)
    assert shifted.classes == expected
    assert picture.labels.tolist() == picture.ignored_labels.tolist() == [label]
    assert expected[label] == classes[1]


def test_only_an_rcnn_has_its_labels_shifted() -> None:
    pictures = _Labelled("mug", "ball")
    assert labelled_for(("mug", "ball"), pictures) is pictures
    assert labelled_for(("background", "mug", "ball"), pictures).classes == ("background", "mug", "ball")
