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
        hits = torch.triu(_iou(block, block) > iou_threshold, diagonal=1).float()
        stays = free
        # A box whose better ones are all decided is decided by the next round, so this ends at the greedy answer.
        while True:
            decided = free & (stays.float() @ hits == 0)
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
    row_index, row_weights = _neighbours(rows, row_weights, height, pooled_height)
    column_index, column_weights = _neighbours(columns, column_weights, width, pooled_width)
    row_index = row_index + height * rois[:, 0, None, None].long()
    # All cells that a bin reads, [K, bins, bins, rows, columns]: a weighted sum of rows of one table of all cells, in one call.
    index = width * row_index[:, :, None, :, None] + column_index[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    bins = F.embedding_bag(
        index.flatten(3).flatten(0, 2), table, mode="sum", per_sample_weights=weights.flatten(3).flatten(0, 2)
    )
    pooled = bins.reshape(num_rois, pooled_height, pooled_width, -1).permute(0, 3, 1, 2)
    return pooled.contiguous().to(input.dtype)


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


def _neighbours(at: Tensor, weights: Tensor, num_cells: int, num_bins: int) -> tuple[Tensor, Tensor]:
    """Of samples [K, num_bins * samples a bin]: the two cells beside each, int64, and what each counts, [K, num_bins, samples a
    bin * 2] both. A sample outside is brought in."""
    at = at.clamp(0, num_cells - 1)
    low = at.floor()
    share = at - low
    index = torch.stack((low, (low + 1).clamp(max=num_cells - 1)), dim=2).long()
    weights = torch.stack((1 - share, share), dim=2) * weights[:, :, None]
    return index.reshape(len(at), num_bins, -1), weights.reshape(len(at), num_bins, -1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """[N, 4] and [M, 4] to [N, M]."""
    # By coordinate: a last dimension of two would be walked two numbers at a time.
    left, top, right, bottom = (x[:, None] for x in a.t().contiguous())
    other_left, other_top, other_right, other_bottom = b.t().contiguous()
    width = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp_(min=0)
    height = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp_(min=0)
    overlap = width.mul_(height)
    areas = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    union: Tensor = areas.sub_(overlap)
    return overlap / union
