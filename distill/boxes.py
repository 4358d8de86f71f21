"""Boxes as training sees them: conversions and generalised overlap, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """[..., 4] cxcywh to xyxy, in the same units."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def to_centre(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy to cxcywh, in the same units."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes xyxy, in [-1, 1]; leading dimensions broadcast, so `a[:, None]` with `b[None]` gives all pairs.

    Intersection over union, less the share of the smallest enclosing box that neither covers. Boxes without area have
    overlap 0 with each other rather than NaN. Source: Rezatofighi et al. 2019, equation 2.
    """
    area_a, area_b = _area(a), _area(b)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = _area(torch.cat((low, high), dim=-1))
    union = area_a + area_b - intersection
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    enclosing = _area(torch.cat((low, high), dim=-1))
    smallest = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=smallest) - (enclosing - union) / enclosing.clamp(min=smallest)


def _area(boxes: Tensor) -> Tensor:
    """Of xyxy; 0 where a side is negative."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
