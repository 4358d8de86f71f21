"""Assigns each object of an image to the query that can take it at the least total cost.

Source: Carion et al. 2020, section 3.1. The cost of a pair is -p(class) + 5 L1 - 2 GIoU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..models.detr import Predictions
from ..pipeline.errors import UsageError
from .boxes import generalised_iou, to_corners
from .targets import Targets

CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0


class Matches(NamedTuple):
    """N pairs over a whole batch, int64 [N] each."""

    image: Tensor
    query: Tensor
    target: Tensor


class MatcherError(UsageError):
    """The library that solves the assignment is not installed."""


@torch.no_grad()
def match(predictions: Predictions, targets: Targets) -> Matches:
    """One query for each object, by the Hungarian method; where objects outnumber queries, the costliest objects get none.

    Raises MatcherError without SciPy.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MatcherError("scipy is not installed; pip install 'splitrail[torch]'") from error
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    labels = targets.labels[:, None, :].expand(-1, logits.shape[1], -1)
    probability = logits.softmax(dim=2).gather(2, labels)
    overlap = generalised_iou(to_corners(boxes)[:, :, None], to_corners(targets.boxes)[:, None])
    cost = -CLASS_COST * probability + L1_COST * torch.cdist(boxes, targets.boxes, p=1) - GIOU_COST * overlap
    # Not a number only when training has failed already; the loss that follows says so.
    costs = torch.nan_to_num(cost, nan=0.0).cpu().numpy()
    pairs: list[tuple[int, int, int]] = []
    for image, num_used in enumerate(targets.used.sum(1).tolist()):
        queries, objects = linear_sum_assignment(costs[image, :, :num_used])
        pairs += zip([image] * len(queries), queries.tolist(), objects.tolist(), strict=True)
    table = torch.tensor(pairs, dtype=torch.int64, device=logits.device).reshape(-1, 3)
    return Matches(*table.unbind(1))
