"""Non-maximum suppression within each class, as one operator that becomes one ONNX node."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from .operators import load_operators

load_operators()

from torchvision.ops import batched_nms  # noqa: E402

_OPSET = 11
_LIBRARY: Any = torch.library.Library("splitrail", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("class_nms(Tensor boxes, Tensor scores, float iou_threshold, float score_threshold) -> Tensor")


def class_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """What stays, int64 [M, 2]: class and box, in no promised order.

    `boxes` float [C, N, 4] xyxy, each class with its own; `scores` float [C, N], only those above `score_threshold` count.
    """
    return torch.ops.splitrail.class_nms(boxes, scores, iou_threshold, score_threshold)  # type: ignore[no-any-return]


def _class_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    candidates = torch.nonzero(scores > score_threshold)
    labels, index = candidates.unbind(1)
    return candidates[batched_nms(boxes[labels, index], scores[labels, index], labels, iou_threshold)]


def _symbolic(g: Any, boxes: Any, scores: Any, iou_threshold: Any, score_threshold: Any) -> Any:
    """Classes become the batch of ONNX's NonMaxSuppression, which takes one set of boxes for each."""

    def constant(value: Tensor) -> Any:
        return g.op("Constant", value_t=value)

    def number(value: Any) -> Any:
        return constant(torch.tensor([value.node().t("value").item()], dtype=torch.float32))

    chosen = g.op(
        "NonMaxSuppression",
        boxes,
        g.op("Unsqueeze", scores, constant(torch.tensor([1]))),
        constant(torch.tensor([sys.maxsize])),
        number(iou_threshold),
        number(score_threshold),
    )
    return g.op("Gather", chosen, constant(torch.tensor([0, 2])), axis_i=1)


_LIBRARY.impl("class_nms", _class_nms, "CompositeExplicitAutograd")
torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]
    "splitrail::class_nms", _symbolic, _OPSET
)
