"""From an EfficientDet's logits and box codes to detections, for one image and written so that it traces to plain ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from .efficientdet_config import P3_STRIDE

_SCALES = tuple(2 ** (octave / 3) for octave in range(3))
_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height of an anchor, relative."""
_ANCHOR_SCALE = 4.0
_NUM_CANDIDATES = 5000
_NMS_THRESHOLD = 0.5
_SCORE_FLOOR = 0.001
_SMALLEST_BOX = 1e-2
"""Pixels a side; as of an R-CNN."""
MAX_DETECTIONS = 100


def anchors(size: tuple[int, int]) -> Tensor:
    """Anchor boxes of P3 to P7 for an input of `size` pixels, float [N, 4] xyxy in pixels, in the order of the nets' outputs:
    by level, row, column, scale and aspect. Source: Tan et al. 2020, in effdet's form."""
    every = []
    for level in range(5):
        stride = P3_STRIDE * 2**level
        sides = torch.tensor(
            [
                (_ANCHOR_SCALE * stride * scale * wide, _ANCHOR_SCALE * stride * scale * high)
                for scale, (wide, high) in product(_SCALES, _ASPECTS)
            ]
        )
        rows, columns = (torch.arange(stride / 2, side, stride) for side in size)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack((x, y), dim=2).reshape(-1, 1, 2)
        every.append(torch.cat((centres - sides / 2, centres + sides / 2), dim=2).reshape(-1, 4))
    return torch.cat(every)


def detect(
    logits: Sequence[Tensor], codes: Sequence[Tensor], boxes_of_anchors: Tensor, num_classes: int, valid_size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float [N, 4] xyxy in pixels of the network's input, scores float [N], labels int64 [N] from 1 on; best first.

    `logits` and `codes` are the outputs of `EfficientDet.predict` for one image, `boxes_of_anchors` of `anchors`, `valid_size`
    int64 [2] height and width of the image within the input, to which boxes are clipped. The best 5000 pairs of anchor and
    class, then suppression within each class at IoU 0.5, then the best 100: effdet's, but for boxes without an area.
    """
    from .class_nms import class_nms

    flat = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, num_classes) for level in logits]).reshape(-1)
    every_code = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, 4) for level in codes])
    best = flat.topk(min(_NUM_CANDIDATES, flat.shape[0]))
    index, labels = best.indices // num_classes, best.indices % num_classes
    boxes = _decode(every_code[index], boxes_of_anchors[index])
    limits = valid_size.flip(0).repeat(2).to(boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    # What lies beyond the image is clipped to nothing.
    sides = boxes[:, 2:] - boxes[:, :2]
    scores = torch.where((sides >= _SMALLEST_BOX).all(dim=1), best.values.sigmoid(), 0.0)
    # Classes are moved apart, so that one suppression serves all of them.
    apart = boxes + (labels.to(boxes.dtype) * (limits.max() + 1))[:, None]
    kept = class_nms(apart[None], scores[None], _NMS_THRESHOLD, _SCORE_FLOOR)[:, 1]
    kept = kept[torch.argsort(scores[kept], descending=True)[:MAX_DETECTIONS]]
    return boxes[kept], scores[kept], labels[kept] + 1


def _decode(codes: Tensor, of_anchors: Tensor) -> Tensor:
    """Codes float [N, 4] (y, x, height, width) relative to anchors xyxy to boxes xyxy."""
    sides = of_anchors[:, 2:] - of_anchors[:, :2]
    centres = (of_anchors[:, :2] + of_anchors[:, 2:]) / 2 + codes[:, :2].flip(1) * sides
    half = codes[:, 2:].flip(1).exp() * sides / 2
    return torch.cat((centres - half, centres + half), dim=1)
