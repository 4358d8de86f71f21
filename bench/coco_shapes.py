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

    Raises AccuracyError: pycocotools, which does this, is not installed; a segmentation that is none, or of another size.
    """
    segmentations = [entry.get("segmentation") for entry in entries]
    if not all(segmentations):
        return None
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise AccuracyError("pycocotools is not installed; pip install 'splitrail[bench]'") from error
    counts = []
    for entry, segmentation in zip(entries, segmentations, strict=True):
        try:
            counts.append(_run_lengths(segmentation, size, coco))
        except Exception as error:  # pycocotools raises nothing narrower
            raise AccuracyError(
                f"annotation {entry.get('id')} has a segmentation that is neither polygons nor run lengths of an image of "
                f"{size[0]}x{size[1]} ({type(error).__name__}: {error}); repair the annotations"
            ) from error
    return Masks(size, tuple(counts))


def _run_lengths(segmentation: Any, size: tuple[int, int], coco: Any) -> bytes:
    """Compressed. Raises whatever a segmentation that is none comes to."""
    if isinstance(segmentation, list):
        found = coco.merge(coco.frPyObjects(segmentation, *size))
    else:
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"its size is {segmentation['size']}")
        found = coco.frPyObjects(segmentation, *size) if isinstance(segmentation["counts"], list) else segmentation
    text = found["counts"]
    if not isinstance(text, str | bytes):
        raise TypeError(f"its counts are of type {type(text).__name__}")
    return text.encode("ascii") if isinstance(text, str) else text


def keypoints_of_annotations(entries: Sequence[dict[str, Any]], num: int) -> npt.NDArray[np.float32] | None:
    """[N, `num`, 3] x, y in pixels and 0, 1 or 2; None where an annotation has not so many."""
    points = [entry.get("keypoints") or [] for entry in entries]
    if any(len(each) != 3 * num for each in points):
        return None
    return np.array(points, np.float32).reshape(-1, num, 3)
