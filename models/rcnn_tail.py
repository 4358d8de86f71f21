"""What an R-CNN does behind layer4, for one image and written so that it traces to plain ONNX.

The same results as torchvision's `GeneralizedRCNN.forward` up to its last step: boxes are in pixels of the network's input, and
masks and heatmaps as the heads give them (`stages/rcnn_postprocess.py` does the rest). The image's size comes at run time, the
size of the input, padding included, from the levels' shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .class_nms import class_nms
from .rcnn import Rcnn
from .rcnn_config import COARSEST_LEVEL

from torchvision.ops import nms, roi_align  # isort: skip  # behind rcnn, which makes it importable

_SMALLEST_PROPOSAL = 1e-3
_SMALLEST_BOX = 1e-2
_CANONICAL_LEVEL, _CANONICAL_SIDE = 4, 224
_LEVEL_EPS = 1e-6


def detect(model: Rcnn, layers: Sequence[Tensor], valid_size: Tensor) -> tuple[Tensor, ...]:
    """What layer1 to layer4 give, float [1, C, h, w], to detections, best first.

    `valid_size` int64 [2] is height and width of the image within the input. Gives boxes float [N, 4] xyxy, scores float
    [N], labels int64 [N], and for a Mask R-CNN masks float [N, 28, 28] in [0, 1], for a Keypoint R-CNN heatmaps float
    [N, K, 56, 56] (logits), both over the box.
    """
    levels = list(model.backbone.pyramid(layers).values())
    limits = valid_size.flip(0).repeat(2).to(levels[0].dtype)
    proposals = propose(model, levels, limits)
    heads = model.roi_heads
    class_logits, codes = heads.box_predictor(heads.box_head(pool_regions(levels, proposals, 7)))
    scores = torch.softmax(class_logits, 1)[:, 1:].t()
    boxes = (
        heads.box_coder.decode_single(codes, proposals).reshape(-1, model.config.num_classes, 4)[:, 1:].transpose(0, 1)
    )
    boxes = _clip(boxes, limits)
    sides = boxes[..., 2:] - boxes[..., :2]
    scores = torch.where((sides >= _SMALLEST_BOX).all(dim=2), scores, 0.0)
    chosen = class_nms(boxes, scores, heads.nms_thresh, heads.score_thresh)
    labels, index = chosen[:, 0], chosen[:, 1]
    kept_scores = scores[labels, index]
    best = torch.argsort(kept_scores, descending=True)[: heads.detections_per_img]
    labels, index = labels[best], index[best]
    found, kept_scores, labels = boxes[labels, index], kept_scores[best], labels + 1
    if model.config.kind == "mask":
        logits = heads.mask_predictor(heads.mask_head(pool_regions(levels, found, 14)))
        masks = logits[torch.arange(labels.shape[0], device=labels.device), labels].sigmoid()
        return found, kept_scores, labels, masks
    if model.config.kind == "keypoint":
        return (
            found,
            kept_scores,
            labels,
            heads.keypoint_predictor(heads.keypoint_head(pool_regions(levels, found, 14))),
        )
    return found, kept_scores, labels


def propose(model: Rcnn, levels: Sequence[Tensor], limits: Tensor) -> Tensor:
    """The region proposal network: float [N, 4] xyxy, best first. `limits` float [4]: width, height, width, height."""
    rpn = model.rpn
    height, width = (2**model.config.finest_level * side for side in levels[0].shape[2:])
    objectness, codes = rpn.head(list(levels))
    every_box, every_score = [], []
    for level, (score, code) in enumerate(zip(objectness, codes, strict=True)):
        rows, columns = score.shape[2:]
        generator = rpn.anchor_generator
        cell = generator.generate_anchors(generator.sizes[level], generator.aspect_ratios[level], device=score.device)
        anchors = _anchors(cell.round(), rows, columns, height // rows, width // columns)
        flat = score.permute(0, 2, 3, 1).reshape(-1)
        deltas = code.reshape(-1, 4, rows, columns).permute(2, 3, 0, 1).reshape(-1, 4)
        top = flat.topk(_at_most(rpn.pre_nms_top_n(), flat)).indices
        boxes = _clip(rpn.box_coder.decode_single(deltas[top], anchors[top]), limits)
        large = torch.nonzero(((boxes[:, 2:] - boxes[:, :2]) >= _SMALLEST_PROPOSAL).all(dim=1))[:, 0]
        boxes, scores = boxes[large], flat[top][large].sigmoid()
        kept = nms(boxes, scores, rpn.nms_thresh)
        every_box.append(boxes[kept])
        every_score.append(scores[kept])
    best = torch.argsort(torch.cat(every_score), descending=True)[: rpn.post_nms_top_n()]
    return torch.cat(every_box)[best]


def _anchors(cell: Tensor, rows: int, columns: int, row_stride: int, column_stride: int) -> Tensor:
    """[A, 4] around the origin to float [rows * columns * A, 4]."""
    y = (torch.arange(rows, device=cell.device) * row_stride)[:, None].expand(rows, columns)
    x = (torch.arange(columns, device=cell.device) * column_stride)[None, :].expand(rows, columns)
    at = torch.stack((x, y, x, y), dim=2)
    return (at.reshape(-1, 1, 4).to(cell.dtype) + cell).reshape(-1, 4)


def _at_most(count: int, x: Tensor) -> int:
    """`count`, or as many as `x` [N] has."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # As a tensor, since the size of a dynamic graph is only known when it runs.
        return torch.minimum(torch.tensor(count), torch._shape_as_tensor(x)[0])  # type: ignore[return-value]
    return min(count, len(x))


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), limits)


def pool_regions(levels: Sequence[Tensor], boxes: Tensor, side: int) -> Tensor:
    """RoIAlign of each box on the level that suits its size, all but the coarsest: float [N, C, side, side]."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    wanted = torch.floor(_CANONICAL_LEVEL + torch.log2(area.sqrt() / _CANONICAL_SIDE) + _LEVEL_EPS)
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)
    finest = COARSEST_LEVEL + 1 - len(levels)
    wanted = wanted.clamp(finest, COARSEST_LEVEL - 1)
    places, pooled = [], []
    for number, level in enumerate(levels[:-1], finest):
        here = torch.nonzero(wanted == number)[:, 0]
        places.append(here)
        pooled.append(roi_align(level, rois[here], (side, side), 1 / 2**number, 2))
    return torch.cat(pooled)[torch.argsort(torch.cat(places))]
