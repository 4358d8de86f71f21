"""Masks and keypoints of COCO annotations, of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..stages.masks import Masks
from .accuracy import AccuracyError


def masks_of_annotations(entries: Sequence[dict[str, Any]], size: tuple[int, int]) -> Masks | None:
    """Masks of an image of `size` (height, width) from polygons or run lengths, compressed or not; None where one lacks.

    Raises AccuracyError: pycocotools, which does this, is not installed.
    """
    segmentations = [entry.get("segmentation") for entry in entries]
    if not all(segmentations):
        return None
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise AccuracyError("pycocotools is not installed; pip install 'splitrail[bench]'") from error
    counts = []
    for segmentation in segmentations:
        if isinstance(segmentation, list):
            found = coco.merge(coco.frPyObjects(segmentation, *size))
        elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            found = coco.frPyObjects(segmentation, *size)
        else:
            found = segmentation
        text = found["counts"]
        counts.append(text.encode("ascii") if isinstance(text, str) else bytes(text))
    return Masks(size, tuple(counts))


def keypoints_of_annotations(entries: Sequence[dict[str, Any]], num: int) -> npt.NDArray[np.float32] | None:
    """[N, `num`, 3] x, y in pixels and 0, 1 or 2; None where an annotation has not so many."""
    points = [entry.get("keypoints") or [] for entry in entries]
    if any(len(each) != 3 * num for each in points):
        return None
    return np.array(points, np.float32).reshape(-1, num, 3)
