"""torchvision, importable and right also where its compiled operators do not load.

torchvision's wheels carry operators compiled for one build of torch. Beside another (the CPU build, NVIDIA's own on a Jetson)
they do not load, and then the import itself fails: "operator torchvision::nms does not exist". Here the two operators that
detectors need are defined in plain torch, before the import, and only where the compiled ones are missing.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pipeline.errors import UsageError

_BLOCK = 1024
"""Boxes that are compared with each other at a time: bounds the memory of `nms`."""
_LIBRARIES: list[Any] = []
"""What was registered lives as long as these."""


class OperatorsError(UsageError):
    """torchvision is missing."""


@lru_cache(maxsize=1)
def load_operators() -> bool:
    """Make `import torchvision` work with operators; call it before that import. Tells whether the compiled ones are used.

    With the compiled operators present nothing is changed. Raises OperatorsError where torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise OperatorsError("torchvision is not installed; pip install 'splitrail[torch]'")
    if _has_compiled(Path(spec.origin).parent):
        return True
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # Never called here, but newer releases describe its shapes on import.
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", nms, "CompositeExplicitAutograd")
    # Made of differentiable operations, so its gradient comes by itself.
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _LIBRARIES.append(library)
    import torchvision  # noqa: F401

    # torchvision asks this before it calls an operator; two of its modules hold the question.
    for name in ("torchvision.extension", "torchvision.ops.roi_align"):
        sys.modules[name]._has_ops = _has_ops  # type: ignore[attr-defined]
    return False


def _has_compiled(folder: Path) -> bool:
    for path in sorted(folder.glob("_C.*")) + sorted(folder.glob("_C_stable.*")):
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        except OSError:
            continue
    return hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "roi_align")


def _has_ops() -> bool:
    # torchvision compiles its caller with TorchScript, which takes functions only.
    return True


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: indices int64 [K] of the boxes that stay, best score first.

    `boxes` float [N, 4] xyxy, `scores` float [N]. A box goes when its IoU with a better one that stays exceeds
    `iou_threshold`; of equal scores the first is the better. The semantics of torchvision's operator.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes[order]
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for begin in range(0, len(boxes), _BLOCK):
        block = boxes[begin : begin + _BLOCK]
        before = boxes[:begin][kept[:begin]]
        free = ~(_iou(before, block) > iou_threshold).any(dim=0)
        hits = torch.triu(_iou(block, block) > iou_threshold, diagonal=1)
        stays = free
        # A box whose better ones are all decided is decided by the next round, so this ends at the greedy answer.
        while True:
            decided = free & ~(hits & stays[:, None]).any(dim=0)
            if torch.equal(decided, stays):
                break
            stays = decided
        kept[begin : begin + _BLOCK] = stays
    return order[kept]


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average of bilinear samples in each bin of each region: float [K, C, pooled_height, pooled_width].

    `input` float [B, C, H, W]; `rois` float [K, 5]: index into the batch and xyxy in pixels, which `spatial_scale` turns into
    cells. `sampling_ratio` samples a bin each way, or as many as a bin has cells where it is 0 or less. `aligned` moves by
    half a cell and lets regions be smaller than one. Source: He et al. 2017, section 3; the semantics of torchvision's.
    """
    dtype = torch.promote_types(input.dtype, torch.float32)
    num_rois, (height, width) = len(rois), input.shape[2:]
    features, rois = input.to(dtype), rois.to(dtype)
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - offset).unbind(1)
    smallest = float("-inf") if aligned else 1.0
    rows, row_weights = _samples(y1, (y2 - y1).clamp(min=smallest), pooled_height, sampling_ratio, height)
    columns, column_weights = _samples(x1, (x2 - x1).clamp(min=smallest), pooled_width, sampling_ratio, width)
    if num_rois == 0:
        return input.new_zeros(0, input.shape[1], pooled_height, pooled_width)
    shape = (num_rois, rows.shape[1], columns.shape[1])
    x = _to_grid(columns, width)[:, None, :].expand(shape)
    grid = torch.stack((x, _to_grid(rows, height)[:, :, None].expand(shape)), dim=-1)
    # One call for all regions. A batch becomes the depth of a volume, which is sampled exactly at its layers.
    if len(input) == 1:
        x = F.grid_sample(features, grid.reshape(1, -1, grid.shape[2], 2), "bilinear", "border", align_corners=True)
    else:
        layer = _to_grid(rois[:, 0], len(input))[:, None, None, None].expand(*grid.shape[:3], 1)
        volume = torch.cat((grid, layer), dim=-1).reshape(1, 1, -1, grid.shape[2], 3)
        x = F.grid_sample(features.transpose(0, 1)[None], volume, "bilinear", "border", align_corners=True)
    x = x.reshape(input.shape[1], num_rois, pooled_height, -1, pooled_width, columns.shape[1] // pooled_width)
    weights = row_weights.reshape(num_rois, pooled_height, -1, 1, 1) * column_weights.reshape(
        num_rois, 1, 1, pooled_width, -1
    )
    return (x * weights).sum(dim=(3, 5)).transpose(0, 1).to(input.dtype)


def _samples(begin: Tensor, size: Tensor, num_bins: int, ratio: int, num_cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis, for each region: the samples' coordinates and weights, float [K, num_bins * samples a bin].

    A sample further than one cell outside counts as 0, as does one beyond those that its region has.
    """
    if ratio > 0:
        count = torch.full_like(size, ratio)
        most = ratio
    else:
        count = torch.ceil(size / num_bins)
        most = max(1, int(count.max())) if len(count) else 1
    step = size / num_bins
    index = torch.arange(most, device=size.device)
    inside_bin = (index + 0.5) * (step / count.clamp(min=1))[:, None]
    bins = torch.arange(num_bins, device=size.device) * step[:, None]
    at = (begin[:, None, None] + bins[:, :, None] + inside_bin[:, None, :]).flatten(1)
    counts = (index < count[:, None]).to(size.dtype) / count.clamp(min=1)[:, None]
    weights = counts[:, None, :].expand(-1, num_bins, -1).flatten(1)
    return at, weights * ((at >= -1) & (at <= num_cells))


def _to_grid(at: Tensor, num_cells: int) -> Tensor:
    """Cell coordinates to grid_sample's range [-1, 1] with aligned corners; what is outside is brought in."""
    last = num_cells - 1
    return at.clamp(0, last) * (2 / max(last, 1)) - 1


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """[N, 4] and [M, 4] to [N, M]."""
    overlap = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return overlap / (area_a[:, None] + area_b - overlap)
