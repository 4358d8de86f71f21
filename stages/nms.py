"""Greedy suppression of overlaps among boxes of one class, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def class_nms(
    boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.integer[Any]], max_iou: float
) -> npt.NDArray[np.intp]:
    """Indices of the boxes that stay, ascending.

    `boxes` float32 [N, 4] xyxy, best first; `labels` [N]. From the best one on, a box that stays removes every later one of its
    class with an IoU above `max_iou`, in (0, 1]. What stays of the first n boxes does not depend on those behind them, so a
    score threshold before or after comes to the same. Source: `torchvision.ops.batched_nms`, whose arithmetic this is.
    """
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    widths = np.minimum(x2[:, np.newaxis], x2) - np.maximum(x1[:, np.newaxis], x1)
    heights = np.minimum(y2[:, np.newaxis], y2) - np.maximum(y1[:, np.newaxis], y1)
    overlaps = np.maximum(widths, 0) * np.maximum(heights, 0)
    areas = (x2 - x1) * (y2 - y1)
    # Two boxes without area have no overlap, whatever 0 / 0 is.
    unions = np.maximum(areas[:, np.newaxis] + areas - overlaps, np.finfo(np.float32).tiny)
    is_double = (overlaps / unions > max_iou) & (labels[:, np.newaxis] == labels)
    stays = np.ones(len(boxes), bool)
    # Nearly every box doubles itself; one that doubles nothing else removes nothing.
    for index in np.flatnonzero(is_double.sum(axis=1) > 1).tolist():
        if stays[index]:
            stays[index + 1 :] &= ~is_double[index, index + 1 :]
    return np.flatnonzero(stays)
