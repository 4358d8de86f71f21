"""DETR's loss: cross-entropy with a light no-object class, and L1 and generalised overlap of the matched boxes.

Source: Carion et al. 2020, sections 3.1 and A.2: 1 x class + 5 x L1 + 2 x (1 - GIoU), no-object weight 0.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.detr import Predictions
from .boxes import generalised_iou, to_corners
from .matcher import Matches
from .targets import Targets

NO_OBJECT_WEIGHT = 0.1
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


class DetrLoss(NamedTuple):
    """The three terms, without their weights; scalars."""

    classes: Tensor
    l1: Tensor
    giou: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum."""
        return self.classes + L1_WEIGHT * self.l1 + GIOU_WEIGHT * self.giou


def detr_loss(predictions: Predictions, targets: Targets, matches: Matches) -> DetrLoss:
    """Of one decoder layer. Queries that `matches` does not name are to say no-object.

    The class term is the mean over all queries weighted by their class; the box terms are sums over the pairs divided by
    their number (at least 1).
    """
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    no_object = logits.shape[2] - 1
    wanted = torch.full(logits.shape[:2], no_object, dtype=torch.int64, device=logits.device)
    wanted[matches.image, matches.query] = targets.labels[matches.image, matches.target]
    weights = torch.ones(no_object + 1, device=logits.device)
    weights[no_object] = NO_OBJECT_WEIGHT
    classes = F.cross_entropy(logits.transpose(1, 2), wanted, weights)
    found = boxes[matches.image, matches.query]
    truth = targets.boxes[matches.image, matches.target]
    num_pairs = max(1, len(matches.image))
    l1 = F.l1_loss(found, truth, reduction="sum") / num_pairs
    giou = (1 - generalised_iou(to_corners(found), to_corners(truth))).sum() / num_pairs
    return DetrLoss(classes, l1, giou)
