"""Training only: every cell of a feature map predicts the object in whose middle it lies.

A DETR's backbone and encoder learn from a handful of matched queries per image, which is little when they start from random
weights. Here many cells learn from each object. One-to-many assignment by centre as in Tian et al. 2019 (FCOS, centre
sampling); on top of an encoder as in Zhu et al. 2021 (two-stage Deformable DETR). Nothing of it is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.detr import BoxHead, Predictions
from .detr_loss import DetrLoss, detr_loss
from .matcher import Matches
from .targets import Targets

_REACH = 0.25
"""Cells count whose centre is nearer to the object's than this share of its width and height."""
_EPS = 1e-4


class DenseHead(nn.Module):
    """Classes, and boxes relative to the cell's own place, which a convolutional backbone can know."""

    def __init__(self, d_model: int, num_classes: int) -> None:
        super().__init__()
        self.class_embed = nn.Linear(d_model, num_classes + 1)
        self.bbox_embed = BoxHead(d_model)

    def forward(self, features: Tensor, centres: Tensor) -> Predictions:
        """`features` [B, n, d] and their cells' `centres` [B, n, 2] (x, y) to predictions for n queries."""
        raw = self.bbox_embed(features)
        place = raw[..., :2] + centres.clamp(_EPS, 1 - _EPS).logit()
        return Predictions(self.class_embed(features), torch.cat((place, raw[..., 2:]), dim=2).sigmoid())


def cell_centres(feature_size: tuple[int, int], valid_fraction: Tensor) -> Tensor:
    """float [B, h * w, 2]: x and y of every cell, row by row, 1 being the end of the valid part; beyond it in the padding.

    `valid_fraction` [B, 2]: the share of the input's height and width that shows the image.
    """
    height, width = feature_size
    device = valid_fraction.device
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height,
        (torch.arange(width, device=device) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack((x.flatten(), y.flatten()), dim=1) / valid_fraction.flip(1)[:, None]


def centre_matches(targets: Targets, centres: Tensor, feature_size: tuple[int, int]) -> Matches:
    """The cells that stand for each object: those whose centre is near its own, and always one that is next to it.

    A cell near several objects goes to the smallest.
    """
    distance = (centres[:, :, None] - targets.boxes[:, None, :, :2]).abs()
    cell = 0.5 / torch.tensor((feature_size[1], feature_size[0]), device=centres.device)
    near = (distance <= torch.maximum(_REACH * targets.boxes[:, None, :, 2:], cell)).all(dim=3) & targets.used[:, None]
    area = (targets.boxes[..., 2] * targets.boxes[..., 3])[:, None].expand(near.shape)
    smallest, owner = torch.where(near, area, torch.inf).min(dim=2)
    image, query = torch.nonzero(smallest < torch.inf, as_tuple=True)
    return Matches(image, query, owner[image, query])


def dense_loss(predictions: Predictions, targets: Targets, centres: Tensor, feature_size: tuple[int, int]) -> DetrLoss:
    """Of predictions [B, h * w, ...], one per cell."""
    if targets.labels.shape[1] == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=targets.labels.device)
        return detr_loss(predictions, targets, Matches(empty, empty, empty))
    return detr_loss(predictions, targets, centre_matches(targets, centres, feature_size))
